package command_test

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

var breakThings = flag.Bool("mutants", false, "break the model in each of the ways listed and see that a suite notices (minutes)")

// A mutant is the model with one thing wrong.
type mutant struct {
	name string
	file string // of package fake
	old  string // what is in it once
	new  string
}

var mutants = []mutant{
	{"promote leaves the snapshots where they were too", "promote.go",
		"from.snaps = slices.Clone(from.snaps[moving:])", "from.snaps = slices.Clone(from.snaps)"},
	{"promote does not ask for snapshots of the same name", "promote.go",
		"if d.snapIndex(t.name) >= 0 {", "if false {"},
	{"a snapshot with clones can be destroyed", "destroy.go",
		"case s.firstClone != nil && !deferred:", "case false:"},
	{"a held snapshot can be destroyed", "destroy.go",
		"case s.open > 0 || s.holds() > 0 && !deferred:", "case s.open > 0:"},
	{"destroy -d destroys never", "destroy.go",
		"\t\t\ts.deferred = true\n", "\t\t\ts.deferred = false\n"},
	{"a deferred snapshot stays when its last clone goes", "destroy.go",
		"if origin != nil && origin.deferred && origin.firstClone == nil && origin.holds() == 0 {", "if false {"},
	{"destroy -r leaves what is below the children", "destroy.go",
		"case !slices.Contains(w.stack, d):\n\t\tif f := w.below(d); f != nil {", "case !slices.Contains(w.stack, d):\n\t\tif f := w.below(&dataset{}); f != nil {"},
	{"values are inherited from the parent only", "props.go",
		"if !inherits(id) {\n\t\t\tbreak", "if !inherits(id) || p != d {\n\t\t\tbreak"},
	{"a renamed dataset is not mounted at its new place", "rename.go",
		"if g := m.mountAll(moved, false); f == nil {", "if g := m.mountAll(nil, false); f == nil {"},
	{"rename -r renames one snapshot", "rename.go",
		"list = s.ds.subtree(list[:0])", "list = append(list[:0], s.ds)"},
	{"snapshot -r takes the children only one level down", "commands.go",
		"d.children.all(func(c *dataset) { list = appendBelow(list, c, name) })", "d.children.all(func(c *dataset) { list = append(list, newSnapshot{c, name}) })"},
	{"an open file does not keep a dataset mounted", "mount.go",
		"mnt.open > 0 && !(force && m.macOS)", "false && force"},
	{"rollback keeps the files", "rollback.go",
		"d.tree, d.refd, d.dead, d.frozen = s.tree, s.refd, nil, s.txg", "d.refd, d.dead, d.frozen = s.refd, nil, s.txg"},
	{"writing changes the snapshots as well", "tree.go",
		"if n.born > c.frozen {", "if n.born > 0 {"},
	{"overlay=off does not matter", "mount.go",
		`if !over && `, `if false && `},
	{"canmount=noauto is mounted when it is made", "mount.go",
		`!d.is(propCanmount, "on") {`, `d.is(propCanmount, "off") {`},
	{"a quota does not limit", "space.go",
		"if d.quota > 0 {\n\t\tif left", "if false {\n\t\tif left"},
}

// Each way of breaking the model is noticed by the sessions recorded on OpenZFS
// or by the model's own tests. By default this only checks that each can still
// be applied.
func TestMutants(t *testing.T) {
	dir, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	goIn := func(t *testing.T, command string, args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "go", append([]string{command}, args...)...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	suites := [][]string{
		{"-count=1", "-timeout=2m", "-run=TestSessions", "./command"},
		{"-count=1", "-timeout=4m", "-skip=Kill", "."},
	}
	if *breakThings {
		for _, suite := range suites {
			if out, err := goIn(t, "test", suite...); err != nil {
				t.Fatalf("nothing is broken yet: %v\n%s", err, out)
			}
		}
	}
	killed := 0
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			file := filepath.Join(dir, m.file)
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			source := strings.ReplaceAll(string(data), "\r\n", "\n")
			if n := strings.Count(source, m.old); n != 1 {
				t.Fatalf("%s has %d times %q", m.file, n, m.old)
			}
			if !*breakThings {
				return
			}
			temp := t.TempDir()
			broken := filepath.Join(temp, "broken.go")
			overlay, err := json.Marshal(map[string]map[string]string{"Replace": {file: broken}})
			if err := errors.Join(err,
				os.WriteFile(broken, []byte(strings.Replace(source, m.old, m.new, 1)), 0o600),
				os.WriteFile(filepath.Join(temp, "overlay.json"), overlay, 0o600)); err != nil {
				t.Fatal(err)
			}
			over := "-overlay=" + filepath.Join(temp, "overlay.json")
			if out, err := goIn(t, "build", over, "-o", os.DevNull, "."); err != nil {
				t.Fatalf("it does not compile: %s", out)
			}
			for _, suite := range suites {
				if _, err := goIn(t, "test", append([]string{over, "-vet=off"}, suite...)...); err != nil {
					killed++
					t.Logf("noticed by %s", suite[len(suite)-1])
					return
				}
			}
			t.Error("no suite notices")
		})
	}
	if *breakThings {
		t.Logf("mutants: %d, noticed: %d", len(mutants), killed)
	}
}
