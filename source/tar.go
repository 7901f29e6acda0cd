package source

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"strings"
	"time"
)

// A User owns everything in a stream: a Unix user, or a Windows one when Name
// is not empty.
type User struct {
	UID, GID int
	Name     string
}

// TarOptions say where a manifest is copied to.
type TarOptions struct {
	// Dst is the destination in the build, slash-separated; components that are
	// "." or empty mean nothing. If it ends in a slash, the items are put into
	// that directory, and entries for it and those above it come first;
	// otherwise the only item is put in its place. Whether it may hold ".." is
	// for the caller to decide: it is passed on.
	Dst  string
	User User
}

// WriteTar writes the items to w as a tar archive. Entries have the modes that
// ocurrent/obuilder gives them: 0755 for directories and executable files, 0644
// for other files, 0777 for links. The stream is the one that it writes, but for
// the type of directories, which it leaves to the slash at the end of a name.
//
// Anything that is not as the manifest says is a [*ChangedError], and the
// stream is cut off there, without the end of an archive: see the package's
// comment. An error of w is wrapped. Cancelling the context does not interrupt
// a write to w that does not return.
//
// WriteTar uses a fixed amount of memory, reads every file once, and may be
// called again, also concurrently.
func (m *Manifest) WriteTar(ctx context.Context, w io.Writer, opts TarOptions) error {
	parts := strings.FieldsFunc(opts.Dst, func(r rune) bool { return r == '/' })
	into := opts.Dst == "" || strings.HasSuffix(opts.Dst, "/")
	if !into && len(m.Items) != 1 {
		return &Error{Reason: fmt.Sprintf("%d sources cannot all be copied to %q", len(m.Items), opts.Dst),
			Hint: "end the destination with a slash to copy into a directory"}
	}
	t := &tarWriter{ctx: ctx, tree: m.tree, w: bufio.NewWriterSize(w, bufferSize),
		user: opts.User, hash: sha256.New(), buf: make([]byte, bufferSize)}
	dst := ""
	for _, part := range parts {
		if part == "." {
			continue
		}
		dst = join(dst, part)
		if into {
			if err := t.header(tar.Header{Typeflag: tar.TypeDir, Name: dst + "/", Mode: 0o755}, time.Unix(0, 0)); err != nil {
				return err
			}
		}
	}
	for i := range m.Items {
		item, path := &m.Items[i], dst
		if into {
			path = join(dst, base(item.Path))
		}
		if path == "" && item.Kind != Dir {
			return &Error{Source: item.Path, Path: item.Path, Reason: "cannot take the place of the root directory",
				Hint: "end the destination with a slash to copy into a directory"}
		}
		if err := t.item(item, path); err != nil {
			return err
		}
	}
	if _, err := t.w.Write(zeros[:]); err != nil {
		return writeError(err)
	}
	return writeError(t.w.Flush())
}

const blockSize = 512

// zeros end an archive.
var zeros [2 * blockSize]byte

// tarWriter is the state of one WriteTar.
type tarWriter struct {
	ctx  context.Context
	tree Tree
	w    *bufio.Writer
	user User
	hash hash.Hash
	head bytes.Buffer
	buf  []byte
}

// item writes an item and what is below it.
func (t *tarWriter) item(item *Item, path string) error {
	if err := t.ctx.Err(); err != nil {
		return err
	}
	info, err := t.tree.Lstat(name(item.Path))
	if err != nil {
		return lost(item.Path, item.Path, err)
	}
	switch item.Kind {
	case File:
		return t.file(item, path, info)
	case Symlink:
		if info.Mode()&fs.ModeSymlink == 0 {
			return changed(item, "is no longer a symbolic link")
		}
		target, err := t.tree.ReadLink(item.Path)
		if err != nil {
			return lost(item.Path, item.Path, err)
		}
		if target != item.Target {
			return changed(item, "leads elsewhere")
		}
		return t.header(tar.Header{Typeflag: tar.TypeSymlink, Name: path, Linkname: item.Target, Mode: 0o777}, info.ModTime())
	case Dir:
		if !info.IsDir() {
			return changed(item, "is no longer a directory")
		}
		if err := t.header(tar.Header{Typeflag: tar.TypeDir, Name: name(path) + "/", Mode: 0o755}, info.ModTime()); err != nil {
			return err
		}
		for i := range item.Children {
			if err := t.item(&item.Children[i], join(path, base(item.Children[i].Path))); err != nil {
				return err
			}
		}
	}
	return nil
}

// file writes a file, hashing what it writes.
func (t *tarWriter) file(item *Item, path string, info fs.FileInfo) error {
	if !info.Mode().IsRegular() {
		return changed(item, "is no longer a file")
	}
	f, err := t.tree.Open(item.Path)
	if err != nil {
		return lost(item.Path, item.Path, err)
	}
	defer f.Close()
	mode, size := int64(0o644), info.Size()
	if info.Mode()&0o111 != 0 {
		mode = 0o755
	}
	if err := t.header(tar.Header{Typeflag: tar.TypeReg, Name: path, Size: size, Mode: mode}, info.ModTime()); err != nil {
		return err
	}
	t.hash.Reset()
	for left := size; ; {
		n, err := f.Read(t.buf)
		if int64(n) > left {
			return changed(item, "grew")
		}
		left -= int64(n)
		t.hash.Write(t.buf[:n])
		if _, err := t.w.Write(t.buf[:n]); err != nil {
			return writeError(err)
		}
		if err == io.EOF && left > 0 {
			return changed(item, "shrank")
		} else if err == io.EOF {
			break
		} else if err != nil {
			return lost(item.Path, item.Path, err)
		}
		if err := t.ctx.Err(); err != nil {
			return err
		}
	}
	if hexSum(t.hash) != item.Hash {
		return changed(item, "has other contents")
	}
	_, err = t.w.Write(zeros[:-size&(blockSize-1)])
	return writeError(err)
}

// header writes a header in the form that the tar library of
// ocurrent/obuilder gives it, so that streams can be compared with its own, byte
// for byte: that of GNU tar, but with no device numbers, and a checksum of seven
// digits.
func (t *tarWriter) header(h tar.Header, mtime time.Time) error {
	h.Format = tar.FormatGNU
	h.ModTime = time.Unix(mtime.Unix(), 0)
	switch {
	case t.user.Name == "":
		h.Uid, h.Gid = t.user.UID, t.user.GID
	case t.user.Name == "ContainerAdministrator":
		// S-1-5-93-2-1, numbered as Cygwin does; other users of Windows have no
		// number that could be known here.
		h.Uid, h.Gid = 93<<12+1, 93<<12+1
		h.Uname, h.Gname = t.user.Name, t.user.Name
	}
	t.head.Reset()
	if err := tar.NewWriter(&t.head).WriteHeader(&h); err != nil {
		return fmt.Errorf("%q cannot be put into a tar archive: %w", h.Name, err)
	}
	// A long name comes in blocks of its own, before.
	block := t.head.Bytes()[t.head.Len()-blockSize:]
	clear(block[329:345])
	copy(block[148:156], "        ")
	sum := 0
	for _, b := range block {
		sum += int(b)
	}
	copy(block[148:156], fmt.Sprintf("%07o\x00", sum))
	_, err := t.w.Write(t.head.Bytes())
	return writeError(err)
}

// base is the last component of a path.
func base(path string) string { return path[strings.LastIndexByte(path, '/')+1:] }

func changed(item *Item, reason string) error {
	return &ChangedError{Path: item.Path, Reason: reason}
}

// writeError says that it was the reader of the stream that failed.
func writeError(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("sending the files: %w", err)
}
