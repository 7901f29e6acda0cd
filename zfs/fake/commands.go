package fake

import (
	"context"
	"slices"
	"strings"

	"obuilder.org/obuilder/zfs"
)

// Each command is a method of FS, which locks the machine, and one in lower
// case, which does it. Texts and exit statuses were observed on OpenZFS 2.1.11.

// Create implements [zfs.FS].
func (m *Machine) Create(ctx context.Context, ds zfs.Dataset, opts zfs.CreateOptions) error {
	f := m.begin(ctx)
	if f == nil {
		f = m.end(m.create(ds, opts, true))
	}
	if f != nil {
		return as(f, zfs.ArgvCreate(ds, opts))
	}
	return nil
}

// CreateUnmounted is zfs create -u.
func (m *Machine) CreateUnmounted(ctx context.Context, ds zfs.Dataset, opts zfs.CreateOptions) error {
	f := m.begin(ctx)
	if f == nil {
		f = m.end(m.create(ds, opts, false))
	}
	if f != nil {
		return as(f, slices.Insert(zfs.ArgvCreate(ds, opts), 2, "-u"))
	}
	return nil
}

func (m *Machine) create(ds zfs.Dataset, opts zfs.CreateOptions, mounted bool) *failure {
	if f := twiceAny(opts.Properties); f != nil {
		return f
	}
	if opts.Parents {
		if m.lookup(ds.String()) != nil {
			return nil
		}
		if f := m.createAncestors(ds); f != nil {
			return f
		}
	}
	d, f := m.createHead(ds, opts.Properties)
	if f == nil && mounted {
		f = m.mountCreated(d)
	}
	return f
}

// createHead creates a file system and leaves it unmounted.
func (m *Machine) createHead(ds zfs.Dataset, list []zfs.Property) (*dataset, *failure) {
	parent, f := m.parentOf(ds)
	if f != nil {
		return nil, f
	}
	if parent.children.get(ds.Base()) != nil {
		return nil, existsAlready(ds)
	}
	settings, f := m.parseAll("cannot create", ds.String(), list, nil)
	if f == nil {
		f = m.checkNew(parent, ds, settings, createNeeds, emptyFS, emptyFS)
	}
	if f != nil {
		return nil, f
	}
	d := m.newDataset(parent, ds.Base())
	for _, s := range settings {
		d.setLocal(s.id, s.value)
	}
	d.born(emptyFS)
	m.store.created(d)
	return d, nil
}

// CreateAncestors creates what is missing above ds, as -p of zfs create, clone
// and rename does.
func (m *Machine) CreateAncestors(ctx context.Context, ds zfs.Dataset) error {
	return m.change(ctx, zfs.ArgvCreate(ds, zfs.CreateOptions{Parents: true}), func() *failure { return m.createAncestors(ds) })
}

func (m *Machine) createAncestors(ds zfs.Dataset) *failure {
	parent, ok := ds.Parent()
	switch {
	case !ok:
		return failf(zfs.Usage, "cannot create '%s': missing dataset name", ds)
	case m.lookup(parent.String()) != nil:
		return nil
	case m.lookup(ds.Pool()) == nil:
		return failf(zfs.NotFound, "cannot create '%s': no such pool '%s'", ds, ds.Pool())
	}
	if f := m.createAncestors(parent); f != nil {
		return f
	}
	d, f := m.createHead(parent, nil)
	if f == nil {
		f = m.mountNew(d)
	}
	return f
}

// CheckProperties is what zfs create -n checks: whether something called name,
// which need not be a name that it can have, could have properties.
func (m *Machine) CheckProperties(ctx context.Context, name string, props ...zfs.Property) error {
	f := m.look(ctx)
	if f == nil {
		_, f = m.parseAll("cannot verify", name, props, nil)
		m.mu.Unlock()
	}
	if f != nil {
		return as(f, []string{"zfs", "create", "-n", name})
	}
	return nil
}

// mountCreated mounts a new file system.
func (m *Machine) mountCreated(d *dataset) *failure {
	f := m.mountNew(d)
	if f != nil {
		f.Stderr += "\nfilesystem successfully created, but not mounted"
	}
	return f
}

func existsAlready(ds zfs.Dataset) *failure {
	return failf(zfs.Exists, "cannot create '%s': dataset already exists", ds)
}

// checkNew checks what remains to be checked before ds is made, which will use
// and refer to so many bytes.
func (m *Machine) checkNew(parent *dataset, ds zfs.Dataset, settings []setting, needs, used, refd uint64) *failure {
	if parent.poolFree() < needs {
		return failf(zfs.NoSpace, "cannot create '%s': out of space", ds)
	}
	for _, s := range settings {
		n := s.number()
		switch s.id {
		case propQuota, propRefquota:
			if s.id == propRefquota {
				used = refd
			}
			if n > 0 && n < used {
				return failf(zfs.NoSpace, "cannot create '%s': out of space", ds)
			}
		case propReservation, propRefreservation:
			if left, _ := m.space(parent).available(); n > left {
				return failf(zfs.NoSpace, "cannot create '%s': out of space", ds)
			}
			if n > 0 && m.dir != nil {
				return failf(zfs.Unsupported, notModelled+"reservations in a directory")
			}
		}
	}
	return nil
}

// parentOf finds the parent of what is to be made.
func (m *Machine) parentOf(ds zfs.Dataset) (*dataset, *failure) {
	name, ok := ds.Parent()
	if !ok {
		return nil, failf(zfs.Usage, "cannot create '%s': missing dataset name", ds)
	}
	d := m.lookup(name.String())
	switch {
	case d != nil:
		return d, nil
	case m.lookup(ds.Pool()) == nil:
		return nil, failf(zfs.NotFound, "cannot create '%s': no such pool '%s'", ds, ds.Pool())
	}
	return nil, failf(zfs.NotFound, "cannot create '%s': parent does not exist", ds)
}

// Clone implements [zfs.FS].
func (m *Machine) Clone(ctx context.Context, origin zfs.Snapshot, ds zfs.Dataset, props ...zfs.Property) error {
	f := m.begin(ctx)
	if f == nil {
		f = m.end(m.clone(origin, ds, props))
	}
	if f != nil {
		return as(f, zfs.ArgvClone(origin, ds, props...))
	}
	return nil
}

func (m *Machine) clone(origin zfs.Snapshot, ds zfs.Dataset, props []zfs.Property) *failure {
	if f := twiceAny(props); f != nil {
		return f
	}
	s := m.lookupSnap(origin)
	if s == nil {
		return failf(zfs.NotFound, "cannot open '%s': dataset does not exist", origin)
	}
	parent, f := m.parentOf(ds)
	if f != nil {
		return f
	}
	var buf [4]setting
	settings, f := m.parseAll("cannot create", ds.String(), props, buf[:0])
	if f != nil {
		return f
	}
	name := ds.Base()
	if parent.children.get(name) != nil {
		return existsAlready(ds)
	}
	if s.ds.pool != parent.pool {
		return failf(zfs.Usage, "cannot create '%s': source and target pools differ", ds)
	}
	if f := m.checkNew(parent, ds, settings, cloneNeeds, 0, s.refd); f != nil {
		return f
	}
	d := m.newDataset(parent, name)
	if len(settings) > 0 {
		d.props = make([]setting, 0, len(settings))
		for _, s := range settings {
			d.setLocal(s.id, s.value)
		}
	}
	s.addClone(d)
	d.tree, d.refd, d.frozen, d.next = s.tree, s.refd, s.txg, s.next
	m.store.cloned(d, s)
	return m.mountCreated(d)
}

// Snapshot implements [zfs.FS].
func (m *Machine) Snapshot(ctx context.Context, recursive bool, snaps ...zfs.Snapshot) error {
	return m.SnapshotWith(ctx, recursive, nil, snaps...)
}

// SnapshotWith is Snapshot with -o: properties of users that the snapshots get.
func (m *Machine) SnapshotWith(ctx context.Context, recursive bool, props []zfs.Property, snaps ...zfs.Snapshot) error {
	f := m.begin(ctx)
	if f == nil {
		f = m.end(m.snapshot(recursive, props, snaps))
	}
	if f != nil {
		return as(f, zfs.ArgvSnapshot(recursive, snaps...))
	}
	return nil
}

type newSnapshot struct {
	d    *dataset
	name string
}

func (m *Machine) snapshot(recursive bool, props []zfs.Property, snaps []zfs.Snapshot) *failure {
	if f := twiceAny(props); f != nil {
		return f
	}
	list := m.fresh[:0]
	for _, s := range snaps {
		d := m.lookup(s.Dataset().String())
		if d == nil {
			f := failf(zfs.NotFound, "cannot open '%s': dataset does not exist", s.Dataset())
			f.Status = 2
			return f
		}
		if recursive {
			list = appendBelow(list, d, s.Tag())
		} else {
			list = append(list, newSnapshot{d, s.Tag()})
		}
	}
	if len(list) == 0 {
		return usageError("missing snapshot argument")
	}
	m.fresh = list
	f := m.snapshotAll(list, props, len(snaps) > 1)
	if f != nil && (recursive || len(snaps) > 1) {
		f.Stderr += "\nno snapshots were created"
	}
	return f
}

// snapshotAll takes all of list; several says that some may be there twice.
func (m *Machine) snapshotAll(list []newSnapshot, props []zfs.Property, several bool) *failure {
	for _, n := range list {
		if n.d.nameLen()+1+len(n.name) > zfs.MaxNameLen {
			return failf(zfs.Usage, "cannot create snapshot '%s@%s': name is too long", n.d.fullName(), n.name)
		}
	}
	for _, p := range props {
		if userPropBytes(p.Name) && len(p.Name) > maxUserProp {
			return failf(zfs.Usage, "cannot create snapshots : property name '%s' is too long", p.Name)
		}
		if !validUserProp(p.Name) {
			return failf(zfs.Usage, "cannot create snapshots : this property can not be modified for snapshots")
		}
	}
	settings, f := m.parseAll("cannot create snapshots", "", props, nil)
	if f != nil {
		return f
	}
	if several {
		seen := make(map[*dataset]string, len(list))
		unique := list[:0]
		for _, n := range list {
			name, ok := seen[n.d]
			if ok && name == n.name { // given twice is given once
				continue
			}
			if ok || n.d.pool != list[0].d.pool {
				return failf(zfs.Usage, "cannot create snapshots : multiple snapshots of same fs not allowed") // sic
			}
			seen[n.d] = n.name
			unique = append(unique, n)
		}
		list = unique
	}
	var exist []string
	for _, n := range list {
		if n.d.snapIndex(n.name) >= 0 {
			exist = append(exist, "cannot create snapshot '"+n.d.fullName()+"@"+n.name+"': dataset already exists")
		}
	}
	if exist != nil {
		return failf(zfs.Exists, "%s", strings.Join(exist, "\n"))
	}
	if list[0].d.poolFree() < snapshotNeeds*uint64(len(list)) {
		return failf(zfs.NoSpace, "cannot create snapshot '%s@%s': out of space", list[0].d.fullName(), list[0].name)
	}
	for _, n := range list { // what the head shares with it has to fit besides what is reserved
		if n.d.refreserved == 0 {
			continue
		}
		if left, _ := n.d.available(); min(n.d.refreserved, n.d.written()) > left {
			return failf(zfs.NoSpace, "cannot create snapshot '%s@%s': out of space", n.d.fullName(), n.name)
		}
	}
	if f := m.store.freeze(list); f != nil {
		return f
	}
	now := m.clock().Unix()
	for _, n := range list {
		d := n.d
		s := &snapshot{ds: d, name: n.name, guid: m.rand.Uint64(), txg: m.txg, created: now, contents: d.contents}
		d.dead = nil
		d.snaps = append(d.snaps, s)
		d.frozen = m.txg
		d.refresh()
		if len(settings) > 0 {
			s.more().props = slices.Clone(settings)
		}
		m.store.snapped(s)
	}
	return nil
}

func appendBelow(list []newSnapshot, d *dataset, name string) []newSnapshot {
	list = append(list, newSnapshot{d, name})
	d.children.all(func(c *dataset) { list = appendBelow(list, c, name) })
	return list
}

// Set implements [zfs.FS].
func (m *Machine) Set(ctx context.Context, ds zfs.Dataset, props ...zfs.Property) error {
	f := m.begin(ctx)
	if f == nil {
		f = m.end(m.set(ds, props))
	}
	if f != nil {
		return as(f, zfs.ArgvSet(ds, props...))
	}
	return nil
}

const setUsage = `usage:
	set <property=value> ... <filesystem|volume|snapshot> ...`

func (m *Machine) set(ds zfs.Dataset, list []zfs.Property) *failure {
	if len(list) == 0 {
		f := failf(zfs.Usage, "missing property=value argument\n%s", setUsage)
		f.Status = 2
		return f
	}
	var buf [4]setting
	for i, p := range list { // this is noticed before the dataset is looked for
		if f := twice(p.Name, list[:i]); f != nil {
			return f
		}
	}
	d := m.lookup(ds.String())
	if d == nil {
		return failf(zfs.NotFound, "cannot open '%s': dataset does not exist", ds)
	}
	settings, f := m.parseAll("cannot set property for", ds.String(), list, buf[:0])
	if f != nil {
		return f
	}
	var moved []affected
	wasNone := false
	for _, s := range settings {
		if s.id == propMountpoint || s.id == propCanmount && s.value == "off" {
			moved = affectedBy(d, false, m.moving[:0])
			m.moving = moved
			at, _ := d.mountpoint()
			wasNone = wasNone || s.id == propMountpoint && (at == "none" || at == "legacy")
		}
	}
	if f := m.unmountAll(moved, false); f != nil {
		m.removeMountpoint(d) // it is hidden, or else not empty
		return f
	}
	var failed *failure // those that can be set are, and what was unmounted stays so
	for _, s := range settings {
		f := m.checkLimit(d, ds, s)
		switch {
		case f != nil && failed != nil:
			failed.Stderr += "\n" + f.Stderr
		case f != nil:
			failed = f
		default:
			if s.id == propMountpoint || s.id == propCanmount && s.value == "off" {
				m.removeMountpoint(d)
			}
			d.setLocal(s.id, s.value)
		}
	}
	m.store.changed(d)
	if failed != nil {
		return failed
	}
	if f := m.mountAll(moved, wasNone); f != nil {
		f.Stderr += "\nproperty may be set but unable to remount filesystem"
		return f
	}
	if n := len(settings); n > 0 && d.mnt != nil && slices.Contains(mountOptions, m.names.name(settings[n-1].id)) {
		return m.remount(d)
	}
	return nil
}

// mountOptions are the properties that are also options of a mount.
var mountOptions = []string{"atime", "devices", "exec", "nbmand", "readonly", "relatime", "setuid", "xattr"}

// remount gives a mount other options. Linux finds it by its mount point, where
// it is not when that has changed by a rename -u.
func (m *Machine) remount(d *dataset) *failure {
	at, _ := d.mountpoint()
	if m.dir != nil || !strings.HasPrefix(at, "/") || at == d.mnt.path {
		return nil
	}
	if err := m.mkdirAll(at, 0o755); err == nil {
		if p, err := m.resolve(at, true); err == nil && p.mnt.path == at && p.obj == rootObj {
			return nil // this one has got them
		}
	}
	return failf(zfs.Unknown, "cannot mount '%s': Invalid argument\nproperty may be set but unable to remount filesystem", d.fullName())
}

// twiceAny refuses properties of which one is there twice.
func twiceAny(list []zfs.Property) *failure {
	for i, p := range list {
		if f := twice(p.Name, list[:i]); f != nil {
			f.Status = 1
			return f
		}
	}
	return nil
}

// twice refuses a property that is among others by the same name.
func twice(name string, others []zfs.Property) *failure {
	for _, q := range others {
		if q.Name == name {
			f := failf(zfs.Usage, "property '%s' specified multiple times", name)
			f.Status = 255
			return f
		}
	}
	return nil
}

// checkLimit checks whether a setting fits what is used.
func (m *Machine) checkLimit(d *dataset, ds zfs.Dataset, s setting) *failure {
	n := s.number()
	reserves := s.id == propReservation || s.id == propRefreservation
	switch {
	case reserves && n > 0 && m.dir != nil:
		return failf(zfs.Unsupported, notModelled+"reservations in a directory")
	case m.fits(d, s.id, n):
		return nil
	case reserves:
		return failf(zfs.NoSpace, "cannot set property for '%s': size is greater than available space", ds)
	}
	return failf(zfs.NoSpace, "cannot set property for '%s': size is less than current used or reserved space", ds)
}

// Inherit implements [zfs.FS].
func (m *Machine) Inherit(ctx context.Context, ds zfs.Dataset, property string, recursive bool) error {
	f := m.begin(ctx)
	if f == nil {
		f = m.end(m.inherit(ds, property, recursive))
	}
	if f != nil {
		return as(f, zfs.ArgvInherit(ds, property, recursive))
	}
	return nil
}

func (m *Machine) inherit(ds zfs.Dataset, property string, recursive bool) *failure {
	id, f := m.inheritable(property, false)
	if f != nil {
		return f
	}
	d := m.lookup(ds.String())
	if d == nil {
		return failf(zfs.NotFound, "cannot open '%s': dataset does not exist", ds)
	}
	return m.inheritAll(d, id, recursive, false)
}

// inheritable finds a property that can be inherited or, when received is set,
// go back to what it was received with.
func (m *Machine) inheritable(property string, received bool) (propID, *failure) {
	id, ok := m.names.find(property, false)
	switch {
	case !ok:
		f := failf(zfs.Usage, "invalid property '%s'\nusage:\n\tinherit [-rS] <property> <filesystem|volume|snapshot> ...", property)
		f.Status = 2
		return 0, f
	case isUser(id):
		return id, nil
	case props[id].kind == readOnly, props[id].kind == once:
		return 0, failf(zfs.Permission, "%s property is read-only", property)
	case inherits(id):
		return id, nil
	case received && (property == "volsize" || property == "version"):
		return 0, failf(zfs.Usage, "'%s' property cannot be reverted to a received value", property)
	case received:
		return id, nil
	}
	text := "'" + property + "' property cannot be inherited"
	switch id {
	case propQuota, propRefquota, propReservation, propRefreservation:
		text += "\nuse 'zfs set " + property + "=none' to clear\nuse 'zfs inherit -S " + property + "' to revert to received value"
	}
	return 0, failf(zfs.Usage, "%s", text)
}

// inheritAll does it for d and, when recursive, for all below it. It goes on
// when one fails.
func (m *Machine) inheritAll(d *dataset, id propID, recursive, received bool) *failure {
	if !recursive {
		return m.inheritOne(d, id, received)
	}
	list := d.subtree(nil)
	names := make(map[*dataset]string, len(list))
	for _, x := range list {
		names[x] = x.fullName()
	}
	slices.SortFunc(list, func(a, b *dataset) int { return strings.Compare(names[a], names[b]) })
	var first *failure
	for _, x := range list {
		f := m.inheritOne(x, id, received)
		switch {
		case f == nil:
		case first == nil:
			first = f
		default:
			first.Stderr += "\n" + f.Stderr
		}
		for _, s := range x.snaps {
			m.inheritSnap(s, id, received)
		}
	}
	return first
}

func (m *Machine) inheritOne(d *dataset, id propID, received bool) *failure {
	if _, own := d.own(id); !own && !received && id != propMountpoint {
		return nil
	}
	var moved []affected
	wasNone := false
	if id == propMountpoint || id == propCanmount { // it is mounted anew even where it was not local
		moved = affectedBy(d, false, nil)
		at, _ := d.mountpoint()
		wasNone = id == propMountpoint && (at == "none" || at == "legacy")
		f := m.unmountAll(moved, false)
		m.removeMountpoint(d)
		if f != nil {
			return f
		}
	}
	d.unsetLocal(id, received)
	m.store.changed(d)
	if f := m.mountAll(moved, wasNone); f != nil {
		f.Stderr += "\nproperty may be set but unable to remount filesystem"
		return f
	}
	return nil
}

// sorted gives the children of d by name.
func (d *dataset) sorted() []*dataset {
	list := make([]*dataset, 0, d.children.len())
	d.children.all(func(c *dataset) { list = append(list, c) })
	slices.SortFunc(list, func(a, b *dataset) int { return strings.Compare(a.name, b.name) })
	return list
}

// Pool implements [zfs.FS].
func (m *Machine) Pool(ctx context.Context, pool string) (zfs.PoolStatus, error) {
	f := m.look(ctx)
	if f == nil {
		defer m.mu.Unlock()
		for _, p := range m.pools {
			if p.root.name == pool {
				return m.store.status(p)
			}
		}
		f = failf(zfs.NotFound, "cannot open '%s': no such pool", pool)
	}
	return zfs.PoolStatus{}, as(f, zfs.ArgvPool(pool))
}
