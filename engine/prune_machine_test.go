package engine_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"obuilder.org/obuilder/engine"
	"obuilder.org/obuilder/sandbox"
	"obuilder.org/obuilder/zfs"
)

// modelJobs share bases and steps, and one has a nested build.
var modelJobs = []string{
	`(from busybox) (run (shell a)) (run (shell b)) (run (shell c))`,
	`(from busybox) (run (shell a)) (run (shell b)) (run (shell d))`,
	`(from busybox) (run (shell a)) (run (shell e))`,
	`(from other) (run (shell a)) (run (shell b))`,
	`(from other)`,
	`(build x ((from busybox) (run (shell a)) (run (shell n)))) (from other) (run (shell f)) (copy (from (build x)) (src .) (dst /x/))`,
}

// A modelAction is what happens to a store.
type modelAction struct {
	Kind string // "build", "start", "end", "cancel", "prune", "delete", "reopen"
	N    int    // of the job, the running build or the result
	// Of a prune: how much stays, in percent of what there is, and how many results.
	KeepPercent, KeepResults, Limit int
}

// A modelRun is a build that is running, or waits for one that is.
type modelRun struct {
	ids    []string // all that it needs
	goOn   chan struct{}
	cancel context.CancelFunc
	result chan error
}

// A modelResult is a result as the model has it.
type modelResult struct {
	parent string
	used   time.Time
	bytes  uint64
}

// modelPrune gives the ids that go, in order: one after the other the leaf
// that was used least recently and that nobody needs.
func modelPrune(results map[string]modelResult, needed map[string]bool, p engine.PrunePolicy) (gone []string) {
	results = maps.Clone(results)
	for len(results) > p.KeepResults && (p.Limit == 0 || len(gone) < p.Limit) {
		total, parents, leaves := uint64(0), map[string]bool{}, []string(nil)
		for _, r := range results {
			total += r.bytes
			parents[r.parent] = true
		}
		for id := range results {
			if !parents[id] && !needed[id] {
				leaves = append(leaves, id)
			}
		}
		if p.KeepBytes > 0 && total <= p.KeepBytes || len(leaves) == 0 {
			break
		}
		oldest := slices.MinFunc(leaves, func(a, b string) int {
			return cmp.Or(results[a].used.Compare(results[b].used), strings.Compare(a, b))
		})
		delete(results, oldest)
		gone = append(gone, oldest)
	}
	return gone
}

// A modelMachine is an engine to which things happen, and what has to be true
// of it after each.
type modelMachine struct {
	w       *world
	e       *engine.Engine
	present map[string]bool   // results that there are
	parents map[string]string // of all results that were ever
	runs    []*modelRun       // the first runs, the second waits for it
	n       int

	mu    sync.Mutex
	block map[string]chan struct{} // commands that wait
}

func newModelMachine(t *testing.T) *modelMachine {
	m := &modelMachine{w: newWorld(t, engine.ListSnapshots, "busybox", "other"),
		present: map[string]bool{}, parents: map[string]string{}, block: map[string]chan struct{}{}}
	m.w.script = func(ctx context.Context, cfg sandbox.Config, _ io.Reader, out io.Writer) error {
		command := cfg.Argv[len(cfg.Argv)-1]
		m.mu.Lock()
		wait := m.block[command]
		m.mu.Unlock()
		if wait != nil {
			select {
			case <-wait:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		f, err := m.w.machine.Files().OpenFile("/Users/mac1000/"+strings.ReplaceAll(command, " ", "-"), os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		_, err = f.Write([]byte(strings.Repeat(command, 3000*int(command[0]-'a'+1))))
		return errors.Join(err, f.Close())
	}
	m.e = m.w.open()
	return m
}

// steps builds a job and gives the ids of its steps, those of nested builds too.
func (m *modelMachine) steps(ctx context.Context, text string) (ids []string, err error) {
	_, err = m.e.Build(ctx, engine.Job{Spec: parse(m.w.t, text), Events: func(ev engine.Event) {
		if ev.Kind == engine.EventSaved || ev.Kind == engine.EventCached {
			m.mu.Lock()
			defer m.mu.Unlock()
			ids = append(ids, ev.ID)
			m.parents[ev.ID] = ev.Base
		}
	}})
	return ids, err
}

// needed are the results that running builds need.
func (m *modelMachine) needed() map[string]bool {
	needed := map[string]bool{}
	for _, r := range m.runs {
		for _, id := range r.ids {
			needed[id] = true
		}
	}
	return needed
}

// results describes those that there are: when they were used as the index
// has it, how much they take up as zfs counts it.
func (m *modelMachine) results() (map[string]modelResult, error) {
	results := map[string]modelResult{}
	all, err := m.w.index.All(context.Background())
	if err != nil {
		return nil, err
	}
	for _, r := range all {
		results[r.ID] = modelResult{parent: m.parents[r.ID], used: r.Used}
	}
	rows, err := m.w.machine.List(context.Background(), zfs.ListOptions{Roots: []zfs.Name{root.MustChild("result")}, Recursive: true,
		Properties: []string{"usedbydataset", "usedbysnapshots"}})
	if err != nil {
		return nil, err
	}
	for _, row := range rows {
		rest, _ := strings.CutPrefix(row.Name, "obuilder/result/")
		id, _, _ := strings.Cut(rest, "/")
		r, ok := results[id]
		if !ok {
			continue
		}
		for _, v := range row.Values {
			n, err := strconv.ParseUint(v, 10, 64)
			if err != nil {
				return nil, err
			}
			r.bytes += n
		}
		results[id] = r
	}
	return results, nil
}

// do does one thing, if it can be done now, and gives what was wrong.
func (m *modelMachine) do(a modelAction) error {
	ctx := context.Background()
	switch a.Kind {
	case "build":
		if len(m.runs) > 0 {
			return nil
		}
		ids, err := m.steps(ctx, "("+modelJobs[a.N%len(modelJobs)]+")")
		if err != nil {
			return err
		}
		for _, id := range ids {
			m.present[id] = true
		}
	case "start":
		if len(m.runs) > 1 {
			return nil
		}
		return m.start(modelJobs[a.N%len(modelJobs)])
	case "end", "cancel":
		if len(m.runs) == 0 {
			return nil
		}
		return m.end(a.N%len(m.runs), a.Kind == "cancel")
	case "prune":
		return m.prune(a)
	case "delete":
		ids := slices.Sorted(maps.Keys(m.present))
		if len(ids) == 0 {
			return nil
		}
		id := ids[a.N%len(ids)]
		if m.needed()[id] {
			return nil // it would wait
		}
		err := m.e.Delete(ctx, id, func(id string) {
			if !m.present[id] || m.needed()[id] {
				m.w.t.Errorf("deleted %s", id)
			}
			delete(m.present, id)
		})
		if m.present[id] && err == nil {
			err = fmt.Errorf("%s was not deleted", id)
		}
		return err
	case "reopen":
		if len(m.runs) > 0 {
			return nil
		}
		err := m.e.Close()
		m.e = m.w.open()
		return err
	}
	return nil
}

// start begins a build that stops before its end, or waits for the one that has.
func (m *modelMachine) start(job string) error {
	m.n++
	wait := fmt.Sprintf("wait %d", m.n)
	text := fmt.Sprintf(`(%s (run (shell "%s")))`, job, wait)
	ctx, cancel := context.WithCancel(context.Background())
	run := &modelRun{goOn: make(chan struct{}), cancel: cancel, result: make(chan error, 1)}
	m.mu.Lock()
	m.block[wait] = run.goOn
	m.mu.Unlock()
	// What it needs is what a build alone would make, in a store of its own.
	other := newModelMachine(m.w.t.(*testing.T))
	ids, err := other.steps(context.Background(), text)
	if err := errors.Join(err, other.e.Close()); err != nil {
		return err
	}
	run.ids = ids
	maps.Copy(m.parents, other.parents)
	go func() {
		_, err := m.steps(ctx, text)
		run.result <- err
	}()
	synctest.Wait()
	m.runs = append(m.runs, run)
	if len(m.runs) == 1 {
		m.arrived()
		return nil
	}
	// Bases are made while it waits.
	for _, id := range ids {
		if m.parents[id] == "" {
			m.present[id] = true
		} else if !m.present[id] {
			break
		}
	}
	return nil
}

// arrived notes that the first build has made all but its last step.
func (m *modelMachine) arrived() {
	if len(m.runs) > 0 {
		ids := m.runs[0].ids
		for _, id := range ids[:len(ids)-1] {
			m.present[id] = true
		}
	}
}

// end ends the n-th build that runs.
func (m *modelMachine) end(n int, cancel bool) error {
	if n > 0 {
		cancel = true // it can end by itself after the first only
	}
	run := m.runs[n]
	if cancel {
		run.cancel()
	} else {
		close(run.goOn)
	}
	err := <-run.result
	run.cancel()
	synctest.Wait()
	m.runs = slices.Delete(m.runs, n, n+1)
	if !cancel {
		m.present[run.ids[len(run.ids)-1]] = true
	}
	if n == 0 {
		m.arrived()
	}
	if cancel && errors.Is(err, context.Canceled) {
		err = nil
	}
	return err
}

func (m *modelMachine) prune(a modelAction) error {
	results, err := m.results()
	if err != nil {
		return err
	}
	total := uint64(0)
	for _, r := range results {
		total += r.bytes
	}
	p := engine.PrunePolicy{KeepBytes: total*uint64(a.KeepPercent)/100 + 1, KeepResults: a.KeepResults, Limit: a.Limit}
	want := modelPrune(results, m.needed(), p)
	plan, err := m.e.PlanPrune(context.Background(), p)
	if err != nil {
		return err
	}
	var planned, gone []string
	freed := uint64(0)
	for _, r := range plan.Results {
		planned = append(planned, r.ID)
		if r.Bytes != results[r.ID].bytes || r.Parent != results[r.ID].parent {
			return fmt.Errorf("planned %+v, want %+v", r, results[r.ID])
		}
	}
	report, err := m.e.Prune(context.Background(), p, func(r engine.Prunable) {
		gone = append(gone, r.ID)
		freed += r.Bytes
		delete(m.present, r.ID)
	})
	if err != nil {
		return err
	}
	if diff := gocmp.Diff(want, gone); diff != "" {
		return fmt.Errorf("pruned with %+v, needed %v (-want +got):\n%s", p, m.needed(), diff)
	}
	if diff := gocmp.Diff(want, planned); diff != "" {
		return fmt.Errorf("planned (-want +got):\n%s", diff)
	}
	if report.Results != len(want) || report.Bytes != freed || report.Skipped != 0 {
		return fmt.Errorf("report %+v", report)
	}
	return nil
}

// check gives what is not as it must be.
func (m *modelMachine) check() error {
	if diff := gocmp.Diff(slices.Sorted(maps.Keys(m.present)), slices.Sorted(maps.Keys(m.w.stored()))); diff != "" {
		return fmt.Errorf("results (-want +got):\n%s", diff)
	}
	all, err := m.w.index.All(context.Background())
	if err != nil {
		return err
	}
	for _, r := range all {
		if !m.present[r.ID] || r.Parent != m.parents[r.ID] {
			return fmt.Errorf("in the index: %+v", r)
		}
	}
	if len(all) != len(m.present) {
		return fmt.Errorf("%d rows in the index for %d results", len(all), len(m.present))
	}
	return nil
}

// Whatever was built, cancelled, deleted and pruned before, and whatever runs
// or waits meanwhile: a prune takes what the model takes, in the same order.
func TestPruneModel(t *testing.T) {
	action := rapid.Custom(func(t *rapid.T) modelAction {
		a := modelAction{N: rapid.IntRange(0, 20).Draw(t, "n")}
		a.Kind = rapid.SampledFrom([]string{"build", "build", "start", "start", "end", "cancel", "prune", "prune", "delete", "reopen"}).Draw(t, "kind")
		if a.Kind == "prune" {
			a.KeepPercent = rapid.IntRange(0, 100).Draw(t, "percent")
			a.KeepResults = rapid.IntRange(0, 6).Draw(t, "results")
			a.Limit = rapid.IntRange(0, 4).Draw(t, "limit")
		}
		return a
	})
	rapid.Check(t, func(rt *rapid.T) {
		actions := rapid.SliceOfN(action, 1, 25).Draw(rt, "actions")
		var problem error
		synctest.Test(t, func(t *testing.T) {
			m := newModelMachine(t)
			for n, a := range actions {
				if err := errors.Join(m.do(a), m.check()); err != nil {
					problem = fmt.Errorf("%d: %+v: %w", n, a, err)
					break
				}
			}
			for len(m.runs) > 0 {
				problem = errors.Join(problem, m.end(0, true))
			}
			problem = errors.Join(problem, m.e.Close())
			if left := m.w.leftovers(); len(left) > 0 && problem == nil {
				problem = fmt.Errorf("left behind: %q", left)
			}
		})
		if problem != nil {
			rt.Fatal(problem)
		}
	})
}
