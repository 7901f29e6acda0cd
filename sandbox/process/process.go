// Package process runs the command of a step: in a session of its own, with
// all it prints passed on as it comes, and never waiting without a bound for
// something that the command left behind.
//
//	err := process.Command{Argv: []string{"make"}, Dir: dir, Env: env, Output: log}.Run(ctx)
//
// On Windows it can only kill the command itself, not what that started.
package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"sync/atomic"
	"time"

	"obuilder.org/obuilder/sandbox"
)

// The bounds of [Command] where it does not set them.
const (
	DefaultGrace = 3 * time.Second
	DefaultIdle  = 500 * time.Millisecond

	// killWait is how long a killed process may take to go: longer, and it
	// is stuck in the kernel.
	killWait = 10 * time.Second
	// drainWait is how long output is passed on after the command has ended,
	// whatever still prints.
	drainWait = 5 * time.Second
)

// A Command is a program to run. It cannot read from a terminal.
type Command struct {
	Argv   []string  // Argv[0] is looked up in the PATH of this process
	Dir    string    // working directory; that of this process when empty
	Env    []string  // NAME=VALUE; an empty environment when nil
	Stdin  io.Reader // nothing when nil
	Output io.Writer // both its standard output and its standard error

	// Grace is how long the command has between SIGTERM, when it is
	// cancelled, and SIGKILL; DefaultGrace when 0.
	Grace time.Duration
	// Idle is how long output may pause, once the command has ended, before
	// it is taken to be complete although a process which left the command's
	// session still holds it open; DefaultIdle when 0.
	Idle time.Duration
	// Kill, if not nil, is called along with SIGKILL, to kill what signals to
	// the process group do not reach.
	Kill func()
}

// A StartError is a command that could not be started: there is no such
// program, or it cannot be executed.
type StartError struct {
	Argv []string
	Err  error
}

func (e *StartError) Error() string {
	err := e.Err
	// fork/exec names the program as well.
	if pathErr := (*fs.PathError)(nil); errors.As(err, &pathErr) && pathErr.Path == e.Argv[0] {
		err = pathErr.Err
	}
	return fmt.Sprintf("start %s: %v", e.Argv[0], err)
}

// Unwrap gives the cause.
func (e *StartError) Unwrap() error { return e.Err }

// Run runs the command to its end. The errors are those of
// [sandbox.Sandbox.Run], and a *StartError: a *sandbox.StuckError when the
// command could not be killed, and the error of Stdin or Output when one of
// them failed, for which the command is killed.
//
// When it returns, the process group of the command is gone and nothing more
// is written to Output. A Read from Stdin may still be waiting: the caller
// ends it.
func (c Command) Run(ctx context.Context) (err error) {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("command cancelled: %w", err)
	}
	caller := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	cmd := exec.Command(c.Argv[0], c.Argv[1:]...)
	cmd.Dir = c.Dir
	cmd.Env = c.Env
	if cmd.Env == nil {
		cmd.Env = []string{}
	}
	separate(cmd)

	outR, outW, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("pipe for output: %w", err)
	}
	cmd.Stdout, cmd.Stderr = outW, outW
	closeOnError := []io.Closer{outR, outW}
	defer func() {
		for _, f := range closeOnError {
			f.Close()
		}
	}()
	var inW *os.File
	if c.Stdin != nil {
		inR, w, err := os.Pipe()
		if err != nil {
			return fmt.Errorf("pipe for input: %w", err)
		}
		inW = w
		cmd.Stdin = inR
		defer inR.Close()
		closeOnError = append(closeOnError, inW)
	}
	if err := cmd.Start(); err != nil {
		return &StartError{c.Argv, err}
	}
	closeOnError = nil
	outW.Close()

	out := &output{r: outR, idle: or(c.Idle, DefaultIdle), done: make(chan struct{})}
	go func() {
		defer close(out.done)
		if err := out.copy(c.Output); err != nil {
			cancel(fmt.Errorf("write output: %w", err))
		}
	}()
	if inW != nil {
		// Ours is closed here and not when the copying ends, so that a Stdin
		// which never ends does not keep the pipe.
		defer inW.Close()
		cmd.Stdin.(*os.File).Close()
		go func() {
			r := &reader{r: c.Stdin}
			io.Copy(inW, r) // what the command did not want to read is lost
			if r.err != nil {
				cancel(fmt.Errorf("read input: %w", r.err))
				return // without the end of input that would make it look complete
			}
			inW.Close()
		}()
	}
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		cmd.Wait() // cmd.ProcessState has it all
	}()

	stuck := false
	select {
	case <-exited:
	case <-ctx.Done():
		stuck = !c.stop(cmd, exited)
	}
	if !stuck {
		killGroup(cmd)
	}
	out.drain()
	switch cause := context.Cause(ctx); {
	case stuck:
		return &sandbox.StuckError{Processes: []string{fmt.Sprintf("%d (%s)", cmd.Process.Pid, c.Argv[0])}}
	case caller.Err() != nil: // even if it managed to end by itself
		return fmt.Errorf("command cancelled: %w", caller.Err())
	case cause != nil:
		return cause
	}
	return exitError(c.Argv, cmd.ProcessState)
}

// stop ends the command and reports whether it went.
func (c Command) stop(cmd *exec.Cmd, exited <-chan struct{}) bool {
	terminateGroup(cmd)
	if wait(exited, or(c.Grace, DefaultGrace)) {
		return true
	}
	killGroup(cmd)
	if c.Kill != nil {
		c.Kill()
	}
	return wait(exited, killWait)
}

func wait(done <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-done:
		return true
	case <-t.C:
		return false
	}
}

func or(d, otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return d
}

func exitError(argv []string, state *os.ProcessState) error {
	if state == nil {
		return errors.New("wait for command: no status")
	}
	if state.Success() {
		return nil
	}
	return &sandbox.ExitError{Argv: argv, Status: state.ExitCode(), Signal: signalName(state)}
}

// An output is what a command prints.
type output struct {
	r     *os.File
	idle  time.Duration
	until atomic.Pointer[time.Time] // set once the command has ended
	done  chan struct{}             // copy has returned
}

// copy passes on what comes until the end of the pipe or until drain has had
// enough. Its error is that of w.
func (o *output) copy(w io.Writer) error {
	defer o.r.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := o.r.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
		}
		if err != nil {
			return nil
		}
		o.extend()
	}
}

func (o *output) extend() {
	if until := o.until.Load(); until != nil {
		next := time.Now().Add(o.idle)
		if next.After(*until) {
			next = *until
		}
		o.r.SetReadDeadline(next)
	}
}

// drain waits for the end of the output, within bounds.
func (o *output) drain() {
	until := time.Now().Add(drainWait)
	o.until.Store(&until)
	o.extend()
	if wait(o.done, drainWait+o.idle) {
		return
	}
	o.r.Close()
	<-o.done
}

// A reader remembers the error of what it reads.
type reader struct {
	r   io.Reader
	err error
}

func (r *reader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if err != nil && err != io.EOF {
		r.err = err
	}
	return n, err
}
