package spec_test

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"obuilder.org/obuilder/source"
	"obuilder.org/obuilder/spec"
	"obuilder.org/obuilder/spec/sexp"
	"pgregory.net/rapid"
)

func ExampleParse() {
	s, err := spec.Parse("hello.spec", []byte(`
		((from busybox)
		 (workdir /src)
		 (run (shell "echo hello")))`))
	if err != nil {
		panic(err)
	}
	ctx := spec.NewContext()
	base := spec.BaseID(s.From)
	for _, op := range s.Ops {
		fmt.Println(spec.Heading(ctx.Workdir, op))
		switch op := op.(type) {
		case spec.Run:
			in, err := ctx.RunInput(base, &op)
			if err != nil {
				panic(err)
			}
			base = in.ID()
			fmt.Println(base)
		default:
			ctx = ctx.Apply(op)
		}
	}
	// Output:
	// /: (workdir /src)
	// /src: (run (shell "echo hello"))
	// 92280a7444c573ee2fde693d2d2b47d7fec62ebf151969ed8bb6d84e94a6abea
}

func ExampleParse_error() {
	_, err := spec.Parse("hello.spec", []byte("((from busybox)\n (runn (shell ls)))"))
	fmt.Println(err)
	fmt.Println("hint:", err.(*spec.Error).Hint)
	// Output:
	// hello.spec:2:3: unknown operation runn
	// hint: did you mean run?
}

func ExampleFormat() {
	out, err := spec.Format("x.spec", []byte(`
((from busybox) ; small
(run (network host)
   (shell "apt-get update \
           && apt-get install"))
; the sources

(copy (src . ) (dst /src/) ))`))
	if err != nil {
		panic(err)
	}
	fmt.Print(string(out))
	// Output:
	// ((from busybox) ; small
	//  (run (network host)
	//       (shell "apt-get update \
	//               && apt-get install"))
	//  ; the sources
	//
	//  (copy (src .) (dst /src/))
	// )
}

func TestFormat(t *testing.T) {
	for _, tt := range []struct{ name, src, want string }{
		{"closing after a line comment", "((build a ((from b) ; c\n) ; d\n) ; e\n(from f) ; g\n) ; h", `((build a
        ((from b) ; c
        ) ; d
 ) ; e
 (from f) ; g
) ; h
`},
		{"comments in arguments", "((from b) (run ; one\n (secrets ; two\n (x (target /x)) #| three |# (y (target /y))) (shell #;no z)) (env A ; four\n B) (env #| five |# A B))", `((from b)
 (run ; one
      (secrets ; two
               (x (target /x)) #| three |#
               (y (target /y)))
      (shell #;no
             z))
 (env A ; four
      B)
 (env #| five |#
      A
      B)
)
`},
		{"comments first", "(; one\n ; two\n (from b)(;three\nenv A B))", `(; one
 ; two
 (from b)
 (;three
  env
  A
  B)
)
`},
		{"empty lines", "\n\n; a\n\n\n((from b)\n\n\n\n (env A B)\n (env\n\nC D)\n\n)\n\n", `; a

((from b)

 (env A B)
 (env C D)
)
`},
		{"spaces after a comment", "((from b) ; a \t\r\n)", "((from b) ; a\n)\n"},
		{"strings as they are written", "((\"from\" \"\\x41é\") (run (shell \"a\nb \\\r\n    c\\n\\\n d\\\n\\n\")))", "((\"from\" \"\\x41é\")\n (run (shell  \"a\nb \\\n               c\\n\\\n               d\\\n             \\n\"))\n)\n"},
		{"a copy that does not fit", "((from b) (copy (src aaaaaaaaaaaaaaaaaaaaaaaaaa bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb) (dst /x/)))", `((from b)
 (copy (src aaaaaaaaaaaaaaaaaaaaaaaaaa bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb)
       (dst /x/))
)
`},
		{"a build with comments", "((build ; one\n a ; two\n ((from b) (run (shell x)))) (from c))", `((build ; one
        a ; two
        ((from b)
         (run (shell x))))
 (from c)
)
`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := spec.Format("x", []byte(tt.src))
			if diff := cmp.Diff(tt.want, string(got)); diff != "" || err != nil {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
			checkFormat(t, []byte(tt.src))
		})
	}
	if _, err := spec.Format("x", []byte("((from b) (bogus))")); err == nil {
		t.Error("an invalid spec is formatted")
	}
}

// TestErrors checks places and hints beyond those of the recorded specs.
func TestErrors(t *testing.T) {
	for _, tt := range []struct{ src, want, hint string }{
		{"((from base)\n (run (shel x)))", "s:2:8: unknown field shel of run", "did you mean shell?"},
		{"((from base)\n (copy (source x) (dst /)))", "s:2:9: unknown field source of copy", "the fields of copy are from, src, dst and exclude"},
		{"((from base)\n (run (cache (a (tgt /x))) (shell y)))", "s:2:18: unknown field tgt of a cache", "the fields of a cache are target and buildkit_options"},
		{"((from base)\n (run (cache (a (target /x) (target /y))) (shell y)))", `s:2:29: field "target" of a cache is given twice`, ""},
		{"((from base)\n (run (secrets (a (id b) (target /y))) (shell y)))", `s:2:20: unknown field id of a secret`, "the fields of a secret are target and buildkit_options"},
		{"((from base)\n (run (shell make all)))", `s:2:7: expected a command after "shell", and nothing else, got (shell make all)`, `a command with spaces goes in double quotes: (shell "make all")`},
		{"((from base)\n (Run (shell x)))", "s:2:2: expected (Run (...)), got (Run (shell x))", ""},
		{"((from base)\n (Run))", "s:2:2: expected (Run (...)), got (Run)", ""},
		{"((from base)\n (Form x))", "s:2:3: unknown operation Form", ""},
		{"((from base)\n (user (name \"\")))", "s:2:8: the name of a user is empty", ""},
		{"((from base)\n (user (uid 0x) (gid 1)))", "s:2:13: 0x is not a number, or too large", ""},
		{"((from base)\n (user (uid _1) (gid 1)))", "s:2:13: _1 is not a number, or too large", ""},
		{"((build a b) (from base))", "s:1:11: expected a spec, which is a list, got the atom b", ""},
		{"((build (a) ((from b))) (from base))", "s:1:2: expected a nested build (build NAME ((from BASE) ...)), got (build (a) ((from b)))", ""},
		{"(((from base)))", "s:1:2: expected (from BASE), after any nested builds, got ((from base))", ""},
		{"((from base)\n (comment \"" + strings.Repeat("a b", 1<<20) + "\" c))", "s:2:2: expected a text after \"comment\", and nothing else, got (comment \"" + strings.Repeat("a b", 16) + "a ...", ""},
		{"((build release ((from a))) (from base)\n (copy (from (build relase)) (src x) (dst /y)))", `s:2:2: copy from the unknown build "relase"`, "did you mean release?"},
		{"((from base)\n (user (uid (1)) (gid 1)))", `s:2:8: expected a number after "uid", and nothing else, got (uid (1))`, ""},
		{"((from base)\n (user (uid 1) (gid x)))", "s:2:21: x is not a number, or too large", ""},
		{"((from base)\n (copy (src x) (dst /y z)))", `s:2:16: expected a path after "dst", and nothing else, got (dst /y z)`, ""},
		{"((from base)\n (copy (src x) (dst /y) (exclude (z))))", "s:2:34: expected a name to exclude, which is an atom, got the list (z)", ""},
		{"((from base)\n (run (network (a)) (shell x)))", "s:2:16: expected the name of a network, which is an atom, got the list (a)", ""},
		{"((from base)\n (copy (from (build a b)) (src x) (dst /y)))", "s:2:8: expected (from (build NAME)) or (from context), got (from (build a b))", ""},
		{"((from base)\n (copy (from) (src x) (dst /y)))", "s:2:8: expected (from (build NAME)) or (from context), got (from)", ""},
		{"((from base)\n (run (cache (a (target /x) (buildkit_options (k v)))) (shell y)))", "s:2:48: expected a BuildKit option (NAME VALUE), got k", "they are written (buildkit_options ((NAME VALUE) ...))"},
		{"((from base)\n (run (cache (a (target /x) (buildkit_options k))) (shell y)))", "s:2:29: expected BuildKit options, got (buildkit_options k)", "they are written (buildkit_options ((NAME VALUE) ...))"},
	} {
		_, err := spec.Parse("s", []byte(tt.src))
		e, ok := errors.AsType[*spec.Error](err)
		if !ok || e.Error() != tt.want || tt.hint != "" && e.Hint != tt.hint {
			t.Errorf("%.80s:\n got %v\nwant %s", tt.src, err, tt.want)
			if ok && tt.hint != "" {
				t.Errorf(" got hint %s\nwant hint %s", e.Hint, tt.hint)
			}
		}
	}
}

// TestOps checks what all operations share.
func TestOps(t *testing.T) {
	const src = `((from base)
(comment c)
(workdir /w)
(shell a b)
(run (cache (c (target /c))) (network n) (secrets (s (target /s))) (shell x))
(copy (src a b) (dst /x/) (exclude e))
(user (uid 1) (gid 2))
(user (name "a b"))
(env A 1)
)`
	s := parse(t, src)
	for i, line := range strings.Split(src, "\n")[1:9] {
		op := s.Ops[i]
		want, err := sexp.Parse("", []byte(line))
		if err != nil {
			t.Fatal(err)
		}
		if op.String() != want.String() || fmt.Sprint(op) != op.String() {
			t.Errorf("got %s, want %s", op, want)
		}
		if pos := op.Position(); pos.File != "spec" || pos.Line != i+2 || pos.Col != 1 {
			t.Errorf("%s is at %v", op, pos)
		}
	}
	r := s.Ops[3].(spec.Run)
	if r.Caches[0].Pos.Col != 13 || r.Secrets[0].Pos.Col != 51 || s.FromPos.Col != 2 {
		t.Errorf("cache at %v, secret at %v, from at %v", r.Caches[0].Pos, r.Secrets[0].Pos, s.FromPos)
	}
}

func TestNumbers(t *testing.T) {
	for src, want := range map[string]int{
		"0": 0, "+5": 5, "-5": -5, "1_0__0": 100, "0x7f": 127, "-0X7F": -127, "0b11": 3, "0o17": 15, "0u12": 12, "017": 17,
		"4611686018427387903": 1<<62 - 1, "-4611686018427387904": -1 << 62, "4611686018427387904": math.MaxInt,
		"0x3fffffffffffffff": 1<<62 - 1, "0x4000000000000000": -1 << 62, "0x7fffffffffffffff": -1, "0x8000000000000000": math.MaxInt,
		"-0x4000000000000000": -1 << 62, "0u9223372036854775807": -1,
		"": math.MaxInt, "-": math.MaxInt, "0x": math.MaxInt, "0x_1": math.MaxInt, "1a": math.MaxInt, "--1": math.MaxInt, "0b2": math.MaxInt, " 1": math.MaxInt, "1.0": math.MaxInt,
	} {
		s, err := spec.Parse("s", []byte("((from b) (user (uid "+sexp.Quote(src)+") (gid 0)))"))
		if want == math.MaxInt {
			if err == nil {
				t.Errorf("%q is accepted", src)
			}
			continue
		}
		if err != nil || s.Ops[0].(spec.SetUser).User.UID != want {
			t.Errorf("%q: got %v, %v, want %d", src, s, err, want)
		}
	}
}

func TestValidate(t *testing.T) {
	leaf := &spec.Spec{From: "b"}
	from := func(name string) spec.Op {
		return spec.Copy{FromBuild: true, From: name, Src: []string{"x"}, Dst: "/x"}
	}
	for name, tt := range map[string]struct {
		s    spec.Spec
		want string
	}{
		"fine":            {spec.Spec{Builds: []spec.Build{{Name: "a", Spec: leaf}}, From: "b", Ops: []spec.Op{from("a"), spec.Run{Cmd: "x"}}}, ""},
		"unknown build":   {spec.Spec{From: "b", Ops: []spec.Op{from("a")}}, `copy from the unknown build "a"`},
		"sibling's child": {spec.Spec{Builds: []spec.Build{{Name: "a", Spec: &spec.Spec{Builds: []spec.Build{{Name: "c", Spec: leaf}}}}}, Ops: []spec.Op{from("c")}}, `copy from the unknown build "c"`},
		"itself":          {spec.Spec{Builds: []spec.Build{{Name: "a", Spec: &spec.Spec{Ops: []spec.Op{from("a")}}}}}, `copy from the unknown build "a"`},
		"earlier sibling": {spec.Spec{Builds: []spec.Build{{Name: "a", Spec: leaf}, {Name: "c", Spec: &spec.Spec{Ops: []spec.Op{from("a")}}}}}, ""},
		"no spec":         {spec.Spec{Builds: []spec.Build{{Name: "a"}}}, `the nested build "a" has no spec`},
		"pointer":         {spec.Spec{Ops: []spec.Op{spec.Comment{}, &spec.Run{}}}, "operation 2 is a *spec.Run, which is not one of the values of this package"},
		"nil":             {spec.Spec{Ops: []spec.Op{nil}}, "operation 1 is a <nil>, which is not one of the values of this package"},
		"from no build":   {spec.Spec{Ops: []spec.Op{spec.Copy{From: "a"}}}, `copy names the build "a" and is not from a build`},
	} {
		got := ""
		if err := tt.s.Validate(); err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("%s: got %q, want %q", name, got, tt.want)
		}
	}
}

// TestContextIsNotChanged checks that contexts made from one context do not
// share what they change.
func TestContextIsNotChanged(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var ctxs []spec.Context
		var copies []spec.Context
		ctxs = append(ctxs, spec.NewContext())
		t.Repeat(map[string]func(*rapid.T){
			"apply": func(t *rapid.T) {
				c := rapid.SampledFrom(ctxs).Draw(t, "ctx").Apply(op().Draw(t, "op"))
				ctxs = append(ctxs, c)
				copies = append(copies, clone(c))
			},
			"base": func(t *rapid.T) {
				c := rapid.SampledFrom(ctxs).Draw(t, "ctx").WithBase([]spec.EnvVar{{Name: rapid.SampledFrom([]string{"A", "B"}).Draw(t, "name")}})
				ctxs = append(ctxs, c)
				copies = append(copies, clone(c))
			},
			"": func(t *rapid.T) {
				for i, c := range copies {
					if !reflect.DeepEqual(clone(ctxs[i+1]), c) {
						t.Fatalf("context %d has changed", i)
					}
				}
			},
		})
	})
}

func clone(c spec.Context) spec.Context {
	c.Env, c.Shell = slices.Clone(c.Env), slices.Clone(c.Shell)
	return c
}

func TestSecretWithoutPlace(t *testing.T) {
	_, err := spec.NewContext().RunInput("base", &spec.Run{Secrets: []spec.Secret{{ID: "a"}}})
	if err == nil || err.Error() != `the secret "a" was not given to this build` {
		t.Error(err)
	}
	_, err = spec.NewContext().RunInput("base", &spec.Run{Pos: spec.Pos{Line: 1, Col: 2}, Secrets: []spec.Secret{{ID: "a"}}})
	if err == nil || err.Error() != `1:2: the secret "a" was not given to this build` {
		t.Error(err)
	}
}

func TestParseEnv(t *testing.T) {
	for src, want := range map[string][]spec.EnvVar{
		"((env ()))": {},
		"((env ((PATH /usr/bin:/bin) (\"A B\"\n  \"\")))) ; x\n": {{Name: "PATH", Value: "/usr/bin:/bin"}, {Name: "A B"}},
	} {
		got, err := spec.ParseEnv([]byte(src))
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s: %v, %s", src, err, diff)
		}
		back, err := spec.ParseEnv([]byte(spec.FormatEnv(got)))
		if diff := cmp.Diff(want, back); diff != "" || err != nil {
			t.Errorf("%s: %v, %s", src, err, diff)
		}
	}
	for _, src := range []string{"", "x", "()", "((env))", "((env x))", "((env (x)))", "((env ((a b c))))", "((env ((a (b)))))", "((env()) (more))", "((vars ()))", "((env ()"} {
		if env, err := spec.ParseEnv([]byte(src)); err == nil {
			t.Errorf("%s: got %v", src, env)
		} else if _, ok := errors.AsType[*spec.Error](err); !ok {
			t.Errorf("%s: got %T", src, err)
		}
	}
	if got := spec.FormatEnv([]spec.EnvVar{{Name: "A", Value: "1 2"}, {Name: "B", Value: "3"}}); got != `((env((A"1 2")(B 3))))` {
		t.Error(got)
	}
}

// TestHeadingFarRight checks what OCaml's Format does with boxes that would be
// opened beyond column 68: the line is broken before them.
func TestHeadingFarRight(t *testing.T) {
	far := "/" + strings.Repeat("x", 70)
	for _, tt := range []struct {
		op   spec.Op
		want string
	}{
		{spec.Env{Name: "A", Value: "b"}, far + ": \n  (env A b)"},
		{spec.Run{Cmd: "x", Network: []string{"host"}}, far + ": (run \n  (network host)\n  (shell x))"},
		{spec.Copy{Src: []string{"x"}, Dst: "/x"}, far + ": (copy \n  (src x) (dst /x))"},
	} {
		if got := spec.Heading(far, tt.op); got != tt.want {
			t.Errorf("got\n%s\nwant\n%s", got, tt.want)
		}
	}
}

// TestCopyThatJustFits checks where OCaml's Format breaks a copy: it decides
// when the last but one parenthesis comes, and wants a column to be left then.
func TestCopyThatJustFits(t *testing.T) {
	for _, tt := range []struct {
		n    int
		want string
	}{
		{54, "/: (copy (src " + strings.Repeat("x", 54) + ") (dst /))"},
		{55, "/: (copy (src " + strings.Repeat("x", 55) + ")\n         (dst /))"},
	} {
		op := spec.Copy{Src: []string{strings.Repeat("x", tt.n)}, Dst: "/"}
		if got := spec.Heading("/", op); got != tt.want {
			t.Errorf("got\n%s\nwant\n%s", got, tt.want)
		}
	}
}

func atom() *rapid.Generator[string] {
	return rapid.OneOf(
		rapid.StringOfN(rapid.RuneFrom([]rune("a#|;\"\\() \n\r\t0'é")), 0, 8, -1),
		rapid.StringMatching(`[a-zA-Z:/.-]{1,40}`),
	)
}

func atoms() *rapid.Generator[[]string] {
	return rapid.Map(rapid.SliceOfN(atom(), 0, 3), func(s []string) []string {
		if len(s) == 0 {
			return nil
		}
		return s
	})
}

func options() *rapid.Generator[[]spec.Option] {
	return rapid.Custom(func(t *rapid.T) (o []spec.Option) {
		for range rapid.IntRange(0, 2).Draw(t, "options") {
			o = append(o, spec.Option{Name: atom().Draw(t, "name"), Value: atom().Draw(t, "value")})
		}
		return o
	})
}

func op() *rapid.Generator[spec.Op] {
	return rapid.Custom(func(t *rapid.T) spec.Op {
		a := func() string { return atom().Draw(t, "atom") }
		switch rapid.IntRange(0, 7).Draw(t, "op") {
		case 0:
			return spec.Comment{Text: a()}
		case 1:
			return spec.Workdir{Path: a()}
		case 2:
			return spec.Shell{Argv: atoms().Draw(t, "argv")}
		case 3:
			return spec.Env{Name: a(), Value: a()}
		case 4:
			return spec.SetUser{User: spec.User{UID: rapid.IntRange(-1, 1<<40).Draw(t, "uid"), GID: rapid.IntRange(0, 1<<40).Draw(t, "gid")}}
		case 5:
			return spec.SetUser{User: spec.User{Name: "n" + a()}}
		case 6:
			return spec.Copy{Src: atoms().Draw(t, "src"), Dst: a(), Exclude: atoms().Draw(t, "exclude")}
		}
		r := spec.Run{Cmd: a(), Network: atoms().Draw(t, "network")}
		for range rapid.IntRange(0, 2).Draw(t, "caches") {
			r.Caches = append(r.Caches, spec.Cache{ID: a(), Target: a(), BuildkitOptions: options().Draw(t, "options")})
		}
		for range rapid.IntRange(0, 2).Draw(t, "secrets") {
			r.Secrets = append(r.Secrets, spec.Secret{ID: a(), Target: a(), BuildkitOptions: options().Draw(t, "options")})
		}
		return r
	})
}

func specs(depth int) *rapid.Generator[*spec.Spec] {
	return rapid.Custom(func(t *rapid.T) *spec.Spec {
		s := &spec.Spec{From: atom().Draw(t, "from")}
		if depth > 0 {
			for range rapid.IntRange(0, 2).Draw(t, "builds") {
				b := spec.Build{Name: atom().Draw(t, "name"), Spec: specs(depth-1).Draw(t, "build")}
				s.Builds = append(s.Builds, b)
				s.Ops = append(s.Ops, spec.Copy{FromBuild: true, From: b.Name, Src: []string{"a"}, Dst: "b"})
			}
		}
		s.Ops = append(s.Ops, rapid.SliceOfN(op(), 0, 4).Draw(t, "ops")...)
		return s
	})
}

// TestPrintedSpecIsReadBack checks that both printed forms of any valid spec
// are read as that spec, and that Format leaves the pretty one as it is.
func TestPrintedSpecIsReadBack(t *testing.T) {
	ignorePlaces := cmp.Transformer("ignorePlaces", func(spec.Pos) struct{} { return struct{}{} })
	rapid.Check(t, func(t *rapid.T) {
		s := specs(3).Draw(t, "spec")
		if err := s.Validate(); err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{s.Sexp().String(), s.Pretty()} {
			got, err := spec.Parse("s", []byte(text))
			if err != nil {
				t.Fatalf("%v in\n%s", err, text)
			}
			want, back := s.Sexp().String(), got.Sexp().String()
			if want != back {
				t.Fatalf("%s is read as %s", want, back)
			}
			for i := range s.Ops {
				if diff := cmp.Diff(s.Ops[i], got.Ops[i], ignorePlaces); diff != "" {
					t.Fatalf("operation %d (-want +got):\n%s", i, diff)
				}
			}
		}
		text := s.Pretty() + "\n"
		if got, err := spec.Format("s", []byte(text)); err != nil || string(got) != text {
			t.Fatalf("%v: Format changes\n%s\nto\n%s", err, text, got)
		}
	})
}

// FuzzParse checks that what is read is printed and read back the same, that
// Format keeps the meaning and the comments and is idempotent, and that no
// source is too strange for headings, Dockerfiles and error texts.
func FuzzParse(f *testing.F) {
	for _, v := range loadVectors(f).Vectors {
		f.Add([]byte(v.Spec))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		s, err := spec.Parse("s", src)
		if err != nil {
			e, ok := errors.AsType[*spec.Error](err)
			if !ok || !e.Pos.IsValid() || strings.ContainsAny(e.Msg+e.Hint, "\n\x00") {
				t.Fatalf("%#v", err)
			}
			return
		}
		for _, text := range []string{s.Sexp().String(), s.Pretty()} {
			if got := parse(t, text).Sexp().String(); got != s.Sexp().String() {
				t.Fatalf("%s\nis read as\n%s", text, got)
			}
		}
		checkFormat(t, src)
		ctx := spec.NewContext()
		for _, op := range s.Ops {
			if got := spec.Heading(ctx.Workdir, op); !strings.HasPrefix(got, ctx.Workdir+": ") {
				t.Fatal(got)
			}
			ctx = ctx.Apply(op)
		}
		for i := range 4 {
			if _, err := s.Dockerfile(spec.DockerOptions{BuildKit: i&1 != 0, Windows: i&2 != 0}); err != nil && i&1 == 0 {
				t.Fatal(err)
			}
		}
	})
}

func steps(n int) string {
	var b strings.Builder
	b.WriteString("((from ocaml/opam:debian)\n (env OPAMYES 1)\n (workdir /src)\n")
	for i := range n {
		fmt.Fprintf(&b, " (run (network host)\n      (cache (opam-archives (target /home/opam/.opam/download-cache)))\n      (shell \"opam install --deps-only -t step%d\"))\n", i)
	}
	b.WriteString(")\n")
	return b.String()
}

func BenchmarkParse100Steps(b *testing.B) {
	src := []byte(steps(100))
	b.SetBytes(int64(len(src)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := spec.Parse("s", src); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRunID(b *testing.B) {
	s := parse(b, steps(1))
	ctx := spec.NewContext().WithBase([]spec.EnvVar{{Name: "PATH", Value: "/opt/homebrew/bin:/usr/bin:/bin"}, {Name: "LANG", Value: "en_US.UTF-8"}})
	run := s.Ops[2].(spec.Run)
	base := spec.BaseID(s.From)
	b.ReportAllocs()
	for b.Loop() {
		in, err := ctx.RunInput(base, &run)
		if err != nil {
			b.Fatal(err)
		}
		if in.ID() == "" {
			b.Fatal("no id")
		}
	}
}

func BenchmarkCopyID(b *testing.B) {
	in := spec.CopyInput{Base: spec.BaseID("b"), Dst: "/src/"}
	for i := range 1000 {
		in.Items = append(in.Items, source.Item{Path: fmt.Sprintf("dir/file%d", i), Hash: in.Base})
	}
	b.ReportAllocs()
	for b.Loop() {
		if in.ID() == "" {
			b.Fatal("no id")
		}
	}
}

func BenchmarkHeading(b *testing.B) {
	op := parse(b, steps(1)).Ops[2]
	b.ReportAllocs()
	for b.Loop() {
		if spec.Heading("/src", op) == "" {
			b.Fatal("no heading")
		}
	}
}
