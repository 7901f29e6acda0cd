package command_test

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"obuilder.org/obuilder/zfs"
	"obuilder.org/obuilder/zfs/fake"
	"obuilder.org/obuilder/zfs/fake/command"
	"obuilder.org/obuilder/zfs/zfstest/session"
)

// testdata has sessions, see package session, each of which begins with a pool
// tank on /tmp/disk.
//
// To record anew, on a machine with OpenZFS (see scripts/openzfs):
//
//	scripts/openzfs test -run TestOnOpenZFS/destroy ./zfs/fake/command >log
//	go test ./zfs/fake/command -run TestMerge -merge "$PWD/log"
var merge = flag.String("merge", "", "the log of a run on OpenZFS, from which testdata is to be brought up to date")

// disks are the files that pools can be made on.
var disks = []string{"/tmp/disk", "/tmp/disk2", "/tmp/disk3"}

const diskSize = 512 << 20

// A player plays sessions in a test.
type player struct{ session.Player }

func newFake(t *testing.T) *player {
	t.Helper()
	m := fake.New(fake.Pool("none", 1, "none"))
	p := &player{session.Player{Files: m.Files(), Run: func(ctx context.Context, argv []string, in io.Reader, out, err io.Writer) (int, error) {
		return command.Run(ctx, m, argv, in, out, err), nil
	}}}
	p.must(t, "mkdir /tmp")
	for _, disk := range disks {
		p.must(t, fmt.Sprintf("truncate %s %d", disk, diskSize))
	}
	p.must(t, "zpool destroy none")
	p.must(t, "zpool create tank "+disks[0])
	return p
}

func (p *player) play(t *testing.T, line string) session.Step {
	t.Helper()
	done, err := p.Play(t.Context(), line)
	if err != nil {
		t.Fatal(err)
	}
	return done
}

func (p *player) must(t *testing.T, line string) {
	t.Helper()
	if done := p.play(t, line); done.Status != 0 {
		t.Fatalf("%s", done)
	}
}

func parse(t *testing.T, data []byte) []session.Step {
	t.Helper()
	steps, err := session.Parse(string(data))
	if err != nil {
		t.Fatal(err)
	}
	return steps
}

func sessionFiles(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no sessions: ", err)
	}
	return files
}

// The answers are those of OpenZFS.
func TestSessions(t *testing.T) {
	agree, all := 0, 0
	for _, file := range sessionFiles(t) {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range archive.Files {
			t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar")+"/"+f.Name, func(t *testing.T) {
				s := newFake(t)
				defer s.Close()
				for _, want := range parse(t, f.Data) {
					all++
					got := s.play(t, want.Command)
					if diff := cmp.Diff(want.String(), got.String()); diff != "" {
						t.Errorf("OpenZFS (-) and the fake (+):\n%s", diff)
						continue
					}
					agree++
				}
			})
		}
	}
	t.Logf("%d of %d commands agree", agree, all)
}

const recordMark = "=== recorded "

// What is recorded is what OpenZFS answers.
func TestOnOpenZFS(t *testing.T) {
	if os.Getenv("OBUILDER_TEST_DISPOSABLE") == "" || os.Geteuid() != 0 {
		t.Skip("OBUILDER_TEST_DISPOSABLE is not set, or this is not root: this test makes and destroys the pools of the machine it runs on")
	}
	s := &player{session.Player{Files: zfs.OSFiles{}, Run: func(ctx context.Context, argv []string, in io.Reader, out, err io.Writer) (int, error) {
		cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
		cmd.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC")
		cmd.Dir = "/"
		cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, err
		if e := cmd.Run(); cmd.ProcessState == nil {
			return 0, e
		}
		return cmd.ProcessState.ExitCode(), nil
	}}}
	for pool := range strings.FieldsSeq(s.play(t, "zpool list -Ho name").Out) {
		s.must(t, "zpool export "+pool)
		defer s.play(t, "zpool import -d /tmp "+pool)
	}
	for _, disk := range disks {
		if err := os.Rename(disk, disk+".away"); err == nil {
			defer os.Rename(disk+".away", disk)
		}
	}
	for _, file := range sessionFiles(t) {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) { record(t, s, file) })
	}
}

// record plays the sessions of a file and writes out those that are not as
// they were.
func record(t *testing.T, s *player, file string) {
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range archive.Files {
		for _, disk := range disks {
			os.Remove(disk)
			s.must(t, fmt.Sprintf("truncate %s %d", disk, diskSize))
		}
		s.must(t, "zpool create tank /tmp/disk")
		var done []session.Step
		for _, want := range parse(t, f.Data) {
			done = append(done, s.play(t, want.Command))
		}
		s.Close()
		for pool := range strings.FieldsSeq(s.play(t, "zpool list -Ho name").Out) {
			if s.play(t, "zpool destroy -f "+pool).Status != 0 {
				unmountAll(t) // zfs does not unmount what is hidden
				s.must(t, "zpool destroy -f "+pool)
			}
		}
		if got := session.Print(done); got != string(f.Data) {
			archive.Files[i].Data = []byte(got)
			t.Errorf("%s, %s: OpenZFS answers otherwise", file, f.Name)
		}
	}
	if t.Failed() {
		fmt.Printf("%s%s\n%s%send\n", recordMark, filepath.Base(file), txtar.Format(archive), recordMark)
	}
}

func unmountAll(t *testing.T) {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(mounts)), "\n")
	for _, line := range slices.Backward(lines) {
		if f := strings.Fields(line); f[2] == "zfs" {
			out, err := exec.Command("umount", "-l", strings.ReplaceAll(f[1], `\040`, " ")).CombinedOutput()
			if err != nil {
				t.Errorf("umount %s: %v: %s", f[1], err, out)
			}
		}
	}
}

func TestMerge(t *testing.T) {
	if *merge == "" {
		t.Skip("-merge is not given")
	}
	data, err := os.ReadFile(*merge)
	if err != nil {
		t.Fatal(err)
	}
	name := ""
	var content []string
	for line := range strings.Lines(string(data)) {
		mark, ok := strings.CutPrefix(line, recordMark)
		switch mark = strings.TrimSpace(mark); {
		case ok && mark == "end":
			if err := os.WriteFile(filepath.Join("testdata", filepath.Base(name)), []byte(strings.Join(content, "")), 0o644); err != nil {
				t.Fatal(err)
			}
			name = ""
		case ok:
			name, content = mark, nil
		case name != "":
			content = append(content, line)
		}
	}
}
