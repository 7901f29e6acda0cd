package engine_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"obuilder.org/obuilder/engine"
	"obuilder.org/obuilder/index"
	"obuilder.org/obuilder/sandbox"
	"obuilder.org/obuilder/zfs"
	"obuilder.org/obuilder/zfs/fake"
	"obuilder.org/obuilder/zfs/fault"
)

// big is what a step named "big..." writes.
var big = bytes.Repeat([]byte("big "), 10<<20)

// smallWorld is a world whose pool has room for nine steps named "big...",
// which write 40 MiB each. When there is none they fail as a command does.
func smallWorld(t testing.TB, mode engine.SnapshotMode) *world {
	w := &world{t: t, mode: mode, index: index.Memory(), clock: &stepClock{now: time.Unix(1_700_000_000, 0)}}
	w.machine = fake.New(fake.Pool(poolName, 512<<20, poolMount), fake.SnapshotMounts(mode == engine.MountSnapshots))
	w.image("busybox")
	w.script = func(ctx context.Context, cfg sandbox.Config, _ io.Reader, out io.Writer) error {
		name := cfg.Argv[len(cfg.Argv)-1]
		if !strings.HasPrefix(name, "big") {
			return failing(ctx, cfg, nil, out)
		}
		if _, err := fmt.Fprintln(out, "writing", name); err != nil {
			return err
		}
		f, err := w.machine.Files().OpenFile("/Users/mac1000/"+strings.ReplaceAll(name, " ", "-"), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err := f.Write(big); err != nil {
			fmt.Fprintln(out, "No space left on device")
			return &sandbox.ExitError{Argv: cfg.Argv, Status: 1}
		}
		return nil
	}
	return w
}

// A step that fills the pool fails, what nobody needs is pruned, and the step
// is made once more; its build says so.
func TestFullPool(t *testing.T) {
	w := smallWorld(t, engine.MountSnapshots)
	e := w.open()
	built := 0
	for i := range 12 {
		r := &recording{}
		_, err := e.Build(t.Context(), engine.Job{Spec: parse(t, fmt.Sprintf(`((from busybox) (run (shell "big %d")))`, i)), Events: r.event})
		w.must(err)
		built++
		if again := strings.Contains(r.String(), "[waiting] no space was left: "); again != (strings.Count(r.String(), "writing") == 2) ||
			again != strings.Contains(r.String(), "No space left on device") {
			t.Errorf("build %d:\n%s", i, r)
		}
	}
	stored := w.stored()
	if len(stored) == built+1 {
		t.Error("the pool was never full")
	}
	if stored[baseID] == "" {
		t.Error("the base is gone, which every step needs")
	}
	w.must(e.Close())
	if left := w.leftovers(); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// A build that alone fills the pool fails, with an error that says so, after
// its step was not begun again: there was nothing to prune.
func TestFullPoolNothingToPrune(t *testing.T) {
	w := smallWorld(t, engine.ListSnapshots)
	e := w.open()
	var text strings.Builder
	text.WriteString("((from busybox)")
	for i := range 12 {
		fmt.Fprintf(&text, ` (run (shell "big %d"))`, i)
	}
	text.WriteString(")")
	r := &recording{}
	_, err := e.Build(t.Context(), engine.Job{Spec: parse(t, text.String()), Events: r.event})
	var step *engine.StepError
	var noSpace *engine.NoSpaceError
	if !errors.As(err, &step) || !errors.As(err, &noSpace) || !strings.Contains(err.Error(), "no space left in obuilder: nothing to prune; ") {
		t.Errorf("%v", err)
	}
	if n := strings.Count(r.String(), "No space left on device"); n != 1 {
		t.Errorf("%d steps failed\n%s", n, r)
	}
	w.must(e.Close())
	if left := w.leftovers(); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// A step that fails in a pool with room is not made again.
func TestFailsWithRoom(t *testing.T) {
	w := smallWorld(t, engine.ListSnapshots)
	e := w.open()
	w.lineageOf(e, `((from busybox) (run (shell idle)))`)
	before := w.stored()
	r := &recording{}
	_, err := e.Build(t.Context(), engine.Job{Spec: parse(t, `((from busybox) (run (shell fail)))`), Events: r.event})
	if !errors.As(err, new(*sandbox.ExitError)) || errors.As(err, new(*engine.NoSpaceError)) || strings.Contains(r.String(), "waiting") {
		t.Errorf("%v\n%s", err, r)
	}
	if len(w.stored()) != len(before) {
		t.Error("something was pruned")
	}
	w.must(e.Close())
}

// Whichever command or file has no space, once, the step is made again; when
// it never has, the error is typed and the step was made twice.
func TestNoSpaceErrors(t *testing.T) {
	const text = `((from busybox) (run (cache (c (target /c))) (shell a)))`
	for _, kind := range []string{"command", "file"} {
		for _, always := range []bool{false, true} {
			for n := 0; ; n++ {
				w := freshWorld(t, engine.ListSnapshots)
				e := w.open()
				w.lineageOf(e, `((from busybox) (run (shell idle)))`)
				w.must(e.Close())
				seen, failed := 0, 0
				fails := func() bool {
					seen++
					if seen == n+1 || always && seen > n+1 {
						failed++
						return true
					}
					return false
				}
				o := w.options(interceptor(func(_ context.Context, argv []string, run func() error) error {
					if kind == "command" && argv[0] == "zfs" && (argv[1] == "clone" || argv[1] == "create" || argv[1] == "snapshot") && fails() {
						return &zfs.Error{Kind: zfs.NoSpace, Argv: argv, Status: 1, Stderr: "out of space"}
					}
					return run()
				}))
				if kind == "file" {
					o.Files = &fullFiles{o.Files, fails}
				}
				e, err := engine.Open(t.Context(), o)
				w.must(err)
				r := &recording{}
				_, err = e.Build(t.Context(), engine.Job{Spec: parse(t, text), Events: r.event})
				w.must(e.Close())
				w.must(w.open().Close())
				if left := w.leftovers(); len(left) > 0 {
					t.Errorf("%s %d: left behind: %q", kind, n, left)
				}
				if failed == 0 {
					w.must(err)
					if n < 3 {
						t.Errorf("%s: only %d operations need space", kind, n)
					}
					break
				}
				again := strings.Count(r.String(), "making this step again")
				switch {
				case !always && (err != nil || again > 1):
					t.Errorf("%s %d: %v\n%s", kind, n, err, r)
				case always && err != nil && (!errors.As(err, new(*engine.NoSpaceError)) || again > 1):
					t.Errorf("%s %d: %v\n%s", kind, n, err, r)
				}
			}
		}
	}
}

// fullFiles are files that cannot be written when full says so.
type fullFiles struct {
	zfs.Files
	full func() bool
}

func (f *fullFiles) OpenFile(name string, flag int, perm fs.FileMode) (zfs.File, error) {
	file, err := f.Files.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return fullFile{file, f}, nil
}

type fullFile struct {
	zfs.File
	files *fullFiles
}

func (f fullFile) Write(p []byte) (int, error) {
	if f.files.full() {
		return 0, syscall.ENOSPC
	}
	return f.File.Write(p)
}

// When less is free than shall be, results are pruned in the background.
// When that frees nothing, the next try comes later and later.
func TestKeepRoom(t *testing.T) {
	for _, test := range []struct {
		percent float64
		left    int // results, a day later
		reports int // at most
	}{{1, 7, 0}, {50, 5, 1}, {100, 0, 30}} {
		synctest.Test(t, func(t *testing.T) {
			w := smallWorld(t, engine.ListSnapshots)
			o := w.options()
			surveys := 0
			o.FS = fault.Wrap(w.machine, interceptor(func(_ context.Context, argv []string, run func() error) error {
				if strings.HasSuffix(zfs.CommandLine(argv), ",creation obuilder obuilder/result") {
					surveys++
				}
				return run()
			}))
			o.Clock = engine.SystemClock{}
			e, err := engine.Open(t.Context(), o)
			w.must(err)
			for i := range 6 {
				w.lineageOf(e, fmt.Sprintf(`((from busybox) (run (shell "big %d")))`, i))
			}
			ctx, cancel := context.WithCancel(t.Context())
			var reports []engine.PruneReport
			done := make(chan struct{})
			go func() {
				defer close(done)
				e.KeepRoom(ctx, engine.PrunePolicy{KeepFree: engine.Space{Percent: test.percent}}, func(r engine.PruneReport, err error) {
					if err != nil {
						t.Error(err)
					}
					reports = append(reports, r)
				})
			}()
			time.Sleep(24 * time.Hour)
			cancel()
			<-done
			if n := len(w.stored()); n != test.left {
				t.Errorf("%v%%: %d results are left", test.percent, n)
			}
			if len(reports) > test.reports || surveys != len(reports) {
				t.Errorf("%v%%: %d surveys, reports %+v", test.percent, surveys, reports)
			}
			if len(reports) > 0 && (reports[0].Results != 7-test.left || (reports[0].Short > 0) != (test.percent == 100)) {
				t.Errorf("%v%%: report %+v", test.percent, reports[0])
			}
			w.must(e.Close())
		})
	}
}
