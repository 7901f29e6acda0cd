package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"obuilder.org/obuilder/index"
	"obuilder.org/obuilder/sandbox"
	"obuilder.org/obuilder/spec"
	"obuilder.org/obuilder/zfs"
)

// A Clock tells the time and lets it pass. [SystemClock] is the real one.
type Clock interface {
	Now() time.Time
	// Sleep returns after d, or with ctx.Err() when that comes first.
	Sleep(ctx context.Context, d time.Duration) error
}

// SystemClock is the time of this machine.
type SystemClock struct{}

// Now implements [Clock].
func (SystemClock) Now() time.Time { return time.Now() }

// Sleep implements [Clock].
func (SystemClock) Sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A SnapshotMode says how the engine asks whether a result is complete.
type SnapshotMode int

const (
	// ListSnapshots asks with zfs list, once for all steps of a job, reads logs
	// from the head of a result and never mounts a snapshot.
	ListSnapshots SnapshotMode = iota
	// MountSnapshots mounts the result's snapshot, as ocurrent/obuilder
	// does: one command that both asks and makes the log readable. macOS only.
	MountSnapshots
)

// Options are what [Open] opens.
type Options struct {
	FS        zfs.FS
	Files     zfs.Files
	Root      zfs.Dataset // POOL, or POOL/A/B: everything is below it
	Sandbox   sandbox.Sandbox
	Snapshots SnapshotMode
	// OpenIndex opens the index kept in a file of this machine; in memory when nil.
	OpenIndex func(ctx context.Context, path string) (index.Index, error)
	// Lock takes the file of this machine that says that the store is in use,
	// and waits for whoever has it; nobody else uses the store when nil.
	Lock func(ctx context.Context, path string) (release func() error, err error)
	// Images are base images that are made, empty, when the store does not have
	// them: for stores that nobody prepares.
	Images []string
	// Mountpoint is where Root must be mounted; anywhere when "".
	Mountpoint string
	// PoolWait is how long to wait for Root to appear: after a reboot of a Mac a
	// pool is 30 to 60 s late.
	PoolWait time.Duration
	// Inspect leaves what killed processes have left for [Engine.Fsck] to find.
	// Nothing is to be built on such an engine.
	Inspect bool
	// Boot differs from one boot of the machine to the next (package boot has
	// it): what only a reboot helps against is noted until then. When it is "",
	// that is known to the engine only that has met with it.
	Boot  string
	Clock Clock        // SystemClock{} when nil
	Log   *slog.Logger // discards when nil
}

// Snap is the name of the snapshot that makes a result complete, and of
// those that make a base image and a cache.
const Snap = "snap"

const (
	poolPoll    = 2 * time.Second  // between two looks for a pool that is late
	cleanupTime = 10 * time.Minute // for all that follows a step, whatever became of its context
	drainTime   = 10 * time.Second // for readers of a log whose step failed
)

// An Engine builds specs on one store. Its methods may be called concurrently.
type Engine struct {
	fs      zfs.FS
	files   zfs.Files
	sandbox sandbox.Sandbox
	mode    SnapshotMode
	index   index.Index
	unlock  func() error
	clock   Clock
	log     *slog.Logger

	root, base, result, state, cache, cacheTmp zfs.Dataset
	rootPath, resultPath, statePath            string // mount points

	use      uses          // of results, by builds and by what destroys them
	running  chan struct{} // holds one token while a step's command runs
	prepared bool          // the sandbox is; guarded by that token
	flights  sync.WaitGroup
	boot     string
	sick     atomic.Pointer[UnhealthyError]
	left     []marker // of killed processes, if they are left for Fsck

	pruning    chan struct{}   // holds one token while there is a prune
	destroying chan struct{}   // holds one token while results are being destroyed
	away       map[string]bool // results that were moved away and are not destroyed; guarded by that token

	mu       sync.Mutex
	images   map[string]*image
	complete map[string]bool     // ids of results that are known to be complete
	valid    map[string]string   // of those, the ones that may be used, and what each is built on
	children map[string][]string // of the results of bases
	stale    map[string]bool     // names below root of results that were set aside
	inFlight map[string]*flight
	groups   map[zfs.Dataset]bool // of cache and cacheTmp, those known to exist
	caches   map[string]*cache
	nextTmp  int
	readers  map[string]*reader // results whose home is mounted for reading

	imagesSeen atomic.Int64 // when the images were listed, in nanoseconds, if no job has begun since
}

// An image is a base image as the listing showed it.
type image struct {
	children   []string // datasets below it
	prepared   map[string]bool
	mountpoint string
	identity   string // differs from that of another image of the same name
	mounted    atomic.Bool
}

// Open looks at the store, makes what is missing of its groups, and clears
// away what a killed process has left: at most three commands on a store in
// order, and as long for one with many results as for one with few. It waits
// for the pool as long as PoolWait says.
func Open(ctx context.Context, o Options) (*Engine, error) {
	e := &Engine{
		fs: o.FS, files: o.Files, sandbox: o.Sandbox, mode: o.Snapshots, clock: o.Clock, log: o.Log, boot: o.Boot,
		root: o.Root, running: make(chan struct{}, 1), pruning: make(chan struct{}, 1), destroying: make(chan struct{}, 1), away: map[string]bool{},
		images: map[string]*image{}, complete: map[string]bool{}, valid: map[string]string{}, children: map[string][]string{}, stale: map[string]bool{},
		inFlight: map[string]*flight{}, groups: map[zfs.Dataset]bool{}, caches: map[string]*cache{}, readers: map[string]*reader{},
	}
	if e.clock == nil {
		e.clock = SystemClock{}
	}
	e.log = nopLog(o.Log)
	for _, group := range []struct {
		ds   *zfs.Dataset
		name string
	}{{&e.base, "base-image"}, {&e.result, "result"}, {&e.state, "state"}, {&e.cache, "cache"}, {&e.cacheTmp, "cache-tmp"}} {
		ds, err := o.Root.Child(group.name)
		if err != nil {
			return nil, &StoreError{Reason: "the name of the store is too long", Err: err}
		}
		*group.ds = ds
	}
	groups, err := e.openGroups(ctx, o)
	if err != nil {
		return nil, err
	}
	if err := e.files.MkdirAll(e.markerDir(), 0o700); err != nil {
		return nil, &StoreError{Reason: "cannot write the state of the store", Err: err,
			Advice: "obuilder must run as a user who may write there, or as root"}
	}
	if err := e.lockStore(ctx, o.Lock); err != nil {
		return nil, err
	}
	if err := e.load(ctx, o, groups); err != nil {
		e.noteHealth(err, "")
		return nil, errors.Join(err, e.unlock())
	}
	return e, nil
}

// lockStore keeps others from using the store from here on.
func (e *Engine) lockStore(ctx context.Context, lock func(context.Context, string) (func() error, error)) error {
	e.unlock = func() error { return nil }
	file, ok := e.files.HostPath(e.statePath + "/obuilder.lock")
	if lock == nil || !ok {
		return nil
	}
	unlock, err := lock(ctx, file)
	if err != nil {
		return err
	}
	e.unlock = unlock
	return nil
}

// load reads what the store holds that every job needs, and clears away what
// was left. groups says which of them were there.
func (e *Engine) load(ctx context.Context, o Options, groups map[string][]string) error {
	if _, ok := groups[e.base.String()]; ok {
		if err := e.listImages(ctx); err != nil {
			return err
		}
	}
	made, err := e.makeImages(ctx, o.Images)
	if err == nil && made {
		err = e.listImages(ctx)
	}
	if err != nil {
		return err
	}
	left, err := e.markers()
	if err != nil {
		return err
	}
	// Whoever had the lock before may have made the group of results, and what
	// it was making may be complete.
	if _, ok := groups[e.result.String()]; ok || len(left)+len(e.away) > 0 {
		// The environment of a base that was built is in its result, unless the
		// image was rebuilt since.
		var bases []link
		for _, name := range slices.Sorted(maps.Keys(e.images)) {
			bases = append(bases, link{id: spec.BaseID(name), image: name})
		}
		if _, err := e.verify(ctx, bases); err != nil {
			return err
		}
		var ids []string
		for _, m := range left {
			ids = append(ids, m.name)
		}
		ids = slices.AppendSeq(ids, maps.Keys(e.away))
		slices.Sort(ids)
		if err := e.locate(ctx, ids); err != nil {
			return err
		}
	}
	if err := e.openIndex(ctx, o.OpenIndex); err != nil {
		return err
	}
	if err := e.readHealth(); err != nil {
		return errors.Join(err, e.index.Close())
	}
	if o.Inspect || e.sick.Load() != nil {
		e.left = left // for Fsck, or for after the reboot
		return nil
	}
	err = e.recover(ctx, left)
	if err == nil {
		err = e.recoverAway(ctx)
	}
	if err != nil {
		return errors.Join(err, e.index.Close())
	}
	return nil
}

// Close waits for builds that were cancelled to be gone, and lets others use
// the store.
func (e *Engine) Close() error {
	e.flights.Wait()
	return errors.Join(e.index.Close(), e.unlock())
}

func (e *Engine) openIndex(ctx context.Context, open func(context.Context, string) (index.Index, error)) error {
	file, ok := e.files.HostPath(e.statePath + "/db/db.sqlite")
	if open == nil || !ok {
		e.index = index.Memory()
		return nil
	}
	ix, err := open(ctx, file)
	if err != nil {
		return &StoreError{Reason: "cannot open the index", Err: err}
	}
	e.index = ix
	return nil
}

// nopLog gives a log that discards for none.
func nopLog(log *slog.Logger) *slog.Logger {
	if log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return log
}

// waitForRoot lists the groups of the store with their mount points, whether
// they are mounted, and more, waiting for its pool to appear.
func (e *Engine) waitForRoot(ctx context.Context, wait time.Duration, more ...string) ([]zfs.Row, error) {
	begin := e.clock.Now()
	for {
		rows, err := e.fs.List(ctx, zfs.ListOptions{
			Roots: []zfs.Name{e.root}, Recursive: true, Depth: 1,
			Properties: append([]string{"mountpoint", "mounted"}, more...),
		})
		if err == nil || !zfs.IsKind(err, zfs.NotFound) {
			return rows, err
		}
		if waited := e.clock.Now().Sub(begin); waited >= wait {
			return nil, &StoreError{Reason: fmt.Sprintf("there is no dataset %s", e.root), Err: err,
				Advice: "zfs list shows the datasets that there are, zpool import the pools that are not imported"}
		}
		e.log.Warn("waiting for the pool", "dataset", e.root.String(), "err", err)
		if err := e.clock.Sleep(ctx, poolPoll); err != nil {
			return nil, err
		}
	}
}

// openGroups finds the groups of the store, makes those that every job needs,
// and gives the rows of those that were there.
func (e *Engine) openGroups(ctx context.Context, o Options) (found map[string][]string, err error) {
	rows, err := e.waitForRoot(ctx, o.PoolWait)
	if err != nil {
		return nil, err
	}
	found = map[string][]string{}
	for _, row := range rows {
		found[row.Name] = row.Values
		if id, ok := e.awayID(row.Name); ok {
			e.away[id] = true
		}
		if name, ok := e.staleName(row.Name); ok {
			e.stale[name] = true
		}
	}
	root, ok := found[e.root.String()]
	if !ok || len(root) != 2 || !strings.HasPrefix(root[0], "/") {
		return nil, &StoreError{Reason: fmt.Sprintf("%s has no mount point", e.root),
			Advice: fmt.Sprintf("zfs set mountpoint=PATH %s", e.root)}
	}
	e.rootPath = root[0]
	if o.Mountpoint != "" && path.Clean(o.Mountpoint) != e.rootPath {
		return nil, &StoreError{Reason: fmt.Sprintf("%s is mounted on %s, not on %s", e.root, e.rootPath, o.Mountpoint),
			Advice: "name the store as zfs:POOL, or by the path where it is mounted"}
	}
	for _, group := range []struct {
		ds   zfs.Dataset
		path *string
	}{{e.root, &e.rootPath}, {e.result, &e.resultPath}, {e.state, &e.statePath}} {
		*group.path = path.Join(e.rootPath, strings.TrimPrefix(group.ds.String(), e.root.String()))
		values, ok := found[group.ds.String()]
		switch {
		case !ok:
			err = e.fs.Create(ctx, group.ds, zfs.CreateOptions{})
			if zfs.IsKind(err, zfs.Exists) {
				err = nil // another process was quicker; it has the lock
			}
		case !strings.HasPrefix(values[0], "/"):
			err = &StoreError{Reason: fmt.Sprintf("%s has no mount point", group.ds),
				Advice: fmt.Sprintf("zfs inherit mountpoint %s", group.ds)}
		case values[1] != "yes":
			*group.path = values[0]
			if err = e.fs.Mount(ctx, group.ds); zfs.IsKind(err, zfs.Mounted) {
				err = nil // likewise
			}
		default:
			*group.path = values[0]
		}
		if err != nil {
			return nil, err
		}
	}
	for _, ds := range []zfs.Dataset{e.cache, e.cacheTmp} {
		_, e.groups[ds] = found[ds.String()]
	}
	return found, nil
}

func (e *Engine) listImages(ctx context.Context) error {
	rows, err := e.fs.List(ctx, zfs.ListOptions{
		Roots: []zfs.Name{e.base}, Recursive: true, Types: []zfs.Type{zfs.Filesystems, zfs.Snapshots},
		Properties: lookProperties,
	})
	if err != nil {
		return err
	}
	seen := newLook()
	seen.add(rows)
	images := e.imagesIn(seen)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.images = images
	e.imagesSeen.Store(e.clock.Now().UnixNano())
	return nil
}

// sortChildren puts home before brew before all others: the order of the
// sequence, and of a home that may hold a mount point of another child.
func sortChildren(children []string) {
	rank := func(s string) string {
		switch s {
		case "home":
			return "0"
		case "brew":
			return "1"
		}
		return "2" + s
	}
	slices.SortFunc(children, func(a, b string) int { return strings.Compare(rank(a), rank(b)) })
}

// locateBatch is how many results are asked for in one command: a command
// line has room for them on every system.
const locateBatch = 1000

// locate finds out which of ids are complete, with one command for those that
// are not known to be. However many results a store holds, a job costs as much
// as it has steps. The caller holds or claims ids: what is noted of a result
// must stay so.
func (e *Engine) locate(ctx context.Context, ids []string) error {
	var unknown []zfs.Name
	e.mu.Lock()
	for _, id := range ids {
		if !e.complete[id] && ValidID(id) {
			unknown = append(unknown, e.dataset(id).MustSnapshot(Snap))
		}
	}
	e.mu.Unlock()
	for batch := range slices.Chunk(unknown, locateBatch) {
		rows, err := e.fs.List(ctx, zfs.ListOptions{Roots: batch, Types: []zfs.Type{zfs.Snapshots}})
		if err != nil && !zfs.IsKind(err, zfs.NotFound) {
			return err
		}
		for _, id := range e.completeIn(rows) {
			e.setComplete(id, true)
		}
	}
	return nil
}

// listResults lists the ids of all complete results, with one command that
// takes as long as there are many. The depth keeps the snapshots of their
// children out: one line a result.
func (e *Engine) listResults(ctx context.Context) ([]string, error) {
	rows, err := e.fs.List(ctx, zfs.ListOptions{
		Roots: []zfs.Name{e.result}, Recursive: true, Depth: 2, Types: []zfs.Type{zfs.Snapshots},
	})
	return e.completeIn(rows), err
}

// completeIn gives the ids of the results whose snapshots were listed.
func (e *Engine) completeIn(rows []zfs.Row) (ids []string) {
	prefix := e.result.String() + "/"
	for _, row := range rows {
		rest, ok := strings.CutPrefix(row.Name, prefix)
		if id, tag, found := strings.Cut(rest, "@"); ok && found && tag == Snap && ValidID(id) {
			ids = append(ids, id)
		}
	}
	return ids
}

// idLen is how long an id is.
const idLen = 64

// ValidID reports whether s has the form of an id: 64 lower-case hexadecimal
// digits.
func ValidID(s string) bool {
	if len(s) != idLen {
		return false
	}
	for i := 0; i < len(s); i++ {
		if (s[i] < '0' || s[i] > '9') && (s[i] < 'a' || s[i] > 'f') {
			return false
		}
	}
	return true
}

// dataset names the result id, whose form was checked or made by us.
func (e *Engine) dataset(id string) zfs.Dataset { return e.result.MustChild(id) }

// headPath is where the head of the result id is mounted.
func (e *Engine) headPath(id string) string { return e.resultPath + "/" + id }

// Images names the base images of the store, sorted.
func (e *Engine) Images() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	names := make([]string, 0, len(e.images))
	for name := range e.images {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (e *Engine) isComplete(id string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.complete[id]
}

func (e *Engine) setComplete(id string, complete bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if complete {
		e.complete[id] = true
	} else {
		delete(e.complete, id)
		delete(e.valid, id)
	}
}

// usable asks whether a result is complete and may be used, with one command
// when snapshots are mounted and nothing is unusual, and none otherwise.
func (e *Engine) usable(ctx context.Context, l link) (bool, error) {
	if e.mode == ListSnapshots {
		return e.isValid(l.id), nil
	}
	complete, err := e.ask(ctx, l.id)
	if err != nil || !complete || e.isValid(l.id) {
		return complete, err
	}
	v, err := e.verify(ctx, []link{l})
	if err != nil {
		return false, err
	}
	return e.isValid(l.id) || v.valid[l.id], nil
}

// ask asks whether the result id is complete, with one command when snapshots
// are mounted and none otherwise.
func (e *Engine) ask(ctx context.Context, id string) (bool, error) {
	if e.mode == ListSnapshots {
		return e.isComplete(id), nil
	}
	snap := e.dataset(id).MustSnapshot(Snap)
	err := e.fs.Mount(ctx, snap)
	if zfs.IsKind(err, zfs.NotMounted) {
		// After a reboot the head may not be mounted, and then its snapshot
		// cannot be.
		if err = e.fs.Mount(ctx, e.dataset(id)); err == nil || zfs.IsKind(err, zfs.Mounted) {
			err = e.fs.Mount(ctx, snap)
		}
	}
	switch {
	case err == nil || zfs.IsKind(err, zfs.Mounted):
		e.setComplete(id, true)
		return true, nil
	case zfs.IsKind(err, zfs.NotFound):
		e.setComplete(id, false)
		return false, nil
	case zfs.IsKind(err, zfs.Unsupported):
		return false, &StoreError{Reason: "this system cannot mount snapshots", Err: err, Advice: "use --snapshots=list"}
	}
	return false, err
}

// notExist reports whether a file is missing.
func notExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }
