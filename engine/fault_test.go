package engine_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"obuilder.org/obuilder/engine"
	"obuilder.org/obuilder/sandbox"
	"obuilder.org/obuilder/zfs"
	"obuilder.org/obuilder/zfs/fault"
)

// jobs are what is interrupted at every operation.
var jobs = map[string]string{
	"first build": `((from busybox) (run (shell a)) (run (shell b)))`,
	"failing":     `((from busybox) (run (shell a)) (run (shell fail)))`,
	"cache":       `((from busybox) (run (cache (c (target /var/cache)) (d (target .d))) (shell a)) (run (cache (c (target /elsewhere))) (shell b)))`,
	"killed":      `((from busybox) (run (cache (c (target /var/cache)) (c (target .d))) (shell a)) (run (cache (c (target /elsewhere))) (shell kill)))`,
	"nested":      `((build x ((from busybox) (run (shell a)))) (from busybox) (copy (from (build x)) (src .ran) (dst /got)) (run (shell b)))`,
}

// actions are what a trap does, by the layer that it is on.
var actions = map[layer]map[string]action{
	onZFS: {
		"crash before": {}, "crash after": {after: true},
		"busy":     {fail: &zfs.Error{Kind: zfs.Busy, Status: 1, Stderr: "cannot do it: dataset is busy"}},
		"no space": {fail: &zfs.Error{Kind: zfs.NoSpace, Status: 1, Stderr: "out of space"}},
		"timeout":  {fail: &zfs.Error{Kind: zfs.Timeout, Status: -1, Err: context.DeadlineExceeded}},
	},
	onFiles:   {"crash before": {}, "crash after": {after: true}, "no space": {fail: syscall.ENOSPC}},
	onIndex:   {"crash before": {}, "crash after": {after: true}, "failure": {fail: errors.New("database is locked")}},
	onSandbox: {"crash before": {}, "crash after": {after: true}, "stuck": {fail: &sandbox.StuckError{Processes: []string{"7 (clang)"}}}},
}

func failing(_ context.Context, cfg sandbox.Config, _ io.Reader, out io.Writer) error {
	switch cfg.Argv[len(cfg.Argv)-1] {
	case "fail":
		return &sandbox.ExitError{Argv: cfg.Argv, Status: 1}
	case "kill":
		return &sandbox.ExitError{Argv: cfg.Argv, Status: -1, Signal: "killed"}
	}
	return errUnscripted
}

// leftovers are datasets that only a step on its way may have, and mounts at
// the places of a step.
func (w *world) leftovers() []string {
	w.t.Helper()
	all := w.datasets()
	var left []string
	for _, line := range all {
		name, _, mounted := strings.Cut(line, " on ")
		rest, isResult := strings.CutPrefix(name, "result/")
		switch {
		case strings.HasPrefix(name, "cache-tmp/"), strings.HasPrefix(name, "pruned-"):
			left = append(left, line)
		case isResult && !strings.ContainsAny(rest, "@/") && !slices.ContainsFunc(all, func(s string) bool {
			return s == name+"@snap" || strings.HasPrefix(s, name+"@snap on ")
		}):
			left = append(left, line)
		case isResult && mounted && strings.Contains(rest, "/"):
			left = append(left, line)
		}
	}
	tree, err := w.machine.Files().Tree(poolMount + "/state/running")
	w.must(err)
	entries, err := tree.ReadDir(".")
	w.must(errors.Join(err, tree.Close()))
	for _, entry := range entries {
		left = append(left, "marker "+entry.Name())
	}
	return left
}

// unmarked are those of the leftovers that the next process would not end the
// deletion of: a job destroys what is stale after it is done, and is not worth
// less when that fails. A marker of what is complete says nothing.
func (w *world) unmarked() []string {
	fresh := w.fresh()
	left := slices.DeleteFunc(w.leftovers(), func(line string) bool { return fresh[strings.TrimPrefix(line, "marker step-")] })
	return slices.DeleteFunc(slices.Clone(left), func(line string) bool {
		return strings.HasPrefix(line, "marker delete-") || slices.ContainsFunc(left, func(mark string) bool {
			id, ok := strings.CutPrefix(mark, "marker delete-")
			return ok && strings.Contains(line, id)
		})
	})
}

// state is what the store holds in the end, without what differs from run to run.
func (w *world) state() []string {
	var names []string
	for _, line := range w.datasets() {
		name, _, _ := strings.Cut(line, " on ")
		names = append(names, name)
	}
	rows, err := w.index.All(context.Background())
	w.must(err)
	for _, r := range rows {
		names = append(names, fmt.Sprintf("row %s parent %s rc %d", r.ID, r.Parent, r.Children))
	}
	slices.Sort(names)
	return names
}

// stored gives the guid of the snapshot of each complete result that is not stale.
func (w *world) stored() map[string]string {
	w.t.Helper()
	rows, err := w.machine.List(context.Background(), zfs.ListOptions{Roots: []zfs.Name{root}, Recursive: true,
		Types: []zfs.Type{zfs.Snapshots}, Properties: []string{"guid"}})
	w.must(err)
	guids := map[string]string{}
	fresh := w.fresh()
	for _, row := range rows {
		if id, ok := strings.CutSuffix(strings.TrimPrefix(row.Name, poolName+"/result/"), "@snap"); ok && engine.ValidID(id) && fresh[id] {
			guids[id] = row.Values[0]
		}
	}
	return guids
}

func (w *world) build(e *engine.Engine, text string) (string, error) {
	return e.Build(context.Background(), engine.Job{Spec: parse(w.t, text)})
}

// explore interrupts a process that opens the store, builds a job if builds
// says so, and closes the store, at the first operation of a layer, at the
// second, and so on until there are no more, each time in a store that prepare
// has made. Whatever was interrupted, the next process clears up, finds all
// that was stored, and finishes the job to the state and the id that it has
// when nothing happens.
func explore(t *testing.T, prepare func() *world, builds bool, text string, on layer, act action) {
	w := prepare()
	e := w.open()
	wantID, wantErr := w.build(e, text)
	w.must(e.Close())
	want := w.state()
	for n := 0; ; n++ {
		w := prepare()
		interruption := &trap{on: on, at: n, action: act}
		var transcript fault.Transcript
		fail := func(format string, args ...any) {
			t.Helper()
			t.Fatalf("operation %d, %s: %s\n%s", n, interruption.sprung(), fmt.Sprintf(format, args...), transcript.String())
		}
		check := func(e *engine.Engine) {
			t.Helper()
			before := w.stored()
			id, err := w.build(e, text)
			if id != wantID || (err == nil) != (wantErr == nil) {
				fail("building again: %q, %v, want %q, %v", id, err, wantID, wantErr)
			}
			after := w.stored()
			maps.DeleteFunc(after, func(id, _ string) bool { return before[id] == "" })
			if diff := cmp.Diff(before, after); diff != "" {
				fail("stored before and after building again (-before +after):\n%s", diff)
			}
		}
		w.trap = interruption
		e, err := engine.Open(t.Context(), w.options(&transcript))
		if err == nil {
			if builds {
				id, err := w.build(e, text)
				if left := w.unmarked(); err == nil && len(left) > 0 {
					fail("left behind: %q", left)
				}
				if err == nil && id != wantID {
					fail("built %q, want %q", id, wantID)
				}
			}
			switch {
			case interruption.sprung() == "" || interruption.crashed:
			case errors.As(act.fail, new(*sandbox.StuckError)):
				// Nothing is built until the machine was rebooted.
				if _, err := w.build(e, text); builds && !errors.As(err, new(*engine.UnhealthyError)) {
					fail("building on, with what cannot be killed: %v", err)
				}
			default:
				// What failed once is no reason to fail again.
				check(e)
			}
			if err := e.Close(); err != nil && interruption.sprung() == "" {
				fail("closing: %v", err)
			}
		}
		if interruption.sprung() == "" {
			if err != nil {
				fail("opening: %v", err)
			}
			t.Logf("%d operations", n)
			return
		}
		w.trap = nil
		before := w.stored()
		if e, err = engine.Open(t.Context(), w.options(&transcript)); err != nil {
			fail("opening again: %v", err)
		}
		if left := w.leftovers(); len(left) > 0 {
			fail("left behind: %q", left)
		}
		if diff := cmp.Diff(before, w.stored()); diff != "" {
			fail("stored before and after opening again (-before +after):\n%s", diff)
		}
		check(e)
		if left := w.leftovers(); len(left) > 0 {
			fail("left behind: %q", left)
		}
		w.must(e.Close())
		if diff := cmp.Diff(want, w.state()); diff != "" {
			fail("state (-want +got):\n%s", diff)
		}
		var third fault.Transcript
		w.must(w.open(&third).Close())
		for _, command := range third.Commands() {
			if !strings.HasPrefix(command, "zfs list ") {
				fail("the next process does %q", command)
			}
		}
	}
}

// freshWorld is a store in which nothing was built.
func freshWorld(t *testing.T, mode engine.SnapshotMode) *world {
	w := newWorld(t, mode, "busybox")
	w.script = failing
	return w
}

var modes = []engine.SnapshotMode{engine.ListSnapshots, engine.MountSnapshots}

// Nothing that fails once, and no end of the process, loses anything or leaves
// anything.
func TestInterrupted(t *testing.T) {
	for _, mode := range modes {
		for job, text := range jobs {
			for _, on := range layers {
				for name, act := range actions[on] {
					t.Run(fmt.Sprintf("%d/%s/%s/%s", mode, job, on, name), func(t *testing.T) {
						explore(t, func() *world { return freshWorld(t, mode) }, true, text, on, act)
					})
				}
			}
		}
	}
}

// Nor does it when it happens to a process that clears up after another one.
func TestInterruptedRecovery(t *testing.T) {
	jobs := maps.Clone(jobs)
	jobs["rebuilt image"] = staleJob
	for job, text := range jobs {
		for n := 5; ; n += 3 {
			stopped := func() (*world, *trap) {
				w := freshWorld(t, engine.ListSnapshots)
				if job == "rebuilt image" {
					e := w.open()
					w.lineageOf(e, text)
					w.lineageOf(e, `((from busybox) (run (shell a)) (run (shell c)))`)
					w.must(e.Close())
					rebuilds["renamed"](w)
				}
				crash := &trap{on: onZFS, at: n, action: action{after: true}}
				w.trap = crash
				if e, err := engine.Open(t.Context(), w.options()); err == nil {
					_, _ = w.build(e, text) // it cannot end well
					_ = e.Close()
				}
				w.trap = nil
				return w, crash
			}
			if _, crash := stopped(); crash.sprung() == "" {
				break
			}
			for _, on := range layers {
				for name, act := range actions[on] {
					t.Run(fmt.Sprintf("%s/%d/%s/%s", job, n, on, name), func(t *testing.T) {
						explore(t, func() *world {
							w, _ := stopped()
							return w
						}, false, text, on, act)
					})
				}
			}
		}
	}
}

// halfDestroyed stops the recursive destruction of a dataset, the n-th, after
// one of its children, as a busy mount does.
type halfDestroyed struct {
	zfs.FS
	n int
}

func (h *halfDestroyed) Destroy(ctx context.Context, target zfs.Name, mode zfs.DestroyMode) error {
	ds, ok := target.(zfs.Dataset)
	if !ok || !mode.Recursive {
		return h.FS.Destroy(ctx, target, mode)
	}
	h.n--
	if h.n >= 0 {
		return h.FS.Destroy(ctx, target, mode)
	}
	// From here on nothing can be destroyed wholly.
	if err := h.FS.Destroy(ctx, ds.MustChild("home"), mode); err != nil && !zfs.IsKind(err, zfs.NotFound) {
		return err
	}
	return &zfs.Error{Kind: zfs.Busy, Argv: zfs.ArgvDestroy(target, mode), Status: 1, Stderr: "dataset is busy"}
}

// A deletion that stops anywhere leaves no result that is there in part: what
// was to be deleted is whole or gone, is built again when it is needed, and is
// gone after the next deletion.
func TestInterruptedDeletion(t *testing.T) {
	const one, two = `((from busybox) (run (shell a)) (run (shell b)))`, `((from busybox) (run (shell a)) (run (shell c)))`
	for _, mode := range modes {
		prepare := func() (w *world, a string) {
			w = freshWorld(t, mode)
			e := w.open()
			for _, text := range []string{one, two} {
				id, err := w.build(e, text)
				w.must(err)
				ids, err := e.Ancestors(t.Context(), id)
				w.must(err)
				a = ids[1]
			}
			w.must(e.Close())
			return w, a
		}
		finish := func(t *testing.T, w *world, e *engine.Engine, a string) {
			t.Helper()
			for _, text := range []string{one, two} {
				if _, err := w.build(e, text); err != nil {
					t.Errorf("building again: %v", err)
				}
			}
			w.must(e.Delete(t.Context(), a, func(string) {}))
			w.must(e.Close())
			if left := w.leftovers(); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
			if got := w.stored(); len(got) != 1 || got[baseID] == "" {
				t.Errorf("in the store: %v", got)
			}
			rows, err := w.index.All(t.Context())
			w.must(err)
			if len(rows) != 1 || rows[0].ID != baseID {
				t.Errorf("in the index: %+v", rows)
			}
		}
		for _, again := range []bool{false, true} {
			for n := range 3 {
				t.Run(fmt.Sprintf("%d/half/%d/%v", mode, n, again), func(t *testing.T) {
					w, a := prepare()
					o := w.options()
					half := &halfDestroyed{o.FS, n}
					o.FS = half
					e, err := engine.Open(t.Context(), o)
					w.must(err)
					if err := e.Delete(t.Context(), a, func(string) {}); !zfs.IsKind(err, zfs.Busy) {
						t.Errorf("deleted with %v", err)
					}
					half.n = 1000
					if again {
						w.must(e.Close())
						e = w.open()
						if left := w.leftovers(); len(left) > 0 {
							t.Errorf("left behind: %q", left)
						}
					}
					finish(t, w, e, a)
				})
			}
		}
		for _, on := range layers {
			for name, act := range actions[on] {
				t.Run(fmt.Sprintf("%d/%s/%s", mode, on, name), func(t *testing.T) {
					for n := 0; ; n++ {
						w, a := prepare()
						w.trap = &trap{on: on, at: n, action: act}
						e, err := engine.Open(t.Context(), w.options())
						if err == nil {
							err = errors.Join(e.Delete(t.Context(), a, func(string) {}), e.Close())
						}
						interruption := w.trap
						if interruption.sprung() == "" {
							w.must(err)
							break
						}
						w.trap = nil
						before := w.stored()
						e = w.open()
						after := w.stored()
						for id := range before {
							if rows, err := w.index.Get(t.Context(), id); after[id] != "" && err != nil {
								t.Errorf("operation %d, %s: %v, %v", n, interruption.sprung(), rows, err)
							}
						}
						if left := w.leftovers(); len(left) > 0 {
							t.Errorf("operation %d, %s: left behind: %q", n, interruption.sprung(), left)
						}
						finish(t, w, e, a)
					}
				})
			}
		}
	}
}
