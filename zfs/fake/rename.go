package fake

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"obuilder.org/obuilder/zfs"
)

// Rename implements [zfs.FS].
func (m *Machine) Rename(ctx context.Context, from, to zfs.Name, opts zfs.RenameOptions) error {
	_, err := m.RenameWith(ctx, from, to, opts)
	return err
}

// RenameWith is Rename. What zfs rename says on standard error when it
// succeeds, it gives.
func (m *Machine) RenameWith(ctx context.Context, from, to zfs.Name, opts zfs.RenameOptions) (says string, err error) {
	f := m.begin(ctx)
	if f == nil {
		says, f = m.rename(from, to, opts)
		f = m.end(f)
	}
	if f != nil {
		f.Stderr = joinLines(says, f.Stderr)
		return "", as(f, zfs.ArgvRename(from, to, opts))
	}
	return says, nil
}

func joinLines(a, b string) string { return strings.Trim(a+"\n"+b, "\n") }

// usageError is the failure of a command line that zfs does not take. What it
// prints about its usage after that is left out.
func usageError(text string) *failure {
	f := failf(zfs.Usage, "%s", text)
	f.Status = 2
	return f
}

func (m *Machine) rename(from, to zfs.Name, opts zfs.RenameOptions) (says string, _ *failure) {
	source, isSnap := from.(zfs.Snapshot)
	switch {
	case opts.Recursive && opts.Parents:
		return "", usageError("-p and -r options are mutually exclusive")
	case opts.NoRemount && opts.Parents:
		return "", usageError("-u and -p options are mutually exclusive")
	case opts.Recursive && !isSnap:
		return "", usageError("source dataset for recursive rename must be a snapshot")
	case isSnap && (opts.NoRemount || opts.Parents):
		return "", failf(zfs.Usage, "cannot open '%s': snapshot delimiter '@' is not expected here", from)
	case isSnap:
		return "", m.renameSnap(source, to, opts.Recursive)
	}
	d := m.lookup(from.String())
	if d == nil {
		return "", failf(zfs.NotFound, "cannot open '%s': dataset does not exist", from)
	}
	target, ok := to.(zfs.Dataset)
	if !ok {
		return "", failf(zfs.Usage, "cannot rename to '%s': snapshot delimiter '@' is not expected here", to)
	}
	return m.renameDataset(d, from.(zfs.Dataset), target, opts)
}

func (m *Machine) renameSnap(from zfs.Snapshot, name zfs.Name, recursive bool) *failure {
	s := m.lookupSnap(from)
	if s == nil {
		return failf(zfs.NotFound, "cannot open '%s': dataset does not exist", from)
	}
	to, ok := name.(zfs.Snapshot)
	if !ok { // then it is the name in its dataset
		var err error
		if to, err = from.Dataset().Snapshot(name.String()); err != nil {
			return failf(zfs.Usage, "cannot rename to '%s': trailing slash in name", name)
		}
	}
	switch {
	case from.Dataset() != to.Dataset():
		return failf(zfs.Usage, "cannot rename to '%s': snapshots must be part of same dataset", to)
	case from == to && !recursive:
		return nil
	}
	list := []*dataset{s.ds}
	if recursive {
		list = s.ds.subtree(list[:0])
	}
	list = slices.DeleteFunc(list, func(d *dataset) bool { return d.snapIndex(from.Tag()) < 0 })
	for _, d := range list {
		switch exists := d.snapIndex(to.Tag()) >= 0; {
		case d.nameLen()+1+len(to.Tag()) > zfs.MaxNameLen:
			return failf(zfs.Usage, "cannot rename '%s': dataset name is too long", from)
		case exists && recursive:
			return failf(zfs.Exists, "cannot rename '%s': a child dataset already has a snapshot with the new name", from)
		case exists:
			return failf(zfs.Exists, "cannot rename '%s': dataset already exists", from)
		}
	}
	for _, d := range list {
		s := d.snaps[d.snapIndex(from.Tag())]
		s.name, s.mounted = to.Tag(), false
		m.store.moved(s)
	}
	return nil
}

// subtree appends d and all below it, parents first.
func (d *dataset) subtree(list []*dataset) []*dataset {
	list = append(list, d)
	d.children.all(func(c *dataset) { list = c.subtree(list) })
	return list
}

func (m *Machine) renameDataset(d *dataset, from, to zfs.Dataset, opts zfs.RenameOptions) (says string, _ *failure) {
	if opts.Parents {
		if f := m.createAncestors(to); f != nil {
			return "", f
		}
	}
	if from == to {
		return "", nil
	}
	parent, f := m.parentOf(to)
	switch {
	case f != nil:
		return "", f
	case from.Pool() != to.Pool() || d.parent == nil:
		return "", failf(zfs.Usage, "cannot rename to '%s': datasets must be within same pool", to)
	case from.Contains(to):
		return "", failf(zfs.Usage, "cannot rename to '%s': New dataset name cannot be a descendant of current dataset name", to)
	}
	var moved, inTheWay []affected
	at, _ := d.mountpoint()
	if !opts.NoRemount && at != "none" && at != "legacy" { // otherwise what is below stays mounted as well
		bare := d.mnt == nil
		moved, says = m.mountedBelow(d)
		if f := m.unmountAll(moved, opts.Force); f != nil {
			return says, f
		}
		inTheWay = moved // by now innermost first
		if bare {
			inTheWay = append(slices.Clip(moved), affected{d: d, path: at})
			slices.SortFunc(inTheWay, func(a, b affected) int { return compareAffected(b, a) })
		}
	}
	f = m.checkRename(d, parent, from, to)
	if f != nil && len(inTheWay) > 0 {
		m.removeMountpoint(inTheWay[len(inTheWay)-1].d)
	}
	if f == nil {
		for _, a := range inTheWay {
			m.removeMountpoint(a.d)
		}
		if n := len(inTheWay); n > 0 { // of the last, zfs then takes a local mount point for one that is inherited from its old name
			last := inTheWay[n-1].d
			at, _ := last.mountpoint()
			m.rmdirMountpoint(last, at)
		}
		if d.parent != parent {
			d.moveTo(parent)
		}
		d.parent.children.remove(d.name)
		d.name, d.parent = to.Base(), parent
		parent.children.add(d)
		m.store.changed(d)
	}
	if g := m.mountAll(moved, false); f == nil {
		f = g
	}
	return says, f
}

// checkRename checks what is left to be checked once all is unmounted.
func (m *Machine) checkRename(d, parent *dataset, from, to zfs.Dataset) *failure {
	if parent.children.get(to.Base()) != nil {
		return failf(zfs.Exists, "cannot rename '%s': dataset already exists", from)
	}
	longer := len(to.String()) - len(from.String())
	deeper := strings.Count(to.String(), "/") - strings.Count(from.String(), "/")
	for _, c := range d.subtree(nil) {
		name := c.fullName()
		long := len(name)
		for _, s := range c.snaps {
			long = max(long, len(name)+1+len(s.name))
		}
		if long+longer > zfs.MaxNameLen || strings.Count(name, "/")+deeper >= zfs.MaxDepth {
			return failf(zfs.Usage, "cannot rename '%s': dataset name is too long", from)
		}
	}
	return nil
}

// mountedBelow gives what is mounted of d and of all below it, but for what zfs
// does not manage, and what zfs says of the snapshots there that are mounted:
// it takes them for file systems (zfs_iter_mounted in libzfs_iter.c). Of those
// with the same mount point there is only the first that was mounted, d last
// (changelist_gather in libzfs_changelist.c).
func (m *Machine) mountedBelow(d *dataset) (list []affected, says string) {
	for _, x := range d.subtree(nil) {
		for _, s := range x.snaps {
			if s.mounted && !m.macOS {
				says = joinLines(says, "cannot open '"+s.fullName()+"': snapshot delimiter '@' is not expected here")
			}
		}
		if at, _ := x.mountpoint(); x.mnt != nil && at != "legacy" {
			list = append(list, affected{d: x, mounted: true, path: at, order: x.mnt.order})
		}
	}
	slices.SortFunc(list, func(a, b affected) int {
		switch d {
		case a.d:
			return 1
		case b.d:
			return -1
		}
		return cmp.Compare(a.order, b.order)
	})
	return oneEach(list), says
}

// oneEach leaves the first of list for each mount point.
func oneEach(list []affected) []affected {
	if len(list) < 2 {
		return list
	}
	seen := make(map[string]bool, len(list))
	return slices.DeleteFunc(list, func(a affected) bool {
		again := seen[a.path]
		seen[a.path] = true
		return again
	})
}
