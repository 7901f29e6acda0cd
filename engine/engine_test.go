package engine_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"obuilder.org/obuilder/engine"
	"obuilder.org/obuilder/index"
	"obuilder.org/obuilder/sandbox"
	"obuilder.org/obuilder/sandbox/scripted"
	"obuilder.org/obuilder/source"
	"obuilder.org/obuilder/spec"
	"obuilder.org/obuilder/zfs"
	"obuilder.org/obuilder/zfs/fake"
	"obuilder.org/obuilder/zfs/fault"
)

const (
	poolName  = "obuilder"
	poolMount = "/Volumes/obuilder"
)

var root = zfs.MustDataset(poolName)

// A world is a machine with a pool and base images, which outlives engines.
type world struct {
	t       testing.TB
	machine *fake.Machine
	index   index.Index
	script  scripted.Script
	mode    engine.SnapshotMode
	clock   *stepClock
	trap    *trap // of the engines that are opened; may be nil
}

// stepClock is a clock of which every reading is a second after the one before.
type stepClock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *stepClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(time.Second)
	return c.now
}

func (c *stepClock) Sleep(ctx context.Context, d time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	return ctx.Err()
}

func newWorld(t testing.TB, mode engine.SnapshotMode, images ...string) *world {
	t.Helper()
	w := &world{t: t, mode: mode, index: index.Memory(), clock: &stepClock{now: time.Unix(1_700_000_000, 0)}}
	w.machine = fake.New(fake.Pool(poolName, 1<<40, poolMount), fake.SnapshotMounts(mode == engine.MountSnapshots))
	for _, name := range images {
		w.image(name)
	}
	return w
}

// image prepares an empty base image.
func (w *world) image(name string) {
	w.t.Helper()
	ds := root.MustChild("base-image").MustChild(name)
	w.must(w.machine.Create(w.t.Context(), ds, zfs.CreateOptions{Parents: true}))
	for _, child := range []string{"home", "brew"} {
		c := ds.MustChild(child)
		w.must(w.machine.Create(w.t.Context(), c, zfs.CreateOptions{Properties: []zfs.Property{{Name: "mountpoint", Value: "none"}}}))
		w.must(w.machine.Snapshot(w.t.Context(), false, c.MustSnapshot("snap")))
	}
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) sandbox() *scripted.Sandbox {
	sb, err := scripted.New(scripted.Options{Files: w.machine.Files(), Clock: w.clock, Script: w.script})
	w.must(err)
	return sb
}

// keepOpen is an index that outlives the engines that use it.
type keepOpen struct{ index.Index }

func (keepOpen) Close() error { return nil }

func (w *world) options(interceptors ...fault.Interceptor) engine.Options {
	o := engine.Options{
		FS: fault.Wrap(w.machine, interceptors...), Files: hostFiles{w.machine.Files()}, Root: root,
		Sandbox: w.sandbox(), Snapshots: w.mode, Clock: w.clock,
		OpenIndex: func(context.Context, string) (index.Index, error) { return keepOpen{w.index}, nil },
	}
	if t := w.trap; t != nil {
		o.FS = fault.Wrap(w.machine, append(interceptors, t)...)
		o.Files, o.Sandbox = trapFiles{o.Files, t}, trapSandbox{o.Sandbox, t}
		o.OpenIndex = func(context.Context, string) (ix index.Index, err error) {
			err = t.do(onIndex, "open", func() error { return nil })
			return trapIndex{keepOpen{w.index}, t}, err
		}
	}
	return o
}

// hostFiles are files in memory that claim to be on the machine, so that an
// index which outlives the engine is used.
type hostFiles struct{ zfs.Files }

func (hostFiles) HostPath(name string) (string, bool) { return name, true }

func (w *world) open(interceptors ...fault.Interceptor) *engine.Engine {
	w.t.Helper()
	e, err := engine.Open(w.t.Context(), w.options(interceptors...))
	w.must(err)
	return e
}

// A recording is what a build told of itself.
type recording struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (r *recording) event(ev engine.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch ev.Kind {
	case engine.EventOutput:
		r.text.Write(ev.Data)
	case engine.EventCached:
		fmt.Fprintf(&r.text, "---> using %q from cache\n", ev.ID)
	case engine.EventSaved:
		fmt.Fprintf(&r.text, "---> saved as %q\n", ev.ID)
	case engine.EventHeading, engine.EventNote:
		fmt.Fprintln(&r.text, ev.Text)
	default:
		fmt.Fprintf(&r.text, "[%s] %s\n", ev.Kind, ev.Text)
	}
}

func (r *recording) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

func parse(t testing.TB, text string) *spec.Spec {
	t.Helper()
	s, err := spec.Parse("test.spec", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// datasets lists all that the pool has, each with what it is mounted on.
func (w *world) datasets() []string {
	w.t.Helper()
	rows, err := w.machine.List(context.Background(), zfs.ListOptions{Roots: []zfs.Name{root}, Recursive: true,
		Types: []zfs.Type{zfs.Filesystems, zfs.Snapshots}, Properties: []string{"mountpoint", "mounted"}})
	w.must(err)
	var names []string
	for _, row := range rows {
		line := strings.TrimPrefix(row.Name, poolName+"/")
		if row.Values[1] == "yes" {
			line += " on " + row.Values[0]
		}
		names = append(names, line)
	}
	return names
}

const (
	baseID = "9d75f0d7c398df565d7ac04c6819b62d6d8f9560f5eb4672596ecd8f7e96ae91" // busybox
)

// The commands of one job are the sequence that the design has, in both ways
// of asking whether a result is there.
func TestSequence(t *testing.T) {
	const text = `((from busybox) (run (shell "echo hi")))`
	input := spec.RunInput{Base: baseID, Workdir: "/", Cmd: "echo hi", Shell: []string{"/usr/bin/env", "bash", "-c"}}
	h, n := "obuilder/result/"+baseID, "obuilder/result/"+input.ID()
	const look = "zfs list -Hp -d 2 -t filesystem,snapshot -o name,origin,mountpoint,mounted,guid,createtxg,creation "
	for _, test := range []struct {
		name string
		mode engine.SnapshotMode
		want [][]string // of the first and second build
	}{
		{"mount", engine.MountSnapshots, [][]string{{
			"zfs create " + h,
			"zfs mount " + h + "@snap",
			"zfs clone -o mountpoint=none obuilder/base-image/busybox/home@snap " + h + "/home",
			"zfs clone -o mountpoint=none obuilder/base-image/busybox/brew@snap " + h + "/brew",
			"zfs snapshot -r " + h + "@snap",
			"zfs mount " + h + "@snap",
			"zfs mount " + n + "@snap",
			"zfs clone " + h + "@snap " + n,
			"zfs clone -o mountpoint=none " + h + "/home@snap " + n + "/home",
			"zfs clone -o mountpoint=none " + h + "/brew@snap " + n + "/brew",
			"zfs set mountpoint=/Users/mac1000 " + n + "/home",
			"zfs set mountpoint=/usr/local " + n + "/brew",
			"zfs set mountpoint=none " + n + "/home",
			"zfs set mountpoint=none " + n + "/brew",
			"zfs snapshot -r " + n + "@snap",
		}, {
			// The image may have been rebuilt since.
			look + "obuilder/base-image/busybox " + h,
			"zfs mount " + h + "@snap",
			"zfs mount " + n + "@snap",
		}}},
		{"list", engine.ListSnapshots, [][]string{{
			look + "obuilder/base-image/busybox " + h + " " + n,
			"zfs create " + h,
			"zfs clone -o mountpoint=none obuilder/base-image/busybox/home@snap " + h + "/home",
			"zfs clone -o mountpoint=none obuilder/base-image/busybox/brew@snap " + h + "/brew",
			"zfs snapshot -r " + h + "@snap",
			"zfs clone " + h + "@snap " + n,
			"zfs clone -o mountpoint=none " + h + "/home@snap " + n + "/home",
			"zfs clone -o mountpoint=none " + h + "/brew@snap " + n + "/brew",
			"zfs set mountpoint=/Users/mac1000 " + n + "/home",
			"zfs set mountpoint=/usr/local " + n + "/brew",
			"zfs set mountpoint=none " + n + "/home",
			"zfs set mountpoint=none " + n + "/brew",
			"zfs snapshot -r " + n + "@snap",
		}, {
			look + "obuilder/base-image/busybox " + h,
		}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, test.mode, "busybox")
			var transcript fault.Transcript
			e := w.open(&transcript)
			seen := len(transcript.Commands())
			for i, want := range test.want {
				r := &recording{}
				id, err := e.Build(t.Context(), engine.Job{Spec: parse(t, text), Events: r.event})
				if err != nil || id != input.ID() {
					t.Fatalf("build %d: %q, %v\n%s", i, id, err, r)
				}
				commands := transcript.Commands()[seen:]
				seen += len(commands)
				if diff := cmp.Diff(want, commands, cmpopts.EquateEmpty()); diff != "" {
					t.Errorf("commands of build %d (-want +got):\n%s", i, diff)
				}
			}
			w.must(e.Close())

			// Another process: few commands to start, and the same hits.
			var second fault.Transcript
			e = w.open(&second)
			if got := second.Commands(); len(got) > 3 {
				t.Errorf("%d commands at start: %q", len(got), got)
			}
			r := &recording{}
			if _, err := e.Build(t.Context(), engine.Job{Spec: parse(t, text), Events: r.event}); err != nil {
				t.Fatal(err)
			}
			want := "(from busybox)\n---> using \"" + baseID + "\" from cache\n/: (run (shell \"echo hi\"))\n---> using \"" +
				input.ID() + "\" from cache\n+ echo hi\n"
			if diff := cmp.Diff(want, r.String()); diff != "" {
				t.Errorf("output (-want +got):\n%s", diff)
			}
			w.must(e.Close())
		})
	}
}

// A fresh store takes three commands to open as well.
func TestFreshStore(t *testing.T) {
	w := newWorld(t, engine.ListSnapshots)
	var transcript fault.Transcript
	w.must(w.open(&transcript).Close())
	if got := transcript.Commands(); len(got) > 3 {
		t.Errorf("%d commands: %q", len(got), got)
	}
}

// A step that fails leaves nothing, and says how it failed.
func TestFailingStep(t *testing.T) {
	w := newWorld(t, engine.MountSnapshots, "busybox")
	w.script = func(ctx context.Context, cfg sandbox.Config, _ io.Reader, out io.Writer) error {
		fmt.Fprintln(out, "about to fail")
		return &sandbox.ExitError{Argv: cfg.Argv, Status: 7}
	}
	e := w.open()
	r := &recording{}
	_, err := e.Build(t.Context(), engine.Job{Spec: parse(t, `((from busybox))`)})
	w.must(err)
	before := w.datasets()
	_, err = e.Build(t.Context(), engine.Job{Spec: parse(t, `((from busybox) (run (shell false)) (run (shell never)))`), Events: r.event})
	var step *engine.StepError
	var exit *sandbox.ExitError
	if !errors.As(err, &step) || !errors.As(err, &exit) || exit.Status != 7 {
		t.Errorf("error %v", err)
	}
	if !strings.Contains(r.String(), "about to fail\n[failed] command failed with exit status 7") || strings.Contains(r.String(), "never") {
		t.Errorf("output:\n%s", r)
	}
	if diff := cmp.Diff(before, w.datasets()); diff != "" {
		t.Errorf("left behind (-before +after):\n%s", diff)
	}
	w.must(e.Close())
}

// Secrets reach the step, change its id, and never its log.
func TestSecrets(t *testing.T) {
	w := newWorld(t, engine.ListSnapshots, "busybox")
	w.script = func(ctx context.Context, cfg sandbox.Config, _ io.Reader, out io.Writer) error {
		for _, s := range cfg.Secrets {
			for _, b := range s.Value {
				if _, err := out.Write([]byte{b}); err != nil { // a byte at a time
					return err
				}
			}
		}
		_, err := fmt.Fprintf(out, "and s3 but not s3cret!\n")
		return err
	}
	e := w.open()
	r := &recording{}
	job := engine.Job{
		Spec:    parse(t, `((from busybox) (run (secrets (tok (target /run/secrets/tok))) (shell "cat")))`),
		Secrets: map[string][]byte{"tok": []byte("s3cret\n")}, Events: r.event,
	}
	id, err := e.Build(t.Context(), job)
	w.must(err)
	want := "***\nand s3 but not ***!\n"
	if !strings.Contains(r.String(), "\n"+want) {
		t.Errorf("output:\n%s", r)
	}
	var log bytes.Buffer
	w.must(e.Log(t.Context(), id, &log))
	if diff := cmp.Diff(want, log.String()); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
	job.Secrets = nil
	if _, err := e.Build(t.Context(), job); err == nil || !strings.Contains(err.Error(), "test.spec:1:") {
		t.Errorf("without the secret: %v", err)
	}
	w.must(e.Close())
}

// What cannot be built is refused before anything is changed.
func TestBadInput(t *testing.T) {
	w := newWorld(t, engine.ListSnapshots, "busybox", "macos-homebrew-ocaml-5.2")
	e := w.open()
	dir := t.TempDir()
	w.must(os.WriteFile(dir+"/a", nil, 0o644))
	tree, err := source.OpenDir(dir)
	w.must(err)
	defer tree.Close()
	before := w.datasets()
	for _, test := range []struct{ name, spec, want, hint string }{
		{"image", `((from busybix))`, `test.spec:1:`, "the store has busybox, macos-homebrew-ocaml-5.2"},
		{"nested image", `((build x ((from nope))) (from busybox))`, `base image "nope"`, "the store has"},
		{"secret", `((from busybox) (run (shell true)) (run (secrets (a (target /a))) (shell true)))`, "test.spec:1:", ""},
		{"user", `((from busybox) (run (shell true)) (user (uid 501) (gid 20)) (run (shell true)))`, "user 501 is not the build user 1000", ""},
		{"network", `((from busybox) (run (shell true)) (run (network bridge) (shell true)))`, `network "bridge"`, ""},
		{"missing source", `((from busybox) (run (shell true)) (copy (src a nope) (dst /x/)))`, `nope`, ""},
		{"dotdot source", `((from busybox) (run (shell true)) (copy (src ../a) (dst /x/)))`, `..`, ""},
		{"outside", `((from busybox) (run (shell true)) (copy (src a) (dst /../../etc/x)))`, "leads out of", ""},
		{"several sources", `((from busybox) (run (shell true)) (copy (src a a) (dst /x)))`, "test.spec:1:", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := &recording{}
			_, err := e.Build(t.Context(), engine.Job{Spec: parse(t, test.spec), Source: tree, Events: r.event})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one with %q", err, test.want)
			}
			var hinted interface{ Hint() string }
			if test.hint != "" && (!errors.As(err, &hinted) || !strings.Contains(hinted.Hint(), test.hint)) {
				t.Errorf("error %v has no hint %q", err, test.hint)
			}
			if r.String() != "" {
				t.Errorf("it began:\n%s", r)
			}
		})
	}
	if diff := cmp.Diff(before, w.datasets()); diff != "" {
		t.Errorf("changed (-before +after):\n%s", diff)
	}
	w.must(e.Close())
}

// A nested build's files are copied from its home, and the copy is found again.
func TestNestedCopy(t *testing.T) {
	w := newWorld(t, engine.MountSnapshots, "busybox")
	w.script = func(ctx context.Context, cfg sandbox.Config, _ io.Reader, out io.Writer) error {
		name, text, write := strings.Cut(cfg.Argv[len(cfg.Argv)-1], "=")
		if write {
			f, err := w.machine.Files().OpenFile("/Users/mac1000/"+name, os.O_CREATE|os.O_WRONLY, 0o644)
			if err != nil {
				return err
			}
			_, err = f.Write([]byte(text))
			return errors.Join(err, f.Close())
		}
		data, err := w.machine.Files().ReadFile("/Users/mac1000/"+name, 100)
		if err != nil {
			return &sandbox.ExitError{Status: 1}
		}
		_, err = fmt.Fprintf(out, "%s\n", data)
		return err
	}
	s := parse(t, `((build dev ((from busybox) (run (shell "made=by dev"))))
		(from busybox) (copy (from (build dev)) (src made) (dst /got/it)) (copy (from (build dev)) (src /Users/mac1000/made) (dst /other))
		(run (shell got/it)) (run (shell other)))`)
	e := w.open()
	r := &recording{}
	var planned []engine.PlannedStep
	w.must(e.Plan(t.Context(), engine.Job{Spec: s}, func(p engine.PlannedStep) { planned = append(planned, p) }))
	if n := len(planned); n != 7 || planned[3].Unknown == "" || planned[6].Unknown == "" || planned[1].Cached {
		t.Errorf("plan before the build: %+v", planned)
	}
	id, err := e.Build(t.Context(), engine.Job{Spec: s, Events: r.event})
	if err != nil {
		t.Fatalf("%v\n%s", err, r)
	}
	if got := strings.Count(r.String(), "by dev\n"); got != 2 {
		t.Errorf("the files came %d times:\n%s", got, r)
	}
	for _, line := range w.datasets() {
		if strings.Contains(line, "/home on ") || strings.Contains(line, "/brew on ") {
			t.Errorf("still mounted: %s", line)
		}
	}
	w.must(e.Close())
	e = w.open()
	planned = nil
	w.must(e.Plan(t.Context(), engine.Job{Spec: s}, func(p engine.PlannedStep) { planned = append(planned, p) }))
	for _, p := range planned {
		if !p.Cached {
			t.Errorf("not found again: %+v", p)
		}
	}
	if planned[len(planned)-1].ID != id {
		t.Errorf("plan ends in %s, the build in %s", planned[len(planned)-1].ID, id)
	}
	w.must(e.Close())
}

// The environment of a base image comes after the job's own.
func TestBaseEnvironment(t *testing.T) {
	w := newWorld(t, engine.ListSnapshots, "busybox")
	f, err := w.machine.Files().OpenFile(poolMount+"/base-image/busybox/env", os.O_CREATE|os.O_WRONLY, 0o644)
	w.must(err)
	_, err = f.Write([]byte("((env ((A base)(P q))))"))
	w.must(errors.Join(err, f.Close()))
	var envs [][]sandbox.EnvVar
	w.script = func(_ context.Context, cfg sandbox.Config, _ io.Reader, _ io.Writer) error {
		envs = append(envs, cfg.Env)
		return nil
	}
	e := w.open()
	job := engine.Job{Spec: parse(t, `((from busybox) (run (shell env)) (env A 3) (run (shell env)))`),
		Env: []spec.EnvVar{{Name: "A", Value: "ctx"}, {Name: "C", Value: "c"}}}
	id, err := e.Build(t.Context(), job)
	w.must(err)
	// From the recordings: env-context-and-base, but for its base.
	want := [][]sandbox.EnvVar{
		{{Name: "A", Value: "ctx"}, {Name: "C", Value: "c"}, {Name: "A", Value: "base"}, {Name: "P", Value: "q"}},
		{{Name: "A", Value: "3"}, {Name: "C", Value: "c"}, {Name: "A", Value: "base"}, {Name: "P", Value: "q"}},
	}
	if diff := cmp.Diff(want, envs); diff != "" {
		t.Errorf("environments (-want +got):\n%s", diff)
	}
	w.must(e.Close())
	// The result keeps the environment, whatever becomes of the image.
	w.must(w.machine.Files().Remove(poolMount + "/base-image/busybox/env"))
	e = w.open()
	again, err := e.Build(t.Context(), job)
	w.must(err)
	if again != id || len(envs) != 2 {
		t.Errorf("built %s, then %s", id, again)
	}
	w.must(e.Close())
}

// Results are listed, shown, found by the beginning of an id and deleted with
// all that was built on them.
func TestResults(t *testing.T) {
	w := newWorld(t, engine.ListSnapshots, "busybox")
	empty := func() []string {
		return slices.DeleteFunc(w.datasets(), func(s string) bool { return !strings.HasPrefix(s, "result/") })
	}
	e := w.open()
	job := func(last string) engine.Job {
		return engine.Job{Spec: parse(t, `((from busybox) (run (shell one)) (run (shell `+last+`)))`)}
	}
	a, err := e.Build(t.Context(), job("a"))
	w.must(err)
	b, err := e.Build(t.Context(), job("b"))
	w.must(err)
	results, err := e.Results(t.Context())
	w.must(err)
	if len(results) != 4 || results[0].ID != baseID || results[0].Children != 1 || results[1].Children != 2 || results[3].ID != b {
		t.Errorf("results %+v", results)
	}
	if id, err := e.Find(t.Context(), a[:8]); id != a || err != nil {
		t.Errorf("Find: %q, %v", id, err)
	}
	var missing *engine.NotFoundError
	for _, prefix := range []string{"", "abc", "0123456789", "../../x"} {
		if _, err := e.Find(t.Context(), prefix); !errors.As(err, &missing) {
			t.Errorf("Find(%q): %v", prefix, err)
		}
	}
	shown, err := e.Show(t.Context(), a)
	w.must(err)
	if shown.Parent != results[1].ID || shown.Dataset != "obuilder/result/"+a {
		t.Errorf("shown %+v", shown)
	}
	ids, err := e.Ancestors(t.Context(), a)
	w.must(err)
	if diff := cmp.Diff([]string{baseID, results[1].ID, a}, ids); diff != "" {
		t.Errorf("ancestors (-want +got):\n%s", diff)
	}
	var gone []string
	w.must(e.Delete(t.Context(), results[1].ID, func(id string) { gone = append(gone, id) }))
	if len(gone) != 3 || gone[2] != results[1].ID {
		t.Errorf("deleted %q", gone)
	}
	if left := empty(); len(left) != 6 {
		t.Errorf("left: %q", left)
	}
	if err := e.Log(t.Context(), a, io.Discard); !errors.As(err, &missing) {
		t.Errorf("log of a deleted result: %v", err)
	}
	_, err = e.Build(t.Context(), job("c"))
	w.must(err)
	w.must(e.Clean(t.Context(), func(string) {}))
	if left := empty(); len(left) != 0 {
		t.Errorf("left: %q", left)
	}
	if n, err := w.index.Count(t.Context()); n != 0 || err != nil {
		t.Errorf("%d rows in the index, %v", n, err)
	}
	w.must(e.Healthcheck(t.Context(), time.Minute, nil))
	w.must(e.Close())
}

// A pool that ocurrent/obuilder has made is used as it is: results whose heads
// are not mounted and may not be in the index, with an environment written by
// it.
func TestUpstreamPool(t *testing.T) {
	for _, mode := range []engine.SnapshotMode{engine.ListSnapshots, engine.MountSnapshots} {
		w := newWorld(t, mode, "busybox")
		ctx := t.Context()
		input := spec.RunInput{Base: baseID, Workdir: "/", Cmd: "make", Shell: []string{"/usr/bin/env", "bash", "-c"},
			Env: []spec.EnvVar{{Name: "A", Value: "b c"}}}
		h, n := root.MustChild("result").MustChild(baseID), root.MustChild("result").MustChild(input.ID())
		write := func(name, text string) {
			f, err := w.machine.Files().OpenFile(poolMount+"/result/"+name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
			w.must(err)
			_, err = io.WriteString(f, text)
			w.must(errors.Join(err, f.Close()))
		}
		none := zfs.Property{Name: "mountpoint", Value: "none"}
		noauto := zfs.Property{Name: "canmount", Value: "noauto"}
		w.must(w.machine.Create(ctx, root.MustChild("state"), zfs.CreateOptions{}))
		w.must(w.machine.Create(ctx, h, zfs.CreateOptions{Parents: true}))
		write(baseID+"/env", "((env ((A \"b c\"))))")
		write(baseID+"/log", "")
		for _, child := range []string{"home", "brew"} {
			w.must(w.machine.Clone(ctx, root.MustChild("base-image").MustChild("busybox").MustChild(child).MustSnapshot("snap"), h.MustChild(child), none))
		}
		w.must(w.machine.Snapshot(ctx, true, h.MustSnapshot("snap")))
		w.must(w.machine.Clone(ctx, h.MustSnapshot("snap"), n, noauto))
		w.must(w.machine.Mount(ctx, n))
		write(input.ID()+"/log", "made upstream\n")
		for _, child := range []string{"home", "brew"} {
			w.must(w.machine.Clone(ctx, h.MustChild(child).MustSnapshot("snap"), n.MustChild(child), none))
		}
		w.must(w.machine.Snapshot(ctx, true, n.MustSnapshot("snap")))
		w.must(w.machine.Unmount(ctx, n, true))
		w.must(w.machine.Unmount(ctx, h, true))

		e := w.open()
		r := &recording{}
		id, err := e.Build(ctx, engine.Job{Spec: parse(t, `((from busybox) (run (shell make)) (run (shell "make test")))`), Events: r.event})
		if err != nil {
			t.Fatalf("%v\n%s", err, r)
		}
		for _, want := range []string{"---> using \"" + baseID, "---> using \"" + input.ID(), "made upstream\n"} {
			if !strings.Contains(r.String(), want) {
				t.Errorf("no %q in\n%s", want, r)
			}
		}
		// What the index did not have is in it now, each with its parent.
		ids, err := e.Ancestors(ctx, id)
		w.must(err)
		if diff := cmp.Diff([]string{baseID, input.ID(), id}, ids); diff != "" {
			t.Errorf("ancestors (-want +got):\n%s", diff)
		}
		w.must(e.Close())
	}
}
