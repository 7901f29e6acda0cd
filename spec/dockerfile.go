package spec

import (
	"fmt"
	"strings"

	"obuilder.org/obuilder/spec/sexp"
)

// DockerOptions are what a Dockerfile is for.
type DockerOptions struct {
	BuildKit bool // with caches and secrets, which plain Docker does not have
	Windows  bool // with ` to escape, which Windows paths need
}

// Dockerfile returns the spec as a Dockerfile, for trying it out where there
// is only Docker. Excludes, networks and, without BuildKit, caches and secrets
// have no counterpart and are left out. The error is an [*Error] for what
// BuildKit cannot do.
func (s *Spec) Dockerfile(o DockerOptions) (string, error) {
	d := dockerfile{DockerOptions: o, escape: `\`}
	var root User
	if o.Windows {
		d.escape = "`"
		d.b.WriteString("#escape=`\n")
		root = User{Name: windowsRoot}
	}
	if err := d.spec("", s, root); err != nil {
		return "", err
	}
	return d.b.String(), nil
}

const windowsRoot = "ContainerAdministrator"

type dockerfile struct {
	DockerOptions
	b      strings.Builder
	escape string
}

// spec writes the stages of s; as is what names the last of them.
func (d *dockerfile) spec(as string, s *Spec, user User) error {
	for _, b := range s.Builds {
		if err := d.spec(" as "+b.Name, b.Spec, user); err != nil {
			return err
		}
		d.b.WriteString("\n")
	}
	d.b.WriteString("FROM " + s.From + as + "\n")
	for _, op := range s.Ops {
		switch op := op.(type) {
		case Comment:
			d.b.WriteString("# " + op.Text)
		case Workdir:
			d.b.WriteString("WORKDIR " + op.Path)
		case Shell:
			args := make([]string, len(op.Argv))
			for i, a := range op.Argv {
				args[i] = `"` + a + `"`
			}
			d.b.WriteString("SHELL [ " + strings.Join(args, ", ") + " ]")
		case SetUser:
			user = op.User
			d.b.WriteString("USER " + user.String())
		case Env:
			quoted := strings.NewReplacer(`"`, d.escape+`"`, d.escape, d.escape+d.escape).Replace(op.Value)
			d.b.WriteString("ENV " + op.Name + `="` + quoted + `"`)
		case Copy:
			d.b.WriteString("COPY ")
			if user.Name == "" && user != (User{}) {
				d.b.WriteString("--chown=" + user.String() + " ")
			}
			if op.FromBuild {
				d.b.WriteString("--from=" + op.From + " ")
			}
			d.b.WriteString(strings.Join(op.Src, " ") + " " + op.Dst)
		case Run:
			if err := d.run(op, user); err != nil {
				return err
			}
		}
		d.b.WriteString("\n")
	}
	return nil
}

func (d *dockerfile) run(op Run, user User) error {
	d.b.WriteString("RUN ")
	if d.BuildKit {
		if user.Name != "" && len(op.Caches)+len(op.Secrets) > 0 {
			return &Error{
				Pos:  op.Pos,
				Msg:  fmt.Sprintf("BuildKit gives caches and secrets to a numeric user, and this step runs as %s", sexp.Quote(user.Name)),
				Hint: "put (user (uid N) (gid N)) before it, or leave BuildKit out",
			}
		}
		for _, s := range op.Secrets {
			d.mount("secret", s.ID, s.Target, user, s.BuildkitOptions)
		}
		for _, c := range op.Caches {
			d.mount("cache", c.ID, c.Target, user, c.BuildkitOptions)
		}
	}
	for i, line := range strings.Split(op.Cmd, "\n") {
		if i > 0 {
			d.b.WriteString(" " + d.escape + "\n    ")
		}
		d.b.WriteString(strings.Trim(line, " \t\r\f"))
	}
	return nil
}

func (d *dockerfile) mount(kind, id, target string, user User, options []Option) {
	fmt.Fprintf(&d.b, "--mount=type=%s,id=%s,target=%s,uid=%d", kind, id, target, user.UID)
	for _, o := range options {
		d.b.WriteString("," + o.Name + "=" + o.Value)
	}
	d.b.WriteString(" ")
}
