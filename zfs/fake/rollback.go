package fake

import (
	"context"
	"slices"
	"strings"

	"obuilder.org/obuilder/zfs"
)

// RollbackOptions are those of zfs rollback.
type RollbackOptions struct {
	Recursive  bool // -r: destroy snapshots that are more recent
	Dependents bool // -R: also clones of them
	Force      bool // -f: unmount clones by force
}

// Rollback implements [zfs.FS].
func (m *Machine) Rollback(ctx context.Context, to zfs.Snapshot, recursive bool) error {
	_, err := m.RollbackWith(ctx, to, RollbackOptions{Recursive: recursive})
	return err
}

// RollbackWith is Rollback with all that zfs rollback can do. What it says on
// standard error when it succeeds, it gives.
func (m *Machine) RollbackWith(ctx context.Context, to zfs.Snapshot, opts RollbackOptions) (says string, err error) {
	f := m.begin(ctx)
	if f == nil {
		says, f = m.rollback(to, opts)
		f = m.end(f)
	}
	if f != nil {
		return "", as(f, zfs.ArgvRollback(to, opts.Recursive))
	}
	return says, nil
}

func (m *Machine) rollback(to zfs.Snapshot, opts RollbackOptions) (says string, _ *failure) {
	s := m.lookupSnap(to)
	if s == nil {
		return "", failf(zfs.NotFound, "cannot open '%s': dataset does not exist", to)
	}
	d := s.ds
	i := slices.Index(d.snaps, s)
	if later := slices.Clone(d.snaps[i+1:]); len(later) > 0 {
		m.readAll()
		if !opts.Dependents {
			if f := blocksRollback(to, later, opts.Recursive); f != nil {
				return "", f
			}
		}
		x := cleaner{m: m, force: opts.Force}
		for _, t := range slices.Backward(later) {
			x.destroy(t)
		}
		if says = strings.Join(x.texts, "\n"); x.failed {
			return "", failf(x.kind, "%s", says)
		}
	}
	if f := m.store.rolledBack(s); f != nil {
		return "", f
	}
	ways := m.waysToMounts(d)
	d.tree, d.refd, d.dead, d.frozen = s.tree, s.refd, nil, s.txg
	d.recount()
	m.keepMounts(d, ways)
	m.store.changed(d)
	return says, nil
}

// blocksRollback says what has to be destroyed first, and is not to be.
func blocksRollback(to zfs.Snapshot, later []*snapshot, recursive bool) *failure {
	var list []string
	for _, t := range slices.Backward(later) {
		if !recursive {
			list = append(list, t.fullName())
			continue
		}
		_ = dependents(t.ds, t, true, func(d *dataset, s *snapshot) { list = append(list, nameOf(d, s)) })
	}
	switch {
	case len(list) == 0:
		return nil
	case recursive:
		return failf(zfs.HasClones, "cannot rollback to '%s': clones of previous snapshots exist\nuse '-R' to force deletion of the following clones and dependents:\n%s", to, strings.Join(list, "\n"))
	}
	return failf(zfs.HasChildren, "cannot rollback to '%s': more recent snapshots or bookmarks exist\nuse '-r' to force deletion of the following snapshots and bookmarks:\n%s", to, strings.Join(list, "\n"))
}

// A cleaner destroys snapshots in the way of a rollback, with what depends on
// them. It goes on when it cannot.
type cleaner struct {
	m      *Machine
	force  bool
	texts  []string
	kind   zfs.Kind // of the first failure
	failed bool
}

func (x *cleaner) fail(f *failure) {
	if !x.failed {
		x.kind, x.failed = f.Kind, true
	}
	x.texts = append(x.texts, f.Stderr)
}

// destroy destroys a snapshot (rollback_destroy in libzfs_dataset.c).
func (x *cleaner) destroy(s *snapshot) {
	cloned := make(map[*snapshot][]string) // the names of the clones that each had
	_ = dependents(s.ds, s, true, func(_ *dataset, t *snapshot) {
		if t != nil && t.firstClone != nil {
			for _, c := range t.cloneList() {
				cloned[t] = append(cloned[t], c.fullName())
			}
		}
	})
	f := dependents(s.ds, s, false, func(d *dataset, t *snapshot) {
		for _, name := range cloned[t] { // it asks for them again, after they have gone
			if x.m.lookup(name) == nil {
				x.texts = append(x.texts, "cannot open '"+name+"': dataset does not exist")
			}
		}
		x.dependent(d, t)
	})
	if f != nil {
		x.fail(f)
	}
	x.drop(s)
}

// dependent destroys a dataset or a snapshot. Before that it unmounts all that
// still depends on it.
func (x *cleaner) dependent(d *dataset, s *snapshot) {
	var list []affected
	add := func(d *dataset) {
		at, _ := d.mountpoint()
		list = append(list, affected{d: d, mounted: d.mnt != nil, path: at})
	}
	_ = dependents(d, s, true, func(d *dataset, s *snapshot) {
		if s == nil {
			add(d)
		}
	})
	if s == nil {
		add(d)
	}
	if f := x.m.unmountAll(list, x.force); f != nil {
		x.fail(f)
		return
	}
	if s != nil {
		x.drop(s)
	} else if f := x.m.dropHead(d); f != nil {
		x.fail(f)
	}
	list = slices.DeleteFunc(list, func(a affected) bool { return a.d.gone })
	_ = x.m.mountAll(list, false)
}

func (x *cleaner) drop(s *snapshot) {
	f := s.inUse(false)
	switch {
	case s.gone:
	case f == nil:
		x.m.dropSnap(s)
	case f.Kind == zfs.HasClones:
		x.fail(failf(f.Kind, "cannot destroy '%s': dataset already exists", s.fullName()))
	default:
		x.fail(failf(f.Kind, "cannot destroy '%s': dataset is busy", s.fullName()))
	}
}
