package fault

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"obuilder.org/obuilder/zfs"
)

// A Clock is the time that faults take, which may be virtual.
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

// ErrStuck is in the chain of every error after a command that could not be
// killed.
var ErrStuck = zfs.ErrStuck

// Armed is a plan on its way: an [Interceptor] to be given to [Wrap], once,
// which may be used concurrently. The same commands in the same order meet the
// same faults.
type Armed struct {
	plan  Plan
	clock Clock
	rules []*armedRule
	end   end

	once  sync.Once
	began time.Time // when the first command was run
}

type armedRule struct {
	Rule
	*Fault
	given int // which rule of the plan it is for

	mu          sync.Mutex
	seen, acted int
	fired       bool
}

// Arm checks the plan and gives an interceptor that has met no command yet.
// The clock is the one of [SystemClock] when it is nil.
func (p Plan) Arm(clock Clock) (*Armed, error) {
	if _, err := Parse("", []byte(p.String())); err != nil {
		return nil, fmt.Errorf("faults: %w", err)
	}
	if clock == nil {
		clock = SystemClock{}
	}
	a := &Armed{plan: Plan{p.Seed, slices.Clone(p.Rules)}, clock: clock}
	for i, r := range p.Rules {
		group := find(r.Fault).Group
		if group == nil {
			group = []string{r.Fault}
		}
		for _, name := range group {
			f := find(name)
			r.Fault = name
			a.rules = append(a.rules, &armedRule{Rule: r.with(f), Fault: f, given: i})
		}
	}
	return a, nil
}

// with gives the rule with what it leaves to its fault.
func (r Rule) with(f *Fault) Rule {
	if r.Verbs == nil {
		r.Verbs = f.verbs
	}
	if r.Datasets == nil {
		r.Datasets = f.datasets
	}
	switch {
	case r.Tries > 0:
	case r.Nth > 0:
		r.Tries = 1
	default:
		r.Tries = f.tries
	}
	if r.Duration == 0 {
		r.Duration = f.seconds
	}
	if r.GigabytesPerMinute == 0 {
		r.GigabytesPerMinute = f.perMinute
	}
	return r
}

// Unfired gives the rules that have changed nothing so far, in the order of
// the plan: a rehearsal without them has shown nothing about them.
func (a *Armed) Unfired() []Rule {
	fired := make([]bool, len(a.plan.Rules))
	for _, r := range a.rules {
		r.mu.Lock()
		fired[r.given] = fired[r.given] || r.fired
		r.mu.Unlock()
	}
	var list []Rule
	for i, r := range a.plan.Rules {
		if !fired[i] {
			list = append(list, r)
		}
	}
	return list
}

// Intercept implements [Interceptor]. Faults that have to look at or change
// what is in the pool do so only behind [Wrap].
func (a *Armed) Intercept(ctx context.Context, argv []string, run func() error) error {
	return a.intercept(ctx, nil, argv, run)
}

// bound is an Armed in its place, with what is below it.
type bound struct {
	*Armed
	fs zfs.FS
}

func (b bound) Intercept(ctx context.Context, argv []string, run func() error) error {
	return b.intercept(ctx, b.fs, argv, run)
}

func (a *Armed) intercept(ctx context.Context, fs zfs.FS, argv []string, run func() error) error {
	a.once.Do(func() { a.began = a.clock.Now() })
	x := &execution{Armed: a, ctx: ctx, fs: fs, command: parseCommand(argv), run: run}
	return a.end.guard(argv, x.next)
}

// An end is a moment from which on no command is run any more.
type end struct{ why atomic.Pointer[error] }

// guard runs a command unless the end has come; when it comes meanwhile,
// nobody learns how the command ended.
func (e *end) guard(argv []string, run func() error) error {
	if err := e.err(argv); err != nil {
		return err
	}
	err := run()
	if over := e.err(argv); over != nil {
		return over
	}
	return err
}

func (e *end) err(argv []string) error {
	if why := e.why.Load(); why != nil {
		return &zfs.Error{Kind: zfs.Unavailable, Argv: argv, Status: -1, Err: *why}
	}
	return nil
}

// come makes it the end, unless that was before.
func (e *end) come(why error) { e.why.CompareAndSwap(nil, &why) }

// An execution is a command on its way past the rules.
type execution struct {
	*Armed
	ctx     context.Context
	fs      zfs.FS // what is below the rules; nil when that is not known
	command command
	run     func() error
	at      int // rules that it has passed
	rule    *armedRule

	mounted struct{ name, path string } // what an unmount fails at
}

// next hands the command to the next rule that is for it, and runs it when
// there is none.
func (x *execution) next() error {
	defer func(r *armedRule) { x.rule = r }(x.rule)
	for x.at < len(x.rules) {
		i := x.at
		x.at++
		if x.rule = x.rules[i]; x.hit(i) {
			return x.rule.act(x)
		}
	}
	return x.run()
}

// hit reports whether the rule acts on the command, and counts it.
func (x *execution) hit(i int) bool {
	r, c := x.rule, &x.command
	if r.Verbs != nil && !slices.Contains(r.Verbs, c.verb) {
		return false
	}
	if r.Datasets != nil && !slices.ContainsFunc(c.targets, func(name string) bool {
		return slices.ContainsFunc(r.Datasets, func(p Pattern) bool { return p.Matches(name) })
	}) {
		return false
	}
	if r.exhausted() || r.applies != nil && !r.applies(x) {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.Tries > 0 && r.acted >= r.Tries { // another command was quicker
		return false
	}
	r.seen++
	if r.seen < r.Nth || r.Probability > 0 && chance(x.plan.Seed, i, r.seen) >= r.Probability {
		return false
	}
	r.acted++
	r.fired = r.fired || !r.looks
	return true
}

// exhausted reports whether the rule has acted as often as it is to.
func (r *armedRule) exhausted() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.Tries > 0 && r.acted >= r.Tries
}

// chance gives a number from 0 to 1 that follows from the seed, the rule and
// how many commands the rule was for, and from nothing else.
func chance(seed uint64, rule, seen int) float64 {
	return rand.New(rand.NewPCG(seed, uint64(rule)<<32|uint64(seen))).Float64()
}

func (x *execution) sleep(d time.Duration) error {
	if err := x.clock.Sleep(x.ctx, d); err != nil {
		return x.error(zfs.Timeout, -1, "", err)
	}
	return nil
}

func (x *execution) error(kind zfs.Kind, status int, stderr string, err error) error {
	return &zfs.Error{Kind: kind, Argv: x.command.argv, Status: status, Stderr: stderr, Err: err}
}

// fail gives the failure of a kind, with what zfs would print when stderr is "".
func (x *execution) fail(kind zfs.Kind, status int, stderr string) error {
	if kind == zfs.Timeout {
		return x.error(kind, -1, stderr, context.DeadlineExceeded)
	}
	if status == 0 {
		status = 1
		if kind == zfs.Usage {
			status = 2
		}
	}
	if stderr == "" && x.rule.fails() {
		stderr = kindText(kind, &x.command)
	}
	return x.error(kind, status, stderr, nil)
}

// kindText is what zfs prints when a command fails so.
func kindText(kind zfs.Kind, c *command) string {
	name := c.name()
	cannot := fmt.Sprintf("cannot %s '%s': ", c.verb, name)
	switch kind {
	case zfs.NotFound:
		return openText(name)
	case zfs.Exists:
		return fmt.Sprintf("cannot create '%s': dataset already exists", name)
	case zfs.Busy:
		return cannot + "dataset is busy"
	case zfs.HasChildren:
		return fmt.Sprintf("cannot destroy '%s': filesystem has children\nuse '-r' to destroy the following datasets:", name)
	case zfs.HasClones:
		return fmt.Sprintf("cannot destroy '%s': filesystem has dependent clones\nuse '-R' to destroy the following datasets:", name)
	case zfs.NoSpace:
		return cannot + "out of space"
	case zfs.NotMounted:
		return fmt.Sprintf("cannot unmount '%s': not currently mounted", name)
	case zfs.Mounted:
		return fmt.Sprintf("cannot mount '%s': filesystem already mounted", name)
	case zfs.Permission:
		return "Permission denied the ZFS utilities must be run as root."
	case zfs.Usage:
		return "invalid property 'fault'"
	case zfs.Unavailable:
		return cannot + "pool I/O is currently suspended"
	}
	return "internal error: " + cannot + "Unknown error"
}

// hang waits until the command is cancelled or killed.
func (x *execution) hang() error {
	if err := x.sleep(x.rule.Duration); err != nil {
		return err
	}
	return x.error(zfs.Timeout, -1, "", fmt.Errorf("no result within %v: %w", x.rule.Duration, context.DeadlineExceeded))
}

func (x *execution) crash() error {
	x.end.come(ErrCrashed)
	return x.end.err(x.command.argv)
}

// stuck is a command that does not even end when it is killed.
func (x *execution) stuck() error {
	_ = x.clock.Sleep(x.ctx, x.rule.Duration) // cancelled or not, it stays
	x.end.come(fmt.Errorf("%w (%s)", ErrStuck, zfs.CommandLine(x.command.argv)))
	return x.end.err(x.command.argv)
}

// list asks what is there, below the rules; nothing when that is not known.
func (x *execution) list(opts zfs.ListOptions) []zfs.Row {
	if x.fs == nil {
		return nil
	}
	rows, err := x.fs.List(x.ctx, opts)
	if err != nil {
		return nil
	}
	return rows
}

// unmounts reports whether the command would unmount something, and notes what
// would go first: the innermost.
func (x *execution) unmounts() bool {
	c := &x.command
	ds, ok := c.dataset()
	switch {
	case !ok, c.noRemount,
		(c.verb == "set" || c.verb == "inherit") && !slices.Contains(c.props, "mountpoint"):
		return false
	case x.fs == nil:
		x.mounted.name, x.mounted.path = ds.String(), "/"+ds.String()
		return true
	}
	below := c.verb == "destroy" && c.recursive || c.verb == "rename" || c.verb == "unmount"
	deepest := -1
	for _, row := range x.list(zfs.ListOptions{Roots: []zfs.Name{ds}, Recursive: below, Properties: []string{"mounted", "mountpoint"}}) {
		if depth := strings.Count(row.Name, "/"); row.Values[0] == "yes" && depth > deepest {
			deepest, x.mounted.name, x.mounted.path = depth, row.Name, row.Values[1]
		}
	}
	return deepest >= 0
}

// destroysBelow reports whether the command destroys a dataset and what is
// below it, as far as the command itself can.
func (x *execution) destroysBelow() bool {
	ds, ok := x.command.dataset()
	return ok && x.command.verb == "destroy" && x.command.recursive &&
		(x.fs == nil || len(x.list(zfs.ListOptions{Roots: []zfs.Name{ds}})) > 0)
}

func (x *execution) snapshotExists() bool {
	s, ok := x.command.snapshot()
	return ok && (x.fs == nil ||
		len(x.list(zfs.ListOptions{Roots: []zfs.Name{s}, Types: []zfs.Type{zfs.Snapshots}})) > 0)
}

// below lists what a recursive destroy of target destroys: datasets, each
// before what it is in, with their mount points, and snapshots. ok is false
// when there are clones elsewhere: then zfs refuses before it begins.
func (x *execution) below(target zfs.Dataset) (order []zfs.Dataset, paths map[string]string, snaps []zfs.Snapshot, ok bool) {
	paths = map[string]string{}
	for _, row := range slices.Backward(x.list(zfs.ListOptions{Roots: []zfs.Name{target}, Recursive: true,
		Types: []zfs.Type{zfs.Filesystems, zfs.Snapshots}, Properties: []string{"mountpoint", "clones"}})) {
		if s, err := zfs.ParseSnapshot(row.Name); err == nil {
			snaps = append(snaps, s)
			for clone := range strings.SplitSeq(row.Values[1], ",") {
				if ds, err := zfs.ParseDataset(clone); err == nil && !target.Contains(ds) {
					return nil, nil, nil, false
				}
			}
		} else if ds, err := zfs.ParseDataset(row.Name); err == nil {
			order = append(order, ds)
			paths[row.Name] = row.Values[0]
		}
	}
	return order, paths, snaps, true
}

// destroyDataset destroys a dataset and its snapshots for real.
func (x *execution) destroyDataset(ds zfs.Dataset) error {
	return x.fs.Destroy(x.ctx, ds, zfs.DestroyMode{Recursive: true, Force: true})
}

func (x *execution) interrupted() error {
	target, _ := x.command.dataset()
	order, _, _, ok := x.below(target)
	if !ok {
		return x.next()
	}
	if len(order) > 1 {
		if err := x.destroyDataset(order[0]); err != nil {
			return err
		}
	}
	return x.hang()
}

// partial destroys what is below the target but for the last dataset that has
// none below it, which is busy: zfs goes on past what it cannot destroy, and
// then cannot destroy what that is in. Snapshots go before their dataset is
// unmounted, so those of what stays go as well.
func (x *execution) partial(busy func(name, path string) string) error {
	target, _ := x.command.dataset()
	order, paths, snaps, ok := x.below(target)
	if !ok {
		return x.next()
	}
	stays := target // the one that is busy
	for _, ds := range order {
		if parent, _ := ds.Parent(); parent == stays {
			stays = ds
		}
	}
	for _, ds := range order {
		if !ds.Contains(stays) {
			if err := x.destroyDataset(ds); err != nil && !zfs.IsKind(err, zfs.NotFound) {
				return err
			}
		}
	}
	for _, s := range snaps {
		if s.Dataset().Contains(stays) {
			if err := x.fs.Destroy(x.ctx, s, zfs.DestroyMode{}); err != nil {
				return err
			}
		}
	}
	path := paths[stays.String()]
	if !strings.HasPrefix(path, "/") {
		path = "/" + stays.String()
	}
	text := []string{busy(stays.String(), path)}
	for ds := stays; ds != target; {
		ds, _ = ds.Parent()
		text = append(text, existsText(ds.String()))
	}
	return x.error(zfs.Busy, 1, strings.Join(text, "\n"), nil)
}

// mac gives what is below any interceptors, when that is a Mac.
func mac(fs zfs.FS) Mac {
	for {
		if m, ok := fs.(Mac); ok {
			return m
		}
		w, ok := fs.(*wrapped)
		if !ok {
			return nil
		}
		fs = w.fs
	}
}

// diskutil runs the command and says what could not be unmounted in the words
// of a Mac.
func (x *execution) diskutil() error {
	err := x.next()
	var failed *zfs.Error
	if !errors.As(err, &failed) || failed.Kind != zfs.Busy {
		return err
	}
	lines := strings.Split(failed.Stderr, "\n")
	for i, line := range lines {
		path, ok := strings.CutSuffix(line, "': pool or dataset is busy")
		if path, begins := strings.CutPrefix(path, "cannot unmount '"); ok && begins {
			lines[i] = macBusyText(x.mountedOn(path), path)
		}
	}
	changed := *failed
	if changed.Stderr = strings.Join(lines, "\n"); changed.Stderr != failed.Stderr {
		x.rule.mu.Lock()
		defer x.rule.mu.Unlock()
		x.rule.fired = true
	}
	return &changed
}

// mountedOn names the dataset of the command's that is mounted on a path.
func (x *execution) mountedOn(path string) string {
	name := x.command.name()
	if ds, ok := x.command.dataset(); ok {
		for _, row := range x.list(zfs.ListOptions{Roots: []zfs.Name{ds}, Recursive: true, Properties: []string{"mountpoint"}}) {
			if row.Values[0] == path {
				name = row.Name
			}
		}
	}
	return name
}

func (x *execution) unmoved() error {
	m := mac(x.fs)
	ds, ok := x.command.dataset()
	if m == nil || !ok {
		return x.fail(zfs.Busy, 1, macBusyText(x.mounted.name, x.mounted.path))
	}
	var props []zfs.Property
	for _, arg := range x.command.argv[2 : len(x.command.argv)-1] {
		name, value, _ := strings.Cut(arg, "=")
		props = append(props, zfs.Property{Name: name, Value: value})
	}
	err := m.SetUnmoved(x.ctx, ds, props...)
	if zfs.IsKind(err, zfs.Busy) {
		return x.fail(zfs.Busy, 1, macBusyText(x.mounted.name, x.mounted.path))
	}
	return err
}

// parentUnmounted unmounts the dataset of the snapshot before the command is
// run, for which that is why it fails. What cannot be unmounted is not: the
// command fails all the same.
func (x *execution) parentUnmounted() error {
	s, _ := x.command.snapshot()
	if x.fs != nil {
		if err := x.fs.Unmount(x.ctx, s.Dataset(), true); err != nil && !zfs.IsKind(err, zfs.NotMounted) && !zfs.IsKind(err, zfs.Busy) {
			return err
		}
	}
	return x.fail(zfs.NotMounted, 22, parentText(s.Dataset().String()))
}

// slowDestroy takes the time that a Mac takes to destroy.
func (x *execution) slowDestroy() error {
	datasets, used := 1, uint64(0)
	opts := zfs.ListOptions{Properties: []string{"used"}, Recursive: x.command.recursive}
	if ds, ok := x.command.dataset(); ok {
		opts.Roots = []zfs.Name{ds}
	} else if s, ok := x.command.snapshot(); ok {
		opts.Roots, opts.Types, opts.Recursive = []zfs.Name{s}, []zfs.Type{zfs.Snapshots}, false
	}
	if rows := x.list(opts); len(rows) > 0 {
		datasets = len(rows)
		_, _ = fmt.Sscan(rows[0].Values[0], &used) // that of the target counts what is below it
	}
	free := float64(used) / (x.rule.GigabytesPerMinute * 1e9) * float64(time.Minute)
	if err := x.sleep(time.Duration(datasets)*x.rule.Duration + time.Duration(free)); err != nil {
		return err
	}
	return x.next()
}

// missing is what commands say when there is no such pool.
func (x *execution) missing() error {
	c := &x.command
	name := c.name()
	text := openText(name)
	switch c.verb {
	case "create":
		text = noPoolText(name)
	case "zpool-list":
		text = fmt.Sprintf("cannot open '%s': no such pool", name)
	case "list":
		var lines []string
		for _, name := range c.targets {
			lines = append(lines, openText(name))
		}
		text = strings.Join(lines, "\n")
		if len(c.targets) == 0 {
			return nil // there is nothing to list, and that is no error
		}
	}
	return x.fail(zfs.NotFound, 1, text)
}
