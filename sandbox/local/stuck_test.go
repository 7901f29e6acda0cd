package local

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"obuilder.org/obuilder/sandbox"
)

// A process that does not go is reported, after a bounded time.
func TestStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := New(Options{StateDir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		proc := t.TempDir()
		const pid = "2147483647" // larger than there can be one
		if err := os.Mkdir(filepath.Join(proc, pid), 0o755); err != nil {
			t.Fatal(err)
		}
		for name, contents := range map[string]string{
			"environ": "A=b\x00OBUILDER_STEP=" + filepath.Join(s.tmpDir(), "1") + "\x00",
			"comm":    "make\n",
		} {
			if err := os.WriteFile(filepath.Join(proc, pid, name), []byte(contents), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		begin := time.Now()
		err = s.kill(t.Context(), proc)
		want := &sandbox.StuckError{Processes: []string{pid + " (make)"}}
		if stuck := (*sandbox.StuckError)(nil); !errors.As(err, &stuck) || cmp.Diff(want, stuck) != "" {
			t.Errorf("got %v", err)
		}
		if took := time.Since(begin); took != quiesceTime {
			t.Errorf("took %v", took)
		}
	})
}
