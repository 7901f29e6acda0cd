// Package console is the one place from which the commands print. The rules:
//
//   - What a person asked for goes to standard output; everything about it
//     (warnings, errors, hints, progress) goes to standard error.
//   - An error is one line, "obuilder: " and what was wrong and where; a
//     "hint: " line follows when there is something to do.
//   - With --json, standard output is one JSON object a line and nothing else.
//   - Colour and progress appear on a terminal only, and never on a dumb one;
//     colour never with NO_COLOR.
//   - What a step prints is passed on as it is. What is printed after it begins
//     a line.
//   - Standard output that cannot be written ends the command in good order:
//     without a word when it was a reader that had enough, else with an error.
//
// A program is its commands and a console:
//
//	c := console.New("obuilder", os.Stdout, os.Stderr)
//	os.Exit(c.Execute(root, os.Args[1:]))
package console

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/term"

	"obuilder.org/obuilder/engine"
)

// A Console prints for one command. Its methods may be called concurrently.
type Console struct {
	program string
	colour  bool
	live    bool   // standard error is a terminal on which a line can be written over
	cancel  func() // ends what the command does

	mu       sync.Mutex
	out      io.Writer
	err      io.Writer
	outErr   error // why standard output cannot be written
	midLine  bool  // what was printed last did not end a line
	printed  int   // how often something was printed
	progress bool  // a line of progress is to be seen
	stream   stream
}

// New makes a console for program, whose name begins its error lines.
func New(program string, stdout, stderr io.Writer) *Console {
	dumb := os.Getenv("TERM") == "dumb"
	return &Console{
		program: program, out: stdout, err: stderr, cancel: func() {},
		colour: isTerminal(stdout) && !dumb && os.Getenv("NO_COLOR") == "",
		live:   isTerminal(stderr) && !dumb,
	}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// An OutputError is standard output that could not be written.
type OutputError struct{ Err error }

func (e *OutputError) Error() string {
	err := e.Err
	if path := new(os.PathError); errors.As(err, &path) {
		err = path.Err // the name of standard output says nothing
	}
	return fmt.Sprintf("cannot write standard output: %v", err)
}

// Unwrap gives Err.
func (e *OutputError) Unwrap() error { return e.Err }

// Closed reports whether it was a reader that had enough.
func (e *OutputError) Closed() bool { return errors.Is(e.Err, syscall.EPIPE) }

// write writes to standard output, and ends the command when that fails.
func (c *Console) write(p []byte) (int, error) {
	if c.outErr != nil {
		return 0, c.outErr
	}
	if len(p) == 0 {
		return 0, nil
	}
	c.begin()
	n, err := c.out.Write(p)
	if err != nil {
		c.outErr = &OutputError{err}
		c.cancel()
		return n, c.outErr
	}
	c.midLine = p[len(p)-1] != '\n'
	return n, nil
}

// line writes text to standard output, on a line of its own.
func (c *Console) line(text string) {
	c.endLine()
	c.write([]byte(text + "\n"))
}

// EndLine ends a line of what was passed on as it is.
func (c *Console) EndLine() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.endLine()
}

func (c *Console) endLine() {
	if c.midLine {
		c.write([]byte("\n"))
	}
}

// note writes a line to standard error.
func (c *Console) note(text string) {
	c.begin()
	fmt.Fprintln(c.err, text)
}

// begin goes before all that is printed.
func (c *Console) begin() {
	c.printed++
	c.endProgress()
}

func (c *Console) endProgress() {
	if c.progress {
		fmt.Fprint(c.err, "\r\x1b[K")
		c.progress = false
	}
}

// Out is standard output, for what is passed on as it is.
func (c *Console) Out() io.Writer { return writer(c.locked(c.write)) }

// Log is standard error, for a log that writes whole lines.
func (c *Console) Log() io.Writer {
	return writer(c.locked(func(p []byte) (int, error) {
		c.begin()
		return c.err.Write(p)
	}))
}

type writer func(p []byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

func (c *Console) locked(write writer) writer {
	return func(p []byte) (int, error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		return write(p)
	}
}

// Printf prints for a person who asked, from the beginning of a line.
func (c *Console) Printf(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.endLine()
	c.write(fmt.Appendf(nil, format, args...))
}

// Notice prints a line about what goes on.
func (c *Console) Notice(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.note(c.program + ": " + fmt.Sprintf(format, args...))
}

// Progress shows label on a terminal when nothing was printed for a second,
// until something is or the function that it returns is called.
func (c *Console) Progress(label string) (done func()) {
	if !c.live {
		return func() {}
	}
	c.mu.Lock()
	printed := c.printed
	c.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	var ended sync.WaitGroup
	ended.Go(func() {
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		for seconds := 1; ; seconds++ {
			select {
			case <-ticker.C:
			case <-ctx.Done():
				return
			}
			c.mu.Lock()
			quiet := c.printed == printed
			if quiet {
				c.progress = true
				fmt.Fprintf(c.err, "\r%s … %d s ", label, seconds)
			}
			c.mu.Unlock()
			if !quiet {
				return
			}
		}
	})
	return func() {
		cancel()
		ended.Wait()
		c.mu.Lock()
		defer c.mu.Unlock()
		c.endProgress()
	}
}

// Event prints an event of a build.
func (c *Console) Event(ev engine.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch ev.Kind {
	case engine.EventOutput:
		c.write(ev.Data)
	case engine.EventHeading:
		c.styled("1", ev.Text)
	case engine.EventCached:
		c.styled("32", fmt.Sprintf("---> using %q from cache", ev.ID))
	case engine.EventSaved:
		c.styled("32", fmt.Sprintf("---> saved as %q", ev.ID))
	case engine.EventWaiting, engine.EventStale:
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
	c.line(text)
}

// Fail prints err, if there is one, with its hint, and gives the exit status.
func (c *Console) Fail(err error) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	err = c.final(err)
	status := Status(err)
	if err == nil {
		return status
	}
	c.endLine()
	var output *OutputError
	switch {
	case status == Cancelled && errors.As(err, &output):
		// Whoever read it knows.
	case status == Cancelled:
		c.note(c.program + ": cancelled")
	default:
		c.note(c.program + ": " + oneLine(err))
		if hint := Hint(err); hint != "" {
			c.note("hint: " + hint)
		}
	}
	return status
}

// final is the error of a command that ended with err: what it printed may
// not have been written.
func (c *Console) final(err error) error {
	switch {
	case c.outErr == nil:
		return err
	case err == nil, !broken(err) && (errors.Is(err, c.outErr) || errors.Is(err, context.Canceled)):
		return c.outErr // which has cancelled it
	case errors.Is(err, c.outErr):
		return err
	}
	return errors.Join(err, c.outErr)
}

// oneLine gives the text of an error on one line.
func oneLine(err error) string {
	return strings.Join(strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}

// Time prints a time as the index keeps it, in UTC, or "-" for none.
func Time(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.DateTime)
}
