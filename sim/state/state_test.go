package state

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"obuilder.org/obuilder/lockfile"
	"obuilder.org/obuilder/zfs/zfstest/session"
)

// clock gives a second more each time.
func clock() func() time.Time {
	now := time.Unix(1_700_000_000, 0)
	return func() time.Time { now = now.Add(time.Second); return now }
}

func open(t testing.TB, path string) *State {
	t.Helper()
	s, err := Open(t.Context(), path, Options{Now: clock()})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func closeState(t testing.TB, s *State) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// play gives what a script prints.
func play(t testing.TB, s *State, script string) string {
	t.Helper()
	var b strings.Builder
	err := s.Script(t.Context(), "script", strings.NewReader(script), func(step session.Step) error {
		b.WriteString(step.String())
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

const (
	some = `
zfs create -o mountpoint=/a obuilder/a
zfs create obuilder/a            # it is there
zfs snapshot obuilder/a@1
write /a/f one
zfs snapshot obuilder/a@2
zfs hold keep obuilder/a@1
zfs set org.obuilder:k='a value' obuilder/a
mkdir /tmp
truncate /tmp/disk 536870912
zpool create tank /tmp/disk
open /a/f
zfs unmount obuilder/a
zfs destroy -r obuilder/a
`
	look = `
zfs list -Hp -r -t all -o name,guid,creation,createtxg,origin,mountpoint,mounted,userrefs
zfs get -Hp all obuilder/a
zpool list -H -o name
cat /a/f
ls /a/.zfs/snapshot
`
)

// A state is what it was when it is opened again: guids, times, files and what
// has failed.
func TestKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	s := open(t, path)
	memory := open(t, "")
	if a, b := play(t, s, some), play(t, memory, some); a != b || !strings.Contains(a, "dataset already exists") || !strings.Contains(a, "=1") {
		t.Errorf("kept:\n%s\nin memory:\n%s", a, b)
	}
	want := play(t, s, look)
	if got := play(t, memory, look); got != want || !strings.Contains(want, "one") || !strings.Contains(want, "obuilder/a@2") {
		t.Fatalf("kept:\n%s\nin memory:\n%s", want, got)
	}
	closeState(t, s)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s = open(t, path)
	if got := play(t, s, look); got != want {
		t.Errorf("opened again:\n%s\nwas:\n%s", got, want)
	}
	play(t, s, "zfs set a:b=c obuilder/a")
	closeState(t, s)
	after, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if extra, ok := bytes.CutPrefix(after, before); !ok || bytes.Count(extra, []byte{'\n'}) != 1 {
		t.Errorf("commands that only look are kept: %q", extra)
	}
}

const files = "mkdir /x\nwrite /x/f one\nopen /x/f\nwrite /x/f 'it''s <two>'\n"

// Whatever one byte of a state is changed to, it is noticed; what a process
// that was killed was writing is left out.
func TestDamaged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	s := open(t, path)
	play(t, s, files)
	closeState(t, s)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range whole {
		for _, bit := range []byte{1, 0x20} {
			broken := bytes.Clone(whole)
			broken[i] ^= bit
			if i == len(whole)-1 { // then there is no end of line
				continue
			}
			write(t, path, broken)
			s, err := Open(t.Context(), path, Options{})
			var bad *FormatError
			if !errors.As(err, &bad) || !strings.Contains(err.Error(), path) {
				t.Fatalf("%q opens: %v", broken, err)
			}
			if s != nil {
				t.Fatal("a state with an error")
			}
			if now, _ := os.ReadFile(path); !bytes.Equal(now, broken) {
				t.Fatal("a damaged file was changed")
			}
		}
	}
	lines := bytes.SplitAfter(whole, []byte{'\n'})
	for name, broken := range map[string][][]byte{"without a line": {lines[0], lines[1], lines[3]}, "with lines exchanged": {lines[0], lines[2], lines[1]}} {
		write(t, path, bytes.Join(broken, nil))
		if _, err := Open(t.Context(), path, Options{}); err == nil || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for end := len(lines[0]); end <= len(whole); end++ {
		write(t, path, whole[:end])
		s := open(t, path)
		n := bytes.Count(whole[:end], []byte{'\n'}) - 1
		out := play(t, s, "cat /x/f")
		want := []string{"=1", "=1", "1|one", "1|one", "1|its <two>", "1|its <two>"}[n]
		if !strings.Contains(out, want) {
			t.Errorf("with %d commands: %s", n, out)
		}
		play(t, s, "write /y end")
		closeState(t, s)
		s = open(t, path)
		if out := play(t, s, "cat /y"); !strings.Contains(out, "1|end") {
			t.Errorf("after %d bytes: %s", end, out)
		}
		closeState(t, s)
	}
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestRefused(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"":                             "not a state of obsim",
		"#!/bin/sh\n":                  "not a state of obsim",
		"obsim state 2 {}\n":           "another version",
		"obsim state 1 {}\n":           "damaged",
		`obsim state 1 {"a":1}` + "\n": "damaged",
	} {
		path := filepath.Join(dir, "f")
		write(t, path, []byte(name))
		var bad *FormatError
		if _, err := Open(t.Context(), path, Options{}); !errors.As(err, &bad) || !strings.Contains(err.Error(), text) {
			t.Errorf("%q: %v", name, err)
		}
	}
	path := filepath.Join(dir, "linux")
	s, err := Open(t.Context(), path, Options{System: Linux, Seed: 5})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err = Open(ctx, path, Options{Waiting: func(string) { cancel() }})
	if held := new(lockfile.HeldError); !errors.As(err, &held) {
		t.Errorf("a second process: %v", err)
	}
	if _, err := s.Run(t.Context(), []string{"zfs", "create", "obuilder/\xff"}, nil, nil, nil); err == nil {
		t.Error("kept what cannot be kept")
	}
	closeState(t, s)
	for _, o := range []Options{{System: MacOS}, {Seed: 1}} {
		if _, err := Open(t.Context(), path, o); err == nil || !strings.Contains(err.Error(), "was begun with") {
			t.Errorf("%+v: %v", o, err)
		}
	}
	closeState(t, open(t, path))
	if _, err := Open(t.Context(), dir, Options{}); err == nil {
		t.Error("a directory opens")
	}
	for _, name := range []string{"", "a/b", "..", "a b"} {
		if _, err := SessionPath(name); err == nil {
			t.Errorf("a session called %q", name)
		}
	}
}

// A command that cannot be kept has not answered, and is not there.
func TestCannotKeep(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	s := open(t, path)
	if err := s.log.Close(); err != nil {
		t.Fatal(err)
	}
	if step, err := s.Play(t.Context(), "mkdir /x"); err == nil {
		t.Errorf("%v", step)
	}
	s.log = nil
	closeState(t, s)
	s = open(t, path)
	defer closeState(t, s)
	if out := play(t, s, "ls /x"); !strings.Contains(out, "=1") {
		t.Error(out)
	}
}

func TestScript(t *testing.T) {
	s := open(t, "")
	out := play(t, s, "  mkdir /x   # comment\n\n#zfs\n$ write /x/f 'a # b'\n2|failed\n=1\nwrite /x/g#1 c\ncat /x/f\ncat /x/g#1\n")
	want := "$ mkdir /x\n$ write /x/f 'a # b'\n$ write /x/g#1 c\n$ cat /x/f\n1|a # b\n$ cat /x/g#1\n1|c\n"
	if out != want {
		t.Errorf("%s\nwant:\n%s", out, want)
	}
	if again := play(t, open(t, ""), out); again != out {
		t.Errorf("what a script has printed prints:\n%s", again)
	}
	for line, text := range map[string]string{
		"rm -rf / x": `f:2: rm needs 1 arguments: "rm -rf / x"`,
		"sudo zfs":   `f:2: not a command: "sudo"`,
		"cat 'x":     "f:2: ",
	} {
		err := s.Script(t.Context(), "f", strings.NewReader("ls /\n"+line+"\nls /\n"), func(session.Step) error { return nil })
		if err == nil || !strings.HasPrefix(err.Error(), text) {
			t.Errorf("%s: %v", line, err)
		}
	}
}

// BenchmarkOpen is opening a state of a thousand commands.
func BenchmarkOpen(b *testing.B) {
	path := filepath.Join(b.TempDir(), "state")
	s := open(b, path)
	const commands = 1000
	var lines strings.Builder
	for i := range commands / 2 {
		fmt.Fprintf(&lines, "zfs clone obuilder/base@1 obuilder/%d\nzfs destroy obuilder/%d\n", i, i)
	}
	play(b, s, "zfs create obuilder/base\nzfs snapshot obuilder/base@1\n"+lines.String())
	closeState(b, s)
	for b.Loop() {
		closeState(b, open(b, path))
	}
	b.ReportMetric(float64(b.N*commands)/b.Elapsed().Seconds(), "commands/s")
}
