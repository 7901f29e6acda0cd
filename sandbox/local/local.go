// Package local is the sandbox of the embedded store: it isolates nothing. A
// step runs as the user that runs obuilder, with HOME in its clone, and can do
// all that this user can; a network, a user or a daemon that it leaves are not
// kept from anything.
//
//	sb, err := local.New(local.Options{StateDir: dir, Path: os.Getenv("PATH")})
//
// Of the environment of obuilder, a step sees the PATH only. It may ask for
// any user in its spec, and runs as you.
package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"obuilder.org/obuilder/sandbox"
	"obuilder.org/obuilder/sandbox/process"
	"obuilder.org/obuilder/sandbox/scratch"
)

// DefaultPath is the PATH of a step where Options have none.
const DefaultPath = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"

// Options are what a Sandbox is made of.
type Options struct {
	// UID names the build user in mount points: /Users/mac<UID>;
	// sandbox.DefaultUID when 0. Nothing runs as that user.
	UID int
	// BrewPath is the mount point of Homebrew; sandbox.DefaultBrewPath when empty.
	BrewPath string
	// StateDir is a directory of this store, on this machine, for the secrets
	// and the temporary files of the step that runs. Made when missing. Only
	// one process uses it at a time.
	StateDir string
	// Path is the PATH of steps, after the bin directory of Homebrew;
	// DefaultPath when empty.
	Path string
	// Grace is how long a cancelled step has from SIGTERM to SIGKILL;
	// process.DefaultGrace when 0.
	Grace time.Duration
	// Log is told what could not be removed; may be nil.
	Log *slog.Logger
}

// A Sandbox runs steps without isolation. Everything but Run may be called
// concurrently.
type Sandbox struct {
	sandbox.Layout
	opts Options
}

var _ sandbox.Sandbox = (*Sandbox)(nil)

// New checks the options; it changes nothing on the machine.
func New(opts Options) (*Sandbox, error) {
	layout, err := sandbox.NewLayout(opts.UID, 0, opts.BrewPath)
	if err != nil {
		return nil, err
	}
	if opts.StateDir == "" {
		return nil, errors.New("local sandbox: no directory for its state")
	}
	if opts.StateDir, err = filepath.Abs(opts.StateDir); err != nil {
		return nil, fmt.Errorf("local sandbox: %w", err)
	}
	if opts.Path == "" {
		opts.Path = DefaultPath
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	return &Sandbox{Layout: layout, opts: opts}, nil
}

// Check implements [sandbox.Sandbox].
func (s *Sandbox) Check(cfg sandbox.Config) error { return s.Layout.Check(cfg) }

func (s *Sandbox) secretsDir() string { return filepath.Join(s.opts.StateDir, "secrets") }

// tmpDir holds the TMPDIR of the step that runs.
func (s *Sandbox) tmpDir() string { return filepath.Join(s.opts.StateDir, "tmp") }

// Prepare implements [sandbox.Sandbox].
func (s *Sandbox) Prepare(context.Context) error {
	for _, dir := range []string{s.secretsDir(), s.tmpDir()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("prepare local sandbox: %w", err)
		}
	}
	return nil
}

// Run implements [sandbox.Sandbox].
func (s *Sandbox) Run(ctx context.Context, cfg sandbox.Config, stdin io.Reader, output io.Writer) (err error) {
	if err := s.Check(cfg); err != nil {
		return err
	}
	if err := s.Prepare(ctx); err != nil {
		return err
	}
	home, err := hostPath(cfg, s.Home())
	if err != nil {
		return err
	}
	if fi, err := os.Stat(home); err != nil || !fi.IsDir() {
		return fmt.Errorf("there is no home for the step: nothing is mounted on %s", home)
	}
	brew, err := hostPath(cfg, s.BrewPath)
	if err != nil {
		return err
	}
	dir, err := s.workdir(cfg)
	if err != nil {
		if _, err := fmt.Fprintf(output, "workdir: %v\n", err); err != nil {
			return fmt.Errorf("write output: %w", err)
		}
		return &sandbox.ExitError{Argv: cfg.Argv, Status: 1}
	}
	tmp, removeTmp, err := scratch.Temp(s.tmpDir())
	if err != nil {
		return err
	}
	defer func() {
		if err := removeTmp(); err != nil {
			s.opts.Log.Warn("cannot remove TMPDIR of a step", "err", err)
		}
	}()
	secretsDir, removeSecrets, err := scratch.Secrets(s.secretsDir(), cfg.Secrets, nil)
	if err != nil {
		return err
	}
	defer func() {
		if removeErr := removeSecrets(); removeErr != nil {
			err = errors.Join(err, removeErr)
		}
	}()

	first := []sandbox.EnvVar{{Name: marker, Value: tmp}}
	if secretsDir != "" {
		first = append(first, sandbox.EnvVar{Name: scratch.SecretsVariable, Value: secretsDir})
	}
	name := userName()
	last := []sandbox.EnvVar{
		{Name: "HOME", Value: home},
		{Name: "LOGNAME", Value: name},
		{Name: "PATH", Value: filepath.Join(brew, "bin") + string(os.PathListSeparator) + s.opts.Path},
		{Name: "TMPDIR", Value: tmp},
		{Name: "USER", Value: name},
	}
	err = process.Command{
		// env looks the program up in the PATH of the step.
		Argv:   append([]string{"/usr/bin/env"}, cfg.Argv...),
		Dir:    dir,
		Env:    sandbox.Environ(first, cfg.Env, last),
		Stdin:  stdin,
		Output: output,
		Grace:  s.opts.Grace,
	}.Run(ctx)
	if exit := (*sandbox.ExitError)(nil); errors.As(err, &exit) {
		exit.Argv = cfg.Argv
	}
	return err
}

func userName() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return strconv.Itoa(os.Getuid())
}

func hostPath(cfg sandbox.Config, name string) (string, error) {
	if cfg.HostPath == nil {
		return name, nil
	}
	host, ok := cfg.HostPath(name)
	if !ok {
		return "", fmt.Errorf("programs of this machine cannot reach %s of this store", name)
	}
	return host, nil
}

// workdir gives the host's path of the working directory, which it makes when
// it is missing, in the clone and nowhere else.
func (s *Sandbox) workdir(cfg sandbox.Config) (string, error) {
	dir, err := s.Resolve("/", cfg.Workdir)
	if err != nil {
		return "", err
	}
	host, err := hostPath(cfg, dir)
	if err != nil {
		return "", err
	}
	fi, err := os.Stat(host)
	switch {
	case err == nil && fi.IsDir():
		return host, nil
	case err == nil:
		return "", &fs.PathError{Op: "chdir", Path: dir, Err: errors.New("not a directory")}
	}
	// A mount point is a link in the embedded store, also that of a cache.
	var mount string
	for _, m := range s.Mounts() {
		if strings.HasPrefix(dir, m.Path+"/") {
			mount = m.Path
		}
	}
	for _, c := range cfg.Caches {
		target, err := s.Resolve(cfg.Workdir, c.Target)
		if err != nil {
			return "", err
		}
		if strings.HasPrefix(dir, target+"/") && len(target) > len(mount) {
			mount = target
		}
	}
	if mount == "" { // it is the mount point of Homebrew, where nothing is mounted
		return "", &fs.PathError{Op: "chdir", Path: dir, Err: fs.ErrNotExist}
	}
	at, err := hostPath(cfg, mount)
	if err != nil {
		return "", err
	}
	root, err := os.OpenRoot(at)
	if err != nil {
		return "", err
	}
	defer root.Close()
	return host, root.MkdirAll(strings.TrimPrefix(dir, mount+"/"), 0o755)
}

// marker is the environment variable by which processes of a step are found
// again on Linux: it holds a name below tmpDir.
const marker = "OBUILDER_STEP"

// quiesceTime bounds Quiesce.
const quiesceTime = 5 * time.Second

// Quiesce implements [sandbox.Sandbox]. What is left of the process group of a
// command is gone already when Run returns. On Linux, processes that left the
// group are found by their environment; elsewhere they stay, since this is
// the account of whoever runs obuilder.
func (s *Sandbox) Quiesce(ctx context.Context) error {
	if runtime.GOOS != "linux" {
		return nil
	}
	return s.kill(ctx, "/proc")
}

func (s *Sandbox) kill(ctx context.Context, proc string) error {
	ctx, cancel := context.WithTimeout(ctx, quiesceTime)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		left := s.marked(proc)
		if len(left) == 0 {
			return nil
		}
		for pid := range left {
			// The handle is to the process that is there now: look again
			// whether that is ours before killing it.
			p, err := os.FindProcess(pid)
			if err != nil {
				continue
			}
			if s.isMarked(proc, pid) {
				p.Kill()
			}
			p.Release()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			stuck := &sandbox.StuckError{}
			for pid, name := range left {
				stuck.Processes = append(stuck.Processes, fmt.Sprintf("%d (%s)", pid, name))
			}
			return stuck
		}
	}
}

// marked gives the processes with our marker and their names.
func (s *Sandbox) marked(proc string) map[int]string {
	found := map[int]string{}
	entries, err := os.ReadDir(proc)
	if err != nil {
		return nil
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() || !s.isMarked(proc, pid) {
			continue
		}
		name, _ := os.ReadFile(filepath.Join(proc, e.Name(), "comm"))
		found[pid] = strings.TrimSpace(string(name))
	}
	return found
}

// isMarked reports whether a process has our marker in the environment it was
// started with. It is empty for a zombie, and unreadable for other users'.
func (s *Sandbox) isMarked(proc string, pid int) bool {
	environ, err := os.ReadFile(filepath.Join(proc, strconv.Itoa(pid), "environ"))
	if err != nil {
		return false
	}
	return strings.Contains("\x00"+string(environ), "\x00"+marker+"="+s.tmpDir()+string(filepath.Separator))
}

// Own implements [sandbox.Sandbox]: everything is yours already.
func (s *Sandbox) Own(context.Context, sandbox.Config, string) error { return nil }

// Holders implements [sandbox.Sandbox]: nothing is mounted that could be held.
func (s *Sandbox) Holders(context.Context, string) []string { return nil }

// Recover implements [sandbox.Sandbox].
func (s *Sandbox) Recover(ctx context.Context) error {
	return errors.Join(s.Quiesce(ctx), scratch.Clear(s.secretsDir()), scratch.Clear(s.tmpDir()))
}
