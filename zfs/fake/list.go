package fake

import (
	"context"
	"errors"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"obuilder.org/obuilder/zfs"
)

// List implements [zfs.FS].
func (m *Machine) List(ctx context.Context, opts zfs.ListOptions) ([]zfs.Row, error) {
	f := m.look(ctx)
	var rows []zfs.Row
	if f == nil {
		rows, f = m.list(opts)
		m.mu.Unlock()
		if f == nil {
			return rows, nil
		}
	}
	return rows, as(f, zfs.ArgvList(opts))
}

// A listed thing is a dataset, when snap is negative, or a snapshot of it.
type listed struct {
	d    *dataset
	snap int
	name string // of the dataset
}

func compareListed(a, b listed) int {
	if c := strings.Compare(a.name, b.name); c != 0 {
		return c
	}
	return a.snap - b.snap
}

func (m *Machine) list(opts zfs.ListOptions) ([]zfs.Row, *failure) {
	ids, f := m.parseNames(opts.Properties, "list [-Hp] [-r|-d max] [-o property[,...]] [-s property]...\n"+
		"\t    [-S property]... [-t type[,...]] [filesystem|volume|snapshot] ...")
	if f != nil {
		return nil, f
	}
	types := opts.Types
	if len(types) == 0 {
		types = []zfs.Type{zfs.Filesystems}
	}
	for _, t := range types {
		if t != zfs.Filesystems && t != zfs.Snapshots {
			f := failf(zfs.Usage, "invalid type '%s'", t)
			f.Status = 2
			return nil, f
		}
	}
	l := lister{fs: slices.Contains(types, zfs.Filesystems), snaps: slices.Contains(types, zfs.Snapshots)}
	depth := 0
	switch {
	case opts.Recursive && opts.Depth > 0:
		depth = opts.Depth
	case opts.Recursive:
		depth = zfs.MaxDepth + 2
	case len(opts.Roots) > 0 && !l.fs:
		depth = 1 // the snapshots of a file system that is named
	}
	var texts []string
	if len(opts.Roots) == 0 {
		for _, p := range m.pools {
			l.visit(p.root, p.root.name, depth)
		}
	}
	for _, root := range opts.Roots {
		s, isSnap := root.(zfs.Snapshot)
		if isSnap && !l.snaps {
			f = failf(zfs.Usage, "cannot open '%s': snapshot delimiter '@' is not expected here", root)
			texts = append(texts, f.Stderr)
			continue
		}
		var d *dataset
		snap := -1
		if isSnap {
			if d = m.lookup(s.Dataset().String()); d != nil {
				snap = d.snapIndex(s.Tag())
			}
		} else if ds, ok := root.(zfs.Dataset); ok {
			d = m.lookup(ds.String())
		}
		switch {
		case d == nil || isSnap && snap < 0:
			f = failf(zfs.NotFound, "cannot open '%s': dataset does not exist", root)
			texts = append(texts, f.Stderr)
		case isSnap:
			l.found = append(l.found, listed{d, snap, d.fullName()})
		default:
			l.visit(d, d.fullName(), depth)
		}
	}
	if f != nil {
		f.Stderr = strings.Join(texts, "\n")
		if f.Kind != zfs.NotFound {
			return nil, f
		}
	}
	if !slices.IsSortedFunc(l.found, compareListed) { // "a-b" is before "a/b"
		slices.SortFunc(l.found, compareListed)
	}
	if len(opts.Roots) > 1 {
		l.found = slices.CompactFunc(l.found, func(a, b listed) bool { return compareListed(a, b) == 0 })
	}
	rows := make([]zfs.Row, len(l.found))
	values := make([]string, len(l.found)*len(ids))
	for i, e := range l.found {
		row := values[:len(ids):len(ids)]
		values = values[len(ids):]
		name := e.name
		if e.snap >= 0 {
			name += "@" + e.d.snaps[e.snap].name
		}
		for j, id := range ids {
			switch {
			case id == propName:
				row[j] = name
			case e.snap >= 0:
				row[j], _ = m.getSnap(e.d, e.snap, id)
			default:
				row[j], _ = m.get(e.d, id)
			}
		}
		rows[i] = zfs.Row{Name: name, Values: row}
	}
	return rows, f
}

type lister struct {
	fs, snaps bool
	found     []listed
}

// visit lists d, called name, and what is below it down to depth levels.
func (l *lister) visit(d *dataset, name string, depth int) {
	if l.fs {
		l.found = append(l.found, listed{d, -1, name})
	}
	if depth == 0 {
		return
	}
	if l.snaps {
		for i := range d.snaps {
			l.found = append(l.found, listed{d, i, name})
		}
	}
	if d.children.len() == 0 || depth == 1 && !l.fs {
		return
	}
	list := d.sorted()
	l.found = slices.Grow(l.found, len(list))
	for _, c := range list {
		l.visit(c, name+"/"+c.name, depth-1)
	}
}

// parseNames finds the properties that are asked for.
func (m *Machine) parseNames(names []string, usage string) ([]propID, *failure) {
	ids := make([]propID, len(names))
	for i, name := range names {
		id, ok := m.names.find(name, false)
		if !ok {
			f := failf(zfs.Usage, "bad property list: invalid property '%s'\nusage:\n\t%s", name, usage)
			f.Status = 2
			return nil, f
		}
		ids[i] = id
	}
	return ids, nil
}

// Get implements [zfs.FS].
func (m *Machine) Get(ctx context.Context, target zfs.Name, properties ...string) ([]zfs.Value, error) {
	f := m.look(ctx)
	if f == nil {
		var values []zfs.Value
		values, f = m.getAll(target, properties)
		m.mu.Unlock()
		if f == nil {
			return values, nil
		}
	}
	return nil, as(f, zfs.ArgvGet(target, properties...))
}

func (m *Machine) getAll(target zfs.Name, properties []string) ([]zfs.Value, *failure) {
	ids, f := m.parseNames(properties, "get [-rHp] [-d max] [-o \"all\" | field[,...]]\n"+
		"\t    [-t type[,...]] [-s source[,...]]\n"+
		"\t    <\"all\" | property[,...]> [filesystem|volume|snapshot|bookmark] ...")
	if f == nil && len(ids) == 0 {
		f = failf(zfs.Usage, "missing property argument")
		f.Status = 2
	}
	if f != nil {
		return nil, f
	}
	var d *dataset
	snap := -1
	switch t := target.(type) {
	case zfs.Dataset:
		d = m.lookup(t.String())
	case zfs.Snapshot:
		if d = m.lookup(t.Dataset().String()); d != nil {
			if snap = d.snapIndex(t.Tag()); snap < 0 {
				d = nil
			}
		}
	}
	if d == nil {
		return nil, failf(zfs.NotFound, "cannot open '%s': dataset does not exist", target)
	}
	name := target.String()
	values := make([]zfs.Value, len(ids))
	for i, id := range ids {
		v := zfs.Value{Name: name, Property: properties[i]}
		if id != notSet {
			v.Property = m.names.name(id)
		}
		if snap >= 0 {
			v.Value, v.Source = m.getSnap(d, snap, id)
		} else {
			v.Value, v.Source = m.get(d, id)
		}
		values[i] = v
	}
	return values, nil
}

// At gives the name of the file system or snapshot that a path leads into, ""
// for none. The text of an error is what strerror(3) gives.
func (m *Machine) At(path string) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	name, _, err := m.at(path)
	return name, err
}

// at is At. It also says whether the path is where that is mounted.
func (m *Machine) at(name string) (of string, top bool, err error) {
	if m.dir != nil {
		of, err = m.dir.nameAt(name)
		d := m.lookup(of)
		return of, d != nil && d.mnt != nil && d.mnt.path == path.Clean(name), err
	}
	p, err := m.resolve(name, true)
	top = p.ctl == notCtl && p.obj == rootObj
	switch {
	case err != nil:
		return "", false, errors.New(errnoText(err))
	case p.snap != nil:
		return p.snap.fullName(), top, nil
	case p.mnt.vol.ds == nil:
		return "", false, nil
	}
	return p.mnt.vol.ds.fullName(), top, nil
}

// nameAt is [Machine.At]. It goes by the name of the path: links in it are not
// followed.
func (d *directory) nameAt(name string) (string, error) {
	if _, err := os.Stat(filepath.Join(d.join("mnt"), filepath.FromSlash(name))); err != nil {
		return "", errors.New(errnoText(syscall.ENOENT))
	}
	for top := path.Clean("/" + name); ; top = path.Dir(top) {
		if x := d.mountedAt(top); x != nil {
			return x.fullName(), nil
		}
		if top == "/" {
			return "", nil
		}
	}
}

// WrittenSince is the property written@since of a dataset or snapshot: the bytes
// written to it after a snapshot of it or of what it was cloned from. ok is
// false when since is not among those.
func (m *Machine) WrittenSince(target zfs.Name, since zfs.Snapshot) (bytes uint64, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var c *contents
	var d *dataset
	before := 0 // how many snapshots of d are older than c
	switch t := target.(type) {
	case zfs.Dataset:
		if d = m.lookup(t.String()); d != nil {
			c, before = &m.space(d).contents, len(d.snaps)
		}
	case zfs.Snapshot:
		if s := m.lookupSnap(t); s != nil {
			d = s.ds
			c, before = &s.contents, slices.Index(d.snaps, s)
		}
	}
	for d != nil {
		var prev *snapshot
		if before > 0 {
			prev = d.snaps[before-1]
		} else {
			prev = d.origin
		}
		bytes += m.written(c, prev)
		if prev == nil {
			break
		}
		if prev.fullName() == since.String() {
			return bytes, true
		}
		c, d = &prev.contents, prev.ds
		before = slices.Index(d.snaps, prev)
	}
	return 0, false
}
