// Package fault stands between a program and any [zfs.FS]: it writes down
// which commands are run, makes a chosen one fail, or stops the world before or
// after it, as a crash would.
//
// Loops of the form "crash at command 0, 1, 2, ... until a run succeeds"
// explore every place where a program can be interrupted:
//
//	for n := 0; ; n++ {
//		crash := fault.At(n, fault.CrashAfter)
//		err := work(ctx, fault.Wrap(fs, crash))
//		if !crash.Fired() {
//			break // n is past the last command
//		}
//		// err wraps fault.ErrCrashed; look at what is left in fs
//	}
//
// and a transcript is what one would have typed:
//
//	var t fault.Transcript
//	err := work(ctx, fault.Wrap(fs, &t))
//	fmt.Print(t.String())
//
// A [Plan] is written down, as S-expressions: which commands go wrong, and how.
// [Faults] has everything that can, what a Mac does to a build by name among it:
//
//	plan, err := fault.Parse("", []byte(`(busy (dataset tank/result/**) (tries 3))`))
//	armed, err := plan.Arm(nil)
//	err = work(ctx, fault.Wrap(fs, armed))
//	for _, rule := range armed.Unfired() {
//		fmt.Println("never happened:", rule)
//	}
package fault

import (
	"context"
	"slices"

	"obuilder.org/obuilder/zfs"
)

// An Interceptor sees each command. Intercept runs it, once or not at all, by
// calling run, and gives the error that the caller shall see: what run gave or
// another *zfs.Error. It may be called concurrently. argv is not to be changed.
type Interceptor interface {
	Intercept(ctx context.Context, argv []string, run func() error) error
}

// Wrap gives fs with every command going through the interceptors, the first
// outermost: a transcript before a fault shows what the program saw, one after
// it what was really run.
func Wrap(fs zfs.FS, interceptors ...Interceptor) zfs.FS {
	for _, in := range slices.Backward(interceptors) {
		if a, ok := in.(*Armed); ok {
			in = bound{a, fs}
		}
		fs = &wrapped{fs, in}
	}
	return fs
}

type wrapped struct {
	fs zfs.FS
	in Interceptor
}

func (w *wrapped) Create(ctx context.Context, ds zfs.Dataset, opts zfs.CreateOptions) error {
	return w.in.Intercept(ctx, zfs.ArgvCreate(ds, opts), func() error { return w.fs.Create(ctx, ds, opts) })
}

func (w *wrapped) Clone(ctx context.Context, origin zfs.Snapshot, ds zfs.Dataset, props ...zfs.Property) error {
	return w.in.Intercept(ctx, zfs.ArgvClone(origin, ds, props...), func() error { return w.fs.Clone(ctx, origin, ds, props...) })
}

func (w *wrapped) Snapshot(ctx context.Context, recursive bool, snaps ...zfs.Snapshot) error {
	return w.in.Intercept(ctx, zfs.ArgvSnapshot(recursive, snaps...), func() error { return w.fs.Snapshot(ctx, recursive, snaps...) })
}

func (w *wrapped) Destroy(ctx context.Context, target zfs.Name, mode zfs.DestroyMode) error {
	return w.in.Intercept(ctx, zfs.ArgvDestroy(target, mode), func() error { return w.fs.Destroy(ctx, target, mode) })
}

func (w *wrapped) Set(ctx context.Context, ds zfs.Dataset, props ...zfs.Property) error {
	return w.in.Intercept(ctx, zfs.ArgvSet(ds, props...), func() error { return w.fs.Set(ctx, ds, props...) })
}

func (w *wrapped) Inherit(ctx context.Context, ds zfs.Dataset, property string, recursive bool) error {
	return w.in.Intercept(ctx, zfs.ArgvInherit(ds, property, recursive), func() error { return w.fs.Inherit(ctx, ds, property, recursive) })
}

func (w *wrapped) Mount(ctx context.Context, target zfs.Name) error {
	return w.in.Intercept(ctx, zfs.ArgvMount(target), func() error { return w.fs.Mount(ctx, target) })
}

func (w *wrapped) Unmount(ctx context.Context, target zfs.Name, force bool) error {
	return w.in.Intercept(ctx, zfs.ArgvUnmount(target, force), func() error { return w.fs.Unmount(ctx, target, force) })
}

func (w *wrapped) Promote(ctx context.Context, ds zfs.Dataset) error {
	return w.in.Intercept(ctx, zfs.ArgvPromote(ds), func() error { return w.fs.Promote(ctx, ds) })
}

func (w *wrapped) Rename(ctx context.Context, from, to zfs.Name, opts zfs.RenameOptions) error {
	return w.in.Intercept(ctx, zfs.ArgvRename(from, to, opts), func() error { return w.fs.Rename(ctx, from, to, opts) })
}

func (w *wrapped) Rollback(ctx context.Context, to zfs.Snapshot, recursive bool) error {
	return w.in.Intercept(ctx, zfs.ArgvRollback(to, recursive), func() error { return w.fs.Rollback(ctx, to, recursive) })
}

func (w *wrapped) List(ctx context.Context, opts zfs.ListOptions) ([]zfs.Row, error) {
	return query(ctx, w.in, zfs.ArgvList(opts), func() ([]zfs.Row, error) { return w.fs.List(ctx, opts) })
}

func (w *wrapped) Get(ctx context.Context, target zfs.Name, properties ...string) ([]zfs.Value, error) {
	return query(ctx, w.in, zfs.ArgvGet(target, properties...), func() ([]zfs.Value, error) { return w.fs.Get(ctx, target, properties...) })
}

func (w *wrapped) Pool(ctx context.Context, pool string) (zfs.PoolStatus, error) {
	return query(ctx, w.in, zfs.ArgvPool(pool), func() (zfs.PoolStatus, error) { return w.fs.Pool(ctx, pool) })
}

// query is Intercept for a command with an answer. One that comes with an
// error is passed on with that error, and with no other.
func query[T any](ctx context.Context, in Interceptor, argv []string, run func() (T, error)) (T, error) {
	var answer T
	var failed error
	err := in.Intercept(ctx, argv, func() error {
		answer, failed = run()
		return failed
	})
	if err != nil && err != failed {
		var none T
		return none, err
	}
	return answer, err
}
