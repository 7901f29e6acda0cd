package engine

import (
	"fmt"
	"strings"

	"obuilder.org/obuilder/spec"
)

// A StepError is a step that failed; its clone is gone. Err is a
// *sandbox.ExitError when its command failed.
type StepError struct {
	Pos     spec.Pos // of the operation in the spec
	ID      string   // of the result that it would have had
	Heading string
	Err     error
}

// headingWidth is how much of a heading an error shows, in characters.
const headingWidth = 60

func (e *StepError) Error() string {
	heading := []rune(strings.Join(strings.Fields(e.Heading), " "))
	if len(heading) > headingWidth {
		heading = append(heading[:headingWidth-1], '…')
	}
	at := ""
	if e.Pos.Line > 0 {
		at = e.Pos.String() + ": "
	}
	return fmt.Sprintf("%s%s: %v", at, string(heading), e.Err)
}

// Unwrap gives Err.
func (e *StepError) Unwrap() error { return e.Err }

// A BaseImageError is a base image that a spec asks for and that the store does not
// have, or does not have whole.
type BaseImageError struct {
	Name      string
	Reason    string   // "there is no such base image"
	Available []string // those that there are
}

func (e *BaseImageError) Error() string {
	return fmt.Sprintf("base image %q: %s", e.Name, e.Reason)
}

// Hint lists the base images that there are.
func (e *BaseImageError) Hint() string {
	if len(e.Available) == 0 {
		return "the store has no base images"
	}
	return "the store has " + strings.Join(e.Available, ", ")
}

// A NotFoundError is an id that the store has no result for.
type NotFoundError struct {
	ID     string
	Reason string
}

func (e *NotFoundError) Error() string { return fmt.Sprintf("result %q: %s", e.ID, e.Reason) }

// Hint says how to find the ids that there are.
func (e *NotFoundError) Hint() string { return "obuilder list shows the ids of the results" }

// A StoreError is a store that cannot be used as it is.
type StoreError struct {
	Reason string
	Advice string
	Err    error
}

func (e *StoreError) Error() string {
	if e.Err != nil {
		return e.Reason + ": " + e.Err.Error()
	}
	return e.Reason
}

// Unwrap gives Err.
func (e *StoreError) Unwrap() error { return e.Err }

// Hint says what to do about it.
func (e *StoreError) Hint() string { return e.Advice }

// A NoSpaceError is a step that failed because the store has no space left, or
// that failed for whatever reason as there was none. Err is that reason.
type NoSpaceError struct {
	Store string // the dataset
	Err   error
}

func (e *NoSpaceError) Error() string {
	return fmt.Sprintf("no space left in %s: %v", e.Store, e.Err)
}

// Unwrap gives Err.
func (e *NoSpaceError) Unwrap() error { return e.Err }

// Hint says what to do about it.
func (e *NoSpaceError) Hint() string {
	return "obuilder prune, obuilder delete and obuilder clean make room"
}

// A MountedError is a dataset that could not be unmounted after its step.
type MountedError struct {
	Dataset string
	Path    string
	Holders []string // processes that have files open there
	Err     error
}

func (e *MountedError) Error() string {
	by := ""
	if len(e.Holders) > 0 {
		by = " (held by " + strings.Join(e.Holders, ", ") + ")"
	}
	return fmt.Sprintf("cannot unmount %s from %s%s: %v", e.Dataset, e.Path, by, e.Err)
}

// Unwrap gives Err.
func (e *MountedError) Unwrap() error { return e.Err }

// Hint says what to do about it.
func (e *MountedError) Hint() string {
	return "end what holds it, or reboot the machine, then build again"
}
