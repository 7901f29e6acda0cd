//go:build unix

package real

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"obuilder.org/obuilder/zfs"
)

// This program is zfs, zpool and sudo when it is called so: what it does then
// is in OBUILDER_TEST_DO.
func init() { actAs = actAsCalled }

func actAsCalled() {
	switch filepath.Base(os.Args[0]) {
	case "zfs", "zpool":
		os.Exit(act(os.Getenv("OBUILDER_TEST_DO")))
	case "sudo":
		fmt.Fprintln(os.Stderr, "asked", os.Args[1:])
		err := syscall.Exec(os.Args[2], os.Args[2:], os.Environ())
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if name := os.Getenv(asUser); name != "" {
		os.Exit(createAs(name))
	}
}

func act(do string) int {
	do, arg, _ := strings.Cut(do, " ")
	switch do {
	case "show":
		dir, _ := os.Getwd()
		in, _ := io.ReadAll(os.Stdin)
		fmt.Fprintf(os.Stderr, "argv %q\nLC_ALL %s\ndir %s\nstdin %q\n", os.Args, os.Getenv("LC_ALL"), dir, in)
		return 1
	case "hang": // with a child that holds the output open
		child := exec.Command("sleep", "1000")
		child.Stdout, child.Stderr = os.Stdout, os.Stderr
		if err := child.Start(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 3
		}
		if os.WriteFile(arg+".new", []byte(strconv.Itoa(child.Process.Pid)), 0o644) != nil || os.Rename(arg+".new", arg) != nil {
			return 3
		}
		select {}
	case "orphan": // succeeds, and leaves a child that holds the output open
		child := exec.Command("sleep", "3")
		child.Stdout = os.Stdout
		if err := child.Start(); err != nil {
			return 3
		}
	case "alone": // while a file is there
		if os.Args[1] == "list" {
			fmt.Println("tank")
			return 0
		}
		f, err := os.OpenFile(arg, os.O_CREATE|os.O_EXCL, 0o644)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 3
		}
		f.Close()
		time.Sleep(20 * time.Millisecond)
		os.Remove(arg)
	case "print":
		n, _ := strconv.Atoi(arg)
		fmt.Print(strings.Repeat("x", n))
	case "fail":
		fmt.Fprint(os.Stderr, arg)
		return 1
	case "shout":
		fmt.Fprint(os.Stderr, strings.Repeat("x", 1<<20))
		return 2
	case "die":
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
	return 0
}

// programs makes a directory with programs of the given names in it.
func programs(t *testing.T, names ...string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, name := range names {
		// Not a link: what links lead to is what is run.
		if err := os.Link(self, filepath.Join(dir, name)); err != nil {
			data, err := os.ReadFile(self)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

func newFS(t *testing.T, opts Options) *FS {
	t.Helper()
	opts.ZFS = filepath.Join(programs(t, "zfs", "zpool"), "zfs")
	f, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	f.gate = new(gate)
	return f
}

var tank = zfs.MustDataset("tank/a b")

func failure(t *testing.T, err error, kind zfs.Kind) *zfs.Error {
	t.Helper()
	var e *zfs.Error
	if !errors.As(err, &e) || e.Kind != kind {
		t.Fatalf("not of the kind %q: %v", kind, err)
	}
	return e
}

func TestProcess(t *testing.T) {
	f := newFS(t, Options{})
	t.Setenv("OBUILDER_TEST_DO", "show")
	t.Setenv("LC_ALL", "de_DE.UTF-8")
	e := failure(t, f.Set(t.Context(), tank, zfs.Property{Name: "mountpoint", Value: "/x y"}), zfs.Unknown)
	if want := "argv [\"zfs\" \"set\" \"mountpoint=/x y\" \"tank/a b\"]\nLC_ALL C\ndir /\nstdin \"\""; e.Stderr != want || e.Status != 1 {
		t.Errorf("exit %d:\n%s\nwant\n%s", e.Status, e.Stderr, want)
	}
	_, err := f.Pool(t.Context(), "tank")
	if e := failure(t, err, zfs.Unknown); !strings.HasPrefix(e.Stderr, `argv ["zpool" "list"`) {
		t.Error(e.Stderr)
	}
}

func TestSudo(t *testing.T) {
	f := newFS(t, Options{})
	f.sudo = []string{filepath.Join(programs(t, "sudo"), "sudo"), "-n"}
	t.Setenv("OBUILDER_TEST_DO", "show")
	e := failure(t, f.Promote(t.Context(), tank), zfs.Unknown)
	if !strings.HasPrefix(e.Stderr, "asked [-n "+f.Path()+" promote tank/a b]\n") || e.Argv[0] != "zfs" {
		t.Error(e)
	}
}

// A command that hangs is killed with all that it has started, and in time.
func TestDeadline(t *testing.T) {
	pidFile := filepath.Join(t.TempDir(), "pid")
	t.Setenv("OBUILDER_TEST_DO", "hang "+pidFile)
	for deadline := 200 * time.Millisecond; ; deadline *= 2 {
		f := newFS(t, Options{Deadline: deadline})
		begin := time.Now()
		e := failure(t, f.Mount(t.Context(), tank), zfs.Timeout)
		if took := time.Since(begin); took > deadline+f.killGrace {
			t.Errorf("took %v with a deadline of %v", took, deadline)
		}
		if !errors.Is(e, context.DeadlineExceeded) || e.Status != -1 {
			t.Errorf("%#v", e)
		}
		if _, err := os.Stat(pidFile); err == nil {
			break // it had come to start its child
		}
		if deadline > time.Minute {
			t.Fatal("the command starts no child")
		}
	}
	isKilled(t, pidFile)
}

func TestCancel(t *testing.T) {
	pidFile := filepath.Join(t.TempDir(), "pid")
	t.Setenv("OBUILDER_TEST_DO", "hang "+pidFile)
	f := newFS(t, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		for ctx.Err() == nil {
			if _, err := os.Stat(pidFile); err == nil {
				cancel()
			}
			time.Sleep(time.Millisecond)
		}
	}()
	if e := failure(t, f.Mount(ctx, tank), zfs.Timeout); !errors.Is(e, context.Canceled) || e.Status != -1 {
		t.Errorf("%#v", e)
	}
	isKilled(t, pidFile)
}

// isKilled checks that the process whose id is in pidFile goes.
func isKilled(t *testing.T, pidFile string) {
	t.Helper()
	data, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(string(data))
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); alive(pid); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			t.Fatalf("the child %d is alive: %s%v", pid, stat, err)
		}
	}
}

// alive reports whether a process runs; one that nobody waits for does not.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || !strings.Contains(string(stat), ") Z ")
}

// Output that stays open after the end of the command is not waited for.
func TestOrphan(t *testing.T) {
	f := newFS(t, Options{})
	f.killGrace = 50 * time.Millisecond
	t.Setenv("OBUILDER_TEST_DO", "orphan")
	begin := time.Now()
	e := failure(t, f.Mount(t.Context(), tank), zfs.Unknown)
	if !errors.Is(e, exec.ErrWaitDelay) || time.Since(begin) > 2*time.Second {
		t.Errorf("%v after %v", e, time.Since(begin))
	}
}

func TestStuck(t *testing.T) {
	release := make(chan struct{})
	f := newFS(t, Options{Deadline: 50 * time.Millisecond})
	f.killGrace = 20 * time.Millisecond
	f.wait = func(cmd *exec.Cmd) error { // what is in state U takes no signal
		<-release
		return cmd.Wait()
	}
	t.Setenv("OBUILDER_TEST_DO", "hang "+filepath.Join(t.TempDir(), "pid"))
	e := failure(t, f.Unmount(t.Context(), tank, true), zfs.Unavailable)
	var stuck *StuckError
	if !errors.As(e, &stuck) || stuck.Pid <= 1 || !strings.Contains(e.Error(), strconv.Itoa(stuck.Pid)) {
		t.Fatalf("%v", e)
	}
	// Nothing more is started, whether it mounts or not.
	t.Setenv("OBUILDER_TEST_DO", "")
	_, err := f.List(t.Context(), zfs.ListOptions{})
	for _, err := range []error{err, f.Mount(t.Context(), tank)} {
		if e := failure(t, err, zfs.Unavailable); !errors.As(e, &stuck) {
			t.Error(e)
		}
	}
	close(release)
	f.deadline = time.Minute
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		err := f.Mount(t.Context(), tank)
		if err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the process is gone: ", err)
		}
	}
}

// Commands that mount run one at a time, whichever FS they come from; those
// that only look run beside them.
func TestOneAtATime(t *testing.T) {
	f, g := newFS(t, Options{}), newFS(t, Options{})
	g.gate = f.gate
	t.Setenv("OBUILDER_TEST_DO", "alone "+filepath.Join(t.TempDir(), "lock"))
	ctx := t.Context()
	snap := tank.MustSnapshot("s")
	var group sync.WaitGroup
	for _, fs := range []*FS{f, g} {
		for _, do := range []func() error{
			func() error { return fs.Create(ctx, tank, zfs.CreateOptions{}) },
			func() error { return fs.Clone(ctx, snap, tank) },
			func() error { return fs.Destroy(ctx, tank, zfs.DestroyMode{}) },
			func() error { return fs.Set(ctx, tank, zfs.Property{Name: "a", Value: "b"}) },
			func() error { return fs.Inherit(ctx, tank, "a", false) },
			func() error { return fs.Mount(ctx, tank) },
			func() error { return fs.Unmount(ctx, tank, false) },
			func() error { return fs.Promote(ctx, tank) },
			func() error { return fs.Rename(ctx, tank, tank, zfs.RenameOptions{}) },
			func() error { return fs.Rollback(ctx, snap, false) },
			func() error { _, err := fs.List(ctx, zfs.ListOptions{}); return err },
		} {
			group.Go(func() {
				if err := do(); err != nil {
					t.Error(err)
				}
			})
		}
	}
	group.Wait()
}

func TestLookingIsNotHeldUp(t *testing.T) {
	f := newFS(t, Options{})
	if err := f.gate.enter(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := f.List(t.Context(), zfs.ListOptions{}); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	e := failure(t, f.Mount(ctx, tank), zfs.Timeout)
	if !errors.Is(e, context.DeadlineExceeded) || !strings.Contains(e.Error(), "not started") {
		t.Error(e)
	}
	f.gate.leave()
	if err := f.Mount(t.Context(), tank); err != nil {
		t.Error(err)
	}
}

func TestOutputIsBounded(t *testing.T) {
	f := newFS(t, Options{})
	f.maxOutput = 1000
	t.Setenv("OBUILDER_TEST_DO", "print 1000")
	if rows, err := f.List(t.Context(), zfs.ListOptions{}); err != nil || len(rows) != 1 {
		t.Errorf("%d rows, %v", len(rows), err)
	}
	t.Setenv("OBUILDER_TEST_DO", "print 1001")
	_, err := f.List(t.Context(), zfs.ListOptions{})
	failure(t, err, zfs.Unknown)
	t.Setenv("OBUILDER_TEST_DO", "shout")
	if e := failure(t, f.Mount(t.Context(), tank), zfs.Usage); len(e.Stderr) != maxStderr {
		t.Errorf("%d bytes", len(e.Stderr))
	}
}

func TestEndings(t *testing.T) {
	f := newFS(t, Options{})
	t.Setenv("OBUILDER_TEST_DO", "fail bad property list: invalid property 'x'\nusage:\n\tget\n")
	if e := failure(t, f.Mount(t.Context(), tank), zfs.Usage); e.Stderr != "bad property list: invalid property 'x'\nusage:\n\tget" {
		t.Errorf("%q", e.Stderr)
	}
	t.Setenv("OBUILDER_TEST_DO", "die")
	if e := failure(t, f.Mount(t.Context(), tank), zfs.Unknown); e.Status != -1 || !strings.Contains(e.Error(), "signal") {
		t.Error(e)
	}
	if err := os.Remove(f.Path()); err != nil {
		t.Fatal(err)
	}
	if e := failure(t, f.Mount(t.Context(), tank), zfs.Unavailable); !errors.Is(e, os.ErrNotExist) || e.Status != -1 {
		t.Error(e)
	}
}

func TestFind(t *testing.T) {
	both, alone := programs(t, "zfs", "zpool"), programs(t, "zfs")
	links := t.TempDir()
	for _, name := range []string{"zfs", "zpool"} {
		if err := os.Symlink(filepath.Join(both, name), filepath.Join(links, name)); err != nil {
			t.Fatal(err)
		}
	}
	alias := filepath.Join(t.TempDir(), "alias")
	if err := os.Symlink(both, alias); err != nil {
		t.Fatal(err)
	}
	resolved, err := filepath.EvalSymlinks(filepath.Join(both, "zfs"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what string
		opts Options
		path string // of PATH
		want string // what the error says; "" for none
	}{
		{"given", Options{ZFS: filepath.Join(both, "zfs")}, "", ""},
		{"given as a link", Options{ZFS: filepath.Join(links, "zfs")}, "", ""},
		{"in PATH", Options{}, links, ""},
		{"elsewhere forbidden", Options{ZFS: filepath.Join(both, "zfs"), Forbidden: []string{both + "x", alone}}, "", ""},
		{"relative", Options{ZFS: "zfs"}, both, "not absolute"},
		{"none there", Options{ZFS: filepath.Join(both, "no")}, "", "no such file"},
		{"no zpool", Options{ZFS: filepath.Join(alone, "zfs")}, "", "zpool"},
		{"a directory", Options{ZFS: both}, "", "not a program"},
		{"below brew", Options{ZFS: filepath.Join(both, "zfs"), Forbidden: []string{both}}, "", "below " + both},
		{"link into brew", Options{ZFS: filepath.Join(links, "zfs"), Forbidden: []string{both}}, "", "below " + both},
		{"link in brew", Options{ZFS: filepath.Join(links, "zfs"), Forbidden: []string{links}}, "", "below " + links},
		{"brew is a link", Options{ZFS: filepath.Join(both, "zfs"), Forbidden: []string{alias}}, "", "below " + alias},
		{"given by the alias of brew", Options{ZFS: filepath.Join(alias, "zfs"), Forbidden: []string{both}}, "", "below " + both},
	} {
		t.Setenv("PATH", c.path)
		f, err := New(c.opts)
		switch {
		case c.want == "" && (err != nil || f.Path() != resolved):
			t.Errorf("%s: %v", c.what, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v, want one about %q", c.what, err, c.want)
		}
	}
}
