package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"obuilder.org/obuilder/index"
	"obuilder.org/obuilder/spec"
	"obuilder.org/obuilder/zfs"
)

// Find gives the full id of the one result whose id begins with prefix. A
// *NotFoundError when there is none or more than one. Less than a whole id is
// looked for in a listing of all results.
func (e *Engine) Find(ctx context.Context, prefix string) (string, error) {
	const shortest = 4
	if len(prefix) < shortest {
		return "", &NotFoundError{ID: prefix, Reason: fmt.Sprintf("an id needs at least its first %d digits", shortest)}
	}
	if ValidID(prefix) {
		held, err := e.holdResult(ctx, prefix)
		if err != nil {
			return "", err
		}
		held.release()
		return prefix, nil
	}
	ids, err := e.listResults(ctx)
	if err != nil {
		return "", err
	}
	found := ""
	for _, id := range ids {
		if !strings.HasPrefix(id, prefix) {
			continue
		}
		if found != "" {
			return "", &NotFoundError{ID: prefix, Reason: "more than one result has an id that begins so"}
		}
		found = id
	}
	if found == "" {
		return "", &NotFoundError{ID: prefix, Reason: "there is no such result"}
	}
	return found, nil
}

// Results lists the results of the store, oldest first. One that the index does
// not have has no times.
func (e *Engine) Results(ctx context.Context) ([]index.Result, error) {
	all, err := e.index.All(ctx)
	if err != nil {
		return nil, err
	}
	ids, err := e.listResults(ctx)
	if err != nil {
		return nil, err
	}
	missed := make(map[string]bool, len(ids))
	for _, id := range ids {
		missed[id] = true
	}
	results := all[:0]
	for _, r := range all {
		if missed[r.ID] {
			delete(missed, r.ID)
			results = append(results, r)
		}
	}
	var missing []index.Result
	for id := range missed {
		missing = append(missing, index.Result{ID: id})
	}
	slices.SortFunc(missing, func(a, b index.Result) int { return strings.Compare(a.ID, b.ID) })
	return append(missing, results...), nil
}

// holdResult holds a result; a *NotFoundError unless it is there.
func (e *Engine) holdResult(ctx context.Context, id string) (*share, error) {
	held, err := e.use.share(ctx, id)
	if err != nil {
		return nil, err
	}
	if err := e.mustHave(ctx, id); err != nil {
		held.release()
		return nil, err
	}
	return held, nil
}

// mustHave gives a *NotFoundError unless the result id, which the caller holds
// or claims, is there.
func (e *Engine) mustHave(ctx context.Context, id string) error {
	if ValidID(id) {
		if err := e.locate(ctx, []string{id}); err != nil {
			return err
		}
		if e.isComplete(id) {
			return nil
		}
	}
	return &NotFoundError{ID: id, Reason: "there is no such result"}
}

// A Shown is what Show shows of a result.
type Shown struct {
	index.Result
	Dataset         string
	UsedBytes       uint64 // what only this result holds
	ReferencedBytes uint64 // what can be reached through it
	LogPath         string // where its log is on this machine; "" when it is not
}

// Show describes one result. Sizes take one command; they are those of its
// dataset and of the datasets below it.
func (e *Engine) Show(ctx context.Context, id string) (Shown, error) {
	held, err := e.holdResult(ctx, id)
	if err != nil {
		return Shown{}, err
	}
	defer held.release()
	r, err := e.index.Get(ctx, id)
	if errors.Is(err, index.ErrNotFound) {
		r, err = index.Result{ID: id}, nil
	}
	if err != nil {
		return Shown{}, err
	}
	s := Shown{Result: r, Dataset: e.dataset(id).String()}
	s.LogPath, _ = e.files.HostPath(e.headPath(id) + "/log")
	rows, err := e.fs.List(ctx, zfs.ListOptions{Roots: []zfs.Name{e.dataset(id)}, Recursive: true,
		Properties: []string{"used", "referenced"}})
	if err != nil {
		return s, err
	}
	for _, row := range rows {
		used, err1 := strconv.ParseUint(row.Values[0], 10, 64)
		referenced, err2 := strconv.ParseUint(row.Values[1], 10, 64)
		if err := errors.Join(err1, err2); err != nil {
			return s, err
		}
		if row.Name == s.Dataset {
			s.UsedBytes = used // counts what is below it
		}
		s.ReferencedBytes += referenced
	}
	return s, nil
}

// Log writes what a step printed to w.
func (e *Engine) Log(ctx context.Context, id string, w io.Writer) error {
	held, err := e.holdResult(ctx, id)
	if err != nil {
		return err
	}
	defer held.release()
	complete, err := e.ask(ctx, id)
	if err != nil {
		return err
	}
	if !complete {
		return &NotFoundError{ID: id, Reason: "it is gone"}
	}
	var writeErr error
	err = e.replay(ctx, id, func(p []byte) {
		if writeErr == nil {
			_, writeErr = w.Write(p)
		}
	})
	return errors.Join(err, writeErr)
}

// Ancestors lists the ids that a result was built on, the base first, and
// itself last.
func (e *Engine) Ancestors(ctx context.Context, id string) ([]string, error) {
	held, err := e.holdResult(ctx, id)
	if err != nil {
		return nil, err
	}
	defer held.release()
	ids := []string{id}
	seen := map[string]bool{id: true}
	for {
		r, err := e.index.Get(ctx, ids[len(ids)-1])
		if errors.Is(err, index.ErrNotFound) || err == nil && (r.Parent == "" || seen[r.Parent]) {
			slices.Reverse(ids)
			return ids, nil
		}
		if err != nil {
			return nil, err
		}
		seen[r.Parent] = true
		ids = append(ids, r.Parent)
	}
}

// Delete destroys a result and all that were built on it, those first, telling
// deleted of each. It waits for builds that use one of them to end, and builds
// that begin meanwhile and need one of them wait for it.
func (e *Engine) Delete(ctx context.Context, id string, deleted func(id string)) error {
	e.sweepAll(ctx)
	release, err := e.use.claim(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	if err := e.mustHave(ctx, id); err != nil {
		return err
	}
	// Nothing is built on it any more: those that were are all that there are.
	list := []string{id}
	claimed := map[string]bool{id: true}
	for n := 0; n < len(list); n++ {
		children, err := e.index.Children(ctx, list[n])
		if err != nil && !errors.Is(err, index.ErrNotFound) {
			return err
		}
		for _, child := range children {
			if claimed[child] {
				return fmt.Errorf("result %s is its own ancestor in the index", child)
			}
			release, err := e.use.claim(ctx, child)
			if err != nil {
				return err
			}
			defer release()
			claimed[child] = true
			list = append(list, child)
		}
	}
	done, err := e.destroys(ctx)
	if err != nil {
		return err
	}
	defer done()
	return e.deleteTree(ctx, id, deleted)
}

func (e *Engine) deleteTree(ctx context.Context, id string, deleted func(id string)) error {
	// Depth first without recursion: a job may have thousands of steps.
	stack := []string{id}
	for len(stack) > 0 {
		top := stack[len(stack)-1]
		children, err := e.index.Children(ctx, top)
		if err != nil && !errors.Is(err, index.ErrNotFound) {
			return err
		}
		if len(children) > 0 {
			if slices.Contains(stack, children[0]) {
				return fmt.Errorf("result %s is its own ancestor in the index", children[0])
			}
			stack = append(stack, children...)
			continue
		}
		if err := e.deleteOne(ctx, top); err != nil {
			return err
		}
		deleted(top)
		stack = stack[:len(stack)-1]
	}
	return nil
}

// deleteOne deletes a result that nothing was built on.
func (e *Engine) deleteOne(ctx context.Context, id string) (err error) {
	defer func() { e.noteHealth(err, e.result.String()+"/"+id) }()
	if !ValidID(id) {
		return fmt.Errorf("the index has a row %q, which is not an id", id)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	unmark, err := e.mark(marker{kind: markDelete, name: id})
	if err != nil {
		return err
	}
	if err := e.destroyResult(ctx, id); err != nil {
		if zfs.IsKind(err, zfs.HasClones) && e.isComplete(id) {
			err = errors.Join(err, unmark())
		}
		return err
	}
	return unmark()
}

// destroyResult destroys a result, then forgets it. Its snapshot goes first, and
// goes only when nothing was cloned from it: a recursive destroy may stop
// anywhere, and what it has left must not be taken for a result.
func (e *Engine) destroyResult(ctx context.Context, id string) error {
	ds := e.dataset(id)
	err := e.fs.Destroy(ctx, ds.MustSnapshot(Snap), zfs.DestroyMode{})
	if zfs.IsKind(err, zfs.HasClones) {
		return err
	}
	e.setComplete(id, false)
	if err != nil && !zfs.IsKind(err, zfs.NotFound) {
		return err
	}
	if err := e.destroy(ctx, ds, false); err != nil {
		return err
	}
	return e.forget(ctx, id)
}

// Clean destroys every result, those without descendants first; base images and
// caches stay. It waits for running builds to end.
func (e *Engine) Clean(ctx context.Context, deleted func(id string)) error {
	e.sweepAll(ctx)
	release, err := e.use.own(ctx)
	if err != nil {
		return err
	}
	defer release()
	done, err := e.destroys(ctx)
	if err != nil {
		return err
	}
	defer done()
	all, err := e.index.All(ctx)
	if err != nil {
		return err
	}
	for _, r := range all {
		if r.Parent == "" {
			if err := e.deleteTree(ctx, r.ID, deleted); err != nil {
				return err
			}
		}
	}
	// What is left is not in the index, and the index does not say on what it
	// was built: it goes in as many rounds as it has generations.
	for {
		results, err := e.Results(ctx)
		if err != nil || len(results) == 0 {
			return err
		}
		var blocked error
		progress := false
		for _, r := range results {
			err := e.deleteOne(ctx, r.ID)
			if zfs.IsKind(err, zfs.HasClones) {
				blocked = err
				continue
			}
			if err != nil {
				return err
			}
			progress = true
			deleted(r.ID)
		}
		if !progress {
			return blocked
		}
	}
}

// HealthcheckBase is the base image that Healthcheck builds on.
const HealthcheckBase = "busybox"

// Healthcheck builds one step on the base image busybox and removes it again:
// that works when the machine does. It gives up after limit.
func (e *Engine) Healthcheck(ctx context.Context, limit time.Duration, events func(Event)) error {
	s, err := spec.Parse("healthcheck", []byte(`((from `+HealthcheckBase+`) (shell /bin/sh -c) (run (shell "echo healthcheck")))`))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("the healthcheck took longer than %v", limit))
	defer cancel()
	job := Job{Spec: s, Events: events}
	run := ""
	if err := e.Plan(ctx, job, func(p PlannedStep) {
		if p.Op == "run" && p.Cached {
			run = p.ID
		}
	}); err != nil {
		return err
	}
	if run != "" {
		// Left by an earlier one that did not end: it would answer for this one.
		if err := e.Delete(ctx, run, func(string) {}); err != nil {
			return err
		}
	}
	id, err := e.Build(ctx, job)
	if err != nil {
		return err
	}
	cctx, done := cleanup(ctx)
	defer done()
	return e.Delete(cctx, id, func(string) {})
}
