package local_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"obuilder.org/obuilder/sandbox"
	"obuilder.org/obuilder/sandbox/local"
	"obuilder.org/obuilder/zfs"
)

// A store is a sandbox with its mount points, as the embedded store has them.
type store struct {
	*local.Sandbox
	root, state string
}

func newStore(t *testing.T) store {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("needs sh, which Windows does not have")
	}
	s := store{root: t.TempDir(), state: filepath.Join(t.TempDir(), "state")}
	for _, mount := range []string{"/Users/mac1000", "/usr/local"} {
		// A mount point is a link to where the clone is.
		clone := t.TempDir()
		if err := os.MkdirAll(filepath.Dir(s.root+mount), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(clone, s.root+mount); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	s.Sandbox, err = local.New(local.Options{StateDir: s.state, Path: os.Getenv("PATH"), Grace: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s store) config(script string) sandbox.Config {
	return sandbox.Config{
		Workdir:  "/",
		Argv:     []string{"/usr/bin/env", "bash", "-c", script},
		HostPath: zfs.OSFiles{Root: s.root}.HostPath,
	}
}

func (s store) run(t *testing.T, cfg sandbox.Config) (string, error) {
	t.Helper()
	var out bytes.Buffer
	err := s.Run(t.Context(), cfg, nil, &out)
	return out.String(), err
}

func (s store) empty(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(s.state, dir))
	if err != nil || len(entries) != 0 {
		t.Errorf("%s holds %v, %v", dir, entries, err)
	}
}

// Nothing of the environment of obuilder gets through, except for the PATH.
func TestEnvironment(t *testing.T) {
	t.Setenv("LEAK", "x")
	s := newStore(t)
	cfg := s.config("")
	cfg.Argv = []string{"env"}
	cfg.Env = []sandbox.EnvVar{{Name: "A", Value: "new"}, {Name: "A", Value: "old"}, {Name: "USER", Value: "me"}}
	out, err := s.run(t, cfg)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	vars := map[string]string{}
	for line := range strings.Lines(out) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		names = append(names, name)
		vars[name] = value
	}
	slices.Sort(names)
	if diff := cmp.Diff([]string{"A", "HOME", "LOGNAME", "OBUILDER_STEP", "PATH", "TMPDIR", "USER"}, names); diff != "" {
		t.Error(diff)
	}
	home := s.root + "/Users/mac1000"
	if vars["A"] != "new" || vars["USER"] != "me" || vars["HOME"] != home ||
		!strings.HasPrefix(vars["PATH"], s.root+"/usr/local/bin:") {
		t.Errorf("got %v", vars)
	}
	if !strings.HasPrefix(vars["TMPDIR"], s.state) {
		t.Errorf("TMPDIR is %s", vars["TMPDIR"])
	}
}

func TestTmpDir(t *testing.T) {
	s := newStore(t)
	out, err := s.run(t, s.config(`mkdir -p $TMPDIR/a/b; chmod 500 $TMPDIR/a; touch $TMPDIR/x && echo ok`))
	if err != nil || out != "ok\n" {
		t.Errorf("printed %q, %v", out, err)
	}
	s.empty(t, "tmp")
}

func TestWorkdir(t *testing.T) {
	s := newStore(t)
	if err := os.WriteFile(s.root+"/Users/mac1000/file", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	outside := t.TempDir()
	if err := os.Symlink(outside, s.root+"/Users/mac1000/out"); err != nil {
		t.Fatal(err)
	}
	for workdir, want := range map[string]string{
		"/":                    "/Users/mac1000",
		"/src/a":               "/Users/mac1000/src/a",
		"rel":                  "/Users/mac1000/rel",
		"/Users/mac1000/src/b": "/Users/mac1000/src/b",
		"/usr/local/c":         "/usr/local/c",
	} {
		cfg := s.config("touch here")
		cfg.Workdir = workdir
		if out, err := s.run(t, cfg); err != nil || out != "" {
			t.Errorf("%s: %q, %v", workdir, out, err)
		}
		if _, err := os.Lstat(s.root + want + "/here"); err != nil {
			t.Errorf("%s: %v", workdir, err)
		}
	}
	for _, workdir := range []string{"/file", "/file/x", "/out/x"} {
		cfg := s.config("exit 0")
		cfg.Workdir = workdir
		out, err := s.run(t, cfg)
		exit := (*sandbox.ExitError)(nil)
		if !errors.As(err, &exit) || !strings.HasPrefix(out, "workdir: ") {
			t.Errorf("%s: %q, %v", workdir, out, err)
		}
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) != 0 {
		t.Errorf("outside are %v, %v", entries, err)
	}
}

// A workdir is also made in a cache, which is a link to elsewhere.
func TestWorkdirInCache(t *testing.T) {
	s := newStore(t)
	cache := t.TempDir()
	if err := os.Symlink(cache, s.root+"/Users/mac1000/c"); err != nil {
		t.Fatal(err)
	}
	cfg := s.config("touch here")
	cfg.Workdir = "/c/a/b"
	cfg.Caches = []sandbox.CacheMount{{Name: "c", Target: "/c"}}
	if out, err := s.run(t, cfg); err != nil {
		t.Errorf("printed %q, %v", out, err)
	}
	if _, err := os.Lstat(cache + "/a/b/here"); err != nil {
		t.Error(err)
	}
}

// A home that is not mounted is not made.
func TestNoHome(t *testing.T) {
	s := newStore(t)
	home := s.root + "/Users/mac1000"
	if err := os.Remove(home); err != nil {
		t.Fatal(err)
	}
	_, err := s.run(t, s.config("true"))
	if exit := (*sandbox.ExitError)(nil); err == nil || errors.As(err, &exit) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Lstat(home); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it was made: %v", err)
	}
}

func TestRunTar(t *testing.T) {
	if _, err := exec.LookPath("tar"); err != nil {
		t.Skip("needs tar")
	}
	s := newStore(t)
	src := t.TempDir()
	if err := os.WriteFile(src+"/a", []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	stream, err := exec.Command("tar", "-C", src, "-cf", "-", "a").Output()
	if err != nil {
		t.Fatal(err)
	}
	cfg := s.config("")
	cfg.Argv = []string{"tar", "-xf", "-"}
	if err := s.Run(t.Context(), cfg, bytes.NewReader(stream), io.Discard); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(s.root + "/Users/mac1000/a"); err != nil || string(got) != "x" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestExit(t *testing.T) {
	s := newStore(t)
	cfg := s.config("echo no; exit 7")
	out, err := s.run(t, cfg)
	if diff := cmp.Diff(error(&sandbox.ExitError{Argv: cfg.Argv, Status: 7}), err); diff != "" || out != "no\n" {
		t.Errorf("printed %q: %s", out, diff)
	}
	cfg.Argv = []string{"no-such-program"}
	out, err = s.run(t, cfg)
	if exit := (*sandbox.ExitError)(nil); !errors.As(err, &exit) || exit.Status < 126 || !strings.Contains(out, "no-such-program") {
		t.Errorf("printed %q, %v", out, err)
	}
}

func TestSecrets(t *testing.T) {
	s := newStore(t)
	cfg := s.config(`cat "$OBUILDER_SECRETS_DIR/run/key"; ls -ld "$OBUILDER_SECRETS_DIR"/run/key | cut -c1-10; echo $OBUILDER_SECRETS_DIR; exit 1`)
	cfg.Secrets = []sandbox.Secret{{Target: "/run/key", Value: []byte("s3cret\n")}}
	cfg.Env = []sandbox.EnvVar{{Name: "OBUILDER_SECRETS_DIR", Value: "/elsewhere"}}
	out, err := s.run(t, cfg)
	if exit := (*sandbox.ExitError)(nil); !errors.As(err, &exit) {
		t.Error(err)
	}
	if !strings.HasPrefix(out, "s3cret\n-r--------\n"+s.state) {
		t.Errorf("printed %q", out)
	}
	s.empty(t, "secrets")

	cfg.Secrets[0].Target = "../../x"
	for _, err := range []error{s.Check(cfg), func() error { _, err := s.run(t, cfg); return err }()} {
		if refused := (*sandbox.RefusedError)(nil); !errors.As(err, &refused) {
			t.Errorf("got %v", err)
		}
	}
}

func TestCancel(t *testing.T) {
	s := newStore(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cfg := s.config("echo begun; sleep 100")
	cfg.Secrets = []sandbox.Secret{{Target: "key", Value: []byte("x")}}
	err := s.Run(ctx, cfg, nil, writeFunc(func(p []byte) (int, error) {
		cancel()
		return len(p), nil
	}))
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	s.empty(t, "secrets")
	s.empty(t, "tmp")
}

type writeFunc func([]byte) (int, error)

func (f writeFunc) Write(p []byte) (int, error) { return f(p) }

// A user is not looked at; a network that is not there is refused.
func TestCheck(t *testing.T) {
	s := newStore(t)
	cfg := s.config("true")
	cfg.User = sandbox.User{UID: 501, GID: 20}
	if err := s.Check(cfg); err != nil {
		t.Error(err)
	}
	cfg.Network = []string{"bridge"}
	if refused := (*sandbox.RefusedError)(nil); !errors.As(s.Check(cfg), &refused) {
		t.Error("the network was not refused")
	}
}

func TestUnreachable(t *testing.T) {
	s := newStore(t)
	cfg := s.config("true")
	cfg.HostPath = func(string) (string, bool) { return "", false }
	_, err := s.run(t, cfg)
	if exit := (*sandbox.ExitError)(nil); err == nil || errors.As(err, &exit) {
		t.Errorf("got %v", err)
	}
}

// A daemon that left the process group is found all the same on Linux, by the
// next process of obuilder too.
func TestQuiesce(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs /proc, which is on Linux only")
	}
	for name, end := range map[string]func(store, *testing.T) error{
		"quiesce": func(s store, t *testing.T) error { return s.Quiesce(t.Context()) },
		"recover": func(s store, t *testing.T) error {
			again, err := local.New(local.Options{StateDir: s.state})
			if err != nil {
				return err
			}
			return again.Recover(t.Context())
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			out, err := s.run(t, s.config(`setsid bash -c 'echo >up; exec sleep 100' >/dev/null 2>&1 & until [ -e up ]; do sleep 0.01; done; echo $!`))
			if err != nil {
				t.Fatal(err)
			}
			pid, err := strconv.Atoi(strings.TrimSpace(out))
			if err != nil {
				t.Fatal(err)
			}
			if err := end(s, t); err != nil {
				t.Error(err)
			}
			environ, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
			if err == nil && len(environ) > 0 {
				t.Errorf("process %d still runs", pid)
			}
		})
	}
}

func TestRecover(t *testing.T) {
	s := newStore(t)
	if err := s.Recover(t.Context()); err != nil {
		t.Errorf("nothing to recover: %v", err)
	}
	for _, name := range []string{"secrets/step-1/key", "tmp/1/x"} {
		name := filepath.Join(s.state, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, nil, 0o400); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Recover(t.Context()); err != nil {
		t.Error(err)
	}
	s.empty(t, "secrets")
	s.empty(t, "tmp")
}

func TestNew(t *testing.T) {
	if _, err := local.New(local.Options{}); err == nil {
		t.Error("taken without a directory")
	}
	state := filepath.Join(t.TempDir(), "state")
	if _, err := local.New(local.Options{StateDir: state, BrewPath: "brew"}); err == nil {
		t.Error("taken with a relative brew path")
	}
	if _, err := os.Lstat(state); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("New made something: %v", err)
	}
}
