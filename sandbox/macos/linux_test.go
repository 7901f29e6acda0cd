package macos

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"obuilder.org/obuilder/sandbox"
)

// realSandbox gives a sandbox for a real user of this Linux machine: mac1000
// when there is one, whose processes are all killed; otherwise one that is
// made, and removed in the end.
func realSandbox(t *testing.T) *Sandbox {
	t.Helper()
	switch {
	case os.Getenv("OBUILDER_TEST_ACCOUNTS") != "1" && os.Getenv("OBUILDER_TEST_DISPOSABLE") != "1":
		t.Skip("makes a user account and kills what it runs: set OBUILDER_TEST_ACCOUNTS=1 for that, or OBUILDER_TEST_DISPOSABLE=1 in a machine that is thrown away")
	case runtime.GOOS != "linux" || os.Geteuid() != 0:
		t.Skip("needs to be root on Linux")
	}
	for _, program := range []string{"su", "bash", "tar"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("needs %s", program)
		}
	}
	secrets, err := os.MkdirTemp("/tmp", "obuilder-secrets-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(secrets) })
	opts := Options{SecretsDir: secrets, Path: os.Getenv("PATH"), Grace: 200 * time.Millisecond}
	if _, err := (Linux{}).Lookup(t.Context(), "mac1000"); err != nil {
		if _, err := exec.LookPath("useradd"); err != nil {
			t.Skip("there is no user mac1000, and no useradd to make one")
		}
		opts.UID, opts.GID = 61234, 61234
		t.Cleanup(func() {
			if out, err := exec.Command("userdel", "mac61234").CombinedOutput(); err != nil {
				t.Errorf("userdel: %v: %s", err, out)
			}
		})
	}
	s, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(s.Home()); !errors.Is(err, fs.ErrNotExist) {
		t.Skipf("there is a %s already, which this test would remove", s.Home())
	}
	t.Cleanup(func() {
		os.RemoveAll(s.Home())
		os.Remove("/Users")
		os.RemoveAll("/tmp/obuilder-" + s.UserName())
	})
	if err := s.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(s.Home(), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := s.Own(t.Context(), sandbox.Config{}, s.Home()); err != nil {
		t.Fatal(err)
	}
	return s
}

// Steps run for real on Linux: su, signals, daemons, temporary files, secrets.
func TestRealSteps(t *testing.T) {
	s := realSandbox(t)
	run := func(cfg sandbox.Config, stdin io.Reader) (string, error) {
		var out bytes.Buffer
		err := s.Run(t.Context(), cfg, stdin, &out)
		return out.String(), err
	}
	bash := func(script string, args ...string) sandbox.Config {
		return sandbox.Config{Workdir: "/", Argv: append([]string{"bash", "-c", script}, args...)}
	}
	uid := strconv.Itoa(s.UID)

	t.Run("environment", func(t *testing.T) {
		if err := os.WriteFile(s.Home()+"/.obuilder_profile.sh", []byte("export PROFILE=read\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		cfg := bash(`id -u; pwd; echo "$HOME|$TMPDIR|$A|$PROFILE|$0|$1|$LEAK"; echo err >&2; cat`, "-l", "-c x")
		cfg.Workdir = "/it's/a dir"
		cfg.Env = []sandbox.EnvVar{{Name: "A", Value: "x'\"$HOME\n y"}, {Name: "A", Value: "old"}}
		t.Setenv("LEAK", "x")
		out, err := run(cfg, strings.NewReader("input"))
		want := uid + "\n" + s.Home() + "/it's/a dir\n" + s.Home() + "|/tmp/obuilder-" + s.UserName() +
			"|x'\"$HOME\n y|read|-l|-c x|\nerr\ninput"
		if diff := cmp.Diff(want, out); err != nil || diff != "" {
			t.Errorf("%v %s", err, diff)
		}
	})
	t.Run("exit", func(t *testing.T) {
		cfg := bash("exit 7")
		_, err := run(cfg, nil)
		if diff := cmp.Diff(error(&sandbox.ExitError{Argv: cfg.Argv, Status: 7}), err); diff != "" {
			t.Error(diff)
		}
		cfg.Workdir = "/usr/local/x/y" // which root owns
		out, err := run(cfg, nil)
		if exit := (*sandbox.ExitError)(nil); !errors.As(err, &exit) || exit.Status == 7 || out == "" {
			t.Errorf("printed %q, %v", out, err)
		}
	})
	t.Run("copy", func(t *testing.T) {
		var archive bytes.Buffer
		w := tar.NewWriter(&archive)
		w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "src/a", Mode: 0o640, Size: 1 << 20})
		w.Write(make([]byte, 1<<20))
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if out, err := run(sandbox.Config{Workdir: "/", Argv: []string{"tar", "-xf", "-"}}, &archive); err != nil {
			t.Fatalf("printed %q, %v", out, err)
		}
		if out, err := run(bash("wc -c < src/a; test -O src/a"), nil); err != nil || strings.TrimSpace(out) != "1048576" {
			t.Errorf("printed %q, %v", out, err)
		}
	})
	t.Run("secrets", func(t *testing.T) {
		cfg := bash(`cd "$OBUILDER_SECRETS_DIR" && cat run/key && ls -ld . run/key | cut -c1-10; pwd; ! ls .. 2>/dev/null`)
		cfg.Secrets = []sandbox.Secret{{Target: "/run/key", Value: []byte("s3cret\n")}}
		out, err := run(cfg, nil)
		want := "s3cret\ndr-x------\n-r--------\n" + s.opts.SecretsDir + "/" + s.UserName() + "/step-"
		if err != nil || !strings.HasPrefix(out, want) || strings.Count(out, "\n") != 4 {
			t.Errorf("printed %q, %v", out, err)
		}
		if left, err := os.ReadDir(s.secretsParent()); err != nil || len(left) > 0 {
			t.Errorf("left %v, %v", left, err)
		}
	})
	none := func(t *testing.T) {
		t.Helper()
		list, err := s.opts.Processes.List(t.Context(), s.UID)
		if err != nil {
			t.Error(err)
		}
		for _, p := range list {
			if !p.zombie() {
				t.Errorf("left: %v", p)
			}
		}
		if left, err := os.ReadDir(s.tmp); err != nil || len(left) > 0 {
			t.Errorf("left %v, %v", left, err)
		}
	}
	// A daemon which has left the process group by the time this ends.
	const daemon = `touch $TMPDIR/x; mkdir -m 500 $TMPDIR/d
		setsid bash -c 'echo up >$TMPDIR/up; exec sleep 300' & until [ -s $TMPDIR/up ]; do sleep 0.05; done; `
	t.Run("daemon", func(t *testing.T) {
		begin := time.Now()
		out, err := run(bash(daemon+"echo begun"), nil)
		if err != nil || out != "begun\n" {
			t.Errorf("printed %q, %v", out, err)
		}
		if took := time.Since(begin); took > 10*time.Second {
			t.Errorf("took %v", took)
		}
		// Its directory is the home.
		if got := s.Holders(t.Context(), s.Home()); len(got) == 0 {
			t.Errorf("the home is held by %v", got)
		}
		if err := s.Quiesce(t.Context()); err != nil {
			t.Error(err)
		}
		none(t)
	})
	t.Run("cancel", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		cfg := bash("trap '' TERM; " + daemon + "echo begun; sleep 300; sleep 300")
		cfg.Secrets = []sandbox.Secret{{Target: "key"}}
		begin := time.Now()
		err := s.Run(ctx, cfg, nil, writeFunc(func(p []byte) (int, error) {
			cancel()
			return len(p), nil
		}))
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if took := time.Since(begin); took > 20*time.Second {
			t.Errorf("took %v", took)
		}
		if err := s.Quiesce(t.Context()); err != nil {
			t.Error(err)
		}
		none(t)
		if left, err := os.ReadDir(s.secretsParent()); err != nil || len(left) > 0 {
			t.Errorf("left %v, %v", left, err)
		}
	})
	t.Run("recover", func(t *testing.T) {
		if _, err := run(bash(daemon), nil); err != nil {
			t.Error(err)
		}
		again, err := New(s.opts)
		if err != nil {
			t.Fatal(err)
		}
		if err := again.Recover(t.Context()); err != nil {
			t.Error(err)
		}
		none(t)
	})
}

type writeFunc func([]byte) (int, error)

func (f writeFunc) Write(p []byte) (int, error) { return f(p) }

// recorder records commands and runs none.
type recorder struct {
	Commands
	argv [][]string
}

func (r *recorder) Output(_ context.Context, argv ...string) (string, error) {
	r.argv = append(r.argv, argv)
	return "", nil
}

func TestLinuxCommands(t *testing.T) {
	r := &recorder{}
	l := Linux{Commands: r, Tmp: t.TempDir()}
	a := Account{Name: "mac61234", UID: 61234, GID: 61234, Home: "/Users/mac61234", Shell: "/bin/bash"}
	if err := l.Create(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	dir, err := l.TempDir(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	want := [][]string{
		{"groupadd", "-g", "61234", "mac61234"},
		{"useradd", "-M", "-u", "61234", "-g", "61234", "-d", "/Users/mac61234", "-s", "/bin/bash", "mac61234"},
		{"chown", "-h", "61234:61234", filepath.Join(l.Tmp, "obuilder-mac61234")},
	}
	if runtime.GOOS == "windows" {
		t.Skip("has no groups with numbers")
	}
	if diff := cmp.Diff(want, r.argv); diff != "" {
		t.Error(diff)
	}
	if err := os.WriteFile(filepath.Join(dir, "x"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := l.ClearTempDir(t.Context(), a, dir); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
	want = [][]string{{"sudo", "-n", "su", "-l", "-s", "/bin/bash", "-c", "script", "--", "mac61234", "bash", "-c", "x"}}
	l.Sudo = true
	if diff := cmp.Diff(want[0], l.Su("mac61234", "script", []string{"bash", "-c", "x"})); diff != "" {
		t.Error(diff)
	}
}

// Something else in place of the directory is neither taken nor followed.
func TestLinuxTempDirIsALink(t *testing.T) {
	outside := t.TempDir()
	keep := filepath.Join(outside, "keep")
	if err := os.WriteFile(keep, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	l := Linux{Commands: &recorder{}, Tmp: t.TempDir()}
	dir := filepath.Join(l.Tmp, "obuilder-mac1000")
	if err := os.Symlink(outside, dir); err != nil {
		t.Skipf("needs links: %v", err)
	}
	if _, err := l.TempDir(t.Context(), Account{Name: "mac1000"}); err == nil {
		t.Error("a link was taken")
	}
	if err := l.ClearTempDir(t.Context(), Account{}, dir); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(keep); err != nil {
		t.Error(err)
	}
}

func TestLinuxList(t *testing.T) {
	proc := t.TempDir()
	const pid = "2147483647" // larger than there can be one
	for name, text := range map[string]string{
		pid + "/status":    "Name:\tmy make\nState:\tD (disk sleep)\nUid:\t1000\t0\t0\t0\n",
		"1/status":         "Name:\tinit\nState:\tS (sleeping)\nUid:\t0\t1000\t0\t0\n",
		"sys/status":       "Uid:\t1000\n",
		"2147483646/other": "gone meanwhile",
	} {
		name = filepath.Join(proc, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	l := Linux{Proc: proc}
	list, err := l.List(t.Context(), 1000)
	if diff := cmp.Diff([]Process{{PID: 2147483647, State: "D", Command: "my make"}}, list); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	if runtime.GOOS != "linux" {
		return
	}
	synctest.Test(t, func(t *testing.T) {
		s, err := newSandbox(Options{Accounts: l, Processes: l, KillTime: time.Minute}, 0)
		if err != nil {
			t.Fatal(err)
		}
		err = s.Quiesce(t.Context())
		if stuck := (*sandbox.StuckError)(nil); !errors.As(err, &stuck) || stuck.Error() != "cannot be killed: "+pid+" (my make, state D)" {
			t.Errorf("got %v", err)
		}
	})
}
