// Package spec is the language of build specs, which is that of
// ocurrent/obuilder: it reads and prints them, checks them, names their steps,
// and turns them into Dockerfiles.
//
//	s, err := spec.Parse("hello.spec", src)
//	if err != nil { ... }              // *spec.Error, with file, line and column
//	ctx := spec.NewContext()
//	base := spec.BaseID(s.From)
//	for _, op := range s.Ops {
//		fmt.Println(spec.Heading(ctx.Workdir, op))
//		switch op := op.(type) {
//		case spec.Run:
//			in, err := ctx.RunInput(base, &op)
//			if err != nil { ... }
//			base = in.ID()             // the id of this step's result
//		case spec.Copy:
//			...
//		default:
//			ctx = ctx.Apply(op)
//		}
//	}
//
// The id of a step is the SHA-256 of an S-expression of all that it depends
// on: [RunInput], [CopyInput] and [BaseID] give exactly the ids of
// ocurrent/obuilder, as the recordings in the package vectors show.
//
// Nothing in this package reads a file or keeps state; all of it is safe for
// concurrent use as long as nobody changes a value that others read.
package spec

import "obuilder.org/obuilder/spec/sexp"

// A Pos is a place in a spec.
type Pos = sexp.Pos

// An Error is what is wrong at a place in a spec. The place is the zero Pos
// for what was made in Go.
type Error = sexp.Error

// A Spec is a base image and what is done to it, after the nested builds that
// it copies from.
type Spec struct {
	Builds  []Build
	From    string // name of the base image
	FromPos Pos
	Ops     []Op
}

// A Build is a nested build. It may copy from the builds before it and from
// those that the spec around it may copy from.
type Build struct {
	Pos  Pos
	Name string
	Spec *Spec
}

// An Op is one operation of a spec: a [Comment], [Workdir], [Shell], [Run],
// [Copy], [SetUser] or [Env]. These values implement it, and are what is found
// in a [Spec]; pointers to them are not valid.
type Op interface {
	Position() Pos
	String() string // as the machine printer prints it
	node() sexp.Node
}

// A Comment does nothing but to appear in the log.
type Comment struct {
	Pos
	Text string
}

// A Workdir sets the directory for the steps that follow.
type Workdir struct {
	Pos
	Path string // relative to the one before, unless it is absolute
}

// A Shell sets what runs the commands that follow.
type Shell struct {
	Pos
	Argv []string // the command is added as the last argument
}

// A Run is a step that runs a command.
type Run struct {
	Pos
	Cmd     string
	Caches  []Cache
	Network []string // names of networks to join; none is no network
	Secrets []Secret
}

// A Copy is a step that copies files from the source directory or from the
// result of a nested build.
type Copy struct {
	Pos
	FromBuild bool
	From      string   // the nested build; if FromBuild
	Src       []string // relative to the source's root
	Dst       string   // a directory if it ends in /
	Exclude   []string // base names, below a source
}

// A SetUser sets the user for the steps that follow.
type SetUser struct {
	Pos
	User User
}

// An Env sets an environment variable for the steps that follow.
type Env struct {
	Pos
	Name, Value string
}

// An Option is a BuildKit option of a [Cache] or [Secret]. It matters only to
// a Dockerfile.
type Option struct {
	Name, Value string
}

// A Cache is a directory that persists between builds.
type Cache struct {
	Pos             Pos
	ID              string
	Target          string // where it is mounted
	BuildkitOptions []Option
}

// A Secret is a file with a value that was given to the build.
type Secret struct {
	Pos             Pos
	ID              string
	Target          string // path of the file
	BuildkitOptions []Option
}

// A User is a Unix user or, when Name is not empty, a Windows one. The zero
// User is root.
type User struct {
	UID, GID int
	Name     string
}

// An EnvVar is one variable of an environment.
type EnvVar struct {
	Name, Value string
}

// Position returns where the operation was read.
func (o Comment) Position() Pos { return o.Pos }

// Position returns where the operation was read.
func (o Workdir) Position() Pos { return o.Pos }

// Position returns where the operation was read.
func (o Shell) Position() Pos { return o.Pos }

// Position returns where the operation was read.
func (o Run) Position() Pos { return o.Pos }

// Position returns where the operation was read.
func (o Copy) Position() Pos { return o.Pos }

// Position returns where the operation was read.
func (o SetUser) Position() Pos { return o.Pos }

// Position returns where the operation was read.
func (o Env) Position() Pos { return o.Pos }

// String returns the operation as the machine printer prints it.
func (o Comment) String() string { return o.node().String() }

// String returns the operation as the machine printer prints it.
func (o Workdir) String() string { return o.node().String() }

// String returns the operation as the machine printer prints it.
func (o Shell) String() string { return o.node().String() }

// String returns the operation as the machine printer prints it.
func (o Run) String() string { return o.node().String() }

// String returns the operation as the machine printer prints it.
func (o Copy) String() string { return o.node().String() }

// String returns the operation as the machine printer prints it.
func (o SetUser) String() string { return o.node().String() }

// String returns the operation as the machine printer prints it.
func (o Env) String() string { return o.node().String() }
