package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"obuilder.org/obuilder/zfs/zfstest/session"
)

// Whatever is made up, the fake answers, and answers the same again.
func TestFakeAlone(t *testing.T) {
	for seed := range uint64(20) {
		c := comparison{real: newFake(), fake: newFake(), log: io.Discard, length: 60, keep: func(name string, data []byte) {
			t.Errorf("%s: %s", name, data)
		}}
		if err := c.run(t.Context(), 300, seed); err != nil {
			t.Fatal(err)
		}
		if len(c.found) > 0 || c.compared != 300 {
			t.Fatal(c.compared, c.found)
		}
	}
}

// A fake that errs is found out, by a script without what does not matter.
func TestFindsAndShrinks(t *testing.T) {
	real := newFake()
	wrong := newFake()
	reset := wrong.reset
	wrong.reset = func(ctx context.Context) error { // one that forgets what -r is
		err := reset(ctx)
		run := wrong.Run
		wrong.Run = func(ctx context.Context, argv []string, in io.Reader, out, err io.Writer) (int, error) {
			if argv[1] == "snapshot" {
				argv = slices.DeleteFunc(slices.Clone(argv), func(s string) bool { return s == "-r" })
			}
			return run(ctx, argv, in, out, err)
		}
		return err
	}
	var log bytes.Buffer
	var found []string
	c := comparison{real: real, fake: wrong, log: &log, length: 40, shrink: time.Minute, keep: func(name string, data []byte) {
		found = append(found, string(data))
	}}
	if err := c.run(t.Context(), 600, 1); err != nil {
		t.Fatal(err)
	}
	if len(found) == 0 || !strings.Contains(log.String(), "divergences, seed 1") || strings.Contains(log.String(), " 0 divergences") {
		t.Fatal(found, log.String())
	}
	for _, data := range found {
		steps, err := session.Parse(string(txtar.Parse([]byte(data)).Files[0].Data))
		if err != nil {
			t.Fatal(err)
		}
		if len(steps) > 10 || !strings.Contains(data, "snapshot") {
			t.Errorf("not as small as it should be:\n%s", data)
		}
	}
}

// A difference is deliberate where a row of the table says so, and nowhere else.
func TestDeliberate(t *testing.T) {
	const line = "cannot open 'tank/a@s': snapshot delimiter '@' is not expected here\n"
	fake := session.Step{Command: "zfs rename tank/a tank/b"}
	for real, want := range map[session.Step]outcome{
		fake: same,
		{Command: fake.Command, Err: line + line}:              deliberate,
		{Command: fake.Command, Err: line + "cannot rename\n"}: different,
		{Command: fake.Command, Err: line, Status: 1}:          different,
		{Command: fake.Command, Out: line}:                     different,
	} {
		if got, _ := compare(real, fake); got != want {
			t.Errorf("%q: %d, not %d", real, got, want)
		}
	}
}

func TestMinimal(t *testing.T) {
	all := strings.Fields("a b c d e f g h i j end")
	got := minimal(all, func(lines []string) bool { return slices.Contains(lines, "c") && slices.Contains(lines, "h") })
	if diff := cmp.Diff([]string{"c", "h", "end"}, got); diff != "" {
		t.Error(diff)
	}
}

// What comes out of a machine is what went in.
func TestFilesOfMachine(t *testing.T) {
	var serial, log bytes.Buffer
	data := bytes.Repeat([]byte("\r\n\x1b[1m"), 100)
	io.WriteString(&serial, "compared\n")
	printFile(&serial, "x/y", data)
	io.WriteString(&serial, "EXIT:1\n")
	err := readMachine(&serial, &log, func(name string, got []byte) {
		if name != "x/y" || !bytes.Equal(got, data) {
			t.Errorf("%s: %q", name, got)
		}
	})
	if err != nil || log.String() != "compared\n" {
		t.Error(err, log.String())
	}
}

// Where the fake once differed from OpenZFS, it does not any more, but where
// that is meant to be.
func TestDivergences(t *testing.T) {
	for name, recorded := range divergenceSessions(t) {
		t.Run(name, func(t *testing.T) { replay(t, recorded) })
	}
}

// realOf gives the session of OpenZFS in the script of a divergence.
func realOf(t *testing.T, script []byte) string {
	t.Helper()
	for _, f := range txtar.Parse(script).Files {
		if f.Name == "openzfs" {
			return string(f.Data)
		}
	}
	t.Fatalf("no file openzfs in the script:\n%s", script)
	return ""
}

// The fake answers as OpenZFS did when the corpus was recorded.
func TestCorpus(t *testing.T) {
	compared := 0
	for _, file := range corpusFiles(t) {
		for _, f := range corpus(t, file).Files {
			t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar.gz")+"/"+f.Name, func(t *testing.T) {
				compared += replay(t, string(f.Data))
			})
		}
	}
	t.Logf("compared %d answers", compared)
}

func corpusFiles(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/corpus/*.txtar.gz")
	if err != nil || len(files) == 0 {
		t.Fatal("no corpus: ", err)
	}
	return files
}

func corpus(t *testing.T, file string) *txtar.Archive {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	archive, err := decompress(data)
	if err != nil {
		t.Fatal(err)
	}
	return archive
}

// replay plays what was recorded on the fake and compares. It gives how many
// answers were compared.
func replay(t *testing.T, recorded string) (compared int) {
	t.Helper()
	steps, err := session.Parse(recorded)
	if err != nil {
		t.Fatal(err)
	}
	p := newFake()
	if err := p.reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for _, want := range steps {
		got, err := p.play(t.Context(), want.Command)
		if err != nil {
			t.Fatal(err)
		}
		result, d := compare(want, got)
		if result == different {
			t.Errorf("OpenZFS (-) and the fake (+):\n%s", cmp.Diff(comparable(want).String(), comparable(got).String()))
		}
		if result == different || result == deliberate && d.drop == nil {
			return compared
		}
		compared++
	}
	return compared
}

// What cannot be compared with is said, and nothing is touched.
func TestRefusals(t *testing.T) {
	t.Setenv("OPENZFS_VM", "")
	t.Setenv("OBUILDER_TEST_DISPOSABLE", "")
	for args, want := range map[string]string{
		"-inside":              "OPENZFS_VM",
		"-ops 0":               "at least 1",
		"-inside more":         "no arguments",
		"-frobnicate":          "not defined",
		"-out /nowhere -ops 1": "OPENZFS_VM",
	} {
		var out, errs bytes.Buffer
		if status := run(t.Context(), strings.Fields(args), &out, &errs); status != exitFailed || !strings.Contains(errs.String(), want) {
			t.Errorf("%s: status %d, %s", args, status, &errs)
		}
	}
}
