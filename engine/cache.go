package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"obuilder.org/obuilder/sandbox"
	"obuilder.org/obuilder/spec"
	"obuilder.org/obuilder/zfs"
)

// A cache is a persistent directory that steps share. A step works on a clone
// of POOL/cache/c-NAME@snap; when it ends, the clone takes the cache's place
// if no other step's has meanwhile, and goes otherwise.
type cache struct {
	mu  sync.Mutex // held while datasets of the cache are changed
	gen int        // how often the cache was replaced
}

// A cacheUse is a clone of a cache in use by a step.
type cacheUse struct {
	cache  *cache
	gen    int // of the cache when it was cloned
	main   zfs.Dataset
	tmp    zfs.Dataset
	unmark func() error
}

// useCaches clones the caches of a step and mounts them, outermost target
// first. What it returns is to be released in any case.
func (e *Engine) useCaches(ctx context.Context, cfg sandbox.Config) (used []*cacheUse, err error) {
	type target struct{ name, path string }
	var targets []target
	for _, c := range cfg.Caches {
		path, err := e.sandbox.Resolve(cfg.Workdir, c.Target)
		if err != nil {
			return nil, err
		}
		targets = append(targets, target{c.Name, path})
	}
	slices.SortStableFunc(targets, func(a, b target) int { return cmp.Compare(len(a.path), len(b.path)) })
	for i, t := range targets {
		inside := func(dir string) bool {
			return slices.ContainsFunc(targets[:i], func(outer target) bool { return outer.path == dir })
		}
		if err := e.makeTarget(ctx, cfg, t.name, t.path, inside); err != nil {
			return used, err
		}
		u, err := e.useCache(ctx, cfg, t.name, t.path)
		if err != nil {
			return used, fmt.Errorf("cache %q: %w", t.name, err)
		}
		used = append(used, u)
	}
	return used, nil
}

// makeTarget makes the directory that a cache is mounted on, for the build
// user. Nothing of the build runs yet, so what is looked at stays as it is.
// Directories that are mount points of other caches are taken as they are: in
// a dir: store they are links.
func (e *Engine) makeTarget(ctx context.Context, cfg sandbox.Config, name, target string, mounted func(dir string) bool) error {
	var dir string
	for _, m := range e.sandbox.Mounts() {
		if strings.HasPrefix(target, m.Path+"/") && len(m.Path) > len(dir) {
			dir = m.Path
		}
	}
	for component := range strings.SplitSeq(strings.TrimPrefix(target, dir+"/"), "/") {
		dir += "/" + component
		if mounted(dir) {
			continue
		}
		info, err := e.files.Lstat(dir)
		switch {
		case err == nil && info.IsDir():
			continue
		case err == nil:
			return &sandbox.RefusedError{Reason: fmt.Sprintf("the target of cache %q is not a directory: %s", name, dir)}
		case !notExist(err):
			return err
		}
		if err := e.files.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := e.sandbox.Own(ctx, cfg, dir); err != nil {
			return err
		}
	}
	return nil
}

// cacheDataset names the dataset of a cache as ocurrent/obuilder does. No
// dataset can be made with a '%' in its name, so caches whose names need
// escapes do not work there on ZFS; a ':' stands for it here, which is always
// escaped itself.
func (e *Engine) cacheDataset(name string) (zfs.Dataset, error) {
	ds, err := e.cache.Child(strings.ReplaceAll(spec.EscapeCache(name), "%", ":"))
	if err != nil {
		return ds, &sandbox.RefusedError{Reason: fmt.Sprintf("cache %q: a dataset cannot be named after it: %v", name, err),
			Hint: "give it a shorter name"}
	}
	// cache-tmp/N-c-NAME is longer than cache/c-NAME.
	if len(ds.String())+len("-tmp/-")+20 > zfs.MaxNameLen {
		return ds, &sandbox.RefusedError{Reason: fmt.Sprintf("cache %q: its name is too long", name), Hint: "give it a shorter name"}
	}
	return ds, nil
}

func (e *Engine) cacheOf(name string) *cache {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.caches[name]
	if c == nil {
		c = &cache{}
		e.caches[name] = c
	}
	return c
}

// tmpDataset names a dataset of cache-tmp that this process has not used, and
// marks it.
func (e *Engine) tmpDataset(main zfs.Dataset) (zfs.Dataset, func() error, error) {
	e.mu.Lock()
	n := e.nextTmp
	e.nextTmp++
	e.mu.Unlock()
	ds, err := e.cacheTmp.Child(fmt.Sprintf("%d-%s", n, main.Base()))
	if err != nil {
		return ds, nil, err
	}
	unmark, err := e.mark(marker{kind: markCache, name: ds.Base()})
	return ds, unmark, err
}

// cacheGroups makes POOL/cache and POOL/cache-tmp, which a store without caches
// does not have.
func (e *Engine) cacheGroups(ctx context.Context) error {
	for _, ds := range []zfs.Dataset{e.cache, e.cacheTmp} {
		e.mu.Lock()
		known := e.groups[ds]
		e.mu.Unlock()
		if known {
			continue
		}
		if err := e.fs.Create(ctx, ds, zfs.CreateOptions{}); err != nil && !zfs.IsKind(err, zfs.Exists) {
			return err
		}
		e.mu.Lock()
		e.groups[ds] = true
		e.mu.Unlock()
	}
	return nil
}

func (e *Engine) useCache(ctx context.Context, cfg sandbox.Config, name, target string) (*cacheUse, error) {
	main, err := e.cacheDataset(name)
	if err != nil {
		return nil, err
	}
	if err := e.cacheGroups(ctx); err != nil {
		return nil, err
	}
	c := e.cacheOf(name)
	c.mu.Lock()
	defer c.mu.Unlock()
	tmp, unmark, err := e.tmpDataset(main)
	if err != nil {
		return nil, err
	}
	clone := func() error { return e.fs.Clone(ctx, main.MustSnapshot(Snap), tmp, mountpoint(target)) }
	err = clone()
	if zfs.IsKind(err, zfs.NotFound) {
		if err = e.createCache(ctx, cfg, main); err == nil {
			err = clone()
		}
	}
	if zfs.IsKind(err, zfs.Exists) {
		if err = e.destroy(ctx, tmp, true); err == nil {
			err = clone()
		}
	}
	if err != nil {
		cctx, cancel := cleanup(ctx)
		defer cancel()
		if left := e.destroy(cctx, tmp, true); left != nil {
			return nil, errors.Join(err, left)
		}
		return nil, errors.Join(err, unmark())
	}
	return &cacheUse{cache: c, gen: c.gen, main: main, tmp: tmp, unmark: unmark}, nil
}

// createCache makes an empty cache. One that has no snapshot was about to get it.
func (e *Engine) createCache(ctx context.Context, cfg sandbox.Config, main zfs.Dataset) error {
	if err := e.fs.Create(ctx, main, zfs.CreateOptions{}); err != nil && !zfs.IsKind(err, zfs.Exists) {
		return err
	}
	if err := e.sandbox.Own(ctx, cfg, e.rootPath+strings.TrimPrefix(main.String(), e.root.String())); err != nil {
		return err
	}
	return e.fs.Snapshot(ctx, false, main.MustSnapshot(Snap))
}

// keepCaches reports whether what a step that ended with err has put into its
// caches is kept: that of a command that ended by itself, well or not. One
// that was killed may have been in the middle of a file.
func keepCaches(err error) bool {
	var exit *sandbox.ExitError
	return err == nil || errors.As(err, &exit) && exit.Signal == ""
}

// releaseCaches ends the use of caches, innermost target first.
func (e *Engine) releaseCaches(ctx context.Context, used []*cacheUse, keep bool) error {
	var errs []error
	for _, u := range slices.Backward(used) {
		if err := e.releaseCache(ctx, u, keep); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (e *Engine) releaseCache(ctx context.Context, u *cacheUse, keep bool) error {
	u.cache.mu.Lock()
	defer u.cache.mu.Unlock()
	if keep && u.cache.gen == u.gen {
		u.cache.gen++
		return e.swapCache(ctx, u)
	}
	return e.dropCache(ctx, u)
}

// dropCache destroys a clone of a cache, which stays as it is.
func (e *Engine) dropCache(ctx context.Context, u *cacheUse) error {
	if err := e.destroy(ctx, u.tmp, true); err != nil {
		return err
	}
	return u.unmark()
}

// oldPrefix begins the name of a snapshot that a cache was cloned from before.
const oldPrefix = "old-"

// swapCache puts the clone in the cache's place. A step's result is not worth
// less because its cache could not be kept: where that fails, the cache is as
// it was, or as it was to be, and only a failure to clear up is an error.
func (e *Engine) swapCache(ctx context.Context, u *cacheUse) error {
	const lost = "cannot keep what the step has put into its cache"
	old, unmarkOld, err := e.tmpDataset(u.main)
	if err != nil {
		e.log.Warn(lost, "cache", u.main.String(), "err", err)
		return e.dropCache(ctx, u)
	}
	if err := e.exchange(ctx, u, old); err != nil {
		e.log.Warn(lost, "cache", u.main.String(), "err", err)
		for _, ds := range []zfs.Dataset{u.tmp, old} {
			if _, err := e.recoverCache(ctx, ds.Base()); err != nil {
				return err
			}
		}
		if err := e.settleCache(ctx, u.main); err != nil {
			return err
		}
	}
	return errors.Join(u.unmark(), unmarkOld())
}

// exchange moves the cache to old and the clone to where the cache was. The
// cache is missing only between the two renames; wherever this stops,
// recoverCache clears up.
func (e *Engine) exchange(ctx context.Context, u *cacheUse, old zfs.Dataset) error {
	// The time keeps the name apart from that of an earlier process.
	oldSnap, err := u.tmp.Snapshot(fmt.Sprintf(oldPrefix+"%d-%s", e.clock.Now().Unix(), old.Base()[:strings.IndexByte(old.Base(), '-')]))
	if err != nil {
		return err
	}
	snap := u.tmp.MustSnapshot(Snap)
	for _, do := range []func() error{
		func() error {
			return e.persist(ctx, u.tmp, true, func() error { return e.fs.Inherit(ctx, u.tmp, "mountpoint", false) })
		},
		// Other clones of the cache become clones of this one.
		func() error { return e.fs.Promote(ctx, u.tmp) },
		func() error { return e.fs.Rename(ctx, snap, oldSnap, zfs.RenameOptions{}) },
		func() error { return e.fs.Snapshot(ctx, false, snap) },
		func() error { return e.fs.Rename(ctx, u.main, old, zfs.RenameOptions{}) },
		func() error { return e.fs.Rename(ctx, u.tmp, u.main, zfs.RenameOptions{}) },
		func() error { return e.destroy(ctx, old, true) },
		// Deferred: other steps may still work on clones of it.
		func() error {
			return e.fs.Destroy(ctx, u.main.MustSnapshot(oldSnap.Tag()), zfs.DestroyMode{Defer: true})
		},
	} {
		if err := do(); err != nil {
			return err
		}
	}
	return nil
}

// recoverCache ends the use of a dataset of cache-tmp, wherever the exchange
// of a cache has stopped. The cache is to be settled when that is done for all
// datasets that were in use.
func (e *Engine) recoverCache(ctx context.Context, name string) (main zfs.Dataset, err error) {
	tmp, err := e.cacheTmp.Child(name)
	if err != nil {
		return main, err
	}
	_, cacheName, _ := strings.Cut(name, "-")
	if main, err = e.cache.Child(cacheName); err != nil {
		return main, err
	}
	_, err = e.fs.List(ctx, zfs.ListOptions{Roots: []zfs.Name{main}})
	if zfs.IsKind(err, zfs.NotFound) {
		// The old cache was moved away and the new one is not in its place:
		// of the two datasets, the one with a snapshot is the cache.
		_, err = e.fs.List(ctx, zfs.ListOptions{Roots: []zfs.Name{tmp.MustSnapshot(Snap)}, Types: []zfs.Type{zfs.Snapshots}})
		if err == nil {
			return main, e.fs.Rename(ctx, tmp, main, zfs.RenameOptions{})
		}
		if zfs.IsKind(err, zfs.NotFound) {
			err = e.destroy(ctx, tmp, true)
		}
		return main, err
	}
	if err != nil {
		return main, err
	}
	err = e.destroy(ctx, tmp, true)
	if zfs.IsKind(err, zfs.HasClones) {
		// Promoted, but not yet in the cache's place.
		if err = e.fs.Promote(ctx, main); err == nil {
			err = e.destroy(ctx, tmp, true)
		}
	}
	return main, err
}

// settleCache gives a cache the snapshot that it is cloned from, if an exchange
// that did not end has taken it, and destroys those that it has left: those
// that clones still need when the last of these goes. Not while something else
// may still hold a snapshot that the cache has to get back.
func (e *Engine) settleCache(ctx context.Context, main zfs.Dataset) error {
	rows, err := e.fs.List(ctx, zfs.ListOptions{Roots: []zfs.Name{main}, Recursive: true, Depth: 1, Types: []zfs.Type{zfs.Snapshots}})
	if zfs.IsKind(err, zfs.NotFound) {
		return nil // it was about to be made
	}
	if err != nil {
		return err
	}
	ready := false
	for _, row := range rows {
		snap, err := zfs.ParseSnapshot(row.Name)
		if err != nil {
			return err
		}
		ready = ready || snap.Tag() == Snap
		if strings.HasPrefix(snap.Tag(), oldPrefix) {
			if err := e.fs.Destroy(ctx, snap, zfs.DestroyMode{Defer: true}); err != nil && !zfs.IsKind(err, zfs.NotFound) {
				return err
			}
		}
	}
	if ready {
		return nil
	}
	return e.fs.Snapshot(ctx, false, main.MustSnapshot(Snap))
}
