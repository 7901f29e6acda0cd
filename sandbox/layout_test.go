package sandbox_test

import (
	"errors"
	"path"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"obuilder.org/obuilder/sandbox"
	"pgregory.net/rapid"
)

func layout(t testing.TB) sandbox.Layout {
	t.Helper()
	l, err := sandbox.NewLayout(0, 0, "")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestResolve(t *testing.T) {
	for _, test := range []struct{ workdir, path, want string }{
		{"/", "/", "/Users/mac1000"},
		{"/", "", "/Users/mac1000"},
		{"", "", "/Users/mac1000"},
		{"/", "/src", "/Users/mac1000/src"},
		{"/", "/src/", "/Users/mac1000/src"},
		{"/src", "a/./b//c", "/Users/mac1000/src/a/b/c"},
		{"src", "a", "/Users/mac1000/src/a"},
		{"/src", "../a", "/Users/mac1000/a"},
		{"/src", "/a", "/Users/mac1000/a"},
		{"/Users/mac1000/src", "a", "/Users/mac1000/src/a"},
		{"/", "/Users/mac1000", "/Users/mac1000"},
		{"/", "/Users/mac10001/x", "/Users/mac1000/Users/mac10001/x"},
		{"/", "/usr/local/bin", "/usr/local/bin"},
		{"/", "/usr/localx", "/Users/mac1000/usr/localx"},
		{"/", "/usr/../etc", "/Users/mac1000/etc"},
		{"/usr/local", "bin/../lib", "/usr/local/lib"},
		{"/", "~/x", "/Users/mac1000/~/x"},
	} {
		got, err := layout(t).Resolve(test.workdir, test.path)
		if err != nil || got != test.want {
			t.Errorf("Resolve(%q, %q) = %q, %v, want %q", test.workdir, test.path, got, err, test.want)
		}
	}
	for _, test := range [][2]string{
		{"/", "/../x"},
		{"/", ".."},
		{"/src", "../../x"},
		{"/", "a/../../a"},
		{"..", "a"},
		{"/Users/mac1000", "../mac1001/x"},
		{"/usr/local", ".."},
		{"/", "a\x00b"},
	} {
		got, err := layout(t).Resolve(test[0], test[1])
		if refused := (*sandbox.RefusedError)(nil); !errors.As(err, &refused) {
			t.Errorf("Resolve(%q, %q) = %q, %v, want a *RefusedError", test[0], test[1], got, err)
		}
	}
}

// What Resolve gives is below a mount point, clean, and resolves to itself.
func TestResolveStaysInside(t *testing.T) {
	l := layout(t)
	component := rapid.SampledFrom([]string{"", ".", "..", "a", "Users", "mac1000", "usr", "local", "\\", "é"})
	join := func(parts []string) string { return strings.Join(parts, "/") }
	paths := rapid.Map(rapid.SliceOfN(component, 0, 8), join)
	rapid.Check(t, func(t *rapid.T) {
		workdir, name := paths.Draw(t, "workdir"), paths.Draw(t, "path")
		got, err := l.Resolve(workdir, name)
		if err != nil {
			return
		}
		if got != path.Clean(got) {
			t.Fatalf("%q is not clean", got)
		}
		inside := false
		for _, m := range l.Mounts() {
			inside = inside || got == m.Path || strings.HasPrefix(got, m.Path+"/")
		}
		if !inside {
			t.Fatalf("%q is outside", got)
		}
		if again, err := l.Resolve("/", got); err != nil || again != got {
			t.Fatalf("%q resolves to %q, %v", got, again, err)
		}
	})
}

func TestNewLayout(t *testing.T) {
	l := layout(t)
	want := []sandbox.Mount{{Child: "home", Path: "/Users/mac1000"}, {Child: "brew", Path: "/usr/local"}}
	if diff := cmp.Diff(want, l.Mounts()); diff != "" {
		t.Error(diff)
	}
	for _, brew := range []string{"usr/local", "/usr/local/", "/", "/Users", "/Users/mac1000/brew", "/a/../b"} {
		if l, err := sandbox.NewLayout(1000, 0, brew); err == nil {
			t.Errorf("brew path %q gave %v", brew, l)
		}
	}
	if _, err := sandbox.NewLayout(-1, 0, ""); err == nil {
		t.Error("a negative uid was taken")
	}
}

func TestCheck(t *testing.T) {
	good := func() sandbox.Config {
		return sandbox.Config{
			Workdir: "/src",
			Argv:    []string{"/usr/bin/env", "bash", "-c", "make"},
			Env:     []sandbox.EnvVar{{Name: "A", Value: "x=y"}, {Name: "A.b c", Value: ""}},
			Network: []string{"host"},
			Caches:  []sandbox.CacheMount{{Name: "opam", Target: ".opam"}},
			Secrets: []sandbox.Secret{{Target: "/run/key"}, {Target: "/run/key2"}},
		}
	}
	if err := layout(t).Check(good()); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*sandbox.Config){
		"no command":       func(c *sandbox.Config) { c.Argv = nil },
		"empty program":    func(c *sandbox.Config) { c.Argv = []string{""} },
		"assignment":       func(c *sandbox.Config) { c.Argv[0] = "A=b" },
		"option":           func(c *sandbox.Config) { c.Argv[0] = "-i" },
		"NUL in argument":  func(c *sandbox.Config) { c.Argv[3] = "a\x00" },
		"workdir outside":  func(c *sandbox.Config) { c.Workdir = "/.." },
		"empty name":       func(c *sandbox.Config) { c.Env[0].Name = "" },
		"name with =":      func(c *sandbox.Config) { c.Env[0].Name = "A=" },
		"name is option":   func(c *sandbox.Config) { c.Env[0].Name = "-u" },
		"NUL in variable":  func(c *sandbox.Config) { c.Env[0].Value = "\x00" },
		"cache outside":    func(c *sandbox.Config) { c.Caches[0].Target = "../../x" },
		"cache over home":  func(c *sandbox.Config) { c.Caches[0].Target = "/" },
		"cache over brew":  func(c *sandbox.Config) { c.Caches[0].Target = "/usr/local/" },
		"secret outside":   func(c *sandbox.Config) { c.Secrets[0].Target = "/run/../../etc/passwd" },
		"secret nowhere":   func(c *sandbox.Config) { c.Secrets[0].Target = "/" },
		"same secret":      func(c *sandbox.Config) { c.Secrets[0].Target = "run//key2" },
		"secret in secret": func(c *sandbox.Config) { c.Secrets[0].Target = "/run/key2/x" },
		"network none":     func(c *sandbox.Config) { c.Network = []string{"none"} },
	} {
		cfg := good()
		change(&cfg)
		if refused := (*sandbox.RefusedError)(nil); !errors.As(layout(t).Check(cfg), &refused) {
			t.Errorf("%s: was not refused", name)
		}
	}
}

func TestCheckUser(t *testing.T) {
	l := layout(t)
	for _, u := range []sandbox.User{{}, {UID: 0, GID: 5}, {UID: 1000, GID: 1000}} {
		if err := l.CheckUser(u); err != nil {
			t.Errorf("%v: %v", u, err)
		}
	}
	for _, u := range []sandbox.User{{UID: 501, GID: 20}, {UID: 1000, GID: 20}, {Name: "ContainerAdministrator"}} {
		if refused := (*sandbox.RefusedError)(nil); !errors.As(l.CheckUser(u), &refused) || refused.Hint == "" {
			t.Errorf("%v was not refused with a hint", u)
		}
	}
}

func TestEnviron(t *testing.T) {
	got := sandbox.Environ(
		[]sandbox.EnvVar{{Name: "A", Value: "first"}},
		[]sandbox.EnvVar{{Name: "B", Value: "new"}, {Name: "A", Value: "lost"}, {Name: "B", Value: "old"}},
		[]sandbox.EnvVar{{Name: "B", Value: "default"}, {Name: "C", Value: ""}})
	if diff := cmp.Diff([]string{"A=first", "B=new", "C="}, got); diff != "" {
		t.Error(diff)
	}
}
