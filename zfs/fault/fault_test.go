package fault_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"obuilder.org/obuilder/zfs"
	"obuilder.org/obuilder/zfs/fault"
	"pgregory.net/rapid"
)

// record is a zfs.FS that writes down the command lines it is asked for. The
// methods that a test does not use panic.
type record struct {
	zfs.FS
	mu   sync.Mutex
	ran  []string
	fail *zfs.Error // what each command gives; nil for success
	hold chan struct{}
}

func (r *record) run(argv []string) error {
	r.mu.Lock()
	r.ran = append(r.ran, zfs.CommandLine(argv))
	r.mu.Unlock()
	if r.hold != nil {
		r.hold <- struct{}{}
		<-r.hold
	}
	if r.fail == nil {
		return nil
	}
	err := *r.fail
	err.Argv = argv
	return &err
}

func (r *record) Create(_ context.Context, ds zfs.Dataset, opts zfs.CreateOptions) error {
	return r.run(zfs.ArgvCreate(ds, opts))
}
func (r *record) Clone(_ context.Context, origin zfs.Snapshot, ds zfs.Dataset, props ...zfs.Property) error {
	return r.run(zfs.ArgvClone(origin, ds, props...))
}
func (r *record) Snapshot(_ context.Context, recursive bool, snaps ...zfs.Snapshot) error {
	return r.run(zfs.ArgvSnapshot(recursive, snaps...))
}
func (r *record) Destroy(_ context.Context, target zfs.Name, mode zfs.DestroyMode) error {
	return r.run(zfs.ArgvDestroy(target, mode))
}
func (r *record) Set(_ context.Context, ds zfs.Dataset, props ...zfs.Property) error {
	return r.run(zfs.ArgvSet(ds, props...))
}
func (r *record) Inherit(_ context.Context, ds zfs.Dataset, property string, recursive bool) error {
	return r.run(zfs.ArgvInherit(ds, property, recursive))
}
func (r *record) Mount(_ context.Context, target zfs.Name) error { return r.run(zfs.ArgvMount(target)) }
func (r *record) Unmount(_ context.Context, target zfs.Name, force bool) error {
	return r.run(zfs.ArgvUnmount(target, force))
}
func (r *record) Promote(_ context.Context, ds zfs.Dataset) error { return r.run(zfs.ArgvPromote(ds)) }
func (r *record) Rename(_ context.Context, from, to zfs.Name, opts zfs.RenameOptions) error {
	return r.run(zfs.ArgvRename(from, to, opts))
}
func (r *record) Rollback(_ context.Context, to zfs.Snapshot, recursive bool) error {
	return r.run(zfs.ArgvRollback(to, recursive))
}
func (r *record) List(_ context.Context, opts zfs.ListOptions) ([]zfs.Row, error) {
	return []zfs.Row{{Name: "p"}}, r.run(zfs.ArgvList(opts))
}
func (r *record) Get(_ context.Context, target zfs.Name, properties ...string) ([]zfs.Value, error) {
	return []zfs.Value{{Name: "p"}}, r.run(zfs.ArgvGet(target, properties...))
}
func (r *record) Pool(_ context.Context, pool string) (zfs.PoolStatus, error) {
	return zfs.PoolStatus{Size: 1}, r.run(zfs.ArgvPool(pool))
}

// everything runs each method once, until one fails if stop is set.
func everything(fs zfs.FS, stop bool) error {
	ctx := context.Background()
	d, s := zfs.MustDataset("p/a"), zfs.MustSnapshot("p/a@snap")
	for _, f := range []func() error{
		func() error { return fs.Create(ctx, d, zfs.CreateOptions{Parents: true}) },
		func() error {
			return fs.Clone(ctx, s, zfs.MustDataset("p/b"), zfs.Property{Name: "mountpoint", Value: "none"})
		},
		func() error { return fs.Snapshot(ctx, true, s) },
		func() error { return fs.Destroy(ctx, d, zfs.DestroyMode{Recursive: true}) },
		func() error { return fs.Set(ctx, d, zfs.Property{Name: "mountpoint", Value: "/Users/it is"}) },
		func() error { return fs.Inherit(ctx, d, "mountpoint", true) },
		func() error { return fs.Mount(ctx, s) },
		func() error { return fs.Unmount(ctx, s, true) },
		func() error { return fs.Promote(ctx, d) },
		func() error { return fs.Rename(ctx, d, zfs.MustDataset("p/c"), zfs.RenameOptions{NoRemount: true}) },
		func() error { return fs.Rollback(ctx, s, true) },
		func() error { _, err := fs.List(ctx, zfs.ListOptions{}); return err },
		func() error { _, err := fs.Get(ctx, d, "used"); return err },
		func() error { _, err := fs.Pool(ctx, "p"); return err },
	} {
		if err := f(); err != nil && stop {
			return err
		}
	}
	return nil
}

const lines = `zfs create -p p/a
zfs clone -o mountpoint=none p/a@snap p/b
zfs snapshot -r p/a@snap
zfs destroy -r p/a
zfs set 'mountpoint=/Users/it is' p/a
zfs inherit -r mountpoint p/a
zfs mount p/a@snap
zfs unmount -f p/a@snap
zfs promote p/a
zfs rename -u p/a p/c
zfs rollback -r p/a@snap
zfs list -Hp -d 0 -t filesystem -o name
zfs get -Hp -o name,property,value,source used p/a
zpool list -Hp -o size,allocated,free,capacity,health p
`

func TestTranscriptOfEveryCommand(t *testing.T) {
	var seen fault.Transcript
	inner := &record{}
	if err := everything(fault.Wrap(inner, &seen), true); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(lines, seen.String()); diff != "" {
		t.Errorf("transcript (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(inner.ran, seen.Commands()); diff != "" {
		t.Errorf("what was run and what was written down differ:\n%s", diff)
	}
	counts := seen.Counts()
	if counts["zfs list"] != 1 || counts["zpool list"] != 1 || len(counts) != 14 {
		t.Errorf("counts: %v", counts)
	}
}

func TestTranscriptOfFailures(t *testing.T) {
	for _, c := range []struct {
		fail zfs.Error
		want string
	}{
		{zfs.Error{Kind: zfs.HasChildren, Status: 1, Stderr: "cannot destroy 'p/a': filesystem has children\nuse '-r'"}, "zfs mount p/a  # exit 1: cannot destroy 'p/a': filesystem has children\n"},
		{zfs.Error{Kind: zfs.Mounted, Status: 16}, "zfs mount p/a  # exit 16\n"},
		{zfs.Error{Kind: zfs.Timeout, Status: -1, Err: context.DeadlineExceeded}, "zfs mount p/a  # timeout: context deadline exceeded\n"},
	} {
		var seen fault.Transcript
		err := fault.Wrap(&record{fail: &c.fail}, &seen).Mount(t.Context(), zfs.MustDataset("p/a"))
		if !zfs.IsKind(err, c.fail.Kind) {
			t.Errorf("the program saw %v", err)
		}
		if got := seen.String(); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

func TestTranscriptShowsWhatRuns(t *testing.T) {
	var seen fault.Transcript
	inner := &record{hold: make(chan struct{})}
	done := make(chan error)
	go func() {
		done <- fault.Wrap(inner, &seen).Mount(context.Background(), zfs.MustDataset("p/a"))
	}()
	<-inner.hold
	if got := seen.String(); got != "zfs mount p/a  # running\n" {
		t.Errorf("got %q", got)
	}
	inner.hold <- struct{}{}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestFailAt(t *testing.T) {
	all := strings.Split(strings.TrimSpace(lines), "\n")
	for n := range len(all) + 1 {
		var seen fault.Transcript
		inner := &record{}
		point := fault.At(n, fault.Fail(zfs.Error{Kind: zfs.Busy, Status: 1, Stderr: "dataset is busy"}))
		if err := everything(fault.Wrap(inner, &seen, point), false); err != nil {
			t.Fatal(err)
		}
		if point.Fired() != (n < len(all)) {
			t.Errorf("%d: fired is %v", n, point.Fired())
		}
		want := append([]string(nil), all...)
		if n < len(all) {
			want = append(want[:n], want[n+1:]...)
			entry := seen.Entries()[n]
			if !zfs.IsKind(entry.Err, zfs.Busy) || entry.String() != all[n]+"  # exit 1: dataset is busy" {
				t.Errorf("%d: the program saw %v (%s)", n, entry.Err, entry)
			}
		}
		if diff := cmp.Diff(want, inner.ran); diff != "" {
			t.Errorf("%d: what was run (-want +got):\n%s", n, diff)
		}
	}
}

func TestAFailedQueryHasNoAnswer(t *testing.T) {
	fs := fault.Wrap(&record{}, fault.At(0, fault.CrashAfter))
	rows, err := fs.List(t.Context(), zfs.ListOptions{})
	if rows != nil || !errors.Is(err, fault.ErrCrashed) {
		t.Errorf("got %v, %v", rows, err)
	}
}

// Whatever the place and kind of the crash, just the commands before it (and,
// for CrashAfter, that at it) have run, and everything later says so.
func TestCrash(t *testing.T) {
	all := strings.Split(strings.TrimSpace(lines), "\n")
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, len(all)+2).Draw(t, "n")
		action, ran := fault.CrashBefore, n
		if rapid.Bool().Draw(t, "after") {
			action, ran = fault.CrashAfter, n+1
		}
		inner := &record{}
		point := fault.At(n, action)
		fs := fault.Wrap(inner, point)
		err := everything(fs, true)
		if crashed := n < len(all); errors.Is(err, fault.ErrCrashed) != crashed || point.Fired() != crashed {
			t.Fatalf("fired %v, error %v", point.Fired(), err)
		}
		ran = min(ran, len(all))
		if diff := cmp.Diff(all[:ran:ran], inner.ran, cmp.Comparer(func(a, b []string) bool {
			return strings.Join(a, "\n") == strings.Join(b, "\n")
		})); diff != "" {
			t.Fatalf("what was run (-want +got):\n%s", diff)
		}
		if point.Fired() {
			err := fs.Mount(context.Background(), zfs.MustDataset("p/late"))
			if e := (*zfs.Error)(nil); !errors.Is(err, fault.ErrCrashed) || !errors.As(err, &e) || e.Argv[2] != "p/late" {
				t.Fatalf("after the crash: %v", err)
			}
		}
	})
}

// A command that runs while another one crashes does not report success.
func TestCrashEndsWhatIsRunning(t *testing.T) {
	inner := &record{hold: make(chan struct{})}
	point := fault.At(1, fault.CrashBefore)
	fs := fault.Wrap(inner, point)
	done := make(chan error)
	go func() { done <- fs.Mount(context.Background(), zfs.MustDataset("p/first")) }()
	<-inner.hold
	if err := fs.Mount(t.Context(), zfs.MustDataset("p/second")); !errors.Is(err, fault.ErrCrashed) {
		t.Errorf("second: %v", err)
	}
	inner.hold <- struct{}{}
	if err := <-done; !errors.Is(err, fault.ErrCrashed) {
		t.Errorf("first: %v", err)
	}
}

func TestWrapOrder(t *testing.T) {
	var saw, ran fault.Transcript
	fs := fault.Wrap(&record{}, &saw, fault.At(0, fault.CrashBefore), &ran)
	_ = fs.Promote(t.Context(), zfs.MustDataset("p/a"))
	if got := fmt.Sprint(saw.Commands(), ran.Commands()); got != "[zfs promote p/a] []" {
		t.Error(got)
	}
}
