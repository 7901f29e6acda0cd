package fake

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"obuilder.org/obuilder/zfs"
)

// extra is what few snapshots have.
type extra struct {
	held  []hold
	props []setting // of users

	received receivedProps
}

type hold struct {
	tag   string
	since int64
}

func (s *snapshot) holds() int {
	if s.extra == nil {
		return 0
	}
	return len(s.extra.held)
}

func (s *snapshot) more() *extra {
	if s.extra == nil {
		s.extra = &extra{}
	}
	return s.extra
}

// own gives the value of a property that is the snapshot's own, and its source.
func (s *snapshot) own(id propID) (value, source string, ok bool) {
	if v, ok := s.local(id); ok {
		return v, "local", true
	}
	if s.extra != nil {
		value, ok = s.extra.received.visible(id)
	}
	return value, "received", ok
}

func (s *snapshot) local(id propID) (string, bool) {
	if s.extra != nil {
		for _, p := range s.extra.props {
			if p.id == id {
				return p.value, true
			}
		}
	}
	return "", false
}

// A Held is a hold of a snapshot.
type Held struct {
	Snapshot string
	Tag      string
	Since    int64 // in seconds, as Unix has them
}

// sameBelow gives the snapshots of one name: of its dataset and, when
// recursive, of all below that.
func (m *Machine) sameBelow(name zfs.Snapshot, recursive bool) ([]*snapshot, *failure) {
	d := m.lookup(name.Dataset().String())
	if d == nil {
		return nil, failf(zfs.NotFound, "cannot open '%s': dataset does not exist", name.Dataset())
	}
	var list []*snapshot
	var visit func(*dataset)
	visit = func(x *dataset) {
		if i := x.snapIndex(name.Tag()); i >= 0 {
			list = append(list, x.snaps[i])
		}
		if recursive {
			for _, c := range x.sorted() {
				visit(c)
			}
		}
	}
	visit(d)
	return list, nil
}

// maxTag is the length of the longest tag of a hold, in bytes.
const maxTag = 255

// HoldSnapshot is zfs hold [-r] tag name: the snapshot cannot be destroyed
// until it is released.
func (m *Machine) HoldSnapshot(ctx context.Context, tag string, name zfs.Snapshot, recursive bool) error {
	argv := []string{"zfs", "hold", tag, name.String()}
	return m.change(ctx, argv, func() *failure {
		list, f := m.sameBelow(name, recursive)
		switch {
		case f != nil:
			return f
		case len(list) == 0:
			return failf(zfs.NotFound, "cannot hold snapshot '%s': dataset does not exist", name)
		case tag == "":
			return failf(zfs.Usage, "cannot hold: operation not applicable to datasets of this type")
		case len(tag) > maxTag:
			return failf(zfs.Usage, "cannot hold snapshot '%s': dataset name is too long", list[0].fullName())
		}
		for _, s := range list {
			if s.held(tag) {
				return failf(zfs.Exists, "cannot hold snapshot '%s': tag already exists on this dataset", s.fullName())
			}
		}
		for _, s := range list {
			e := s.more()
			e.held = append(e.held, hold{tag, m.clock().Unix()})
			m.store.moved(s)
		}
		return nil
	})
}

func (s *snapshot) held(tag string) bool {
	return s.extra != nil && slices.ContainsFunc(s.extra.held, func(h hold) bool { return h.tag == tag })
}

// ReleaseSnapshot is zfs release [-r] tag name. A snapshot that was destroyed
// with Defer goes with its last hold.
func (m *Machine) ReleaseSnapshot(ctx context.Context, tag string, name zfs.Snapshot, recursive bool) error {
	argv := []string{"zfs", "release", tag, name.String()}
	return m.change(ctx, argv, func() *failure {
		d := m.lookup(name.Dataset().String())
		if d == nil {
			return failf(zfs.NotFound, "cannot open '%s': dataset does not exist", name.Dataset())
		}
		var list []*snapshot
		why := "" // what is said if there is none is what was wrong with the last
		var visit func(*dataset)
		visit = func(x *dataset) {
			switch i := x.snapIndex(name.Tag()); {
			case i < 0:
				why = "dataset does not exist"
			case !x.snaps[i].held(tag):
				why = "no such tag on this dataset"
			default:
				list = append(list, x.snaps[i])
			}
			if recursive {
				for _, c := range x.sorted() {
					visit(c)
				}
			}
		}
		visit(d)
		if len(list) == 0 {
			return failf(zfs.NotFound, "cannot release hold from snapshot '%s': %s", name, why)
		}
		if slices.ContainsFunc(list, func(s *snapshot) bool { return s.deferred }) {
			m.readAll() // clones keep it
		}
		for _, s := range list {
			s.extra.held = slices.DeleteFunc(s.extra.held, func(h hold) bool { return h.tag == tag })
			m.store.moved(s)
			if s.deferred && s.holds() == 0 && s.firstClone == nil {
				m.dropSnap(s)
			}
		}
		return nil
	})
}

// Holds gives the holds of a snapshot and, when recursive, of the same
// snapshot of all below its dataset.
func (m *Machine) Holds(ctx context.Context, name zfs.Snapshot, recursive bool) ([]Held, error) {
	argv := []string{"zfs", "holds", name.String()}
	f := m.look(ctx)
	if f != nil {
		return nil, as(f, argv)
	}
	defer m.mu.Unlock()
	list, f := m.sameBelow(name, recursive)
	switch {
	case recursive && f != nil:
		return nil, as(f, argv)
	case !recursive && len(list) == 0:
		return nil, as(failf(zfs.NotFound, "cannot open '%s': dataset does not exist", name), argv)
	}
	var held []Held
	for _, s := range list {
		if s.extra == nil {
			continue
		}
		for _, h := range s.extra.held {
			held = append(held, Held{s.fullName(), h.tag, h.since})
		}
	}
	slices.SortFunc(held, func(a, b Held) int {
		of, _, _ := strings.Cut(a.Snapshot, "@")
		other, _, _ := strings.Cut(b.Snapshot, "@")
		return cmp.Or(strings.Compare(of, other), strings.Compare(a.Tag, b.Tag))
	})
	return held, nil
}

// change runs a command that changes something.
func (m *Machine) change(ctx context.Context, argv []string, do func() *failure) error {
	f := m.begin(ctx)
	if f == nil {
		f = m.end(do())
	}
	if f != nil {
		return as(f, argv)
	}
	return nil
}

// SetSnapshot is zfs set on a snapshot, which has properties of users only.
func (m *Machine) SetSnapshot(ctx context.Context, name zfs.Snapshot, props ...zfs.Property) error {
	argv := []string{"zfs", "set"}
	for _, p := range props {
		argv = append(argv, p.String())
	}
	return m.change(ctx, append(argv, name.String()), func() *failure {
		s := m.lookupSnap(name)
		if s == nil {
			return failf(zfs.NotFound, "cannot open '%s': dataset does not exist", name)
		}
		const what = "cannot set property for"
		for _, p := range props {
			if !validUserProp(p.Name) && !(strings.Contains(p.Name, ":") && len(p.Name) >= maxUserProp) {
				return failf(zfs.Usage, "%s '%s': this property can not be modified for snapshots", what, name)
			}
		}
		settings, f := m.parseAll(what, name.String(), props, nil)
		if f != nil {
			return f
		}
		e := s.more()
		for _, p := range settings {
			e.props = slices.DeleteFunc(e.props, func(q setting) bool { return q.id == p.id })
			e.props = append(e.props, p)
		}
		m.store.moved(s)
		return nil
	})
}

// InheritSnapshot is zfs inherit on a snapshot. When recursive, a property that
// snapshots do not have is no error.
func (m *Machine) InheritSnapshot(ctx context.Context, name zfs.Snapshot, property string, recursive bool) error {
	return m.change(ctx, []string{"zfs", "inherit", property, name.String()}, func() *failure {
		id, f := m.inheritable(property, false)
		if f != nil {
			return f
		}
		s := m.lookupSnap(name)
		switch {
		case s == nil:
			return failf(zfs.NotFound, "cannot open '%s': dataset does not exist", name)
		case isUser(id) || props[id].ofSnap:
			m.inheritSnap(s, id, false)
		case !recursive:
			return failf(zfs.Usage, "cannot inherit %s for '%s': property doesn't apply to datasets of this type", property, name)
		}
		return nil
	})
}

func (m *Machine) inheritSnap(s *snapshot, id propID, received bool) {
	if _, _, ok := s.own(id); !ok && !received || s.extra == nil {
		return
	}
	s.extra.props = slices.DeleteFunc(s.extra.props, func(p setting) bool { return p.id == id })
	s.extra.received.hide(id, !received)
	m.store.moved(s)
}

// InheritReceived is zfs inherit -S [-r]: a property goes back to the value it
// was received with or, without one, to what it is without being set.
func (m *Machine) InheritReceived(ctx context.Context, ds zfs.Dataset, property string, recursive bool) error {
	argv := zfs.ArgvInherit(ds, property, recursive)
	return m.change(ctx, slices.Insert(argv, 2, "-S"), func() *failure {
		id, f := m.inheritable(property, true)
		if f != nil {
			return f
		}
		d := m.lookup(ds.String())
		if d == nil {
			return failf(zfs.NotFound, "cannot open '%s': dataset does not exist", ds)
		}
		return m.inheritAll(d, id, recursive, true)
	})
}

// CanInherit says why zfs inherit, or with received zfs inherit -S, does not
// take a property, whatever the dataset is.
func (m *Machine) CanInherit(property string, received bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, f := m.inheritable(property, received); f != nil {
		return as(f, []string{"zfs", "inherit", property})
	}
	return nil
}

// UserProperties gives the properties of users that a dataset or a snapshot
// has: its own, and then those that it inherits, the nearest first, by name.
func (m *Machine) UserProperties(ctx context.Context, target zfs.Name) ([]zfs.Value, error) {
	argv := []string{"zfs", "get", "all", target.String()}
	f := m.look(ctx)
	if f != nil {
		return nil, as(f, argv)
	}
	defer m.mu.Unlock()
	var names []string
	add := func(list []setting) {
		from := len(names)
		for _, p := range list {
			if name := m.names.name(p.id); isUser(p.id) && !slices.Contains(names[:from], name) {
				names = append(names, name)
			}
		}
		slices.Sort(names[from:])
	}
	var d *dataset
	switch t := target.(type) {
	case zfs.Dataset:
		d = m.lookup(t.String())
	case zfs.Snapshot:
		if s := m.lookupSnap(t); s != nil {
			d = s.ds
			add(s.more().props)
			add(s.extra.received.shown(s.extra.props))
		}
	}
	for p := d; p != nil; p = p.parent {
		add(p.props)
		add(p.received.shown(p.props))
	}
	if len(names) == 0 {
		return nil, nil
	}
	values, f := m.getAll(target, names)
	if f != nil {
		return nil, as(f, argv)
	}
	return values, nil
}

// A Mounted is a file system in its place.
type Mounted struct{ Name, Path string }

// Mounts gives what is mounted, the first that was mounted first.
func (m *Machine) Mounts() []Mounted {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []*dataset
	for _, p := range m.pools {
		list = p.root.subtree(list)
	}
	list = slices.DeleteFunc(list, func(d *dataset) bool { return d.mnt == nil })
	slices.SortFunc(list, func(a, b *dataset) int { return cmp.Compare(a.mnt.order, b.mnt.order) })
	mounts := make([]Mounted, len(list))
	for i, d := range list {
		mounts[i] = Mounted{d.fullName(), d.mnt.path}
	}
	return mounts
}

// MountsSnapshots reports whether zfs mount takes a snapshot here; see
// [SnapshotMounts].
func (m *Machine) MountsSnapshots() bool { return m.macOS }
