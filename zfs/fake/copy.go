package fake

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

const modeBits = fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky

// A copier copies a tree of files as a clone does: contents, kinds,
// permissions, times and names of the same file. Blocks are shared where the
// file system can do that. Extended attributes are not copied.
type copier struct {
	// instead says what to copy in place of a path: what a mount hides.
	instead map[string]string
	links   map[fileID]string
	noShare bool // this file system cannot share blocks
	noClone bool
	bytes   uint64
}

// copyTree copies the directory src to dst, which must not exist.
func (c *copier) copyTree(src, dst string) error {
	info, err := os.Lstat(src)
	if err != nil {
		return err
	}
	return c.copyDir(src, dst, info)
}

func (c *copier) copyDir(src, dst string, info fs.FileInfo) error {
	undo, err := force(src, info, 0o500)
	if err != nil {
		return err
	}
	defer undo()
	entries, err := os.ReadDir(src)
	if err != nil {
		return err
	}
	if err := os.Mkdir(dst, 0o700); err != nil {
		return err
	}
	c.bytes += diskUse(info)
	for _, e := range entries {
		if err := c.copyEntry(filepath.Join(src, e.Name()), filepath.Join(dst, e.Name())); err != nil {
			return err
		}
	}
	return setMeta(dst, info)
}

func (c *copier) copyEntry(src, dst string) error {
	if hidden, ok := c.instead[src]; ok {
		src = hidden
	}
	info, err := os.Lstat(src)
	if err != nil {
		return err
	}
	mode := info.Mode()
	if mode.IsDir() {
		return c.copyDir(src, dst, info)
	}
	id, several := linksOf(info)
	if several {
		if first, ok := c.links[id]; ok {
			return os.Link(first, dst)
		}
	}
	switch {
	case mode.IsRegular():
		err = c.copyFile(src, dst, info)
	case mode&fs.ModeSymlink != 0:
		var target string
		if target, err = os.Readlink(src); err == nil {
			err = os.Symlink(target, dst)
		}
		if err == nil {
			if err = own(dst, info); err == nil {
				err = setLinkTime(dst, info.ModTime())
			}
		}
	case mode&fs.ModeNamedPipe != 0:
		if err = mkfifo(dst, mode); err == nil {
			err = setMeta(dst, info)
		}
	case mode&fs.ModeSocket != 0:
		return nil // nobody listens to the copy
	default:
		err = fmt.Errorf("%s: cannot copy a device", src)
	}
	if err != nil {
		return err
	}
	c.bytes += diskUse(info)
	if several {
		if c.links == nil {
			c.links = make(map[fileID]string)
		}
		c.links[id] = dst
	}
	return nil
}

func (c *copier) copyFile(src, dst string, info fs.FileInfo) error {
	if !c.noClone {
		if err := cloneFile(src, dst); err == nil {
			return setMeta(dst, info)
		} else if !errors.Is(err, fs.ErrPermission) {
			c.noClone = true
		}
	}
	undo, err := force(src, info, 0o400)
	if err != nil {
		return err
	}
	defer undo()
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(dst, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := c.fill(out, in, info.Size()); err != nil {
		return errors.Join(err, out.Close())
	}
	if err := out.Close(); err != nil {
		return err
	}
	return setMeta(dst, info)
}

func (c *copier) fill(out, in *os.File, size int64) error {
	if size == 0 {
		return nil
	}
	if !c.noShare {
		if shareBlocks(out, in) == nil {
			return nil
		}
		c.noShare = true
	}
	_, err := io.Copy(out, in)
	return err
}

// setMeta gives dst the owner, permissions and times of info.
func setMeta(dst string, info fs.FileInfo) error {
	if err := own(dst, info); err != nil {
		return err
	}
	if err := os.Chmod(dst, info.Mode()&modeBits); err != nil {
		return err
	}
	return os.Chtimes(dst, time.Time{}, info.ModTime())
}

// force makes what its owner has forbidden himself possible until undo is
// called: a build may leave files that it cannot read.
func force(name string, info fs.FileInfo, perm fs.FileMode) (undo func(), err error) {
	if info.Mode()&perm == perm || os.Geteuid() == 0 {
		return func() {}, nil
	}
	if err := os.Chmod(name, info.Mode().Perm()|perm); err != nil {
		return nil, err
	}
	return func() { _ = os.Chmod(name, info.Mode()&modeBits) }, nil
}

// removeTree removes a tree, also of directories that forbid it.
func removeTree(name string) error {
	err := os.RemoveAll(name)
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	werr := filepath.WalkDir(name, func(path string, d fs.DirEntry, err error) error {
		if d == nil || !d.IsDir() || err != nil && !errors.Is(err, fs.ErrPermission) {
			return err
		}
		if err != nil { // it could not be read: once more
			return nil
		}
		return os.Chmod(path, 0o700)
	})
	return errors.Join(werr, os.RemoveAll(name))
}

// treeSize is what a directory and all below it take up. Of mounts in it, just
// the links are counted.
func treeSize(name string) (bytes uint64) {
	_ = filepath.WalkDir(name, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return fs.SkipDir
		}
		if info, err := d.Info(); err == nil {
			bytes += diskUse(info)
		}
		return nil
	})
	return bytes
}
