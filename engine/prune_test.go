package engine_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"obuilder.org/obuilder/engine"
	"obuilder.org/obuilder/sandbox"
	"obuilder.org/obuilder/zfs"
	"obuilder.org/obuilder/zfs/fault"
)

// everything would leave nothing of a store that is not huge.
var everything = engine.PrunePolicy{KeepFree: engine.Space{Percent: 100}}

// lineageOf builds a job and gives the ids of its results, the base first.
func (w *world) lineageOf(e *engine.Engine, text string) []string {
	w.t.Helper()
	id, err := w.build(e, text)
	w.must(err)
	ids, err := e.Ancestors(context.Background(), id)
	w.must(err)
	return ids
}

// Results go least recently used first, each after what was built on it, with
// one command to look and two for each.
func TestPrune(t *testing.T) {
	for _, mode := range modes {
		w := freshWorld(t, mode)
		var transcript fault.Transcript
		e := w.open(&transcript)
		one := w.lineageOf(e, `((from busybox) (run (shell a)) (run (shell b)))`)
		two := w.lineageOf(e, `((from busybox) (run (shell a)) (run (shell c)))`)
		w.lineageOf(e, `((from busybox) (run (shell a)) (run (shell b)))`) // used again
		want := []string{two[2], one[2], one[1], one[0]}
		seen := len(transcript.Commands())
		plan, err := e.PlanPrune(t.Context(), everything)
		w.must(err)
		var planned []string
		for _, r := range plan.Results {
			planned = append(planned, r.ID)
		}
		if diff := cmp.Diff(want, planned); diff != "" {
			t.Errorf("planned (-want +got):\n%s", diff)
		}
		used := func() string {
			rows, err := w.machine.List(t.Context(), zfs.ListOptions{Roots: []zfs.Name{root.MustChild("result")}, Properties: []string{"used"}})
			w.must(err)
			return rows[0].Values[0]
		}
		before := used()
		var gone []string
		report, err := e.Prune(t.Context(), everything, func(r engine.Prunable) { gone = append(gone, r.ID) })
		w.must(err)
		if diff := cmp.Diff(want, gone); diff != "" {
			t.Errorf("pruned (-want +got):\n%s", diff)
		}
		if report.Results != 4 || report.Bytes != plan.Bytes || report.Short == 0 || report.Skipped != 0 {
			t.Errorf("report %+v, plan %+v", report, plan)
		}
		if freed := fmt.Sprint(plan.Bytes); before == used() || fmt.Sprint(plan.TotalBytes) != freed {
			t.Errorf("freed %s of %s, now %s", freed, before, used())
		}
		list := "zfs list -Hp -d 1 -t filesystem -o name,used,available,origin,creation obuilder obuilder/result"
		commands := []string{list, list}
		for _, id := range want {
			commands = append(commands, "zfs rename obuilder/result/"+id+" obuilder/pruned-"+id)
		}
		for _, id := range want {
			commands = append(commands, "zfs destroy -r -f obuilder/pruned-"+id)
		}
		if diff := cmp.Diff(commands, transcript.Commands()[seen:]); diff != "" {
			t.Errorf("commands (-want +got):\n%s", diff)
		}
		if n, err := w.index.Count(t.Context()); n != 0 || err != nil {
			t.Errorf("%d rows in the index, %v", n, err)
		}
		// Built again they are what they were.
		if again := w.lineageOf(e, `((from busybox) (run (shell a)) (run (shell b)))`); !slices.Equal(again, one) {
			t.Errorf("built again: %q, want %q", again, one)
		}
		w.must(e.Close())
		if left := w.leftovers(); len(left) > 0 {
			t.Errorf("left behind: %q", left)
		}
	}
}

// A prune that stops anywhere leaves no result that is there in part, loses
// none that was not to go, and is ended by the next process; what is gone is
// built again with the same id and log.
func TestInterruptedPrune(t *testing.T) {
	const one, two = `((from busybox) (run (shell a)) (run (shell b)))`, `((from busybox) (run (shell a)) (run (shell c)))`
	for _, mode := range modes {
		for _, on := range layers {
			for name, act := range actions[on] {
				t.Run(fmt.Sprintf("%d/%s/%s", mode, on, name), func(t *testing.T) {
					for n := 0; ; n++ {
						w := freshWorld(t, mode)
						e := w.open()
						w.lineageOf(e, one)
						w.lineageOf(e, two)
						w.lineageOf(e, `((from busybox) (run (shell d)) (run (shell e)))`)
						keep := w.lineageOf(e, one)
						w.must(e.Close())
						kept := w.stored()
						maps.DeleteFunc(kept, func(id, _ string) bool { return !slices.Contains(keep, id) })

						interruption := &trap{on: on, at: n, action: act}
						w.trap = interruption
						fail := func(format string, args ...any) {
							t.Helper()
							t.Fatalf("operation %d, %s: %s", n, interruption.sprung(), fmt.Sprintf(format, args...))
						}
						e, err := engine.Open(t.Context(), w.options())
						if err == nil {
							_, err = e.Prune(t.Context(), engine.PrunePolicy{KeepResults: len(keep)}, nil)
							if interruption.sprung() != "" && !interruption.crashed {
								// What failed once is no reason to fail again.
								if _, err := e.Prune(t.Context(), engine.PrunePolicy{KeepResults: len(keep)}, nil); err != nil {
									fail("again: %v", err)
								}
								if diff := cmp.Diff(kept, w.stored()); diff != "" {
									fail("stored after the second prune (-want +got):\n%s", diff)
								}
							}
							err = errors.Join(err, e.Close())
						}
						if interruption.sprung() == "" {
							w.must(err)
							t.Logf("%d operations", n)
							break
						}
						w.trap = nil
						e = w.open()
						if left := w.leftovers(); len(left) > 0 {
							fail("left behind: %q", left)
						}
						after := w.stored()
						for id, guid := range kept {
							if after[id] != guid {
								fail("%s was to stay: %q, want %q", id, after[id], guid)
							}
						}
						rows, err := w.index.All(t.Context())
						w.must(err)
						var indexed []string
						for _, r := range rows {
							indexed = append(indexed, r.ID)
						}
						slices.Sort(indexed)
						if diff := cmp.Diff(slices.Sorted(maps.Keys(after)), indexed); diff != "" {
							fail("in the store and in the index (-store +index):\n%s", diff)
						}
						for _, text := range []string{one, two} {
							if _, err := w.build(e, text); err != nil {
								fail("building again: %v", err)
							}
						}
						if _, err := e.Prune(t.Context(), engine.PrunePolicy{KeepResults: 1}, nil); err != nil {
							fail("pruning again: %v", err)
						}
						w.must(e.Close())
						if got := w.stored(); len(got) != 1 || got[baseID] == "" {
							fail("stored after pruning again: %v", got)
						}
						if left := w.leftovers(); len(left) > 0 {
							fail("left behind: %q", left)
						}
					}
				})
			}
		}
	}
}

// What a build needs stays while it runs or waits: what it has used, what it
// is to use later, there or not, what its nested builds have made, and what all
// of that was built on.
func TestPruneDuringBuilds(t *testing.T) {
	for _, mode := range modes {
		w := freshWorld(t, mode)
		started, goOn := make(chan struct{}), make(chan struct{})
		w.script = func(ctx context.Context, cfg sandbox.Config, _ io.Reader, out io.Writer) error {
			if cfg.Argv[len(cfg.Argv)-1] == "slow" {
				close(started)
				<-goOn
			}
			return errUnscripted
		}
		e := w.open()
		const nested = `((build x ((from busybox) (run (shell n)))) (from busybox) (run (shell slow)) (copy (from (build x)) (src .ran) (dst /got)))`
		const waits = `((from busybox) (run (shell a)) (run (shell new)) (run (shell later)))`
		// Everything is there already but the steps "slow" and "new".
		needed := w.lineageOf(e, `((from busybox) (run (shell n)))`)
		needed = append(needed, w.lineageOf(e, `((from busybox) (run (shell a)))`)...)
		idle := w.lineageOf(e, `((from busybox) (run (shell idle)))`)
		cached := w.lineageOf(e, `((from busybox) (run (shell a)) (run (shell cached)) (run (shell last)))`)
		needed = append(needed, cached...)
		ended := make(chan error, 3)
		begin := func(text string) (begun chan struct{}) {
			begun = make(chan struct{}, 100)
			go func() {
				_, err := e.Build(t.Context(), engine.Job{Spec: parse(t, text), Events: func(ev engine.Event) { begun <- struct{}{} }})
				ended <- err
			}()
			return begun
		}
		begin(nested)
		<-started
		<-begin(waits)
		<-begin(`((from busybox) (run (shell a)) (run (shell cached)) (run (shell last)) (run (shell more)))`)
		report, err := e.Prune(t.Context(), everything, nil)
		w.must(err)
		after := w.stored()
		for _, id := range needed {
			if after[id] == "" {
				t.Errorf("%s is gone", id)
			}
		}
		if after[idle[1]] != "" || report.Results != 1 {
			t.Errorf("pruned %d results", report.Results)
		}
		close(goOn)
		for range cap(ended) {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
		// Now they may go.
		if _, err := e.Prune(t.Context(), everything, nil); err != nil {
			t.Error(err)
		}
		if after := w.stored(); len(after) > 0 {
			t.Errorf("stored: %v", after)
		}
		w.must(e.Close())
		if left := w.leftovers(); len(left) > 0 {
			t.Errorf("left behind: %q", left)
		}
	}
}
