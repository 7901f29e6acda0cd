package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"obuilder.org/obuilder/boot"
	"obuilder.org/obuilder/console"
	"obuilder.org/obuilder/engine"
	"obuilder.org/obuilder/index"
	"obuilder.org/obuilder/sandbox"
	"obuilder.org/obuilder/sandbox/local"
	"obuilder.org/obuilder/sandbox/macos"
	"obuilder.org/obuilder/sandbox/scripted"
	"obuilder.org/obuilder/store"
)

// The storeFlags are those of every command that uses a store.
type storeFlags struct {
	name      string
	uid       int
	brewPath  string
	snapshots string
	wait      time.Duration
	verbose   bool
	inspect   bool // no flag: the command looks at what killed processes have left
}

func (f *storeFlags) add(cmd *cobra.Command) {
	brew := "/usr/local"
	if runtime.GOOS == "darwin" && runtime.GOARCH == "arm64" {
		brew = "/opt/homebrew"
	}
	flags := cmd.Flags()
	flags.StringVar(&f.name, "store", "",
		"the `STORE`: zfs:POOL, zfs:/PREFIX/POOL, dir:PATH or fake:\n(default $OBUILDER_STORE, or a directory of yours)")
	flags.IntVar(&f.uid, "uid", 1000, "of the build user macUID, made when it is missing (zfs:)")
	flags.StringVar(&f.brewPath, "brew-path", brew, "where Homebrew is")
	f.snapshots = "auto"
	console.ChoiceFlag(cmd, &f.snapshots, "snapshots", "how results are found; mount on macOS only", "auto", "list", "mount")
	flags.DurationVar(&f.wait, "wait-for-pool", 2*time.Minute, "how long a pool may take to appear (zfs:)")
	flags.BoolVarP(&f.verbose, "verbose", "v", false, "log what goes on to standard error")
}

func (f *storeFlags) check() error {
	switch {
	case f.uid < 0:
		return usage(fmt.Sprintf("--uid=%d: it is negative", f.uid), "")
	case !strings.HasPrefix(f.brewPath, "/"):
		return usage(fmt.Sprintf("--brew-path=%s is not an absolute path", f.brewPath), "")
	case f.wait < 0:
		return usage(fmt.Sprintf("--wait-for-pool=%s: it is negative", f.wait), "")
	}
	return nil
}

// requested is the store that was asked for; "" for the embedded default.
func (f *storeFlags) requested() string {
	if f.name != "" {
		return f.name
	}
	return os.Getenv("OBUILDER_STORE")
}

// parse gives the store that was asked for, or the embedded default.
func (f *storeFlags) parse() (store.Name, error) {
	name := f.requested()
	if name == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return store.Name{}, usage("no place for a store: "+err.Error(), "name one with --store=dir:PATH")
		}
		name = "dir:" + filepath.Join(cache, "obuilder")
	}
	return store.Parse(name)
}

func (f *storeFlags) mode(kind store.Kind) engine.SnapshotMode {
	if f.snapshots == "mount" || f.snapshots == "auto" && kind == store.ZFS && runtime.GOOS == "darwin" {
		return engine.MountSnapshots
	}
	return engine.ListSnapshots
}

// A session is an open engine and what it stands on.
type session struct {
	*engine.Engine
	store *store.Store
}

func (s *session) Close() error { return errors.Join(s.Engine.Close(), s.store.Close()) }

// find gives the id that a person has begun to type.
func (s *session) find(ctx context.Context, prefix string) (string, error) {
	return s.Find(ctx, strings.ToLower(prefix))
}

// with opens the store, calls do and closes it again.
func (a *app) with(ctx context.Context, do func(*session) error) error {
	s, err := a.open(ctx)
	if err != nil {
		return err
	}
	return errors.Join(do(s), s.Close())
}

// withSteps is with for a command that runs steps: it says once what a store
// for trying out does with them.
func (a *app) withSteps(ctx context.Context, do func(*session) error) error {
	return a.with(ctx, func(s *session) error {
		a.aboutSteps(s.store.Name)
		return do(s)
	})
}

func (a *app) aboutSteps(name store.Name) {
	switch name.Kind {
	case store.Dir:
		a.console.Notice("steps run as you, with nothing between them and this machine (%s)", name)
	case store.Fake:
		a.console.Notice("the store is in memory: steps are not run, and their results are gone at the end")
	}
}

func (a *app) open(ctx context.Context) (*session, error) {
	st, o, err := a.openStore(ctx, func(holder string) {
		a.console.Notice("the store is in use by %s; waiting for it", holder)
	})
	if err != nil {
		return nil, err
	}
	return openSession(ctx, st, o)
}

// openSession opens the engine on a store, which it closes when that fails.
func openSession(ctx context.Context, st *store.Store, o engine.Options) (*session, error) {
	e, err := engine.Open(ctx, o)
	if err != nil {
		return nil, errors.Join(err, st.Close())
	}
	return &session{e, st}, nil
}

// openStore opens the store that the flags name, with what an engine on it is
// opened with. waiting is called when it waits for another process, then and
// when the engine is opened.
func (a *app) openStore(ctx context.Context, waiting func(holder string)) (*store.Store, engine.Options, error) {
	f := &a.store
	if err := f.check(); err != nil {
		return nil, engine.Options{}, err
	}
	name, err := f.parse()
	if err != nil {
		return nil, engine.Options{}, err
	}
	log := slog.New(slog.DiscardHandler)
	if f.verbose {
		log = slog.New(slog.NewTextHandler(a.console.Log(), nil))
	}
	st, err := store.Open(ctx, name, store.Options{
		Forbidden: []string{f.brewPath}, Waiting: waiting, SnapshotMounts: f.snapshots == "mount",
	})
	if err != nil {
		return nil, engine.Options{}, err
	}
	o, err := f.engine(st, log)
	if err != nil {
		return nil, o, errors.Join(err, st.Close())
	}
	return st, o, nil
}

func (f *storeFlags) engine(st *store.Store, log *slog.Logger) (engine.Options, error) {
	sb, err := f.sandbox(st, log)
	if err != nil {
		return engine.Options{}, err
	}
	var images []string
	if st.Name.Kind != store.ZFS {
		images = []string{engine.HealthcheckBase}
	}
	return engine.Options{
		Images: images, FS: st.FS, Files: st.Files, Root: st.Name.Root, Mountpoint: st.Name.Mountpoint, Sandbox: sb,
		Snapshots: f.mode(st.Name.Kind), OpenIndex: index.Open, Lock: st.Lock, PoolWait: f.wait, Log: log,
		Inspect: f.inspect, Boot: boot.ID(),
	}, nil
}

// sandbox is the one that a store's steps run in.
func (f *storeFlags) sandbox(st *store.Store, log *slog.Logger) (sandbox.Sandbox, error) {
	switch st.Name.Kind {
	case store.ZFS:
		return macos.New(macos.Options{UID: f.uid, BrewPath: f.brewPath, Path: os.Getenv("PATH"), Log: log})
	case store.Fake:
		return scripted.New(scripted.Options{UID: f.uid, BrewPath: f.brewPath, Files: st.Files})
	}
	return local.New(local.Options{
		UID: f.uid, BrewPath: f.brewPath, StateDir: filepath.Join(st.Name.Path, "sandbox"), Path: os.Getenv("PATH"), Log: log,
	})
}
