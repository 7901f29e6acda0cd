package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"obuilder.org/obuilder/index"
	"obuilder.org/obuilder/sandbox"
	"obuilder.org/obuilder/source"
	"obuilder.org/obuilder/spec"
	"obuilder.org/obuilder/spec/sexp"
	"obuilder.org/obuilder/zfs"
)

// A Job is a spec to build.
type Job struct {
	Spec *spec.Spec
	// Source is the tree that copy steps copy from; nil when there is none.
	Source source.Tree
	// Secrets are the values of the secrets that steps may ask for, by id.
	Secrets map[string][]byte
	// Env is put before the environment of the base image, newest first.
	Env []spec.EnvVar
	// Limits bound how long it may take.
	Limits Limits
	// Events is told what happens, by one goroutine at a time. May be nil.
	Events func(Event)
}

func (j *Job) emit(ev Event) {
	if j.Events != nil {
		j.Events(ev)
	}
}

// A stage is a spec with all that can be known before anything is built.
type stage struct {
	builds   []string // names of the nested builds that it is in, outermost first
	name     string
	nested   []*stage
	from     string
	pos      spec.Pos // of from
	id       string   // of the base's result
	children []string
	env      []byte // the environment of the base, as it is stored
	ops      []*operation
}

// An operation is an operation of a stage.
type operation struct {
	op      spec.Op
	heading string
	context spec.Context // before the operation
	run     *spec.RunInput
	cfg     sandbox.Config
	copy    *copyOperation
	base    string // the result that it is built on; "" while that is not known
	id      string // of its result; likewise
}

type copyOperation struct {
	dst      string           // as it is hashed
	from     *stage           // the nested build that it copies from; nil for the context
	manifest *source.Manifest // nil for a nested build, which is not built yet
	tarDst   string           // below the mount point that it is unpacked in
}

// compile checks all of a job that can be checked before anything is built:
// base images, secrets, what the sandbox can do, and every source of a copy.
// The results to avoid are as if they were not there.
func (e *Engine) compile(ctx context.Context, j *Job, avoid map[string]bool) (*stage, error) {
	if err := j.Spec.Validate(); err != nil {
		return nil, err
	}
	return e.compileStage(ctx, j, j.Spec, nil, map[string]*stage{}, avoid)
}

// identify finds the ids of a stage's results that can be known before
// anything is built: those up to a copy from a nested build.
func (st *stage) identify() {
	last := st.id
	for _, o := range st.ops {
		if o.run == nil && o.copy == nil {
			continue
		}
		o.base = last
		switch {
		case last == "":
		case o.run != nil:
			o.id = o.runInput(last).ID()
		case o.copy.manifest != nil:
			o.id = o.copyInput(last, o.copy.manifest).ID()
		}
		last = o.id
	}
}

// ids adds the ids that are known of a stage and of those nested in it.
func (st *stage) ids(to []string) []string {
	for _, nested := range st.nested {
		to = nested.ids(to)
	}
	to = append(to, st.id)
	for _, o := range st.ops {
		if o.id != "" {
			to = append(to, o.id)
		}
	}
	return to
}

func (e *Engine) compileStage(ctx context.Context, j *Job, s *spec.Spec, builds []string, scope map[string]*stage, avoid map[string]bool) (*stage, error) {
	st := &stage{builds: builds, from: s.From, pos: s.FromPos, id: spec.BaseID(s.From)}
	for _, b := range s.Builds {
		nested, err := e.compileStage(ctx, j, b.Spec, append(slices.Clip(builds), b.Name), scope, avoid)
		if err != nil {
			return nil, err
		}
		nested.name = b.Name
		st.nested = append(st.nested, nested)
		scope = maps.Clone(scope)
		scope[b.Name] = nested
	}
	base, err := e.baseEnv(ctx, st, avoid)
	if err != nil {
		return nil, located(s.FromPos, err)
	}
	c := spec.NewContext()
	c.Env, c.Secrets = j.Env, j.Secrets
	c = c.WithBase(base)
	for _, op := range s.Ops {
		o := &operation{op: op, heading: spec.Heading(c.Workdir, op), context: c}
		switch op := op.(type) {
		case spec.Run:
			err = e.compileRun(o, &op)
		case spec.Copy:
			err = e.compileCopy(ctx, j, o, &op, scope)
		}
		if err != nil {
			return nil, located(op.Position(), err)
		}
		st.ops = append(st.ops, o)
		c = c.Apply(op)
	}
	st.identify()
	return st, nil
}

// A LocatedError is an error of a spec that something else than its reader
// has found: Pos is where.
type LocatedError struct {
	Pos spec.Pos
	Err error
}

func (e *LocatedError) Error() string {
	if e.Pos.Line == 0 {
		return e.Err.Error()
	}
	return fmt.Sprintf("%s: %v", e.Pos, e.Err)
}

// Unwrap gives Err.
func (e *LocatedError) Unwrap() error { return e.Err }

func located(pos spec.Pos, err error) error {
	var known *spec.Error
	var store *StoreError
	var command *zfs.Error
	if errors.As(err, &known) || errors.As(err, &store) || errors.As(err, &command) ||
		errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return &LocatedError{pos, err}
}

// maxEnv bounds what is read of a file that holds an environment, in bytes.
const maxEnv = 1 << 20

// baseEnv finds the base of a stage and the environment that it begins with:
// that of its result, or of the base image when there is no result to be used.
func (e *Engine) baseEnv(ctx context.Context, st *stage, avoid map[string]bool) ([]spec.EnvVar, error) {
	if e.knowsNoImage(st.from) {
		// It may have been made since.
		if err := e.listImages(ctx); err != nil && !zfs.IsKind(err, zfs.NotFound) {
			return nil, err
		}
		if e.knowsNoImage(st.from) && !e.isValid(st.id) {
			if _, err := e.verify(ctx, []link{{id: st.id, image: st.from}}); err != nil {
				return nil, err
			}
		}
	}
	file := ""
	if e.isValid(st.id) && !avoid[st.id] {
		if err := e.ensureMounted(ctx, st.id); err != nil {
			return nil, err
		}
		file = e.headPath(st.id) + "/env"
	} else {
		im, err := e.image(st.from)
		if err != nil {
			return nil, err
		}
		if strings.HasPrefix(im.mountpoint, "/") {
			if !im.mounted.Load() {
				if err := e.fs.Mount(ctx, e.base.MustChild(st.from)); err != nil && !zfs.IsKind(err, zfs.Mounted) {
					return nil, err
				}
				im.mounted.Store(true)
			}
			file = im.mountpoint + "/env"
		}
	}
	st.children = e.childrenOf(st.from, st.id)
	st.env = []byte(spec.FormatEnv(nil))
	if file == "" {
		return nil, nil
	}
	data, err := e.files.ReadFile(file, maxEnv)
	if notExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, &StoreError{Reason: "cannot read the environment of base image " + st.from, Err: err}
	}
	env, err := spec.ParseEnv(data)
	if err != nil {
		return nil, &StoreError{Reason: "the environment of base image " + st.from + " (" + file + ") is not valid", Err: err}
	}
	st.env = data
	return env, nil
}

// ensureMounted mounts the head of a result when it is not, as after a reboot
// or when ocurrent/obuilder made it: an environment that seems empty would
// make other ids. Every result has a log.
func (e *Engine) ensureMounted(ctx context.Context, id string) error {
	if _, err := e.files.Lstat(e.headPath(id) + "/log"); !notExist(err) {
		return err
	}
	if err := e.fs.Mount(ctx, e.dataset(id)); err != nil && !zfs.IsKind(err, zfs.Mounted) {
		return err
	}
	return nil
}

func (e *Engine) compileRun(o *operation, op *spec.Run) error {
	input, err := o.context.RunInput("", op)
	if err != nil {
		return err
	}
	o.run = &input
	o.cfg = sandbox.Config{
		Workdir:  input.Workdir,
		Argv:     append(slices.Clone(input.Shell), input.Cmd),
		Hostname: "builder",
		User:     sandbox.User(input.User),
		Network:  input.Network,
	}
	for _, v := range input.Env {
		o.cfg.Env = append(o.cfg.Env, sandbox.EnvVar(v))
	}
	for _, c := range op.Caches {
		if _, err := e.cacheDataset(c.ID); err != nil {
			return err
		}
		o.cfg.Caches = append(o.cfg.Caches, sandbox.CacheMount{Name: c.ID, Target: c.Target})
	}
	for _, s := range input.Secrets {
		o.cfg.Secrets = append(o.cfg.Secrets, sandbox.Secret{Target: s.Target, Value: s.Value})
	}
	return e.sandbox.Check(o.cfg)
}

func (e *Engine) compileCopy(ctx context.Context, j *Job, o *operation, op *spec.Copy, scope map[string]*stage) error {
	dst := o.context.CopyDst(op.Dst)
	if err := spec.CheckCopy(op, dst); err != nil {
		return err
	}
	c := &copyOperation{dst: dst}
	o.copy = c
	var err error
	if o.cfg, c.tarDst, err = e.copyConfig(o.context.Workdir, dst); err != nil {
		return err
	}
	if op.FromBuild {
		c.from = scope[op.From]
		return nil
	}
	if j.Source == nil {
		return &source.Error{Path: op.Src[0], Reason: "there is no source directory to copy from",
			Hint: "give the directory after the options"}
	}
	c.manifest, err = source.Scan(ctx, j.Source, op.Src, source.Options{Exclude: op.Exclude})
	return err
}

// copyConfig is the command that unpacks the tar stream of a copy: in the
// mount point that the destination is below, with names relative to it.
func (e *Engine) copyConfig(workdir, dst string) (sandbox.Config, string, error) {
	resolved, err := e.sandbox.Resolve(workdir, dst)
	if err != nil {
		return sandbox.Config{}, "", err
	}
	root := "/"
	for _, m := range e.sandbox.Mounts() {
		if (resolved == m.Path || strings.HasPrefix(resolved, m.Path+"/")) && len(m.Path) > len(root) {
			root = m.Path
		}
	}
	rel := "/" + strings.TrimPrefix(strings.TrimPrefix(resolved, root), "/")
	if strings.HasSuffix(dst, "/") && !strings.HasSuffix(rel, "/") {
		rel += "/"
	}
	return sandbox.Config{
		Workdir:  root,
		Argv:     []string{"tar", "-xf", "-"},
		Hostname: "builder",
		Env:      []sandbox.EnvVar{{Name: "PATH", Value: "/bin:/usr/bin"}},
	}, rel, nil
}

// A begunJob is compiled and holds all results that it is known to need, there
// or not, of which it knows which may be used.
type begunJob struct {
	*stage
	held *share
	*verdict
}

// looks bounds how often a job is begun anew because its base images change.
const looks = 5

// begin begins a job. When a base image is not what it was, it begins anew; the
// result of an image that was rebuilt is avoided, or, if replace says so, taken
// away for the new one.
func (e *Engine) begin(ctx context.Context, j *Job, replace bool) (*begunJob, error) {
	replaced, avoid := map[string]string{}, map[string]bool{}
	for range looks {
		b, err := e.tryBegin(ctx, j, avoid, !replace)
		if err != nil {
			return nil, err
		}
		var bases []link
		for _, l := range b.links(nil) {
			if l.base == "" && b.stale[l.id] != "" && !avoid[l.id] && !b.changed {
				bases = append(bases, l)
			}
		}
		if !b.changed && len(bases) == 0 {
			maps.Copy(b.stale, replaced)
			return b, nil
		}
		b.held.release()
		for _, l := range bases {
			if !replace {
				avoid[l.id] = true
				continue
			}
			why, err := e.replaceBase(ctx, l, func(text string) {
				j.emit(Event{Kind: EventWaiting, Op: "from", ID: l.id, Text: text})
			})
			if err != nil {
				return nil, err
			}
			if why != "" {
				replaced[l.id] = why
			}
		}
	}
	return nil, &StoreError{Reason: "the base images change all the time", Advice: "build again when they are ready"}
}

func (e *Engine) tryBegin(ctx context.Context, j *Job, avoid map[string]bool, look bool) (*begunJob, error) {
	held, err := e.use.share(ctx, baseIDs(j.Spec, nil)...)
	if err != nil {
		return nil, err
	}
	b := &begunJob{held: held, verdict: newVerdict()}
	if b.stage, err = e.compile(ctx, j, avoid); err == nil {
		err = held.add(ctx, b.ids(nil)...)
	}
	if err == nil && (e.mustLook(b.stage) || look) {
		b.verdict, err = e.verify(ctx, b.links(nil))
	}
	if err != nil {
		held.release()
		return nil, err
	}
	return b, nil
}

// recently is how long ago images may have been listed, when the store was
// opened, for the first job not to look again.
const recently = 10 * time.Second

// mustLook reports whether a job has to look at the store before it begins.
// Where snapshots are mounted, each step asks for its own, and what comes from
// before a base that is built now is found by that.
func (e *Engine) mustLook(st *stage) bool {
	seen := time.Unix(0, e.imagesSeen.Swap(0))
	if e.mode == ListSnapshots || e.clock.Now().Sub(seen) > recently {
		return true
	}
	return slices.ContainsFunc(st.links(nil), func(l link) bool { return l.base == "" && e.isComplete(l.id) })
}

// baseIDs adds the ids of the bases of a spec and of the builds in it.
func baseIDs(s *spec.Spec, to []string) []string {
	for _, b := range s.Builds {
		to = baseIDs(b.Spec, to)
	}
	return append(to, spec.BaseID(s.From))
}

// Build builds a spec and gives the id of its result. An error of the job
// itself comes before anything is changed; a *StepError is a step that failed.
// When ctx ends, what it was doing is undone and ctx's cause returned.
func (e *Engine) Build(ctx context.Context, j Job) (id string, err error) {
	if j.Limits.Job > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, j.Limits.Job, &TimeoutError{What: "job", Limit: j.Limits.Job})
		defer cancel()
	}
	defer func() {
		// A command that ended with ctx does not know why that did.
		if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(err, cause) {
			err = fmt.Errorf("%w: %w", cause, err)
		}
	}()
	defer func() { e.noteHealth(err, "") }()
	if err := j.Limits.Check(); err != nil {
		return "", err
	}
	if err := e.Health(); err != nil {
		return "", err
	}
	begun, err := e.begin(ctx, &j, true)
	if err != nil {
		return "", err
	}
	defer e.sweepAfter(ctx)
	defer begun.held.release()
	b := &build{engine: e, job: &j, held: begun.held, stale: begun.stale, results: map[*stage]string{}, used: map[string][]string{}}
	id, err = b.stage(ctx, begun.stage)
	if len(b.used) > 0 {
		cctx, cancel := cleanup(ctx)
		defer cancel()
		if usedErr := b.noteUsed(cctx); usedErr != nil && err == nil {
			err = &StoreError{Reason: "cannot write the index", Err: usedErr}
		}
	}
	return id, err
}

// A build is one Build on its way.
type build struct {
	engine  *Engine
	job     *Job
	held    *share            // all results that it is known to need
	stale   map[string]string // why results that are there are not used
	results map[*stage]string
	used    map[string][]string // cached results that it used, with what each is built on, the base first
}

// noteUsed notes in the index that cached results were used. Those that it does
// not have are added: another implementation, or a crash, may have left them in
// the store only.
func (b *build) noteUsed(ctx context.Context) error {
	ix := b.engine.index
	used := slices.Sorted(maps.Keys(b.used))
	for _, id := range used {
		_, err := ix.Get(ctx, id)
		if errors.Is(err, index.ErrNotFound) {
			err = b.engine.addToIndex(ctx, b.used[id], id)
		}
		if err != nil {
			return err
		}
	}
	return ix.SetUsed(ctx, b.engine.clock.Now(), used...)
}

func (b *build) stage(ctx context.Context, st *stage) (string, error) {
	for _, nested := range st.nested {
		b.job.emit(Event{Kind: EventHeading, Build: st.builds, Op: "build", Text: spec.BuildHeading(nested.name)})
		id, err := b.stage(ctx, nested)
		if err != nil {
			return "", err
		}
		b.results[nested] = id
		b.job.emit(Event{Kind: EventNote, Build: st.builds, Op: "build", ID: id, Text: "--> finished " + sexp.Quote(nested.name)})
	}
	id, err := b.base(ctx, st)
	if err != nil {
		return "", err
	}
	lineage := []string{id}
	for _, o := range st.ops {
		switch {
		case o.run != nil:
			id, err = b.run(ctx, st, o, lineage)
		case o.copy != nil:
			id, err = b.copy(ctx, st, o, lineage)
		default:
			b.job.emit(Event{Kind: EventHeading, Build: st.builds, Op: opName(o.op), Text: o.heading})
			continue
		}
		if err != nil {
			return "", err
		}
		lineage = append(lineage, id)
	}
	return id, nil
}

// opName names an operation as the spec does.
func opName(op spec.Op) string {
	switch op.(type) {
	case spec.Comment:
		return "comment"
	case spec.Workdir:
		return "workdir"
	case spec.Shell:
		return "shell"
	case spec.Run:
		return "run"
	case spec.Copy:
		return "copy"
	case spec.SetUser:
		return "user"
	case spec.Env:
		return "env"
	}
	return ""
}

func (b *build) base(ctx context.Context, st *stage) (string, error) {
	ev := Event{Build: st.builds, Op: "from", ID: st.id}
	return b.step(ctx, st.pos, ev, spec.FromHeading(st.from), nil, lead{do: func(ctx context.Context, f *flight) error {
		return b.engine.makeBase(ctx, f, st)
	}})
}

func (b *build) run(ctx context.Context, st *stage, o *operation, lineage []string) (string, error) {
	base := lineage[len(lineage)-1]
	id := o.id
	if id == "" {
		id = o.runInput(base).ID()
		if err := b.need(ctx, link{id: id, base: base, children: st.children}); err != nil {
			return "", err
		}
	}
	ev := Event{Build: st.builds, Op: "run", ID: id, Base: base}
	return b.step(ctx, o.op.Position(), ev, o.heading, lineage, lead{do: func(ctx context.Context, f *flight) error {
		return b.engine.makeStep(ctx, f, lineage, st.children, command{cfg: o.cfg, limit: b.job.Limits})
	}})
}

func (b *build) copy(ctx context.Context, st *stage, o *operation, lineage []string) (result string, err error) {
	base := lineage[len(lineage)-1]
	manifest, id := o.copy.manifest, o.id
	if nested := o.copy.from; nested != nil {
		tree, release, openErr := b.engine.openHome(ctx, b.results[nested], nested.children)
		if openErr != nil {
			return "", openErr
		}
		defer func() { err = errors.Join(err, release()) }()
		if manifest, err = b.engine.nestedManifest(ctx, tree, o.op.(spec.Copy)); err != nil {
			return "", located(o.op.Position(), err)
		}
	}
	if id == "" {
		id = o.copyInput(base, manifest).ID()
		if err := b.need(ctx, link{id: id, base: base, children: st.children}); err != nil {
			return "", err
		}
	}
	ev := Event{Build: st.builds, Op: "copy", ID: id, Base: base}
	c := command{cfg: o.cfg, limit: b.job.Limits, stdin: func(ctx context.Context, w io.Writer) error {
		return manifest.WriteTar(ctx, w, source.TarOptions{Dst: o.copy.tarDst, User: source.User(o.context.User)})
	}}
	return b.step(ctx, o.op.Position(), ev, o.heading, lineage, lead{own: true, do: func(ctx context.Context, f *flight) error {
		return b.engine.makeStep(ctx, f, lineage, st.children, c)
	}})
}

// need holds a result whose id was not known when the job began, and asks
// whether it is there, where that is not asked of each result as it is needed.
func (b *build) need(ctx context.Context, l link) error {
	if err := b.held.add(ctx, l.id); err != nil || b.engine.mode != ListSnapshots {
		return err
	}
	v, err := b.engine.verify(ctx, []link{l})
	if err == nil {
		maps.Copy(b.stale, v.stale)
	}
	return err
}

func (o *operation) runInput(base string) spec.RunInput {
	input := *o.run
	input.Base = base
	return input
}

func (o *operation) copyInput(base string, m *source.Manifest) spec.CopyInput {
	return spec.CopyInput{Base: base, User: o.context.User, Items: m.Items, Dst: o.copy.dst}
}

// nestedManifest is the manifest of a copy from a nested build: of its home,
// which the paths of the spec are below as for every step.
func (e *Engine) nestedManifest(ctx context.Context, tree source.Tree, op spec.Copy) (*source.Manifest, error) {
	srcs := slices.Clone(op.Src)
	for i, src := range srcs {
		for _, m := range e.sandbox.Mounts() {
			if rest, ok := strings.CutPrefix(path.Clean(src), m.Path+"/"); ok && m.Child == "home" {
				srcs[i] = rest
			}
		}
	}
	return source.Scan(ctx, tree, srcs, source.Options{Exclude: op.Exclude})
}

// step gets one result, which is built on the last of lineage, from the store
// or by having l make it.
func (b *build) step(ctx context.Context, pos spec.Pos, ev Event, heading string, lineage []string, l lead) (string, error) {
	e := b.engine
	say := func(kind EventKind, text string) {
		ev := ev
		ev.Kind, ev.Text = kind, text
		b.job.emit(ev)
	}
	say(EventHeading, heading)
	if why := b.stale[ev.ID]; why != "" && !e.isValid(ev.ID) {
		say(EventStale, "the stored result is stale: "+why)
	}
	output := func(p []byte) {
		ev := ev
		ev.Kind, ev.Data = EventOutput, p
		b.job.emit(ev)
	}
	if e.mode == ListSnapshots && e.isValid(ev.ID) {
		b.used[ev.ID] = lineage
		say(EventCached, "")
		return ev.ID, e.replay(ctx, ev.ID, output)
	}
	announced := false
	f, err := e.share(ctx, ev.ID, watcher{
		waiting: func(text string) { say(EventWaiting, text) },
		// A result that turns out to be there already is announced before its log.
		opened: func(cached bool) {
			if announced = cached; cached {
				say(EventCached, "")
			}
		},
		output: output,
	}, l)
	if err != nil {
		if ctx.Err() != nil {
			text := "cancelled"
			if late := (*TimeoutError)(nil); errors.As(context.Cause(ctx), &late) {
				text = late.Error()
			}
			if f != nil && f.left != nil {
				text += ", but " + f.left.Error()
			}
			say(EventFailed, text)
			return "", err
		}
		say(EventFailed, err.Error())
		return "", &StepError{Pos: pos, ID: ev.ID, Heading: heading, Err: err}
	}
	ev.Took = f.took
	if f.cached {
		b.used[ev.ID] = lineage
		if !announced {
			say(EventCached, "")
		}
	} else {
		say(EventSaved, "")
	}
	return ev.ID, nil
}

// replay passes on the log of a complete result.
func (e *Engine) replay(ctx context.Context, id string, output func([]byte)) error {
	file, size, err := e.savedLog(ctx, id)
	if err != nil || file == nil {
		return err
	}
	l := newStepLog()
	l.join()
	l.open(file, size)
	l.finish()
	return l.tail(ctx, func() {}, output)
}
