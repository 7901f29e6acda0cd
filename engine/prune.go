package engine

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"obuilder.org/obuilder/index"
	"obuilder.org/obuilder/zfs"
)

// A Space is a part of what a store can use: a number of bytes, or percent of
// all that it uses and could still use, as df shows it.
type Space struct {
	Bytes   uint64
	Percent float64 // 0 to 100; added to Bytes
}

func (s Space) of(size uint64) uint64 {
	return s.Bytes + uint64(s.Percent/100*float64(size))
}

// A PrunePolicy says which results go: the least recently used first, of those
// that nothing was built on and that no build needs, until all of KeepFree and
// KeepBytes hold, and at most as the rest allows. Without KeepFree and
// KeepBytes all that the rest allows go. What is zero asks for nothing.
type PrunePolicy struct {
	KeepFree    Space         // free space that there shall be
	KeepBytes   uint64        // what all results may take up together
	KeepAge     time.Duration // results that were used within that time stay
	KeepResults int           // so many results stay
	Limit       int           // at most so many go at once
}

// Check gives an error for a policy that no prune can follow, or that does not
// say what is to stay.
func (p PrunePolicy) Check() error {
	switch {
	case !(p.KeepFree.Percent >= 0 && p.KeepFree.Percent <= 100): // nor NaN
		return fmt.Errorf("%v%% of the space cannot be kept free", p.KeepFree.Percent)
	case p.KeepAge < 0:
		return fmt.Errorf("the age %v is negative", p.KeepAge)
	case p.KeepResults < 0 || p.Limit < 0:
		return errors.New("a number of results is negative")
	case p.KeepFree == (Space{}) && p.KeepBytes == 0 && p.KeepAge == 0 && p.KeepResults == 0:
		return errors.New("nothing says which results shall stay")
	}
	return nil
}

// wanted is how many bytes a prune has to free of results that take up used
// bytes, when free are free.
func (p PrunePolicy) wanted(size, free, used uint64) uint64 {
	if p.KeepFree == (Space{}) && p.KeepBytes == 0 {
		return math.MaxUint64
	}
	target := p.KeepFree.of(size)
	want := target - min(target, free)
	if p.KeepBytes > 0 {
		want = max(want, used-min(used, p.KeepBytes))
	}
	return want
}

// A Prunable is a result as a prune sees it. Bytes are what its destruction
// frees: what is in it and in its snapshots and in nothing that it was made
// from. They are the property used, which counts each block in the one dataset
// that it was written in (zfsprops(7)), so that the sum for several results is
// right as well; referenced counts the blocks of a base in everything that was
// built on it.
type Prunable struct {
	ID     string
	Parent string    // the result that it was cloned from; "" for none
	Used   time.Time // when it was last used; when it was made if the index does not have it
	Bytes  uint64
}

// A PrunePlan is what a prune would do.
type PrunePlan struct {
	Results    []Prunable // those that go, in that order
	Bytes      uint64     // that they free
	Short      uint64     // bytes of what the policy asks for that cannot be freed
	Total      int        // results in the store
	TotalBytes uint64     // what they take up
	Size, Free uint64     // bytes that the store can use, and those of them that are free
}

// oldestFirst is a heap of results that may go.
type oldestFirst []Prunable

func (h oldestFirst) Len() int { return len(h) }
func (h oldestFirst) Less(i, j int) bool {
	return cmp.Or(h[i].Used.Compare(h[j].Used), strings.Compare(h[i].ID, h[j].ID)) < 0
}
func (h oldestFirst) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *oldestFirst) Push(r any)   { *h = append(*h, r.(Prunable)) }
func (h *oldestFirst) Pop() any {
	last := len(*h) - 1
	r := (*h)[last]
	*h = (*h)[:last]
	return r
}

// choose chooses the results that go. p is a policy that may be followed, s
// the store, and needed says which results are in use.
func (s *survey) choose(p PrunePolicy, now time.Time, needed func(id string) bool) PrunePlan {
	plan := PrunePlan{Total: len(s.results), Size: s.size, Free: s.free}
	children := make(map[string]int, len(s.results))
	for _, r := range s.results {
		plan.TotalBytes += r.Bytes
		if r.Parent != "" {
			children[r.Parent]++
		}
	}
	var leaves oldestFirst
	add := func(r Prunable) {
		if children[r.ID] == 0 && !needed(r.ID) {
			leaves = append(leaves, r)
		}
	}
	for _, r := range s.results {
		add(r)
	}
	heap.Init(&leaves)
	want := p.wanted(s.size, s.free, plan.TotalBytes)
	for len(leaves) > 0 && plan.Bytes < want && plan.Total-len(plan.Results) > p.KeepResults &&
		(p.Limit == 0 || len(plan.Results) < p.Limit) {
		r := heap.Pop(&leaves).(Prunable)
		if p.KeepAge > 0 && now.Sub(r.Used) < p.KeepAge {
			break // and so are the others, and what they were built on stays with them
		}
		plan.Results = append(plan.Results, r)
		plan.Bytes += r.Bytes
		if children[r.Parent]--; r.Parent == "" || children[r.Parent] > 0 {
			continue
		}
		if parent, ok := s.results[r.Parent]; ok && !needed(r.Parent) {
			heap.Push(&leaves, parent)
		}
	}
	if want != math.MaxUint64 && plan.Bytes < want {
		plan.Short = want - plan.Bytes
	}
	return plan
}

// A survey is what a prune has to know of a store.
type survey struct {
	results    map[string]Prunable
	away       []string // results that earlier prunes have moved away
	size, free uint64
}

// survey looks at all results with one command, of which every result is one
// line. What was built on what is taken from zfs, so that what is needed stays
// whatever the index says.
func (e *Engine) survey(ctx context.Context) (*survey, error) {
	all, err := e.index.All(ctx)
	if err != nil {
		return nil, &StoreError{Reason: "cannot read the index", Err: err}
	}
	used := make(map[string]time.Time, len(all))
	for _, r := range all {
		used[r.ID] = r.Used
	}
	rows, err := e.fs.List(ctx, zfs.ListOptions{
		Roots: []zfs.Name{e.root, e.result}, Recursive: true, Depth: 1,
		Properties: []string{"used", "available", "origin", "creation"},
	})
	if err != nil {
		return nil, err
	}
	s := &survey{results: make(map[string]Prunable, len(rows))}
	prefix := e.result.String() + "/"
	for _, row := range rows {
		bytes, err := strconv.ParseUint(row.Values[0], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("the size of %s: %w", row.Name, err)
		}
		if row.Name == e.root.String() {
			if s.free, err = strconv.ParseUint(row.Values[1], 10, 64); err != nil {
				return nil, fmt.Errorf("what is free in %s: %w", row.Name, err)
			}
			s.size = bytes + s.free
		}
		if id, ok := e.awayID(row.Name); ok {
			s.away = append(s.away, id)
		}
		id, ok := strings.CutPrefix(row.Name, prefix)
		if !ok || !ValidID(id) {
			continue
		}
		r := Prunable{ID: id, Bytes: bytes, Used: used[id]}
		if origin, ok := strings.CutPrefix(row.Values[2], prefix); ok {
			r.Parent, _, _ = strings.Cut(origin, "@")
		}
		if r.Used.IsZero() {
			seconds, err := strconv.ParseInt(row.Values[3], 10, 64)
			if err != nil {
				return nil, fmt.Errorf("when %s was made: %w", row.Name, err)
			}
			r.Used = time.Unix(seconds, 0).UTC()
		}
		s.results[id] = r
	}
	// What is being made is no result yet; builds hold it, and what it is built on.
	e.mu.Lock()
	defer e.mu.Unlock()
	for id := range e.inFlight {
		if !e.complete[id] {
			delete(s.results, id)
		}
	}
	return s, nil
}

// PlanPrune tells what Prune would do now. It takes one command.
func (e *Engine) PlanPrune(ctx context.Context, p PrunePolicy) (PrunePlan, error) {
	if err := p.Check(); err != nil {
		return PrunePlan{}, err
	}
	release, err := take(ctx, e.pruning)
	if err != nil {
		return PrunePlan{}, err
	}
	defer release()
	needed, done := e.use.watch()
	defer done()
	s, err := e.survey(ctx)
	if err != nil {
		return PrunePlan{}, err
	}
	return s.choose(p, e.clock.Now(), needed), nil
}

// take waits for a token.
func take(ctx context.Context, tokens chan struct{}) (release func(), err error) {
	select {
	case tokens <- struct{}{}:
		return func() { <-tokens }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// A PruneReport is what a prune has done.
type PruneReport struct {
	Results int    // that went
	Bytes   uint64 // that they took up
	Skipped int    // results that were to go and are used again
	Short   uint64 // bytes of what the policy asks for that were not freed
}

const (
	// pruneBatch is how many results are moved away before they are destroyed.
	// It bounds what a process that was killed leaves to the next one.
	pruneBatch = 16
	// pruneRounds bounds how often a prune looks again, because results that
	// were to go are used again.
	pruneRounds = 3
)

// Prune destroys results as p says, and tells pruned, which may be nil, of
// each that is gone. Builds go on meanwhile, and what they need stays: which
// results go is decided anew for each as it goes.
//
// A result that goes is first renamed to POOL/pruned-ID, with which its id is
// free, and destroyed then, a few at a time; what a prune that ends early has
// left there goes with the next prune, or when the store is opened. It takes
// one command for every round and two for each result. Prunes wait for each
// other. When nothing could be destroyed although something was to be, Prune
// ends with the reason.
func (e *Engine) Prune(ctx context.Context, p PrunePolicy, pruned func(Prunable)) (PruneReport, error) {
	var report PruneReport
	if err := p.Check(); err != nil {
		return report, err
	}
	release, err := take(ctx, e.pruning)
	if err != nil {
		return report, err
	}
	defer release()
	e.sweepAll(ctx) // what nobody can use goes before anything that somebody can
	if err := e.sweep(ctx); err != nil {
		return report, err
	}
	free := uint64(0)
	for round := range pruneRounds {
		skipped, err := e.pruneRound(ctx, p, &report, pruned, func(s *survey) {
			// What was destroyed becomes free some time later.
			if round == 0 {
				free = s.free
			}
			s.free = free + report.Bytes
		})
		report.Skipped += skipped
		if err != nil || skipped == 0 {
			return report, err
		}
	}
	return report, nil
}

// pruneRound looks at the store once, corrects what it has seen, and prunes it.
func (e *Engine) pruneRound(ctx context.Context, p PrunePolicy, report *PruneReport, pruned func(Prunable), correct func(*survey)) (skipped int, err error) {
	needed, done := e.use.watch()
	defer done()
	s, err := e.survey(ctx)
	if err != nil {
		return 0, err
	}
	correct(s)
	if err := e.adoptAway(ctx, s); err != nil {
		return 0, err
	}
	if p.Limit > 0 {
		if p.Limit -= report.Results; p.Limit == 0 {
			return 0, nil
		}
	}
	plan := s.choose(p, e.clock.Now(), needed)
	before := report.Bytes
	kept := map[string]bool{} // results on which others are that were to go and stay
	for batch := range slices.Chunk(plan.Results, pruneBatch) {
		n, batchErr := e.pruneBatch(ctx, batch, kept, report, pruned)
		skipped += n
		if batchErr != nil {
			err = batchErr
			break
		}
	}
	report.Short = 0
	if want := p.wanted(s.size, s.free, plan.TotalBytes); want != math.MaxUint64 && want > report.Bytes-before {
		report.Short = want - (report.Bytes - before)
	}
	return skipped, err
}

// pruneBatch moves a batch of results away and destroys them.
func (e *Engine) pruneBatch(ctx context.Context, batch []Prunable, kept map[string]bool, report *PruneReport, pruned func(Prunable)) (skipped int, err error) {
	release, err := take(ctx, e.destroying)
	if err != nil {
		return 0, err
	}
	defer release()
	var away []Prunable
	var rows []string
	var errs []error
	for _, r := range batch {
		if ctx.Err() != nil {
			break
		}
		moved, err := false, error(nil)
		if !kept[r.ID] && !e.away[r.ID] {
			moved, err = e.moveAway(ctx, r.ID)
		}
		switch {
		case !moved:
			kept[r.Parent] = true
			if err == nil {
				skipped++
			} else {
				errs = append(errs, err)
			}
			continue
		case err != nil:
			rows = append(rows, r.ID)
		}
		away = append(away, r)
	}
	gone := 0
	for _, r := range away {
		if ctx.Err() != nil {
			break
		}
		if err := e.destroyAway(ctx, r.ID); err != nil {
			errs = append(errs, err)
			continue
		}
		gone++
		report.Results++
		report.Bytes += r.Bytes
		if pruned != nil {
			pruned(r)
		}
	}
	// A full pool had no place for what the index writes, until now.
	cctx, cancel := cleanup(ctx)
	defer cancel()
	if err := e.forgetAll(cctx, rows); err != nil {
		return skipped, err
	}
	if ctx.Err() != nil {
		return skipped, context.Cause(ctx)
	}
	if err := errors.Join(errs...); err != nil {
		if gone == 0 {
			return skipped, err
		}
		e.log.Warn("some results could not be pruned", "err", err)
	}
	return skipped, nil
}

// awayPrefix begins the names of the datasets of results that are to be destroyed.
const awayPrefix = "pruned-"

func (e *Engine) awayDataset(id string) zfs.Dataset { return e.root.MustChild(awayPrefix + id) }

// moveAway takes a result out of the store, if nobody needs it; an error after
// it was moved is that of the index.
func (e *Engine) moveAway(ctx context.Context, id string) (moved bool, err error) {
	release, ok := e.use.tryClaim(id)
	if !ok {
		return false, nil
	}
	defer release()
	ctx, cancel := cleanup(ctx)
	defer cancel()
	e.setComplete(id, false)
	err = e.persist(ctx, e.dataset(id), false, func() error {
		return e.fs.Rename(ctx, e.dataset(id), e.awayDataset(id), zfs.RenameOptions{})
	})
	if err != nil {
		// It may have been moved all the same.
		if lost := e.locate(ctx, []string{id}); lost != nil || e.isComplete(id) {
			return false, fmt.Errorf("moving result %s away: %w", id, errors.Join(err, lost))
		}
	}
	e.away[id] = true
	return true, e.forget(ctx, id)
}

// forget removes a result from the index, if it is there.
func (e *Engine) forget(ctx context.Context, id string) error {
	if err := e.index.Delete(ctx, id); !errors.Is(err, index.ErrNotFound) {
		return err
	}
	return nil
}

// forgetAll forgets results that were moved away, each after those that were
// built on it. Rows of results that are not there can be in the way of that:
// fsck removes them.
func (e *Engine) forgetAll(ctx context.Context, ids []string) error {
	for range ids {
		var blocked []string
		for _, id := range ids {
			err := e.forget(ctx, id)
			if errors.Is(err, index.ErrHasChildren) {
				blocked = append(blocked, id)
			} else if err != nil {
				return &StoreError{Reason: "cannot write the index", Err: err}
			}
		}
		if len(blocked) == 0 {
			return nil
		}
		ids = blocked
	}
	e.log.Warn("the index has results that are not in the store, built on results that were pruned", "results", ids)
	return nil
}

// destroyAway destroys a result that was moved away.
func (e *Engine) destroyAway(ctx context.Context, id string) error {
	err := e.destroy(ctx, e.awayDataset(id), false)
	if err == nil {
		delete(e.away, id)
	}
	return err
}

// awayID gives the id of a result that was moved away, of the name of its dataset.
func (e *Engine) awayID(name string) (id string, ok bool) {
	id, ok = strings.CutPrefix(name, e.root.String()+"/"+awayPrefix)
	return id, ok && ValidID(id)
}

// adoptAway finds what a process has left that was killed while this one
// waited for the store.
func (e *Engine) adoptAway(ctx context.Context, s *survey) error {
	release, err := take(ctx, e.destroying)
	if err != nil {
		return err
	}
	defer release()
	var gone []string
	for _, id := range s.away {
		if e.away[id] {
			continue
		}
		e.away[id] = true
		release, ok := e.use.tryClaim(id)
		if !ok {
			continue // somebody builds it again
		}
		defer release()
		if _, again := s.results[id]; !again {
			gone = append(gone, id)
		}
	}
	if err := e.forgetAll(ctx, gone); err != nil {
		return err
	}
	return e.sweepAway(ctx)
}

// sweep destroys what earlier prunes have left, as far as it can be.
func (e *Engine) sweep(ctx context.Context) error {
	done, err := e.destroys(ctx)
	if err == nil {
		done()
	}
	return err
}

// destroys waits until it is the only one to destroy results, and until what
// prunes have left is gone: that may be clones of what is to be destroyed.
func (e *Engine) destroys(ctx context.Context) (done func(), err error) {
	release, err := take(ctx, e.destroying)
	if err != nil {
		return nil, err
	}
	if err := e.sweepAway(ctx); err != nil {
		release()
		return nil, err
	}
	return release, nil
}

// sweepAway is sweep for who has the token of what is destroyed. One result may
// have been cloned from another, so it goes on as long as one goes.
func (e *Engine) sweepAway(ctx context.Context) error {
	for progress := true; progress; {
		progress = false
		for _, id := range slices.Sorted(maps.Keys(e.away)) {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			err := e.fs.Destroy(ctx, e.awayDataset(id), zfs.DestroyMode{Recursive: true, Force: true})
			if err == nil || zfs.IsKind(err, zfs.NotFound) {
				delete(e.away, id)
				progress = true
				continue
			}
			e.log.Warn("cannot destroy what was pruned", "dataset", e.awayDataset(id).String(), "err", err)
		}
	}
	return nil
}

// recoverAway ends what an earlier prune had begun as the process ended: it
// forgets the results that were moved away and are not in the store again, and
// destroys them. Nothing else uses the store yet, and which of these results
// are complete is known.
func (e *Engine) recoverAway(ctx context.Context) error {
	var gone []string
	for id := range e.away {
		if !e.isComplete(id) {
			gone = append(gone, id)
		}
	}
	if err := e.forgetAll(ctx, gone); err != nil {
		return err
	}
	return e.sweepAway(ctx)
}
