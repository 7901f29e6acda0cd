package engine_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

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

// What is used after it was chosen stays, with all that it was built on, and
// the prune looks again for others.
func TestPruneUsedMeanwhile(t *testing.T) {
	const one, two, three = `((from busybox) (run (shell a)) (run (shell b)))`, `((from busybox) (run (shell a)) (run (shell c)))`,
		`((from busybox) (run (shell a)) (run (shell b)) (run (shell d)))`
	for _, mode := range modes {
		for name, use := range map[string]func(*world, *engine.Engine){
			"built":    func(w *world, e *engine.Engine) { w.lineageOf(e, one) },
			"built on": func(w *world, e *engine.Engine) { w.lineageOf(e, three) },
		} {
			w := freshWorld(t, mode)
			surveys := 0
			var e *engine.Engine
			used := false
			e = w.open(interceptor(func(_ context.Context, argv []string, run func() error) error {
				if slices.Contains(argv, "name,used,available,origin,creation") {
					surveys++
				}
				if argv[1] == "rename" && !used {
					used = true
					use(w, e)
				}
				return run()
			}))
			w.lineageOf(e, `((from busybox) (run (shell idle)))`)
			first, second := w.lineageOf(e, one), w.lineageOf(e, two)
			report, err := e.Prune(t.Context(), engine.PrunePolicy{KeepResults: 1, Limit: 2}, nil)
			w.must(err)
			if report.Skipped != 1 || report.Results != 2 || surveys != 2 {
				t.Errorf("%d, %s: %+v, %d surveys", mode, name, report, surveys)
			}
			stored := w.stored()
			if stored[first[2]] == "" || stored[second[2]] != "" {
				t.Errorf("%d, %s: stored %v", mode, name, stored)
			}
			rows, err := w.index.All(t.Context())
			w.must(err)
			if len(rows) != len(stored) {
				t.Errorf("%d, %s: %d rows for %d results", mode, name, len(rows), len(stored))
			}
			w.lineageOf(e, three)
			w.lineageOf(e, two)
			w.must(e.Close())
			if left := w.leftovers(); len(left) > 0 {
				t.Errorf("%d, %s: left behind: %q", mode, name, left)
			}
		}
	}
}

// A command that fails and has done its work all the same, or that fails every
// time, loses nothing; a prune that could destroy nothing says why, and what it
// has moved away goes later.
func TestPruneFailures(t *testing.T) {
	const one, two = `((from busybox) (run (shell a)) (run (shell b)))`, `((from busybox) (run (shell c)))`
	busy := &zfs.Error{Kind: zfs.Busy, Status: 1, Stderr: "dataset is busy"}
	timeout := &zfs.Error{Kind: zfs.Timeout, Status: -1, Err: context.DeadlineExceeded}
	for _, test := range []struct {
		name    string
		verb    string
		effect  bool // it does its work all the same
		fail    *zfs.Error
		pruned  int
		left    int // results
		away    int // results that are moved away and not destroyed
		reason  zfs.Kind
		nothing bool // an error is given
	}{
		{"rename times out and was done", "rename", true, timeout, 4, 0, 0, 0, false},
		{"rename times out", "rename", false, timeout, 0, 4, 0, zfs.Timeout, true},
		{"rename is busy", "rename", false, busy, 0, 4, 0, zfs.Busy, true},
		{"destroy times out and was done", "destroy", true, timeout, 4, 0, 0, 0, false},
		{"destroy is busy", "destroy", false, busy, 0, 0, 4, zfs.Busy, true},
	} {
		for _, mode := range modes {
			w := freshWorld(t, mode)
			on := true
			e := w.open(interceptor(func(_ context.Context, argv []string, run func() error) error {
				if !on || argv[1] != test.verb {
					return run()
				}
				if test.effect {
					if err := run(); err != nil {
						return err
					}
				}
				return test.fail
			}))
			w.lineageOf(e, one)
			w.lineageOf(e, two)
			report, err := e.Prune(t.Context(), everything, nil)
			if report.Results != test.pruned || (err != nil) != test.nothing || err != nil && !zfs.IsKind(err, test.reason) {
				t.Errorf("%s: %+v, %v", test.name, report, err)
			}
			away := slices.DeleteFunc(w.leftovers(), func(s string) bool { return strings.Contains(s, "/") || strings.Contains(s, "@") })
			if n := len(w.stored()); n != test.left || len(away) != test.away {
				t.Errorf("%s: %d results are left, moved away %q", test.name, n, away)
			}
			// The ids are free at once.
			on = false
			w.lineageOf(e, one)
			on = true
			if test.away > 0 {
				if _, err := e.Prune(t.Context(), everything, nil); !zfs.IsKind(err, zfs.Busy) {
					t.Logf("%s, again: %v", test.name, err)
				}
			}
			on = false
			report, err = e.Prune(t.Context(), everything, nil)
			w.must(err)
			w.must(e.Close())
			if left := append(w.leftovers(), slices.Collect(maps.Keys(w.stored()))...); len(left) > 0 {
				t.Errorf("%s: left behind: %q", test.name, left)
			}
			if n, err := w.index.Count(t.Context()); n != 0 || err != nil {
				t.Errorf("%s: %d rows are left, %v", test.name, n, err)
			}
		}
	}
}

// A prune that is cancelled ends after the command that it is at; the next one
// goes on.
func TestPruneCancelled(t *testing.T) {
	const results = 40
	for n := range 30 {
		w := freshWorld(t, engine.ListSnapshots)
		ctx, cancel := context.WithCancelCause(t.Context())
		cause := errors.New("enough")
		seen, after := 0, 0
		e := w.open(interceptor(func(_ context.Context, argv []string, run func() error) error {
			if argv[1] == "rename" || argv[1] == "destroy" {
				if ctx.Err() != nil {
					after++
				}
				if seen++; seen == n+1 {
					cancel(cause)
				}
			}
			return run()
		}))
		for i := range results {
			w.lineageOf(e, fmt.Sprintf(`((from busybox) (run (shell "%d")))`, i))
		}
		report, err := e.Prune(ctx, engine.PrunePolicy{KeepResults: 1}, nil)
		if !errors.Is(err, cause) || after > 1 {
			t.Errorf("cancelled at command %d: %v, %d commands after that", n, err, after)
		}
		stored := len(w.stored())
		if done := results + 1 - stored; done < report.Results || done > report.Results+16 {
			t.Errorf("cancelled at command %d: %+v, %d results are gone", n, report, done)
		}
		if n%2 == 0 {
			w.must(e.Close())
			e = w.open()
			if left := w.leftovers(); len(left) > 0 {
				t.Errorf("cancelled at command %d: left behind: %q", n, left)
			}
		}
		_, err = e.Prune(t.Context(), engine.PrunePolicy{KeepResults: 1}, nil)
		w.must(err)
		w.must(e.Close())
		if left := w.leftovers(); len(left) > 0 || len(w.stored()) != 1 {
			t.Errorf("cancelled at command %d: left behind: %q, %d results", n, left, len(w.stored()))
		}
	}
}

// However many results there are, a prune takes two commands for each that
// goes, and one to look; what is moved away at any time is a batch.
func TestPruneCommands(t *testing.T) {
	const results = 10_000
	w := newWorld(t, engine.ListSnapshots, "busybox")
	w.script = silent
	commands, away, most := 0, 0, 0
	e := w.open(interceptor(func(_ context.Context, argv []string, run func() error) error {
		commands++
		switch argv[1] {
		case "rename":
			away++
			most = max(most, away)
		case "destroy":
			away--
		}
		return run()
	}))
	for made := 0; made < results; made += 100 {
		if _, err := w.build(e, steps(100, fmt.Sprint("many ", made))); err != nil {
			t.Fatal(err)
		}
	}
	commands = 0
	begin := time.Now()
	report, err := e.Prune(t.Context(), everything, nil)
	w.must(err)
	t.Logf("%d results pruned with %d commands in %v, at most %d moved away at once", report.Results, commands, time.Since(begin), most)
	if report.Results != results+1 || commands != 2*report.Results+1 || most > 16 {
		t.Errorf("%+v, %d commands, %d moved away", report, commands, most)
	}
	w.must(e.Close())
}
