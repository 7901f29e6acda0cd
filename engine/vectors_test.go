package engine_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"obuilder.org/obuilder/engine"
	"obuilder.org/obuilder/index"
	"obuilder.org/obuilder/sandbox"
	"obuilder.org/obuilder/sandbox/scripted"
	"obuilder.org/obuilder/source"
	"obuilder.org/obuilder/spec"
	"obuilder.org/obuilder/spec/vectors"
	"obuilder.org/obuilder/zfs"
)

// lenient takes every user, network and path, as the sandbox that the
// recordings were made with did, and notes what it was asked to run.
type lenient struct {
	*scripted.Sandbox
	files   zfs.Files
	creates []string // by every command but tar
	configs []sandbox.Config
}

func (l *lenient) Check(sandbox.Config) error { return nil }

func (l *lenient) Resolve(workdir, name string) (string, error) {
	if !path.IsAbs(name) {
		name = workdir + "/" + name
	}
	return path.Join(l.Home(), path.Clean("/"+name)), nil
}

func (l *lenient) Run(ctx context.Context, cfg sandbox.Config, stdin io.Reader, out io.Writer) error {
	if cfg.Argv[0] == "tar" {
		err := l.Sandbox.Run(ctx, cfg, stdin, out)
		if errors.As(err, new(*sandbox.ExitError)) {
			// The recordings' sandbox did not unpack, and so could not fail
			// where a file was to take the place of a directory.
			_, err = io.Copy(io.Discard, stdin)
		}
		return err
	}
	l.configs = append(l.configs, cfg)
	for _, name := range l.creates {
		name = path.Join(l.Home(), name)
		if err := l.files.MkdirAll(path.Dir(name), 0o755); err != nil {
			return err
		}
		f, err := l.files.OpenFile(name, os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		_, err = io.WriteString(f, "built\n")
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// basesOf names the base images of a spec.
func basesOf(s *spec.Spec) []string {
	names := []string{s.From}
	for _, b := range s.Builds {
		names = append(names, basesOf(b.Spec)...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// base gives the pool a base image with an environment. Where no dataset can
// have its name (as "ocaml/opam"), the pool has its result instead.
func (w *world) base(name string, env []spec.EnvVar) (stored bool) {
	w.t.Helper()
	dir := poolMount + "/base-image/" + name
	if _, err := root.MustChild("base-image").Child(name); err == nil {
		w.image(name)
	} else {
		id := spec.BaseID(name)
		ds := root.MustChild("result").MustChild(id)
		dir, stored = poolMount+"/result/"+id, true
		for _, c := range []zfs.Dataset{ds, ds.MustChild("home"), ds.MustChild("brew")} {
			o := zfs.CreateOptions{Parents: true}
			if c != ds {
				o.Properties = []zfs.Property{{Name: "mountpoint", Value: "none"}}
			}
			w.must(w.machine.Create(w.t.Context(), c, o))
		}
		defer func() {
			w.must(w.machine.Snapshot(w.t.Context(), true, ds.MustSnapshot("snap")))
			w.must(w.index.Add(w.t.Context(), index.Result{ID: id, Created: w.clock.Now(), Used: w.clock.Now()}))
		}()
	}
	f, err := w.machine.Files().OpenFile(dir+"/env", os.O_CREATE|os.O_WRONLY, 0o644)
	w.must(err)
	_, err = io.WriteString(f, spec.FormatEnv(env))
	w.must(errors.Join(err, f.Close()))
	return stored
}

// Every spec that ocurrent/obuilder built has the same steps, ids, results and
// headings here, and runs the same commands; what it could not build is not
// built here.
func TestVectors(t *testing.T) {
	data, err := vectors.Load()
	if err != nil {
		t.Fatal(err)
	}
	built := 0
	for _, v := range data.Vectors {
		t.Run(v.Name, func(t *testing.T) {
			s, err := spec.Parse("spec", []byte(v.Spec))
			if err != nil {
				if v.Kind == "valid" {
					t.Fatal(err)
				}
				return
			}
			if c := v.Context; c != nil && (c.User != nil || c.Workdir != nil || c.Shell != nil) {
				t.Skip("a job does not override the user, workdir or shell; package spec tests it")
			}
			buildVector(t, v, s)
			built++
		})
	}
	t.Logf("%d of %d were built as recorded", built, len(data.Vectors))
}

func buildVector(t *testing.T, v vectors.Vector, s *spec.Spec) {
	w := newWorld(t, engine.ListSnapshots)
	want := slices.Clone(v.Expected.Log)
	for _, name := range basesOf(s) {
		var env []spec.EnvVar
		for _, e := range v.Env(name) {
			env = append(env, spec.EnvVar{Name: e[0], Value: e[1]})
		}
		if w.base(name, env) {
			for i, line := range want {
				if line.Text == fmt.Sprintf("---> saved as %q", spec.BaseID(name)) {
					want[i].Text = fmt.Sprintf("---> using %q from cache", spec.BaseID(name))
				}
			}
		}
	}
	dir := t.TempDir()
	if err := vectors.WriteTree(dir, v.Tree); err != nil {
		t.Skipf("this system cannot hold the tree: %v", err)
	}
	tree, err := source.OpenDir(dir)
	w.must(err)
	defer tree.Close()
	sb := &lenient{Sandbox: w.sandbox(), files: w.machine.Files()}
	job := engine.Job{Spec: s, Source: tree, Secrets: map[string][]byte{}}
	if v.Context != nil {
		sb.creates = v.Context.RunCreates
		for _, e := range v.Context.Env {
			job.Env = append(job.Env, spec.EnvVar{Name: e[0], Value: e[1]})
		}
	}
	for _, secret := range v.Secrets {
		job.Secrets[secret.ID] = []byte(secret.Value)
	}
	var log []vectors.LogLine
	job.Events = func(ev engine.Event) {
		switch ev.Kind {
		case engine.EventHeading:
			log = append(log, vectors.LogLine{Kind: "heading", Text: ev.Text})
		case engine.EventNote:
			log = append(log, vectors.LogLine{Kind: "note", Text: ev.Text})
		case engine.EventCached:
			log = append(log, vectors.LogLine{Kind: "note", Text: fmt.Sprintf("---> using %q from cache", ev.ID)})
		case engine.EventSaved:
			log = append(log, vectors.LogLine{Kind: "note", Text: fmt.Sprintf("---> saved as %q", ev.ID)})
		}
	}
	o := w.options()
	o.Sandbox = sb
	e, err := engine.Open(t.Context(), o)
	w.must(err)
	id, err := e.Build(t.Context(), job)
	w.must(e.Close())
	if v.Kind != "valid" {
		if err == nil {
			t.Fatal("it was built")
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if id != v.Expected.Result {
		t.Errorf("result %s, want %s", id, v.Expected.Result)
	}
	if diff := cmp.Diff(want, log); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
	checkConfigs(t, v, sb.configs)
}

// checkConfigs compares the commands that were run with the recorded ones.
func checkConfigs(t *testing.T, v vectors.Vector, got []sandbox.Config) {
	t.Helper()
	var want []sandbox.Config
	for _, step := range v.Expected.Steps {
		if step.Op != "run" || step.Config == nil {
			continue
		}
		c := sandbox.Config{Workdir: step.Config.Cwd, Argv: step.Config.Argv, Hostname: step.Config.Hostname,
			User: sandbox.User{UID: step.Config.User.UID, GID: step.Config.User.GID, Name: step.Config.User.Name}, Network: step.Config.Network}
		for _, e := range step.Config.Env {
			c.Env = append(c.Env, sandbox.EnvVar{Name: e[0], Value: e[1]})
		}
		for i, m := range step.Config.Mounts {
			c.Caches = append(c.Caches, sandbox.CacheMount{Name: step.Caches[i].Name, Target: m.Dst})
		}
		for _, m := range step.Config.MountSecrets {
			c.Secrets = append(c.Secrets, sandbox.Secret{Target: m.Target, Value: []byte(m.Value)})
		}
		want = append(want, c)
	}
	ignore := cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".HostPath" }, cmp.Ignore())
	if diff := cmp.Diff(want, got, ignore, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("commands (-want +got):\n%s", diff)
	}
}
