// Package lockfile keeps two processes of one machine from using one thing at
// once. The lock is the operating system's, on a file that says who holds it:
// it goes with the process, however that ends.
//
//	release, err := lockfile.Acquire(ctx, path, func(holder string) { log.Print("waiting for ", holder) })
//	defer release()
package lockfile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// A HeldError is a lock that was not to be had until the context ended.
type HeldError struct {
	Path   string
	Holder string // "process 123 (obuilder build)"
	Err    error  // why it was waited for no longer
}

func (e *HeldError) Error() string { return fmt.Sprintf("%s is in use by %s", e.Path, e.Holder) }

// Unwrap gives Err.
func (e *HeldError) Unwrap() error { return e.Err }

// poll is how long to wait between two tries.
const poll = 100 * time.Millisecond

// Acquire takes the lock on the file path, which is made when missing, and
// waits for it until ctx ends: then a *HeldError. waiting, unless nil, is
// called once when it has to wait. The file stays when the lock is released.
func Acquire(ctx context.Context, path string, waiting func(holder string)) (release func() error, err error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for first := true; ; first = false {
		locked, err := tryLock(file)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("locking %s: %w", path, err), file.Close())
		}
		if locked {
			break
		}
		holder := holderOf(path)
		if first && waiting != nil {
			waiting(holder)
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(&HeldError{Path: path, Holder: holder, Err: context.Cause(ctx)}, file.Close())
		case <-time.After(poll):
		}
	}
	if err := writeHolder(path); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file.Close, nil
}

// holderFile is beside the lock: where locks are mandatory nobody else can
// read what is locked.
func holderFile(path string) string { return path + ".holder" }

func writeHolder(path string) error {
	program := filepath.Base(os.Args[0])
	if len(os.Args) > 1 {
		program += " " + os.Args[1]
	}
	return os.WriteFile(holderFile(path), fmt.Appendf(nil, "process %d (%s)\n", os.Getpid(), program), 0o600)
}

func holderOf(path string) string {
	const longest = 200
	file, err := os.Open(holderFile(path))
	if err != nil {
		return "another process"
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, longest))
	if text := strings.TrimSpace(string(data)); err == nil && text != "" {
		return text
	}
	return "another process"
}
