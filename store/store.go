// Package store opens the stores that a command line can name:
//
//	zfs:POOL, zfs:POOL/DATASET   a real pool, wherever it is mounted
//	zfs:/PREFIX/POOL             the pool POOL, which must be mounted on /PREFIX/POOL
//	dir:PATH                     ZFS played in a directory, for a try without ZFS or root
//	fake:                        in memory, gone when the program ends
//
// and keeps two processes from using one at once:
//
//	name, err := store.Parse("zfs:/Volumes/obuilder")
//	st, err := store.Open(ctx, name, store.Options{})
//	defer st.Close()
package store

import (
	"context"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"obuilder.org/obuilder/lockfile"
	"obuilder.org/obuilder/zfs"
	"obuilder.org/obuilder/zfs/fake"
	"obuilder.org/obuilder/zfs/real"
)

// A Kind is a kind of store.
type Kind string

// The kinds of store.
const (
	ZFS  Kind = "zfs"
	Dir  Kind = "dir"
	Fake Kind = "fake"
)

// A Name is what a command line calls a store.
type Name struct {
	Kind       Kind
	Root       zfs.Dataset // what everything is below
	Mountpoint string      // where Root must be mounted; "" anywhere
	Path       string      // of a Dir
}

// String gives the name as [Parse] reads it.
func (n Name) String() string {
	switch {
	case n.Kind == Dir:
		return "dir:" + n.Path
	case n.Kind == Fake:
		return "fake:"
	case n.Mountpoint != "":
		return "zfs:" + n.Mountpoint
	}
	return "zfs:" + n.Root.String()
}

// A NameError is a store that no command line can mean.
type NameError struct{ Name, Reason string }

func (e *NameError) Error() string { return fmt.Sprintf("store %q: %s", e.Name, e.Reason) }

// Hint lists the forms that there are.
func (e *NameError) Hint() string {
	if filepath.IsAbs(e.Name) || strings.HasPrefix(e.Name, ".") {
		return "did you mean dir:" + e.Name + "?"
	}
	return "a store is zfs:POOL, zfs:/PREFIX/POOL or dir:PATH"
}

// A DirError is a directory that cannot be a store.
type DirError struct{ Err error }

func (e *DirError) Error() string { return e.Err.Error() }

// Unwrap gives Err.
func (e *DirError) Unwrap() error { return e.Err }

// Hint says what can be a store; "" when the directory can.
func (e *DirError) Hint() string {
	if errors.Is(e.Err, context.Canceled) || errors.Is(e.Err, syscall.ENOSPC) {
		return ""
	}
	return "name a directory that is new, empty or a store, and that you may write: --store=dir:PATH"
}

// embeddedPool is the pool that dir: and fake: stores play.
var embeddedPool = zfs.MustDataset("obuilder")

// Parse reads the name of a store; a *NameError when it is none.
func Parse(name string) (Name, error) {
	kind, rest, ok := strings.Cut(name, ":")
	if !ok {
		return Name{}, &NameError{name, "it does not begin with a kind of store"}
	}
	switch Kind(kind) {
	case ZFS:
		return parseZFS(name, rest)
	case Dir:
		if rest == "" {
			return Name{}, &NameError{name, "it names no directory"}
		}
		abs, err := filepath.Abs(rest)
		if err != nil {
			return Name{}, &NameError{name, err.Error()}
		}
		return Name{Kind: Dir, Root: embeddedPool, Path: abs}, nil
	case Fake:
		if rest != "" {
			return Name{}, &NameError{name, "a store in memory has no name"}
		}
		return Name{Kind: Fake, Root: embeddedPool}, nil
	}
	return Name{}, &NameError{name, fmt.Sprintf("there is no kind of store %q", kind)}
}

func parseZFS(name, rest string) (Name, error) {
	n := Name{Kind: ZFS}
	dataset := rest
	if strings.HasPrefix(rest, "/") {
		// As ocurrent/obuilder has it: the last component is the pool.
		n.Mountpoint = path.Clean(rest)
		dataset = path.Base(n.Mountpoint)
	}
	root, err := zfs.ParseDataset(dataset)
	if err != nil {
		return Name{}, &NameError{name, err.Error()}
	}
	n.Root = root
	return n, nil
}

// Options are what [Open] may need.
type Options struct {
	// Forbidden are directories that the zfs programs must not be in: they are
	// replaced while a step runs.
	Forbidden []string
	// Waiting is called once when Open waits for another process that uses the store.
	Waiting func(holder string)
	// SnapshotMounts has a Fake mount snapshots, as macOS does.
	SnapshotMounts bool
}

// A Store is an open store.
type Store struct {
	FS    zfs.FS
	Files zfs.Files
	Name  Name
	close func() error
	wait  func(holder string)
}

// Lock keeps other processes from using the store until the function that it
// returns is called; path is where the lock of a pool is kept. A directory was
// locked as it was opened.
func (s *Store) Lock(ctx context.Context, path string) (release func() error, err error) {
	if s.Name.Kind != ZFS {
		return func() error { return nil }, nil
	}
	return lockfile.Acquire(ctx, path, s.wait)
}

// Close lets others use the store.
func (s *Store) Close() error {
	if s.close == nil {
		return nil
	}
	return s.close()
}

// commandTime bounds one zfs command. A destroy takes minutes on a full pool.
const commandTime = 30 * time.Minute

// Open opens a store. It waits until ctx ends for another process that uses it.
func Open(ctx context.Context, n Name, o Options) (*Store, error) {
	switch n.Kind {
	case ZFS:
		fs, err := real.New(real.Options{Forbidden: o.Forbidden, Deadline: commandTime})
		if err != nil {
			return nil, err
		}
		return &Store{FS: fs, Files: zfs.OSFiles{}, Name: n, wait: o.Waiting}, nil
	case Dir:
		m, err := fake.OpenDir(ctx, n.Path, fake.Waiting(o.Waiting))
		if err != nil {
			return nil, &DirError{err}
		}
		return &Store{FS: m, Files: m.Files(), Name: n, close: m.Close}, nil
	}
	m := fake.New(fake.SnapshotMounts(o.SnapshotMounts))
	return &Store{FS: m, Files: m.Files(), Name: n}, nil
}
