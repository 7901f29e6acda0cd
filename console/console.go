// Package console is the one place from which the commands print. The rules:
//
//   - What a person asked for goes to standard output; everything about it
//     (warnings, errors, hints, progress) goes to standard error.
//   - An error is one line, "obuilder: " and what was wrong and where; a
//     "hint: " line follows when there is something to do.
//   - With --json, standard output is one JSON object a line and nothing else.
//   - Colour and progress appear on a terminal only, colour never with NO_COLOR.
//   - What a step prints is passed on as it is.
//
// A command ends with [Status]:
//
//	c := console.New("obuilder", os.Stdout, os.Stderr)
//	os.Exit(c.Fail(run(c)))
package console

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"obuilder.org/obuilder/engine"
	"obuilder.org/obuilder/sandbox"
	"obuilder.org/obuilder/source"
	"obuilder.org/obuilder/spec"
	"obuilder.org/obuilder/store"
	"obuilder.org/obuilder/zfs"
)

// The exit statuses of the commands.
const (
	OK        = 0
	Failed    = 1   // the build failed
	BadInput  = 2   // usage, or input that is not right
	Machine   = 3   // the machine or the store failed
	Cancelled = 130 // by a signal
)

// A Console prints for one command. Its methods may be called concurrently.
type Console struct {
	program string
	mu      sync.Mutex
	out     io.Writer
	err     io.Writer
	colour  bool
	tty     bool // standard error is a terminal
	midLine bool // what a step printed last did not end a line
}

// New makes a console for program, whose name begins its error lines.
func New(program string, stdout, stderr io.Writer) *Console {
	c := &Console{program: program, out: stdout, err: stderr, tty: isTerminal(stderr)}
	c.colour = isTerminal(stdout) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	return c
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// Out is standard output, for a command that writes something as it is.
func (c *Console) Out() io.Writer { return writer{c} }

type writer struct{ c *Console }

func (w writer) Write(p []byte) (int, error) {
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	return w.c.out.Write(p)
}

// Printf prints for a person who asked.
func (c *Console) Printf(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fmt.Fprintf(c.out, format, args...)
}

// Notice prints a line about what goes on.
func (c *Console) Notice(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fmt.Fprintf(c.err, c.program+": "+format+"\n", args...)
}

// Progress shows label on a terminal when what it is about has not ended
// within a second, until the function that it returns is called.
func (c *Console) Progress(label string) (done func()) {
	if !c.tty {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var ended sync.WaitGroup
	ended.Go(func() {
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		for seconds := 1; ; seconds++ {
			select {
			case <-ticker.C:
				c.mu.Lock()
				fmt.Fprintf(c.err, "\r%s … %d s ", label, seconds)
				c.mu.Unlock()
			case <-ctx.Done():
				if seconds > 1 {
					c.mu.Lock()
					fmt.Fprint(c.err, "\r\x1b[K")
					c.mu.Unlock()
				}
				return
			}
		}
	})
	return func() {
		cancel()
		ended.Wait()
	}
}

// Event prints an event of a build.
func (c *Console) Event(ev engine.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ev.Kind == engine.EventOutput {
		c.out.Write(ev.Data)
		c.midLine = len(ev.Data) > 0 && ev.Data[len(ev.Data)-1] != '\n'
		return
	}
	if c.midLine {
		fmt.Fprintln(c.out)
		c.midLine = false
	}
	switch ev.Kind {
	case engine.EventHeading:
		c.styled("1", ev.Text)
	case engine.EventCached:
		c.styled("32", fmt.Sprintf("---> using %q from cache", ev.ID))
	case engine.EventSaved:
		c.styled("32", fmt.Sprintf("---> saved as %q", ev.ID))
	case engine.EventWaiting:
		c.styled("33", "---> "+ev.Text)
	case engine.EventNote:
		c.styled("32", ev.Text)
	case engine.EventFailed:
		// The error that the command ends with says it.
	}
}

func (c *Console) styled(code, text string) {
	if c.colour {
		text = "\x1b[" + code + "m" + text + "\x1b[0m"
	}
	fmt.Fprintln(c.out, text)
}

// A UsageError is a command line that is not right.
type UsageError struct {
	Err    error
	Advice string
}

func (e *UsageError) Error() string { return e.Err.Error() }

// Unwrap gives Err.
func (e *UsageError) Unwrap() error { return e.Err }

// Hint says what to do about it.
func (e *UsageError) Hint() string { return e.Advice }

// Status is the exit status of a command that ended with err.
func Status(err error) int {
	var (
		usage   *UsageError
		spec    *spec.Error
		located *engine.LocatedError
		src     *source.Error
		name    *store.NameError
		missing *engine.NotFoundError
		base    *engine.BaseImageError
		refused *sandbox.RefusedError
		step    *engine.StepError
		exit    *sandbox.ExitError
		changed *source.ChangedError
		command *zfs.Error
		stuck   *sandbox.StuckError
		mounted *engine.MountedError
	)
	switch {
	case err == nil:
		return OK
	case errors.As(err, &stuck), errors.As(err, &mounted):
		return Machine
	case errors.Is(err, context.Canceled):
		return Cancelled
	case errors.As(err, &step):
		if errors.As(err, &exit) || errors.As(err, &changed) {
			return Failed
		}
		if errors.As(err, &refused) || errors.As(err, &base) {
			return BadInput
		}
		return Machine
	case errors.As(err, &command):
		return Machine
	case errors.As(err, &usage), errors.As(err, &spec), errors.As(err, &located), errors.As(err, &src),
		errors.As(err, &name), errors.As(err, &missing), errors.As(err, &base), errors.As(err, &refused):
		return BadInput
	case errors.As(err, &changed):
		return Failed
	}
	return Machine
}

// Fail prints err, if there is one, with its hint, and gives the exit status.
func (c *Console) Fail(err error) int {
	status := Status(err)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.midLine {
		fmt.Fprintln(c.out)
	}
	switch {
	case err == nil:
		return status
	case status == Cancelled:
		fmt.Fprintf(c.err, "%s: cancelled\n", c.program)
		return status
	}
	fmt.Fprintf(c.err, "%s: %s\n", c.program, oneLine(err))
	if hint := Hint(err); hint != "" {
		fmt.Fprintf(c.err, "hint: %s\n", hint)
	}
	return status
}

// oneLine gives the text of an error on one line.
func oneLine(err error) string {
	return strings.Join(strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}

// Hint gives what an error advises to do; "" for nothing.
func Hint(err error) string {
	var hinted interface{ Hint() string }
	if errors.As(err, &hinted) && hinted.Hint() != "" {
		return hinted.Hint()
	}
	var (
		inSpec  *spec.Error
		src     *source.Error
		refused *sandbox.RefusedError
		command *zfs.Error
	)
	switch {
	case errors.As(err, &inSpec):
		return inSpec.Hint
	case errors.As(err, &src):
		return src.Hint
	case errors.As(err, &refused):
		return refused.Hint
	case errors.As(err, &command) && command.Kind == zfs.Permission:
		return "obuilder must run as root to use zfs"
	case errors.As(err, &command) && command.Kind == zfs.NoSpace:
		return "obuilder delete or obuilder clean make room"
	}
	return ""
}

const timeFormat = "2006-01-02 15:04:05"

// Time prints a time as the index keeps it, or "-" for none.
func Time(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(timeFormat)
}
