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
	name := cfg.Argv[len(cfg.Argv)-1]
	if name == "fail" {
		return &sandbox.ExitError{Argv: cfg.Argv, Status: 1}
	}
	return errUnscripted
}

// leftovers are datasets that only a step on its way may have, and mounts at the places of a step.
func (w *world) leftovers() []string {
	w.t.Helper()
	all := w.datasets()
	var left []string
	for _, line := range all {
		name, _, mounted := strings.Cut(line, " on ")
		rest, isResult := strings.CutPrefix(name, "result/")
		switch {
		case strings.HasPrefix(name, "cache-tmp/"):
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

// stored gives the guid of the snapshot of each complete result.
func (w *world) stored() map[string]string {
	w.t.Helper()
	rows, err := w.machine.List(context.Background(), zfs.ListOptions{Roots: []zfs.Name{root}, Recursive: true,
		Types: []zfs.Type{zfs.Snapshots}, Properties: []string{"guid"}})
	w.must(err)
	guids := map[string]string{}
	for _, row := range rows {
		if id, ok := strings.CutSuffix(strings.TrimPrefix(row.Name, poolName+"/result/"), "@snap"); ok && engine.ValidID(id) {
			guids[id] = row.Values[0]
		}
	}
	return guids
}

func (w *world) build(e *engine.Engine, text string) (string, error) {
	return e.Build(context.Background(), engine.Job{Spec: parse(w.t, text)})
}

// explore interrupts a process that opens the store, builds a job and closes
// the store, at the first operation of a layer, at the second, and so on until
// there are no more, each time in a store that prepare has made. Whatever was
// interrupted, the next process clears up, finds all that was stored, and
// finishes the job to the state and the id that it has when nothing happens.
func explore(t *testing.T, prepare func() *world, text string, on layer, act action) {
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
			id, err := w.build(e, text)
			if err == nil {
				if left := w.leftovers(); len(left) > 0 {
					fail("left behind: %q", left)
				}
				if id != wantID {
					fail("built %q, want %q", id, wantID)
				}
			}
			if interruption.sprung() != "" && !interruption.crashed {
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

// Nothing that fails once, and no end of the process, loses anything or leaves anything.
func TestInterrupted(t *testing.T) {
	for _, mode := range []engine.SnapshotMode{engine.ListSnapshots, engine.MountSnapshots} {
		for job, text := range jobs {
			for _, on := range layers {
				for name, action := range actions[on] {
					t.Run(fmt.Sprintf("%d/%s/%s/%s", mode, job, on, name), func(t *testing.T) {
						explore(t, func() *world {
							w := newWorld(t, mode, "busybox")
							w.script = failing
							return w
						}, text, on, action)
					})
				}
			}
		}
	}
}
