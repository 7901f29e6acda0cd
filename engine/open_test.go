package engine_test

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"obuilder.org/obuilder/engine"
	"obuilder.org/obuilder/zfs"
)

// A process that waits for the store until another one has been killed in it
// finds what that one has made, although there was nothing when it came.
func TestOpenAfterWaiting(t *testing.T) {
	const text = `((from busybox) (run (shell a)))`
	for n := 0; ; n++ {
		w := freshWorld(t, engine.ListSnapshots)
		crash := &trap{on: onIndex, at: n}
		var stored map[string]string
		o := w.options()
		o.Lock = func(context.Context, string) (func() error, error) {
			w.trap = crash
			if e, err := engine.Open(t.Context(), w.options()); err == nil {
				_, _ = w.build(e, text)
				_ = e.Close()
			}
			w.trap = nil
			stored = w.stored()
			return func() error { return nil }, nil
		}
		e, err := engine.Open(t.Context(), o)
		w.must(err)
		if diff := cmp.Diff(stored, w.stored()); diff != "" {
			t.Errorf("call %d of the index: stored before and after (-before +after):\n%s", n, diff)
		}
		if _, err = w.build(e, text); err != nil {
			t.Errorf("call %d of the index: %v", n, err)
		}
		if left := w.leftovers(); len(left) > 0 {
			t.Errorf("left behind: %q", left)
		}
		w.must(e.Close())
		if crash.sprung() == "" {
			break
		}
	}
}

// What a Mac puts into every directory that someone looks at is no marker;
// what another version has put there may be one that matters.
func TestStrangeMarkers(t *testing.T) {
	for name, want := range map[string]string{
		".DS_Store": "",
		"undo-x":    "unknown kind of marker",
		"step-x":    `"x" is not an id`,
		"delete-":   `"" is not an id`,
	} {
		w := freshWorld(t, engine.ListSnapshots)
		w.must(w.open().Close())
		before := w.datasets()
		f, err := w.machine.Files().OpenFile(poolMount+"/state/running/"+name, os.O_CREATE|os.O_WRONLY, 0o600)
		w.must(err)
		w.must(f.Close())
		e, err := engine.Open(t.Context(), w.options())
		if want == "" {
			w.must(err)
			w.must(e.Close())
		} else if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(before, w.datasets()); diff != "" {
			t.Errorf("%s: changed (-before +after):\n%s", name, diff)
		}
	}
}

// A base that another implementation has made since the store was opened is
// used, and not destroyed when it cannot be asked for.
func TestBaseMadeMeanwhile(t *testing.T) {
	for _, fail := range []bool{false, true} {
		w := freshWorld(t, engine.MountSnapshots)
		e := w.open(interceptor(func(_ context.Context, argv []string, run func() error) error {
			if fail && argv[1] == "mount" {
				fail = false
				return &zfs.Error{Kind: zfs.Busy, Argv: argv, Status: 1, Stderr: "busy"}
			}
			return run()
		}))
		other := w.open()
		_, err := w.build(other, `((from busybox))`)
		w.must(err)
		w.must(other.Close())
		before := w.stored()
		failed := fail
		if _, err := w.build(e, `((from busybox))`); failed != (err != nil) {
			t.Errorf("built with %v", err)
		}
		if diff := cmp.Diff(before, w.stored()); diff != "" {
			t.Errorf("stored before and after (-before +after):\n%s", diff)
		}
		if left := w.leftovers(); len(left) > 0 {
			t.Errorf("left behind: %q", left)
		}
		w.must(e.Close())
	}
}
