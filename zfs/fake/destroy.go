package fake

import (
	"context"
	"slices"
	"strings"

	"obuilder.org/obuilder/zfs"
)

// DestroyOptions are those of zfs destroy.
type DestroyOptions struct {
	zfs.DestroyMode
	DryRun bool // -n: nothing is destroyed
	// Goes, when not nil, is told the name of each dataset and snapshot before
	// it goes or, for a dry run and after a failure, would go.
	Goes func(name string, would bool)
	// Frees, when not nil, is told how many bytes the snapshots hold that go
	// or would go. It is not called for a dataset.
	Frees func(bytes uint64)
	// Warns, when not nil, is told what could not be destroyed where that is no
	// failure: clones, when the destruction of a snapshot is deferred.
	Warns func(text string)
}

func (o *DestroyOptions) goes(name func() string) {
	if o.Goes != nil {
		o.Goes(name(), o.DryRun)
	}
}

// Destroy implements [zfs.FS].
func (m *Machine) Destroy(ctx context.Context, target zfs.Name, mode zfs.DestroyMode) error {
	if s, ok := target.(zfs.Snapshot); ok {
		return m.DestroySnapshots(ctx, s.Dataset(), s.Tag(), DestroyOptions{DestroyMode: mode})
	}
	ds, _ := target.(zfs.Dataset)
	return m.DestroyDataset(ctx, ds, DestroyOptions{DestroyMode: mode})
}

// DestroyDataset is zfs destroy of a file system.
func (m *Machine) DestroyDataset(ctx context.Context, ds zfs.Dataset, opts DestroyOptions) error {
	f := m.begin(ctx)
	if f == nil {
		f = m.end(m.destroyDataset(ds, opts))
	}
	if f != nil {
		return as(f, zfs.ArgvDestroy(ds, opts.DestroyMode))
	}
	return nil
}

// DestroySnapshots is zfs destroy ds@spec, where spec is names of snapshots and
// ranges of them, as "a,b%c".
func (m *Machine) DestroySnapshots(ctx context.Context, ds zfs.Dataset, spec string, opts DestroyOptions) error {
	f := m.begin(ctx)
	if f == nil {
		f = m.end(m.destroySnapshots(ds, spec, opts))
	}
	if f != nil {
		argv := zfs.ArgvDestroy(ds, opts.DestroyMode)
		argv[len(argv)-1] += "@" + spec
		return as(f, argv)
	}
	return nil
}

func (m *Machine) destroyDataset(ds zfs.Dataset, opts DestroyOptions) *failure {
	opts.Recursive = opts.Recursive || opts.Dependents
	d := m.lookup(ds.String())
	switch {
	case opts.Defer:
		return failf(zfs.Usage, "cannot open '%s': missing '@' delimiter in snapshot name", ds)
	case d == nil:
		return failf(zfs.NotFound, "cannot open '%s': dataset does not exist", ds)
	case d.parent == nil && !opts.Recursive:
		return failf(zfs.Usage, "cannot destroy '%s': operation does not apply to pools\n"+
			"use 'zfs destroy -r %[1]s' to destroy all datasets in the pool\n"+
			"use 'zpool destroy %[1]s' to destroy the pool itself", ds)
	}
	if m.asksForClones(d) {
		m.readAll()
	}
	if d.children.len() == 0 && len(d.snaps) == 0 && opts.Goes == nil && !opts.DryRun {
		if f := m.destroyHead(d, opts.Force); f != nil || d.parent != nil {
			return f
		}
	}
	if !opts.Dependents {
		if f := needsMore(d, nil, opts.Recursive); f != nil {
			return f
		}
	}
	x := destroyer{Machine: m, opts: opts}
	if f := dependents(d, nil, false, x.destroy); f != nil {
		x.add(f)
		return x.all()
	}
	x.destroy(d, nil)
	x.add(m.destroyBatch(x.batch, false))
	return x.all()
}

// asksForClones reports whether destroying d depends on what has been cloned
// from its snapshots, or from its origin.
func (m *Machine) asksForClones(d *dataset) bool {
	return m.dir != nil && slices.ContainsFunc(d.subtree(nil), func(x *dataset) bool {
		return len(x.snaps) > 0 || x.origin != nil && x.origin.deferred
	})
}

// dependents visits what has to go before a dataset or, when s is not nil, a
// snapshot of it can: children, then snapshots, each after its own dependents.
// What is reached in two ways is visited twice, unless it has gone in between.
// A dataset can depend on itself, by way of a child that has been promoted:
// there it turns back or, unless loops are allowed, fails. That is all as zfs
// does it (iter_dependents_cb in libzfs_iter.c), but for the order of children,
// of snapshots and of clones, which there is that of hash tables.
func dependents(d *dataset, s *snapshot, loops bool, visit func(d *dataset, s *snapshot)) *failure {
	w := walkDown{loops: loops, visit: visit}
	if s != nil {
		return w.clones(s)
	}
	return w.below(d)
}

type walkDown struct {
	stack []*dataset
	loops bool
	visit func(*dataset, *snapshot)
}

func (w *walkDown) below(d *dataset) *failure {
	w.stack = append(w.stack, d)
	for _, c := range d.sorted() {
		if f := w.whole(c); f != nil {
			return f
		}
	}
	for _, s := range slices.Backward(slices.Clone(d.snaps)) {
		if s.gone {
			continue
		}
		if f := w.clones(s); f != nil {
			return f
		}
		w.visit(d, s)
	}
	w.stack = w.stack[:len(w.stack)-1]
	return nil
}

// whole visits a dataset with all that depends on it.
func (w *walkDown) whole(d *dataset) *failure {
	switch {
	case d.gone:
		return nil
	case !slices.Contains(w.stack, d):
		if f := w.below(d); f != nil {
			return f
		}
		w.visit(d, nil)
	case !w.loops:
		return failf(zfs.Unknown, "cannot determine dependent datasets: recursive dependency at '%s'", d.fullName())
	}
	return nil
}

func (w *walkDown) clones(s *snapshot) *failure {
	for _, c := range s.cloneList() {
		if f := w.whole(c); f != nil {
			return f
		}
	}
	return nil
}

func (s *snapshot) cloneList() (list []*dataset) {
	for c := s.firstClone; c != nil; c = c.nextClone {
		list = append(list, c)
	}
	return list
}

// nameOf gives the name of a dataset or, when s is not nil, of a snapshot.
func nameOf(d *dataset, s *snapshot) string {
	if s != nil {
		return s.fullName()
	}
	return d.fullName()
}

// needsMore says what needs -r or, when recursive or for a snapshot, -R to be
// destroyed with its dependents.
func needsMore(d *dataset, s *snapshot, recursive bool) *failure {
	var list []string
	_ = dependents(d, s, true, func(x *dataset, t *snapshot) {
		if s != nil || x.below(d) != recursive {
			list = append(list, nameOf(x, t))
		}
	})
	switch {
	case len(list) == 0:
		return nil
	case s != nil:
		return failf(zfs.HasClones, "cannot destroy '%s': snapshot has dependent clones\nuse '-R' to destroy the following datasets:\n%s", s.fullName(), strings.Join(list, "\n"))
	case recursive:
		return failf(zfs.HasClones, "cannot destroy '%s': filesystem has dependent clones\nuse '-R' to destroy the following datasets:\n%s", d.fullName(), strings.Join(list, "\n"))
	}
	return failf(zfs.HasChildren, "cannot destroy '%s': filesystem has children\nuse '-r' to destroy the following datasets:\n%s", d.fullName(), strings.Join(list, "\n"))
}

// A destroyer destroys one thing after the other and goes on when it cannot, as
// destroy -r does.
type destroyer struct {
	*Machine
	opts  DestroyOptions
	batch []*snapshot // those that go together, before the next dataset
	failures
}

func (x *destroyer) destroy(d *dataset, s *snapshot) {
	x.opts.goes(func() string { return nameOf(d, s) })
	switch {
	case x.opts.DryRun:
	case s != nil:
		x.batch = append(x.batch, s)
	case d.parent == nil: // a pool stays, and so do its snapshots until the end
	default:
		f := x.destroyBatch(x.batch, false)
		x.batch = nil
		if f == nil {
			f = x.destroyHead(d, x.opts.Force)
		}
		x.add(f)
	}
}

// destroyHead destroys a dataset that has no snapshots.
func (m *Machine) destroyHead(d *dataset, force bool) *failure {
	if d.parent == nil {
		return nil
	}
	if d.mnt != nil {
		if f := m.detach(d, force); f != nil {
			return f
		}
	}
	return m.dropHead(d)
}

// dropHead destroys a dataset that is not mounted.
func (m *Machine) dropHead(d *dataset) *failure {
	switch {
	case d.mnt != nil: // another was mounted above it
		return failf(zfs.Busy, "cannot destroy '%s': dataset is busy", d.fullName())
	case d.children.len() > 0 || len(d.snaps) > 0:
		return failf(zfs.HasChildren, "cannot destroy '%s': dataset already exists", d.fullName()) // sic
	}
	m.removeMountpoint(d)
	m.dropDataset(d)
	return nil
}

// destroyBatch destroys snapshots: all of them or none. Those that cannot be
// destroyed now are when they can, if that is what is asked for.
func (m *Machine) destroyBatch(batch []*snapshot, deferred bool) *failure {
	var inUse *failure
	for _, s := range batch {
		if s.gone {
			continue
		}
		switch f := s.inUse(deferred); {
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
	for _, s := range batch {
		switch {
		case s.gone: // twice in the batch
		case s.firstClone != nil || s.holds() > 0:
			s.deferred = true
			m.store.moved(s)
		default:
			m.dropSnap(s)
		}
	}
	return nil
}

// inUse says why a snapshot cannot be destroyed, or not even deferred.
func (s *snapshot) inUse(deferred bool) *failure {
	switch {
	case s.open > 0 || s.holds() > 0 && !deferred:
		return failf(zfs.Busy, "cannot destroy snapshot %s: dataset is busy", s.fullName())
	case s.firstClone != nil && !deferred:
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
	d.tree, d.gone = nil, true
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
	s.gone = true
}

// matching gives the snapshots of d that spec names, each once.
func (d *dataset) matching(spec string) (list []*snapshot) {
	all := d.mentioned(spec)
	if len(all) < 2 {
		return all
	}
	for _, s := range all {
		if !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	return list
}

// mentioned gives the snapshots of d that spec names (zfs_iter_snapspec in
// libzfs_iter.c), names and ranges first%last with commas between them, as
// often as it names them.
func (d *dataset) mentioned(spec string) []*snapshot {
	one := func(name string) int {
		if len(name) > zfs.MaxNameLen-d.nameLen()-1 { // as much of it as fits after the name of d is looked for
			name = name[:zfs.MaxNameLen-d.nameLen()-1]
		}
		return d.snapIndex(name)
	}
	if !strings.ContainsAny(spec, "%,") {
		if i := one(spec); i >= 0 {
			return d.snaps[i : i+1 : i+1]
		}
		return nil
	}
	var list []*snapshot
	for part := range strings.SplitSeq(spec, ",") {
		first, last, ranged := strings.Cut(part, "%")
		if !ranged {
			if i := one(part); i >= 0 {
				list = append(list, d.snaps[i])
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
		list = append(list, d.snaps[from:to+1]...)
	}
	return list
}

// wouldFree is what the snapshots from i to j of d hold together
// (dsl_dataset_space_wouldfree in dsl_dataset.c).
func (d *dataset) wouldFree(i, j int) (bytes uint64) {
	before := d.originTxg()
	if i > 0 {
		before = d.snaps[i-1].txg
	}
	for ; i <= j; i++ {
		bytes += d.deadAfter(i).after(before)
	}
	return bytes
}

// destroySnapshots destroys the snapshots of a dataset that spec names and,
// with -r, those of all below it.
func (m *Machine) destroySnapshots(ds zfs.Dataset, spec string, opts DestroyOptions) *failure {
	opts.Recursive = opts.Recursive || opts.Dependents
	d := m.lookup(ds.String())
	if d == nil {
		return failf(zfs.NotFound, "cannot open '%s': dataset does not exist", ds)
	}
	m.readAll()
	x := destroyer{Machine: m, opts: opts}
	var list []*snapshot
	var bytes uint64
	var gather func(*dataset)
	gather = func(d *dataset) {
		found := d.matching(spec)
		if !opts.Defer && !opts.Dependents {
			for _, s := range d.mentioned(spec) {
				if f := needsMore(d, s, true); f != nil {
					x.add(f)
					x.opts.DryRun = true // from here on
				}
			}
		}
		if len(found) > 0 && (opts.Goes != nil || opts.Frees != nil) {
			bytes += x.announce(d, found)
		}
		list = append(list, found...)
		if opts.Recursive {
			for _, c := range d.sorted() {
				gather(c)
			}
		}
	}
	gather(d)
	switch {
	case x.texts != nil:
		return x.all()
	case len(list) == 0:
		return failf(zfs.NotFound, "could not find any snapshots to destroy; check snapshot names.")
	}
	if opts.Frees != nil {
		opts.Frees(bytes)
	}
	if opts.DryRun {
		return nil
	}
	if opts.Dependents {
		for _, s := range list {
			if f := dependents(s.ds, s, false, x.destroy); f != nil {
				x.add(f)
				return x.all()
			}
		}
		if f := m.destroyBatch(x.batch, false); f != nil {
			x.add(f)
			return x.all()
		}
	}
	f := m.destroyBatch(list, opts.Defer)
	if f == nil && x.texts != nil { // zfs_do_destroy knows of the last failure only
		if opts.Warns != nil {
			opts.Warns(x.all().Stderr)
		}
		return nil
	}
	x.add(f)
	return x.all()
}

// announce tells of snapshots of d that go, oldest first, and gives what they hold.
func (x *destroyer) announce(d *dataset, found []*snapshot) (bytes uint64) {
	d = x.space(d)
	first := -1
	for i := 0; i <= len(d.snaps); i++ {
		switch goes := i < len(d.snaps) && slices.Contains(found, d.snaps[i]); {
		case goes:
			x.opts.goes(d.snaps[i].fullName)
			if first < 0 {
				first = i
			}
		case first >= 0:
			bytes += d.wouldFree(first, i-1)
			first = -1
		}
	}
	return bytes
}
