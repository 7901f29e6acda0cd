package spec_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"obuilder.org/obuilder/source"
	"obuilder.org/obuilder/spec"
	"obuilder.org/obuilder/spec/sexp"
	"obuilder.org/obuilder/spec/vectors"
)

func loadVectors(tb testing.TB) *vectors.Data {
	tb.Helper()
	d, err := vectors.Load()
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

// TestValidVectors checks everything that this package decides about the specs
// that ocurrent/obuilder builds.
func TestValidVectors(t *testing.T) {
	steps := 0
	for _, v := range loadVectors(t).Vectors {
		if !v.Valid() {
			continue
		}
		t.Run(v.Name, func(t *testing.T) {
			s := parse(t, v.Spec)
			checkForms(t, &v, s)
			w := newWalk(t, &v)
			result := w.spec(s, w.start, nil, nil)
			if result != v.Expected.Result {
				t.Errorf("result %s, want %s", result, v.Expected.Result)
			}
			if diff := cmp.Diff(v.Expected.Log, w.log); diff != "" {
				t.Errorf("log (-want +got):\n%s", diff)
			}
			if w.next != len(v.Expected.Steps) {
				t.Errorf("%d steps, want %d", w.next, len(v.Expected.Steps))
			}
			steps += w.next
		})
	}
	if steps < 500 {
		t.Errorf("only %d steps were checked", steps)
	}
}

func parse(tb testing.TB, src string) *spec.Spec {
	tb.Helper()
	s, err := spec.Parse("spec", []byte(src))
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func checkForms(t *testing.T, v *vectors.Vector, s *spec.Spec) {
	t.Helper()
	n, err := sexp.Parse("spec", []byte(v.Spec))
	if err != nil {
		t.Fatal(err)
	}
	for what, form := range map[string][2]string{
		"source as an S-expression": {v.Expected.InputSexp, n.String()},
		"spec as an S-expression":   {v.Expected.SpecSexp, s.Sexp().String()},
		"pretty-printed":            {v.Expected.PP, s.Pretty()},
	} {
		if diff := cmp.Diff(form[0], form[1]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	for what, d := range map[string]struct {
		want vectors.Dockerfile
		opts spec.DockerOptions
	}{
		"unix":             {v.Expected.Dockerfile.Unix, spec.DockerOptions{}},
		"unix BuildKit":    {v.Expected.Dockerfile.UnixBuildKit, spec.DockerOptions{BuildKit: true}},
		"windows":          {v.Expected.Dockerfile.Windows, spec.DockerOptions{Windows: true}},
		"windows BuildKit": {v.Expected.Dockerfile.WindowsBuildKit, spec.DockerOptions{BuildKit: true, Windows: true}},
	} {
		got, err := s.Dockerfile(d.opts)
		if d.want.Error != nil {
			e, ok := errors.AsType[*spec.Error](err)
			if !ok || !e.Pos.IsValid() || e.Hint == "" {
				t.Errorf("%s Dockerfile: got %v, want an error with a place and a hint", what, err)
			}
			continue
		}
		if diff := cmp.Diff(d.want.Text, got); diff != "" || err != nil {
			t.Errorf("%s Dockerfile: %v (-want +got):\n%s", what, err, diff)
		}
	}
	if text := s.Pretty(); s.Sexp().String() != parse(t, text).Sexp().String() {
		t.Errorf("the pretty-printed spec is another spec:\n%s", text)
	}
}

// A walk does what an engine does with a spec, but for the work.
type walk struct {
	t     *testing.T
	v     *vectors.Vector
	start spec.Context
	next  int // index of the next step
	done  map[string]bool
	log   []vectors.LogLine
}

func newWalk(t *testing.T, v *vectors.Vector) *walk {
	w := &walk{t: t, v: v, start: spec.NewContext(), done: map[string]bool{}}
	w.start.Secrets = map[string][]byte{}
	for _, s := range v.Secrets {
		w.start.Secrets[s.ID] = []byte(s.Value)
	}
	if c := v.Context; c != nil {
		w.start.Env = envOf(c.Env)
		if c.User != nil {
			w.start.User = spec.User(*c.User)
		}
		if c.Workdir != nil {
			w.start.Workdir = *c.Workdir
		}
		if c.Shell != nil {
			w.start.Shell = c.Shell
		}
	}
	return w
}

func envOf(pairs [][2]string) (env []spec.EnvVar) {
	for _, p := range pairs {
		env = append(env, spec.EnvVar{Name: p[0], Value: p[1]})
	}
	return env
}

func (w *walk) heading(s string) {
	w.log = append(w.log, vectors.LogLine{Kind: "heading", Text: s})
}

func (w *walk) note(s string) {
	w.log = append(w.log, vectors.LogLine{Kind: "note", Text: s})
}

// spec walks s and returns the id of its last step.
func (w *walk) spec(s *spec.Spec, ctx spec.Context, in []string, scope []string) string {
	for _, b := range s.Builds {
		w.heading(spec.BuildHeading(b.Name))
		w.spec(b.Spec, ctx, append(slices.Clip(in), b.Name), scope)
		w.note("--> finished " + sexp.Quote(b.Name))
	}
	h := spec.FromHeading(s.From)
	w.heading(h)
	base := w.step("from", h, in, s.From, spec.BaseID(s.From), nil)
	stored, err := spec.ParseEnv([]byte(spec.FormatEnv(envOf(w.v.Env(s.From)))))
	if err != nil {
		w.t.Fatal(err)
	}
	ctx = ctx.WithBase(stored)
	for _, op := range s.Ops {
		h := spec.Heading(ctx.Workdir, op)
		w.heading(h)
		switch op := op.(type) {
		case spec.Run:
			input, err := ctx.RunInput(base, &op)
			if err != nil {
				w.t.Fatal(err)
			}
			base = w.step("run", h, in, input.Sexp(), input.ID(), func(e vectors.Step) { w.checkRun(e, &op, input) })
		case spec.Copy:
			dst := ctx.CopyDst(op.Dst)
			if err := spec.CheckCopy(&op, dst); err != nil {
				w.t.Fatal(err)
			}
			input := spec.CopyInput{Base: base, User: ctx.User, Items: w.items(&op), Dst: dst}
			base = w.step("copy", h, in, input.Sexp(), input.ID(), nil)
		default:
			ctx = ctx.Apply(op)
		}
	}
	return base
}

func (w *walk) step(op, heading string, in []string, input, id string, check func(vectors.Step)) string {
	w.t.Helper()
	if w.next == len(w.v.Expected.Steps) {
		w.t.Fatalf("unexpected step %s", heading)
	}
	want := w.v.Expected.Steps[w.next]
	w.next++
	if in == nil {
		in = []string{}
	}
	got := vectors.Step{Op: op, Heading: heading, InBuild: in, Sexp: input, ID: id, Result: "saved"}
	if w.done[id] {
		got.Result = "cached"
		w.note("---> using " + sexp.Quote(id) + " from cache")
	} else {
		w.note("---> saved as " + sexp.Quote(id))
	}
	w.done[id] = true
	if check != nil && want.Config != nil {
		check(want)
	}
	want.Base, want.Config, want.Tar, want.Caches = "", nil, nil, nil
	if diff := cmp.Diff(want, got); diff != "" {
		w.t.Fatalf("step %d (-want +got):\n%s", w.next, diff)
	}
	return id
}

// checkRun compares what a sandbox would be asked for.
func (w *walk) checkRun(want vectors.Step, op *spec.Run, in spec.RunInput) {
	c := vectors.Config{
		Cwd:          in.Workdir,
		Argv:         append(slices.Clip(in.Shell), in.Cmd),
		Hostname:     "builder",
		User:         vectors.User(in.User),
		Env:          [][2]string{},
		Network:      append([]string{}, in.Network...),
		Mounts:       []vectors.Mount{},
		MountSecrets: []vectors.MountSecret{},
	}
	for _, e := range in.Env {
		c.Env = append(c.Env, [2]string{e.Name, e.Value})
	}
	var caches []vectors.CacheName
	for _, m := range op.Caches {
		name := spec.EscapeCache(m.ID)
		caches = append(caches, vectors.CacheName{Name: m.ID, Escaped: name})
		c.Mounts = append(c.Mounts, vectors.Mount{Src: name, Dst: m.Target})
	}
	for _, s := range in.Secrets {
		c.MountSecrets = append(c.MountSecrets, vectors.MountSecret{Value: string(s.Value), Target: s.Target})
	}
	if diff := cmp.Diff(want.Config, &c); diff != "" {
		w.t.Errorf("config (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want.Caches, caches); diff != "" {
		w.t.Errorf("caches (-want +got):\n%s", diff)
	}
}

// items returns the manifest of a copy: made from the tree or, where that is
// the result of a build, read from what is expected.
func (w *walk) items(op *spec.Copy) (items []source.Item) {
	if !op.FromBuild {
		for _, src := range op.Src {
			items = append(items, treeItem(w.t, w.v.Tree, src, op.Exclude))
		}
		return items
	}
	n, err := sexp.Parse("step", []byte(w.v.Expected.Steps[w.next].Sexp))
	if err != nil {
		w.t.Fatal(err)
	}
	what := n.List[2].List[1]
	list := what.List[1].List[:1]
	if what.Head() == "Copy_items" {
		list = what.List[1].List[0].List
	}
	for _, n := range list {
		items = append(items, sexpItem(n))
	}
	return items
}

func sexpItem(n sexp.Node) source.Item {
	args := n.List[1].List
	it := source.Item{Path: args[0].Atom}
	switch n.Head() {
	case "File":
		it.Kind, it.Hash = source.File, args[1].Atom
	case "Symlink":
		it.Kind, it.Target = source.Symlink, args[1].Atom
	case "Dir":
		it.Kind = source.Dir
		for _, c := range args[1].List {
			it.Children = append(it.Children, sexpItem(c))
		}
	}
	return it
}

// treeItem makes the manifest of one path of a recorded tree.
func treeItem(t *testing.T, tree []vectors.Entry, path string, exclude []string) source.Item {
	path = strings.Join(slices.DeleteFunc(strings.Split(path, "/"), func(s string) bool { return s == "" || s == "." }), "/")
	it := source.Item{Kind: source.Dir, Path: path}
	below := path + "/"
	if path == "" {
		below = ""
	}
	var names []string
	found := path == ""
	for _, e := range tree {
		if e.Path == path {
			found = true
			switch e.Type {
			case "file":
				sum := sha256.Sum256([]byte(e.Content))
				return source.Item{Kind: source.File, Path: path, Hash: hex.EncodeToString(sum[:])}
			case "symlink":
				return source.Item{Kind: source.Symlink, Path: path, Target: e.Target}
			}
		}
		if rest, ok := strings.CutPrefix(e.Path, below); ok {
			found = true
			name, _, _ := strings.Cut(rest, "/")
			if name != "" && !slices.Contains(exclude, name) {
				names = append(names, name)
			}
		}
	}
	if !found {
		t.Fatalf("%q is not in the tree", path)
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		it.Children = append(it.Children, treeItem(t, tree, below+name, exclude))
	}
	return it
}

// TestInvalidVectors checks that what ocurrent/obuilder rejects is rejected
// here, with a better text, as far as that is decided by this package.
func TestInvalidVectors(t *testing.T) {
	bySource := 0
	for _, v := range loadVectors(t).Vectors {
		if v.Valid() {
			continue
		}
		t.Run(v.Name, func(t *testing.T) {
			s, err := spec.Parse("bad.spec", []byte(v.Spec))
			if v.Expected.Error.Phase != "build" {
				checkError(t, err)
				return
			}
			if err != nil {
				t.Fatalf("ocurrent/obuilder reads it, and Parse says: %v", err)
			}
			if got := s.Pretty(); got != v.Expected.PP {
				t.Errorf("pretty-printed: got\n%s\nwant\n%s", got, v.Expected.PP)
			}
			if err := check(s); err != nil {
				checkError(t, err)
				return
			}
			// What depends on the source directory is the package source's to find.
			message := v.Expected.Error.Message
			if !strings.Contains(message, "in \"") && !strings.Contains(message, " not found") && !strings.Contains(message, "Unsupported file type") {
				t.Errorf("accepted; ocurrent/obuilder says: %s", message)
			}
			bySource++
		})
	}
	if bySource != 11 {
		t.Errorf("%d vectors were left to the package source, want 11", bySource)
	}
}

// check walks s as far as no source directory is needed.
func check(s *spec.Spec) error {
	for _, b := range s.Builds {
		if err := check(b.Spec); err != nil {
			return err
		}
	}
	ctx := spec.NewContext()
	ctx.Secrets = map[string][]byte{"a": nil}
	for _, op := range s.Ops {
		switch op := op.(type) {
		case spec.Run:
			if _, err := ctx.RunInput("base", &op); err != nil {
				return err
			}
		case spec.Copy:
			if err := spec.CheckCopy(&op, ctx.CopyDst(op.Dst)); err != nil {
				return err
			}
		default:
			ctx = ctx.Apply(op)
		}
	}
	return nil
}

func checkError(t *testing.T, err error) {
	t.Helper()
	e, ok := errors.AsType[*spec.Error](err)
	if !ok {
		t.Fatalf("got %T (%v), want a *spec.Error", err, err)
	}
	if !e.Pos.IsValid() || e.Pos.File != "bad.spec" || !strings.HasPrefix(e.Error(), "bad.spec:") {
		t.Errorf("no place in %q", e)
	}
	t.Logf("%v\n    hint: %s", e, e.Hint)
}

func TestEscapeCacheVectors(t *testing.T) {
	for _, c := range loadVectors(t).EscapeCache {
		if got := spec.EscapeCache(c.Name); got != c.Escaped {
			t.Errorf("EscapeCache(%q) = %q, want %q", c.Name, got, c.Escaped)
		}
	}
}

// TestFormatVectors checks that Format keeps the meaning of every spec, that
// it is idempotent, and that it does not change what Pretty prints.
func TestFormatVectors(t *testing.T) {
	for _, v := range loadVectors(t).Vectors {
		if !v.Valid() {
			continue
		}
		t.Run(v.Name, func(t *testing.T) {
			checkFormat(t, []byte(v.Spec))
			pretty := v.Expected.PP
			got, err := spec.Format("spec", []byte(pretty))
			if diff := cmp.Diff(pretty+"\n", string(got)); diff != "" || err != nil {
				t.Errorf("Format changes what Pretty prints: %v (-want +got):\n%s", err, diff)
			}
		})
	}
}

func checkFormat(t *testing.T, src []byte) {
	t.Helper()
	want := parse(t, string(src))
	once, err := spec.Format("spec", src)
	if err != nil {
		t.Fatal(err)
	}
	s, err := spec.Parse("formatted", once)
	if err != nil {
		t.Fatalf("%v in\n%s", err, once)
	}
	if diff := cmp.Diff(want.Sexp().String(), s.Sexp().String()); diff != "" {
		t.Errorf("Format changes the meaning (-want +got):\n%s\n%s", diff, once)
	}
	if diff := cmp.Diff(comments(t, src), comments(t, once)); diff != "" {
		t.Errorf("Format changes the comments (-want +got):\n%s\n%s", diff, once)
	}
	twice, err := spec.Format("formatted", once)
	if diff := cmp.Diff(string(once), string(twice)); diff != "" || err != nil {
		t.Errorf("Format is not idempotent: %v (-once +twice):\n%s", err, diff)
	}
}

// comments returns the comments of a source in their order.
func comments(t *testing.T, src []byte) (all []string) {
	items, err := sexp.ParseItems("spec", src)
	if err != nil {
		t.Fatal(err)
	}
	var walk func([]sexp.Item)
	walk = func(items []sexp.Item) {
		for _, it := range items {
			if it.IsComment() {
				all = append(all, strings.TrimRight(it.Text, " \t"))
			}
			walk(it.Items)
		}
	}
	walk(items)
	return all
}
