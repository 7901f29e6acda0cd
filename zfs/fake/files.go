package fake

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync"
	"syscall"
	"time"

	"obuilder.org/obuilder/zfs"
)

// Files gives what programs of the machine see: [*Files] for one in memory,
// files of this machine for one in a directory.
func (m *Machine) Files() zfs.Files {
	if m.dir != nil {
		return dirFiles{m.dir}
	}
	return &Files{m}
}

// Files is the tree of files of a machine in memory, from "/": what is mounted
// and, below that, the directories that are there without it. Permissions and
// owners are recorded but not enforced. Besides [zfs.Files] it has what it
// takes to unpack an archive.
type Files struct{ m *Machine }

var _ zfs.Files = (*Files)(nil)

var errEscapes = errors.New("path escapes from parent")

func pathError(op, name string, err error) error {
	return &fs.PathError{Op: op, Path: name, Err: err}
}

// Stat is what [fs.FileInfo].Sys gives for a file of a machine in memory.
type Stat struct {
	UID, GID int
	Links    int
}

type fileInfo struct {
	name  string
	size  int64
	mode  fs.FileMode
	mtime int64
	stat  Stat
}

func (i *fileInfo) Name() string               { return i.name }
func (i *fileInfo) Size() int64                { return i.size }
func (i *fileInfo) Mode() fs.FileMode          { return i.mode }
func (i *fileInfo) ModTime() time.Time         { return time.Unix(0, i.mtime) }
func (i *fileInfo) IsDir() bool                { return i.mode.IsDir() }
func (i *fileInfo) Sys() any                   { return &i.stat }
func (i *fileInfo) Type() fs.FileMode          { return i.mode.Type() }
func (i *fileInfo) Info() (fs.FileInfo, error) { return i, nil }

func (p place) info(name string) *fileInfo {
	ino := p.inode()
	i := &fileInfo{name, ino.size, ino.mode, ino.mtime, Stat{int(ino.uid), int(ino.gid), int(ino.nlink)}}
	if d := p.mnt.vol.ds; ino.born == 0 && d != nil {
		i.mtime = d.created * int64(time.Second)
	}
	if i.mode&fs.ModeSymlink != 0 {
		i.size = int64(len(ino.target))
	}
	return i
}

// split resolves the directory of name, giving its last component.
func (f *Files) split(name string) (dir place, base string, err error) {
	clean := path.Clean("/" + name)
	w := f.m.from()
	if err := w.walk(path.Dir(clean), true); err != nil {
		return place{}, "", err
	}
	dir = w.here()
	if !dir.inode().mode.IsDir() {
		return place{}, "", syscall.ENOTDIR
	}
	if clean == "/" {
		return dir, ".", nil
	}
	return dir, path.Base(clean), nil
}

// entry resolves name without following it, for what changes its directory.
func (f *Files) entry(name string) (dir place, base string, at place, err error) {
	dir, base, err = f.split(name)
	if err != nil {
		return
	}
	if base == "." {
		return dir, base, dir, nil
	}
	at, _, err = dir.step(base)
	if err == nil {
		at = at.top()
	}
	return
}

// OpenFile implements [zfs.Files].
func (f *Files) OpenFile(name string, flag int, perm fs.FileMode) (zfs.File, error) {
	m := f.m
	m.mu.Lock()
	defer m.mu.Unlock()
	h, err := f.open(name, flag, perm)
	if err != nil {
		return nil, pathError("open", name, err)
	}
	return h, nil
}

func (f *Files) open(name string, flag int, perm fs.FileMode) (*file, error) {
	m := f.m
	at, err := m.resolve(name, true)
	writes := flag&(os.O_WRONLY|os.O_RDWR) != 0
	switch {
	case err == nil && flag&os.O_CREATE != 0 && flag&os.O_EXCL != 0:
		return nil, syscall.EEXIST
	case err == syscall.ENOENT && flag&os.O_CREATE != 0:
		dir, base, here, err := f.entry(name)
		switch {
		case err == nil && here.inode().mode&fs.ModeSymlink != 0:
			if flag&os.O_EXCL != 0 {
				return nil, syscall.EEXIST
			}
			target := here.inode().target // a link to nowhere: make what it names
			if !strings.HasPrefix(target, "/") {
				target = path.Join(path.Dir(name), target)
			}
			if target == name {
				return nil, syscall.ELOOP
			}
			return f.open(target, flag, perm)
		case err != syscall.ENOENT || base == "": // not even the directory
			return nil, err
		}
		if err := dir.readOnly(); err != nil {
			return nil, err
		}
		at, err = dir.add(base, inode{mode: perm & fs.ModePerm, mtime: m.now()})
		if err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	}
	ino := at.inode()
	if writes {
		if ino.mode.IsDir() {
			return nil, syscall.EISDIR
		}
		if err := at.readOnly(); err != nil {
			return nil, err
		}
		if flag&os.O_TRUNC != 0 && ino.size > 0 {
			if err := at.mnt.vol.truncate(at.obj, 0, m.now()); err != nil {
				return nil, err
			}
		}
	}
	h := &file{m: m, name: name, at: at, flag: flag}
	h.hold()
	return h, nil
}

// hold makes what the file is in busy.
func (f *file) hold() {
	f.at.mnt.open++
	if f.at.snap != nil {
		f.at.snap.open++
	} else if f.at.ctl == notCtl {
		v := f.at.mnt.vol
		if v.opens == nil {
			v.opens = make(map[uint64]int)
		}
		v.opens[f.at.obj]++
	}
}

// A file is open.
type file struct {
	m      *Machine
	name   string
	at     place
	flag   int
	off    int64
	closed bool
}

// use gives the inode, or why the file cannot be used any more.
func (f *file) use() (*inode, error) {
	if f.closed {
		return nil, fs.ErrClosed
	}
	if f.at.mnt.gone {
		return nil, syscall.EIO
	}
	ino := f.at.inode()
	if ino == nil { // rolled back to when it was not there
		return nil, syscall.EIO
	}
	return ino, nil
}

func (f *file) Read(p []byte) (int, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	n, err := f.readAt(p, f.off)
	f.off += int64(n)
	return n, err
}

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if off < 0 {
		return 0, pathError("readat", f.name, errors.New("negative offset"))
	}
	n, err := f.readAt(p, off)
	if err == nil && n < len(p) {
		err = io.EOF
	}
	return n, err
}

func (f *file) readAt(p []byte, off int64) (int, error) {
	ino, err := f.use()
	switch {
	case err != nil:
	case f.flag&os.O_WRONLY != 0:
		err = syscall.EBADF
	case ino.mode.IsDir():
		err = syscall.EISDIR
	}
	if err != nil {
		return 0, pathError("read", f.name, err)
	}
	n := ino.read(p, off)
	if n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (f *file) Write(p []byte) (int, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	ino, err := f.use()
	switch {
	case err != nil:
	case f.flag&(os.O_WRONLY|os.O_RDWR) == 0:
		err = syscall.EBADF
	default:
		err = f.at.readOnly()
	}
	if err != nil {
		return 0, pathError("write", f.name, err)
	}
	if f.flag&os.O_APPEND != 0 {
		f.off = ino.size
	}
	n, err := f.at.mnt.vol.write(f.at.obj, p, f.off, f.m.now())
	f.off += int64(n)
	if err != nil {
		return n, pathError("write", f.name, err)
	}
	return n, nil
}

func (f *file) Stat() (fs.FileInfo, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if _, err := f.use(); err != nil {
		return nil, pathError("stat", f.name, err)
	}
	return f.at.info(path.Base(f.name)), nil
}

func (f *file) Sync() error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if _, err := f.use(); err != nil {
		return pathError("sync", f.name, err)
	}
	return nil
}

// Truncate sets the size of the file. What it gains is zeros, which take up no space.
func (f *file) Truncate(size int64) error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	_, err := f.use()
	switch {
	case err != nil:
	case f.flag&(os.O_WRONLY|os.O_RDWR) == 0 || size < 0:
		err = syscall.EINVAL
	default:
		err = f.at.readOnly()
	}
	if err == nil {
		err = f.at.mnt.vol.truncate(f.at.obj, size, f.m.now())
	}
	if err != nil {
		return pathError("truncate", f.name, err)
	}
	return nil
}

func (f *file) Close() error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if f.closed {
		return pathError("close", f.name, fs.ErrClosed)
	}
	f.closed = true
	f.release()
	return nil
}

// release undoes hold.
func (f *file) release() {
	f.at.mnt.open--
	if f.at.snap != nil {
		f.at.snap.open--
		return
	}
	if f.at.ctl != notCtl {
		return
	}
	v := f.at.mnt.vol
	if v.opens[f.at.obj]--; v.opens[f.at.obj] == 0 {
		delete(v.opens, f.at.obj)
		if ino := v.inode(f.at.obj); ino != nil && ino.nlink == 0 {
			v.free(f.at.obj, ino)
		}
	}
}

// ReadFile implements [zfs.Files].
func (f *Files) ReadFile(name string, max int64) ([]byte, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	at, err := f.m.resolve(name, true)
	if err != nil {
		return nil, pathError("open", name, err)
	}
	ino := at.inode()
	if ino.mode.IsDir() {
		return nil, pathError("read", name, syscall.EISDIR)
	}
	data := make([]byte, min(ino.size, max))
	ino.read(data, 0)
	if ino.size > max {
		return data, pathError("read", name, zfs.ErrTooLarge)
	}
	return data, nil
}

// MkdirAll implements [zfs.Files].
func (f *Files) MkdirAll(name string, perm fs.FileMode) error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.m.mkdirAll(path.Clean("/"+name), perm); err != nil {
		return pathError("mkdir", name, err)
	}
	return nil
}

// Remove implements [zfs.Files].
func (f *Files) Remove(name string) error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.remove(name, false); err != nil {
		return pathError("remove", name, err)
	}
	return nil
}

// RemoveAll implements [zfs.Files].
func (f *Files) RemoveAll(name string) error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.remove(name, true); err != nil && err != syscall.ENOENT && err != syscall.ENOTDIR {
		return pathError("removeall", name, err)
	}
	return nil
}

func (f *Files) remove(name string, all bool) error {
	dir, base, at, err := f.entry(name)
	if err != nil {
		return err
	}
	if base == "." {
		return syscall.EBUSY
	}
	return f.removeAt(dir, base, at, all)
}

func (f *Files) removeAt(dir place, base string, at place, all bool) error {
	if all && at.inode().mode.IsDir() && at.ctl == notCtl && at.snap == nil {
		var names []string
		at.contents().names(at.obj, func(name string, _ uint64) bool {
			names = append(names, name)
			return true
		})
		for _, name := range names {
			child, _, err := at.step(name)
			if err == nil {
				err = f.removeAt(at, name, child.top(), true)
			}
			if err != nil {
				return err
			}
		}
	}
	if err := dir.readOnly(); err != nil {
		return err
	}
	if at.ctl != notCtl {
		return syscall.EPERM
	}
	if at.mnt != dir.mnt {
		return syscall.EBUSY // something is mounted on it
	}
	if at.inode().mode.IsDir() && !at.contents().empty(at.obj) {
		return syscall.ENOTEMPTY
	}
	dir.mnt.vol.unlink(dir.obj, base, f.m.now())
	return nil
}

// Lstat implements [zfs.Files].
func (f *Files) Lstat(name string) (fs.FileInfo, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	at, err := f.m.resolve(name, false)
	if err != nil {
		return nil, pathError("lstat", name, err)
	}
	return at.info(path.Base(name)), nil
}

// change applies f to the inode of name.
func (f *Files) change(op, name string, follow bool, change func(*inode)) error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	at, err := f.m.resolve(name, follow)
	if err == nil {
		err = at.readOnly()
	}
	if err != nil {
		return pathError(op, name, err)
	}
	change(at.mnt.vol.change(at.obj))
	return nil
}

// Chown implements [zfs.Files].
func (f *Files) Chown(name string, uid, gid int) error {
	return f.change("lchown", name, false, func(ino *inode) { ino.uid, ino.gid = int32(uid), int32(gid) })
}

// Chmod sets the permissions of a file.
func (f *Files) Chmod(name string, mode fs.FileMode) error {
	return f.change("chmod", name, true, func(ino *inode) { ino.mode = ino.mode&^modeBits | mode&modeBits })
}

// Chtimes sets when a file was last changed; of the time of access nothing is kept.
func (f *Files) Chtimes(name string, _, mtime time.Time) error {
	return f.change("chtimes", name, true, func(ino *inode) { ino.mtime = mtime.UnixNano() })
}

// Symlink makes newname a link to oldname.
func (f *Files) Symlink(oldname, newname string) error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	dir, base, err := f.toMake(newname)
	if err == nil {
		_, err = dir.add(base, inode{mode: fs.ModeSymlink | 0o777, target: oldname, mtime: f.m.now()})
	}
	if err != nil {
		return &os.LinkError{Op: "symlink", Old: oldname, New: newname, Err: err}
	}
	return nil
}

// toMake resolves a name that is not to be there.
func (f *Files) toMake(name string) (dir place, base string, err error) {
	dir, base, _, err = f.entry(name)
	switch {
	case err == nil:
		err = syscall.EEXIST
	case err == syscall.ENOENT && base != "":
		err = dir.readOnly()
	}
	return dir, base, err
}

// Link makes newname another name of oldname.
func (f *Files) Link(oldname, newname string) error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	at, err := f.m.resolve(oldname, false)
	dir, base, derr := f.toMake(newname)
	switch {
	case err != nil:
	case derr != nil:
		err = derr
	case at.mnt != dir.mnt || at.snap != nil:
		err = syscall.EXDEV
	case at.inode().mode.IsDir():
		err = syscall.EPERM
	default:
		at.mnt.vol.change(at.obj).nlink++
		at.mnt.vol.link(dir.obj, base, at.obj, at.inode().mode, f.m.now())
		return nil
	}
	return &os.LinkError{Op: "link", Old: oldname, New: newname, Err: err}
}

// HostPath implements [zfs.Files]: no program of this machine reaches these files.
func (f *Files) HostPath(string) (string, bool) { return "", false }

// Tree implements [zfs.Files].
func (f *Files) Tree(name string) (zfs.Tree, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	at, err := f.m.resolve(name, true)
	if err == nil && !at.inode().mode.IsDir() {
		err = syscall.ENOTDIR
	}
	if err != nil {
		return nil, pathError("open", name, err)
	}
	at.mnt.open++
	t := &tree{m: f.m, top: at}
	t.close = sync.OnceFunc(func() {
		f.m.mu.Lock()
		defer f.m.mu.Unlock()
		at.mnt.open--
	})
	return t, nil
}

// A tree is what is below a directory.
type tree struct {
	m     *Machine
	top   place
	close func()
}

func (t *tree) Close() error { t.close(); return nil }

func (t *tree) at(op, name string, last bool) (place, error) {
	if !fs.ValidPath(name) {
		return place{}, pathError(op, name, fs.ErrInvalid)
	}
	w := &walker{stack: []place{t.top}, closed: true}
	err := error(syscall.EIO)
	if !t.top.mnt.gone {
		err = w.walk(name, last)
	}
	if err != nil {
		return place{}, pathError(op, name, err)
	}
	return w.here(), nil
}

func (t *tree) Lstat(name string) (fs.FileInfo, error) {
	t.m.mu.Lock()
	defer t.m.mu.Unlock()
	at, err := t.at("lstat", name, false)
	if err != nil {
		return nil, err
	}
	return at.info(path.Base(name)), nil
}

func (t *tree) ReadLink(name string) (string, error) {
	t.m.mu.Lock()
	defer t.m.mu.Unlock()
	at, err := t.at("readlink", name, false)
	if err != nil {
		return "", err
	}
	ino := at.inode()
	if ino.mode&fs.ModeSymlink == 0 {
		return "", pathError("readlink", name, syscall.EINVAL)
	}
	return ino.target, nil
}

func (t *tree) ReadDir(name string) ([]fs.DirEntry, error) {
	t.m.mu.Lock()
	defer t.m.mu.Unlock()
	return t.readDir(name)
}

func (t *tree) readDir(name string) ([]fs.DirEntry, error) {
	at, err := t.at("open", name, true)
	if err != nil {
		return nil, err
	}
	if !at.inode().mode.IsDir() {
		return nil, pathError("readdir", name, syscall.ENOTDIR)
	}
	list := []fs.DirEntry{}
	switch at.ctl {
	case ctlZFS:
		p, _, _ := at.step("snapshot")
		return append(list, p.info("snapshot")), nil
	case ctlSnapshot:
		for _, s := range at.mnt.vol.ds.snaps {
			list = append(list, place{mnt: at.mnt, snap: s, obj: rootObj}.info(s.name))
		}
		return list, nil
	case ctlEmpty:
		return list, nil
	}
	at.contents().names(at.obj, func(name string, obj uint64) bool {
		list = append(list, place{mnt: at.mnt, snap: at.snap, obj: obj}.top().info(name))
		return true
	})
	return list, nil
}

func (t *tree) Open(name string) (fs.File, error) {
	t.m.mu.Lock()
	defer t.m.mu.Unlock()
	at, err := t.at("open", name, true)
	if err != nil {
		return nil, err
	}
	f := &file{m: t.m, name: name, at: at}
	f.hold()
	if at.inode().mode.IsDir() {
		list, err := t.readDir(name)
		if err != nil {
			f.release()
			return nil, err
		}
		return &dirFile{file: f, list: list}, nil
	}
	return f, nil
}

// A dirFile is an open directory of a tree.
type dirFile struct {
	*file
	list []fs.DirEntry
}

func (d *dirFile) ReadDir(n int) ([]fs.DirEntry, error) {
	list := d.list
	if n > 0 {
		if len(list) == 0 {
			return nil, io.EOF
		}
		list = list[:min(n, len(list))]
	}
	d.list = d.list[len(list):]
	return list, nil
}
