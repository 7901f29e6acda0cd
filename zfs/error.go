package zfs

import (
	"errors"
	"fmt"
	"strings"
)

// A Kind classes what a zfs command failed with. Callers decide on it; people
// read the text of the [Error].
type Kind int

// The kinds of failure.
const (
	Unknown     Kind = iota // none of those below
	NotFound                // a dataset, snapshot or pool does not exist
	Exists                  // the target exists already
	Busy                    // it is in use and cannot be unmounted, destroyed or changed
	HasChildren             // it has children (or snapshots) and -r was not given
	HasClones               // snapshots of it have dependent clones and -R was not given
	NoSpace                 // the pool is full or over quota
	NotMounted              // it is not mounted and has to be
	Mounted                 // it is mounted already
	Permission              // not allowed
	Usage                   // zfs does not take these arguments
	Unsupported             // this system's zfs cannot do that, such as mounting a snapshot on Linux
	Timeout                 // the deadline passed, or the command was cancelled; whether it took effect is unknown
	Unavailable             // zfs could not be run at all, or the pool is suspended
)

var kindNames = [...]string{
	"unknown", "not found", "exists", "busy", "has children", "has clones", "no space",
	"not mounted", "mounted", "permission", "usage", "unsupported", "timeout", "unavailable",
}

// String names the kind, as "not found".
func (k Kind) String() string {
	if k < 0 || int(k) >= len(kindNames) {
		return fmt.Sprintf("Kind(%d)", int(k))
	}
	return kindNames[k]
}

// An Error is how every method of [FS] fails.
type Error struct {
	Kind   Kind
	Argv   []string // the command line, from "zfs" or "zpool" on
	Status int      // its exit status; -1 when it did not exit by itself or did not start
	Stderr string   // what it printed there, without the last newline
	Err    error    // why it did not run or end, such as context.DeadlineExceeded; nil otherwise
}

// Error gives the command line, the exit status and what zfs printed, on one
// line. A usage text, which can be a hundred lines, is left out.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(CommandLine(e.Argv))
	if e.Err != nil {
		b.WriteString(": ")
		b.WriteString(e.Err.Error())
	} else {
		fmt.Fprintf(&b, ": exit status %d", e.Status)
	}
	text, _, _ := strings.Cut("\n"+e.Stderr, "\nusage:\n")
	if text = strings.TrimSpace(text); text != "" {
		b.WriteString(": ")
		b.WriteString(strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' }), "; "))
	}
	return b.String()
}

// Unwrap gives Err.
func (e *Error) Unwrap() error { return e.Err }

// ErrStuck is in the chain of an error that a command could not be killed, and
// of those of the commands that are not started after it: only a reboot helps
// if its process stays.
var ErrStuck = errors.New("a process cannot be killed")

// A StuckError is the process that cannot be killed. It is ErrStuck.
type StuckError struct {
	Pid  int
	Argv []string // what the process is running
}

func (e *StuckError) Error() string {
	return fmt.Sprintf("process %d (%s) cannot be killed", e.Pid, CommandLine(e.Argv))
}

// Is reports whether target is ErrStuck.
func (e *StuckError) Is(target error) bool { return target == ErrStuck }

// KindOf gives the kind of the *Error in err's chain, Unknown when there is none.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return Unknown
}

// IsKind reports whether err is a failed zfs command of kind k.
func IsKind(err error, k Kind) bool {
	var e *Error
	return errors.As(err, &e) && e.Kind == k
}
