package spec

import (
	"fmt"
	"strconv"
	"strings"

	"obuilder.org/obuilder/spec/sexp"
)

// Parse reads a spec and validates it. The filename is used only for
// positions. Errors are [*Error].
func Parse(filename string, src []byte) (*Spec, error) {
	n, err := sexp.Parse(filename, src)
	if err != nil {
		return nil, err
	}
	return FromSexp(n)
}

// FromSexp is [Parse] for a spec that is part of something larger and has been
// read already.
func FromSexp(n sexp.Node) (*Spec, error) {
	s, err := specOf(n)
	if err != nil {
		return nil, err
	}
	if err := s.Validate(); err != nil {
		return nil, err
	}
	return s, nil
}

// longest is how much of a spec an error message shows, in bytes.
const longest = 60

// excerpt is a node for an error message, cut where it gets long.
func excerpt(n sexp.Node) string { return cut(appendExcerpt(nil, n)) }

// quoteExcerpt is a name for an error message, in quotes.
func quoteExcerpt(name string) string {
	return cut([]byte(sexp.Quote(name[:min(len(name), longest)])))
}

func cut(b []byte) string {
	if len(b) > longest {
		b = append(b[:longest], "..."...)
	}
	return string(b)
}

// appendExcerpt appends n, or as much of it as makes b too long.
func appendExcerpt(b []byte, n sexp.Node) []byte {
	if !n.IsList {
		return append(b, sexp.AtomText(n.Atom[:min(len(n.Atom), longest)])...)
	}
	b = append(b, '(')
	for i, sub := range n.List {
		if len(b) > longest {
			break
		}
		if i > 0 {
			b = append(b, ' ')
		}
		b = appendExcerpt(b, sub)
	}
	return append(b, ')')
}

func fail(n sexp.Node, hint, format string, args ...any) error {
	e := sexp.Errorf(n.Pos, format, args...)
	e.Hint = hint
	return e
}

func specOf(n sexp.Node) (*Spec, error) {
	const form = `a spec is written ((from BASE) OPERATION ...)`
	if !n.IsList {
		return nil, fail(n, form, "expected a spec, which is a list, got the atom %s", excerpt(n))
	}
	var s Spec
	for i, item := range n.List {
		switch {
		case item.Head() == "build" && len(item.List) > 0:
			b, err := buildOf(item)
			if err != nil {
				return nil, err
			}
			s.Builds = append(s.Builds, b)
		case item.Head() == "from" && len(item.List) > 0:
			var err error
			if s.From, err = oneAtom(item, "the name of a base image", ""); err != nil {
				return nil, err
			}
			s.FromPos = item.Pos
			s.Ops = make([]Op, 0, len(n.List)-i-1)
			for _, on := range n.List[i+1:] {
				op, err := opOf(on)
				if err != nil {
					return nil, err
				}
				s.Ops = append(s.Ops, op)
			}
			return &s, nil
		case !item.IsList && i == 0 && (item.Atom == "from" || item.Atom == "build"):
			return nil, fail(n, form, "a spec is a list of lists: it needs another pair of parentheses")
		default:
			return nil, fail(item, form, "expected (from BASE), after any nested builds, got %s", excerpt(item))
		}
	}
	return nil, fail(n, form, "this spec has no (from BASE)")
}

func buildOf(n sexp.Node) (Build, error) {
	if len(n.List) != 3 || n.List[1].IsList {
		return Build{}, fail(n, "", "expected a nested build (build NAME ((from BASE) ...)), got %s", excerpt(n))
	}
	s, err := specOf(n.List[2])
	return Build{Pos: n.Pos, Name: n.List[1].Atom, Spec: s}, err
}

var opNames = []string{"comment", "copy", "env", "run", "shell", "user", "workdir"}

func opOf(n sexp.Node) (Op, error) {
	const form = "an operation is written (NAME ...), such as (run (shell \"make\"))"
	if !n.IsList {
		return nil, fail(n, form, "expected an operation, which is a list, got the atom %s", excerpt(n))
	}
	if len(n.List) == 0 || n.List[0].IsList {
		return nil, fail(n, form, "expected an operation, got %s", excerpt(n))
	}
	name, args := n.List[0].Atom, n.List[1:]
	switch name {
	case "Comment", "Workdir", "Shell":
		name = strings.ToLower(name)
	case "Run", "Copy", "User", "Env":
		// The generic form of sexplib: what is inlined in the usual one is a
		// list of its own.
		if len(args) != 1 || !args[0].IsList || name != "Env" && args[0].Head() != "" {
			return nil, fail(n, "write it with a small letter, or with another pair of parentheses",
				"expected (%s (...)), got %s", name, excerpt(n))
		}
		name, args = strings.ToLower(name), args[0].List
	}
	switch name {
	case "comment":
		text, err := oneAtom(n, "a text", "a text with spaces goes in double quotes")
		return Comment{n.Pos, text}, err
	case "workdir":
		path, err := oneAtom(n, "a path", "")
		return Workdir{n.Pos, path}, err
	case "shell":
		argv, err := atoms(args, "an argument of the shell")
		return Shell{n.Pos, argv}, err
	case "env":
		if len(args) != 2 {
			return nil, fail(n, "", "expected (env NAME VALUE), got %s", excerpt(n))
		}
		kv, err := atoms(args, "the name or value of a variable")
		if err != nil {
			return nil, err
		}
		return Env{n.Pos, kv[0], kv[1]}, nil
	case "user":
		u, err := userOf(n, args)
		return SetUser{n.Pos, u}, err
	case "run":
		return runOf(n, args)
	case "copy":
		return copyOf(n, args)
	case "from", "build":
		return nil, fail(n, "(build NAME ...) comes first, then one (from BASE), then operations",
			"(%s ...) is not an operation", name)
	}
	return nil, fail(n.List[0], sexp.DidYouMean(name, "the operations are", opNames), "unknown operation %s", excerpt(n.List[0]))
}

// oneAtom returns the only argument of n, which is what the error calls for.
func oneAtom(n sexp.Node, what, hint string) (string, error) {
	if len(n.List) != 2 || n.List[1].IsList {
		return "", fail(n, hint, "expected %s after %q, and nothing else, got %s", what, n.Head(), excerpt(n))
	}
	return n.List[1].Atom, nil
}

func atoms(ns []sexp.Node, what string) ([]string, error) {
	if len(ns) == 0 {
		return nil, nil
	}
	s := make([]string, len(ns))
	for i, n := range ns {
		if n.IsList {
			return nil, fail(n, "", "expected %s, which is an atom, got the list %s", what, excerpt(n))
		}
		s[i] = n.Atom
	}
	return s, nil
}

// fields finds the fields of a record by the names it may have. It returns
// them in the order of the names, with a zero Node for each that is missing.
func fields(what, example string, ns []sexp.Node, names ...string) ([]sexp.Node, error) {
	found := make([]sexp.Node, len(names))
next:
	for _, n := range ns {
		if !n.IsList || len(n.List) == 0 || n.List[0].IsList {
			return nil, fail(n, "", "expected a field of %s, such as (%s ...), got %s", what, example, excerpt(n))
		}
		for i, name := range names {
			if n.List[0].Atom != name {
				continue
			}
			if found[i].IsList {
				return nil, fail(n, "", "field %q of %s is given twice", name, what)
			}
			found[i] = n
			continue next
		}
		hint := sexp.DidYouMean(n.List[0].Atom, "the fields of "+what+" are", names)
		return nil, fail(n.List[0], hint, "unknown field %s of %s", excerpt(n.List[0]), what)
	}
	return found, nil
}

// required is the error for a field that was not found.
func required(owner sexp.Node, what, field string) error {
	return fail(owner, "", "%s needs a field %q", what, field)
}

func runOf(owner sexp.Node, args []sexp.Node) (Op, error) {
	fs, err := fields("run", "shell", args, "cache", "network", "secrets", "shell")
	if err != nil {
		return nil, err
	}
	cache, network, secrets, shell := fs[0], fs[1], fs[2], fs[3]
	op := Run{Pos: owner.Pos}
	if !shell.IsList {
		return nil, required(owner, "run", "shell")
	}
	if op.Cmd, err = oneAtom(shell, "a command", `a command with spaces goes in double quotes: (shell "make all")`); err != nil {
		return nil, err
	}
	if cache.IsList {
		for _, n := range cache.List[1:] {
			pos, id, target, options, err := mountOf(n, "a cache")
			if err != nil {
				return nil, err
			}
			op.Caches = append(op.Caches, Cache{pos, id, target, options})
		}
	}
	if network.IsList {
		if op.Network, err = atoms(network.List[1:], "the name of a network"); err != nil {
			return nil, err
		}
	}
	if secrets.IsList {
		for _, n := range secrets.List[1:] {
			pos, id, target, options, err := mountOf(n, "a secret")
			if err != nil {
				return nil, err
			}
			op.Secrets = append(op.Secrets, Secret{pos, id, target, options})
		}
	}
	return op, nil
}

// mountOf reads a cache or a secret: (ID (target PATH) ...).
func mountOf(n sexp.Node, what string) (pos Pos, id, target string, options []Option, err error) {
	pos = n.Pos
	if !n.IsList || len(n.List) == 0 || n.List[0].IsList {
		err = fail(n, "", "expected %s (ID (target PATH)), got %s", what, excerpt(n))
		return
	}
	id = n.List[0].Atom
	fs, err := fields(what, "target", n.List[1:], "target", "buildkit_options")
	if err != nil {
		return
	}
	if !fs[0].IsList {
		err = required(n, what, "target")
		return
	}
	if target, err = oneAtom(fs[0], "a path", ""); err != nil || !fs[1].IsList {
		return
	}
	const form = "they are written (buildkit_options ((NAME VALUE) ...))"
	if len(fs[1].List) != 2 || !fs[1].List[1].IsList {
		err = fail(fs[1], form, "expected BuildKit options, got %s", excerpt(fs[1]))
		return
	}
	for _, o := range fs[1].List[1].List {
		if len(o.List) != 2 || o.List[0].IsList || o.List[1].IsList {
			err = fail(o, form, "expected a BuildKit option (NAME VALUE), got %s", excerpt(o))
			return
		}
		options = append(options, Option{o.List[0].Atom, o.List[1].Atom})
	}
	return
}

func copyOf(owner sexp.Node, args []sexp.Node) (Op, error) {
	fs, err := fields("copy", "src", args, "from", "src", "dst", "exclude")
	if err != nil {
		return nil, err
	}
	from, src, dst, exclude := fs[0], fs[1], fs[2], fs[3]
	op := Copy{Pos: owner.Pos}
	if !src.IsList {
		return nil, required(owner, "copy", "src")
	}
	if op.Src, err = atoms(src.List[1:], "a source path"); err != nil {
		return nil, err
	}
	if !dst.IsList {
		return nil, required(owner, "copy", "dst")
	}
	if op.Dst, err = oneAtom(dst, "a path", ""); err != nil {
		return nil, err
	}
	if exclude.IsList {
		if op.Exclude, err = atoms(exclude.List[1:], "a name to exclude"); err != nil {
			return nil, err
		}
	}
	if from.IsList {
		switch f := from.List[1:]; {
		case len(f) == 1 && !f[0].IsList && f[0].Atom == "context":
		case len(f) == 1 && len(f[0].List) == 2 && f[0].Head() == "build" && !f[0].List[1].IsList:
			op.FromBuild, op.From = true, f[0].List[1].Atom
		default:
			return nil, fail(from, "", "expected (from (build NAME)) or (from context), got %s", excerpt(from))
		}
	}
	return op, nil
}

func userOf(n sexp.Node, args []sexp.Node) (User, error) {
	is := func(i int, name string) bool {
		return args[i].Head() == name && len(args[i].List) == 2
	}
	switch {
	case len(args) == 1 && is(0, "name"):
		name, err := oneAtom(args[0], "a name", "")
		if err == nil && name == "" {
			err = fail(args[0], "", "the name of a user is empty")
		}
		return User{Name: name}, err
	case len(args) == 2 && is(0, "uid") && is(1, "gid"):
		uid, err := number(args[0])
		if err != nil {
			return User{}, err
		}
		gid, err := number(args[1])
		return User{UID: uid, GID: gid}, err
	}
	return User{}, fail(n, "", "expected (user (uid N) (gid N)), in this order, or (user (name NAME)), got %s", excerpt(n))
}

func number(field sexp.Node) (int, error) {
	s, err := oneAtom(field, "a number", "")
	if err != nil {
		return 0, err
	}
	v, ok := camlInt(s)
	if !ok {
		return 0, fail(field.List[1], "", "%s is not a number, or too large", excerpt(field.List[1]))
	}
	return v, nil
}

// camlInt reads a number as OCaml does (int_of_string): decimal, or with one
// of the prefixes 0x 0o 0b 0u, with underscores after the first digit, in 63
// bits. The decimal form is signed; with any prefix, values above the largest
// signed one wrap to negative numbers.
func camlInt(s string) (int, bool) {
	rest, negative := s, false
	if rest != "" && (rest[0] == '-' || rest[0] == '+') {
		negative, rest = rest[0] == '-', rest[1:]
	}
	base, signed := 10, true
	if len(rest) > 1 && rest[0] == '0' {
		if b, ok := map[byte]int{'x': 16, 'o': 8, 'b': 2, 'u': 10}[rest[1]|0x20]; ok {
			base, signed, rest = b, false, rest[2:]
		}
	}
	if strings.HasPrefix(rest, "_") {
		return 0, false
	}
	u, err := strconv.ParseUint(strings.ReplaceAll(rest, "_", ""), base, 63)
	if err != nil {
		return 0, false
	}
	const top = 1 << 62 // just above the largest signed value
	if signed && (u > top || u == top && !negative) {
		return 0, false
	}
	v := int64(u<<1) >> 1
	if negative {
		v = -v << 1 >> 1
	}
	if int64(int(v)) != v {
		return 0, false
	}
	return int(v), true
}

// String returns the user as it is printed in a log: uid:gid, or the name.
func (u User) String() string {
	if u.Name != "" {
		return u.Name
	}
	return fmt.Sprintf("%d:%d", u.UID, u.GID)
}
