package engine

import (
	"context"
	"errors"
	"slices"
	"sync"

	"obuilder.org/obuilder/zfs"
)

// A reader is a result whose home is mounted for those who copy from it.
type reader struct {
	refs int // who uses this struct; guarded by Engine.mu

	mu     sync.Mutex // held while the home is mounted or unmounted
	users  int        // who reads the home
	unmark func() error
}

// homePath is where the home of a result is mounted to copy from it: not on
// the build user's home, where a step may be running.
func (e *Engine) homePath(id string) string { return e.headPath(id) + "/home" }

// openHome mounts the home of a complete result, for as long as someone reads
// it, and opens its files. A nested build's files are there.
func (e *Engine) openHome(ctx context.Context, id string, children []string) (tree zfs.Tree, release func() error, err error) {
	if !slices.Contains(children, "home") {
		return nil, nil, &StoreError{Reason: "result " + id + " has no home to copy from",
			Advice: "a nested build's files are in the home of its base image"}
	}
	if err := e.mountHome(ctx, id); err != nil {
		return nil, nil, err
	}
	tree, err = e.files.Tree(e.homePath(id))
	if err != nil {
		return nil, nil, errors.Join(err, e.unmountHome(ctx, id))
	}
	return tree, func() error { return errors.Join(tree.Close(), e.unmountHome(ctx, id)) }, nil
}

// mountHome mounts the home of a result unless it is mounted for another reader.
func (e *Engine) mountHome(ctx context.Context, id string) (err error) {
	e.mu.Lock()
	r := e.readers[id]
	if r == nil {
		r = &reader{}
		e.readers[id] = r
	}
	r.refs++
	e.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.users == 0 {
		if r.unmark, err = e.mark(marker{kind: markRead, name: id}); err == nil {
			if err = e.fs.Set(ctx, e.dataset(id).MustChild("home"), mountpoint(e.homePath(id))); err != nil {
				err = errors.Join(err, e.endReading(ctx, id, r))
			}
		}
		if err != nil {
			e.dropReader(id, r)
			return err
		}
	}
	r.users++
	return nil
}

// unmountHome undoes a mountHome.
func (e *Engine) unmountHome(ctx context.Context, id string) error {
	e.mu.Lock()
	r := e.readers[id]
	e.mu.Unlock()
	defer e.dropReader(id, r)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.users--; r.users > 0 {
		return nil
	}
	return e.endReading(ctx, id, r)
}

// endReading unmounts a home that nobody reads any more. The caller holds r.mu.
func (e *Engine) endReading(ctx context.Context, id string, r *reader) error {
	ctx, cancel := cleanup(ctx)
	defer cancel()
	// What runs as the build user runs for a step, and is nothing to kill here.
	if err := e.unmount(ctx, e.dataset(id).MustChild("home"), e.homePath(id), false); err != nil {
		return err
	}
	return r.unmark()
}

func (e *Engine) dropReader(id string, r *reader) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if r.refs--; r.refs == 0 {
		delete(e.readers, id)
	}
}
