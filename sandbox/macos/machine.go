package macos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"obuilder.org/obuilder/sandbox/process"
)

// ErrNoAccount is what [Accounts.Lookup] gives for a user that there is not.
var ErrNoAccount = errors.New("no such user")

// An Account is a user of the machine.
type Account struct {
	Name     string
	UID, GID int
	Home     string // "" when its creation was cut short
	Shell    string
}

// Accounts are the users of a machine. Everything may be called concurrently.
// Methods that change something are idempotent.
type Accounts interface {
	// Lookup describes a user, or gives ErrNoAccount, wrapped or not.
	Lookup(ctx context.Context, name string) (Account, error)
	// Names gives the names of the users with a user id.
	Names(ctx context.Context, uid int) ([]string, error)
	// Create makes a user, or completes it. It does not make its home.
	Create(ctx context.Context, a Account) error
	// Su gives the command that runs a script of bash in a login shell of the
	// user, with args as "$0" and "$@".
	Su(user, script string, args []string) []string
	// TempDir gives the directory for temporary files of the user, which it
	// makes when it is missing.
	TempDir(ctx context.Context, a Account) (string, error)
	// ClearTempDir removes what is in that directory.
	ClearTempDir(ctx context.Context, a Account, dir string) error
	// Own gives a file to a user, not following a link.
	Own(ctx context.Context, a Account, path string) error
}

// A Process is a running program.
type Process struct {
	PID     int
	State   string // as ps(1) has it: "S", "Us", "Z", ...
	Command string
}

func (p Process) String() string {
	if p.State == "" {
		return fmt.Sprintf("%d (%s)", p.PID, p.Command)
	}
	return fmt.Sprintf("%d (%s, state %s)", p.PID, p.Command, p.State)
}

// zombie reports whether it has ended and only waits for its parent to notice.
func (p Process) zombie() bool { return strings.HasPrefix(p.State, "Z") }

// Processes are what runs on a machine. Everything may be called concurrently.
type Processes interface {
	// List gives the processes whose real user id is uid.
	List(ctx context.Context, uid int) ([]Process, error)
	// Kill sends SIGKILL to all of them and reports whether there were any.
	// Hard also keeps the machine from starting them again.
	Kill(ctx context.Context, uid int, hard bool) (found bool, err error)
	// Holders gives the processes with files open below a mount point. Best effort.
	Holders(ctx context.Context, path string) []Process
}

// Commands runs the programs of the machine.
type Commands interface {
	// Output runs a program to its end and gives its standard output, also
	// with a *CommandError, which says that the program failed.
	Output(ctx context.Context, argv ...string) (string, error)
	// Stream runs the command of a step.
	Stream(ctx context.Context, c process.Command) error
}

// A CommandError is a program of the machine that failed.
type CommandError struct {
	Argv   []string
	Status int // exit status, -1 when it was killed or did not start
	Stderr string
	Err    error
}

func (e *CommandError) Error() string {
	text := fmt.Sprintf("%s: %v", strings.Join(e.Argv, " "), e.Err)
	if stderr := strings.TrimSpace(e.Stderr); stderr != "" {
		text += ": " + stderr
	}
	return text
}

// Unwrap gives the cause.
func (e *CommandError) Unwrap() error { return e.Err }

// The bounds of programs that [Commands.Output] runs.
const (
	commandTime   = 30 * time.Second
	commandOutput = 1 << 20 // bytes, each of standard output and error
)

// systemPath is where the programs are that this package runs.
const systemPath = "/usr/bin:/bin:/usr/sbin:/sbin"

// Exec is [Commands] of this machine.
type Exec struct {
	path string
}

// NewExec makes an Exec which finds programs in the directories of path, a
// value of PATH, and in those of the system, but never below one of except:
// where builds can write, there may be a program that calls itself su.
func NewExec(path string, except ...string) Exec {
	var dirs []string
	for _, dir := range filepath.SplitList(path + string(os.PathListSeparator) + systemPath) {
		allowed := filepath.IsAbs(dir)
		for _, e := range except {
			allowed = allowed && !strings.HasPrefix(filepath.Clean(dir)+"/", e+"/")
		}
		if allowed {
			dirs = append(dirs, dir)
		}
	}
	return Exec{strings.Join(dirs, string(os.PathListSeparator))}
}

func (e Exec) look(name string) (string, error) {
	if filepath.IsAbs(name) {
		return name, nil
	}
	for _, dir := range filepath.SplitList(e.path) {
		if p, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("%w in %s", exec.ErrNotFound, e.path)
}

// Output implements [Commands].
func (e Exec) Output(ctx context.Context, argv ...string) (string, error) {
	program, err := e.look(argv[0])
	if err != nil {
		return "", &CommandError{Argv: argv, Status: -1, Err: err}
	}
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, argv[1:]...)
	process.KillGroup(cmd)
	cmd.Dir = "/"
	cmd.Env = []string{"LC_ALL=C", "PATH=" + e.path}
	cmd.WaitDelay = time.Second
	var stdout, stderr bounded
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		status := -1
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
			status = exit.ExitCode()
		}
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return stdout.String(), &CommandError{Argv: argv, Status: status, Stderr: stderr.String(), Err: err}
	}
	return stdout.String(), nil
}

// Stream implements [Commands].
func (e Exec) Stream(ctx context.Context, c process.Command) error {
	program, err := e.look(c.Argv[0])
	if err != nil {
		return &process.StartError{Argv: c.Argv, Err: err}
	}
	c.Argv = append([]string{program}, c.Argv[1:]...)
	c.Dir = "/"
	c.Env = []string{"PATH=" + e.path}
	return c.Run(ctx)
}

// exitStatus gives the status of a program that ended by itself; ok is false
// when err is something else.
func exitStatus(err error) (status int, ok bool) {
	if err == nil {
		return 0, true
	}
	if c := (*CommandError)(nil); errors.As(err, &c) && c.Status >= 0 {
		return c.Status, true
	}
	return 0, false
}

// bounded keeps the beginning of what is written to it.
type bounded struct{ bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	b.Buffer.Write(p[:min(len(p), commandOutput-b.Len())])
	return len(p), nil
}
