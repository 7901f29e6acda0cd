package engine_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"obuilder.org/obuilder/engine"
	"obuilder.org/obuilder/zfs"
	"obuilder.org/obuilder/zfs/fault"
)

func sickness(t *testing.T, err error) *engine.UnhealthyError {
	t.Helper()
	var sick *engine.UnhealthyError
	if !errors.As(err, &sick) {
		t.Fatalf("not unhealthy: %v", err)
	}
	return sick
}

// openAs opens the store in a boot of the machine.
func (w *world) openAs(boot string, change func(*engine.Options)) *engine.Engine {
	w.t.Helper()
	o := w.options()
	o.Boot = boot
	if change != nil {
		change(&o)
	}
	e, err := engine.Open(context.Background(), o)
	w.must(err)
	return e
}

// After a process that cannot be killed nothing is built, and it is said which
// and where, by this process and those after it, until the machine is rebooted
// or a repair has shown that it works. What only looks works.
func TestNeedsReboot(t *testing.T) {
	for _, end := range []string{"reboot", "repair"} {
		w := freshWorld(t, engine.ListSnapshots)
		e := w.openAs("one", nil)
		ids := w.lineageOf(e, staleJob)
		w.must(e.Close())
		e = w.openAs("one", func(o *engine.Options) { o.Sandbox = stuck{o.Sandbox} })
		if err := e.Health(); err != nil {
			t.Errorf("at first: %v", err)
		}
		before := w.stored()
		const text = `((from busybox) (run (shell a)) (run (shell x)))`
		if _, err := w.build(e, text); err == nil {
			t.Error("it was built")
		}
		check := func(e *engine.Engine) {
			t.Helper()
			_, err := w.build(e, staleJob)
			sick := sickness(t, err)
			if diff := cmp.Diff(&engine.UnhealthyError{Reason: "cannot be killed: 7 (clang)", Process: "7 (clang)", Reboot: true}, sick,
				cmpopts.IgnoreFields(engine.UnhealthyError{}, "Since", "Err", "Dataset")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if !strings.HasPrefix(sick.Dataset, "obuilder/result/") || sick.Since.IsZero() || e.Health() == nil ||
				!strings.Contains(err.Error(), "needs a reboot") || !strings.Contains(err.Error(), sick.Dataset) {
				t.Errorf("got %+v", sick)
			}
			if err := e.Log(t.Context(), ids[1], &strings.Builder{}); err != nil {
				t.Errorf("reading a log: %v", err)
			}
		}
		check(e)
		w.must(e.Close())
		e = w.openAs("one", nil)
		check(e)
		w.must(e.Close())
		boot := "one"
		if end == "reboot" {
			boot = "two"
		} else {
			e = w.openAs(boot, func(o *engine.Options) { o.Inspect = true })
			w.must(e.Fsck(t.Context(), true, func(engine.Finding) {}))
			w.must(e.Close())
		}
		for range 2 {
			e = w.openAs(boot, nil)
			if err := e.Health(); err != nil {
				t.Errorf("after the %s: %v", end, err)
			}
			_, err := w.build(e, text)
			w.must(err)
			w.must(e.Close())
			boot = "three"
		}
		for id, guid := range before {
			if w.stored()[id] != guid {
				t.Errorf("%s was lost", id)
			}
		}
		if left := w.leftovers(); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
	}
}

// A zfs command that never ends is named, and nothing is built after it.
func TestStuckCommand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := freshWorld(t, engine.ListSnapshots)
		armed, err := fault.Plan{Rules: []fault.Rule{{Fault: "snapshot-unmount-hangs", Verbs: []string{"destroy"}, Datasets: []fault.Pattern{"obuilder/result/*@snap"}}}}.Arm(nil)
		w.must(err)
		e := w.openAs("one", func(o *engine.Options) {
			o.FS, o.Clock = fault.Wrap(w.machine, armed), engine.SystemClock{}
		})
		ids := w.lineageOf(e, staleJob)
		if err := e.Delete(t.Context(), ids[2], func(string) {}); err == nil {
			t.Error("deleted")
		}
		_, err = w.build(e, staleJob)
		sick := sickness(t, err)
		if want := "obuilder/result/" + ids[2] + "@snap"; sick.Dataset != want || sick.Command != "zfs destroy "+want || !sick.Reboot {
			t.Errorf("got %+v", sick)
		}
		w.must(e.Close())
		_, err = engine.CheckPool(t.Context(), w.pool("one"), 0)
		if got := sickness(t, err); got.Command != sick.Command {
			t.Errorf("noted %+v", got)
		}
		h, err := engine.CheckPool(t.Context(), w.pool("two"), 0)
		if err != nil || h.State != "ONLINE" {
			t.Errorf("after a reboot: %+v, %v", h, err)
		}
	})
}

// pool are the options that a pool is looked at with.
func (w *world) pool(boot string) engine.Options {
	o := w.options()
	o.Boot = boot
	return o
}

// A file system that cannot be unmounted ends the building of this process; the
// next one tries again.
func TestCannotUnmount(t *testing.T) {
	w := freshWorld(t, engine.ListSnapshots)
	busy := true
	e := w.openAs("one", func(o *engine.Options) {
		o.FS = fault.Wrap(w.machine, interceptor(func(_ context.Context, argv []string, run func() error) error {
			if busy && argv[1] == "set" && argv[2] == "mountpoint=none" {
				return &zfs.Error{Kind: zfs.Busy, Argv: argv, Status: 1, Stderr: "busy"}
			}
			return run()
		}))
	})
	_, err := w.build(e, staleJob)
	if !errors.As(err, new(*engine.MountedError)) {
		t.Errorf("built with %v", err)
	}
	busy = false
	_, err = w.build(e, staleJob)
	if sick := sickness(t, err); sick.Reboot || !strings.HasSuffix(sick.Dataset, "/home") {
		t.Errorf("got %+v", sick)
	}
	w.must(e.Close())
	e = w.openAs("one", nil)
	_, err = w.build(e, staleJob)
	w.must(err)
	w.must(e.Close())
}

// states is a pool in a state.
type states struct {
	zfs.FS
	state string
}

func (s states) Pool(ctx context.Context, pool string) (zfs.PoolStatus, error) {
	status, err := s.FS.Pool(ctx, pool)
	status.Health = s.state
	return status, err
}

// A look at a pool changes nothing and says what speaks against building.
func TestCheckPool(t *testing.T) {
	w := freshWorld(t, engine.ListSnapshots)
	before := w.datasets()
	var transcript fault.Transcript
	o := w.pool("one")
	o.FS = fault.Wrap(w.machine, &transcript)
	h, err := engine.CheckPool(t.Context(), o, 1<<30)
	if err != nil || h.Pool != poolName || h.State != "ONLINE" || h.Free == 0 || h.Total < h.Free {
		t.Errorf("got %+v, %v", h, err)
	}
	if n := len(transcript.Commands()); n != 2 {
		t.Errorf("%d commands", n)
	}
	_, err = engine.CheckPool(t.Context(), o, 1<<60)
	if sick := sickness(t, err); !strings.Contains(sick.Reason, "1.0 EiB shall be") {
		t.Errorf("got %v", sick)
	}
	o.FS = states{w.machine, "DEGRADED"}
	h, err = engine.CheckPool(t.Context(), o, 0)
	if sick := sickness(t, err); h.State != "DEGRADED" || !strings.Contains(sick.Reason, "DEGRADED") {
		t.Errorf("got %+v, %v", h, sick)
	}
	o.Root = zfs.MustDataset("tank")
	if _, err := engine.CheckPool(t.Context(), o, 0); !errors.As(err, new(*engine.StoreError)) {
		t.Errorf("no pool: %v", err)
	}
	if diff := cmp.Diff(before, w.datasets()); diff != "" {
		t.Errorf("it has changed (-before +after):\n%s", diff)
	}
}

// A pool that appears a minute after a reboot is waited for, within a bound,
// and nothing is made in its place.
func TestLatePool(t *testing.T) {
	for _, late := range []time.Duration{60 * time.Second, 5 * time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			w := freshWorld(t, engine.ListSnapshots)
			e := w.open()
			ids := w.lineageOf(e, staleJob)
			w.must(e.Close())
			before := w.stored()
			armed, err := fault.Plan{Rules: []fault.Rule{{Fault: "pool-missing", Duration: late}}}.Arm(nil)
			w.must(err)
			var transcript fault.Transcript
			o := w.options()
			o.FS, o.Clock, o.PoolWait = fault.Wrap(w.machine, &transcript, armed), engine.SystemClock{}, 2*time.Minute
			begin := time.Now()
			e, err = engine.Open(t.Context(), o)
			took := time.Since(begin)
			for _, command := range transcript.Commands() {
				if !strings.HasPrefix(command, "zfs list ") {
					t.Errorf("while it waits: %q", command)
				}
			}
			if late > o.PoolWait {
				if !errors.As(err, new(*engine.StoreError)) || took < o.PoolWait || took > o.PoolWait+5*time.Second {
					t.Errorf("%v after %v", err, took)
				}
				return
			}
			w.must(err)
			if took < late || took > late+5*time.Second {
				t.Errorf("it took %v", took)
			}
			r := &recording{}
			if _, err := e.Build(t.Context(), engine.Job{Spec: parse(t, staleJob), Events: r.event}); err != nil || strings.Count(r.String(), "from cache") != len(ids) {
				t.Errorf("%v\n%s", err, r)
			}
			if diff := cmp.Diff(before, w.stored()); diff != "" {
				t.Errorf("stored (-before +after):\n%s", diff)
			}
			w.must(e.Close())
		})
	}
}
