package macos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"obuilder.org/obuilder/sandbox"
	"obuilder.org/obuilder/sandbox/process"
)

var lookup = []string{
	"dscl . -read /Users/mac1000 UniqueID PrimaryGroupID UserShell NFSHomeDirectory",
	"dscl . -search /Users UniqueID 1000",
}

var tempDir = []string{
	"sudo -n -u mac1000 -- getconf DARWIN_USER_TEMP_DIR",
	"getconf DARWIN_USER_TEMP_DIR",
}

func lines(parts ...any) []string {
	var all []string
	for _, p := range parts {
		switch p := p.(type) {
		case string:
			all = append(all, p)
		case []string:
			all = append(all, p...)
		}
	}
	return all
}

func TestPrepareCreates(t *testing.T) {
	m := newMac(t)
	s := m.sandbox(0)
	if err := s.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.ran(lines(lookup,
		"dscl . -create /Users/mac1000 UniqueID 1000",
		"dscl . -create /Users/mac1000 PrimaryGroupID 1000",
		"dscl . -create /Users/mac1000 UserShell /bin/bash",
		"dscl . -create /Users/mac1000 NFSHomeDirectory /Users/mac1000",
		tempDir)...)
	// Once is enough, for this process and for the next.
	if err := s.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.ran()
	if err := m.sandbox(0).Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.ran(lines(lookup, tempDir)...)
}

func TestPrepareWithSudo(t *testing.T) {
	m := newMac(t)
	m.write("account", "UniqueID: 1000\n") // its creation was cut short
	if err := m.sandbox(501).Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	var create []string
	for _, p := range []string{"UniqueID 1000", "PrimaryGroupID 1000", "UserShell /bin/bash", "NFSHomeDirectory /Users/mac1000"} {
		create = append(create, "sudo -n dscl . -create /Users/mac1000 "+p, "dscl . -create /Users/mac1000 "+p)
	}
	m.ran(lines(lookup, create, tempDir)...)
}

// All that the build user runs is killed: an account that is not it is never taken.
func TestPrepareRefuses(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"id is alice's":  {"search": "alice\t\tUniqueID = (\n    1000\n)\n"},
		"another id":     {"account": "UniqueID: 501\nNFSHomeDirectory: /Users/mac1000\nUserShell: /bin/bash\n"},
		"another home":   {"account": "UniqueID: 1000\nNFSHomeDirectory: /Users/alice\nUserShell: /bin/bash\n"},
		"no number":      {"account": "UniqueID: x\n"},
		"no temporaries": {"getconf": "\n"},
	} {
		m := newMac(t)
		m.existing()
		for file, contents := range files {
			m.write(file, contents)
		}
		s := m.sandbox(0)
		if err := s.Prepare(t.Context()); err == nil || !strings.Contains(err.Error(), "mac1000") {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := newSandbox(Options{UID: 501}, 501); err == nil {
		t.Error("obuilder's own user was taken")
	}
}

func (m mac) run(s *Sandbox, cfg sandbox.Config) (string, error) {
	var out bytes.Buffer
	cfg.HostPath = m.hostPath
	err := s.Run(m.t.Context(), cfg, strings.NewReader("in"), &out)
	return strings.ReplaceAll(out.String(), m.dir, "M"), err
}

func TestRun(t *testing.T) {
	m := newMac(t)
	m.existing()
	m.write("mnt/Users/mac1000/.obuilder_profile.sh", "export PROFILE=read\n")
	s := m.sandbox(0)
	if err := s.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.ran(lines(lookup, tempDir)...)
	out, err := m.run(s, sandbox.Config{
		Workdir: "/",
		Argv:    []string{"/usr/bin/env", "bash", "-c", `echo "$A|$B|$PROFILE|$TMPDIR|$LOGIN"; pwd; cat; echo; exit 3`},
		Env: []sandbox.EnvVar{
			{Name: "A", Value: `it's $HOME "quoted"`}, {Name: "B", Value: ""}, {Name: "A", Value: "lost"},
		},
	})
	if exit := (*sandbox.ExitError)(nil); !errors.As(err, &exit) || exit.Status != 3 || exit.Argv[0] != "/usr/bin/env" {
		t.Errorf("got %v", err)
	}
	if diff := cmp.Diff("it's $HOME \"quoted\"||read|M/T/|yes\nM/mnt/Users/mac1000\nin\n", out); diff != "" {
		t.Error(diff)
	}
	m.ran(`su -l mac1000 -c -- source ~/.obuilder_profile.sh && env 'A=it'\''s $HOME "quoted"' 'B=' 'TMPDIR=M/T/' "$0" "$@"` +
		` /usr/bin/env bash -c echo "$A|$B|$PROFILE|$TMPDIR|$LOGIN"; pwd; cat; echo; exit 3`)
}

// The exact arguments, which the record of TestRun does not tell apart.
func TestSuArguments(t *testing.T) {
	want := []string{"su", "-l", "mac1000", "-c", "--", `env "$0" "$@"`, "bash", "-c", "a b"}
	if diff := cmp.Diff(want, Darwin{}.Su("mac1000", `env "$0" "$@"`, []string{"bash", "-c", "a b"})); diff != "" {
		t.Error(diff)
	}
	want = append([]string{"sudo", "-n"}, want...)
	if diff := cmp.Diff(want, Darwin{Sudo: true}.Su("mac1000", `env "$0" "$@"`, []string{"bash", "-c", "a b"})); diff != "" {
		t.Error(diff)
	}
}

// A base without a profile is no error; a workdir is gone into; all is through sudo.
func TestRunWithSudo(t *testing.T) {
	m := newMac(t)
	m.existing()
	s := m.sandbox(501)
	if err := s.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.ran(lines(lookup, tempDir)...)
	m.write("su-runs-nothing", "") // in a directory that only a real Mac has
	if out, err := m.run(s, sandbox.Config{Workdir: "/src's", Argv: []string{"true"}}); err != nil {
		t.Errorf("printed %q, %v", out, err)
	}
	su := `su -l mac1000 -c -- mkdir -p '/Users/mac1000/src'\''s' && cd '/Users/mac1000/src'\''s' && env 'TMPDIR=M/T/' "$0" "$@" true`
	m.ran("sudo -n "+su, su)
}

func TestSecrets(t *testing.T) {
	m := newMac(t)
	m.existing()
	s := m.sandbox(0)
	cfg := sandbox.Config{
		Workdir: "/",
		Argv:    []string{"sh", "-c", `cat "$OBUILDER_SECRETS_DIR/run/key"; echo " $OBUILDER_SECRETS_DIR"; exit 1`},
		Secrets: []sandbox.Secret{{Target: "/run/key", Value: []byte("s3cret")}},
	}
	if os.Geteuid() == 0 {
		out, err := m.run(s, cfg)
		if exit := (*sandbox.ExitError)(nil); !errors.As(err, &exit) || !strings.HasPrefix(out, "s3cret M/secrets/mac1000/step-") {
			t.Errorf("printed %q, %v", out, err)
		}
		for _, dir := range []string{"secrets", "secrets/mac1000"} {
			if fi, err := os.Stat(filepath.Join(m.dir, dir)); err != nil || fi.Mode() != fs.ModeDir|0o711 {
				t.Errorf("%s: %v, %v", dir, fi, err)
			}
		}
	} else if _, err := m.run(s, cfg); !errors.Is(err, fs.ErrPermission) {
		// Only root can give files to another user.
		t.Errorf("got %v", err)
	}
	if left, err := os.ReadDir(filepath.Join(m.dir, "secrets", "mac1000")); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
	if refused := (*sandbox.RefusedError)(nil); !errors.As(m.sandbox(501).Check(cfg), &refused) || refused.Hint == "" {
		t.Error("secrets without root were not refused")
	}
}

func TestQuiesce(t *testing.T) {
	m := newMac(t)
	m.existing()
	s := m.sandbox(0)
	if err := s.Quiesce(t.Context()); err != nil {
		t.Error(err)
	}
	m.ran("pkill -9 -U 1000")
	if _, err := m.run(s, sandbox.Config{Argv: []string{"sh", "-c", "mkdir $TMPDIR/d; touch $TMPDIR/.h $TMPDIR/-x $TMPDIR/d/f; chmod 500 $TMPDIR/d"}}); err != nil {
		t.Fatal(err)
	}
	os.Remove(filepath.Join(m.dir, "record"))
	m.write("pkill", "5")
	m.write("ps", "  77 S    /usr/sbin/cfprefsd\n")
	if err := s.Quiesce(t.Context()); err != nil {
		t.Error(err)
	}
	ps := "ps -U 1000 -o pid=,state=,comm="
	pkill := "pkill -9 -U 1000"
	clear := `/bin/sh -c cd "$0" && { chmod -R u+rwX . 2>/dev/null; find . ! -name . -prune -exec rm -rf {} +; } M/T/`
	m.ran(pkill, ps, pkill, ps, pkill, ps, "launchctl bootout user/1000", pkill, ps, pkill, ps, pkill,
		"sudo -n -u mac1000 -- "+clear)
	if left, err := os.ReadDir(filepath.Join(m.dir, "T")); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
	// Nothing ran: nothing is to be cleared.
	if err := s.Quiesce(t.Context()); err != nil {
		t.Error(err)
	}
	m.ran(pkill)
}

// A zombie has ended, whatever pkill says.
func TestQuiesceZombie(t *testing.T) {
	m := newMac(t)
	m.write("pkill", "100")
	m.write("ps", "  77 Z    (make)\n")
	if err := m.sandbox(0).Quiesce(t.Context()); err != nil {
		t.Error(err)
	}
}

// immortal are processes that do not go.
type immortal struct {
	list  []Process
	hard  int
	kills int
}

func (i *immortal) List(context.Context, int) ([]Process, error) {
	return append([]Process(nil), i.list...), nil
}

func (i *immortal) Kill(_ context.Context, _ int, hard bool) (bool, error) {
	i.kills++
	if hard {
		i.hard++
	}
	return true, nil
}

func (i *immortal) Holders(context.Context, string) []Process { return i.list }

func TestStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &immortal{list: []Process{{77, "U", "make"}, {78, "Z", "ld"}, {79, "Us", "clang"}}}
		s, err := newSandbox(Options{Accounts: Darwin{}, Processes: p}, 0)
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		err = s.Quiesce(t.Context())
		want := &sandbox.StuckError{Processes: []string{"77 (make, state U)", "79 (clang, state Us)"}}
		if stuck := (*sandbox.StuckError)(nil); !errors.As(err, &stuck) || cmp.Diff(want, stuck) != "" {
			t.Errorf("got %v", err)
		}
		if took := time.Since(begin); took < DefaultKillTime || took > DefaultKillTime+time.Second {
			t.Errorf("took %v", took)
		}
		if p.hard != 1 || p.kills > 30 {
			t.Errorf("killed %d times, %d of them hard", p.kills, p.hard)
		}

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.Quiesce(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("cancelled: %v", err)
		}
	})
}

func TestNamedProcessesAreBounded(t *testing.T) {
	p := &immortal{}
	for i := range 1000 {
		p.list = append(p.list, Process{PID: i, Command: "fork"})
	}
	s, err := newSandbox(Options{Accounts: Darwin{}, Processes: p}, 0)
	if err != nil {
		t.Fatal(err)
	}
	got := s.Holders(t.Context(), "/Users/mac1000")
	if len(got) != maxNamed+1 || got[0] != "0 (fork)" || got[maxNamed] != "and 990 more" {
		t.Errorf("got %v", got)
	}
}

func TestHolders(t *testing.T) {
	m := newMac(t)
	m.write("lsof", "p88\ncmds_stores\np99\ncbash\n")
	got := m.sandbox(501).Holders(t.Context(), "/Users/mac1000")
	if diff := cmp.Diff([]string{"88 (mds_stores)", "99 (bash)"}, got); diff != "" {
		t.Error(diff)
	}
	lsof := "lsof -w -n -P -F pc /Users/mac1000"
	m.ran("sudo -n "+lsof, lsof)
}

func TestOwn(t *testing.T) {
	m := newMac(t)
	m.existing()
	if err := m.sandbox(0).Own(t.Context(), sandbox.Config{HostPath: m.hostPath}, "/Users/mac1000/c"); err != nil {
		t.Fatal(err)
	}
	m.ran(lines(lookup, tempDir, "chown -h 1000:1000 M/mnt/Users/mac1000/c")...)
}

func TestRecover(t *testing.T) {
	m := newMac(t)
	secret := filepath.Join(m.dir, "secrets", "mac1000", "step-1", "key")
	other := filepath.Join(m.dir, "secrets", "mac1001", "step-1")
	for _, dir := range []string{filepath.Dir(secret), other} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(secret, nil, 0o400); err != nil {
		t.Fatal(err)
	}
	// It does not make a user only to kill what that runs.
	if err := m.sandbox(0).Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.ran(lookup...)
	if _, err := os.Lstat(filepath.Dir(secret)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the secret is left: %v", err)
	}
	if _, err := os.Lstat(other); err != nil {
		t.Errorf("the secret of another build user is gone: %v", err)
	}
	m.existing()
	m.write("pkill", "1")
	m.write("T/left", "")
	if err := m.sandbox(0).Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(filepath.Join(m.dir, "T", "left")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a temporary file is left: %v", err)
	}
}

func TestCheck(t *testing.T) {
	m := newMac(t)
	for name, cfg := range map[string]sandbox.Config{
		"user":         {User: sandbox.User{UID: 501}},
		"windows user": {User: sandbox.User{Name: "ContainerAdministrator"}},
		"network":      {Network: []string{"bridge"}},
		"workdir":      {Workdir: "/../x"},
		"variable":     {Env: []sandbox.EnvVar{{Name: ""}}},
		"secret":       {Secrets: []sandbox.Secret{{Target: "../x"}}},
	} {
		cfg.Argv = []string{"true"}
		s := m.sandbox(0)
		_, err := m.run(s, cfg)
		for _, err := range []error{s.Check(cfg), err} {
			if refused := (*sandbox.RefusedError)(nil); !errors.As(err, &refused) {
				t.Errorf("%s: got %v", name, err)
			}
		}
	}
	m.ran()
}

// A cancelled command is also killed by its user, whatever its process group.
func TestCancelKillsUser(t *testing.T) {
	p := &immortal{}
	s, err := newSandbox(Options{
		Accounts: fixed{}, Processes: p,
		Commands: streamFunc(func(ctx context.Context, c process.Command) error {
			c.Kill()
			return ctx.Err()
		}),
	}, 0)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err = s.Run(ctx, sandbox.Config{Argv: []string{"make"}}, nil, nil)
	if !errors.Is(err, context.Canceled) || p.kills != 1 {
		t.Errorf("killed %d times, %v", p.kills, err)
	}
}

// fixed has the build user.
type fixed struct{ Darwin }

func (fixed) Lookup(context.Context, string) (Account, error) {
	return Account{"mac1000", 1000, 1000, "/Users/mac1000", "/bin/bash"}, nil
}
func (fixed) Names(context.Context, int) ([]string, error)        { return []string{"mac1000"}, nil }
func (fixed) TempDir(context.Context, Account) (string, error)    { return "/tmp", nil }
func (fixed) ClearTempDir(context.Context, Account, string) error { return nil }

type streamFunc func(context.Context, process.Command) error

func (f streamFunc) Stream(ctx context.Context, c process.Command) error { return f(ctx, c) }

func (f streamFunc) Output(_ context.Context, argv ...string) (string, error) {
	return "", fmt.Errorf("unexpected command: %s", strings.Join(argv, " "))
}

// Where builds can write, no program is looked for.
func TestExecSkipsBrew(t *testing.T) {
	m := newMac(t)
	bin := filepath.Join(m.dir, "bin")
	for _, e := range []Exec{NewExec(bin, m.dir), NewExec("bin:.", "/usr/local"), NewExec("")} {
		if p, err := e.look("dscl"); err == nil && strings.HasPrefix(p, m.dir) {
			t.Errorf("found %s", p)
		}
	}
	if p, err := NewExec(bin, m.dir+"/b").look("dscl"); err != nil || p != bin+"/dscl" {
		t.Errorf("found %q, %v", p, err)
	}
	_, err := NewExec("").Output(t.Context(), "no-such-program")
	if c := (*CommandError)(nil); !errors.As(err, &c) || c.Status != -1 {
		t.Errorf("got %v", err)
	}
}
