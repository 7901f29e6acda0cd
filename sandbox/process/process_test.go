package process_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"obuilder.org/obuilder/sandbox"
	"obuilder.org/obuilder/sandbox/process"
)

func needsShell(t *testing.T) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("needs sh, which Windows does not have")
	}
}

func shell(script string, args ...string) process.Command {
	return process.Command{
		Argv: append([]string{"sh", "-c", script}, args...),
		Env:  []string{"PATH=" + os.Getenv("PATH")},
	}
}

func TestOutput(t *testing.T) {
	needsShell(t)
	var out bytes.Buffer
	c := shell(`echo 1; echo 2 >&2; echo 3; cat; pwd; env | grep -v '^\(PATH\|PWD\|SHLVL\|_\)='; echo "$0|$1"`, "a b", "c")
	c.Dir, c.Env, c.Stdin, c.Output = "/", append(c.Env, "X=y"), strings.NewReader("in\n"), &out
	if err := c.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("1\n2\n3\nin\n/\nX=y\na b|c\n", out.String()); diff != "" {
		t.Error(diff)
	}
}

func TestNoStdin(t *testing.T) {
	needsShell(t)
	c := shell(`cat; (: </dev/tty) 2>/dev/null && exit 3; exit 0`)
	c.Output = io.Discard
	if err := c.Run(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestExit(t *testing.T) {
	needsShell(t)
	for script, want := range map[string]sandbox.ExitError{
		"exit 3":     {Status: 3},
		"kill -9 $$": {Status: -1, Signal: "killed"},
	} {
		c := shell(script)
		c.Output = io.Discard
		want.Argv = c.Argv
		if diff := cmp.Diff(error(&want), c.Run(t.Context())); diff != "" {
			t.Errorf("%s: %s", script, diff)
		}
	}
}

func TestNoProgram(t *testing.T) {
	err := process.Command{Argv: []string{"./no-such-program"}, Output: io.Discard, Stdin: strings.NewReader("")}.Run(t.Context())
	if start := (*process.StartError)(nil); !errors.As(err, &start) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

// notify is a writer which says when something was written.
type notify struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	once sync.Once
	c    chan struct{}
}

func newNotify() *notify { return &notify{c: make(chan struct{})} }

func (n *notify) Write(p []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	defer n.once.Do(func() { close(n.c) })
	return n.buf.Write(p)
}

func (n *notify) String() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.buf.String()
}

// Output comes while the command still runs: it waits for an answer to it.
func TestOutputIsLive(t *testing.T) {
	needsShell(t)
	out := newNotify()
	r, w := io.Pipe()
	go func() {
		<-out.c
		fmt.Fprintln(w, "answer")
		w.Close()
	}()
	c := shell("echo question; read x; echo $x")
	c.Stdin, c.Output = r, out
	if err := c.Run(t.Context()); err != nil || out.String() != "question\nanswer\n" {
		t.Errorf("printed %q, %v", out, err)
	}
}

func alive(pid string) bool {
	out, err := exec.Command("ps", "-o", "stat=", "-p", pid).Output()
	return err == nil && !strings.HasPrefix(strings.TrimSpace(string(out)), "Z")
}

func gone(t *testing.T, pid string) {
	t.Helper()
	if _, err := strconv.Atoi(pid); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(5 * time.Second); alive(pid); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("process %s is still there", pid)
		}
	}
}

func TestCancel(t *testing.T) {
	needsShell(t)
	for name, script := range map[string]string{
		"obedient": `sleep 100 & echo $!; wait`,
		"stubborn": `trap '' TERM; (sleep 100; :) & echo $!; wait; sleep 100`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			out := newNotify()
			go func() {
				<-out.c
				cancel()
			}()
			killed := false
			c := shell(script)
			c.Output, c.Grace, c.Kill = out, 100*time.Millisecond, func() { killed = true }
			if err := c.Run(ctx); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
			if killed != (name == "stubborn") {
				t.Errorf("killed: %v", killed)
			}
			gone(t, strings.TrimSpace(out.String()))
		})
	}
}

func TestCancelledBefore(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := process.Command{Argv: []string{"./no-such-program"}, Output: io.Discard}.Run(ctx)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// What a command leaves in its process group is killed, at once.
func TestBackground(t *testing.T) {
	needsShell(t)
	var out bytes.Buffer
	c := shell(`sleep 100 & echo $!`)
	c.Output, c.Idle = &out, time.Hour
	begin := time.Now()
	if err := c.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took > 4*time.Second {
		t.Errorf("took %v", took)
	}
	gone(t, strings.TrimSpace(out.String()))
}

// A daemon that left the group and holds the output does not hold us, nor does
// one that prints for ever; what the command printed is all there.
func TestDaemon(t *testing.T) {
	needsShell(t)
	if _, err := exec.LookPath("setsid"); err != nil {
		t.Skip("needs setsid, to make a process that leaves the group")
	}
	for name, daemon := range map[string]string{
		"silent": `exec sleep 30`,
		"noisy":  `for i in $(seq 300); do echo noise; sleep 0.1; done`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			pidFile := t.TempDir() + "/pid"
			t.Cleanup(func() {
				text, _ := os.ReadFile(pidFile)
				if pid, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
					if p, err := os.FindProcess(pid); err == nil {
						p.Kill()
					}
				}
			})
			// It has left the group by the time that the command goes on.
			c := shell(`setsid sh -c 'echo $$ >"$0"; `+daemon+`' "$0" & until [ -s "$0" ]; do sleep 0.01; done; head -c 300000 /dev/zero; echo; echo end`, pidFile)
			c.Output, c.Idle = &out, 200*time.Millisecond
			begin := time.Now()
			if err := c.Run(t.Context()); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(begin); took > 9*time.Second {
				t.Errorf("took %v", took)
			}
			if text := strings.ReplaceAll(out.String(), "noise\n", ""); len(text) != 300_005 || !strings.HasSuffix(text, "end\n") {
				t.Errorf("printed %d bytes", len(text))
			}
		})
	}
}

// A Stdin which is not read, or which never ends, does not hold us.
func TestUnreadStdin(t *testing.T) {
	needsShell(t)
	r, w := io.Pipe()
	defer w.Close()
	c := shell("exit 0")
	c.Stdin, c.Output = r, io.Discard
	if err := c.Run(t.Context()); err != nil {
		t.Error(err)
	}
	c.Stdin = bytes.NewReader(make([]byte, 1<<20))
	if err := c.Run(t.Context()); err != nil {
		t.Error(err)
	}
}

var errBroken = errors.New("broken")

type broken struct{}

func (broken) Read([]byte) (int, error)  { return 0, errBroken }
func (broken) Write([]byte) (int, error) { return 0, errBroken }

// Input that breaks off must not look complete to the command.
func TestBrokenStdin(t *testing.T) {
	needsShell(t)
	var out bytes.Buffer
	c := shell("cat; echo complete")
	c.Stdin, c.Output = io.MultiReader(strings.NewReader("some\n"), broken{}), &out
	if err := c.Run(t.Context()); !errors.Is(err, errBroken) {
		t.Errorf("got %v", err)
	}
	if strings.Contains(out.String(), "complete") {
		t.Errorf("printed %q", &out)
	}
}

func TestBrokenOutput(t *testing.T) {
	needsShell(t)
	c := shell("echo x; sleep 100")
	c.Output = broken{}
	if err := c.Run(t.Context()); !errors.Is(err, errBroken) {
		t.Errorf("got %v", err)
	}
}
