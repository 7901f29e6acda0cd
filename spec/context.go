package spec

import (
	"slices"
	"strings"

	"obuilder.org/obuilder/spec/sexp"
)

// A Context is the state that the operations of a spec change as a build walks
// them. No method changes the one it is called on, nor what that refers to.
type Context struct {
	Env     []EnvVar // newest first
	User    User
	Workdir string
	Shell   []string
	Secrets map[string][]byte // values by id, as they were given to the build
}

// NewContext returns what a build starts with: root, / and the shell
// /usr/bin/env bash -c.
func NewContext() Context {
	return Context{Workdir: "/", Shell: []string{"/usr/bin/env", "bash", "-c"}}
}

// WithBase returns the context for the operations after (from ...), given the
// environment that the base image carries: that comes after what is set
// already, and duplicates are kept.
func (c Context) WithBase(env []EnvVar) Context {
	c.Env = slices.Concat(c.Env, env)
	return c
}

// Apply returns the context after op. Run, copy and comment do not change it.
func (c Context) Apply(op Op) Context {
	switch op := op.(type) {
	case Workdir:
		if isAbs(op.Path) {
			c.Workdir = op.Path
		} else {
			c.Workdir = join(c.Workdir, op.Path)
		}
	case Shell:
		c.Shell = op.Argv
	case SetUser:
		c.User = op.User
	case Env:
		// The variable moves to the front. Of several by its name, which a
		// base image may have, the first goes and the others stay.
		env := make([]EnvVar, 1, len(c.Env)+1)
		env[0] = EnvVar{op.Name, op.Value}
		i := slices.IndexFunc(c.Env, func(v EnvVar) bool { return v.Name == op.Name })
		if i < 0 {
			i = len(c.Env)
		}
		env = append(env, c.Env[:i]...)
		c.Env = append(env, c.Env[min(i+1, len(c.Env)):]...)
	}
	return c
}

// isAbs reports whether a working directory is absolute, on Unix or on
// Windows.
func isAbs(path string) bool {
	if strings.HasPrefix(path, "/") {
		return true
	}
	if len(path) < 3 || path[1] != ':' || path[2] != '/' && path[2] != '\\' {
		return false
	}
	drive := path[0] | 0x20
	return 'a' <= drive && drive <= 'z'
}

// join puts a slash between two paths unless there is one. It does not clean
// them: paths are hashed as they are written.
func join(dir, path string) string {
	if !strings.HasSuffix(dir, "/") {
		dir += "/"
	}
	return dir + path
}

// isDir reports whether a destination is that of a directory to copy into.
func isDir(dst string) bool { return strings.HasSuffix(dst, "/") }

// CopyDst returns the destination of a copy as it is hashed: relative to the
// working directory unless it begins with a slash.
func (c Context) CopyDst(dst string) string {
	if strings.HasPrefix(dst, "/") {
		return dst
	}
	return join(c.Workdir, dst)
}

// RunInput returns what a run step depends on, given the id of the result that
// it starts from. The error is an [*Error] for a secret that has no value.
func (c Context) RunInput(base string, run *Run) (RunInput, error) {
	in := RunInput{
		Base:    base,
		Workdir: c.Workdir,
		User:    c.User,
		Env:     c.Env,
		Cmd:     run.Cmd,
		Shell:   c.Shell,
		Network: run.Network,
	}
	for _, s := range run.Secrets {
		value, ok := c.Secrets[s.ID]
		if !ok {
			pos := s.Pos
			if !pos.IsValid() {
				pos = run.Pos
			}
			return RunInput{}, &Error{
				Pos:  pos,
				Msg:  "the secret " + quoteExcerpt(s.ID) + " was not given to this build",
				Hint: "give it with --secret " + excerpt(sexp.Atom(s.ID)) + ":FILE",
			}
		}
		in.Secrets = append(in.Secrets, SecretValue{value, s.Target})
	}
	// ocurrent/obuilder happens to reverse them, and the order is hashed.
	slices.Reverse(in.Secrets)
	return in, nil
}
