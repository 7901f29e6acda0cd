package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"obuilder.org/obuilder/index"
	"obuilder.org/obuilder/sandbox"
	"obuilder.org/obuilder/zfs"
)

// A command is what a step does in its clone.
type command struct {
	cfg   sandbox.Config
	stdin func(ctx context.Context, w io.Writer) error // writes the standard input; nil for none
	limit Limits
}

// cleanup gives a context for what has to be done whatever became of ctx.
func cleanup(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
}

// makeStep makes the result of a step that is built on the last of lineage:
// the results from the base on.
func (e *Engine) makeStep(ctx context.Context, f *flight, lineage, children []string, c command) error {
	base := lineage[len(lineage)-1]
	complete, err := e.usable(ctx, link{id: f.id, base: base, children: children})
	if err != nil {
		return err
	}
	if complete {
		f.cached = true
		return e.openSavedLog(ctx, f)
	}
	select {
	case e.running <- struct{}{}:
		defer func() { <-e.running }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := e.prepareSandbox(ctx); err != nil {
		return err
	}
	unmark, err := e.mark(marker{kind: markStep, name: f.id}, lineage...)
	if err != nil {
		return err
	}
	err = e.cloneResult(ctx, base, f.id, children)
	if err == nil {
		err = e.openLog(f)
	}
	if err == nil {
		err = e.runMounted(ctx, f, children, c)
	}
	if err == nil {
		err = e.commit(ctx, f.id, lineage)
	}
	if err != nil {
		err = e.whyFailed(ctx, err)
		return e.discard(ctx, f, err, unmark)
	}
	return unmark()
}

// prepareSandbox prepares the sandbox once. The caller has the token of the
// step that runs.
func (e *Engine) prepareSandbox(ctx context.Context) error {
	if e.prepared {
		return nil
	}
	if err := e.sandbox.Prepare(ctx); err != nil {
		return fmt.Errorf("preparing the machine: %w", err)
	}
	e.prepared = true
	return nil
}

// cloneResult clones the dataset of base and its children. What has the same
// name is not to be used, or the step would not be built: it goes.
func (e *Engine) cloneResult(ctx context.Context, base, id string, children []string) error {
	src, dst := e.dataset(base), e.dataset(id)
	err := e.fs.Clone(ctx, src.MustSnapshot(Snap), dst)
	if zfs.IsKind(err, zfs.Exists) {
		if err = e.clearPlace(ctx, id); err == nil {
			err = e.fs.Clone(ctx, src.MustSnapshot(Snap), dst)
		}
	}
	if err != nil {
		return err
	}
	for _, child := range children {
		if err := e.cloneChild(ctx, src.MustChild(child), dst.MustChild(child)); err != nil {
			return err
		}
	}
	return nil
}

// destroyLeftover destroys what is in the place of a result that is not known.
// Should it have the snapshot of one, that goes first: a recursive destroy may
// stop anywhere, and what it has left must not be taken for a result.
func (e *Engine) destroyLeftover(ctx context.Context, ds zfs.Dataset) error {
	if err := e.fs.Destroy(ctx, ds.MustSnapshot(Snap), zfs.DestroyMode{}); err != nil && !zfs.IsKind(err, zfs.NotFound) {
		return err
	}
	return e.destroy(ctx, ds, false)
}

func (e *Engine) cloneChild(ctx context.Context, src, dst zfs.Dataset) error {
	return e.fs.Clone(ctx, src.MustSnapshot(Snap), dst, mountpoint("none"))
}

// openLog begins the log of a new result.
func (e *Engine) openLog(f *flight) error {
	file, err := e.files.OpenFile(e.headPath(f.id)+"/log", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	f.log.open(file, 0)
	return nil
}

// openSavedLog gives a flight the log of a result that was there already. One
// without a log has printed nothing.
func (e *Engine) openSavedLog(ctx context.Context, f *flight) error {
	file, size, err := e.savedLog(ctx, f.id)
	if err == nil && file != nil {
		f.log.open(file, size)
	}
	return err
}

// savedLog opens the log of a complete result; nil when it has none.
func (e *Engine) savedLog(ctx context.Context, id string) (zfs.File, int64, error) {
	if e.mode == ListSnapshots {
		if err := e.ensureMounted(ctx, id); err != nil {
			return nil, 0, err
		}
	}
	names := []string{e.headPath(id) + "/log"}
	if e.mode == MountSnapshots {
		// Where automounting is down a snapshot looks empty: the head is the same.
		names = []string{e.headPath(id) + "/.zfs/snapshot/" + Snap + "/log", names[0]}
	}
	var err error
	for _, name := range names {
		var file zfs.File
		if file, err = e.files.OpenFile(name, os.O_RDONLY, 0); err == nil {
			info, err := file.Stat()
			if err != nil {
				return nil, 0, errors.Join(err, file.Close())
			}
			return file, info.Size(), nil
		}
	}
	if notExist(err) {
		return nil, 0, nil
	}
	return nil, 0, err
}

// runMounted mounts the children of the clone, runs the command, and unmounts
// them again whatever happens in between.
func (e *Engine) runMounted(ctx context.Context, f *flight, children []string, c command) (err error) {
	ds := e.dataset(f.id)
	var mounted []sandbox.Mount
	for _, m := range e.sandbox.Mounts() {
		if err == nil && slices.Contains(children, m.Child) {
			mounted = append(mounted, m)
			err = e.fs.Set(ctx, ds.MustChild(m.Child), mountpoint(m.Path))
		}
	}
	if err == nil {
		err = e.runWithCaches(ctx, f, c)
	}
	cctx, cancel := cleanup(ctx)
	defer cancel()
	for _, m := range mounted {
		f.left = errors.Join(f.left, e.unmount(cctx, ds.MustChild(m.Child), m.Path, true))
	}
	return errors.Join(err, f.left)
}

// runWithCaches runs the command with its caches mounted; f.left is what could
// not be undone of that.
func (e *Engine) runWithCaches(ctx context.Context, f *flight, c command) error {
	used, err := e.useCaches(ctx, c.cfg)
	if err == nil {
		err = e.runCommand(ctx, f.log, c)
	}
	cctx, cancel := cleanup(ctx)
	defer cancel()
	quiet := e.sandbox.Quiesce(cctx)
	f.left = errors.Join(quiet, e.releaseCaches(cctx, used, keepCaches(err) && quiet == nil))
	return err
}

func mountpoint(path string) zfs.Property { return zfs.Property{Name: "mountpoint", Value: path} }

// runCommand runs the command with its secrets masked in the log. What goes
// beyond a limit is a *TimeoutError.
func (e *Engine) runCommand(ctx context.Context, log *stepLog, c command) error {
	limits := c.limit
	if c.stdin != nil {
		limits.Silence = 0 // what unpacks says nothing
	}
	limited, active, stop := limits.start(ctx)
	defer stop()
	err := e.runLimited(limited, log, active, c)
	late := (*TimeoutError)(nil)
	if err != nil && ctx.Err() == nil && errors.As(context.Cause(limited), &late) {
		return &TimeoutError{What: late.What, Limit: late.Limit, Err: err}
	}
	return err
}

func (e *Engine) runLimited(ctx context.Context, log *stepLog, active func(), c command) error {
	values := make([][]byte, len(c.cfg.Secrets))
	for i, s := range c.cfg.Secrets {
		values[i] = s.Value
	}
	masked := newMasker(log, values)
	output := noting{masked, active}
	c.cfg.HostPath = e.files.HostPath
	if c.stdin == nil {
		err := e.sandbox.Run(ctx, c.cfg, nil, output)
		return errors.Join(err, masked.Flush())
	}
	r, w := io.Pipe()
	sent := make(chan error, 1)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		err := c.stdin(ctx, w)
		w.CloseWithError(err)
		sent <- err
	}()
	err := e.sandbox.Run(ctx, c.cfg, r, output)
	// When the command ended before its input did, the sender is told so, and
	// does not go on reading files when nobody wants them.
	if err != nil {
		cancel(errCommandEnded)
	}
	r.CloseWithError(errCommandEnded)
	sendErr := <-sent
	ended := errors.Is(sendErr, errCommandEnded) ||
		errors.Is(sendErr, context.Canceled) && errors.Is(context.Cause(ctx), errCommandEnded)
	switch {
	case ended && err != nil:
		sendErr = nil // it had a reason of its own to end
	case ended:
		sendErr = errCommandEnded
	case sendErr != nil && (errors.As(err, new(*sandbox.ExitError)) || errors.Is(err, sendErr)):
		err = nil // what was wrong with the input is why the command failed
	}
	return errors.Join(sendErr, err, masked.Flush())
}

var errCommandEnded = errors.New("the command ended before it had read its input")

// unmount takes a child off its mount point.
func (e *Engine) unmount(ctx context.Context, ds zfs.Dataset, path string, kill bool) error {
	err := e.persist(ctx, ds, kill, func() error { return e.fs.Set(ctx, ds, mountpoint("none")) })
	if err != nil {
		return &MountedError{Dataset: ds.String(), Path: path, Holders: e.sandbox.Holders(ctx, path), Err: err}
	}
	return nil
}

// persistTries is how often something that unmounts is tried before the
// unmount is forced. Busy is common on a Mac and passes.
const persistTries = 4

// persist does something that unmounts ds: tries, kills what the build user
// still runs if kill says so, tries again, and forces the unmount in the end.
// Only who holds the token of the step that runs may have anything killed.
// When there is no ds it is done.
func (e *Engine) persist(ctx context.Context, ds zfs.Dataset, kill bool, do func() error) (err error) {
	defer func() { e.noteHealth(err, ds.String()) }()
	wait := 250 * time.Millisecond
	for try := 1; ; try++ {
		err := do()
		if err == nil {
			return nil
		}
		switch zfs.KindOf(err) {
		case zfs.NotFound:
			return nil
		case zfs.HasClones, zfs.Exists, zfs.Usage, zfs.Unsupported: // and will be
			return err
		}
		if try > persistTries {
			return err
		}
		e.log.Warn("cannot unmount yet", "dataset", ds.String(), "try", try, "err", err)
		if kill {
			if quiet := e.sandbox.Quiesce(ctx); quiet != nil {
				return errors.Join(err, quiet)
			}
		}
		if late := e.clock.Sleep(ctx, wait); late != nil {
			return errors.Join(err, late)
		}
		wait *= 2
		if try == persistTries {
			if err := e.fs.Unmount(ctx, ds, true); err != nil && !zfs.IsKind(err, zfs.NotMounted) {
				e.log.Warn("cannot unmount by force", "dataset", ds.String(), "err", err)
			}
		}
	}
}

// destroy destroys a dataset, which may be gone already, with all below it.
func (e *Engine) destroy(ctx context.Context, ds zfs.Dataset, kill bool) error {
	return e.persist(ctx, ds, kill, func() error {
		return e.fs.Destroy(ctx, ds, zfs.DestroyMode{Recursive: true, Force: true})
	})
}

// commit makes the clone a result. Once the snapshot is there it is one, and
// stays one whatever else fails.
func (e *Engine) commit(ctx context.Context, id string, lineage []string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	cctx, cancel := cleanup(ctx)
	defer cancel()
	snap := e.dataset(id).MustSnapshot(Snap)
	if err := e.fs.Snapshot(cctx, true, snap); err != nil {
		// It may have been taken all the same, and what is about to be destroyed
		// must not look complete on its way. When that cannot be made sure, the
		// result stays: it is whole, and the next Open looks what it is.
		if left := e.fs.Destroy(cctx, snap, zfs.DestroyMode{}); left != nil && !zfs.IsKind(left, zfs.NotFound) {
			return &storedError{errors.Join(err, left)}
		}
		return err
	}
	parent := ""
	if len(lineage) > 0 {
		parent = lineage[len(lineage)-1]
	}
	e.setValid(id, parent)
	if err := e.addToIndex(cctx, lineage, id); err != nil {
		return &storedError{err}
	}
	return nil
}

// addToIndex adds id, and before it those of lineage, the results that it is
// built on, that the index does not have: another implementation, or a crash,
// may have left a result that is in the store only.
func (e *Engine) addToIndex(ctx context.Context, lineage []string, id string) error {
	parent := ""
	if len(lineage) > 0 {
		parent = lineage[len(lineage)-1]
	}
	now := e.clock.Now()
	add := func(id, parent string) error {
		return e.index.Add(ctx, index.Result{ID: id, Parent: parent, Created: now, Used: now})
	}
	err := add(id, parent)
	if !errors.Is(err, index.ErrNotFound) {
		return err
	}
	above := ""
	for _, ancestor := range lineage {
		_, err := e.index.Get(ctx, ancestor)
		if errors.Is(err, index.ErrNotFound) {
			err = add(ancestor, above)
		}
		if err != nil {
			return err
		}
		above = ancestor
	}
	return add(id, parent)
}

// A storedError is a failure after which the result is there all the same, or
// may be.
type storedError struct{ err error }

func (e *storedError) Error() string {
	return "the result is there but not in the index: " + e.err.Error()
}
func (e *storedError) Unwrap() error { return e.err }

// discard destroys what was made of a result, and gives the reason back. The
// marker stays when that fails, or when the result is to be put into the
// index by the next Open.
func (e *Engine) discard(ctx context.Context, f *flight, reason error, unmark func() error) error {
	var stored *storedError
	if errors.As(reason, &stored) {
		return reason
	}
	e.seal(f)
	f.log.drain(drainTime)
	cctx, cancel := cleanup(ctx)
	defer cancel()
	if err := e.destroy(cctx, e.dataset(f.id), false); err != nil {
		err = fmt.Errorf("removing what is left of the step: %w", err)
		f.left = errors.Join(f.left, err)
		return errors.Join(reason, err)
	}
	return errors.Join(reason, unmark())
}

// makeBase makes the result of the base of a stage.
func (e *Engine) makeBase(ctx context.Context, f *flight, st *stage) error {
	if e.isValid(f.id) {
		complete, err := e.ask(ctx, f.id)
		if err != nil || complete {
			f.cached = complete
			return err
		}
	}
	im, err := e.image(st.from)
	if err != nil {
		return err
	}
	unmark, err := e.mark(marker{kind: markStep, name: f.id})
	if err != nil {
		return err
	}
	made, err := e.createBase(ctx, f, link{id: f.id, image: st.from})
	if !made {
		return errors.Join(err, unmark())
	}
	if err == nil {
		err = e.writeBaseFiles(f.id, st.env)
	}
	src, dst := e.base.MustChild(st.from), e.dataset(f.id)
	for _, child := range im.children {
		if err == nil {
			err = e.cloneChild(ctx, src.MustChild(child), dst.MustChild(child))
		}
	}
	if err == nil {
		err = e.commit(ctx, f.id, nil)
	}
	if err != nil {
		return e.discard(ctx, f, err, unmark)
	}
	if err := unmark(); err != nil || e.mode == ListSnapshots {
		return err
	}
	complete, err := e.ask(ctx, f.id)
	if err == nil && !complete {
		err = &StoreError{Reason: fmt.Sprintf("the snapshot of %s is gone", dst), Advice: "something else destroys results; build again"}
	}
	return err
}

// createBase creates the dataset of a base; made says whether there may be one
// now that is not complete. Where snapshots are mounted it asks, as the
// sequence has it, whether the result is there all the same: another
// implementation may have made it since the listing.
func (e *Engine) createBase(ctx context.Context, f *flight, l link) (made bool, err error) {
	ds := e.dataset(f.id)
	err = e.fs.Create(ctx, ds, zfs.CreateOptions{})
	existed := zfs.IsKind(err, zfs.Exists)
	if err != nil && !existed {
		return true, err
	}
	if e.mode == MountSnapshots {
		complete, err := e.usable(ctx, l)
		if complete {
			f.cached = true
			return false, nil
		}
		if err != nil {
			return !existed, err
		}
	}
	if !existed {
		return true, nil
	}
	if err := e.clearPlace(ctx, f.id); err != nil {
		return true, err
	}
	return true, e.fs.Create(ctx, ds, zfs.CreateOptions{})
}

// writeBaseFiles writes the environment that steps on this base begin with,
// and a log of nothing.
func (e *Engine) writeBaseFiles(id string, env []byte) error {
	for name, data := range map[string][]byte{"env": env, "log": nil} {
		file, err := e.files.OpenFile(e.headPath(id)+"/"+name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
		if err != nil {
			return err
		}
		_, err = file.Write(data)
		if err == nil {
			err = file.Sync()
		}
		if err := errors.Join(err, file.Close()); err != nil {
			return err
		}
	}
	return nil
}

// image finds a base image that steps can be built on.
func (e *Engine) image(name string) (*image, error) {
	e.mu.Lock()
	im := e.images[name]
	e.mu.Unlock()
	if im == nil {
		return nil, &BaseImageError{Name: name, Reason: "there is no such base image", Available: e.Images()}
	}
	for _, child := range im.children {
		if !im.prepared[child] {
			return nil, &BaseImageError{Name: name, Available: e.Images(),
				Reason: fmt.Sprintf("it has no snapshot %s/%s@%s", name, child, Snap)}
		}
	}
	return im, nil
}

func (e *Engine) knowsNoImage(name string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.images[name] == nil
}

// childrenOf gives the children of a base image, or, where there is no image,
// of its result: all results have them that are built on it.
func (e *Engine) childrenOf(name, id string) []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	if im := e.images[name]; im != nil {
		return im.children
	}
	return e.children[id]
}
