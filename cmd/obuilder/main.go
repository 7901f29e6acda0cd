// Command obuilder builds specs step by step on ZFS clones, snapshots what
// succeeds and never runs the same step twice. "obuilder --help" lists what it
// does, and "obuilder COMMAND --help" shows examples.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"obuilder.org/obuilder/console"
	"obuilder.org/obuilder/engine"
	"obuilder.org/obuilder/index"
	"obuilder.org/obuilder/sandbox"
	"obuilder.org/obuilder/sandbox/local"
	"obuilder.org/obuilder/sandbox/macos"
	"obuilder.org/obuilder/sandbox/scripted"
	"obuilder.org/obuilder/store"
)

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// run is the program: it gives the exit status.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The first signal ends what goes on in good order, the second at once.
	context.AfterFunc(ctx, stop)
	c := console.New("obuilder", stdout, stderr)
	a := &app{console: c, stdin: stdin, stderr: stderr}
	root := a.command()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	return c.Fail(root.ExecuteContext(ctx))
}

// An app is what the commands share: the flags of the store and the machine.
type app struct {
	console   *console.Console
	stdin     io.Reader
	stderr    io.Writer
	store     string
	uid       int
	brewPath  string
	snapshots string
	wait      time.Duration
	verbose   bool
}

func (a *app) command() *cobra.Command {
	root := &cobra.Command{
		Use:           "obuilder",
		Short:         "Build specs step by step on ZFS clones, never the same step twice",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return &console.UsageError{Err: errors.New("no command given"), Advice: "obuilder --help lists the commands"}
		},
	}
	flags := root.PersistentFlags()
	flags.StringVar(&a.store, "store", "", "where results are: zfs:POOL, zfs:/PREFIX/POOL or dir:PATH (default $OBUILDER_STORE, or a directory of the user's)")
	flags.IntVar(&a.uid, "uid", 1000, "uid of the build user macUID, made when it is missing (zfs: stores)")
	flags.StringVar(&a.brewPath, "brew-path", defaultBrewPath(), "where Homebrew is")
	flags.StringVar(&a.snapshots, "snapshots", "auto", "how results are found: list, mount (macOS only) or auto")
	flags.DurationVar(&a.wait, "wait-for-pool", 2*time.Minute, "how long to wait for the pool to appear after a reboot")
	flags.BoolVarP(&a.verbose, "verbose", "v", false, "log what goes on to standard error")
	root.AddCommand(a.buildCommand(), a.planCommand(), a.logCommand(), a.listCommand(), a.showCommand(), a.deleteCommand(),
		a.cleanCommand(), a.healthcheckCommand(), a.dockerfileCommand(), a.fmtCommand(), a.versionCommand())
	console.UsageErrors(root)
	return root
}

func defaultBrewPath() string {
	if runtime.GOOS == "darwin" && runtime.GOARCH == "arm64" {
		return "/opt/homebrew"
	}
	return "/usr/local"
}

// storeName is the store that was asked for, or the embedded default.
func (a *app) storeName() (store.Name, error) {
	name := a.store
	if name == "" {
		name = os.Getenv("OBUILDER_STORE")
	}
	if name == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return store.Name{}, &console.UsageError{Err: fmt.Errorf("no place for a store: %w", err), Advice: "name one with --store"}
		}
		name = "dir:" + filepath.Join(cache, "obuilder")
	}
	return store.Parse(name)
}

// A session is an open engine and what it stands on.
type session struct {
	*engine.Engine
	store *store.Store
}

func (s *session) Close() error { return errors.Join(s.Engine.Close(), s.store.Close()) }

// open opens the store and an engine on it.
func (a *app) open(ctx context.Context) (*session, error) {
	name, err := a.storeName()
	if err != nil {
		return nil, err
	}
	mode, err := a.snapshotMode(name)
	if err != nil {
		return nil, err
	}
	log := slog.New(slog.DiscardHandler)
	if a.verbose {
		log = slog.New(slog.NewTextHandler(a.stderr, nil))
	}
	waiting := func(holder string) {
		a.console.Notice("the store is in use by %s; waiting for it", holder)
	}
	st, err := store.Open(ctx, name, store.Options{Forbidden: []string{a.brewPath}, Waiting: waiting})
	if err != nil {
		return nil, err
	}
	sb, err := a.sandbox(st, log)
	if err != nil {
		return nil, errors.Join(err, st.Close())
	}
	var images []string
	if name.Kind != store.ZFS {
		images = []string{engine.HealthcheckBase}
	}
	e, err := engine.Open(ctx, engine.Options{
		Images: images, FS: st.FS, Files: st.Files, Root: name.Root, Mountpoint: name.Mountpoint, Sandbox: sb,
		Snapshots: mode, OpenIndex: index.Open, Lock: st.Lock, PoolWait: a.wait, Log: log,
	})
	if err != nil {
		return nil, errors.Join(err, st.Close())
	}
	return &session{e, st}, nil
}

func (a *app) snapshotMode(name store.Name) (engine.SnapshotMode, error) {
	switch {
	case a.snapshots == "list":
		return engine.ListSnapshots, nil
	case a.snapshots == "mount":
		return engine.MountSnapshots, nil
	case a.snapshots != "auto":
		return 0, &console.UsageError{Err: fmt.Errorf("--snapshots=%s: it is list, mount or auto", a.snapshots)}
	case name.Kind == store.ZFS && runtime.GOOS == "darwin":
		return engine.MountSnapshots, nil
	}
	return engine.ListSnapshots, nil
}

// sandbox is the one that a store's steps run in.
func (a *app) sandbox(st *store.Store, log *slog.Logger) (sandbox.Sandbox, error) {
	if !strings.HasPrefix(a.brewPath, "/") {
		return nil, &console.UsageError{Err: fmt.Errorf("--brew-path=%s is not an absolute path", a.brewPath)}
	}
	if st.Name.Kind == store.ZFS {
		return macos.New(macos.Options{UID: a.uid, BrewPath: a.brewPath, Path: os.Getenv("PATH"), Log: log})
	}
	if st.Name.Kind == store.Fake {
		return scripted.New(scripted.Options{UID: a.uid, BrewPath: a.brewPath, Files: st.Files})
	}
	return local.New(local.Options{UID: a.uid, BrewPath: a.brewPath, StateDir: filepath.Join(st.Name.Path, "sandbox"), Path: os.Getenv("PATH"), Log: log})
}
