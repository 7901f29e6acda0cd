package engine_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"obuilder.org/obuilder/engine"
	"obuilder.org/obuilder/sandbox"
	"obuilder.org/obuilder/zfs"
	"obuilder.org/obuilder/zfs/fault"
)

// jobs are what is interrupted at every command.
var jobs = map[string]string{
	"first build": `((from busybox) (run (shell a)) (run (shell b)))`,
	"failing":     `((from busybox) (run (shell a)) (run (shell fail)))`,
	"cache":       `((from busybox) (run (cache (c (target /var/cache)) (d (target .d))) (shell a)) (run (cache (c (target /elsewhere))) (shell b)))`,
	"nested":      `((build x ((from busybox) (run (shell a)))) (from busybox) (copy (from (build x)) (src .ran) (dst /got)) (run (shell b)))`,
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

// build builds a job twice, the way that it ends being of no interest.
func (w *world) build(e *engine.Engine, text string) (string, error) {
	return e.Build(context.Background(), engine.Job{Spec: parse(w.t, text)})
}

// A process that is stopped before or after any command, and one of which any
// command fails, loses nothing: the next process, or the same one, finishes
// the job to the same state as if nothing had happened, and leaves nothing.
func TestEveryCommand(t *testing.T) {
	for _, mode := range []engine.SnapshotMode{engine.ListSnapshots, engine.MountSnapshots} {
		for name, text := range jobs {
			fresh := func(t *testing.T) *world {
				w := newWorld(t, mode, "busybox")
				w.script = failing
				return w
			}
			w := fresh(t)
			e := w.open()
			_, wantErr := w.build(e, text)
			w.must(e.Close())
			want := w.state()
			for action, f := range map[string]fault.Action{
				"crash before": fault.CrashBefore,
				"crash after":  fault.CrashAfter,
				"busy":         fault.Fail(zfs.Error{Kind: zfs.Busy, Status: 1, Stderr: "cannot do it: dataset is busy"}),
				"no space":     fault.Fail(zfs.Error{Kind: zfs.NoSpace, Status: 1, Stderr: "out of space"}),
				"timeout":      fault.Fail(zfs.Error{Kind: zfs.Timeout, Status: -1, Err: context.DeadlineExceeded}),
			} {
				t.Run(fmt.Sprintf("%d/%s/%s", mode, name, action), func(t *testing.T) {
					points := 0
					for n := 0; ; n++ {
						w := fresh(t)
						point := fault.At(n, f)
						var transcript fault.Transcript
						fail := func(format string, args ...any) {
							t.Helper()
							t.Fatalf("command %d: "+format+"\n%s", append(append([]any{n}, args...), transcript.String())...)
						}
						e, err := engine.Open(t.Context(), w.options(&transcript, point))
						if err == nil {
							_, err = w.build(e, text)
							if errors.Is(err, fault.ErrCrashed) == false && point.Fired() && err == nil && wantErr == nil {
								// It coped.
								if left := w.leftovers(); len(left) > 0 {
									fail("left behind: %q", left)
								}
							}
							err = errors.Join(err, e.Close())
						}
						if !point.Fired() {
							if n == 0 {
								t.Fatal("nothing was interrupted")
							}
							break
						}
						points++
						e, err = engine.Open(t.Context(), w.options(&transcript))
						if err != nil {
							fail("opening again: %v", err)
						}
						if left := w.leftovers(); len(left) > 0 {
							fail("left behind: %q", left)
						}
						_, err = w.build(e, text)
						if (err == nil) != (wantErr == nil) {
							fail("building again: %v, want %v", err, wantErr)
						}
						if left := w.leftovers(); len(left) > 0 {
							fail("left behind: %q", left)
						}
						w.must(e.Close())
						if diff := cmp.Diff(want, w.state()); diff != "" {
							fail("state (-want +got):\n%s", diff)
						}
					}
					t.Logf("%d points", points)
				})
			}
		}
	}
}
