package source

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
)

// A Directory is the [Tree] of a directory of this machine. Links in it, also
// those that are made while it is open, do not lead out of it. Names may be
// any bytes that the file system takes.
type Directory struct {
	root *os.Root
	file *os.File        // root once more
	conn syscall.RawConn // of file
}

var _ Tree = (*Directory)(nil)

// OpenDir opens a directory. A path that does not exist or is something else is
// an [*Error].
func OpenDir(path string) (*Directory, error) {
	d, err := openDir(path)
	if err == nil {
		return d, nil
	}
	e := &Error{Path: path, Reason: "cannot be opened: " + cause(err).Error(), Err: err}
	if errors.Is(err, fs.ErrNotExist) {
		e.Reason = "does not exist"
	} else if info, statErr := os.Stat(path); statErr == nil && !info.IsDir() {
		e.Reason = "is not a directory"
	}
	return nil, e
}

func openDir(path string) (*Directory, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	file, err := root.Open(".")
	if err != nil {
		root.Close()
		return nil, err
	}
	conn, err := file.SyscallConn()
	if err != nil {
		root.Close()
		file.Close()
		return nil, err
	}
	return &Directory{root, file, conn}, nil
}

// Open implements [fs.FS].
func (d *Directory) Open(name string) (fs.File, error) {
	if f := openQuickly(d.conn, d.root.Name(), name); f != nil {
		return f, nil
	}
	// A named pipe that took a file's place must not keep us waiting.
	f, err := d.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	return f, nil
}

// ReadDir implements [fs.ReadDirFS].
func (d *Directory) ReadDir(name string) ([]fs.DirEntry, error) {
	f, err := d.root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	entries, err := f.ReadDir(-1)
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return entries, err
}

// Lstat implements [fs.ReadLinkFS].
func (d *Directory) Lstat(name string) (fs.FileInfo, error) { return d.root.Lstat(name) }

// ReadLink implements [fs.ReadLinkFS].
func (d *Directory) ReadLink(name string) (string, error) { return d.root.Readlink(name) }

// Close closes the directory.
func (d *Directory) Close() error { return errors.Join(d.file.Close(), d.root.Close()) }
