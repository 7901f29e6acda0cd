package main

import (
	"bytes"
	"cmp"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"obuilder.org/obuilder/zfs/fake"
	"obuilder.org/obuilder/zfs/fake/command"
	"obuilder.org/obuilder/zfs/zfstest/session"
)

var update = flag.Bool("update", false, "write docs/fidelity.md")

const page = "../../../docs/fidelity.md"

// The page says what the table, the fake and the corpus say.
func TestFidelity(t *testing.T) {
	want := fidelity(t)
	if *update {
		if err := os.WriteFile(page, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if diff := gocmp.Diff(want, strings.ReplaceAll(string(got), "\r\n", "\n")); diff != "" {
		t.Errorf("go test ./zfs/zfstest/differ -update writes it anew (-want +got):\n%s", diff)
	}
}

const fidelityIntro = `# How much the fake is ZFS

` + "`zfs/fake/command`" + ` answers command lines of ` + "`zfs` and `zpool`" + ` as OpenZFS 2.1.11 on
Linux does: exit status, standard output and standard error, word for word. What it
does not model it refuses with status 125, and never guesses.

How that is known: ` + "`go run ./zfs/zfstest/differ`" + ` makes up commands, runs them on both and
compares each answer, and every few commands all that can be seen: the datasets and
snapshots with their properties, what is mounted where, and the contents of every file,
in snapshots too. CI does so with another seed each time. What was once different is a
script below ` + "`zfs/zfstest/differ/testdata/divergences`" + `, and ` + "`go test`" + ` plays it, and the
recorded answers counted here, on the fake wherever it runs.

Not compared are sizes, dates, guids and transaction numbers, which no two pools have in
common, and the order of what OpenZFS keeps in hash tables. How a Mac differs cannot be
compared here; it is in [faults.md](faults.md).

This page is made by ` + "`go test ./zfs/zfstest/differ -update`" + `.

`

// What OpenZFS has and the fake refuses, besides whole verbs.
var refused = []string{
	"zfs create -V 1M tank/v",
	"zfs hold -t h tank@s",
	"zfs mount -o ro tank/a",
	"zfs get userquota@root tank",
	"zfs send -b tank@s",
	"zfs receive -s tank/x",
	"zfs receive -A tank/a",
	"zpool status -D",
	"zpool status tank 1",
	"zpool list tank 1",
}

func fidelity(t *testing.T) string {
	var b strings.Builder
	b.WriteString(fidelityIntro)

	b.WriteString("## Answers of OpenZFS that are compared on every `go test`\n\n| command | recorded sequences | divergences that were |\n|---|---:|---:|\n")
	recorded, once := map[string]int{}, map[string]int{}
	sequences, all := 0, 0
	for _, file := range corpusFiles(t) {
		for _, f := range corpus(t, file).Files {
			sequences++
			all += countVerbs(t, string(f.Data), recorded)
		}
	}
	divergences := divergenceSessions(t)
	for _, recorded := range divergences {
		countVerbs(t, recorded, once)
	}
	verbs := maps.Clone(recorded)
	maps.Copy(verbs, once)
	for _, verb := range slices.Sorted(maps.Keys(verbs)) {
		fmt.Fprintf(&b, "| %s | %d | %d |\n", verb, recorded[verb], once[verb])
	}
	fmt.Fprintf(&b, "\n%d answers in %d recorded sequences, and %d scripts of divergences. `state` is all that can be seen.\n\n", all, sequences, len(divergences))

	b.WriteString("## Differences that are meant to be\n\n")
	for _, d := range differences {
		fmt.Fprintf(&b, "- **%s**: %s\n", d.name, d.reason)
	}
	if len(differences) == 0 {
		b.WriteString("There are none.\n")
	}

	b.WriteString("\n## What is modelled\n\n")
	for _, program := range []string{"zfs", "zpool"} {
		have, lacks := modelled(t, program)
		fmt.Fprintf(&b, "`%s`: %s.\nNot modelled: %s.\n\n", program, strings.Join(have, ", "), strings.Join(lacks, ", "))
	}
	b.WriteString("Of these, this is refused:\n\n")
	p := newFake()
	if err := p.reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := p.must(t.Context(), "zfs create tank/a", "zfs snapshot tank@s"); err != nil {
		t.Fatal(err)
	}
	for _, line := range refused {
		s, err := p.PlayUnmasked(t.Context(), line)
		if err != nil {
			t.Fatal(err)
		}
		if s.Status != command.NotModelled {
			t.Errorf("%s: not refused any more: %s", line, s)
		}
		fmt.Fprintf(&b, "- `%s`: %s\n", line, strings.TrimSpace(s.Err))
	}
	return b.String()
}

// countVerbs counts the commands of a session by verb.
func countVerbs(t *testing.T, recorded string, counts map[string]int) (all int) {
	steps, err := session.Parse(recorded)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range steps {
		argv, err := session.Split(s.Command)
		if err != nil {
			t.Fatal(err)
		}
		verb := argv[0]
		if verb == "zfs" || verb == "zpool" {
			verb += " " + argv[1]
		}
		counts[verb]++
	}
	return len(steps)
}

var usageVerbs = regexp.MustCompile(`(?m)^\t([a-z|-]+)( |$)`)

// modelled gives the verbs that the usage message has, those of which the
// program knows something and those of which it does not.
func modelled(t *testing.T, program string) (have, lacks []string) {
	m := fake.New()
	var usage bytes.Buffer
	command.Run(t.Context(), m, []string{program}, nil, &usage, &usage)
	var verbs []string
	for _, match := range usageVerbs.FindAllStringSubmatch(usage.String(), -1) {
		for verb := range strings.SplitSeq(match[1], "|") {
			if verb != "" && !slices.Contains(verbs, verb) {
				verbs = append(verbs, verb)
			}
		}
	}
	slices.SortFunc(verbs, cmp.Compare[string])
	for _, verb := range verbs {
		var out bytes.Buffer
		if command.Run(t.Context(), m, []string{program, verb, "-?"}, nil, &out, &out) == command.NotModelled {
			lacks = append(lacks, verb)
		} else {
			have = append(have, verb)
		}
	}
	if len(have) == 0 {
		t.Fatal("no verbs of ", program)
	}
	return have, lacks
}

// divergenceSessions gives what OpenZFS answered where the fake was wrong, by
// the names of the files.
func divergenceSessions(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob("testdata/divergences/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	sessions := map[string]string{}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		sessions[strings.TrimSuffix(filepath.Base(file), ".txtar")] = realOf(t, data)
	}
	return sessions
}
