package fake

import (
	"context"
	"slices"
	"strings"

	"obuilder.org/obuilder/zfs"
)

// Destroy implements [zfs.FS].
func (m *Machine) Destroy(ctx context.Context, target zfs.Name, mode zfs.DestroyMode) error {
	f := m.begin(ctx)
	if f == nil {
		f = m.end(m.destroy(target, mode))
	}
	if f != nil {
		return as(f, zfs.ArgvDestroy(target, mode))
	}
	return nil
}

func (m *Machine) destroy(target zfs.Name, mode zfs.DestroyMode) *failure {
	mode.Recursive = mode.Recursive || mode.Dependents
	if m.asksForClones(target) {
		m.readAll()
	}
	if s, ok := target.(zfs.Snapshot); ok {
		return m.destroySnaps(s.Dataset(), s.Tag(), mode)
	}
	d, f := m.toDestroy(target, mode)
	if f != nil {
		return f
	}
	if d.children.len() == 0 && len(d.snaps) == 0 {
		return m.destroyOne(d, mode.Force)
	}
	if !mode.Dependents {
		if f := checkDependents(d, mode.Recursive); f != nil {
			return f
		}
	}
	var order destruction
	order.add(d)
	return m.destroyAll(&order, mode.Force)
}

// asksForClones reports whether destroying target depends on what has been
// cloned from it.
func (m *Machine) asksForClones(target zfs.Name) bool {
	ds, ok := target.(zfs.Dataset)
	if !ok {
		return true
	}
	d := m.lookup(ds.String())
	if m.dir == nil || d == nil {
		return false
	}
	return slices.ContainsFunc(d.subtree(nil), func(x *dataset) bool {
		return len(x.snaps) > 0 || x.origin != nil && x.origin.deferred
	})
}

// A destruction is what is to be destroyed, each after what depends on it.
type destruction struct {
	list  []*dataset
	met   map[*dataset]bool // true once it is in the list
	cycle *dataset          // depends on itself; what comes after it is not known
}

// add appends d and all that has to go with it. It is false when there is no
// order: a clone can have been renamed to be above its origin.
func (o *destruction) add(d *dataset) bool {
	if done, met := o.met[d]; met {
		if !done && o.cycle == nil {
			o.cycle = d
		}
		return done
	}
	if o.met == nil {
		o.met = make(map[*dataset]bool)
	}
	o.met[d] = false
	for _, c := range d.sorted() {
		if !o.add(c) {
			return false
		}
	}
	for _, s := range d.snaps {
		if !o.addClones(s) {
			return false
		}
	}
	o.met[d] = true
	o.list = append(o.list, d)
	return true
}

func (o *destruction) addClones(s *snapshot) bool {
	for c := s.firstClone; c != nil; c = c.nextClone {
		if !o.add(c) {
			return false
		}
	}
	return true
}

// destroyAll destroys as much as it can, as destroy -r does.
func (m *Machine) destroyAll(o *destruction, force bool) *failure {
	var texts []string
	var kind zfs.Kind
	for _, d := range o.list {
		f := m.destroyOne(d, force)
		if f == nil {
			continue
		}
		if texts == nil {
			kind = f.Kind
		}
		texts = append(texts, f.Stderr)
	}
	if o.cycle != nil {
		texts = append(texts, "cannot determine dependent datasets: recursive dependency at '"+o.cycle.fullName()+"'")
	}
	if texts != nil {
		return failf(kind, "%s", strings.Join(texts, "\n"))
	}
	return nil
}

// checkDependents refuses what needs -r or -R.
func checkDependents(d *dataset, recursive bool) *failure {
	var list []string
	var visit func(*dataset)
	show := func(of *dataset, name func() string) {
		if inside := of.below(d); inside != recursive {
			list = append(list, name())
		}
	}
	var stack []*dataset // as zfs does, which gives twice what is reached in two ways
	visit = func(x *dataset) {
		if slices.Contains(stack, x) {
			return
		}
		stack = append(stack, x)
		defer func() { stack = stack[:len(stack)-1] }()
		for _, c := range x.sorted() {
			visit(c)
			show(c, c.fullName)
		}
		for _, s := range slices.Backward(x.snaps) {
			for c := s.firstClone; c != nil; c = c.nextClone {
				visit(c)
				show(c, c.fullName)
			}
			show(x, s.fullName)
		}
	}
	visit(d)
	switch {
	case len(list) == 0:
		return nil
	case recursive:
		return failf(zfs.HasClones, "cannot destroy '%s': filesystem has dependent clones\nuse '-R' to destroy the following datasets:\n%s", d.fullName(), strings.Join(list, "\n"))
	}
	return failf(zfs.HasChildren, "cannot destroy '%s': filesystem has children\nuse '-r' to destroy the following datasets:\n%s", d.fullName(), strings.Join(list, "\n"))
}

// dependents calls f for what depends on a snapshot, in the order in which it can be destroyed.
func (m *Machine) dependents(s *snapshot, f func(name string, snap bool)) {
	var visit func(*dataset)
	seen := make(map[*dataset]bool) // a dataset can depend on itself, by way of a child
	visit = func(x *dataset) {
		if seen[x] {
			return
		}
		seen[x] = true
		for _, c := range x.sorted() {
			visit(c)
		}
		for _, s := range slices.Backward(x.snaps) {
			for c := s.firstClone; c != nil; c = c.nextClone {
				visit(c)
			}
			f(s.fullName(), true)
		}
		f(x.fullName(), false)
	}
	for c := s.firstClone; c != nil; c = c.nextClone {
		visit(c)
	}
}

// destroyOne destroys d with its snapshots. Of the top of a pool only the
// snapshots go.
func (m *Machine) destroyOne(d *dataset, force bool) *failure {
	var inUse *failure // one of them keeps all of them
	for _, s := range slices.Backward(d.snaps) {
		f := s.inUse()
		switch {
		case f == nil:
		case inUse == nil:
			inUse = f
		default:
			inUse.Stderr += "\n" + f.Stderr
		}
	}
	if inUse != nil {
		return inUse
	}
	for len(d.snaps) > 0 {
		m.dropSnap(d.snaps[len(d.snaps)-1])
	}
	if d.parent == nil {
		return nil
	}
	if d.mnt != nil {
		if f := m.detach(d, force); f != nil {
			return f
		}
	}
	if d.mnt != nil { // another was mounted above it
		return failf(zfs.Busy, "cannot destroy '%s': dataset is busy", d.fullName())
	}
	if d.children.len() > 0 {
		return failf(zfs.HasChildren, "cannot destroy '%s': dataset already exists", d.fullName()) // sic
	}
	m.removeMountpoint(d)
	m.dropDataset(d)
	return nil
}

func (s *snapshot) inUse() *failure {
	switch {
	case s.open > 0 || s.holds() > 0:
		return failf(zfs.Busy, "cannot destroy snapshot %s: dataset is busy", s.fullName())
	case s.firstClone != nil:
		return failf(zfs.HasClones, "cannot destroy snapshot %s: snapshot is cloned", s.fullName())
	}
	return nil
}

func (m *Machine) dropDataset(d *dataset) {
	origin := d.origin
	d.reserve(0, 0)
	d.charge(-int64(d.usedHead), -int64(d.usedSnap))
	if origin != nil {
		origin.removeClone(d)
	}
	d.parent.children.remove(d.name)
	m.store.destroyed(d)
	d.tree = nil
	if origin != nil && origin.deferred && origin.firstClone == nil && origin.holds() == 0 {
		m.dropSnap(origin)
	}
}

func (m *Machine) dropSnap(s *snapshot) {
	d := s.ds
	i := len(d.snaps) - 1
	if d.snaps[i] != s {
		i = slices.Index(d.snaps, s)
	}
	d.dropDead(i)
	d.snaps = slices.Delete(d.snaps, i, i+1)
	if len(d.snaps) == 0 {
		d.snaps = nil
	}
	d.frozen = d.prevTxg()
	d.refresh()
	m.store.dropped(s)
}

// matching gives the snapshots of d that spec names, oldest first for a range
// (zfs_iter_snapspec in libzfs_iter.c): names and ranges first%last with commas
// between them, each snapshot once.
func (d *dataset) matching(spec string) []*snapshot {
	var list []*snapshot
	add := func(s *snapshot) {
		if !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	for part := range strings.SplitSeq(spec, ",") {
		first, last, ranged := strings.Cut(part, "%")
		if !ranged {
			if i := d.snapIndex(part); i >= 0 {
				add(d.snaps[i])
			}
			continue
		}
		from, to := 0, len(d.snaps)-1
		if first != "" {
			from = d.snapIndex(first)
		}
		if last != "" {
			to = d.snapIndex(last)
		}
		if from < 0 || to < from {
			continue
		}
		for _, s := range d.snaps[from : to+1] {
			add(s)
		}
	}
	return list
}

// matchingBelow is matching of d and, when recursive, of all below it.
func (d *dataset) matchingBelow(spec string, recursive bool, list []*snapshot) []*snapshot {
	list = append(list, d.matching(spec)...)
	if recursive {
		for _, c := range d.sorted() {
			list = c.matchingBelow(spec, true, list)
		}
	}
	return list
}

// destroySnaps destroys the snapshots of a dataset that spec names and, with
// -r, of all below it: all of them or none.
func (m *Machine) destroySnaps(ds zfs.Dataset, spec string, mode zfs.DestroyMode) *failure {
	d := m.lookup(ds.String())
	if d == nil {
		return failf(zfs.NotFound, "cannot open '%s': dataset does not exist", ds)
	}
	list := d.matchingBelow(spec, mode.Recursive, nil)
	if len(list) == 0 {
		return failf(zfs.NotFound, "could not find any snapshots to destroy; check snapshot names.")
	}
	var texts []string
	for _, s := range list {
		if text := m.cloned(s, mode); text != "" {
			texts = append(texts, text)
		}
	}
	if texts != nil {
		return failf(zfs.HasClones, "%s", strings.Join(texts, "\n"))
	}
	if mode.Dependents {
		var order destruction
		for _, s := range list {
			if !order.addClones(s) {
				break
			}
		}
		if f := m.destroyAll(&order, mode.Force); f != nil {
			return f
		}
	}
	var inUse *failure
	for _, s := range list {
		if s.ds.snapIndex(s.name) < 0 || mode.Defer && s.open == 0 {
			continue
		}
		switch f := s.inUse(); {
		case f == nil:
		case inUse == nil:
			inUse = f
		default:
			inUse.Stderr += "\n" + f.Stderr
		}
	}
	if inUse != nil {
		return inUse
	}
	for _, s := range list {
		switch {
		case s.ds.snapIndex(s.name) < 0: // it was deferred, and has gone with its last clone
		case s.firstClone != nil || s.holds() > 0:
			s.deferred = true
			m.store.moved(s)
		default:
			m.dropSnap(s)
		}
	}
	return nil
}

// cloned says why a snapshot cannot be destroyed in this mode: because of its
// clones. It is empty when it can.
func (m *Machine) cloned(s *snapshot, mode zfs.DestroyMode) string {
	if s.firstClone == nil || mode.Defer || mode.Dependents {
		return ""
	}
	text := "cannot destroy '" + s.fullName() + "': snapshot has dependent clones\nuse '-R' to destroy the following datasets:"
	m.dependents(s, func(name string, _ bool) { text += "\n" + name })
	return text
}

// DestroySnapshots is zfs destroy ds@spec, where spec is names of snapshots
// and ranges of them, as "a,b%c".
func (m *Machine) DestroySnapshots(ctx context.Context, ds zfs.Dataset, spec string, mode zfs.DestroyMode) error {
	return m.change(ctx, []string{"zfs", "destroy", ds.String() + "@" + spec}, func() *failure {
		m.readAll()
		mode.Recursive = mode.Recursive || mode.Dependents
		return m.destroySnaps(ds, spec, mode)
	})
}

// SnapshotsIn is what a specification of snapshots means for one dataset.
type SnapshotsIn struct {
	Names    []string // oldest first
	Reclaims uint64   // bytes that their destruction would free
	Cloned   string   // what zfs says of those that cannot be destroyed because of clones
}

// SnapshotsOf gives what DestroySnapshots would destroy, by dataset, without
// those that have no such snapshots.
func (m *Machine) SnapshotsOf(ctx context.Context, ds zfs.Dataset, spec string, mode zfs.DestroyMode) ([]SnapshotsIn, error) {
	argv := []string{"zfs", "destroy", "-n", ds.String() + "@" + spec}
	if f := m.look(ctx); f != nil {
		return nil, as(f, argv)
	}
	defer m.mu.Unlock()
	m.readAll()
	top := m.lookup(ds.String())
	if top == nil {
		return nil, as(failf(zfs.NotFound, "cannot open '%s': dataset does not exist", ds), argv)
	}
	var found []SnapshotsIn
	var visit func(*dataset)
	visit = func(d *dataset) {
		var in SnapshotsIn
		list := d.matching(spec)
		for _, s := range list {
			if text := m.cloned(s, mode); text != "" {
				in.Cloned = strings.TrimPrefix(in.Cloned+"\n"+text, "\n")
			}
		}
		for i, s := range d.snaps {
			if slices.Contains(list, s) {
				in.Names = append(in.Names, s.fullName())
				in.Reclaims += d.unique(i)
			}
		}
		if len(in.Names) > 0 {
			found = append(found, in)
		}
		if mode.Recursive || mode.Dependents {
			for _, c := range d.sorted() {
				visit(c)
			}
		}
	}
	visit(top)
	return found, nil
}

// ClonesOf gives what DestroySnapshots with Dependents would destroy before
// the snapshots, in that order.
func (m *Machine) ClonesOf(ds zfs.Dataset, spec string, mode zfs.DestroyMode) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	d := m.lookup(ds.String())
	if d == nil {
		return nil
	}
	var names []string
	for _, s := range d.matchingBelow(spec, mode.Recursive || mode.Dependents, nil) {
		m.dependents(s, func(name string, _ bool) {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		})
	}
	return names
}

// CheckDestroy fails as Destroy of a dataset does before it has destroyed
// anything.
func (m *Machine) CheckDestroy(ctx context.Context, ds zfs.Dataset, mode zfs.DestroyMode) error {
	argv := zfs.ArgvDestroy(ds, mode)
	if f := m.look(ctx); f != nil {
		return as(f, argv)
	}
	defer m.mu.Unlock()
	m.readAll()
	mode.Recursive = mode.Recursive || mode.Dependents
	d, f := m.toDestroy(ds, mode)
	if f == nil && !mode.Dependents && (d.children.len() > 0 || len(d.snaps) > 0) {
		f = checkDependents(d, mode.Recursive)
	}
	if f != nil {
		return as(f, argv)
	}
	return nil
}

// toDestroy finds a dataset that can be destroyed.
func (m *Machine) toDestroy(target zfs.Name, mode zfs.DestroyMode) (*dataset, *failure) {
	d := m.lookup(target.String())
	switch {
	case mode.Defer:
		return nil, failf(zfs.Usage, "cannot open '%s': missing '@' delimiter in snapshot name", target)
	case d == nil:
		return nil, failf(zfs.NotFound, "cannot open '%s': dataset does not exist", target)
	case d.parent == nil && !mode.Recursive:
		return nil, failf(zfs.Usage, "cannot destroy '%s': operation does not apply to pools\n"+
			"use 'zfs destroy -r %[1]s' to destroy all datasets in the pool\n"+
			"use 'zpool destroy %[1]s' to destroy the pool itself", target)
	}
	return d, nil
}
