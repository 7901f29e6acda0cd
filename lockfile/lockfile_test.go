package lockfile

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A second taker waits, is told who holds the lock, and gets it when the
// first is done.
func TestWaits(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	release, err := Acquire(t.Context(), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan error, 1)
	told := make(chan string, 1)
	go func() {
		release, err := Acquire(t.Context(), path, func(holder string) { told <- holder })
		if err == nil {
			err = release()
		}
		got <- err
	}()
	if holder := <-told; !strings.HasPrefix(holder, fmt.Sprintf("process %d (", os.Getpid())) {
		t.Errorf("waits for %q", holder)
	}
	select {
	case err := <-got:
		t.Fatalf("two hold the lock (error %v)", err)
	default:
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Fatal(err)
	}
}

// Who stops waiting is told who holds the lock.
func TestHeld(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	release, err := Acquire(t.Context(), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	ctx, cancel := context.WithCancel(t.Context())
	_, err = Acquire(ctx, path, func(string) { cancel() })
	var held *HeldError
	if !errors.As(err, &held) || !errors.Is(err, context.Canceled) || !strings.Contains(held.Holder, "process") {
		t.Errorf("got %v", err)
	}
}

// A lock that cannot be made says where.
func TestNoDirectory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "no", "lock")
	if _, err := Acquire(t.Context(), path, nil); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v", err)
	}
}
