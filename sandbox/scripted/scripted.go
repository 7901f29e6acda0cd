// Package scripted is a sandbox that runs nothing: it does to the files of a
// fake store what a script says that a command would do. It is for obsim and
// for tests of the engine.
//
//	sb, err := scripted.New(scripted.Options{
//		Files: fs, // a *fake.FS, whose mount points the engine sets
//		Rules: []scripted.Rule{
//			{Command: regexp.MustCompile(`make$`), Output: "built\n", Writes: []scripted.Write{{Path: "/out", Contents: "x"}}},
//			{Command: regexp.MustCompile(`make test`), Status: 2},
//		},
//	})
//
// "tar -xf -" unpacks its standard input in the working directory, as copy
// steps want it. A command for which there is neither a script nor a rule
// prints itself after "+ " and adds the same line to the file .ran in the
// home, so that results of different commands differ.
package scripted

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"obuilder.org/obuilder/sandbox"
	"obuilder.org/obuilder/zfs"
)

// Files are the files below the mount points: what this package needs of
// [zfs.Files]. Links in a copied tree are made when it also has
//
//	Symlink(target, name string) error
//
// and are an error of the command otherwise.
type Files interface {
	OpenFile(name string, flag int, perm fs.FileMode) (zfs.File, error)
	MkdirAll(name string, perm fs.FileMode) error
	Remove(name string) error
}

// A Clock is what commands spend their time on.
type Clock interface {
	// Sleep returns after d, or with ctx.Err() when ctx is done.
	Sleep(ctx context.Context, d time.Duration) error
}

// A Write is a file that a command writes, with its missing directories.
type Write struct {
	Path     string // as a spec has it: relative to the workdir
	Contents string
	Size     int64 // bytes: longer than Contents, the rest is zeros
	Append   bool  // at the end of what is there
}

// A Rule is what a command does.
type Rule struct {
	Command  *regexp.Regexp  // matched against the arguments, joined by spaces; nil matches all
	Wait     <-chan struct{} // waits until it is closed
	Duration time.Duration   // on the Clock
	Output   string
	Writes   []Write
	Status   int    // its exit status
	Signal   string // what killed it
	Err      error  // what Run gives instead: the machine is at fault
}

// ErrUnscripted is what a [Script] gives to leave a command to the rules.
var ErrUnscripted = errors.New("no script for this command")

// A Script runs a command: the arguments and errors are those of
// [sandbox.Sandbox.Run]. Stdin is never nil.
type Script func(ctx context.Context, cfg sandbox.Config, stdin io.Reader, output io.Writer) error

// Options are what a Sandbox is made of.
type Options struct {
	UID      int    // of the build user; sandbox.DefaultUID when 0
	BrewPath string // sandbox.DefaultBrewPath when empty
	Files    Files  // needed
	Clock    Clock  // real time when nil
	Script   Script // asked first, but not for tar; may be nil
	Rules    []Rule // the first that matches counts
}

// A Sandbox runs scripts. Everything but Run may be called concurrently.
type Sandbox struct {
	sandbox.Layout
	opts Options
	runs atomic.Int64
}

var _ sandbox.Sandbox = (*Sandbox)(nil)

// New checks the options.
func New(opts Options) (*Sandbox, error) {
	layout, err := sandbox.NewLayout(opts.UID, 0, opts.BrewPath)
	if err != nil {
		return nil, err
	}
	if opts.Files == nil {
		return nil, errors.New("scripted sandbox: no files")
	}
	if opts.Clock == nil {
		opts.Clock = realTime{}
	}
	return &Sandbox{Layout: layout, opts: opts}, nil
}

// Runs gives the number of commands that were begun, tar among them.
func (s *Sandbox) Runs() int { return int(s.runs.Load()) }

// Check implements [sandbox.Sandbox]: it refuses what sandbox/macos does.
func (s *Sandbox) Check(cfg sandbox.Config) error {
	if err := s.Layout.Check(cfg); err != nil {
		return err
	}
	return s.CheckUser(cfg.User)
}

// Run implements [sandbox.Sandbox].
func (s *Sandbox) Run(ctx context.Context, cfg sandbox.Config, stdin io.Reader, output io.Writer) error {
	if err := s.Check(cfg); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("command cancelled: %w", err)
	}
	s.runs.Add(1)
	if stdin == nil {
		stdin = strings.NewReader("")
	}
	if slices.Equal(cfg.Argv, []string{"tar", "-xf", "-"}) {
		return s.untar(ctx, cfg, stdin, output)
	}
	if s.opts.Script != nil {
		if err := s.opts.Script(ctx, cfg, stdin, output); !errors.Is(err, ErrUnscripted) {
			return err
		}
	}
	line := strings.Join(cfg.Argv, " ")
	for _, rule := range s.opts.Rules {
		if rule.Command == nil || rule.Command.MatchString(line) {
			return s.follow(ctx, rule, cfg, output)
		}
	}
	text := "+ " + cfg.Argv[len(cfg.Argv)-1] + "\n"
	return s.follow(ctx, Rule{
		Output: text,
		Writes: []Write{{Path: s.Home() + "/.ran", Contents: text, Append: true}},
	}, cfg, output)
}

func (s *Sandbox) follow(ctx context.Context, rule Rule, cfg sandbox.Config, output io.Writer) error {
	if rule.Wait != nil {
		select {
		case <-rule.Wait:
		case <-ctx.Done():
			return fmt.Errorf("command cancelled: %w", ctx.Err())
		}
	}
	if rule.Duration > 0 {
		if err := s.opts.Clock.Sleep(ctx, rule.Duration); err != nil {
			return fmt.Errorf("command cancelled: %w", err)
		}
	}
	if _, err := io.WriteString(output, rule.Output); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	for _, w := range rule.Writes {
		name, err := s.Resolve(cfg.Workdir, w.Path)
		if err != nil {
			return err
		}
		if err := s.write(ctx, name, w); err != nil {
			return s.fail(cfg, output, err)
		}
	}
	if rule.Err != nil {
		return rule.Err
	}
	if rule.Status != 0 || rule.Signal != "" {
		status := rule.Status
		if rule.Signal != "" {
			status = -1
		}
		return &sandbox.ExitError{Argv: cfg.Argv, Status: status, Signal: rule.Signal}
	}
	return nil
}

// fail ends a command as a program ends that cannot do something to a file.
func (s *Sandbox) fail(cfg sandbox.Config, output io.Writer, err error) error {
	if pathErr := (*fs.PathError)(nil); !errors.As(err, &pathErr) {
		return err
	}
	if _, err := fmt.Fprintf(output, "%s: %v\n", cfg.Argv[0], err); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return &sandbox.ExitError{Argv: cfg.Argv, Status: 1}
}

func (s *Sandbox) write(ctx context.Context, name string, w Write) error {
	flag := os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	if w.Append {
		flag = os.O_WRONLY | os.O_CREATE | os.O_APPEND
	}
	zeros := io.LimitReader(zero{}, max(0, w.Size-int64(len(w.Contents))))
	return s.create(ctx, name, flag, 0o644, io.MultiReader(strings.NewReader(w.Contents), zeros))
}

func (s *Sandbox) create(ctx context.Context, name string, flag int, perm fs.FileMode, contents io.Reader) (err error) {
	if err := s.opts.Files.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	file, err := s.opts.Files.OpenFile(name, flag, perm)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	_, err = io.Copy(file, readFunc(func(p []byte) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, fmt.Errorf("command cancelled: %w", err)
		}
		return contents.Read(p)
	}))
	return err
}

// untar does what tar -xf - does in the working directory.
func (s *Sandbox) untar(ctx context.Context, cfg sandbox.Config, stdin io.Reader, output io.Writer) error {
	dir, err := s.Resolve(cfg.Workdir, ".")
	if err != nil {
		return err
	}
	r := tar.NewReader(stdin)
	for {
		h, err := r.Next()
		if err == io.EOF {
			// What pads the archive is read too, for the one who writes it.
			_, err = io.Copy(io.Discard, stdin)
			if err == nil {
				return nil
			}
		}
		if err != nil {
			return fmt.Errorf("read standard input: %w", err)
		}
		if err := s.extract(ctx, dir, h, r); err != nil {
			return s.fail(cfg, output, err)
		}
	}
}

func (s *Sandbox) extract(ctx context.Context, dir string, h *tar.Header, contents io.Reader) error {
	rel := path.Clean(h.Name)
	if !fs.ValidPath(rel) {
		return &fs.PathError{Op: "extract", Path: h.Name, Err: fs.ErrInvalid}
	}
	name := path.Join(dir, rel)
	// A file whose name ends in a slash is a directory of before tar had them.
	if h.Typeflag == tar.TypeDir || strings.HasSuffix(h.Name, "/") {
		return s.opts.Files.MkdirAll(name, h.FileInfo().Mode().Perm())
	}
	if err := s.opts.Files.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	switch h.Typeflag {
	case tar.TypeReg:
		return s.create(ctx, name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, h.FileInfo().Mode().Perm(), contents)
	case tar.TypeSymlink:
		files, ok := s.opts.Files.(interface {
			Symlink(target, name string) error
		})
		if !ok {
			return &fs.PathError{Op: "symlink", Path: name, Err: errors.ErrUnsupported}
		}
		if err := s.opts.Files.MkdirAll(path.Dir(name), 0o755); err != nil {
			return err
		}
		return files.Symlink(h.Linkname, name)
	}
	return &fs.PathError{Op: "extract", Path: h.Name, Err: errors.ErrUnsupported}
}

// Prepare implements [sandbox.Sandbox]: there is nothing to prepare.
func (s *Sandbox) Prepare(context.Context) error { return nil }

// Quiesce implements [sandbox.Sandbox]: nothing is left running.
func (s *Sandbox) Quiesce(context.Context) error { return nil }

// Own implements [sandbox.Sandbox]: there is only one user.
func (s *Sandbox) Own(context.Context, sandbox.Config, string) error { return nil }

// Holders implements [sandbox.Sandbox]: there are no processes.
func (s *Sandbox) Holders(context.Context, string) []string { return nil }

// Recover implements [sandbox.Sandbox]: nothing was left.
func (s *Sandbox) Recover(context.Context) error { return nil }

type realTime struct{}

func (realTime) Sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

type zero struct{}

func (zero) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
