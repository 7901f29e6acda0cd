package engine

import (
	"context"
	"errors"
	"slices"
	"sync"

	"obuilder.org/obuilder/zfs"
)

// A reader counts who reads the home of a result.
type reader struct {
	mu     sync.Mutex // held while it is mounted or unmounted
	users  int
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
	e.mu.Lock()
	r := e.readers[id]
	if r == nil {
		r = &reader{}
		e.readers[id] = r
	}
	e.mu.Unlock()
	home := e.dataset(id).MustChild("home")
	leave := func() error {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.users--; r.users > 0 {
			return nil
		}
		cctx, cancel := cleanup(ctx)
		defer cancel()
		if err := e.unmount(cctx, home, e.homePath(id)); err != nil {
			return err
		}
		return r.unmark()
	}
	r.mu.Lock()
	if r.users == 0 {
		if r.unmark, err = e.mark(marker{kind: markRead, name: id}); err != nil {
			r.mu.Unlock()
			return nil, nil, err
		}
	}
	r.users++
	if r.users == 1 {
		err = e.fs.Set(ctx, home, mountpoint(e.homePath(id)))
	}
	r.mu.Unlock()
	if err == nil {
		tree, err = e.files.Tree(e.homePath(id))
	}
	if err != nil {
		return nil, nil, errors.Join(err, leave())
	}
	return tree, func() error { return errors.Join(tree.Close(), leave()) }, nil
}
