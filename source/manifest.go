// Package source holds what a copy step copies: [Scan] makes the manifest of
// source paths, which is hashed into the step's id, and [Manifest.WriteTar]
// sends the files themselves.
//
//	dir, err := source.OpenDir("examples/hello")
//	defer dir.Close()
//	m, err := source.Scan(ctx, dir, []string{"."}, source.Options{Exclude: []string{".git"}})
//	id := hash(m.Items)
//	err = m.WriteTar(ctx, w, source.TarOptions{Dst: "/src/"})
//
// # Why a file that changes cannot poison the cache
//
// A result is kept under an id that is a hash of the manifest, so a result must
// never hold anything that its manifest does not say. Scanning and sending are
// two passes, and anything can happen in between. Therefore the stream is made
// from the manifest and not from a second look at the directories, and every
// byte of it is checked against the manifest as it is sent, in the one pass
// that sending takes anyway: each file is hashed while it is read, what is
// written is what was hashed, and the sum must be that of the manifest; a
// directory must still be one; a link must still have its target. Whenever
// WriteTar returns no error, the stream was exactly what the id says. When
// something differs, it returns a [ChangedError] in the middle of the stream,
// which never gets the blocks that end an archive. Not every reader of archives
// minds that: it is by the error that what came of the stream must be discarded.
//
// What is not hashed (the time of a file, whether it is executable) is as it is
// found when it is sent. A file that appeared after the scan is neither hashed
// nor sent.
//
// The rules for paths, order and exclusion are those of lib/manifest.ml of
// ocurrent/obuilder, and the form of the stream that of its
// lib/tar_transfer.ml.
package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"io/fs"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// A Kind is what an [Item] is.
type Kind uint8

// The kinds of item.
const (
	File    Kind = iota // a regular file
	Symlink             // a symbolic link, never followed
	Dir                 // a directory
)

// An Item is one node of a manifest: what a copy step copies, as it is hashed.
// Paths are relative to the root of the tree, slash-separated, and never begin
// with a slash; the root itself is "". Names are bytes, not text.
type Item struct {
	Kind     Kind
	Path     string
	Hash     string // File: sha256 of the contents, lower-case hex
	Target   string // Symlink
	Children []Item // Dir: sorted bytewise by name
}

// A Tree is what is copied from: everything below one directory. Open is only
// called for regular files and Lstat, ReadLink and ReadDir do not follow links,
// but an implementation over a real directory must see to it that a link which
// takes a file's place in between leads nowhere outside. It must allow
// concurrent calls. [OpenDir] gives one, and every zfs.Tree is one.
type Tree interface {
	fs.ReadLinkFS
	fs.ReadDirFS
}

// Options change what [Scan] does.
type Options struct {
	// Exclude are names of files and directories to leave out wherever they are
	// found below a source. A source itself is never left out.
	Exclude []string
	// Workers is how many files are hashed, and so held open, at once; 0 means
	// as many as there are processors.
	Workers int
}

// A Manifest is what is to be copied from a tree. The tree must stay open as
// long as it is used.
type Manifest struct {
	Items []Item // one for each source, in order, duplicates kept; not to be changed
	tree  Tree
}

const (
	// maxDepth is how many directories deep a tree may be. The longest path that
	// a system call takes is half as deep on macOS; more is a tree without end.
	maxDepth = 1024
	// bufferSize is how much of a file is read at once.
	bufferSize = 128 << 10
	// queueSize is how many files the scan may be ahead of the hashing.
	queueSize = 256
)

// Scan makes the manifest of sources, which are slash-separated paths relative
// to the root of the tree; leading slashes and components that are "." or empty
// mean nothing. Symbolic links are not followed, neither as a source, nor in
// the middle of its path, nor below.
//
// What cannot be copied is an [*Error], and what went away while it was read a
// [*ChangedError]; of several, the one returned is the first in the order of
// the manifest, however many workers there are. The error of a context that
// was cancelled is returned as it is.
func Scan(ctx context.Context, tree Tree, sources []string, opts Options) (*Manifest, error) {
	if len(sources) == 0 {
		return nil, &Error{Reason: "there are no sources to copy"}
	}
	s := &scan{
		ctx:     ctx,
		tree:    tree,
		exclude: make(map[string]bool, len(opts.Exclude)),
		jobs:    make(chan job, queueSize),
	}
	s.failed.Store(&failure{pos: int(^uint(0) >> 1)})
	for _, name := range opts.Exclude {
		s.exclude[name] = true
	}
	workers := opts.Workers
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	var wg sync.WaitGroup
	for range workers {
		wg.Go(s.work)
	}
	items := make([]Item, len(sources))
	for i, src := range sources {
		if err := s.source(&items[i], name(src)); err != nil {
			s.fail(s.pos, err)
			break
		}
	}
	close(s.jobs)
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := s.failed.Load().err; err != nil {
		return nil, err
	}
	return &Manifest{Items: items, tree: tree}, nil
}

// scan is the state of one Scan: one goroutine walks the tree and lays out the
// items, the workers fill in the hashes.
type scan struct {
	ctx     context.Context
	tree    Tree
	exclude map[string]bool
	jobs    chan job
	pos     int // number of the item that is walked, in the order of the manifest
	failed  atomic.Pointer[failure]
}

type job struct {
	item *Item
	src  string
	pos  int
}

// A failure is the first error in the order of the manifest so far.
type failure struct {
	pos int
	err error
}

// fail records an error. Everything before pos has been handed to the workers
// by then, who go on with what comes before, so that the first error wins.
func (s *scan) fail(pos int, err error) {
	for {
		old := s.failed.Load()
		if old.pos <= pos || s.failed.CompareAndSwap(old, &failure{pos, err}) {
			return
		}
	}
}

// errStopped ends the walk after a worker has failed.
var errStopped = errors.New("stopped")

// source finds a source and walks it.
func (s *scan) source(item *Item, src string) error {
	s.pos++
	path, mode, err := s.find(src)
	if err != nil {
		return err
	}
	return s.walk(item, src, path, mode, 0)
}

// find checks the path of a source, component by component.
func (s *scan) find(src string) (path string, mode fs.FileMode, err error) {
	parts := strings.Split(src, "/")
	for _, part := range parts {
		if part == ".." {
			return "", 0, &Error{Source: src, Path: src, Reason: "leads upwards with ..",
				Hint: "give a directory further up as the source directory"}
		}
		if filepath.Separator != '/' && strings.ContainsRune(part, filepath.Separator) {
			return "", 0, &Error{Source: src, Path: src, Reason: "is not separated by slashes",
				Hint: "write " + filepath.ToSlash(src)}
		}
	}
	mode = fs.ModeDir
	for _, part := range parts {
		// A file with a slash or a dot after it has no such thing in it either.
		switch {
		case path != "" && mode&fs.ModeSymlink != 0:
			return "", 0, &Error{Source: src, Path: path, Reason: "is a symbolic link, which is not followed",
				Hint: "copy from the path that it leads to"}
		case path != "" && !mode.IsDir():
			return "", 0, &Error{Source: src, Path: path, Reason: "is not a directory"}
		}
		if part == "" || part == "." {
			continue
		}
		path = join(path, part)
		info, err := s.tree.Lstat(path)
		if errors.Is(err, fs.ErrNotExist) {
			return "", 0, &Error{Source: src, Path: path, Reason: "does not exist", Err: err}
		} else if err != nil {
			return "", 0, unreadable(src, path, err)
		}
		mode = info.Mode()
	}
	return path, mode.Type(), nil
}

// walk fills in an item, but for the hashes.
func (s *scan) walk(item *Item, src, path string, mode fs.FileMode, depth int) error {
	if err := s.ctx.Err(); err != nil {
		return err
	}
	if s.failed.Load().err != nil {
		return errStopped
	}
	item.Path = path
	switch {
	case mode.IsRegular():
		item.Kind = File
		select {
		case s.jobs <- job{item, src, s.pos}:
			return nil
		case <-s.ctx.Done():
			return s.ctx.Err()
		}
	case mode&fs.ModeSymlink != 0:
		item.Kind = Symlink
		target, err := s.tree.ReadLink(path)
		if err != nil {
			return lost(src, path, err)
		}
		item.Target = target
		return nil
	case mode.IsDir():
		item.Kind = Dir
	default:
		return &Error{Source: src, Path: path, Reason: "is " + special(mode) + ", which cannot be copied",
			Hint: "exclude it, or remove it from the source directory"}
	}
	if depth == maxDepth {
		return &Error{Source: src, Path: path, Reason: "is too many directories deep"}
	}
	entries, err := s.tree.ReadDir(name(path))
	if err != nil {
		return lost(src, path, err)
	}
	entries = slices.DeleteFunc(entries, func(e fs.DirEntry) bool { return s.exclude[e.Name()] })
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	item.Children = make([]Item, len(entries))
	for i, e := range entries {
		s.pos++
		if err := s.walk(&item.Children[i], src, join(path, e.Name()), e.Type(), depth+1); err != nil {
			return err
		}
	}
	return nil
}

// work hashes files until there are no more.
func (s *scan) work() {
	h, buf := sha256.New(), make([]byte, bufferSize)
	for j := range s.jobs {
		if s.ctx.Err() != nil || s.failed.Load().pos < j.pos {
			continue
		}
		sum, err := s.sum(j.item.Path, h, buf)
		if err != nil {
			s.fail(j.pos, lost(j.src, j.item.Path, err))
			continue
		}
		j.item.Hash = sum
	}
}

// sum hashes a file. That it is still a regular file is for WriteTar to check.
func (s *scan) sum(path string, h hash.Hash, buf []byte) (string, error) {
	f, err := s.tree.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h.Reset()
	for {
		n, err := f.Read(buf)
		h.Write(buf[:n])
		if err == io.EOF {
			return hexSum(h), nil
		} else if err != nil {
			return "", err
		}
		if err := s.ctx.Err(); err != nil {
			return "", err
		}
	}
}

func hexSum(h hash.Hash) string {
	var sum [sha256.Size]byte
	return hex.EncodeToString(h.Sum(sum[:0]))
}

// join appends a name to a path, of which either may be "".
func join(path, name string) string {
	if path == "" || name == "" {
		return path + name
	}
	return path + "/" + name
}

// name is a path as package fs has it.
func name(path string) string {
	if path == "" {
		return "."
	}
	return path
}
