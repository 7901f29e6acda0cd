package fake

import (
	"io/fs"
	"slices"
	"strings"
	"syscall"
)

// A volume is contents that can be changed: the head of a dataset, or what the
// machine itself has at "/".
type volume struct {
	contents
	ds     *dataset // nil for that of the machine
	now    *uint64  // the transaction under way
	frozen uint64   // what was born until then belongs to a snapshot too
	opens  map[uint64]int
}

// rootObj is the number of the top directory. Until it is changed it has no inode.
const rootObj = 1

const chunkSize = 128 << 10 // the default recordsize

// An inode is a file, a directory or a link.
type inode struct {
	born     uint64 // this state of it
	made     uint64 // the object
	mode     fs.FileMode
	nlink    int32
	uid, gid int32
	mtime    int64 // ns
	size     int64
	data     []chunk
	target   string
}

// A chunk is chunkSize bytes of a file, or less at its end. Missing data is zeros.
type chunk struct {
	born uint64
	data []byte
}

func (c *chunk) charge() uint64 { return roundUp(uint64(len(c.data)), sectorSize) }

func (v *volume) cow() cow { return cow{v.frozen, *v.now} }

var freshRoot = inode{mode: fs.ModeDir | 0o755, nlink: 1}

// inode gives the inode of an object, to be read only.
func (c *contents) inode(obj uint64) *inode {
	if it := c.tree.get(key{obj: obj}); it != nil {
		return it.ino
	}
	if obj == rootObj {
		return &freshRoot
	}
	return nil
}

// change gives the inode of an object, to be written to.
func (v *volume) change(obj uint64) *inode {
	ino := v.inode(obj)
	if ino.born > v.frozen {
		return ino
	}
	c := *ino
	c.born = *v.now
	c.data = slices.Clone(c.data)
	v.tree = v.cow().put(v.tree, item{key: key{obj: obj}, ino: &c})
	return &c
}

// child finds a name in a directory.
func (c *contents) child(dir uint64, name string) (obj uint64, ok bool) {
	if it := c.tree.get(key{dir, name}); it != nil {
		return it.obj, true
	}
	return 0, false
}

// names calls f for what is in a directory, in order.
func (c *contents) names(dir uint64, f func(name string, obj uint64) bool) {
	c.tree.ascend(key{dir, "\x00"}, func(it *item) bool {
		return it.key.obj == dir && f(it.name, it.obj)
	})
}

func (c *contents) empty(dir uint64) bool {
	empty := true
	c.names(dir, func(string, uint64) bool { empty = false; return false })
	return empty
}

// room reports why nothing more fits. As in ZFS, what has begun to be written
// when the limit is reached is still written.
func (v *volume) room() error {
	d := v.ds
	if d == nil {
		return nil
	}
	if d.refquota > 0 && d.refd >= d.refquota {
		return syscall.EDQUOT
	}
	if left, quota := d.left(); left == 0 {
		if quota {
			return syscall.EDQUOT
		}
		return syscall.ENOSPC
	}
	return nil
}

const maxFileName = 255 // NAME_MAX of Linux

// add makes an object and gives it a name.
func (v *volume) add(dir uint64, name string, ino inode) (uint64, error) {
	if len(name) > maxFileName {
		return 0, syscall.ENAMETOOLONG
	}
	if err := v.room(); err != nil {
		return 0, err
	}
	return v.put(dir, name, ino), nil
}

func (v *volume) put(dir uint64, name string, ino inode) uint64 {
	*v.now++ // no two objects are of one birth
	v.next++
	obj := v.next + rootObj
	ino.born, ino.made, ino.nlink = *v.now, *v.now, 1
	v.tree = v.cow().put(v.tree, item{key: key{obj: obj}, ino: &ino})
	v.link(dir, name, obj, ino.mode, ino.mtime)
	v.ds.born(objectSize)
	return obj
}

// link gives an object of a mode a name.
func (v *volume) link(dir uint64, name string, obj uint64, mode fs.FileMode, now int64) {
	v.tree = v.cow().put(v.tree, item{key: key{dir, name}, obj: obj, kind: mode.Type()})
	v.change(dir).mtime = now
}

// unlink takes a name away, and the object with its last name when it is not open.
func (v *volume) unlink(dir uint64, name string, now int64) {
	k := key{dir, name}
	obj := v.tree.get(k).obj
	v.tree = v.cow().del(v.tree, k)
	v.change(dir).mtime = now
	if ino := v.inode(obj); ino.nlink == 1 && v.opens[obj] == 0 {
		v.free(obj, ino)
	} else {
		v.change(obj).nlink--
	}
}

// free drops an object.
func (v *volume) free(obj uint64, ino *inode) {
	for i := range ino.data {
		v.ds.killed(ino.data[i].born, ino.data[i].charge())
	}
	v.ds.killed(ino.made, objectSize)
	v.tree = v.cow().del(v.tree, key{obj: obj})
}

// truncate sets the size of a file.
func (v *volume) truncate(obj uint64, size, now int64) error {
	ino := v.change(obj)
	ino.mtime = now
	n := int((size + chunkSize - 1) / chunkSize)
	for i := n; i < len(ino.data); i++ {
		v.ds.killed(ino.data[i].born, ino.data[i].charge())
	}
	if n < len(ino.data) {
		clear(ino.data[n:])
		ino.data = ino.data[:n]
	}
	if last := int(size % chunkSize); last > 0 && n == len(ino.data) {
		if c := &ino.data[n-1]; len(c.data) > last {
			v.resize(c, last)
		}
	}
	ino.size = size
	return nil
}

// resize makes c a chunk of its own of n bytes.
func (v *volume) resize(c *chunk, n int) {
	v.ds.killed(c.born, c.charge())
	if c.born > v.frozen && n <= cap(c.data) {
		old := len(c.data)
		c.data = c.data[:n]
		if n > old {
			clear(c.data[old:])
		}
	} else {
		room := n
		if n > len(c.data) && len(c.data) > 0 { // it grows: logs are written in small pieces
			room = min(chunkSize, 2*n)
		}
		data := make([]byte, n, room)
		copy(data, c.data)
		c.data = data
	}
	c.born = *v.now
	v.ds.born(c.charge())
}

// write writes to a file. It gives how much there was room for.
func (v *volume) write(obj uint64, p []byte, off, now int64) (done int, err error) {
	ino := v.change(obj)
	ino.mtime = now
	for len(p) > 0 {
		i, at := int(off/chunkSize), int(off%chunkSize)
		n := min(len(p), chunkSize-at)
		var old, have uint64
		if i < len(ino.data) {
			have = uint64(len(ino.data[i].data))
			if ino.data[i].born > v.frozen {
				old = ino.data[i].charge()
			}
		}
		want := roundUp(max(have, uint64(at+n)), sectorSize)
		if want > old {
			if err := v.room(); err != nil {
				return done, err
			}
		}
		for len(ino.data) <= i {
			ino.data = append(ino.data, chunk{born: *v.now})
		}
		c := &ino.data[i]
		if c.born <= v.frozen || len(c.data) < at+n {
			v.resize(c, max(len(c.data), at+n))
		}
		copy(c.data[at:], p[:n])
		p, off, done = p[n:], off+int64(n), done+n
		ino.size = max(ino.size, off)
	}
	return done, nil
}

// read reads from a file, short at its end.
func (ino *inode) read(p []byte, off int64) (n int) {
	for n < len(p) && off < ino.size {
		i, at := int(off/chunkSize), int(off%chunkSize)
		piece := p[n:min(len(p), n+chunkSize-at, n+int(min(ino.size-off, chunkSize)))]
		got := 0
		if i < len(ino.data) && at < len(ino.data[i].data) {
			got = copy(piece, ino.data[i].data[at:])
		}
		clear(piece[got:])
		n, off = n+len(piece), off+int64(len(piece))
	}
	return n
}

// A mount is a volume in its place: on a directory of another.
type mount struct {
	vol   *volume
	on    *mount // what it is mounted on, nil for "/"
	at    uint64 // which directory of that
	path  string
	order uint64
	over  map[uint64]*mount // what is mounted on its directories
	open  int               // files that are open, and holds
	gone  bool              // not mounted any more
	lost  map[key]uint64    // directories that a rollback took away while something was mounted on them

	// On a machine in a directory.
	rel          string // where its link is, below what on has mounted
	below, above *mount // whose link was there, and whose is now
	nested       int    // mounts on directories of it
}

// A place is an object that a path leads to.
type place struct {
	mnt  *mount
	snap *snapshot // when it is below .zfs/snapshot
	ctl  ctlDir
	obj  uint64
}

// ctlDir is one of the directories that zfs itself makes in a mounted dataset.
type ctlDir uint8

const (
	notCtl ctlDir = iota
	ctlZFS
	ctlSnapshot
	ctlEmpty // that of a snapshot which is not mounted
)

func (p place) contents() *contents {
	if p.snap != nil {
		return &p.snap.contents
	}
	return &p.mnt.vol.contents
}

func (p place) inode() *inode {
	switch p.ctl {
	case ctlZFS, ctlSnapshot, ctlEmpty:
		return &inode{mode: fs.ModeDir | 0o777, nlink: 1}
	}
	return p.contents().inode(p.obj)
}

// readOnly reports whether what is there cannot be written to, and why.
func (p place) readOnly() error {
	switch {
	case p.ctl != notCtl:
		return syscall.EPERM
	case p.snap != nil:
		return syscall.EROFS
	case p.mnt.vol.ds != nil && p.mnt.vol.ds.is(propReadonly, "on"):
		return syscall.EROFS
	}
	return nil
}

const maxLinks = 40 // MAXSYMLINKS of Linux

// A walker follows a path.
type walker struct {
	stack  []place // from the place it began at, one a component
	links  int
	closed bool // the place it began at is all there is

	// When a walk ends because there is no entry of a name: which name, the
	// path that was to follow, and whether it was the target of a link.
	missing, rest string
	dangling      bool
}

func (w *walker) here() place { return w.stack[len(w.stack)-1] }

// top gives what is mounted on p, if anything.
func (p place) top() place {
	for p.snap == nil && p.ctl == notCtl && len(p.mnt.over) > 0 {
		over := p.mnt.over[p.obj]
		if over == nil {
			break
		}
		p = place{mnt: over, obj: rootObj}
	}
	return p
}

// lost gives the directory that had a name before a rollback.
func (p place) lost(name string) (obj uint64, ok bool) {
	if p.mnt.lost == nil || p.snap != nil {
		return 0, false
	}
	obj, ok = p.mnt.lost[key{p.obj, name}]
	return obj, ok
}

// add makes an object and gives it a name, in a directory.
func (p place) add(name string, ino inode) (place, error) {
	if _, lost := p.lost(name); lost {
		return place{}, syscall.EEXIST
	}
	obj, err := p.mnt.vol.add(p.obj, name, ino)
	return place{mnt: p.mnt, obj: obj}, err
}

// step goes to the child of a name of a directory, and says of which kind it is:
// a directory, a link or a file. That is all that a walk asks of most inodes.
func (p place) step(name string) (child place, kind fs.FileMode, err error) {
	switch p.ctl {
	case ctlZFS:
		if name == "snapshot" {
			return place{mnt: p.mnt, ctl: ctlSnapshot}, fs.ModeDir, nil
		}
	case ctlSnapshot:
		d := p.mnt.vol.ds
		i := d.snapIndex(name)
		switch {
		case i < 0:
		case d.pool.noAutomount:
			return place{mnt: p.mnt, ctl: ctlEmpty}, fs.ModeDir, nil
		default:
			return place{mnt: p.mnt, snap: d.snaps[i], obj: rootObj}, fs.ModeDir, nil
		}
	case notCtl:
		if name == ".zfs" && p.obj == rootObj && p.snap == nil && p.mnt.vol.ds != nil {
			return place{mnt: p.mnt, ctl: ctlZFS}, fs.ModeDir, nil
		}
		if obj, lost := p.lost(name); lost {
			if p.mnt.over[obj] == nil {
				return place{}, 0, syscall.ENOENT
			}
			return place{mnt: p.mnt, obj: obj}, fs.ModeDir, nil
		}
		if it := p.contents().tree.get(key{p.obj, name}); it != nil {
			return place{mnt: p.mnt, snap: p.snap, obj: it.obj}, it.kind, nil
		}
	}
	return place{}, 0, syscall.ENOENT
}

// walk follows path from where the walker is. A link at the end is followed
// when last is true.
func (w *walker) walk(path string, last bool) error {
	kind := fs.ModeDir     // of where it is: it begins at a directory
	after := len(path) + 1 // of path that is not of a link, with the slash before it
	for path != "" {
		name, rest, _ := strings.Cut(path, "/")
		path = rest
		switch name {
		case "", ".":
			continue
		case "..":
			if kind != fs.ModeDir {
				return syscall.ENOTDIR
			}
			if len(w.stack) > 1 {
				w.stack = w.stack[:len(w.stack)-1]
			} else if w.closed {
				return errEscapes
			}
			continue
		}
		if kind != fs.ModeDir {
			return syscall.ENOTDIR
		}
		p, is, err := w.here().step(name)
		if err == syscall.ENOENT && len(name) > maxFileName {
			err = syscall.ENAMETOOLONG
		}
		if err != nil {
			w.missing, w.rest, w.dangling = name, rest, len(rest) >= after
			return err
		}
		p = p.top() // a directory, as is what a mount covers
		if is != fs.ModeSymlink || !last && strings.Trim(path, "/") == "" {
			w.stack = append(w.stack, p)
			kind = is
			continue
		}
		target := p.inode().target
		if w.links++; w.links > maxLinks {
			return syscall.ELOOP
		}
		if strings.HasPrefix(target, "/") {
			if w.closed {
				return errEscapes
			}
			w.stack = w.stack[:1]
		}
		after = min(after, len(path))
		if path != "" {
			path = target + "/" + path
		} else {
			path = target
		}
	}
	return nil
}

// from begins a walk at "/". It is good until the next begins.
func (m *Machine) from() *walker {
	w := &m.walker
	*w = walker{stack: append(w.stack[:0], place{mnt: m.root, obj: rootObj}.top())}
	return w
}

func (m *Machine) resolve(path string, last bool) (place, error) {
	w := m.from()
	if err := w.walk(path, last); err != nil {
		return place{}, err
	}
	p := w.here()
	m.automount(p)
	return p, nil
}

// automount mounts the snapshot that p is in, as Linux does when somebody goes
// into its directory. It stays so until something unmounts it: that it also
// ends after five minutes is not modelled.
func (m *Machine) automount(p place) {
	if p.snap != nil && !m.macOS {
		p.snap.mounted = true
	}
}
