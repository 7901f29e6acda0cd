package fault_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"obuilder.org/obuilder/zfs/fault"
)

var update = flag.Bool("update", false, "write docs/faults.md")

const page = "../../docs/faults.md"

// The page about faults says what the table has.
func TestDocs(t *testing.T) {
	want := docs()
	if *update {
		if err := os.WriteFile(page, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, strings.ReplaceAll(string(got), "\r\n", "\n")); diff != "" {
		t.Errorf("go test ./zfs/fault -update writes it anew (-want +got):\n%s", diff)
	}
}

// The examples are printed forms, and every fault of a Mac has a source.
func TestTable(t *testing.T) {
	for _, f := range fault.Faults() {
		for _, text := range []string{f.Example, f.Defaults()} {
			p, err := fault.Parse("", []byte(text))
			if err != nil || p.String() != text+"\n" || len(p.Rules) != 1 || p.Rules[0].Fault != f.Name {
				t.Errorf("%s: %s is printed as %s (%v)", f.Name, text, p, err)
			}
		}
		if f.Mac && len(f.Sources) == 0 {
			t.Errorf("%s has no source", f.Name)
		}
	}
}

const intro = `# Faults

What can go wrong between a program and ` + "`zfs`" + `, and what a Mac does, by name.
` + "`obsim run --fault FAULT`" + ` and ` + "`--faults FILE`" + ` have it happen in a rehearsal, tests
with package zfs/fault. This page is made from its table: ` + "`go test ./zfs/fault -update`" + `.

A fault is a list, its name first, then settings:

    (busy (dataset obuilder/result/*/home) (tries 3))
    (fail (verb snapshot) (nth 2) (kind no-space) (status 1) (stderr "out of space"))
    (delay (verb destroy) (probability 0.1) (seconds 30))
    (seed 42)

Faults are asked in the order in which they are written. One that delays a
command or changes how it is run hands it on to the next; any other ends it. A
fault that never happened is reported at the end.

| Setting | Which commands, or how |
| --- | --- |
| ` + "`(verb V...)`" + ` | Those of these verbs: %s. |
| ` + "`(dataset PATTERN...)`" + ` | Those about a name that a pattern matches: ` + "`*`" + ` is anything in a component, ` + "`**`" + ` any number of components; a pattern with an ` + "`@`" + ` is for snapshots, one without for datasets. The origin of a clone is not what a clone is about. |
| ` + "`(nth N)`" + ` | From the Nth of those on; just that one, unless there is ` + "`tries`" + `. |
| ` + "`(tries N)`" + ` | The first N of those. |
| ` + "`(probability P)`" + ` | Each of those with probability P, which follows from ` + "`(seed N)`" + ` alone. |
| ` + "`(seconds S)`" + ` | How long it takes. A rehearsal has its own time and takes none of ours. |
| ` + "`(gigabytes-per-minute G)`" + ` | What a destroy frees. |
| ` + "`(kind K)`, `(status N)`, `(stderr TEXT)`" + ` | How ` + "`fail`" + ` fails; without a text, as zfs does. |

`

func docs() string {
	var b strings.Builder
	fmt.Fprintf(&b, intro, strings.Join(fault.Verbs(), ", "))
	b.WriteString("## For any system\n")
	mac := false
	for _, f := range fault.Faults() {
		if f.Mac && !mac {
			mac = true
			b.WriteString("\n## Of a Mac\n\nNone of these was reproduced on a Mac by us: they are what sources and reports\nsay. Errors that a fault reports are those that zfs/real recognises.\n")
		}
		fmt.Fprintf(&b, "\n### %s\n\n%s\n\n", f.Name, f.What)
		fmt.Fprintf(&b, "    %s\n", f.Example)
		if d := f.Defaults(); f.Group == nil && d != "("+f.Name+")" && d != f.Example {
			fmt.Fprintf(&b, "\nWithout settings it is `%s`.\n", d)
		}
		if f.Group != nil {
			fmt.Fprintf(&b, "\nIt stands for %s.\n", strings.Join(f.Group, ", "))
		}
		if len(f.Texts) > 0 {
			b.WriteString("\nWhat is printed, for example:\n\n")
			text := f.Texts[0]
			if f.Name == "busy" {
				text = f.Texts[1] // of a dataset, not of a pool
			}
			fmt.Fprintf(&b, "    %s  # exit %d, %s\n", text.Command, text.Status, text.Kind)
			for line := range strings.SplitSeq(text.Stderr, "\n") {
				if line != "" {
					fmt.Fprintf(&b, "    %s\n", strings.TrimRight(line, "\r"))
				}
			}
		}
		if len(f.Sources) > 0 {
			b.WriteString("\nSources:\n")
			for _, s := range f.Sources {
				if strings.HasPrefix(s, "https://") {
					address, note, _ := strings.Cut(s, " ")
					s = strings.TrimSpace("<" + address + "> " + note)
				}
				fmt.Fprintf(&b, "- %s\n", s)
			}
		}
	}
	return b.String()
}
