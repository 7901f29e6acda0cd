package console

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"obuilder.org/obuilder/engine"
	"obuilder.org/obuilder/index"
	"obuilder.org/obuilder/sandbox"
	"obuilder.org/obuilder/zfs"
)

// onTerminal is a console that prints all to one terminal.
func onTerminal(terminal io.Writer) *Console {
	c := New("prog", terminal, terminal)
	c.colour, c.live = true, true
	return c
}

// Progress is shown after a second without output, and gone before whatever is
// printed next, also when that is an error; it does not come back.
func TestProgress(t *testing.T) {
	for name, print := range map[string]func(*Console){
		"event":  func(c *Console) { c.Event(engine.Event{Kind: engine.EventHeading, Text: "x"}) },
		"output": func(c *Console) { c.Event(engine.Event{Kind: engine.EventOutput, Data: []byte("x\n")}) },
		"printf": func(c *Console) { c.Printf("x\n") },
		"json":   func(c *Console) { _ = c.JSON(1) },
		"notice": func(c *Console) { c.Notice("x") },
		"log":    func(c *Console) { fmt.Fprintln(c.Log(), "x") },
		"fail":   func(c *Console) { c.Fail(errors.New("x")) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var terminal bytes.Buffer
				c := onTerminal(&terminal)
				seen := func() string {
					synctest.Wait()
					c.mu.Lock()
					defer c.mu.Unlock()
					return terminal.String()
				}
				done := c.Progress("working")
				time.Sleep(999 * time.Millisecond)
				if got := seen(); got != "" {
					t.Errorf("printed %q within a second", got)
				}
				time.Sleep(1501 * time.Millisecond)
				const shown = "\rworking … 1 s \rworking … 2 s "
				if got := seen(); got != shown {
					t.Errorf("printed %q, want %q", got, shown)
				}
				print(c)
				if rest, ok := strings.CutPrefix(seen(), shown+"\r\x1b[K"); !ok || rest == "" {
					t.Errorf("printed %q", &terminal)
				}
				before := seen()
				time.Sleep(10 * time.Second)
				done()
				if got := seen(); got != before {
					t.Errorf("then printed %q", strings.TrimPrefix(got, before))
				}
			})
		})
	}
}

// Progress that nothing follows leaves an empty line.
func TestProgressEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var terminal bytes.Buffer
		done := onTerminal(&terminal).Progress("working")
		time.Sleep(1500 * time.Millisecond)
		done()
		if got, want := terminal.String(), "\rworking … 1 s \r\x1b[K"; got != want {
			t.Errorf("printed %q, want %q", got, want)
		}
	})
}

// Headings and results have colours, and end them on their line.
func TestColours(t *testing.T) {
	var out bytes.Buffer
	c := onTerminal(&out)
	c.Event(engine.Event{Kind: engine.EventHeading, Text: "(from x)"})
	c.Event(engine.Event{Kind: engine.EventSaved, ID: "1"})
	if got, want := out.String(), "\x1b[1m(from x)\x1b[0m\n\x1b[32m---> saved as \"1\"\x1b[0m\n"; got != want {
		t.Errorf("printed %q, want %q", got, want)
	}
}

// What is no terminal gets neither colour nor progress.
func TestNoTerminal(t *testing.T) {
	file, err := os.Create(t.TempDir() + "/out")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if c := New("prog", file, file); c.colour || c.live {
		t.Errorf("a file has colour %v, progress %v", c.colour, c.live)
	}
}

type failing struct{ err error }

func (w failing) Write([]byte) (int, error) { return 0, w.err }

// Standard output that cannot be written cancels the command once and decides
// how it ends, unless what it was cancelled from is worse.
func TestOutputFails(t *testing.T) {
	full := &os.PathError{Op: "write", Path: "/dev/stdout", Err: syscall.ENOSPC}
	closed := &os.PathError{Op: "write", Path: "/dev/stdout", Err: syscall.EPIPE}
	stuck := &sandbox.StuckError{}
	for _, test := range []struct {
		name       string
		write, err error
		status     int
		says       string
	}{
		{"full", full, nil, Machine, "prog: cannot write standard output: no space left on device\n"},
		{"full and cancelled", full, context.Canceled, Machine, "prog: cannot write standard output: no space left on device\n"},
		{"full, cancelled and said", full, errors.Join(context.Canceled, &OutputError{full}), Machine,
			"prog: cannot write standard output: no space left on device\n"},
		{"closed", closed, nil, Cancelled, ""},
		{"closed and cancelled", closed, context.Canceled, Cancelled, ""},
		{"closed and stuck", closed, stuck, Machine, fmt.Sprintf("prog: %v; cannot write standard output: broken pipe\n", stuck)},
	} {
		t.Run(test.name, func(t *testing.T) {
			var errOut bytes.Buffer
			c := New("prog", failing{test.write}, &errOut)
			cancelled := 0
			c.cancel = func() { cancelled++ }
			c.Printf("x")
			c.Event(engine.Event{Kind: engine.EventHeading, Text: "x"})
			if _, err := c.Out().Write([]byte("x")); !errors.Is(err, test.write) {
				t.Errorf("Write: %v", err)
			}
			if status := c.Fail(test.err); status != test.status {
				t.Errorf("status %d, want %d", status, test.status)
			}
			got, _, _ := strings.Cut(errOut.String(), "hint: ")
			if got != test.says {
				t.Errorf("says %q, want %q", got, test.says)
			}
			if cancelled != 1 {
				t.Errorf("cancelled %d times", cancelled)
			}
		})
	}
}

// What is full is said with what makes room, but for standard output, which
// nothing of ours is on.
func TestNoSpace(t *testing.T) {
	const hint = "obuilder prune, obuilder delete and obuilder clean make room"
	step := &engine.StepError{Err: &engine.NoSpaceError{Store: "tank", Err: &sandbox.ExitError{Status: 1}}}
	if status := Status(step); status != Machine {
		t.Errorf("a step that had no space: status %d", status)
	}
	for err, want := range map[error]string{
		step:                                 hint,
		&zfs.Error{Kind: zfs.NoSpace}:        hint,
		fmt.Errorf("x: %w", index.ErrFull):   hint,
		fmt.Errorf("x: %w", syscall.ENOSPC):  hint,
		error(&OutputError{syscall.ENOSPC}):  "",
		fmt.Errorf("x: %w", syscall.ENOTDIR): "",
	} {
		if got := Hint(err); got != want {
			t.Errorf("%v: %q, want %q", err, got, want)
		}
	}
}

// Whatever an error is made of, it is one line.
func TestOneLine(t *testing.T) {
	var out, errOut bytes.Buffer
	c := New("prog", &out, &errOut)
	fmt.Fprint(c.Out(), "no end")
	err := &zfs.Error{Kind: zfs.NoSpace, Err: errors.Join(errors.New("a\r\nb"), errors.New("c"))}
	if status := c.Fail(err); status != Machine {
		t.Errorf("status %d", status)
	}
	if got := out.String(); got != "no end\n" {
		t.Errorf("standard output is %q", got)
	}
	if lines := strings.Split(strings.TrimSuffix(errOut.String(), "\n"), "\n"); len(lines) != 2 ||
		!strings.HasPrefix(lines[0], "prog: ") || !strings.HasPrefix(lines[1], "hint: ") {
		t.Errorf("standard error is %q", &errOut)
	}
}
