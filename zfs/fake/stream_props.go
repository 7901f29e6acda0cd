package fake

import (
	"slices"

	"obuilder.org/obuilder/zfs"
)

// A receivedProp is a property that came with a stream. A local value has
// precedence over it, and zfs inherit hides it.
type receivedProp struct {
	setting
	given  bool // a value came
	hidden bool
}

// receivedProps are those of a dataset or a snapshot, nil if no stream brought any.
type receivedProps []receivedProp

func (l receivedProps) find(id propID) *receivedProp {
	for i := range l {
		if l[i].id == id {
			return &l[i]
		}
	}
	return nil
}

// visible gives the value that holds where there is no local one.
func (l receivedProps) visible(id propID) (string, bool) {
	if p := l.find(id); p != nil && p.given && !p.hidden {
		return p.value, true
	}
	return "", false
}

// hide makes a property be inherited, or seen again. It does nothing where no
// stream has brought properties.
func (l *receivedProps) hide(id propID, hidden bool) {
	switch p := l.find(id); {
	case p != nil:
		p.hidden = hidden
	case hidden && *l != nil:
		*l = append(*l, receivedProp{setting: setting{id: id}, hidden: true})
	}
}

// replace takes what another stream brings.
func (l *receivedProps) replace(list []setting) {
	next := make(receivedProps, 0, len(list))
	for _, s := range list {
		old := l.find(s.id)
		next = append(next, receivedProp{setting: s, given: true, hidden: old != nil && old.hidden})
	}
	for _, p := range *l {
		if p.hidden && next.find(p.id) == nil {
			next = append(next, receivedProp{setting: setting{id: p.id}, hidden: true})
		}
	}
	*l = next
}

// own gives the value of a property that is not inherited: a local or a
// received one.
func (d *dataset) own(id propID) (string, bool) {
	if v, ok := d.local(id); ok || d.received == nil {
		return v, ok
	}
	return d.received.visible(id)
}

// ownSource says where the value of own is from.
func (d *dataset) ownSource(id propID) string {
	if _, ok := d.local(id); ok {
		return "local"
	}
	return "received"
}

// keepLimit keeps what a property limits at hand after it has changed.
func (d *dataset) keepLimit(id propID) {
	v, ok := d.own(id)
	if !ok {
		v = "0"
	}
	d.limit(id, v)
}

// receive gives d the properties that a stream brings.
func (d *dataset) receive(list []setting) {
	before := d.received
	d.received.replace(list)
	for _, p := range slices.Concat(before, d.received) {
		d.keepLimit(p.id)
	}
}

// Received gives the value that a stream has brought of a property, whether it
// holds or not.
func (m *Machine) Received(target zfs.Name, property string) (value string, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	id, known := m.names.find(property, false)
	var list receivedProps
	switch t := target.(type) {
	case zfs.Dataset:
		if d := m.lookup(t.String()); d != nil {
			list = d.received
		}
	case zfs.Snapshot:
		if s := m.lookupSnap(t); s != nil && s.extra != nil {
			list = s.extra.received
		}
	}
	if p := list.find(id); known && p != nil && p.given {
		return p.value, true
	}
	return "", false
}

// sentProps gives the properties that d itself has.
func (m *Machine) sentProps(d *dataset) []zfs.Property {
	list := m.listed(d.props, nil)
	return m.listed(d.received.shown(d.props), list)
}

func (m *Machine) sentSnapProps(s *snapshot) []zfs.Property {
	if s.extra == nil {
		return nil
	}
	list := m.listed(s.extra.props, nil)
	return m.listed(s.extra.received.shown(s.extra.props), list)
}

// shown gives those that are not hidden and not in local.
func (l receivedProps) shown(local []setting) (list []setting) {
	for _, p := range l {
		if p.given && !p.hidden && !slices.ContainsFunc(local, func(s setting) bool { return s.id == p.id }) {
			list = append(list, p.setting)
		}
	}
	return list
}

func (m *Machine) listed(settings []setting, into []zfs.Property) []zfs.Property {
	for _, s := range settings {
		into = append(into, zfs.Property{Name: m.names.name(s.id), Value: s.value})
	}
	return into
}
