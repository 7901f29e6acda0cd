package source

import (
	"errors"
	"fmt"
	"io/fs"
	"unicode/utf8"
)

// An Error is a source, or the source directory, that cannot be copied.
type Error struct {
	Source string // as the spec gives it, "." for an empty one; "" if it is not about one
	Path   string // what is wrong, relative to the root of the tree, or the source directory
	Reason string // continues a sentence that begins with the path
	Hint   string // what to do about it, if that can be said
	Err    error  // what the file system said, if it did
}

func (e *Error) Error() string {
	switch {
	case e.Path == "" && e.Source == "":
		return e.Reason
	case e.Source == "":
		return fmt.Sprintf("source directory %q %s", e.Path, e.Reason)
	case e.Path == e.Source:
		return fmt.Sprintf("source %q %s", e.Source, e.Reason)
	}
	return fmt.Sprintf("source %q: %q %s", e.Source, name(e.Path), e.Reason)
}

func (e *Error) Unwrap() error { return e.Err }

// A ChangedError is something in the source directory that changed while it
// was copied.
type ChangedError struct {
	Path   string // relative to the root of the tree
	Reason string // continues a sentence that begins with the path
	Err    error  // what the file system said, if it did
}

func (e *ChangedError) Error() string {
	return fmt.Sprintf("%q changed while it was copied: it %s", name(e.Path), e.Reason)
}

func (e *ChangedError) Unwrap() error { return e.Err }

// unreadable is the error for what is there and cannot be read.
func unreadable(src, path string, err error) error {
	e := &Error{Source: src, Path: path, Reason: "cannot be read: " + cause(err).Error(), Err: err}
	if errors.Is(err, fs.ErrInvalid) && !utf8.ValidString(path) {
		e.Hint = "its name is not UTF-8"
	}
	return e
}

// lost is the error for what was there a moment ago and cannot be read.
func lost(src, path string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return &ChangedError{Path: path, Reason: "is gone", Err: err}
	}
	return unreadable(src, path, err)
}

// cause is an error without the operation and the path.
func cause(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	return err
}

// special names what is neither a file nor a directory nor a link.
func special(mode fs.FileMode) string {
	switch {
	case mode&fs.ModeNamedPipe != 0:
		return "a named pipe"
	case mode&fs.ModeSocket != 0:
		return "a socket"
	case mode&fs.ModeDevice != 0:
		return "a device"
	}
	return "neither a file, a directory nor a symbolic link"
}
