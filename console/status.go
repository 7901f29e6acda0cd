package console

import (
	"context"
	"errors"
	"syscall"

	"obuilder.org/obuilder/engine"
	"obuilder.org/obuilder/index"
	"obuilder.org/obuilder/sandbox"
	"obuilder.org/obuilder/source"
	"obuilder.org/obuilder/spec"
	"obuilder.org/obuilder/store"
	"obuilder.org/obuilder/zfs"
)

// The exit statuses of the commands.
const (
	OK        = 0
	Failed    = 1   // the build failed
	BadInput  = 2   // usage, or input that is not right
	Machine   = 3   // the machine or the store failed
	Cancelled = 130 // by a signal, or by a reader that is gone
)

// A UsageError is a command line that is not right.
type UsageError struct {
	Err    error
	Advice string
}

func (e *UsageError) Error() string { return e.Err.Error() }

// Unwrap gives Err.
func (e *UsageError) Unwrap() error { return e.Err }

// Hint says what to do about it.
func (e *UsageError) Hint() string { return e.Advice }

// is reports whether err is or wraps an E.
func is[E error](err error) bool {
	var target E
	return errors.As(err, &target)
}

// broken reports whether a command has left the machine in a state that
// somebody must look at, whatever else has happened.
func broken(err error) bool {
	return is[*sandbox.StuckError](err) || is[*engine.MountedError](err) || is[*engine.UnhealthyError](err) || errors.Is(err, zfs.ErrStuck)
}

// Status is the exit status of a command that ended with err.
func Status(err error) int {
	var output *OutputError
	switch {
	case err == nil:
		return OK
	case broken(err):
		return Machine
	case is[*engine.TimeoutError](err):
		return Failed
	case errors.As(err, &output):
		if output.Closed() {
			return Cancelled
		}
		return Machine
	case errors.Is(err, context.Canceled):
		return Cancelled
	case is[*engine.StepError](err):
		switch {
		case is[*engine.NoSpaceError](err):
			return Machine // its command may have failed, but not by its own fault
		case is[*sandbox.ExitError](err), is[*source.ChangedError](err):
			return Failed
		case is[*sandbox.RefusedError](err), is[*engine.BaseImageError](err), errors.Is(err, syscall.E2BIG):
			return BadInput
		}
		return Machine
	case is[*zfs.Error](err):
		return Machine
	case is[*UsageError](err), is[*spec.Error](err), is[*engine.LocatedError](err), is[*source.Error](err),
		is[*store.NameError](err), is[*engine.NotFoundError](err), is[*engine.BaseImageError](err), is[*sandbox.RefusedError](err):
		return BadInput
	case is[*source.ChangedError](err):
		return Failed
	}
	return Machine
}

// Hint gives what an error advises to do; "" for nothing.
func Hint(err error) string {
	var (
		hinted  interface{ Hint() string }
		inSpec  *spec.Error
		src     *source.Error
		refused *sandbox.RefusedError
		command *zfs.Error
	)
	if errors.As(err, &hinted) && hinted.Hint() != "" {
		return hinted.Hint()
	}
	switch {
	case errors.As(err, &inSpec):
		return inSpec.Hint
	case errors.As(err, &src):
		return src.Hint
	case errors.As(err, &refused):
		return refused.Hint
	case errors.As(err, &command) && command.Kind == zfs.Permission:
		return "obuilder must run as root to use zfs"
	case errors.As(err, &command) && command.Kind == zfs.NoSpace,
		errors.Is(err, index.ErrFull), errors.Is(err, syscall.ENOSPC) && !is[*OutputError](err):
		return "obuilder prune, obuilder delete and obuilder clean make room"
	}
	return ""
}
