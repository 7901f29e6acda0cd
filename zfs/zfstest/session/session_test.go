package session_test

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"obuilder.org/obuilder/zfs"
	"obuilder.org/obuilder/zfs/zfstest/session"
)

// What is printed is read back as it was.
func TestPrintParse(t *testing.T) {
	text := rapid.Custom(func(t *rapid.T) string {
		s := strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"", "a b", "=1", "$ x", "1|"}), 0, 3).Draw(t, "lines"), "\n")
		return strings.TrimLeft(s, "\n")
	})
	step := rapid.Custom(func(t *rapid.T) session.Step {
		argv := rapid.SliceOfN(rapid.SampledFrom([]string{"zfs", "", "a b", "-o", "x=y"}), 1, 4).Draw(t, "argv")
		return session.Step{Command: session.Join(argv...), Out: text.Draw(t, "out"), Err: text.Draw(t, "err"), Status: rapid.IntRange(-1, 255).Draw(t, "status")}
	})
	rapid.Check(t, func(t *rapid.T) {
		steps := rapid.SliceOfN(step, 1, 3).Draw(t, "steps")
		got, err := session.Parse(session.Print(steps))
		if diff := cmp.Diff(steps, got); err != nil || diff != "" {
			t.Fatal(err, diff)
		}
	})
}

func TestParseErrors(t *testing.T) {
	for data, want := range map[string]string{
		"1|x":           `line 1: no command before "1|x"`,
		"$ a\n\n=x":     `line 3: not an exit status: "x"`,
		"$ a\n3|x":      `line 2: neither a command nor an answer: "3|x"`,
		"$ a\n1":        `line 2: neither a command nor an answer: "1"`,
		"$ a 'b":        `line 1: a quote without end in "a 'b"`,
		"$ a\n$  ":      `line 2: an empty command`,
		"$ a\nanything": `line 2: neither a command nor an answer: "anything"`,
	} {
		if _, err := session.Parse(data); err == nil || err.Error() != want {
			t.Errorf("%q: got %v, want %s", data, err, want)
		}
	}
}

func TestSplitJoin(t *testing.T) {
	got, err := session.Split(`zfs set  'a=b c' '' d'e f'`)
	if diff := cmp.Diff([]string{"zfs", "set", "a=b c", "", "de f"}, got); err != nil || diff != "" {
		t.Fatal(err, diff)
	}
	if got := session.Join(got...); got != `zfs set 'a=b c' '' 'de f'` {
		t.Fatal(got)
	}
}

func TestMask(t *testing.T) {
	for text, want := range map[string]string{
		"tank/a  creation  Tue Nov  4  7:11 2025  -\n":             "tank/a  creation  #####################  -\n",
		"tank    24K  1.50G   24K  /tank\n":                        "tank######################/tank\n",
		"tank\t24K\t/a\n":                                          "tank\t#\t/a\n",
		"tank  quota  1.50G  local":                                "tank  quota  1.50G  local",
		"tank  createtxg  12    -":                                 "tank  createtxg  # -",
		"NAME   CREATETXG  COPIES\ntank         11  1\n":           "NAME   CREATETXG  COPIES\ntank # #\n",
		"x 12345 123":                                              "x # 123",
		"would destroy t/b\nwould destroy t/a\nwould reclaim 3K\n": "would destroy t/a\nwould destroy t/b\nwould reclaim #\n",
		"t/z\nuse '-r' to destroy the following datasets:\nt/b\nt/a@1\ncannot destroy 't/c': no\nt/a\n": "t/z\nuse '-r' to destroy the following datasets:\nt/a@1\nt/b\ncannot destroy 't/c': no\nt/a\n",
		"received 1.20K stream in 12 seconds (102B/sec)\n":                                              "received # stream in # seconds (#/sec)\n",
		"full send of t@1 estimated size is 12.6K\n":                                                    "full send of t@1 estimated size is #\n",
		"total estimated size is 624\n":                                                                 "total estimated size is #\n",
		"full\tt@1\t624\n":                                                                              "full\tt@1\t#\n",
		"incremental\t1\tt@2\t12624\n":                                                                  "incremental\t1\tt@2\t#\n",
		"size\t0\n":                                                                                     "size\t#\n",
		"t@a\tclones\tt/c,t/a/b,t/b\t-\n":                                                               "t@a\tclones\tt/a/b,t/b,t/c\t-\n",
	} {
		if got := session.Mask(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

// Commands other than zfs's do to files what they say.
func TestPlayer(t *testing.T) {
	entered := 0
	p := session.Player{
		Files: zfs.OSFiles{Root: t.TempDir()},
		Run: func(_ context.Context, argv []string, in io.Reader, out, err io.Writer) (int, error) {
			data, _ := io.ReadAll(in)
			fmt.Fprintf(out, "%q %d\n", argv, len(data))
			fmt.Fprintln(err, "12345")
			return 3, nil
		},
		Enter: func(dir string) (func(), error) {
			entered++
			return func() { entered-- }, nil
		},
	}
	defer p.Close()
	const want = `$ mkdir /a/b
$ write /a/b/f 'a line'
$ cat /a/b/f
1|a line
$ fill /a/g 1000
$ truncate /a/h 5
$ ls /a
1|b
1|g
1|h
$ tree /a
1|b/
1|b/f "a line\n"
1|g # bytes, sum 558ae347
1|h "\x00\x00\x00\x00\x00"
$ rm /a/g
$ rm /a/g
2|failed
=1
$ cat /a/g
2|failed
=1
$ open /a
$ cd /a/b
$ zfs send x >one
2|#
=3
$ zfs receive y <one
1|["zfs" "receive" "y"] 21
2|#
=3
$ cut one
$ zfs receive y <one
1|["zfs" "receive" "y"] 10
2|#
=3
$ damage one
$ cut none
2|failed
=1
`
	steps, err := session.Parse(want)
	if err != nil {
		t.Fatal(err)
	}
	var got []session.Step
	for _, s := range steps {
		done, err := p.Play(t.Context(), s.Command)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, done)
	}
	if diff := cmp.Diff(want, session.Print(got)); diff != "" {
		t.Error(diff)
	}
	if data, err := p.Files.ReadFile("/a/h", 10); err != nil || len(data) != 5 {
		t.Error(len(data), err)
	}
	if entered != 1 {
		t.Error("cd did not enter")
	}
	if _, err := p.Play(t.Context(), "close"); err != nil || entered != 0 {
		t.Error("close did not leave", err)
	}
	for _, command := range []string{"mkdir", "close x", "frobnicate", "fill /a/g x", "cat 'x", filepath.Join("/", "bin", "zfs")} {
		if _, err := p.Play(t.Context(), command); err == nil {
			t.Errorf("%q is played", command)
		}
	}
}
