package engine_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"obuilder.org/obuilder/engine"
	"obuilder.org/obuilder/sandbox"
	"obuilder.org/obuilder/zfs"
	"obuilder.org/obuilder/zfs/fault"
	"obuilder.org/obuilder/zfs/fault/faulttest"
)

// A rehearsal is a job in a store that has it already, or has nothing, while a
// plan of faults is at work.
type rehearsal struct {
	mode  engine.SnapshotMode
	job   string // of jobs
	built bool
}

func rehearsals() (all []rehearsal) {
	for _, mode := range modes {
		for _, job := range slices.Sorted(maps.Keys(jobs)) {
			all = append(all, rehearsal{mode, job, false}, rehearsal{mode, job, true})
		}
	}
	return all
}

func (r rehearsal) String() string {
	return fmt.Sprintf("%d/%s/%v", r.mode, r.job, r.built)
}

// outcome is how a job ends when nothing is in its way.
type outcome struct {
	id     string
	failed bool
	told   string
	state  []string
}

func (r rehearsal) prepare(t testing.TB) *world {
	w := newWorld(t, r.mode, "busybox")
	w.script = failing
	if r.built {
		e := w.open()
		_, _ = w.build(e, jobs[r.job])
		w.must(e.Close())
	}
	return w
}

func (r rehearsal) undisturbed(t testing.TB) outcome {
	w := r.prepare(t)
	e := w.open()
	told := &recording{}
	id, err := e.Build(t.Context(), engine.Job{Spec: parse(t, jobs[r.job]), Events: told.event})
	w.must(e.Close())
	return outcome{id, err != nil, told.String(), w.state()}
}

// longest is how long a job may take that does nothing, besides what faults
// are told to take for each command.
const longest = time.Hour

// typed reports whether a caller can decide on err.
func typed(err error) bool {
	var (
		command *zfs.Error
		store   *engine.StoreError
		mounted *engine.MountedError
		exit    *sandbox.ExitError
	)
	return errors.As(err, &command) || errors.As(err, &store) || errors.As(err, &mounted) || errors.As(err, &exit)
}

// run runs the job while a plan is at work, and what comes after it, in a
// bubble of time. It gives what is wrong, unless the job succeeds, or ends with
// a typed error and leaves nothing that the next process takes for a result;
// and unless that one then comes to the end that the job has when nothing is
// in its way.
func (r rehearsal) run(t *testing.T, plan fault.Plan, want outcome) (unfired []fault.Rule, wrong string) {
	var transcript fault.Transcript
	synctest.Test(t, func(t *testing.T) {
		if unfired, wrong = r.inBubble(t, plan, want, &transcript); wrong != "" {
			wrong = fmt.Sprintf("%s, %s: %s\n%s", r, strings.TrimSpace(plan.String()), wrong, &transcript)
		}
	})
	return unfired, wrong
}

func (r rehearsal) inBubble(t *testing.T, plan fault.Plan, want outcome, transcript *fault.Transcript) (unfired []fault.Rule, wrong string) {
	w := r.prepare(t)
	before := w.stored()
	armed, err := plan.Arm(nil)
	w.must(err)
	begin := time.Now()
	o := w.options()
	o.FS, o.Clock, o.PoolWait = fault.Wrap(w.machine, transcript, armed), engine.SystemClock{}, 2*time.Minute
	e, err := engine.Open(t.Context(), o)
	if err == nil {
		var id string
		if id, err = w.build(e, jobs[r.job]); err == nil && (want.failed || id != want.id) {
			return nil, fmt.Sprintf("built %q, want %q", id, want.id)
		}
		if closed := e.Close(); closed != nil && !typed(closed) {
			return nil, fmt.Sprintf("closing: %v", closed)
		}
	}
	if err != nil && !typed(err) {
		return nil, fmt.Sprintf("an error without a type: %v", err)
	}
	most := longest
	for _, rule := range plan.Rules {
		most += rule.Duration * time.Duration(len(transcript.Commands()))
	}
	if took := time.Since(begin); took > most {
		return nil, fmt.Sprintf("it took %v", took)
	}

	if e, err = engine.Open(t.Context(), w.options(transcript)); err != nil {
		return nil, fmt.Sprintf("opening again: %v", err)
	}
	stored := w.stored()
	results, err := e.Results(t.Context())
	if err != nil {
		return nil, fmt.Sprintf("listing the results: %v", err)
	}
	for _, result := range results {
		if stored[result.ID] == "" {
			return nil, fmt.Sprintf("%s is a result without a snapshot", result.ID)
		}
	}
	for id, guid := range before {
		if stored[id] != guid {
			return nil, fmt.Sprintf("%s was lost", id)
		}
	}
	id, err := w.build(e, jobs[r.job])
	if id != want.id || (err != nil) != want.failed {
		return nil, fmt.Sprintf("again, without faults: %q, %v, want %q", id, err, want.id)
	}
	if left := w.leftovers(); len(left) > 0 {
		return nil, fmt.Sprintf("left behind: %q", left)
	}
	w.must(e.Close())
	if diff := cmp.Diff(want.state, w.state()); diff != "" {
		return nil, fmt.Sprintf("state (-want +got):\n%s", diff)
	}
	return armed.Unfired(), ""
}

// variants are the plans that a fault is tried in.
func variants(f fault.Fault) [][]fault.Rule {
	rule := fault.Rule{Fault: f.Name}
	switch f.Name {
	case "pool-missing":
		late := rule
		late.Duration = 200 * time.Second
		return [][]fault.Rule{{rule}, {late}}
	case "macos":
		return [][]fault.Rule{{rule}}
	case "fail":
		rule.Kind = zfs.Busy
	}
	few, many := rule, rule
	few.Tries, many.Tries = 3, 1000
	plans := [][]fault.Rule{{rule}, {few}, {many}}
	switch f.Name {
	case "diskutil": // which says how something else has failed
		return [][]fault.Rule{{rule, {Fault: "partial"}}}
	case "interrupted": // while a snapshot was taken all the same, and cannot be undone
		taken := fault.Rule{Fault: "hang-after", Verbs: []string{"snapshot"}}
		stays := fault.Rule{Fault: "fail", Kind: zfs.Busy, Verbs: []string{"destroy"}, Datasets: []fault.Pattern{"**@*"}}
		plans = append(plans, []fault.Rule{taken, rule}, []fault.Rule{taken, stays, rule})
	}
	for n := 1; n <= mostCommands; n++ {
		rule.Nth = n
		plans = append(plans, []fault.Rule{rule})
	}
	return plans
}

// mostCommands is more than any rehearsal has.
const mostCommands = 100

// Whatever can happen to a Mac by name happens to a new step, a cached one and
// one that fails: at every command that it is for, and at all at once.
func TestNamedFaults(t *testing.T) {
	want := map[rehearsal]outcome{}
	for _, r := range rehearsals() {
		want[r] = r.undisturbed(t)
	}
	for _, f := range fault.Faults() {
		t.Run(f.Name, func(t *testing.T) {
			t.Parallel()
			happened := 0
			for _, r := range rehearsals() {
				for _, rules := range variants(f) {
					unfired, wrong := r.run(t, fault.Plan{Rules: rules}, want[r])
					if wrong != "" {
						t.Fatal(wrong)
					}
					rule := rules[len(rules)-1]
					if !slices.ContainsFunc(unfired, func(u fault.Rule) bool { return u.Fault == f.Name }) {
						happened++
					} else if rule.Nth > 0 {
						break // there are no more commands
					}
					if rule.Nth == mostCommands {
						t.Fatal("there are more commands than expected")
					}
				}
			}
			t.Logf("it has happened in %d rehearsals", happened)
			if happened == 0 {
				t.Error("this has shown nothing")
			}
		})
	}
}

// All that a Mac does now and then, at once, is noticed by nobody.
func TestMacOS(t *testing.T) {
	for _, r := range rehearsals() {
		want := r.undisturbed(t)
		synctest.Test(t, func(t *testing.T) {
			w := r.prepare(t)
			armed, err := fault.Plan{Rules: []fault.Rule{{Fault: "macos"}}}.Arm(nil)
			w.must(err)
			var transcript fault.Transcript
			o := w.options()
			o.FS, o.Clock, o.PoolWait = fault.Wrap(w.machine, &transcript, armed), engine.SystemClock{}, 2*time.Minute
			e, err := engine.Open(t.Context(), o)
			w.must(err)
			told := &recording{}
			id, err := e.Build(t.Context(), engine.Job{Spec: parse(t, jobs[r.job]), Events: told.event})
			if id != want.id || (err != nil) != want.failed {
				t.Errorf("%s: %q, %v, want %q\n%s", r, id, err, want.id, &transcript)
			}
			if diff := cmp.Diff(want.told, told.String()); diff != "" {
				t.Errorf("%s: what the job tells (-want +got):\n%s", r, diff)
			}
			if left := w.leftovers(); len(left) > 0 {
				t.Errorf("%s: left behind: %q", r, left)
			}
			w.must(e.Close())
		})
	}
}

// honest makes of a plan one in which zfs does not deny what is there, nor say
// what is not so: no program can do anything about that, and none has to.
func honest(p fault.Plan) fault.Plan {
	for i, r := range p.Rules {
		switch {
		case r.Fault == "pool-missing": // altogether, or not at all
			p.Rules[i] = fault.Rule{Fault: r.Fault, Duration: r.Duration}
		case slices.Contains([]zfs.Kind{zfs.NotFound, zfs.Exists, zfs.HasChildren, zfs.HasClones, zfs.Mounted, zfs.NotMounted}, r.Kind):
			p.Rules[i].Kind = zfs.Busy
		}
	}
	return p
}

// Any faults at all, in any number.
func TestRandomFaults(t *testing.T) {
	known := map[rehearsal]outcome{}
	all := rehearsals()
	for _, r := range all {
		known[r] = r.undisturbed(t)
	}
	rapid.Check(t, func(rt *rapid.T) {
		r := rapid.SampledFrom(all).Draw(rt, "job")
		plan := honest(faulttest.Plan("obuilder").Draw(rt, "faults"))
		if _, wrong := r.run(t, plan, known[r]); wrong != "" {
			rt.Fatal(wrong)
		}
	})
}
