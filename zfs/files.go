package zfs

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// A File is an open file of a mounted dataset. ReadAt and Write may be called
// concurrently.
type File interface {
	io.Reader
	io.ReaderAt
	io.Writer
	io.Closer
	Stat() (fs.FileInfo, error)
	Sync() error
}

// A Tree is what [Files.Tree] gives: everything below one directory, links not
// followed. Names are as fs.ValidPath has them.
type Tree interface {
	fs.ReadLinkFS
	fs.ReadDirFS
	io.Closer
}

// Files is how programs see inside mounted datasets: by absolute,
// slash-separated paths, as mount points are named. A path below the mount
// point of a dataset that is not mounted leads where it leads on a real
// system: into the dataset below. Errors are *fs.PathError. Everything may be
// called concurrently.
type Files interface {
	// OpenFile opens a file with the flags of package os.
	OpenFile(name string, flag int, perm fs.FileMode) (File, error)
	// ReadFile reads a whole file of at most max bytes; a longer one is an error.
	ReadFile(name string, max int64) ([]byte, error)
	// MkdirAll makes a directory and its missing parents.
	MkdirAll(name string, perm fs.FileMode) error
	// Remove removes a file or an empty directory.
	Remove(name string) error
	// RemoveAll removes what is there, if anything, not following links.
	RemoveAll(name string) error
	// Lstat describes what is there; a link is not followed.
	Lstat(name string) (fs.FileInfo, error)
	// Chown changes the owner of a file, not following a link.
	Chown(name string, uid, gid int) error
	// Tree opens the tree below a directory for reading. Nothing outside of it
	// can be reached through links in it.
	Tree(name string) (Tree, error)
	// HostPath gives the path by which programs of this machine reach name; ok
	// is false when they cannot.
	HostPath(name string) (path string, ok bool)
}

// OSFiles is [Files] of this machine, below the directory Root: "" for the
// whole machine, otherwise the directory in which a store keeps its mount points.
type OSFiles struct{ Root string }

var _ Files = OSFiles{}

func (f OSFiles) path(name string) string {
	return filepath.Join(f.Root, filepath.FromSlash(name))
}

// HostPath implements [Files].
func (f OSFiles) HostPath(name string) (string, bool) { return f.path(name), true }

// OpenFile implements [Files].
func (f OSFiles) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	file, err := os.OpenFile(f.path(name), flag, perm)
	if err != nil {
		return nil, err
	}
	return file, nil
}

// ReadFile implements [Files].
func (f OSFiles) ReadFile(name string, max int64) ([]byte, error) {
	file, err := os.Open(f.path(name))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, max+1))
	if err == nil && int64(len(data)) > max {
		err = &fs.PathError{Op: "read", Path: name, Err: ErrTooLarge}
	}
	return data, err
}

// MkdirAll implements [Files].
func (f OSFiles) MkdirAll(name string, perm fs.FileMode) error {
	return os.MkdirAll(f.path(name), perm)
}

// Remove implements [Files].
func (f OSFiles) Remove(name string) error { return os.Remove(f.path(name)) }

// RemoveAll implements [Files].
func (f OSFiles) RemoveAll(name string) error { return os.RemoveAll(f.path(name)) }

// Lstat implements [Files].
func (f OSFiles) Lstat(name string) (fs.FileInfo, error) { return os.Lstat(f.path(name)) }

// Chown implements [Files].
func (f OSFiles) Chown(name string, uid, gid int) error {
	return os.Lchown(f.path(name), uid, gid)
}

// Tree implements [Files].
func (f OSFiles) Tree(name string) (Tree, error) {
	root, err := os.OpenRoot(f.path(name))
	if err != nil {
		return nil, err
	}
	return rootTree{root, root.FS()}, nil
}

// ErrTooLarge is the reason in the *fs.PathError of a [Files.ReadFile] that
// found more than it was to read.
var ErrTooLarge = errors.New("larger than expected")

type rootTree struct {
	root *os.Root
	fsys fs.FS
}

func (t rootTree) Open(name string) (fs.File, error) { return t.fsys.Open(name) }

func (t rootTree) Lstat(name string) (fs.FileInfo, error) { return fs.Lstat(t.fsys, name) }

func (t rootTree) ReadLink(name string) (string, error) { return fs.ReadLink(t.fsys, name) }

func (t rootTree) ReadDir(name string) ([]fs.DirEntry, error) { return fs.ReadDir(t.fsys, name) }

func (t rootTree) Close() error { return t.root.Close() }
