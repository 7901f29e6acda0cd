package sandbox

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
)

// DefaultUID is the user id of the build user where none is given.
const DefaultUID = 1000

// DefaultBrewPath is where Homebrew is on Intel Macs; on Apple silicon it is
// in /opt/homebrew.
const DefaultBrewPath = "/usr/local"

// A Layout says who the build user is and where its file systems are mounted:
// what all sandboxes have in common. Methods do not change it.
type Layout struct {
	UID      int    // of the build user
	GID      int    // of its primary group
	BrewPath string // mount point of the Homebrew prefix
}

// NewLayout gives the layout for a build user. What is zero gets its default:
// DefaultUID, a GID of 1000 (as ocurrent/obuilder has it), DefaultBrewPath.
// It is an error for a path not to be absolute and clean, or to be above or
// below the home of the build user.
func NewLayout(uid, gid int, brewPath string) (Layout, error) {
	if uid == 0 {
		uid = DefaultUID
	}
	if gid == 0 {
		gid = 1000
	}
	if brewPath == "" {
		brewPath = DefaultBrewPath
	}
	l := Layout{UID: uid, GID: gid, BrewPath: brewPath}
	switch {
	case uid < 0 || gid < 0:
		return Layout{}, fmt.Errorf("invalid build user %d, group %d: negative", uid, gid)
	case !path.IsAbs(brewPath) || path.Clean(brewPath) != brewPath || brewPath == "/":
		return Layout{}, fmt.Errorf("invalid brew path %q: not an absolute path", brewPath)
	case below(l.Home(), brewPath) || below(brewPath, l.Home()):
		return Layout{}, fmt.Errorf("invalid brew path %q: overlaps the home of the build user, %s", brewPath, l.Home())
	}
	return l, nil
}

// UserName gives the name of the build user: "mac1000".
func (l Layout) UserName() string { return "mac" + strconv.Itoa(l.UID) }

// Home gives the root directory of a step: "/Users/mac1000".
func (l Layout) Home() string { return "/Users/" + l.UserName() }

// Mounts is [Sandbox.Mounts].
func (l Layout) Mounts() []Mount {
	return []Mount{{Child: "home", Path: l.Home()}, {Child: "brew", Path: l.BrewPath}}
}

// Resolve is [Sandbox.Resolve]. It is lexical: links are not looked at.
func (l Layout) Resolve(workdir, name string) (string, error) {
	full := name
	if !path.IsAbs(name) {
		full = workdir + "/" + name
	}
	if strings.ContainsRune(full, 0) {
		return "", &RefusedError{Reason: fmt.Sprintf("path %q has a NUL byte", full)}
	}
	at := "/"
	for component := range strings.SplitSeq(full, "/") {
		switch component {
		case "", ".":
		case "..":
			if at == "/" || l.isMount(at) {
				return "", &RefusedError{
					Reason: fmt.Sprintf("path %q leads out of the root directory of the step", full),
					Hint:   fmt.Sprintf("paths are taken below %s or %s", l.Home(), l.BrewPath),
				}
			}
			at = path.Dir(at)
		default:
			at = path.Join(at, component)
		}
	}
	for _, m := range l.Mounts() {
		if below(m.Path, at) {
			return at, nil
		}
	}
	return path.Join(l.Home(), at), nil
}

func (l Layout) isMount(name string) bool {
	return slices.ContainsFunc(l.Mounts(), func(m Mount) bool { return m.Path == name })
}

// below reports whether name is dir or below it.
func below(dir, name string) bool {
	return name == dir || strings.HasPrefix(name, strings.TrimSuffix(dir, "/")+"/")
}

// Check gives a *RefusedError for a command that no sandbox can run: no
// program, a path outside of the step's root directory, a cache that would
// hide a mount point, an unusable name of a variable or of a secret, or a
// network that a Mac does not have.
func (l Layout) Check(cfg Config) error {
	if len(cfg.Argv) == 0 || cfg.Argv[0] == "" {
		return &RefusedError{Reason: "no command to run"}
	}
	for _, arg := range cfg.Argv {
		if strings.ContainsRune(arg, 0) {
			return &RefusedError{Reason: fmt.Sprintf("argument %q has a NUL byte", arg)}
		}
	}
	// env(1) takes such a name for an assignment or an option.
	if strings.Contains(cfg.Argv[0], "=") || strings.HasPrefix(cfg.Argv[0], "-") {
		return &RefusedError{Reason: fmt.Sprintf("program %q: its name has a '=' or begins with '-'", cfg.Argv[0])}
	}
	if _, err := l.Resolve("/", cfg.Workdir); err != nil {
		return err
	}
	for _, v := range cfg.Env {
		if v.Name == "" || strings.ContainsAny(v.Name, "=\x00") || v.Name[0] == '-' {
			return &RefusedError{
				Reason: fmt.Sprintf("%q cannot be the name of an environment variable", v.Name),
				Hint:   "it is empty, has a '=' or a NUL byte, or begins with '-'",
			}
		}
		if strings.ContainsRune(v.Value, 0) {
			return &RefusedError{Reason: fmt.Sprintf("environment variable %s has a NUL byte", v.Name)}
		}
	}
	for _, c := range cfg.Caches {
		target, err := l.Resolve(cfg.Workdir, c.Target)
		if err != nil {
			return err
		}
		if l.isMount(target) {
			return &RefusedError{
				Reason: fmt.Sprintf("cache %s would hide all of %s", c.Name, target),
				Hint:   "give it a directory of its own as target",
			}
		}
	}
	for i, s := range cfg.Secrets {
		name, err := s.File()
		if err != nil {
			return err
		}
		for _, other := range cfg.Secrets[:i] {
			if o, err := other.File(); err == nil && (below(o, name) || below(name, o)) {
				return &RefusedError{Reason: fmt.Sprintf("the secrets for %q and %q are in each other's way", other.Target, s.Target)}
			}
		}
	}
	for _, n := range cfg.Network {
		if n != "host" {
			return &RefusedError{
				Reason: fmt.Sprintf("network %q: there is only %q here", n, "host"),
				Hint:   "without containers every step has the network of the machine",
			}
		}
	}
	return nil
}

// CheckUser gives a *RefusedError for a user that is neither root, the
// default, which has always meant the build user on a Mac, nor the build user.
func (l Layout) CheckUser(u User) error {
	switch {
	case u.Name != "":
		return &RefusedError{
			Reason: fmt.Sprintf("user %q: users are given by uid and gid here", u.Name),
			Hint:   fmt.Sprintf("write (user (uid %d) (gid %d)), or leave it out", l.UID, l.GID),
		}
	case u.UID == 0, u.UID == l.UID && u.GID == l.GID:
		return nil
	case u.UID == l.UID:
		return &RefusedError{
			Reason: fmt.Sprintf("group %d is not the build user's group %d", u.GID, l.GID),
			Hint:   fmt.Sprintf("write (user (uid %d) (gid %d)), or leave it out", l.UID, l.GID),
		}
	}
	return &RefusedError{
		Reason: fmt.Sprintf("user %d is not the build user %d", u.UID, l.UID),
		Hint:   fmt.Sprintf("every step runs as %s: write (user (uid %d) (gid %d)), or leave it out", l.UserName(), l.UID, l.GID),
	}
}

// File gives the name of the secret's file below the directory of secrets:
// its target without leading slashes. A *RefusedError when that names no file
// there.
func (s Secret) File() (string, error) {
	var parts []string
	for component := range strings.SplitSeq(s.Target, "/") {
		switch {
		case component == "" || component == ".":
		case component == ".." || strings.ContainsAny(component, "\x00\\"):
			return "", &RefusedError{Reason: fmt.Sprintf("target %q of a secret has %q in it", s.Target, component)}
		default:
			parts = append(parts, component)
		}
	}
	if len(parts) == 0 {
		return "", &RefusedError{Reason: fmt.Sprintf("target %q of a secret names no file", s.Target)}
	}
	return strings.Join(parts, "/"), nil
}

// Environ gives the environment as NAME=VALUE: of each name the first of
// first, then of vars, then of last.
func Environ(first, vars, last []EnvVar) []string {
	var environ []string
	seen := make(map[string]bool)
	for _, v := range slices.Concat(first, vars, last) {
		if !seen[v.Name] {
			seen[v.Name] = true
			environ = append(environ, v.Name+"="+v.Value)
		}
	}
	return environ
}
