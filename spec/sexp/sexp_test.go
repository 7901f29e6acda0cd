package sexp_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"obuilder.org/obuilder/spec/sexp"
	"pgregory.net/rapid"
)

func ExampleParse() {
	n, err := sexp.Parse("hello.spec", []byte(`(from "a base") ; why`))
	if err != nil {
		panic(err)
	}
	fmt.Println(n.List[1].Pos, n.List[1].Atom)
	fmt.Println(n)
	// Output:
	// hello.spec:1:7 a base
	// (from"a base")
}

func TestAtoms(t *testing.T) {
	for _, tt := range []struct{ src, want string }{
		{`a`, "a"},
		{`""`, ""},
		{`"a b"`, "a b"},
		{`"\n\t\r\b\"\'\\"`, "\n\t\r\b\"'\\"},
		{`"\065\255\000"`, "A\xff\x00"},
		{`"\x41\xfF"`, "A\xff"},
		{`"\q\ \a"`, `\q\ \a`},
		{"\"a\\\n \t b\"", "ab"},
		{"\"a\\\r\n  b\"", "ab"},
		{"\"a\\\n\n\"", "a\n"},
		{"\"a\\\rb\"", "a\rb"},
		{"\"raw\nnewline\"", "raw\nnewline"},
		{"é", "é"},
		{"#", "#"},
		{"|", "|"},
		{"a#", "a#"},
		{"#a", "#a"},
		{"||", "||"},
		{"##", "##"},
		{"[{<'`$", "[{<'`$"},
	} {
		n, err := sexp.Parse("", []byte(tt.src))
		if err != nil || n.IsList || n.Atom != tt.want {
			t.Errorf("%s: got %q, %v, want %q", tt.src, n.Atom, err, tt.want)
		}
	}
}

func TestPrint(t *testing.T) {
	for _, tt := range []struct{ src, want string }{
		{"()", "()"},
		{"(a b (c) d)", "(a b(c)d)"},
		{`(a "b c" d "" e)`, `(a"b c"d""e)`},
		{`("a")`, "(a)"},
		{"(é)", `("\195\169")`},
		{`(a;b
		)`, "(a)"},
		{"(#; a b #; (x #; y z) c #| #| |# \"|#\" |# d)", "(b c d)"},
		{"#;#;a b c", "c"},
		{"(a\"b\"c)", "(a b c)"},
		{"(#(a))", "(#(a))"},
		{`("#|" "|#" "a#|" #|"|# b)"|# |)`, `("#|""|#""a#|"|)`},
	} {
		n, err := sexp.Parse("", []byte(tt.src))
		if err != nil || n.String() != tt.want {
			t.Errorf("%s: got %s, %v, want %s", tt.src, n, err, tt.want)
		}
	}
}

func TestErrors(t *testing.T) {
	deep := strings.Repeat("(", sexp.MaxDepth+1)
	for _, tt := range []struct{ src, want string }{
		{"", "f:1:1: nothing here but white space and comments"},
		{"; a\n", "f:1:1: nothing here but white space and comments"},
		{"(a) b", "f:1:5: unexpected text after the end of the first expression"},
		{"(a\n (b)", `f:1:1: this "(" is never closed`},
		{"(a\n (b", `f:2:2: this "(" is never closed`},
		{"a\n )", `f:2:2: unexpected ")": no list is open here`},
		{"\n\"abc\n", "f:2:1: this string is never closed"},
		{`"abc\`, "f:1:1: this string is never closed"},
		{"(a #| b\n #| |# ", `f:1:4: this "#|" is never closed`},
		{`#| "|#`, "f:1:4: this string is never closed"},
		{`#| "\999" |#`, `f:1:5: a numeric escape is three decimal digits, from \000 to \255`},
		{"(a #;)", `f:1:4: nothing follows this "#;"`},
		{"(a #; ; b\n)", `f:1:4: nothing follows this "#;"`},
		{"#;", `f:1:1: nothing follows this "#;"`},
		{"|#", `f:1:1: "#|" and "|#" may not be part of an unquoted atom`},
		{"  ab#|c", `f:1:5: "#|" and "|#" may not be part of an unquoted atom`},
		{"##|", `f:1:2: "#|" and "|#" may not be part of an unquoted atom`},
		{`"a\xg1"`, `f:1:3: \x must be followed by two hexadecimal digits`},
		{`"a\x1"`, `f:1:3: \x must be followed by two hexadecimal digits`},
		{`"a\256"`, `f:1:3: a numeric escape is three decimal digits, from \000 to \255`},
		{`"a\1"`, `f:1:3: a numeric escape is three decimal digits, from \000 to \255`},
		{"(a\r b)", "f:1:3: carriage return without a line feed"},
		{"(é b\n\"x\ny\" ))", `f:3:5: unexpected ")": no list is open here`},
		{deep, fmt.Sprintf("f:1:%d: lists are nested too deep", sexp.MaxDepth+1)},
		{strings.Repeat("(", 1<<20), fmt.Sprintf("f:1:%d: lists are nested too deep", sexp.MaxDepth+1)},
		{"\xef\xbb\xbf(a)", "f:1:1: the text begins with a byte order mark"},
		{"\xff\xfe(\x00a\x00)\x00", "f:1:1: the text begins with a byte order mark"},
		{strings.Repeat("#;", 1<<20), fmt.Sprintf("f:1:%d: too many \"#;\" in a row", 2*sexp.MaxDepth+1)},
	} {
		_, err := sexp.Parse("f", []byte(tt.src))
		if _, ok := errors.AsType[*sexp.Error](err); !ok || err.Error() != tt.want {
			t.Errorf("%.40q: got %v, want %s", tt.src, err, tt.want)
		}
	}
}

func TestMaxDepthIsAccepted(t *testing.T) {
	src := strings.Repeat("(", sexp.MaxDepth) + strings.Repeat(")", sexp.MaxDepth)
	n, err := sexp.Parse("", []byte(src))
	if err != nil || n.String() != src {
		t.Error(err)
	}
}

func TestPositions(t *testing.T) {
	nodes, err := sexp.ParseAll("f", []byte("a\r\n  (b \"x\n\" é\tc)\n#| \n |# d"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	var walk func([]sexp.Node)
	walk = func(ns []sexp.Node) {
		for _, n := range ns {
			got = append(got, fmt.Sprintf("%v+%d %s", n.Pos, n.Pos.Offset, n))
			walk(n.List)
		}
	}
	walk(nodes)
	want := []string{
		"f:1:1+0 a",
		`f:2:3+5 (b"x\n""\195\169"c)`,
		"f:2:4+6 b",
		`f:2:6+8 "x\n"`,
		`f:3:3+13 "\195\169"`,
		"f:3:6+16 c",
		"f:5:5+27 d",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for p, want := range map[sexp.Pos]string{{}: "-", {Line: 2, Col: 3}: "2:3"} {
		if p.String() != want {
			t.Errorf("%#v: got %s, want %s", p, p, want)
		}
	}
	if e := sexp.Errorf(sexp.Pos{}, "no %s", "place"); e.Error() != "no place" {
		t.Error(e)
	}
}

func TestItems(t *testing.T) {
	src := "; one  \n(a #| b\n |# \"c\\\nd\") ; two\n#; ; three\n (x) e"
	items, err := sexp.ParseItems("", []byte(src))
	if err != nil {
		t.Fatal(err)
	}
	pos := func(line, col, offset int) sexp.Pos { return sexp.Pos{Line: line, Col: col, Offset: offset} }
	want := []sexp.Item{
		{Kind: sexp.LineComment, Pos: pos(1, 1, 0), EndLine: 1, Text: "; one  "},
		{Kind: sexp.ListItem, Pos: pos(2, 1, 8), EndLine: 4, Items: []sexp.Item{
			{Kind: sexp.AtomItem, Pos: pos(2, 2, 9), EndLine: 2, Text: "a", Atom: "a"},
			{Kind: sexp.BlockComment, Pos: pos(2, 4, 11), EndLine: 3, Text: "#| b\n |#"},
			{Kind: sexp.AtomItem, Pos: pos(3, 5, 20), EndLine: 4, Text: "\"c\\\nd\"", Atom: "cd"},
		}},
		{Kind: sexp.LineComment, Pos: pos(4, 5, 28), EndLine: 4, Text: "; two"},
		{Kind: sexp.DatumComment, Pos: pos(5, 1, 34), EndLine: 6, Text: "#; ; three\n (x)"},
		{Kind: sexp.AtomItem, Pos: pos(6, 6, 50), EndLine: 6, Text: "e", Atom: "e"},
	}
	if diff := cmp.Diff(want, items); diff != "" {
		t.Error(diff)
	}
}

func TestDidYouMean(t *testing.T) {
	known := []string{"comment", "copy", "env", "run", "shell", "user", "workdir"}
	for name, want := range map[string]string{
		"RUN":                      "did you mean run?",
		"rnu":                      "did you mean run?",
		"comand":                   "they are comment, copy, env, run, shell, user and workdir",
		"coment":                   "did you mean comment?",
		"":                         "they are comment, copy, env, run, shell, user and workdir",
		strings.Repeat("x", 1<<20): "they are comment, copy, env, run, shell, user and workdir",
	} {
		if got := sexp.DidYouMean(name, "they are", known); got != want {
			t.Errorf("%.20q: got %q, want %q", name, got, want)
		}
	}
	if got := sexp.DidYouMean("a", "they are", nil); got != "" {
		t.Errorf("nothing is known: got %q", got)
	}
	many := strings.Split(strings.Repeat("known ", 1000), " ")
	if got := sexp.DidYouMean("zzz", "they are", many); got != "they are "+strings.Repeat("known, ", 9)+"known and others" {
		t.Error(got)
	}
	if got := sexp.DidYouMean("dex", "they are", []string{"deb", "dev", "de x"}); got != `did you mean deb, dev or "de x"?` {
		t.Error(got)
	}
}

// atom generates the strings that are hard to print.
func atom() *rapid.Generator[string] {
	return rapid.OneOf(
		rapid.StringOfN(rapid.RuneFrom([]rune("a#|;\"\\() \n\r\tx0'é")), 0, 8, -1),
		rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 8), func(b []byte) string { return string(b) }),
		rapid.StringMatching(`[a-z/.-]{1,12}`),
	)
}

func node(depth int) *rapid.Generator[sexp.Node] {
	leaf := rapid.Map(atom(), sexp.Atom)
	if depth == 0 {
		return leaf
	}
	list := rapid.Map(rapid.SliceOfN(rapid.Deferred(func() *rapid.Generator[sexp.Node] { return node(depth - 1) }), 0, 4),
		func(ns []sexp.Node) sexp.Node { return sexp.List(ns...) })
	return rapid.OneOf(leaf, list, list)
}

func TestPrintIsReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := node(4).Draw(t, "node")
		checkReadBack(t, n, n.String())
		checkReadBack(t, n, spacedOut(t, n))
	})
}

func checkReadBack(t interface{ Fatalf(string, ...any) }, n sexp.Node, src string) {
	got, err := sexp.Parse("", []byte(src))
	if err != nil || !sexp.Equal(n, got) {
		t.Fatalf("%q is read as %s (%v), want %s", src, got, err, n)
	}
}

// spacedOut prints n with white space and comments wherever they may be.
func spacedOut(t *rapid.T, n sexp.Node) string {
	var b strings.Builder
	gap := rapid.SampledFrom([]string{" ", "\n", "\r\n", "\t\f", " ; c (\n", "#|\"|#\"|#", " #;x ", " #;(a \"b\" #;c d) ", " #| #| ; |# |# "})
	var walk func(sexp.Node)
	walk = func(n sexp.Node) {
		b.WriteString(gap.Draw(t, "gap"))
		if !n.IsList {
			text := sexp.AtomText(n.Atom)
			if rapid.Bool().Draw(t, "quoted") {
				text = sexp.Quote(n.Atom)
			}
			b.WriteString(text + " ")
			return
		}
		b.WriteString("(")
		for _, sub := range n.List {
			walk(sub)
		}
		b.WriteString(gap.Draw(t, "gap"))
		b.WriteString(")")
	}
	walk(n)
	b.WriteString(gap.Draw(t, "gap"))
	return b.String()
}

// FuzzParse checks that what is read is printed and read back the same, that
// the texts of items are those of the source, and that errors have a place.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"(a \"b\\n\\065\\x41\\q\\\n  c\" #;d #;(e) #| #| |# |# ; f\n)", "#;#;a b", "(((", "|#", "a#|b", "\"\\", "(\r\n)",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		nodes, err := sexp.ParseAll("f", src)
		items, itemsErr := sexp.ParseItems("f", src)
		if (err == nil) != (itemsErr == nil) {
			t.Fatalf("ParseAll: %v, ParseItems: %v", err, itemsErr)
		}
		if err != nil {
			e, ok := errors.AsType[*sexp.Error](err)
			if !ok || e.Pos.Line < 1 || e.Pos.Col < 1 || e.Pos.Offset > len(src) {
				t.Fatalf("%#v", err)
			}
			return
		}
		for _, n := range nodes {
			checkReadBack(t, n, n.String())
		}
		checkTexts(t, src, items)
	})
}

func checkTexts(t *testing.T, src []byte, items []sexp.Item) {
	for _, it := range items {
		at := src[it.Pos.Offset:]
		if it.Kind == sexp.ListItem {
			if at[0] != '(' {
				t.Fatalf("%v: no list", it.Pos)
			}
			checkTexts(t, src, it.Items)
			continue
		}
		if !strings.HasPrefix(string(at), it.Text) || it.Text == "" {
			t.Fatalf("%v: %q is not in the source", it.Pos, it.Text)
		}
		before := string(src[:it.Pos.Offset])
		if line := strings.Count(before, "\n") + 1; line != it.Pos.Line || len(before)-strings.LastIndex(before, "\n") != it.Pos.Col {
			t.Fatalf("%v: wrong place", it.Pos)
		}
		if it.EndLine != it.Pos.Line+strings.Count(it.Text, "\n") {
			t.Fatalf("%v: ends in line %d", it.Pos, it.EndLine)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	src := []byte("(" + strings.Repeat("(run (network host) (shell \"opam install --deps-only -t x\")) ; c\n", 100) + ")")
	b.SetBytes(int64(len(src)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := sexp.Parse("f", src); err != nil {
			b.Fatal(err)
		}
	}
}
