package engine_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"sync"
	"syscall"
	"time"

	"obuilder.org/obuilder/index"
	"obuilder.org/obuilder/sandbox"
	"obuilder.org/obuilder/zfs"
	"obuilder.org/obuilder/zfs/fault"
)

// A layer is one of the things that an engine stands on.
type layer string

const (
	onZFS     layer = "zfs"
	onFiles   layer = "files"
	onIndex   layer = "index"
	onSandbox layer = "sandbox"
)

var layers = []layer{onZFS, onFiles, onIndex, onSandbox}

// An action is what a trap does.
type action struct {
	fail  error // what the operation gives without being done; nil for a crash
	after bool  // the crash comes after the operation
}

// A trap interrupts a process at one operation of one layer: it makes that
// operation fail, or ends the process, after which no operation of any layer
// does anything any more.
type trap struct {
	on     layer
	at     int
	action action

	mu      sync.Mutex
	seen    int
	fired   string // what it has interrupted; "" before
	crashed bool
}

// sprung gives what the trap has interrupted; "" while it has not.
func (t *trap) sprung() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.fired
}

// do does an operation, unless it is interrupted.
func (t *trap) do(on layer, op string, run func() error) error {
	t.mu.Lock()
	if t.crashed {
		t.mu.Unlock()
		return fault.ErrCrashed
	}
	hit := false
	if on == t.on {
		hit = t.seen == t.at
		t.seen++
	}
	if !hit {
		t.mu.Unlock()
		err := run()
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.crashed {
			return fault.ErrCrashed
		}
		return err
	}
	t.fired = op
	defer t.mu.Unlock()
	if t.action.fail != nil {
		return t.action.fail
	}
	if t.action.after {
		t.mu.Unlock()
		_ = run() // nobody is left to read how it ended
		t.mu.Lock()
	}
	t.crashed = true
	return fault.ErrCrashed
}

// Intercept implements fault.Interceptor.
func (t *trap) Intercept(_ context.Context, argv []string, run func() error) error {
	err := t.do(onZFS, zfs.CommandLine(argv), run)
	if z := (*zfs.Error)(nil); err == nil || errors.As(err, &z) {
		return err
	}
	return &zfs.Error{Kind: zfs.Unavailable, Argv: argv, Status: -1, Err: err}
}

// trapFiles are files of which every operation may be interrupted.
type trapFiles struct {
	zfs.Files
	trap *trap
}

func (f trapFiles) do(op, name string, run func() error) error {
	err := f.trap.do(onFiles, op+" "+name, run)
	if err == syscall.ENOSPC || err == fault.ErrCrashed {
		return &fs.PathError{Op: op, Path: name, Err: err}
	}
	return err
}

func (f trapFiles) OpenFile(name string, flag int, perm fs.FileMode) (file zfs.File, err error) {
	err = f.do("open", name, func() (err error) {
		file, err = f.Files.OpenFile(name, flag, perm)
		return err
	})
	if err != nil {
		if file != nil {
			file.Close()
		}
		return nil, err
	}
	return trapFile{file, name, f}, nil
}

func (f trapFiles) ReadFile(name string, limit int64) (data []byte, err error) {
	err = f.do("read", name, func() (err error) {
		data, err = f.Files.ReadFile(name, limit)
		return err
	})
	return data, err
}

func (f trapFiles) MkdirAll(name string, perm fs.FileMode) error {
	return f.do("mkdir", name, func() error { return f.Files.MkdirAll(name, perm) })
}

func (f trapFiles) Remove(name string) error {
	return f.do("remove", name, func() error { return f.Files.Remove(name) })
}

func (f trapFiles) RemoveAll(name string) error {
	return f.do("remove all", name, func() error { return f.Files.RemoveAll(name) })
}

func (f trapFiles) Lstat(name string) (info fs.FileInfo, err error) {
	err = f.do("lstat", name, func() (err error) {
		info, err = f.Files.Lstat(name)
		return err
	})
	return info, err
}

func (f trapFiles) Tree(name string) (tree zfs.Tree, err error) {
	err = f.do("tree", name, func() (err error) {
		tree, err = f.Files.Tree(name)
		return err
	})
	if err != nil {
		if tree != nil {
			tree.Close()
		}
		return nil, err
	}
	return trapTree{tree, name, f}, nil
}

type trapFile struct {
	zfs.File
	name string
	trapFiles
}

func (f trapFile) Write(p []byte) (n int, err error) {
	err = f.do("write", f.name, func() (err error) {
		n, err = f.File.Write(p)
		return err
	})
	return n, err
}

func (f trapFile) ReadAt(p []byte, off int64) (n int, err error) {
	err = f.do("read", f.name, func() (err error) {
		n, err = f.File.ReadAt(p, off)
		return err
	})
	return n, err
}

func (f trapFile) Sync() error {
	return f.do("sync", f.name, f.File.Sync)
}

func (f trapFile) Stat() (info fs.FileInfo, err error) {
	err = f.do("stat", f.name, func() (err error) {
		info, err = f.File.Stat()
		return err
	})
	return info, err
}

// Close closes the file in any case, as the operating system does.
func (f trapFile) Close() error {
	var closed error
	err := f.do("close", f.name, func() error {
		closed = f.File.Close()
		return closed
	})
	if err != nil && closed == nil {
		f.File.Close()
	}
	return err
}

type trapTree struct {
	zfs.Tree
	name string
	trapFiles
}

func (t trapTree) Open(name string) (file fs.File, err error) {
	err = t.do("open", t.name+"/"+name, func() (err error) {
		file, err = t.Tree.Open(name)
		return err
	})
	if err != nil && file != nil {
		file.Close()
		file = nil
	}
	return file, err
}

func (t trapTree) ReadDir(name string) (entries []fs.DirEntry, err error) {
	err = t.do("read directory", t.name+"/"+name, func() (err error) {
		entries, err = t.Tree.ReadDir(name)
		return err
	})
	return entries, err
}

func (t trapTree) Lstat(name string) (info fs.FileInfo, err error) {
	err = t.do("lstat", t.name+"/"+name, func() (err error) {
		info, err = t.Tree.Lstat(name)
		return err
	})
	return info, err
}

func (t trapTree) Close() error {
	var closed error
	err := t.do("close", t.name, func() error {
		closed = t.Tree.Close()
		return closed
	})
	if err != nil && closed == nil {
		t.Tree.Close()
	}
	return err
}

// trapIndex is an index of which every call may be interrupted.
type trapIndex struct {
	index.Index
	trap *trap
}

func (x trapIndex) Add(ctx context.Context, r index.Result) error {
	return x.trap.do(onIndex, "add "+r.ID, func() error { return x.Index.Add(ctx, r) })
}

func (x trapIndex) SetUsed(ctx context.Context, used time.Time, ids ...string) error {
	return x.trap.do(onIndex, "set used", func() error { return x.Index.SetUsed(ctx, used, ids...) })
}

func (x trapIndex) Get(ctx context.Context, id string) (r index.Result, err error) {
	err = x.trap.do(onIndex, "get "+id, func() (err error) {
		r, err = x.Index.Get(ctx, id)
		return err
	})
	return r, err
}

func (x trapIndex) Children(ctx context.Context, id string) (ids []string, err error) {
	err = x.trap.do(onIndex, "children "+id, func() (err error) {
		ids, err = x.Index.Children(ctx, id)
		return err
	})
	return ids, err
}

func (x trapIndex) Delete(ctx context.Context, id string) error {
	return x.trap.do(onIndex, "delete "+id, func() error { return x.Index.Delete(ctx, id) })
}

func (x trapIndex) Recount(ctx context.Context, id string) error {
	return x.trap.do(onIndex, "recount "+id, func() error { return x.Index.Recount(ctx, id) })
}

func (x trapIndex) All(ctx context.Context) (all []index.Result, err error) {
	err = x.trap.do(onIndex, "all", func() (err error) {
		all, err = x.Index.All(ctx)
		return err
	})
	return all, err
}

func (x trapIndex) Close() error {
	return x.trap.do(onIndex, "close", x.Index.Close)
}

// trapSandbox is a sandbox of which every method that can go wrong may be
// interrupted.
type trapSandbox struct {
	sandbox.Sandbox
	trap *trap
}

func (s trapSandbox) Prepare(ctx context.Context) error {
	return s.trap.do(onSandbox, "prepare", func() error { return s.Sandbox.Prepare(ctx) })
}

func (s trapSandbox) Run(ctx context.Context, cfg sandbox.Config, stdin io.Reader, output io.Writer) error {
	return s.trap.do(onSandbox, "run "+cfg.Argv[len(cfg.Argv)-1], func() error { return s.Sandbox.Run(ctx, cfg, stdin, output) })
}

func (s trapSandbox) Quiesce(ctx context.Context) error {
	return s.trap.do(onSandbox, "quiesce", func() error { return s.Sandbox.Quiesce(ctx) })
}

func (s trapSandbox) Own(ctx context.Context, cfg sandbox.Config, path string) error {
	return s.trap.do(onSandbox, "own "+path, func() error { return s.Sandbox.Own(ctx, cfg, path) })
}

func (s trapSandbox) Recover(ctx context.Context) error {
	return s.trap.do(onSandbox, "recover", func() error { return s.Sandbox.Recover(ctx) })
}
