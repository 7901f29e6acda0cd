// Package sandbox is how the engine runs the command of a step: the interface
// and what it takes. Implementations are sandbox/macos (a user account of its
// own, on the machine itself), sandbox/local (no isolation) and
// sandbox/scripted (runs nothing; for obsim and tests).
//
// The engine clones the datasets of a step and mounts them where
// [Sandbox.Mounts] says, calls Run, then Quiesce, and unmounts them. A sandbox
// never runs zfs.
//
// The root directory of a step is the home of the build user: a relative or
// absolute path of a spec (workdir, copy, cache) is taken below it, so that
// "/src" is src in the home, unless it is below one of the mount points
// already. That is where the files of a copy step have always ended up on a
// Mac: they are unpacked by a login shell, which begins in the home.
package sandbox

import (
	"context"
	"fmt"
	"io"
	"strings"
)

// A Mount says where a child dataset of a result is mounted while its step runs.
type Mount struct {
	Child string // last component of the dataset's name: "home", "brew"
	Path  string // absolute: "/Users/mac1000", "/usr/local"
}

// A User is whom a step asks to run as.
type User struct {
	UID, GID int
	Name     string // the windows form; UID and GID count when it is empty
}

// An EnvVar is one variable of a step's environment.
type EnvVar struct{ Name, Value string }

// A CacheMount says where the dataset of a cache is mounted while the step runs.
type CacheMount struct {
	Name   string // of the cache
	Target string // as the spec has it
}

// A Secret is made readable to the step, for as long as it runs, in the file
// $OBUILDER_SECRETS_DIR/Target.
type Secret struct {
	Target string // as the spec has it
	Value  []byte
}

// A Config is one command to run.
type Config struct {
	Workdir  string   // as the spec has it; created when missing
	Argv     []string // the program and its arguments
	Hostname string
	User     User
	Env      []EnvVar // newest first; the first of a name counts
	Network  []string
	Caches   []CacheMount
	Secrets  []Secret
	// HostPath translates the path of a mount point to one that programs of
	// this machine can use (zfs.Files has it). The identity when nil.
	HostPath func(string) (string, bool)
}

// A Sandbox runs commands. Run is not called concurrently: the mount points
// are there once. The others may be.
type Sandbox interface {
	// Mounts gives the mount points of the children of a result, outermost
	// first. It does not change while the sandbox lives.
	Mounts() []Mount

	// Resolve gives the absolute mount-point path of a path of the spec, taken below
	// workdir when relative. A *RefusedError when it leads out of the step's
	// root directory.
	Resolve(workdir, path string) (string, error)

	// Check gives a *RefusedError for a command that this sandbox cannot run
	// as it is asked to (another user, a network that it does not have). It
	// is asked before anything is created.
	Check(Config) error

	// Prepare gets the machine ready: makes the build user when it is missing.
	// Called before the first Run of a process.
	Prepare(ctx context.Context) error

	// Run runs one command to its end, with all it prints going to output as
	// it comes, and stdin (nothing when nil) as its standard input. An
	// *ExitError when it ends with another status than 0; ctx.Err(), wrapped, when it was
	// cancelled; any other error means the machine is at fault, not the step.
	// When it returns, the command's process group is gone and so are the secrets.
	Run(ctx context.Context, cfg Config, stdin io.Reader, output io.Writer) error

	// Quiesce kills whatever the build user still runs, until none is left or
	// a bound is reached: then a *StuckError.
	Quiesce(ctx context.Context) error

	// Own gives the mount-point path to the build user: the root directory of a new
	// cache.
	Own(ctx context.Context, cfg Config, path string) error

	// Holders names the processes that have files open below a mount-point path, for an
	// error message. Best effort.
	Holders(ctx context.Context, path string) []string

	// Recover removes what an earlier process that was killed has left on
	// the machine: its secrets and its build user's processes.
	Recover(ctx context.Context) error
}

// An ExitError is a command that failed by itself.
type ExitError struct {
	Argv   []string
	Status int    // its exit status, or -1
	Signal string // what killed it, such as "killed"; "" when it exited
}

func (e *ExitError) Error() string {
	if e.Signal != "" {
		return fmt.Sprintf("command killed by signal: %s", e.Signal)
	}
	return fmt.Sprintf("command failed with exit status %d", e.Status)
}

// A RefusedError is a command that a sandbox will not run as it was asked to.
type RefusedError struct {
	Reason string // "user 501 is not the build user 1000"
	Hint   string // what to do about it; may be empty
}

func (e *RefusedError) Error() string { return e.Reason }

// A StuckError is a process that could not be killed: the machine needs a reboot.
type StuckError struct{ Processes []string }

func (e *StuckError) Error() string {
	return "cannot be killed: " + strings.Join(e.Processes, ", ")
}
