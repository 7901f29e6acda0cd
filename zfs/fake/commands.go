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
		f = m.end(m.create(ds, opts))
	}
	if f != nil {
		return as(f, zfs.ArgvCreate(ds, opts))
	}
	return nil
}

func (m *Machine) create(ds zfs.Dataset, opts zfs.CreateOptions) *failure {
	parent, f := m.parentOf(ds, opts.Parents)
	if f != nil {
		return f
	}
	if parent.children.get(ds.Base()) != nil {
		if opts.Parents {
			return nil
		}
		return existsAlready(ds)
	}
	settings, f := m.parseAll("cannot create", ds.String(), opts.Properties, nil)
	if f != nil {
		return f
	}
	if f := m.checkNew(parent, ds, settings, createNeeds, emptyFS, emptyFS); f != nil {
		return f
	}
	d := m.newDataset(parent, ds.Base())
	for _, s := range settings {
		d.setLocal(s.id, s.value)
	}
	d.born(emptyFS)
	m.store.created(d)
	return m.mountCreated(d)
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

// parentOf finds the parent of what is to be made, or makes it.
func (m *Machine) parentOf(ds zfs.Dataset, create bool) (*dataset, *failure) {
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
	case !create:
		return nil, failf(zfs.NotFound, "cannot create '%s': parent does not exist", ds)
	}
	if f := m.create(name, zfs.CreateOptions{Parents: true}); f != nil {
		return nil, f
	}
	return m.lookup(name.String()), nil
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
	s := m.lookupSnap(origin)
	if s == nil {
		return failf(zfs.NotFound, "cannot open '%s': dataset does not exist", origin)
	}
	parent, f := m.parentOf(ds, false)
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

const snapshotUsage = `usage:
	snapshot [-r] [-o property=value] ... <filesystem|volume>@<snap> ...

For the property list, run: zfs set|get

For the delegated permission list, run: zfs allow|unallow`

type newSnapshot struct {
	d    *dataset
	name string
}

func (m *Machine) snapshot(recursive bool, props []zfs.Property, snaps []zfs.Snapshot) *failure {
	list := m.fresh[:0]
	for _, s := range snaps {
		d := m.lookup(s.Dataset().String())
		if d == nil {
			f := failf(zfs.NotFound, "cannot open '%s': dataset does not exist\n%s", s.Dataset(), snapshotUsage)
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
		f := failf(zfs.Usage, "missing snapshot argument\n%s", snapshotUsage)
		f.Status = 2
		return f
	}
	m.fresh = list
	none := ""
	if recursive || len(list) > 1 {
		none = "\nno snapshots were created"
	}
	if len(snaps) > 1 {
		seen := make(map[*dataset]string, len(list))
		unique := list[:0]
		for _, n := range list {
			name, ok := seen[n.d]
			if ok && name == n.name { // given twice is given once
				continue
			}
			if ok {
				return failf(zfs.Usage, "cannot create snapshots : multiple snapshots of same fs not allowed%s", none)
			}
			seen[n.d] = n.name
			unique = append(unique, n)
		}
		list = unique
	}
	var texts []string
	kind := zfs.Unknown
	for _, n := range list {
		switch {
		case n.d.snapIndex(n.name) >= 0:
			kind = zfs.Exists
			texts = append(texts, "cannot create snapshot '"+n.d.fullName()+"@"+n.name+"': dataset already exists")
		case n.d.nameLen()+1+len(n.name) > zfs.MaxNameLen:
			kind = zfs.Usage
			texts = append(texts, "cannot create snapshot '"+n.d.fullName()+"@"+n.name+"': name is too long")
		}
	}
	if texts != nil {
		return failf(kind, "%s%s", strings.Join(texts, "\n"), none)
	}
	if list[0].d.poolFree() < snapshotNeeds*uint64(len(list)) {
		return failf(zfs.NoSpace, "cannot create snapshot '%s@%s': out of space%s", list[0].d.fullName(), list[0].name, none)
	}
	for _, n := range list { // what the head shares with it has to fit besides what is reserved
		if n.d.refreserved == 0 {
			continue
		}
		if left, _ := n.d.available(); min(n.d.refreserved, n.d.written()) > left {
			return failf(zfs.NoSpace, "cannot create snapshot '%s@%s': out of space%s", n.d.fullName(), n.name, none)
		}
	}
	for _, p := range props {
		if !validUserProp(p.Name) {
			return failf(zfs.Usage, "cannot create snapshots : this property can not be modified for snapshots%s", none)
		}
	}
	settings, f := m.parseAll("cannot create snapshots", "", props, nil)
	if f != nil {
		return f
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
	if id == propMountpoint { // it is mounted anew even where it was not local
		moved = affectedBy(d, false, nil)
		at, _ := d.mountpoint()
		wasNone = at == "none" || at == "legacy"
		if f := m.unmountAll(moved, false); f != nil {
			m.removeMountpoint(d)
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

// Mount implements [zfs.FS].
func (m *Machine) Mount(ctx context.Context, target zfs.Name) error {
	f := m.begin(ctx)
	if f == nil {
		f = m.end(m.mountTarget(target))
	}
	if f != nil {
		return as(f, zfs.ArgvMount(target))
	}
	return nil
}

func (m *Machine) mountTarget(target zfs.Name) *failure {
	d, f := m.toMount(target)
	if f != nil {
		return f
	}
	if s, ok := target.(zfs.Snapshot); ok {
		i := d.snapIndex(s.Tag())
		switch {
		case i < 0:
			return failf(zfs.NotFound, "cannot open '%s': dataset does not exist", s)
		case d.mnt == nil:
			f := failf(zfs.NotMounted, "parent dataset '%s' must be mounted", s.Dataset())
			f.Status = 22 // EINVAL
			return f
		case d.snaps[i].mounted:
			return &failure{Kind: zfs.Mounted, Status: 16} // EBUSY; it prints nothing
		}
		d.snaps[i].mounted = true
		return nil
	}
	at, _ := d.mountpoint()
	switch {
	case at == "legacy":
		return failf(zfs.Usage, "cannot mount '%s': legacy mountpoint\nuse mount(8) to mount this filesystem", target)
	case at == "none":
		return failf(zfs.Usage, "cannot mount '%s': no mountpoint set", target)
	case d.is(propCanmount, "off"):
		return failf(zfs.Usage, "cannot mount '%s': 'canmount' property is set to 'off'", target)
	case d.mnt != nil:
		return failf(zfs.Mounted, "cannot mount '%s': filesystem already mounted", target)
	}
	return m.mountAt(d, at)
}

// toMount finds what is to be mounted or unmounted.
func (m *Machine) toMount(target zfs.Name) (*dataset, *failure) {
	ds, ok := target.(zfs.Dataset)
	if s, snap := target.(zfs.Snapshot); snap {
		if !m.macOS {
			return nil, failf(zfs.Unsupported, "cannot open '%s': snapshot delimiter '@' is not expected here", s)
		}
		ds, ok = s.Dataset(), true
	}
	d := m.lookup(ds.String())
	if !ok || d == nil {
		return nil, failf(zfs.NotFound, "cannot open '%s': dataset does not exist", target)
	}
	return d, nil
}

// Unmount implements [zfs.FS].
func (m *Machine) Unmount(ctx context.Context, target zfs.Name, force bool) error {
	f := m.begin(ctx)
	if f == nil {
		f = m.end(m.unmountTarget(target, force))
	}
	if f != nil {
		return as(f, zfs.ArgvUnmount(target, force))
	}
	return nil
}

func (m *Machine) unmountTarget(target zfs.Name, force bool) *failure {
	d, f := m.toMount(target)
	if f != nil {
		return f
	}
	if s, ok := target.(zfs.Snapshot); ok {
		i := d.snapIndex(s.Tag())
		switch {
		case i < 0:
			return failf(zfs.NotFound, "cannot open '%s': dataset does not exist", s)
		case !d.snaps[i].mounted:
			return failf(zfs.NotMounted, "cannot unmount '%s': not currently mounted", s)
		case d.snaps[i].open > 0 && !force:
			return failf(zfs.Busy, "cannot unmount '%s/.zfs/snapshot/%s': pool or dataset is busy", d.mnt.path, s.Tag())
		}
		d.snaps[i].mounted = false
		return nil
	}
	if at, _ := d.mountpoint(); at == "legacy" {
		return failf(zfs.Usage, "cannot unmount '%s': legacy mountpoint\nuse umount(8) to unmount this filesystem", target)
	}
	if d.mnt == nil {
		return failf(zfs.NotMounted, "cannot unmount '%s': not currently mounted", target)
	}
	return m.unmountAll(affectedBy(d, true, nil), force)
}

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
	for _, t := range from.snaps[:moving] {
		if d.snapIndex(t.name) >= 0 {
			return failf(zfs.Exists, "cannot promote '%s': conflicting snapshot '%s' from parent '%s'", ds, t.name, s.fullName())
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

// Rename implements [zfs.FS].
func (m *Machine) Rename(ctx context.Context, from, to zfs.Name, opts zfs.RenameOptions) error {
	f := m.begin(ctx)
	if f == nil {
		f = m.end(m.rename(from, to, opts))
	}
	if f != nil {
		return as(f, zfs.ArgvRename(from, to, opts))
	}
	return nil
}

const renameUsage = `usage:
	rename [-f] <filesystem|volume|snapshot> <filesystem|volume|snapshot>
	rename -p [-f] <filesystem|volume> <filesystem|volume>
	rename -u [-f] <filesystem> <filesystem>
	rename -r <snapshot> <snapshot>

For the property list, run: zfs set|get

For the delegated permission list, run: zfs allow|unallow`

func (m *Machine) rename(from, to zfs.Name, opts zfs.RenameOptions) *failure {
	source, isSnap := from.(zfs.Snapshot)
	target, toSnap := to.(zfs.Snapshot)
	text := ""
	switch {
	case isSnap != toSnap && isSnap:
		return failf(zfs.Usage, "cannot open '%s': missing '@' delimiter in snapshot name", to)
	case isSnap != toSnap:
		return failf(zfs.Usage, "cannot open '%s': snapshot delimiter '@' is not expected here", to)
	case opts.Recursive && !isSnap:
		text = "source dataset for recursive rename must be a snapshot"
	case opts.NoRemount && opts.Parents:
		text = "-u and -p options are mutually exclusive"
	case opts.Recursive && opts.Parents:
		text = "-p and -r options are mutually exclusive"
	case opts.Recursive && opts.NoRemount:
		text = "-u and -r options are mutually exclusive"
	}
	if text != "" {
		f := failf(zfs.Usage, "%s\n%s", text, renameUsage)
		f.Status = 2
		return f
	}
	if isSnap {
		return m.renameSnap(source, target, opts.Recursive)
	}
	return m.renameDataset(from.(zfs.Dataset), to.(zfs.Dataset), opts)
}

func (m *Machine) renameSnap(from, to zfs.Snapshot, recursive bool) *failure {
	s := m.lookupSnap(from)
	switch {
	case s == nil:
		return failf(zfs.NotFound, "cannot open '%s': dataset does not exist", from)
	case from.Dataset() != to.Dataset():
		return failf(zfs.Usage, "cannot rename to '%s': snapshots must be part of same dataset", to)
	case from == to:
		return nil
	}
	list := []*dataset{s.ds}
	if recursive {
		list = s.ds.subtree(list[:0])
	}
	for _, d := range list {
		if d.snapIndex(from.Tag()) < 0 || d.snapIndex(to.Tag()) < 0 {
			continue
		}
		if recursive {
			return failf(zfs.Exists, "cannot rename '%s': a child dataset already has a snapshot with the new name", from)
		}
		return failf(zfs.Exists, "cannot rename '%s': dataset already exists", from)
	}
	for _, d := range list {
		if i := d.snapIndex(from.Tag()); i >= 0 {
			d.snaps[i].name, d.snaps[i].mounted = to.Tag(), false
			m.store.moved(d.snaps[i])
		}
	}
	return nil
}

// subtree appends d and all below it, parents first.
func (d *dataset) subtree(list []*dataset) []*dataset {
	list = append(list, d)
	d.children.all(func(c *dataset) { list = c.subtree(list) })
	return list
}

func (m *Machine) renameDataset(from, to zfs.Dataset, opts zfs.RenameOptions) *failure {
	d := m.lookup(from.String())
	if d == nil {
		return failf(zfs.NotFound, "cannot open '%s': dataset does not exist", from)
	}
	if from == to {
		return nil
	}
	if opts.Parents && from.Pool() == to.Pool() && !from.Contains(to) {
		if _, f := m.parentOf(to, true); f != nil {
			return f
		}
	}
	parent, f := m.parentOf(to, false)
	if f != nil {
		return f
	}
	switch {
	case from.Pool() != to.Pool() || d.parent == nil:
		return failf(zfs.Usage, "cannot rename to '%s': datasets must be within same pool", to)
	case from.Contains(to):
		return failf(zfs.Usage, "cannot rename to '%s': New dataset name cannot be a descendant of current dataset name", to)
	case parent.children.get(to.Base()) != nil:
		return failf(zfs.Exists, "cannot rename '%s': dataset already exists", from)
	}
	grown := len(to.String()) - len(from.String())
	for _, c := range d.subtree(nil) {
		long := len(c.fullName())
		for _, s := range c.snaps {
			long = max(long, len(c.fullName())+1+len(s.name))
		}
		if long+grown > zfs.MaxNameLen {
			return failf(zfs.Usage, "cannot rename '%s': new name of child dataset is too long", from)
		}
	}
	var moved []affected
	if !opts.NoRemount {
		moved = affectedBy(d, true, nil)
		if f := m.unmountAll(moved, opts.Force); f != nil {
			return f
		}
		m.removeMountpoint(d)
	}
	if d.parent != parent {
		d.moveTo(parent)
	}
	d.parent.children.remove(d.name)
	d.name, d.parent = to.Base(), parent
	parent.children.add(d)
	m.store.changed(d)
	return m.mountAll(moved, false)
}

// Rollback implements [zfs.FS].
func (m *Machine) Rollback(ctx context.Context, to zfs.Snapshot, recursive bool) error {
	return m.RollbackWith(ctx, to, RollbackMode{Recursive: recursive})
}

// A RollbackMode says how far a rollback goes.
type RollbackMode struct {
	Recursive  bool // -r: destroy snapshots that are more recent
	Dependents bool // -R: also clones of them
	Force      bool // -f: unmount clones that are destroyed by force
}

// RollbackWith is Rollback with more of what zfs rollback can do.
func (m *Machine) RollbackWith(ctx context.Context, to zfs.Snapshot, mode RollbackMode) error {
	f := m.begin(ctx)
	if f == nil {
		f = m.end(m.rollback(to, mode))
	}
	if f != nil {
		return as(f, zfs.ArgvRollback(to, mode.Recursive))
	}
	return nil
}

func (m *Machine) rollback(to zfs.Snapshot, mode RollbackMode) *failure {
	s := m.lookupSnap(to)
	if s == nil {
		return failf(zfs.NotFound, "cannot open '%s': dataset does not exist", to)
	}
	d := s.ds
	i := slices.Index(d.snaps, s)
	later := d.snaps[i+1:]
	if len(later) > 0 {
		m.readAll()
	}
	var list, clones []string
	for _, t := range later {
		list = append(list, t.fullName())
		m.dependents(t, func(name string, snap bool) { clones = append(clones, name) })
	}
	switch {
	case len(later) > 0 && !mode.Recursive && !mode.Dependents:
		return failf(zfs.HasChildren, "cannot rollback to '%s': more recent snapshots or bookmarks exist\nuse '-r' to force deletion of the following snapshots and bookmarks:\n%s", to, strings.Join(list, "\n"))
	case len(clones) > 0 && !mode.Dependents:
		return failf(zfs.HasClones, "cannot rollback to '%s': clones of previous snapshots exist\nuse '-R' to force deletion of the following clones and dependents:\n%s", to, strings.Join(clones, "\n"))
	}
	var failed *failure
	for _, t := range slices.Clone(later) { // each with its clones, and whatever becomes of the others
		var order destruction
		order.addClones(t)
		f := m.destroyAll(&order, mode.Force)
		if f == nil {
			if f = t.inUse(); f != nil {
				f = failf(f.Kind, "cannot destroy '%s': dataset is busy", t.fullName())
			} else {
				m.dropSnap(t)
				continue
			}
		}
		if failed == nil {
			failed = f
		} else {
			failed.Stderr += "\n" + f.Stderr
		}
	}
	if failed != nil {
		return failed
	}
	if f := m.store.rolledBack(s); f != nil {
		return f
	}
	d.tree, d.refd, d.dead, d.frozen = s.tree, s.refd, nil, s.txg
	d.recount()
	if d.mnt != nil {
		m.keepMounts(d)
	}
	m.store.changed(d)
	return nil
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
