package fake

import (
	"io/fs"
	"path"
	"slices"
	"strings"
	"syscall"

	"obuilder.org/obuilder/zfs"
)

// mountNew mounts a new dataset where it is to be, as create and clone do.
func (m *Machine) mountNew(d *dataset) *failure {
	at, _ := d.mountpoint()
	if at == "none" || at == "legacy" || !d.is(propCanmount, "on") {
		return nil
	}
	return m.mountAt(d, at)
}

// mountAt mounts d at its mount point, which is a path.
func (m *Machine) mountAt(d *dataset, at string) *failure {
	return m.mountOver(d, at, d.is(propOverlay, "on"))
}

// mountOver is mountAt which, unless over is set, refuses a directory that is
// not empty.
func (m *Machine) mountOver(d *dataset, at string, over bool) *failure {
	kind, text := m.attach(d, at, over)
	if text != "" {
		return failf(kind, "cannot mount %s", text)
	}
	return nil
}

// attach mounts d on a directory, which it makes. What it gives is empty or
// what zfs says after "cannot mount".
func (m *Machine) attach(d *dataset, at string, over bool) (zfs.Kind, string) {
	if m.dir != nil {
		return m.dir.attach(d, at, over)
	}
	w := m.from()
	err := w.walk(at, true)
	if err != nil && !(w.dangling && w.rest == "") { // zfs makes the directory when nothing is there
		if err == syscall.ENOENT {
			err = m.makeRest(w, 0o755)
		}
		if err != nil {
			return kindOfErrno(err), "'" + at + "': failed to create mountpoint: " + errnoText(err)
		}
	}
	if err == nil && !w.here().inode().mode.IsDir() {
		err = syscall.ENOTDIR
	}
	if err != nil {
		return kindOfErrno(err), "'" + d.fullName() + "': " + errnoText(err)
	}
	on := w.here()
	if on.ctl != notCtl || on.snap != nil {
		return zfs.Permission, "'" + d.fullName() + "': " + errnoText(syscall.EPERM)
	}
	if !over && (on.obj == rootObj && on.mnt != m.root || !on.contents().empty(on.obj)) {
		return zfs.Busy, "'" + at + "': directory is not empty"
	}
	m.moved++
	d.mnt = &mount{vol: &d.volume, on: on.mnt, at: on.obj, path: path.Clean(at), order: m.moved}
	on.mnt.put(on.obj, d.mnt)
	return 0, ""
}

func (m *mount) put(at uint64, over *mount) {
	if m.over == nil {
		m.over = make(map[uint64]*mount, 1)
	}
	m.over[at] = over
}

// detach unmounts what is mounted where d is. That need not be d: the last
// mount is on top, and zfs unmounts by path.
func (m *Machine) detach(d *dataset, force bool) *failure {
	if m.dir != nil {
		return m.dir.detach(d)
	}
	at := d.mnt.path
	p, err := m.resolve(at, true)
	if err != nil {
		return failf(zfs.Busy, "cannot unmount '%s': no such pool or dataset", at)
	}
	mnt := p.mnt
	if p.obj != rootObj || p.ctl != notCtl || p.snap != nil || mnt == m.root {
		return failf(zfs.Busy, "cannot unmount '%s': unmount failed", at)
	}
	if len(mnt.over) > 0 || mnt.open > 0 && !(force && m.macOS) {
		return failf(zfs.Busy, "cannot unmount '%s': pool or dataset is busy", at)
	}
	m.unhook(mnt)
	return nil
}

// unhook takes a mount out of its place.
func (m *Machine) unhook(mnt *mount) {
	delete(mnt.on.over, mnt.at)
	mnt.gone = true
	d := mnt.vol.ds
	d.mnt = nil
	for _, s := range d.snaps { // they are found through it
		s.mounted = false
	}
}

// removeMountpoint removes the directory that zfs has made for an inherited
// mount point.
func (m *Machine) removeMountpoint(d *dataset) {
	at, from := d.mountpoint()
	if from != d {
		m.rmdirMountpoint(d, at)
	}
}

func (m *Machine) rmdirMountpoint(d *dataset, at string) {
	switch {
	case at == "none" || at == "legacy" || d.is(propCanmount, "off"):
	case m.dir != nil:
		m.dir.rmdir(d, at)
	default:
		m.rmdir(at)
	}
}

// An affected dataset is one whose mount a command has to move.
type affected struct {
	d       *dataset
	mounted bool
	still   bool   // zfs takes it to be unmounted, but it was what covered it
	noauto  bool   // and not to be mounted because of its canmount
	path    string // its mount point before the command
	order   uint64 // of its mount
}

// compareAffected is the order in which mounts are moved: that of mount points
// and, where these are the same, of names (changelist_gather in
// libzfs_changelist.c).
func compareAffected(a, b affected) int {
	if c := strings.Compare(a.path, b.path); c != 0 {
		return c
	}
	return strings.Compare(a.d.fullName(), b.d.fullName())
}

// affectedBy gives d and what is below it: all of it, or just what inherits
// d's mount point.
func affectedBy(d *dataset, all bool, list []affected) []affected {
	a := affected{d: d, mounted: d.mnt != nil}
	a.path, _ = d.mountpoint()
	if a.mounted {
		a.order = d.mnt.order
	} else {
		a.noauto = d.is(propCanmount, "noauto")
	}
	list = append(list, a)
	d.children.all(func(c *dataset) {
		if _, local := c.own(propMountpoint); !local || all {
			list = affectedBy(c, all, list)
		}
	})
	return list
}

// unmountAll unmounts those of list that are mounted, the innermost first,
// and mounts them again when one of them cannot be.
func (m *Machine) unmountAll(list []affected, force bool) *failure {
	if len(list) > 1 {
		slices.SortFunc(list, func(a, b affected) int { return compareAffected(b, a) })
	}
	for i, a := range list {
		if a.d.mnt == nil {
			continue
		}
		if f := m.detach(a.d, force); f != nil {
			for _, b := range slices.Backward(list[:i]) {
				if b.mounted && b.d.mnt == nil && strings.HasPrefix(b.path, "/") {
					m.attach(b.d, b.path, true)
				}
			}
			return f
		}
		list[i].still = a.d.mnt != nil
	}
	return nil
}

// mountAll mounts those of list again that were mounted, wherever their mount
// points are now, and all of them when wasNone.
func (m *Machine) mountAll(list []affected, wasNone bool) *failure {
	if len(list) > 1 {
		slices.SortFunc(list, compareAffected)
	}
	var x failures
	for _, a := range list {
		switch at, _ := a.d.mountpoint(); {
		case at == "none" || at == "legacy" || a.d.is(propCanmount, "off") || a.noauto || !a.mounted && !wasNone:
		case a.still && at != a.d.mnt.path: // it is mounted twice from now on, which is not modelled
		case a.still:
			x.add(failf(zfs.Busy, "cannot mount '%s': mountpoint or dataset is busy", a.d.fullName()))
		case a.d.mnt == nil:
			x.add(m.mountAt(a.d, at))
		}
	}
	return x.all()
}

// waysToMounts gives the names in d of the directories that something is mounted
// on, for keepMounts.
func (m *Machine) waysToMounts(d *dataset) (ways []item) {
	if d.mnt == nil {
		return nil
	}
	for at, over := range d.mnt.over {
		rel, ok := strings.CutPrefix(over.path, d.mnt.path+"/")
		if !ok || at == rootObj {
			continue
		}
		dir := uint64(rootObj)
		for name := range strings.SplitSeq(path.Clean(rel), "/") {
			obj, ok := d.child(dir, name)
			if !ok {
				break
			}
			if obj == at {
				ways = append(ways, item{key: key{dir, name}, obj: at})
			}
			dir = obj
		}
	}
	return ways
}

// keepMounts keeps what is mounted in d after its files have become those of a
// snapshot. Where a directory has gone, what is mounted on it is reached all
// the same, as long as it is mounted: Linux still knows the name, which is not
// listed any more. After that nothing of the name can be made until d is
// mounted anew.
func (m *Machine) keepMounts(d *dataset, ways []item) {
	for _, way := range ways {
		if it := d.tree.get(way.key); it != nil && it.obj == way.obj {
			continue
		}
		if d.mnt.lost == nil {
			d.mnt.lost = make(map[key]uint64)
		}
		d.mnt.lost[way.key] = way.obj
	}
}

// mkdirAll makes a directory and those above it.
func (m *Machine) mkdirAll(name string, perm fs.FileMode) error {
	w := m.from()
	err := w.walk(name, true)
	if err == syscall.ENOENT {
		err = m.makeRest(w, perm)
	}
	if err == nil && !w.here().inode().mode.IsDir() {
		err = syscall.ENOTDIR
	}
	return err
}

// makeRest makes the directories for which a walk was too early, and ends it.
func (m *Machine) makeRest(w *walker, perm fs.FileMode) error {
	err := error(syscall.ENOENT)
	for err == syscall.ENOENT && !w.dangling {
		here := w.here()
		if err := here.readOnly(); err != nil {
			return err
		}
		made, aerr := here.add(w.missing, inode{mode: fs.ModeDir | perm&^fs.ModeType, mtime: m.now()})
		if aerr != nil {
			return aerr
		}
		w.stack = append(w.stack, made)
		if w.rest == "" {
			return nil
		}
		err = w.walk(w.rest, true)
	}
	return err
}

// rmdir removes a directory if it is empty. Its name ends in that of a dataset.
func (m *Machine) rmdir(name string) {
	dir, base := path.Split(name)
	w := m.from()
	if w.walk(dir, true) != nil {
		return
	}
	p := w.here()
	if p.readOnly() != nil {
		return
	}
	obj, ok := p.contents().child(p.obj, base)
	if !ok || p.mnt.over[obj] != nil || p.contents().inode(obj).mode&fs.ModeDir == 0 || !p.contents().empty(obj) {
		return
	}
	p.mnt.vol.unlink(p.obj, base, m.now())
}

func (m *Machine) now() int64 { return m.clock().UnixNano() }

func kindOfErrno(err error) zfs.Kind {
	switch err {
	case syscall.ENOSPC, syscall.EDQUOT:
		return zfs.NoSpace
	}
	return zfs.Unknown
}

// errnoText is what strerror(3) of Linux gives, wherever this runs.
func errnoText(err error) string {
	switch err {
	case syscall.ENOENT:
		return "No such file or directory"
	case syscall.ENOTDIR:
		return "Not a directory"
	case syscall.ENOSPC:
		return "No space left on device"
	case syscall.EDQUOT:
		return "Disk quota exceeded"
	case syscall.EROFS:
		return "Read-only file system"
	case syscall.EPERM:
		return "Operation not permitted"
	case syscall.ELOOP:
		return "Too many levels of symbolic links"
	case syscall.ENAMETOOLONG:
		return "File name too long"
	case syscall.EEXIST:
		return "File exists"
	}
	return err.Error()
}
