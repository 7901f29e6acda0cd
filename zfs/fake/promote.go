package fake

import (
	"context"
	"slices"

	"obuilder.org/obuilder/zfs"
)

// Promote implements [zfs.FS].
func (m *Machine) Promote(ctx context.Context, ds zfs.Dataset) error {
	f := m.begin(ctx)
	if f == nil {
		f = m.end(m.promote(ds))
	}
	if f != nil {
		return as(f, zfs.ArgvPromote(ds))
	}
	return nil
}

func (m *Machine) promote(ds zfs.Dataset) *failure {
	d := m.lookup(ds.String())
	if d == nil {
		return failf(zfs.NotFound, "cannot open '%s': dataset does not exist", ds)
	}
	s := d.origin
	if s == nil {
		return failf(zfs.Usage, "cannot promote '%s': not a cloned filesystem", ds)
	}
	from := s.ds
	moving := slices.Index(from.snaps, s) + 1
	for _, t := range slices.Backward(from.snaps[:moving]) {
		if d.snapIndex(t.name) >= 0 {
			return failf(zfs.Exists, "cannot promote '%s': conflicting snapshot '%s' from parent '%s'", ds, t.name, s.fullName())
		}
	}
	for _, t := range from.snaps[:moving] {
		if d.nameLen()+1+len(t.name) > zfs.MaxNameLen {
			return failf(zfs.Usage, "cannot promote '%s': dataset name is too long", ds)
		}
	}
	origin := from.origin
	s.removeClone(d)
	if origin != nil {
		origin.removeClone(from)
		origin.addClone(d)
	}
	d.snaps = append(slices.Clone(from.snaps[:moving]), d.snaps...)
	from.snaps = slices.Clone(from.snaps[moving:])
	for _, t := range d.snaps[:moving] {
		t.ds, t.mounted = d, false
		m.store.moved(t)
	}
	s.addClone(from)
	from.recount()
	d.recount()
	m.store.changed(from)
	m.store.changed(d)
	return nil
}
