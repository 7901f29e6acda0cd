package engine

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"obuilder.org/obuilder/zfs"
)

// stalePrefix begins the names of the datasets of results that another one
// has taken the place of, and that others were built on: POOL/stale-ID-N. They
// go when those have gone.
const stalePrefix = "stale-"

// staleBatch is how many results that are not to be used are destroyed at the
// end of a job: a job takes at most some seconds longer for each of them. All
// at once can take an hour, and only obuilder fsck --repair does that.
const staleBatch = 8

// staleName gives the name below the root, of the name of a dataset, of a result
// that was set aside.
func (e *Engine) staleName(dataset string) (name string, ok bool) {
	name, ok = strings.CutPrefix(dataset, e.root.String()+"/")
	id, _, found := strings.Cut(strings.TrimPrefix(name, stalePrefix), "-")
	return name, ok && found && strings.HasPrefix(name, stalePrefix) && ValidID(id) && !strings.ContainsAny(name, "/@")
}

// clearPlace takes away what is in the place of a result and is not to be used:
// what is left of one that was never complete, or one that is stale. If others
// were built on it, it is set aside, which gives them another origin: none of
// them is taken for a result then. The caller is the only one to use it.
func (e *Engine) clearPlace(ctx context.Context, id string) error {
	e.setComplete(id, false)
	err := e.destroyLeftover(ctx, e.dataset(id))
	if zfs.IsKind(err, zfs.HasClones) {
		err = e.setAside(ctx, id)
	}
	return err
}

// setAside renames a result out of the way.
func (e *Engine) setAside(ctx context.Context, id string) error {
	const most = 1000
	for n := range most {
		name := fmt.Sprintf("%s%s-%d", stalePrefix, id, n)
		e.mu.Lock()
		taken := e.stale[name]
		e.stale[name] = true // or may soon be
		e.mu.Unlock()
		if taken {
			continue
		}
		ds, to := e.dataset(id), e.root.MustChild(name)
		err := e.persist(ctx, ds, false, func() error { return e.fs.Rename(ctx, ds, to, zfs.RenameOptions{}) })
		if !zfs.IsKind(err, zfs.Exists) {
			return err
		}
	}
	return &StoreError{Reason: fmt.Sprintf("%d results of the id %s are waiting to be destroyed", most, id),
		Advice: "obuilder fsck --repair destroys them"}
}

// replaceBase takes the result of a base away that is not what its image is
// now. It waits for the builds that use it.
func (e *Engine) replaceBase(ctx context.Context, l link, waiting func(string)) (why string, err error) {
	release, ok := e.use.tryClaim(l.id)
	if !ok {
		waiting(fmt.Sprintf("the base image %s was rebuilt: waiting for builds on what it was before", l.image))
		if release, err = e.use.claim(ctx, l.id); err != nil {
			return "", err
		}
	}
	defer release()
	v, err := e.verify(ctx, []link{l})
	if err != nil {
		return "", err
	}
	if why = v.stale[l.id]; why == "" {
		return "", nil // somebody else was quicker
	}
	if _, err := e.image(l.image); err != nil {
		return "", err // nothing could be built in its place
	}
	e.log.Warn("a result is stale", "id", l.id, "why", why)
	e.distrust(l.id)
	// Destroyed as a result is: wherever that stops, it is no result any more.
	unmark, err := e.mark(marker{kind: markStep, name: l.id})
	if err != nil {
		return "", err
	}
	cctx, cancel := cleanup(ctx)
	defer cancel()
	if err := e.clearPlace(cctx, l.id); err != nil {
		return "", fmt.Errorf("removing a stale result: %w", err)
	}
	return why, unmark()
}

// sweepStale destroys results that were set aside and all that were built on
// them, at most so many, those first that nothing was built on, and tells gone
// of the name of each. Those that are used stay for now. It takes one command
// to look, and two for each.
func (e *Engine) sweepStale(ctx context.Context, most int, gone func(name string)) error {
	e.mu.Lock()
	none := len(e.stale) == 0
	e.mu.Unlock()
	if none {
		return nil
	}
	done, err := e.destroys(ctx)
	if err != nil {
		return err
	}
	defer done()
	rows, err := e.fs.List(ctx, zfs.ListOptions{
		Roots: []zfs.Name{e.root, e.result}, Recursive: true, Depth: 1, Properties: []string{"origin"},
	})
	if err != nil {
		return err
	}
	built := map[string][]string{} // by the name of what they are clones of
	var aside []string
	seen := map[string]bool{}
	for _, row := range rows {
		if seen[row.Name] {
			continue
		}
		seen[row.Name] = true
		if origin, _, ok := strings.Cut(row.Values[0], "@"); ok {
			built[origin] = append(built[origin], row.Name)
		}
		if _, ok := e.staleName(row.Name); ok {
			aside = append(aside, row.Name)
		}
	}
	e.mu.Lock()
	for name := range e.stale {
		if !seen[e.root.String()+"/"+name] {
			delete(e.stale, name)
		}
	}
	e.mu.Unlock()
	var order []string // each after its clones
	visited := map[string]bool{}
	var visit func(name string)
	visit = func(name string) {
		if visited[name] {
			return
		}
		visited[name] = true
		for _, clone := range built[name] {
			visit(clone)
		}
		order = append(order, name)
	}
	for _, name := range aside {
		visit(name)
	}
	return e.destroyStale(ctx, order, built, most, gone)
}

// sweepAll destroys all that is stale before results are deleted that it may
// have been cloned from.
func (e *Engine) sweepAll(ctx context.Context) {
	if err := e.sweepStale(ctx, math.MaxInt, nil); err != nil {
		e.log.Warn("cannot destroy what is stale", "err", err)
	}
}

// sweepAfter destroys some of what is stale. The job is done, whatever comes of it.
func (e *Engine) sweepAfter(ctx context.Context) {
	if ctx.Err() != nil {
		return
	}
	if err := e.sweepStale(ctx, staleBatch, nil); err != nil {
		e.log.Warn("cannot destroy what is stale", "err", err)
	}
}

// destroyStale destroys at most so many datasets in that order, and leaves
// those that are used with all that they are clones of.
func (e *Engine) destroyStale(ctx context.Context, order []string, built map[string][]string, most int, gone func(string)) error {
	destroyed := map[string]bool{}
	for _, name := range order {
		if most--; most < 0 {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if slices.ContainsFunc(built[name], func(clone string) bool { return !destroyed[clone] }) {
			continue
		}
		err := errInUse
		if aside, ok := e.staleName(name); ok {
			if err = e.destroy(ctx, e.root.MustChild(aside), false); err == nil {
				e.mu.Lock()
				delete(e.stale, aside)
				e.mu.Unlock()
			}
		} else if id, ok := strings.CutPrefix(name, e.result.String()+"/"); ok && ValidID(id) {
			if release, ok := e.use.tryClaim(id); ok {
				err = e.deleteOne(ctx, id)
				release()
			}
		}
		if err != nil && !errors.Is(err, errInUse) {
			return fmt.Errorf("destroying %s, which is stale: %w", name, err)
		}
		if destroyed[name] = err == nil; err == nil && gone != nil {
			gone(name)
		}
	}
	return nil
}

// errInUse is why a result is not destroyed now.
var errInUse = errors.New("it is in use, or not ours")
