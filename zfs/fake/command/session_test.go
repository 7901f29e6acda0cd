package command_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"obuilder.org/obuilder/zfs"
	"obuilder.org/obuilder/zfs/fake"
	"obuilder.org/obuilder/zfs/fake/command"
)

// A session in testdata is commands and what OpenZFS answered:
//
//	$ zfs create tank/a
//	2|cannot create 'tank/a': dataset already exists
//	=1
//
// 1| is standard output, 2| standard error, = the exit status unless it is 0;
// \ in place of | says that the line has no end. Each begins with a pool tank
// on /tmp/disk. Besides zfs and zpool there are mkdir, write FILE TEXT, cat, ls,
// open FILE, which keeps it open, and close. What no model can know, such as
// sizes, dates and guids, is masked with #.
//
// To record anew, on a machine with OpenZFS (see scripts/openzfs):
//
//	scripts/openzfs test -run TestOnOpenZFS ./zfs/fake/command >log
//	go test ./zfs/fake/command -run TestMerge -merge "$PWD/log"
var merge = flag.String("merge", "", "the log of a run on OpenZFS, from which testdata is to be brought up to date")

type step struct {
	line, out, err string
	status         int
}

func parseSession(t *testing.T, data string) []step {
	t.Helper()
	var steps []step
	for line := range strings.Lines(data) {
		line = strings.TrimSuffix(line, "\n")
		if cmd, ok := strings.CutPrefix(line, "$ "); ok {
			steps = append(steps, step{line: cmd})
			continue
		}
		if line == "" {
			continue
		}
		if len(steps) == 0 {
			t.Fatalf("no command before %q", line)
		}
		s := &steps[len(steps)-1]
		var stream *string
		switch line[0] {
		case '=':
			n, err := strconv.Atoi(line[1:])
			if err != nil {
				t.Fatal(err)
			}
			s.status = n
			continue
		case '1':
			stream = &s.out
		case '2':
			stream = &s.err
		default:
			t.Fatalf("not a line of a session: %q", line)
		}
		*stream += line[2:]
		if line[1] == '|' {
			*stream += "\n"
		}
	}
	return steps
}

func (s step) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "$ %s\n", s.line)
	for i, stream := range []string{s.out, s.err} {
		for line := range strings.Lines(stream) {
			text, whole := strings.CutSuffix(line, "\n")
			mark := `\`
			if whole {
				mark = "|"
			}
			fmt.Fprintf(&b, "%d%s%s\n", i+1, mark, text)
		}
	}
	if s.status != 0 {
		fmt.Fprintf(&b, "=%d\n", s.status)
	}
	return b.String()
}

func printSession(steps []step) string {
	var b strings.Builder
	for _, s := range steps {
		b.WriteString(s.String())
	}
	return b.String()
}

// split reads a command as a shell does that knows single quotes only.
func split(line string) []string {
	var argv []string
	var arg []byte
	inArg, quoted := false, false
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case c == '\'':
			quoted, inArg = !quoted, true
		case c == ' ' && !quoted:
			if inArg {
				argv = append(argv, string(arg))
			}
			arg, inArg = nil, false
		default:
			arg, inArg = append(arg, c), true
		}
	}
	if inArg {
		argv = append(argv, string(arg))
	}
	return argv
}

// A system is what sessions are played on.
type system struct {
	files zfs.Files
	zfs   func(argv []string) (out, err string, status int)
	open  []zfs.File
}

func (s *system) play(line string) step {
	done := step{line: line}
	argv := split(line)
	fail := func(err error) {
		if err != nil {
			done.err, done.status = "failed\n", 1
		}
	}
	switch argv[0] {
	case "zfs", "zpool":
		done.out, done.err, done.status = s.zfs(argv)
		done.out, done.err = mask(done.out), mask(done.err)
	case "mkdir":
		fail(s.files.MkdirAll(argv[1], 0o755))
	case "write":
		f, err := s.files.OpenFile(argv[1], os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
		if err == nil {
			_, err = f.Write([]byte(argv[2] + "\n"))
			f.Close()
		}
		fail(err)
	case "cat":
		data, err := s.files.ReadFile(argv[1], 1<<20)
		done.out = string(data)
		fail(err)
	case "ls":
		tree, err := s.files.Tree(argv[1])
		if err != nil {
			fail(err)
			break
		}
		entries, err := tree.ReadDir(".")
		fail(err)
		tree.Close()
		for _, e := range entries {
			done.out += e.Name() + "\n"
		}
	case "open":
		f, err := s.files.OpenFile(argv[1], os.O_RDONLY, 0)
		if err == nil {
			s.open = append(s.open, f)
		}
		fail(err)
	case "close":
		s.close()
	default:
		panic(line)
	}
	return done
}

func (s *system) close() {
	for _, f := range s.open {
		f.Close()
	}
	s.open = nil
}

var (
	dates    = regexp.MustCompile(`(Mon|Tue|Wed|Thu|Fri|Sat|Sun) [A-Z][a-z]{2} [ \d]\d +\d?\d:\d\d \d{4}`)
	numbers  = regexp.MustCompile(`\b\d{4,}\b`)
	given    = regexp.MustCompile(`quota|reservation|recordsize|volblocksize|special_small_blocks|bad numeric|power of 2|version|--|PROPERTY|<|PROPERTY`)
	sizeOnly = regexp.MustCompile(` *\b\d+(\.\d+)?[BKMGTP]\b *`)
	txgs     = regexp.MustCompile(`((?:createtxg|objsetid)\s+)\d+`)
)

// mask puts # in place of what depends on more than the commands.
func mask(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		line, end := strings.CutSuffix(line, "\n")
		hashes := func(s string) string { return strings.Repeat("#", len(s)) }
		line = dates.ReplaceAllStringFunc(line, hashes)
		line = txgs.ReplaceAllString(line, "${1}#")
		if !given.MatchString(line) {
			line = sizeOnly.ReplaceAllStringFunc(line, func(s string) string {
				if strings.Trim(s, " ") == s {
					return "#"
				}
				return hashes(s)
			})
			line = numbers.ReplaceAllString(line, "#")
		}
		b.WriteString(line)
		if end {
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// disks are the files that pools can be made on.
var disks = []string{"/tmp/disk", "/tmp/disk2", "/tmp/disk3"}

const diskSize = 512 << 20

func newFake(t *testing.T) *system {
	t.Helper()
	m := fake.New()
	s := &system{files: m.Files(), zfs: func(argv []string) (string, string, int) {
		var out, err bytes.Buffer
		status := command.Run(t.Context(), m, argv, strings.NewReader(""), &out, &err)
		return out.String(), err.String(), status
	}}
	for _, disk := range disks {
		if err := s.files.MkdirAll(filepath.ToSlash(filepath.Dir(disk)), 0o777); err != nil {
			t.Fatal(err)
		}
		makeDisk(t, s.files, disk)
	}
	s.must(t, "zpool destroy obuilder")
	s.must(t, "zpool create tank /tmp/disk")
	return s
}

func makeDisk(t *testing.T, files zfs.Files, disk string) {
	t.Helper()
	f, err := files.OpenFile(disk, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.(interface{ Truncate(int64) error }).Truncate(diskSize); err != nil {
		t.Fatal(err)
	}
}

func (s *system) must(t *testing.T, line string) {
	t.Helper()
	if done := s.play(line); done.status != 0 {
		t.Fatalf("%s", done)
	}
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
				defer s.close()
				for _, want := range parseSession(t, string(f.Data)) {
					all++
					got := s.play(want.line)
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
	s := &system{files: zfs.OSFiles{}, zfs: func(argv []string) (string, string, int) {
		cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
		cmd.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC")
		cmd.Dir = "/"
		var out, err bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &err
		if e := cmd.Run(); e != nil && cmd.ProcessState == nil {
			t.Fatal(e)
		}
		return out.String(), err.String(), cmd.ProcessState.ExitCode()
	}}
	others, _, _ := s.zfs([]string{"zpool", "list", "-Ho", "name"})
	for pool := range strings.FieldsSeq(others) {
		s.must(t, "zpool export "+pool)
		defer s.play("zpool import -d /tmp " + pool)
	}
	for _, disk := range disks {
		if err := os.Rename(disk, disk+".away"); err == nil {
			defer os.Rename(disk+".away", disk)
		}
	}
	for _, file := range sessionFiles(t) {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for i, f := range archive.Files {
			for _, disk := range disks {
				os.Remove(disk)
				makeDisk(t, s.files, disk)
			}
			s.must(t, "zpool create tank /tmp/disk")
			var done []step
			for _, want := range parseSession(t, string(f.Data)) {
				done = append(done, s.play(want.line))
			}
			s.close()
			left, _, _ := s.zfs([]string{"zpool", "list", "-Ho", "name"})
			for pool := range strings.FieldsSeq(left) {
				if s.play("zpool destroy -f "+pool).status != 0 {
					unmountAll(t) // zfs does not unmount what is hidden
					s.must(t, "zpool destroy -f "+pool)
				}
			}
			if got := printSession(done); got != string(f.Data) {
				archive.Files[i].Data = []byte(got)
				t.Errorf("%s, %s: OpenZFS answers otherwise", file, f.Name)
			}
		}
		if t.Failed() {
			fmt.Printf("%s%s\n%s%send\n", recordMark, filepath.Base(file), txtar.Format(archive), recordMark)
		}
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
