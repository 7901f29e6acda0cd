package engine_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"obuilder.org/obuilder/engine"
	"obuilder.org/obuilder/sandbox"
	"obuilder.org/obuilder/zfs"
)

// A cache keeps what a step has put into it when its command ended by itself,
// well or not, and not when it was killed. Of two uses of a cache at the same time
// one takes its place, and the other, which does not know of it, is discarded.
func TestCaches(t *testing.T) {
	for _, test := range []struct {
		name string
		end  error
		want string
	}{
		{"success", nil, "d"},
		{"exit status", &sandbox.ExitError{Status: 1}, "d"},
		{"killed", &sandbox.ExitError{Status: -1, Signal: "killed"}, "old"},
		{"machine error", errors.New("no processes left"), "old"},
		{"stuck", &sandbox.StuckError{Processes: []string{"7 (clang)"}}, "old"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, engine.ListSnapshots, "busybox")
			files := w.machine.Files()
			put := func(name, text string) {
				f, err := files.OpenFile("/Users/mac1000/"+name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
				w.must(err)
				_, err = io.WriteString(f, text)
				w.must(errors.Join(err, f.Close()))
			}
			got := ""
			w.script = func(_ context.Context, cfg sandbox.Config, _ io.Reader, _ io.Writer) error {
				switch cfg.Argv[len(cfg.Argv)-1] {
				case "first":
					put("c/file", "old")
				case "both":
					for _, dir := range []string{"c", "d"} {
						data, err := files.ReadFile("/Users/mac1000/"+dir+"/file", 100)
						w.must(err)
						if string(data) != "old" {
							t.Errorf("%s begins with %q", dir, data)
						}
						put(dir+"/file", dir)
					}
					return test.end
				case "last":
					data, err := files.ReadFile("/Users/mac1000/var/c/file", 100)
					w.must(err)
					got = string(data)
				}
				return nil
			}
			e := w.open()
			_, err := w.build(e, `((from busybox) (run (cache (c (target /c))) (shell first)))`)
			w.must(err)
			_, err = w.build(e, `((from busybox) (run (cache (c (target /c)) (c (target /d))) (shell both)))`)
			if !errors.Is(err, test.end) {
				t.Errorf("ended with %v", err)
			}
			if left := w.leftovers(); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
			w.must(e.Close())
			e = w.open() // what could not be killed would keep this one from building
			_, err = w.build(e, `((from busybox) (run (cache (c (target /var/c))) (shell last)))`)
			w.must(err)
			if got != test.want {
				t.Errorf("the cache has %q, want %q", got, test.want)
			}
			w.must(e.Close())
		})
	}
}

// A cache that is busy when its step ends is waited for, and its contents
// are kept; a process may use it any number of times and be stopped at any.
func TestCacheBusy(t *testing.T) {
	w := newWorld(t, engine.ListSnapshots, "busybox")
	w.script = failing
	busy, inherits := 3, 0
	e := w.open(interceptor(func(_ context.Context, argv []string, run func() error) error {
		if argv[1] == "inherit" {
			if inherits++; inherits <= busy {
				return &zfs.Error{Kind: zfs.Busy, Argv: argv, Status: 1, Stderr: "busy"}
			}
		}
		return run()
	}))
	before := ""
	for i := range 2 {
		_, err := w.build(e, fmt.Sprintf(`((from busybox) (run (cache (c (target /c))) (shell "%d")))`, i))
		w.must(err)
		rows, err := w.machine.List(t.Context(), zfs.ListOptions{Roots: []zfs.Name{root.MustChild("cache").MustChild("c-c")}, Properties: []string{"guid"}})
		w.must(err)
		if rows[0].Values[0] == before {
			t.Error("the cache was not replaced")
		}
		before = rows[0].Values[0]
	}
	w.must(e.Close())
}

// The names of what is in use come in another order once they have two digits.
func TestTenthCache(t *testing.T) {
	for n := 0; ; n++ {
		w := newWorld(t, engine.ListSnapshots, "busybox")
		w.script = failing
		crash := &trap{on: onZFS, at: n, action: action{after: true}}
		w.trap = crash
		e, err := engine.Open(t.Context(), w.options())
		if err == nil {
			// One name for a use that is dropped, so that the tenth is that of
			// a clone.
			_, _ = w.build(e, `((from busybox) (run (cache (c (target /c))) (shell kill)))`)
		}
		for i := range 5 {
			if err == nil {
				_, err = w.build(e, fmt.Sprintf(`((from busybox) (run (cache (c (target /c))) (shell "%d")))`, i))
			}
		}
		w.trap = nil
		if crash.sprung() == "" {
			w.must(err)
			w.must(e.Close())
			break
		}
		e = w.open()
		if left := w.leftovers(); len(left) > 0 {
			t.Errorf("command %d: left behind: %q", n, left)
		}
		_, err = w.build(e, `((from busybox) (run (cache (c (target /c))) (shell again)))`)
		w.must(err)
		w.must(e.Close())
		var caches []string
		for _, line := range w.datasets() {
			if strings.HasPrefix(line, "cache/c-c") {
				name, _, _ := strings.Cut(line, " ")
				caches = append(caches, name)
			}
		}
		if diff := cmp.Diff([]string{"cache/c-c", "cache/c-c@snap"}, caches); diff != "" {
			t.Errorf("command %d (-want +got):\n%s", n, diff)
		}
	}
}
