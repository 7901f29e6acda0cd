package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"obuilder.org/obuilder/index"
	"obuilder.org/obuilder/spec"
	"obuilder.org/obuilder/zfs"
)

// A FindingKind says what a [Finding] is about.
type FindingKind string

// What can be found. Nothing of it is ever used by a build.
const (
	FoundStopped    FindingKind = "stopped"    // a process was stopped while it was at something
	FoundUnfinished FindingKind = "unfinished" // a result that was never complete
	FoundStale      FindingKind = "stale"      // a result that is not what its id says
	FoundLeftover   FindingKind = "leftover"   // a dataset of a step or a prune that has ended
	FoundMounted    FindingKind = "mounted"    // a home or brew that no step uses is mounted
	FoundUnindexed  FindingKind = "unindexed"  // a result that is not in the index
	FoundParent     FindingKind = "parent"     // the index has a wrong parent of a result
	FoundRow        FindingKind = "row"        // a row of the index without a result
	FoundCount      FindingKind = "count"      // the index has a wrong number of children of a result
)

// A Finding is something in a store that is not as it should be.
type Finding struct {
	Kind   FindingKind
	Name   string // of the dataset; the id of a row; the name of what a process was at
	Text   string // what is wrong with it
	Repair string // what is done about it: "destroy it"
	// Repaired says that it was done, Err why it was not. Neither is set when
	// nothing was to be repaired.
	Repaired bool
	Err      error
}

// An InconsistentError is a store in which things were found that are not as
// they should be, and that were not repaired.
type InconsistentError struct{ Findings []Finding }

func (e *InconsistentError) Error() string {
	if len(e.Findings) == 1 {
		return "1 thing in the store is not as it should be"
	}
	return fmt.Sprintf("%d things in the store are not as they should be", len(e.Findings))
}

// Hint says what to do about it.
func (e *InconsistentError) Hint() string {
	if slices.ContainsFunc(e.Findings, func(f Finding) bool { return f.Err != nil }) {
		return "what stays may be held by something else; zfs list -t all -o name,origin,clones shows clones"
	}
	return "obuilder fsck --repair puts that right; no build uses it meanwhile"
}

// A checkup is what Fsck has found.
type checkup struct {
	seen     *look
	markers  []marker
	good     map[string]bool   // results that are what their ids say
	bad      map[string]string // why the others are not; "" for one that is not complete
	parents  map[string]string // of good results, by their origins
	findings []Finding
}

// Fsck looks at all that a store has, with one listing, and tells report of
// each thing that is not as it should be: an *InconsistentError when there was
// any. If repair says so it is put right, in an order in which it can stop
// anywhere, and report is told when that is done or could not be. Base images,
// the caches themselves and what the store does not know are left alone. It
// waits for builds to end, and they wait for it.
//
// A repair that leaves nothing has shown that the machine works again.
//
// An engine that was opened with [Options.Inspect] finds what killed processes
// have left as well.
func (e *Engine) Fsck(ctx context.Context, repair bool, report func(Finding)) error {
	release, err := e.use.own(ctx)
	if err != nil {
		return err
	}
	defer release()
	c, err := e.check(ctx)
	if err != nil {
		return err
	}
	if !repair {
		for _, f := range c.findings {
			report(f)
		}
		if len(c.findings) > 0 {
			return &InconsistentError{c.findings}
		}
		return nil
	}
	if err := e.sandbox.Recover(ctx); err != nil {
		return err
	}
	found := c.findings
	if len(c.markers) > 0 {
		if err := e.recover(ctx, c.markers); err != nil {
			return err
		}
		e.left = nil
		if c, err = e.check(ctx); err != nil {
			return err
		}
	}
	failed := e.repair(ctx, c)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	// What is there still was not repaired, whatever anybody says.
	after, err := e.check(ctx)
	if err != nil {
		return err
	}
	same := func(f Finding, in []Finding) bool {
		return slices.ContainsFunc(in, func(g Finding) bool { return f.Kind == g.Kind && f.Name == g.Name })
	}
	for _, f := range after.findings {
		if !same(f, found) {
			found = append(found, f)
		}
	}
	var stay []Finding
	for _, f := range found {
		if f.Repaired = !same(f, after.findings); !f.Repaired {
			if f.Err = failed[f.Name]; f.Err == nil {
				f.Err = errStays
			}
			stay = append(stay, f)
		}
		report(f)
	}
	if len(stay) > 0 {
		return &InconsistentError{stay}
	}
	return e.recovered()
}

var errStays = errors.New("it is there still")

// check looks at the store.
func (e *Engine) check(ctx context.Context) (*checkup, error) {
	rows, err := e.fs.List(ctx, zfs.ListOptions{
		Roots: []zfs.Name{e.root}, Recursive: true,
		Types: []zfs.Type{zfs.Filesystems, zfs.Snapshots}, Properties: lookProperties,
	})
	if err != nil {
		return nil, err
	}
	all, err := e.index.All(ctx)
	if err != nil {
		return nil, &StoreError{Reason: "cannot read the index", Err: err}
	}
	c := &checkup{seen: newLook(), markers: e.left, good: map[string]bool{}, bad: map[string]string{}, parents: map[string]string{}}
	c.seen.add(rows)
	for _, m := range c.markers {
		c.find(FoundStopped, string(m.kind)+"-"+m.name, "a process was stopped while it "+m.kind.doing(), "end or undo it")
	}
	e.checkResults(c)
	e.checkOthers(c)
	e.checkIndex(c, all)
	return c, nil
}

func (c *checkup) find(kind FindingKind, name, text, repair string) {
	c.findings = append(c.findings, Finding{Kind: kind, Name: name, Text: text, Repair: repair})
}

// doing says what a process did that wrote such a marker.
func (k markerKind) doing() string {
	switch k {
	case markStep:
		return "made this result"
	case markRead:
		return "read the home of this result"
	case markCache:
		return "used this clone of a cache"
	case markDelete:
		return "destroyed this result"
	}
	return "did what this program does not know"
}

// checkResults looks which results are what their ids say, and at their mounts.
func (e *Engine) checkResults(c *checkup) {
	images := map[string]string{}
	for name := range e.imagesIn(c.seen) {
		images[spec.BaseID(name)] = name
	}
	judging := map[string]bool{}
	var judge func(id string) bool
	judge = func(id string) bool {
		if judging[id] {
			return c.good[id]
		}
		judging[id] = true
		ds := e.dataset(id)
		if !c.seen.complete(ds) {
			c.bad[id] = ""
			return false
		}
		why := ""
		origin := c.seen.value(ds, colOrigin)
		parent, _ := strings.CutPrefix(strings.TrimSuffix(origin, "@"+Snap), e.result.String()+"/")
		switch {
		case origin == "-" && images[id] != "":
			why = e.staleBase(c.seen, id, images[id])
		case origin == "-":
			why = c.withoutImage(ds)
		case !ValidID(parent) || !judge(parent):
			why = fmt.Sprintf("it was built on %s, which is no result that may be used", origin)
		default:
			why = e.staleStep(c.seen, id, parent, c.seen.children[e.dataset(parent).String()])
			c.parents[id] = parent
		}
		if why != "" {
			c.bad[id] = why
			return false
		}
		c.good[id] = true
		return true
	}
	ids := slices.DeleteFunc(slices.Clone(c.seen.children[e.result.String()]), func(s string) bool { return !ValidID(s) })
	slices.Sort(ids)
	for _, id := range ids {
		if judge(id) {
			continue
		}
		name := e.dataset(id).String()
		if why := c.bad[id]; why == "" {
			c.find(FoundUnfinished, name, "it was never complete", "destroy it")
		} else {
			c.find(FoundStale, name, why, "destroy it")
		}
	}
	for _, id := range ids {
		for _, child := range c.seen.children[e.dataset(id).String()] {
			ds, err := e.dataset(id).Child(child)
			if err != nil || !c.good[id] {
				continue
			}
			if at := c.seen.value(ds, colMountpoint); at != "none" && strings.HasPrefix(at, "/") && (child == "home" || child == "brew" || c.seen.value(ds, colMounted) == "yes") {
				c.find(FoundMounted, ds.String(), "it has the mount point "+at+", and no step is running", "unmount it")
			}
		}
	}
}

// withoutImage says why the result of a base whose image nobody knows is not to
// be used; "" for one that was made by hand: it has nothing that was cloned.
func (c *checkup) withoutImage(ds zfs.Dataset) string {
	children := c.seen.children[ds.String()]
	for _, child := range children {
		if origin := c.seen.rows[ds.String()+"/"+child][colOrigin]; origin != "-" {
			return fmt.Sprintf("its base image is gone: its %s is a clone of %s", child, origin)
		}
	}
	if len(children) == 0 {
		return "its base image is gone" // and may have taken its children with it
	}
	return ""
}

// checkOthers looks at what is there besides results.
func (e *Engine) checkOthers(c *checkup) {
	for _, child := range c.seen.children[e.root.String()] {
		name := e.root.String() + "/" + child
		if _, ok := e.awayID(name); ok {
			c.find(FoundLeftover, name, "it was pruned", "destroy it")
		}
		if _, ok := e.staleName(name); ok {
			c.find(FoundLeftover, name, "another result has taken its place", "destroy it, and before it what was built on it")
		}
	}
	for _, child := range c.seen.children[e.cacheTmp.String()] {
		c.find(FoundLeftover, e.cacheTmp.String()+"/"+child, "no step uses this clone of a cache", "destroy it, or put it in the place of the cache if that is missing")
	}
	for _, name := range slices.Sorted(maps.Keys(c.seen.rows)) {
		if rest, ok := strings.CutPrefix(name, e.cache.String()+"/"); ok {
			if ds, tag, ok := strings.Cut(rest, "@"); ok && strings.HasPrefix(tag, oldPrefix) && !strings.Contains(ds, "/") {
				c.find(FoundLeftover, name, "the cache was cloned from it before", "destroy it")
			}
		}
	}
}

// checkIndex compares the index with the good results.
func (e *Engine) checkIndex(c *checkup, all []index.Result) {
	children := map[string]int{}
	rows := map[string]index.Result{}
	for _, r := range all {
		rows[r.ID] = r
		children[r.Parent]++
	}
	for _, id := range slices.Sorted(maps.Keys(c.good)) {
		r, ok := rows[id]
		switch {
		case !ok:
			c.find(FoundUnindexed, id, "the index does not have it", "add it, with its parent")
		case r.Parent != c.parents[id]:
			c.find(FoundParent, id, fmt.Sprintf("the index has the parent %q, and it was built on %q", r.Parent, c.parents[id]), "correct the index")
		}
	}
	for _, r := range all {
		if _, bad := c.bad[r.ID]; !bad && !c.good[r.ID] {
			c.find(FoundRow, r.ID, "the index has it, and it is not there", "remove it from the index")
		} else if !bad && r.Children != children[r.ID] {
			c.find(FoundCount, r.ID, fmt.Sprintf("the index has %d children of it, and there are %d", r.Children, children[r.ID]), "correct the index")
		}
	}
}

// repair puts right what was found, as far as it can, and gives what has
// failed by the name of the finding. Each thing that it does can be done again,
// and is noted where it could stop in the middle.
func (e *Engine) repair(ctx context.Context, c *checkup) (failed map[string]error) {
	failed = map[string]error{}
	try := func(name string, err error) {
		if err != nil {
			failed[name] = err
		}
	}
	// The index first: what is destroyed below is forgotten there, and what is
	// to stay must not be taken for built on that.
	added := map[string]bool{}
	var add func(id string) error
	add = func(id string) error {
		if added[id] {
			return nil
		}
		added[id] = true
		if parent := c.parents[id]; parent != "" {
			if err := add(parent); err != nil {
				return err
			}
		}
		r, err := e.index.Get(ctx, id)
		if errors.Is(err, index.ErrNotFound) {
			made := time.Unix(int64(c.seen.number(e.dataset(id), colCreation)), 0)
			r, err = index.Result{ID: id, Created: made, Used: made}, nil
		} else if err == nil && r.Parent == c.parents[id] {
			return nil
		}
		if err != nil {
			return err
		}
		r.Parent = c.parents[id]
		return e.index.Add(ctx, r)
	}
	for _, id := range slices.Sorted(maps.Keys(c.good)) {
		try(id, add(id))
	}
	e.repairDatasets(ctx, c, try)
	for _, f := range c.findings {
		if f.Kind == FoundMounted {
			ds := zfs.MustDataset(f.Name)
			try(f.Name, e.unmount(ctx, ds, c.seen.value(ds, colMountpoint), true))
		}
	}
	e.repairCaches(ctx, c, try)
	e.repairIndex(ctx, c, try)
	return failed
}

// repairDatasets destroys what is not to be used, what was cloned from it first.
func (e *Engine) repairDatasets(ctx context.Context, c *checkup, try func(string, error)) {
	done, err := e.destroys(ctx)
	if err != nil {
		for _, f := range c.findings {
			try(f.Name, err)
		}
		return
	}
	defer done()
	owner := func(name string) string {
		for _, prefix := range []string{e.result.String() + "/", e.root.String() + "/"} {
			if rest, ok := strings.CutPrefix(name, prefix); ok {
				first, _, _ := strings.Cut(rest, "/")
				first, _, _ = strings.Cut(first, "@")
				return prefix + first
			}
		}
		return name
	}
	clones := map[string]map[string]bool{}
	for name, row := range c.seen.rows {
		if from := owner(row[colOrigin]); row[colOrigin] != "-" && from != owner(name) {
			if clones[from] == nil {
				clones[from] = map[string]bool{}
			}
			clones[from][owner(name)] = true
		}
	}
	visited := map[string]bool{}
	var destroy func(name string)
	destroy = func(name string) {
		if visited[name] || ctx.Err() != nil {
			return
		}
		visited[name] = true
		for _, clone := range slices.Sorted(maps.Keys(clones[name])) {
			destroy(clone)
		}
		if id, ok := strings.CutPrefix(name, e.result.String()+"/"); ok {
			if _, bad := c.bad[id]; bad {
				try(name, e.deleteOne(ctx, id))
			}
		} else if aside, ok := e.staleName(name); ok {
			err := e.destroy(ctx, e.root.MustChild(aside), false)
			try(name, err)
			if err == nil {
				e.mu.Lock()
				delete(e.stale, aside)
				e.mu.Unlock()
			}
		}
	}
	for _, f := range c.findings {
		destroy(f.Name)
	}
	// Pruned results may have been clones of those.
	try(e.root.String(), e.sweepAway(ctx))
}

func (e *Engine) repairCaches(ctx context.Context, c *checkup, try func(string, error)) {
	var settle []zfs.Dataset
	for _, f := range c.findings {
		if name, ok := strings.CutPrefix(f.Name, e.cacheTmp.String()+"/"); ok {
			main, err := e.recoverCache(ctx, name)
			try(f.Name, err)
			if err == nil && !slices.Contains(settle, main) {
				settle = append(settle, main)
			}
		} else if snap, err := zfs.ParseSnapshot(f.Name); err == nil && !slices.Contains(settle, snap.Dataset()) {
			settle = append(settle, snap.Dataset())
		}
	}
	for _, main := range settle {
		try(main.String(), e.settleCache(ctx, main))
	}
}

// repairIndex removes the rows of what is not there, and counts anew.
func (e *Engine) repairIndex(ctx context.Context, c *checkup, try func(string, error)) {
	// One row goes in each round, or none goes any more.
	for progress := true; progress; {
		progress = false
		all, err := e.index.All(ctx)
		try(e.state.String(), err)
		for _, r := range slices.Backward(all) {
			if c.good[r.ID] {
				continue
			}
			err := e.index.Delete(ctx, r.ID)
			try(r.ID, err)
			progress = progress || err == nil
		}
	}
	all, err := e.index.All(ctx)
	try(e.state.String(), err)
	children := map[string]int{}
	for _, r := range all {
		children[r.Parent]++
	}
	for _, r := range all {
		if r.Children != children[r.ID] {
			try(r.ID, e.index.Recount(ctx, r.ID))
		}
	}
}
