package state

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"
)

// A stream that one script has sent can be received by a later one.
func TestStreams(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	s := open(t, path)
	play(t, s, "zfs create obuilder/a\nwrite /Volumes/obuilder/a/f one\nzfs snapshot obuilder/a@1\nzfs send -R obuilder/a@1 >stream")
	closeState(t, s)
	s = open(t, path)
	play(t, s, "zfs receive obuilder/b <stream")
	closeState(t, s)
	s = open(t, path)
	defer closeState(t, s)
	if out := play(t, s, "cat /Volumes/obuilder/b/f"); !strings.Contains(out, "1|one") {
		t.Error(out)
	}
}

// What the programs read from standard input is kept with them.
func TestStandardInput(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	run := func(s *State, stdin, line string) string {
		t.Helper()
		var out, errs bytes.Buffer
		status, err := s.Run(t.Context(), strings.Fields(line), strings.NewReader(stdin), &out, &errs)
		if err != nil || status != 0 {
			t.Fatalf("%s: %d, %v: %s", line, status, err, &errs)
		}
		return out.String()
	}
	s := open(t, path)
	run(s, "", "zfs create obuilder/a")
	run(s, "", "zfs snapshot obuilder/a@1")
	stream := run(s, "", "zfs send obuilder/a@1")
	run(s, stream, "zfs receive obuilder/b")
	want := run(s, "not read", "zfs list -H -r -t all -o name,guid")
	closeState(t, s)
	s = open(t, path)
	defer closeState(t, s)
	if got := run(s, "", "zfs list -H -r -t all -o name,guid"); got != want || !strings.Contains(got, "obuilder/b@1") {
		t.Errorf("%s, was: %s", got, want)
	}
}
