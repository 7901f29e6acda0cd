package engine_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"obuilder.org/obuilder/engine"
	"obuilder.org/obuilder/sandbox"
	"obuilder.org/obuilder/source"
)

// randomJobs share steps, a nested build, a copied tree and caches, and fail
// in two ways.
var randomJobs = []string{
	`((from busybox) (run (shell a)) (run (shell b)))`,
	`((from busybox) (run (shell a)) (run (shell fail)) (run (shell never)))`,
	`((from busybox) (run (shell a)) (copy (src text) (dst /text)) (run (shell b)))`,
	`((build x ((from busybox) (run (shell a)) (run (shell b)))) (from busybox) (copy (from (build x)) (src .) (dst /x/)) (run (shell c)))`,
	`((build x ((from busybox) (run (shell a)))) (from busybox) (run (shell d)) (copy (from (build x)) (src .ran) (dst /y)))`,
	`((from busybox) (run (cache (c (target /c)) (c (target /d))) (shell e)) (run (cache (c (target /c))) (shell kill)))`,
	`((from busybox))`,
}

// A randomBuild is one of several that a test has running at once.
type randomBuild struct {
	Job    int
	Start  time.Duration
	Cancel time.Duration // after Start; not cancelled when 0
	Pause  time.Duration // of its reader, after each piece of output
}

// A randomDeletion deletes what a job has built, from its n-th step on.
type randomDeletion struct {
	Job, Step int
	Start     time.Duration
}

// A randomPrune is a prune that leaves some results, at most as many as there
// are.
type randomPrune struct {
	Keep, Limit int
	Start       time.Duration
}

// printed is what a build said, by the id of each step.
type printed struct {
	output  map[string]string
	order   []string // ids of the steps that were saved or found
	failed  string
	parents map[string]string
}

func (p *printed) event(ev engine.Event) {
	switch ev.Kind {
	case engine.EventOutput:
		p.output[ev.ID] += string(ev.Data)
	case engine.EventCached, engine.EventSaved:
		p.order = append(p.order, ev.ID)
		p.parents[ev.ID] = ev.Base
	case engine.EventFailed:
		p.failed = ev.ID
	}
}

func newPrinted() *printed {
	return &printed{output: map[string]string{}, parents: map[string]string{}}
}

// randomWorld is a world whose commands take a while, and print meanwhile. It
// notes when two run at once.
func randomWorld(t testing.TB, problem func(format string, args ...any)) *world {
	w := newWorld(t, engine.ListSnapshots, "busybox")
	var mu sync.Mutex
	running := ""
	w.script = func(ctx context.Context, cfg sandbox.Config, stdin io.Reader, out io.Writer) error {
		name := cfg.Argv[len(cfg.Argv)-1]
		mu.Lock()
		if running != "" {
			problem("%s runs while %s does", name, running)
		}
		running = name
		mu.Unlock()
		defer func() {
			mu.Lock()
			defer mu.Unlock()
			running = ""
		}()
		for i := range 3 {
			if _, err := fmt.Fprintf(out, "%s %d\n", name, i); err != nil {
				return err
			}
			if err := (engine.SystemClock{}).Sleep(ctx, time.Second); err != nil {
				return fmt.Errorf("stopped: %w", err)
			}
		}
		return failing(ctx, cfg, stdin, out)
	}
	return w
}

// slowly has commands take a while, so that others come in between. A home
// that is mounted for reading is not among them: it is waited for with a lock,
// and in a bubble time does not pass for that.
func slowly(ctx context.Context, argv []string, run func() error) error {
	if argv[1] != "set" {
		time.Sleep(10 * time.Millisecond)
	}
	return run()
}

// runRandom runs builds, deletions and prunes at once and gives all that was wrong.
func runRandom(t *testing.T, tree source.Tree, builds []randomBuild, deletions []randomDeletion, prunes []randomPrune) (problems []string) {
	var mu sync.Mutex
	problem := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		problems = append(problems, fmt.Sprintf(format, args...))
	}
	// What each job does when it is alone.
	type outcome struct {
		*printed
		id     string
		failed bool
	}
	alone := make([]outcome, len(randomJobs))
	logs, parents := map[string]string{}, map[string]string{}
	for i, text := range randomJobs {
		w := randomWorld(t, problem)
		e := w.open()
		p := newPrinted()
		id, err := e.Build(t.Context(), engine.Job{Spec: parse(t, text), Source: tree, Events: p.event})
		w.must(e.Close())
		alone[i] = outcome{p, id, err != nil}
		maps.Copy(logs, p.output)
		maps.Copy(parents, p.parents)
	}

	w := randomWorld(t, problem)
	o := w.options(interceptor(slowly))
	o.Clock = engine.SystemClock{}
	e, err := engine.Open(t.Context(), o)
	w.must(err)
	var wg sync.WaitGroup
	for n, b := range builds {
		wg.Go(func() {
			time.Sleep(b.Start)
			ctx := t.Context()
			cause := errors.New("cancelled by the test")
			if b.Cancel > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeoutCause(ctx, b.Cancel, cause)
				defer cancel()
			}
			p := newPrinted()
			id, err := e.Build(ctx, engine.Job{Spec: parse(t, randomJobs[b.Job]), Source: tree, Events: func(ev engine.Event) {
				p.event(ev)
				if ev.Kind == engine.EventOutput {
					time.Sleep(b.Pause)
				}
			}})
			want := alone[b.Job]
			switch {
			case errors.Is(err, cause):
				for id, text := range p.output {
					if !strings.HasPrefix(logs[id], text) {
						problem("build %d was told %q of %s, the log is %q", n, text, id, logs[id])
					}
				}
				return
			case (err != nil) != want.failed || id != want.id:
				problem("build %d: %q, %v, want %q", n, id, err, want.id)
			}
			if err != nil && !errors.As(err, new(*sandbox.ExitError)) {
				problem("build %d: %v", n, err)
			}
			for _, diff := range []string{cmp.Diff(want.output, p.output), cmp.Diff(want.order, p.order), cmp.Diff(want.printed.failed, p.failed)} {
				if diff != "" {
					problem("build %d (-want +got):\n%s", n, diff)
				}
			}
		})
	}
	for n, d := range deletions {
		wg.Go(func() {
			time.Sleep(d.Start)
			order := alone[d.Job].order
			id := order[d.Step%len(order)]
			if err := e.Delete(t.Context(), id, func(string) {}); err != nil && !errors.As(err, new(*engine.NotFoundError)) {
				problem("deletion %d: %v", n, err)
			}
		})
	}
	for n, p := range prunes {
		wg.Go(func() {
			time.Sleep(p.Start)
			policy := engine.PrunePolicy{KeepResults: p.Keep, KeepAge: time.Second, Limit: p.Limit}
			if _, err := e.Prune(t.Context(), policy, nil); err != nil {
				problem("prune %d: %v", n, err)
			}
		})
	}
	wg.Wait()

	// Nothing is left but results, each whole, with its log, and in the index.
	stored := w.stored()
	for id := range stored {
		var log bytes.Buffer
		if err := e.Log(t.Context(), id, &log); err != nil || log.String() != logs[id] {
			problem("the log of %s is %q, %v, want %q", id, &log, err, logs[id])
		}
		r, err := w.index.Get(t.Context(), id)
		if err != nil || r.Parent != parents[id] {
			problem("in the index: %+v, %v, want parent %s", r, err, parents[id])
		}
	}
	if n, err := w.index.Count(t.Context()); n != len(stored) || err != nil {
		problem("%d rows in the index, %v, for %d results", n, err, len(stored))
	}
	if left := w.leftovers(); len(left) > 0 {
		problem("left behind: %q", left)
	}
	w.must(e.Close())
	return problems
}

// Builds that run at once, are cancelled at any time, share what they can, and
// lose to deletions and prunes what they do not need, end as each does alone: at most one step runs at a time, everyone gets the
// whole log, and nothing is left, not even a goroutine.
func TestRandom(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/text", []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	tree, err := source.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	tenths := func(label string, t *rapid.T, longest int) time.Duration {
		return time.Duration(rapid.IntRange(0, longest).Draw(t, label)) * 100 * time.Millisecond
	}
	build := rapid.Custom(func(t *rapid.T) randomBuild {
		b := randomBuild{Job: rapid.IntRange(0, len(randomJobs)-1).Draw(t, "job"), Start: tenths("start", t, 100)}
		if rapid.Bool().Draw(t, "cancelled") {
			b.Cancel = 100*time.Millisecond + tenths("cancel", t, 100)
		}
		if rapid.IntRange(0, 3).Draw(t, "slow") == 0 {
			b.Pause = tenths("pause", t, 20)
		}
		return b
	})
	deletion := rapid.Custom(func(t *rapid.T) randomDeletion {
		return randomDeletion{Job: rapid.IntRange(0, len(randomJobs)-1).Draw(t, "job"),
			Step: rapid.IntRange(0, 3).Draw(t, "step"), Start: tenths("start", t, 200)}
	})
	prune := rapid.Custom(func(t *rapid.T) randomPrune {
		return randomPrune{Keep: rapid.IntRange(0, 5).Draw(t, "keep"), Limit: rapid.IntRange(0, 3).Draw(t, "limit"), Start: tenths("start", t, 200)}
	})
	rapid.Check(t, func(rt *rapid.T) {
		builds := rapid.SliceOfN(build, 1, 8).Draw(rt, "builds")
		deletions := rapid.SliceOfN(deletion, 0, 3).Draw(rt, "deletions")
		prunes := rapid.SliceOfN(prune, 0, 4).Draw(rt, "prunes")
		var problems []string
		synctest.Test(t, func(t *testing.T) { problems = runRandom(t, tree, builds, deletions, prunes) })
		if len(problems) > 0 {
			slices.Sort(problems)
			rt.Fatal(strings.Join(problems, "\n"))
		}
	})
}
