package fault

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"

	"obuilder.org/obuilder/zfs"
)

// A Transcript is an [Interceptor] that writes down the commands in the order
// in which they began. The zero value is ready for use. It keeps every
// command: it is for runs that end.
type Transcript struct {
	mu      sync.Mutex
	entries []Entry
	counts  map[string]int
}

// An Entry is one command of a [Transcript].
type Entry struct {
	Argv []string
	Done bool  // it has ended
	Err  error // how it ended
}

// String gives the entry as one would type it in a shell, with how it failed,
// if it did, as a comment: `zfs mount p/a@snap  # exit 1: cannot open ...`.
func (e Entry) String() string {
	line := zfs.CommandLine(e.Argv)
	switch failed := (*zfs.Error)(nil); {
	case !e.Done:
		return line + "  # running"
	case e.Err == nil:
		return line
	case !errors.As(e.Err, &failed):
		return line + "  # " + oneLine(e.Err.Error())
	case failed.Err != nil:
		return line + "  # " + failed.Kind.String() + ": " + oneLine(failed.Err.Error())
	default:
		line = fmt.Sprintf("%s  # exit %d", line, failed.Status)
		if text := oneLine(failed.Stderr); text != "" {
			line += ": " + text
		}
		return line
	}
}

// oneLine gives the first line of text.
func oneLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return strings.TrimSpace(line)
}

// Intercept implements [Interceptor].
func (t *Transcript) Intercept(_ context.Context, argv []string, run func() error) error {
	t.mu.Lock()
	i := len(t.entries)
	t.entries = append(t.entries, Entry{Argv: argv})
	if t.counts == nil {
		t.counts = make(map[string]int)
	}
	t.counts[argv[0]+" "+argv[1]]++
	t.mu.Unlock()

	err := run()

	t.mu.Lock()
	defer t.mu.Unlock()
	t.entries[i].Done, t.entries[i].Err = true, err
	return err
}

// Entries gives the commands so far.
func (t *Transcript) Entries() []Entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]Entry(nil), t.entries...)
}

// Commands gives the command lines so far, without how they ended.
func (t *Transcript) Commands() []string {
	entries := t.Entries()
	lines := make([]string, len(entries))
	for i, e := range entries {
		lines[i] = zfs.CommandLine(e.Argv)
	}
	return lines
}

// Counts gives how often each command was run so far, by its first two words
// ("zfs clone", "zpool list").
func (t *Transcript) Counts() map[string]int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.counts)
}

// String gives a line for each command so far, with how it failed if it did.
func (t *Transcript) String() string {
	var b strings.Builder
	for _, e := range t.Entries() {
		b.WriteString(e.String())
		b.WriteByte('\n')
	}
	return b.String()
}
