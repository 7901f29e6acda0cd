package command_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"runtime"
	"strings"
	"testing"

	"obuilder.org/obuilder/zfs"
	"obuilder.org/obuilder/zfs/fake"
	"obuilder.org/obuilder/zfs/fake/command"
)

func newTank(t *testing.T, names ...string) *fake.Machine {
	t.Helper()
	m := fake.New(fake.Pool("tank", 1<<30, ""))
	for _, name := range names {
		if err := m.Create(t.Context(), zfs.MustDataset(name), zfs.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Snapshot(t.Context(), true, zfs.MustSnapshot("tank@1")); err != nil {
		t.Fatal(err)
	}
	return m
}

// What is not modelled says so, and writes no stream.
func TestStreamsNotModelled(t *testing.T) {
	m := newTank(t, "tank/a")
	if err := m.Unmount(t.Context(), zfs.MustDataset("tank/a"), false); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"send tank/a", "send -i #b tank/a@1", "send -d b tank/a@1", "send -b tank/a@1", "send -h tank/a@1", "send -Rh tank/a@1",
		"send -S tank/a", "send -t 1-2-3", "receive -s tank/b", "receive -A tank/b", "receive -o encryption=on tank/b",
	} {
		var out, err bytes.Buffer
		argv := append([]string{"zfs"}, strings.Fields(line)...)
		if status := command.Run(t.Context(), m, argv, nil, &out, &err); status != command.NotModelled || out.Len() > 0 || !strings.Contains(err.String(), "not modelled") {
			t.Errorf("%s: %d %q %q", line, status, out.String(), err.String())
		}
	}
}

// Neither end of a stream is a terminal.
func TestStreamsAndTerminals(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("terminals are opened as on Linux")
	}
	tty, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skip("there are no terminals: ", err)
	}
	defer tty.Close()
	m := newTank(t, "tank/a")
	run := func(in io.Reader, out io.Writer, argv ...string) (int, string) {
		var stderr bytes.Buffer
		status := command.Run(t.Context(), m, append([]string{"zfs"}, argv...), in, out, &stderr)
		return status, stderr.String()
	}
	if status, text := run(nil, tty, "send", "tank/a@1"); status != 1 || text != "Error: Stream can not be written to a terminal.\nYou must redirect standard output.\n" {
		t.Errorf("send: %d %q", status, text)
	}
	if status, text := run(nil, tty, "send", "-n", "tank/a@1"); status != 0 || text != "" {
		t.Errorf("send -n: %d %q", status, text)
	}
	if status, text := run(tty, io.Discard, "receive", "tank/b"); status != 1 || text != "Error: Backup stream can not be read from a terminal.\nYou must redirect standard input.\n" {
		t.Errorf("receive: %d %q", status, text)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if status, text := run(nil, null, "send", "tank/a@1"); status != 0 || text != "" {
		t.Errorf("send to nowhere: %d %q", status, text)
	}
}

// A pipe has no end as long as it is written to, and what is cancelled leaves
// nothing behind.
func TestStreamCancelled(t *testing.T) {
	m := newTank(t, "tank/a")
	var stream bytes.Buffer
	if status := command.Run(t.Context(), m, []string{"zfs", "send", "tank/a@1"}, nil, &stream, io.Discard); status != 0 {
		t.Fatal(status)
	}
	ctx, cancel := context.WithCancel(t.Context())
	in := readerFunc(func(p []byte) (int, error) {
		if stream.Len() < 100 {
			cancel()
		}
		n, err := stream.Read(p[:min(len(p), 10)])
		if err != nil {
			err = io.ErrUnexpectedEOF
		}
		return n, err
	})
	var stderr bytes.Buffer
	if status := command.Run(ctx, m, []string{"zfs", "receive", "tank/b"}, in, io.Discard, &stderr); status == 0 {
		t.Error("it was received")
	}
	if _, err := m.Get(t.Context(), zfs.MustDataset("tank/b"), "name"); !zfs.IsKind(err, zfs.NotFound) {
		t.Error(err, stderr.String())
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// A stream that cannot be written is not sent.
func TestStreamToFullDisk(t *testing.T) {
	m := newTank(t, "tank/a")
	var stderr bytes.Buffer
	if status := command.Run(t.Context(), m, []string{"zfs", "send", "tank/a@1"}, nil, failingWriter{}, &stderr); status != 1 || stderr.String() != "warning: cannot send 'tank/a@1': No space left on device\n" {
		t.Errorf("%d %q", status, stderr.String())
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }
