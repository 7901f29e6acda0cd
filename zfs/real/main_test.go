package real

import (
	"os"
	"testing"

	"obuilder.org/obuilder/zfs/fake/remote"
)

// actAs ends a process that is to be another program, unless it is nil.
var actAs func()

func TestMain(m *testing.M) {
	remote.Main()
	if actAs != nil {
		actAs()
	}
	os.Exit(m.Run())
}
