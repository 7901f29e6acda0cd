package spec

import (
	"strconv"

	"obuilder.org/obuilder/spec/sexp"
)

// Sexp returns the spec as an S-expression, which [FromSexp] reads. Its fields
// are in a fixed order, and those that say nothing are left out.
func (s *Spec) Sexp() sexp.Node {
	items := make([]sexp.Node, 0, len(s.Builds)+1+len(s.Ops))
	for _, b := range s.Builds {
		items = append(items, sexp.List(sexp.Atom("build"), sexp.Atom(b.Name), b.Spec.Sexp()))
	}
	items = append(items, call("from", s.From))
	for _, op := range s.Ops {
		items = append(items, op.node())
	}
	return sexp.List(items...)
}

// call is (name args...).
func call(name string, args ...string) sexp.Node {
	items := make([]sexp.Node, 1+len(args))
	items[0] = sexp.Atom(name)
	for i, a := range args {
		items[1+i] = sexp.Atom(a)
	}
	return sexp.List(items...)
}

func (o Comment) node() sexp.Node { return call("comment", o.Text) }

func (o Workdir) node() sexp.Node { return call("workdir", o.Path) }

func (o Shell) node() sexp.Node { return call("shell", o.Argv...) }

func (o Env) node() sexp.Node { return call("env", o.Name, o.Value) }

func (o SetUser) node() sexp.Node {
	if o.User.Name != "" {
		return sexp.List(sexp.Atom("user"), call("name", o.User.Name))
	}
	return sexp.List(sexp.Atom("user"),
		call("uid", strconv.Itoa(o.User.UID)),
		call("gid", strconv.Itoa(o.User.GID)))
}

func (o Run) node() sexp.Node {
	items := make([]sexp.Node, 1, 5)
	items[0] = sexp.Atom("run")
	if len(o.Caches) > 0 {
		ns := []sexp.Node{sexp.Atom("cache")}
		for _, c := range o.Caches {
			ns = append(ns, mountNode(c.ID, c.Target, c.BuildkitOptions))
		}
		items = append(items, sexp.List(ns...))
	}
	if len(o.Network) > 0 {
		items = append(items, call("network", o.Network...))
	}
	if len(o.Secrets) > 0 {
		ns := []sexp.Node{sexp.Atom("secrets")}
		for _, s := range o.Secrets {
			ns = append(ns, mountNode(s.ID, s.Target, s.BuildkitOptions))
		}
		items = append(items, sexp.List(ns...))
	}
	return sexp.List(append(items, call("shell", o.Cmd))...)
}

func mountNode(id, target string, options []Option) sexp.Node {
	n := sexp.List(sexp.Atom(id), call("target", target))
	if len(options) > 0 {
		var ns []sexp.Node
		for _, o := range options {
			ns = append(ns, call(o.Name, o.Value))
		}
		n.List = append(n.List, sexp.List(sexp.Atom("buildkit_options"), sexp.List(ns...)))
	}
	return n
}

func (o Copy) node() sexp.Node {
	items := make([]sexp.Node, 1, 5)
	items[0] = sexp.Atom("copy")
	if o.FromBuild {
		items = append(items, sexp.List(sexp.Atom("from"), call("build", o.From)))
	}
	items = append(items, call("src", o.Src...), call("dst", o.Dst))
	if len(o.Exclude) > 0 {
		items = append(items, call("exclude", o.Exclude...))
	}
	return sexp.List(items...)
}

// Pretty returns the spec laid out to be read, as ocurrent/obuilder prints it.
// It has no newline at its end.
func (s *Spec) Pretty() string {
	var p printer
	p.spec(item(s.Sexp()))
	return string(p.buf)
}

// Heading returns what the log shows before op is done in workdir. Long
// operations take several lines.
func Heading(workdir string, op Op) string {
	var p printer
	p.open(true, 2)
	p.text(workdir)
	p.text(": ")
	p.op(item(op.node()))
	return string(p.buf)
}

// FromHeading returns what the log shows before a base image is looked up.
func FromHeading(base string) string {
	var p printer
	p.text("(from ")
	p.atom(atomText(base))
	p.text(")")
	return string(p.buf)
}

// BuildHeading returns what the log shows before a nested build.
func BuildHeading(name string) string { return "(build " + sexp.Quote(name) + " …)" }
