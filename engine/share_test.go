package engine_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"obuilder.org/obuilder/engine"
	"obuilder.org/obuilder/sandbox"
	"obuilder.org/obuilder/sandbox/scripted"
)

var errUnscripted = scripted.ErrUnscripted

// Two builds that need the same step run it once, and both see its output from
// the start, the second while it is still running.
func TestShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, engine.ListSnapshots, "busybox")
		var runs atomic.Int32
		more := make(chan struct{})
		w.script = func(_ context.Context, _ sandbox.Config, _ io.Reader, out io.Writer) error {
			runs.Add(1)
			fmt.Fprintln(out, "begun")
			<-more
			_, err := fmt.Fprintln(out, "ended")
			return err
		}
		e := w.open()
		var recordings [2]recording
		var ids [2]string
		var wg sync.WaitGroup
		for i := range recordings {
			wg.Go(func() {
				var err error
				ids[i], err = e.Build(t.Context(), engine.Job{Spec: parse(t, `((from busybox) (run (shell slow)))`), Events: recordings[i].event})
				if err != nil {
					t.Error(err)
				}
			})
			synctest.Wait() // the first is in the middle of its step when the second comes
			for j := range i + 1 {
				if got := recordings[j].String(); !strings.HasSuffix(got, "begun\n") {
					t.Errorf("build %d shows\n%s", j, got)
				}
			}
		}
		close(more)
		wg.Wait()
		if n := runs.Load(); n != 1 || ids[0] != ids[1] || ids[0] == "" {
			t.Errorf("%d runs, results %q", n, ids)
		}
		for i := range recordings {
			if got := recordings[i].String(); !strings.HasSuffix(got, "begun\nended\n---> saved as \""+ids[i]+"\"\n") {
				t.Errorf("build %d shows\n%s", i, got)
			}
		}
		w.must(e.Close())
	})
}

// A step goes on while one of its builds wants it, is cancelled when the last
// is, and then leaves nothing.
func TestCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, engine.ListSnapshots, "busybox")
		w.script = func(ctx context.Context, _ sandbox.Config, _ io.Reader, out io.Writer) error {
			fmt.Fprintln(out, "begun")
			<-ctx.Done()
			return fmt.Errorf("stopped: %w", ctx.Err())
		}
		e := w.open()
		var cancels [2]context.CancelFunc
		var results [2]chan error
		for i := range cancels {
			var ctx context.Context
			ctx, cancels[i] = context.WithCancel(t.Context())
			results[i] = make(chan error, 1)
			go func() {
				_, err := e.Build(ctx, engine.Job{Spec: parse(t, `((from busybox) (run (shell slow)))`)})
				results[i] <- err
			}()
			synctest.Wait()
		}
		cancels[0]()
		if err := <-results[0]; !errors.Is(err, context.Canceled) {
			t.Errorf("the first ended with %v", err)
		}
		synctest.Wait()
		select {
		case err := <-results[1]:
			t.Fatalf("the second ended with the first: %v", err)
		default:
		}
		cancels[1]()
		if err := <-results[1]; !errors.Is(err, context.Canceled) {
			t.Errorf("the second ended with %v", err)
		}
		if left := w.leftovers(); len(left) > 0 {
			t.Errorf("left behind: %q", left)
		}
		w.must(e.Close())
	})
}

// A build that comes while the step that it needs is being cancelled waits for
// that, and runs it anew.
func TestCancelThenAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, engine.ListSnapshots, "busybox")
		stopping := make(chan struct{})
		var runs atomic.Int32
		w.script = func(ctx context.Context, _ sandbox.Config, _ io.Reader, out io.Writer) error {
			if runs.Add(1) > 1 {
				return nil
			}
			<-ctx.Done()
			<-stopping // it takes a while to stop
			return ctx.Err()
		}
		e := w.open()
		job := engine.Job{Spec: parse(t, `((from busybox) (run (shell slow)))`)}
		ctx, cancel := context.WithCancel(t.Context())
		first := make(chan error, 1)
		go func() {
			_, err := e.Build(ctx, job)
			first <- err
		}()
		synctest.Wait()
		cancel()
		synctest.Wait()
		r := &recording{}
		second := make(chan error, 1)
		go func() {
			_, err := e.Build(t.Context(), engine.Job{Spec: job.Spec, Events: r.event})
			second <- err
		}()
		synctest.Wait()
		if !strings.Contains(r.String(), "[waiting]") {
			t.Errorf("the second shows\n%s", r)
		}
		close(stopping)
		if err := <-first; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if err := <-second; err != nil {
			t.Error(err)
		}
		w.must(e.Close())
	})
}

// Steps of different builds run one at a time: the mount points are there once.
func TestOneAtATime(t *testing.T) {
	w := newWorld(t, engine.ListSnapshots, "busybox")
	var running, most atomic.Int32
	w.script = func(context.Context, sandbox.Config, io.Reader, io.Writer) error {
		n := running.Add(1)
		defer running.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		return nil
	}
	e := w.open()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 5 {
				if _, err := e.Build(t.Context(), engine.Job{Spec: parse(t, fmt.Sprintf(`((from busybox) (run (shell "%d")) (run (shell "%d %d")))`, j, i, j))}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if most.Load() != 1 {
		t.Errorf("%d steps ran at once", most.Load())
	}
	if left := w.leftovers(); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	w.must(e.Close())
}

// A reader that is slower than the step still gets the whole log, and memory
// does not grow with it.
func TestSlowReader(t *testing.T) {
	w := newWorld(t, engine.ListSnapshots, "busybox")
	const lines = 20_000
	w.script = func(_ context.Context, _ sandbox.Config, _ io.Reader, out io.Writer) error {
		for i := range lines {
			if _, err := fmt.Fprintf(out, "line %d\n", i); err != nil {
				return err
			}
		}
		return &sandbox.ExitError{Status: 1}
	}
	e := w.open()
	var got strings.Builder
	largest := 0
	_, err := e.Build(t.Context(), engine.Job{Spec: parse(t, `((from busybox) (run (shell chatty)))`), Events: func(ev engine.Event) {
		if ev.Kind == engine.EventOutput {
			got.Write(ev.Data)
			largest = max(largest, len(ev.Data))
		}
	}})
	var exit *sandbox.ExitError
	if !errors.As(err, &exit) {
		t.Errorf("error %v", err)
	}
	var want strings.Builder
	for i := range lines {
		fmt.Fprintf(&want, "line %d\n", i)
	}
	if got.String() != want.String() || largest > 32<<10 {
		t.Errorf("got %d bytes of %d in pieces of up to %d", got.Len(), want.Len(), largest)
	}
	w.must(e.Close())
}
