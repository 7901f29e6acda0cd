package engine_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"obuilder.org/obuilder/engine"
	"obuilder.org/obuilder/sandbox"
	"obuilder.org/obuilder/source"
	"obuilder.org/obuilder/zfs"
)

// hold is a sandbox of which every command passes a gate before it begins.
type hold struct {
	sandbox.Sandbox
	gate func(ctx context.Context, cfg sandbox.Config) error
}

func (h hold) Run(ctx context.Context, cfg sandbox.Config, stdin io.Reader, output io.Writer) error {
	if err := h.gate(ctx, cfg); err != nil {
		return err
	}
	return h.Sandbox.Run(ctx, cfg, stdin, output)
}

// start builds a job and gives the channel on which it ends.
func start(ctx context.Context, e *engine.Engine, job engine.Job) <-chan error {
	ended := make(chan error, 1)
	go func() {
		_, err := e.Build(ctx, job)
		ended <- err
	}()
	return ended
}

// sourceTree is a tree of files that can be closed, as that of a build which is
// over is.
type sourceTree struct {
	source.Tree
	mu     sync.Mutex
	closed bool
}

func (s *sourceTree) Open(name string) (fs.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, fs.ErrClosed
	}
	return s.Tree.Open(name)
}

func (s *sourceTree) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
}

// A build that shares the copy of another goes on when that one is cancelled
// and its files are gone, also while the copy waits for its turn.
func TestCopyOutlivesItsBuild(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/a", []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	open := func() *sourceTree {
		tree, err := source.OpenDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { tree.Close() })
		return &sourceTree{Tree: tree}
	}
	for _, queued := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, engine.ListSnapshots, "busybox")
			more := make(chan struct{})
			first := true
			o := w.options()
			o.Sandbox = hold{o.Sandbox, func(ctx context.Context, cfg sandbox.Config) error {
				if queued == (cfg.Argv[0] == "tar") || !first {
					return nil
				}
				first = false
				select {
				case <-more:
				case <-ctx.Done():
				}
				return ctx.Err()
			}}
			e, err := engine.Open(t.Context(), o)
			w.must(err)
			other := make(<-chan error)
			if queued {
				other = start(t.Context(), e, engine.Job{Spec: parse(t, `((from busybox) (run (shell long)))`)})
				synctest.Wait()
			}
			trees := []*sourceTree{open(), open()}
			var ended [2]<-chan error
			var cancel context.CancelFunc
			for i, tree := range trees {
				ctx := t.Context()
				if i == 0 {
					ctx, cancel = context.WithCancel(ctx)
				}
				ended[i] = start(ctx, e, engine.Job{Spec: parse(t, `((from busybox) (copy (src a) (dst /got)))`), Source: tree})
				synctest.Wait()
			}
			cancel()
			if err := <-ended[0]; !errors.Is(err, context.Canceled) {
				t.Errorf("the first ended with %v", err)
			}
			trees[0].close()
			close(more)
			if err := <-ended[1]; err != nil {
				t.Errorf("the second ended with %v", err)
			}
			if queued {
				w.must(<-other)
			}
			if left := w.leftovers(); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
			w.must(e.Close())
		})
	}
}

// A build that comes when a step has failed and is being removed runs it
// again, and sees all of its log.
func TestJoinTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, engine.ListSnapshots, "busybox")
		w.script = func(_ context.Context, cfg sandbox.Config, _ io.Reader, out io.Writer) error {
			fmt.Fprintln(out, "why it fails")
			return &sandbox.ExitError{Status: 1}
		}
		removing, removed := make(chan struct{}), make(chan struct{})
		var once sync.Once
		e := w.open(interceptor(func(_ context.Context, argv []string, run func() error) error {
			if argv[1] == "destroy" {
				once.Do(func() {
					close(removing)
					<-removed
				})
			}
			return run()
		}))
		job := engine.Job{Spec: parse(t, `((from busybox) (run (shell fail)))`)}
		first := start(t.Context(), e, job)
		<-removing
		r := &recording{}
		job.Events = r.event
		second := start(t.Context(), e, job)
		synctest.Wait()
		close(removed)
		for _, ended := range []<-chan error{first, second} {
			if err := <-ended; !errors.As(err, new(*sandbox.ExitError)) {
				t.Errorf("ended with %v", err)
			}
		}
		if got := strings.Count(r.String(), "why it fails\n"); got != 1 {
			t.Errorf("the second shows\n%s", r)
		}
		w.must(e.Close())
	})
}

type interceptor func(ctx context.Context, argv []string, run func() error) error

func (f interceptor) Intercept(ctx context.Context, argv []string, run func() error) error {
	return f(ctx, argv, run)
}

// A reader that does not read for longer than a failed step can wait is told
// that the log was cut.
func TestLogCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, engine.ListSnapshots, "busybox")
		w.script = func(_ context.Context, _ sandbox.Config, _ io.Reader, out io.Writer) error {
			for range 3 {
				if _, err := out.Write(make([]byte, 40<<10)); err != nil {
					return err
				}
			}
			return &sandbox.ExitError{Status: 1}
		}
		e := w.open()
		_, err := e.Build(t.Context(), engine.Job{Spec: parse(t, `((from busybox) (run (shell fail)))`), Events: func(ev engine.Event) {
			if ev.Kind == engine.EventOutput {
				time.Sleep(time.Hour)
			}
		}})
		if !errors.As(err, new(*sandbox.ExitError)) || !strings.Contains(err.Error(), "not read in time") {
			t.Errorf("ended with %v", err)
		}
		if left := w.leftovers(); len(left) > 0 {
			t.Errorf("left behind: %q", left)
		}
		w.must(e.Close())
	})
}

// Output comes in as large pieces as there are, whatever came first.
func TestPieces(t *testing.T) {
	w := newWorld(t, engine.ListSnapshots, "busybox")
	first := make(chan struct{})
	var once sync.Once
	const rest = 1 << 20
	w.script = func(_ context.Context, _ sandbox.Config, _ io.Reader, out io.Writer) error {
		fmt.Fprintln(out, "short")
		<-first
		_, err := out.Write(make([]byte, rest))
		return err
	}
	e := w.open()
	pieces := 0
	_, err := e.Build(t.Context(), engine.Job{Spec: parse(t, `((from busybox) (run (shell x)))`), Events: func(ev engine.Event) {
		if ev.Kind == engine.EventOutput {
			pieces++
			once.Do(func() { close(first) })
		}
	}})
	w.must(err)
	if pieces > 1+rest/(32<<10)+1 {
		t.Errorf("it came in %d pieces", pieces)
	}
	w.must(e.Close())
}

// What a cancelled step cannot undo is told to the build that waits for it.
func TestCancelledAndStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, engine.ListSnapshots, "busybox")
		w.script = func(ctx context.Context, _ sandbox.Config, _ io.Reader, _ io.Writer) error {
			<-ctx.Done()
			return fmt.Errorf("stopped: %w", ctx.Err())
		}
		o := w.options()
		o.Sandbox = stuck{o.Sandbox}
		e, err := engine.Open(t.Context(), o)
		w.must(err)
		cause := errors.New("the job was withdrawn")
		ctx, cancel := context.WithCancelCause(t.Context())
		r := &recording{}
		ended := start(ctx, e, engine.Job{Spec: parse(t, `((from busybox) (run (shell slow)))`), Events: r.event})
		synctest.Wait()
		cancel(cause)
		if err := <-ended; !errors.Is(err, cause) || !errors.As(err, new(*sandbox.StuckError)) {
			t.Errorf("ended with %v", err)
		}
		if !strings.Contains(r.String(), "[failed] cancelled, but cannot be killed: 7 (clang)") {
			t.Errorf("it shows\n%s", r)
		}
		w.must(e.Close())
	})
}

type stuck struct{ sandbox.Sandbox }

func (stuck) Quiesce(context.Context) error {
	return &sandbox.StuckError{Processes: []string{"7 (clang)"}}
}

// When its context ends, a build gives the cause, wherever it is.
func TestCause(t *testing.T) {
	cause := errors.New("too late")
	for n := 0; ; n++ {
		w := newWorld(t, engine.ListSnapshots, "busybox")
		e := w.open()
		ctx, cancel := context.WithCancelCause(t.Context())
		commands := 0
		e2, err := engine.Open(t.Context(), w.options(interceptor(func(ctx context.Context, argv []string, run func() error) error {
			commands++
			if commands-4 == n {
				cancel(cause)
			}
			if err := ctx.Err(); err != nil {
				return &zfs.Error{Kind: zfs.Timeout, Argv: argv, Status: -1, Err: err}
			}
			return run()
		})))
		w.must(err)
		_, err = e2.Build(ctx, engine.Job{Spec: parse(t, `((from busybox) (run (shell a)))`)})
		if context.Cause(ctx) == nil {
			if n < 10 {
				t.Errorf("%d commands", n)
			}
			w.must(err)
			w.must(e2.Close())
			w.must(e.Close())
			break
		}
		if err != nil && !errors.Is(err, cause) {
			t.Errorf("command %d: %v", n, err)
		}
		if left := w.leftovers(); len(left) > 0 {
			t.Errorf("command %d: left behind: %q", n, left)
		}
		w.must(e2.Close())
		w.must(e.Close())
	}
}

// While a home is unmounted that was copied from, no process of a step that
// runs is killed.
func TestBusyHome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, engine.ListSnapshots, "busybox")
		w.script = failing
		o := w.options(interceptor(func(_ context.Context, argv []string, run func() error) error {
			if argv[1] == "set" && argv[2] == "mountpoint=none" {
				return &zfs.Error{Kind: zfs.Busy, Argv: argv, Status: 1, Stderr: "busy"}
			}
			return run()
		}))
		var mu sync.Mutex
		running := ""
		more := make(chan struct{})
		o.Sandbox = watched{hold{o.Sandbox, func(_ context.Context, cfg sandbox.Config) error {
			mu.Lock()
			running = cfg.Argv[len(cfg.Argv)-1]
			mu.Unlock()
			if cfg.Argv[len(cfg.Argv)-1] == "long" {
				<-more
			}
			return nil
		}}, func() {
			mu.Lock()
			defer mu.Unlock()
			if running == "long" {
				t.Error("a step that runs was killed")
			}
		}}
		// The nested result is there: a plan reads its home.
		text := `((build x ((from busybox) (run (shell a)))) (from busybox) (copy (from (build x)) (src .ran) (dst /got)))`
		e := w.open()
		_, err := w.build(e, text)
		w.must(err)
		w.must(e.Close())
		e, err = engine.Open(t.Context(), o)
		w.must(err)
		ctx, cancel := context.WithCancel(t.Context())
		long := start(ctx, e, engine.Job{Spec: parse(t, `((from busybox) (run (shell long)))`)})
		synctest.Wait()
		err = e.Plan(t.Context(), engine.Job{Spec: parse(t, text)}, func(engine.PlannedStep) {})
		if !errors.As(err, new(*engine.MountedError)) {
			t.Errorf("the plan ended with %v", err)
		}
		mu.Lock()
		running = ""
		mu.Unlock()
		close(more)
		cancel()
		<-long
		e.Close()
	})
}

type watched struct {
	sandbox.Sandbox
	quiesce func()
}

func (w watched) Quiesce(ctx context.Context) error {
	w.quiesce()
	return w.Sandbox.Quiesce(ctx)
}

// Two builds that copy from the same nested build have its home mounted once,
// until the second of them has ended; one that cannot have it mounted does not
// read what is there without it.
func TestSharedHome(t *testing.T) {
	for _, refused := range []bool{false, true} {
		w := newWorld(t, engine.ListSnapshots, "busybox")
		e := w.open()
		dev, err := w.build(e, `((from busybox) (run (shell a)))`)
		w.must(err)
		w.must(e.Close())

		home := "obuilder/result/" + dev + "/home"
		mounting, mount := make(chan struct{}), make(chan struct{})
		var sets, unsets int // only ever changed by one goroutine at a time
		o := w.options(interceptor(func(_ context.Context, argv []string, run func() error) error {
			switch last := argv[len(argv)-1]; {
			case argv[1] != "set" || last != home:
			case argv[2] == "mountpoint=none":
				unsets++
			default:
				if sets++; sets == 1 {
					close(mounting)
					<-mount
					if refused {
						return &zfs.Error{Kind: zfs.Busy, Argv: argv, Status: 1, Stderr: "busy"}
					}
				}
			}
			return run()
		}))
		first, second := make(chan struct{}), make(chan struct{})
		o.Sandbox = hold{o.Sandbox, func(_ context.Context, cfg sandbox.Config) error {
			if !refused && cfg.Argv[0] == "tar" {
				<-second // both have the home by then
			}
			return nil
		}}
		e, err = engine.Open(t.Context(), o)
		w.must(err)
		job := func(dst string, begun chan struct{}) engine.Job {
			return engine.Job{
				Spec: parse(t, `((build x ((from busybox) (run (shell a)))) (from busybox) (copy (from (build x)) (src .) (dst /`+dst+`/)))`),
				Events: func(ev engine.Event) {
					if ev.Op == "from" && ev.Kind == engine.EventCached && len(ev.Build) == 0 {
						close(begun)
					}
				},
			}
		}
		ended := []<-chan error{start(t.Context(), e, job("one", first))}
		<-mounting
		ended = append(ended, start(t.Context(), e, job("two", second)))
		<-second
		for range 1000 {
			runtime.Gosched() // it is on its way to the same home
		}
		close(mount)
		if err := <-ended[0]; refused != (err != nil) {
			t.Errorf("the first ended with %v", err)
		}
		w.must(<-ended[1])
		if refused && (sets != 2 || unsets != 2) || !refused && sets != unsets {
			t.Errorf("mounted %d times, unmounted %d times", sets, unsets)
		}
		if left := w.leftovers(); len(left) > 0 {
			t.Errorf("left behind: %q", left)
		}
		w.must(e.Close())
	}
}
