package real

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"obuilder.org/obuilder/zfs"
)

// maxStderr is how much of what a command prints there is kept, in bytes.
const maxStderr = 64 << 10

// StuckError is why a command failed that could not be killed, and why those
// after it are not started.
type StuckError = zfs.StuckError

// A gate lets one command through at a time, and none while a process is stuck.
type gate struct {
	once  sync.Once
	free  chan struct{}
	stuck atomic.Pointer[StuckError]
}

// process is the gate of this process: mounting on macOS saves and restores a
// setting of the whole machine around each command, so two FS need one gate.
var process gate

func (g *gate) enter(ctx context.Context) error {
	g.once.Do(func() { g.free = make(chan struct{}, 1) })
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case g.free <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (g *gate) leave() { <-g.free }

// mounting runs a command that can mount or unmount: one at a time.
func (f *FS) mounting(ctx context.Context, argv []string, deadline time.Duration) error {
	if err := f.gate.enter(ctx); err != nil {
		return &zfs.Error{Kind: zfs.Timeout, Argv: argv, Status: -1, Err: fmt.Errorf("not started: %w", err)}
	}
	defer f.gate.leave()
	_, err := f.run(ctx, argv, deadline)
	return err
}

// run runs argv and gives what it printed. It returns, whatever the command
// does, not much later than deadline.
func (f *FS) run(parent context.Context, argv []string, deadline time.Duration) ([]byte, error) {
	fail := func(kind zfs.Kind, status int, stderr string, err error) ([]byte, error) {
		return nil, &zfs.Error{Kind: kind, Argv: argv, Status: status, Stderr: stderr, Err: err}
	}
	if stuck := f.gate.stuck.Load(); stuck != nil {
		return fail(zfs.Unavailable, -1, "", stuck)
	}
	if err := parent.Err(); err != nil {
		return fail(zfs.Timeout, -1, "", fmt.Errorf("not started: %w", err))
	}
	ctx, cancel := context.WithTimeout(parent, deadline)
	defer cancel()

	line := append(f.sudo[:len(f.sudo):len(f.sudo)], f.programs[argv[0]])
	cmd := exec.CommandContext(ctx, line[0], append(line[1:], argv[1:]...)...)
	if len(f.sudo) == 0 {
		cmd.Args[0] = argv[0]
	}
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.Dir = string(os.PathSeparator) // so that no command keeps a dataset busy by its working directory
	stdout, stderr := &capture{max: f.maxOutput}, &capture{max: maxStderr}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.WaitDelay = f.killGrace
	cmd.Cancel = func() error { return f.killGroup(cmd) }
	setGroup(cmd)

	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return fail(zfs.Unavailable, -1, "", err)
	}
	done := make(chan error, 1)
	go func() { done <- f.wait(cmd) }()
	err, ended := wait(ctx, done, 2*f.killGrace, func() { _ = f.killGroup(cmd) })
	if !ended {
		stuck := &StuckError{Pid: cmd.Process.Pid, Argv: argv}
		f.log.Error("process cannot be killed", "pid", stuck.Pid, "argv", zfs.CommandLine(argv))
		f.gate.stuck.Store(stuck)
		go func() {
			<-done
			f.gate.stuck.CompareAndSwap(stuck, nil)
		}()
		return fail(zfs.Unavailable, -1, "", stuck)
	}
	if ctx.Err() != nil {
		_ = f.killGroup(cmd) // the group is there as long as a child of it is
	}
	text := strings.TrimSpace(stderr.buf.String())
	f.log.Debug("zfs", "argv", zfs.CommandLine(argv), "took", time.Since(begin), "status", cmd.ProcessState.ExitCode(), "stderr", text)

	var exit *exec.ExitError
	switch {
	case err == nil && stdout.over:
		return fail(zfs.Unknown, 0, text, fmt.Errorf("printed more than %d bytes", f.maxOutput))
	case err == nil:
		return stdout.buf.Bytes(), nil
	case parent.Err() != nil:
		return fail(zfs.Timeout, -1, text, parent.Err())
	case ctx.Err() != nil:
		return fail(zfs.Timeout, -1, text, fmt.Errorf("no result within %v: %w", deadline, ctx.Err()))
	case errors.As(err, &exit) && exit.Exited():
		_, err := fail(classify(argv, exit.ExitCode(), text), exit.ExitCode(), text, nil)
		return stdout.buf.Bytes(), err // what was found, where something was not
	default: // a signal, or output that is still open after the end of the command
		return fail(zfs.Unknown, -1, text, err)
	}
}

// killAgain is how long after a kill the next one comes: a child that was being
// started as its group was killed can have come too late for the first.
const killAgain = 100 * time.Millisecond

// wait waits for the end of a command, and once ctx is done no longer than
// grace, calling kill again and again.
func wait(ctx context.Context, done <-chan error, grace time.Duration, kill func()) (err error, ended bool) {
	select {
	case err := <-done:
		return err, true
	case <-ctx.Done():
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	again := time.NewTicker(killAgain)
	defer again.Stop()
	for {
		select {
		case err := <-done:
			return err, true
		case <-again.C:
			kill()
		case <-timer.C:
			return nil, false
		}
	}
}

// A capture keeps the first max bytes that are written to it.
type capture struct {
	buf  bytes.Buffer
	max  int
	over bool
}

func (c *capture) Write(p []byte) (int, error) {
	keep := min(len(p), c.max-c.buf.Len())
	c.over = c.over || keep < len(p)
	c.buf.Write(p[:keep])
	return len(p), nil
}
