package boot

import (
	"runtime"
	"testing"
)

// The id of a boot does not change, and is known where we say so.
func TestID(t *testing.T) {
	if first, second := ID(), ID(); first != second {
		t.Errorf("%q, then %q", first, second)
	}
	if ID() == "" && (runtime.GOOS == "linux" || runtime.GOOS == "darwin") {
		t.Error("it is not known")
	}
}
