// Package macos is the sandbox of a Mac without containers: a step runs in a
// login shell of a user account that does nothing else, in a home and a
// Homebrew prefix that are clones.
//
//	sb, err := macos.New(macos.Options{UID: 1000, BrewPath: "/opt/homebrew", Path: os.Getenv("PATH")})
//
// Its command is
//
//	su -l mac1000 -c -- SCRIPT ARGV...
//
// where SCRIPT is
//
//	source ~/.obuilder_profile.sh && mkdir -p '/Users/mac1000/src' && cd '/Users/mac1000/src' && env 'A=b' "$0" "$@"
//
// through sudo when obuilder is not root. The same sandbox runs on Linux as
// root, with that machine's accounts and processes.
//
// What it does not isolate: the network, and files outside of the home and of
// Homebrew that the build user can write to. See docs/on-a-mac.md.
package macos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"obuilder.org/obuilder/sandbox"
	"obuilder.org/obuilder/sandbox/process"
	"obuilder.org/obuilder/sandbox/scratch"
)

// DefaultSecretsDir is where secrets are while a step runs.
const DefaultSecretsDir = "/var/run/obuilder-secrets"

// DefaultKillTime bounds Quiesce where Options do not.
const DefaultKillTime = 10 * time.Second

// Options are what a Sandbox is made of.
type Options struct {
	// UID is that of the build user, mac<UID>, which is made when it is
	// missing; sandbox.DefaultUID when 0. Whatever else this user runs is
	// killed.
	UID int
	// GID is the primary group that a new user gets; 1000 when 0.
	GID int
	// BrewPath is where Homebrew is; sandbox.DefaultBrewPath when empty.
	BrewPath string
	// SecretsDir is below directories that only root can write to, and is
	// made when missing; DefaultSecretsDir when empty.
	SecretsDir string
	// Path is a PATH in which su, dscl and the like are found, besides the
	// directories of the system. Those below BrewPath do not count.
	Path string
	// Grace is how long a cancelled step has from SIGTERM to SIGKILL;
	// process.DefaultGrace when 0.
	Grace time.Duration
	// KillTime is how long Quiesce tries; DefaultKillTime when 0.
	KillTime time.Duration
	// Log is told what is odd but no error; may be nil.
	Log *slog.Logger

	// Accounts, Processes and Commands are those of this machine when nil.
	Accounts  Accounts
	Processes Processes
	Commands  Commands
}

// A Sandbox runs steps as the build user. Everything but Run may be called
// concurrently.
type Sandbox struct {
	sandbox.Layout
	opts Options
	root bool

	mu      sync.Mutex
	account Account // zero before Prepare
	tmp     string  // TMPDIR of the build user; "" when not known yet
	dirty   bool    // a command ran since tmp was cleared
}

var _ sandbox.Sandbox = (*Sandbox)(nil)

// New checks the options; it changes nothing on the machine.
func New(opts Options) (*Sandbox, error) { return newSandbox(opts, os.Geteuid()) }

func newSandbox(opts Options, euid int) (*Sandbox, error) {
	layout, err := sandbox.NewLayout(opts.UID, opts.GID, opts.BrewPath)
	if err != nil {
		return nil, err
	}
	if layout.UID == euid {
		return nil, fmt.Errorf("obuilder runs as user %d, which cannot be the build user: all that one runs is killed", euid)
	}
	s := &Sandbox{Layout: layout, opts: opts, root: euid == 0}
	o := &s.opts
	if o.SecretsDir == "" {
		o.SecretsDir = DefaultSecretsDir
	}
	if o.KillTime == 0 {
		o.KillTime = DefaultKillTime
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Commands == nil {
		o.Commands = NewExec(o.Path, layout.BrewPath, layout.Home())
	}
	if o.Accounts == nil || o.Processes == nil {
		accounts, processes, err := forThisMachine(runtime.GOOS, o.Commands, !s.root)
		if err != nil {
			return nil, err
		}
		if o.Accounts == nil {
			o.Accounts = accounts
		}
		if o.Processes == nil {
			o.Processes = processes
		}
	}
	return s, nil
}

// Check implements [sandbox.Sandbox].
func (s *Sandbox) Check(cfg sandbox.Config) error {
	if err := s.Layout.Check(cfg); err != nil {
		return err
	}
	if len(cfg.Secrets) > 0 && !s.root {
		return &sandbox.RefusedError{
			Reason: "secrets can be given to the build user by root only",
			Hint:   "run obuilder as root",
		}
	}
	return s.CheckUser(cfg.User)
}

// Prepare implements [sandbox.Sandbox].
func (s *Sandbox) Prepare(ctx context.Context) error {
	_, _, err := s.prepare(ctx, true)
	return err
}

// prepare gives the build user and its TMPDIR. When it does not exist and is
// not to be made, the error is ErrNoAccount, wrapped.
func (s *Sandbox) prepare(ctx context.Context, create bool) (Account, string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tmp != "" {
		return s.account, s.tmp, nil
	}
	a, err := s.ensure(ctx, create)
	if err != nil {
		return Account{}, "", fmt.Errorf("build user %s: %w", s.UserName(), err)
	}
	tmp, err := s.opts.Accounts.TempDir(ctx, a)
	if err != nil {
		return Account{}, "", fmt.Errorf("directory for temporary files of %s: %w", a.Name, err)
	}
	s.account, s.tmp = a, tmp
	return a, tmp, nil
}

func (s *Sandbox) ensure(ctx context.Context, create bool) (Account, error) {
	want := Account{Name: s.UserName(), UID: s.UID, GID: s.GID, Home: s.Home(), Shell: "/bin/bash"}
	have, err := s.opts.Accounts.Lookup(ctx, want.Name)
	if err != nil && !errors.Is(err, ErrNoAccount) {
		return Account{}, err
	}
	exists := err == nil
	// All that a user id runs gets killed: it must be nobody else's.
	names, err := s.opts.Accounts.Names(ctx, want.UID)
	if err != nil {
		return Account{}, err
	}
	for _, name := range names {
		if name != want.Name {
			return Account{}, fmt.Errorf("user id %d is that of user %s", want.UID, name)
		}
	}
	switch {
	case exists && have.UID != want.UID:
		return Account{}, fmt.Errorf("it has user id %d, not %d", have.UID, want.UID)
	case exists && have.Home != "" && have.Home != want.Home:
		return Account{}, fmt.Errorf("its home is %s, not %s", have.Home, want.Home)
	case exists && have.Home != "" && have.Shell != "":
		return have, nil
	case !create:
		return Account{}, ErrNoAccount
	}
	return want, s.opts.Accounts.Create(ctx, want)
}

// Run implements [sandbox.Sandbox].
func (s *Sandbox) Run(ctx context.Context, cfg sandbox.Config, stdin io.Reader, output io.Writer) (err error) {
	if err := s.Check(cfg); err != nil {
		return err
	}
	account, tmp, err := s.prepare(ctx, true)
	if err != nil {
		return err
	}
	var first []sandbox.EnvVar
	if len(cfg.Secrets) > 0 {
		parent, err := s.makeSecretsDir()
		if err != nil {
			return err
		}
		dir, remove, err := scratch.Secrets(parent, cfg.Secrets, &scratch.Owner{UID: account.UID, GID: account.GID})
		if err != nil {
			return err
		}
		defer func() {
			if removeErr := remove(); removeErr != nil {
				err = errors.Join(err, removeErr)
			}
		}()
		first = []sandbox.EnvVar{{Name: scratch.SecretsVariable, Value: dir}}
	}
	script, err := s.script(cfg, sandbox.Environ(first, cfg.Env, []sandbox.EnvVar{{Name: "TMPDIR", Value: tmp}}))
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.dirty = true
	s.mu.Unlock()
	err = s.opts.Commands.Stream(ctx, process.Command{
		Argv:   s.opts.Accounts.Su(account.Name, script, cfg.Argv),
		Stdin:  stdin,
		Output: output,
		Grace:  s.opts.Grace,
		Kill: func() {
			// Signals do not reach a process group that sudo started, nor
			// the session that some su make.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.opts.KillTime)
			defer cancel()
			if _, err := s.opts.Processes.Kill(ctx, s.UID, false); err != nil {
				s.opts.Log.Warn("cannot kill a cancelled command", "err", err)
			}
		},
	})
	if exit := (*sandbox.ExitError)(nil); errors.As(err, &exit) {
		exit.Argv = cfg.Argv
	}
	return err
}

// script gives what the login shell runs, with the command as "$0" and "$@".
func (s *Sandbox) script(cfg sandbox.Config, environ []string) (string, error) {
	dir, err := s.Resolve("/", cfg.Workdir)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	// Base images have a profile, which sets the PATH to their tools; one
	// without tools need not.
	profile := ".obuilder_profile.sh"
	home := s.Home()
	if cfg.HostPath != nil {
		if host, ok := cfg.HostPath(home); ok {
			home = host
		}
	}
	if _, err := os.Lstat(filepath.Join(home, profile)); !errors.Is(err, fs.ErrNotExist) {
		b.WriteString("source ~/" + profile + " && ")
	}
	// A login shell begins in the home.
	if dir != s.Home() {
		fmt.Fprintf(&b, "mkdir -p %[1]s && cd %[1]s && ", quote(dir))
	}
	b.WriteString("env ")
	for _, v := range environ {
		name, value, _ := strings.Cut(v, "=")
		b.WriteString(quote(name+"="+value) + " ")
	}
	b.WriteString(`"$0" "$@"`)
	return b.String(), nil
}

// quote makes one word of s for a shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// secretsParent is the directory of this build user: another obuilder on this
// machine may have another one.
func (s *Sandbox) secretsParent() string { return filepath.Join(s.opts.SecretsDir, s.UserName()) }

func (s *Sandbox) makeSecretsDir() (string, error) {
	for _, dir := range []string{s.opts.SecretsDir, s.secretsParent()} {
		if err := os.Mkdir(dir, 0o711); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", fmt.Errorf("make the directory of secrets: %w", err)
		}
		fi, err := os.Lstat(dir)
		if err != nil {
			return "", fmt.Errorf("make the directory of secrets: %w", err)
		}
		if !fi.IsDir() {
			return "", fmt.Errorf("make the directory of secrets: %s is something else", dir)
		}
		if err := os.Chmod(dir, 0o711); err != nil { // whatever the umask
			return "", fmt.Errorf("make the directory of secrets: %w", err)
		}
	}
	return s.secretsParent(), nil
}

// maxNamed is how many processes are named in an error.
const maxNamed = 10

// hardAfter is how many times processes are killed before launchd is told to
// stop starting them.
const hardAfter = 4

// Quiesce implements [sandbox.Sandbox]. It also clears the TMPDIR of the build
// user when a command ran.
func (s *Sandbox) Quiesce(ctx context.Context) error {
	if err := s.killAll(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.dirty {
		return nil
	}
	if err := s.opts.Accounts.ClearTempDir(ctx, s.account, s.tmp); err != nil {
		s.opts.Log.Warn("cannot remove temporary files", "user", s.account.Name, "dir", s.tmp, "err", err)
	}
	s.dirty = false
	return nil
}

func (s *Sandbox) killAll(ctx context.Context) error {
	end := time.Now().Add(s.opts.KillTime)
	wait := 20 * time.Millisecond
	for try := 1; ; try++ {
		found, err := s.opts.Processes.Kill(ctx, s.UID, try == hardAfter)
		if err != nil {
			return fmt.Errorf("kill processes of %s: %w", s.UserName(), err)
		}
		if !found {
			return nil
		}
		list, err := s.opts.Processes.List(ctx, s.UID)
		if err != nil {
			return fmt.Errorf("list processes of %s: %w", s.UserName(), err)
		}
		list = slices.DeleteFunc(list, Process.zombie)
		if len(list) == 0 {
			return nil
		}
		if !time.Now().Before(end) {
			return &sandbox.StuckError{Processes: names(list)}
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return fmt.Errorf("kill processes of %s: %w", s.UserName(), ctx.Err())
		}
		wait = min(2*wait, time.Second)
	}
}

func names(list []Process) []string {
	var all []string
	for i, p := range list {
		if i == maxNamed {
			return append(all, fmt.Sprintf("and %d more", len(list)-i))
		}
		all = append(all, p.String())
	}
	return all
}

// Own implements [sandbox.Sandbox].
func (s *Sandbox) Own(ctx context.Context, cfg sandbox.Config, path string) error {
	account, _, err := s.prepare(ctx, true)
	if err != nil {
		return err
	}
	if cfg.HostPath != nil {
		host, ok := cfg.HostPath(path)
		if !ok {
			return fmt.Errorf("programs of this machine cannot reach %s of this store", path)
		}
		path = host
	}
	return s.opts.Accounts.Own(ctx, account, path)
}

// Holders implements [sandbox.Sandbox].
func (s *Sandbox) Holders(ctx context.Context, path string) []string {
	return names(s.opts.Processes.Holders(ctx, path))
}

// Recover implements [sandbox.Sandbox].
func (s *Sandbox) Recover(ctx context.Context) error {
	var secretsErr error
	if s.root {
		secretsErr = scratch.Clear(s.secretsParent())
	}
	_, _, err := s.prepare(ctx, false)
	if errors.Is(err, ErrNoAccount) {
		return secretsErr
	}
	if err == nil {
		s.mu.Lock()
		s.dirty = true
		s.mu.Unlock()
		err = s.Quiesce(ctx)
	}
	return errors.Join(secretsErr, err)
}
