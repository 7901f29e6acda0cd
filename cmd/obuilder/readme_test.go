package main

import (
	"bytes"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write what the commands print into the README")

// The commands of the README print what it shows. With -update, what they
// print is written there.
func TestReadme(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("steps run with bash, which windows does not have")
	}
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "examples"), os.DirFS("../../examples")); err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(dir, "bin")
	build := exec.Command("go", "build", "-o", bin+string(filepath.Separator), "../obuilder", "../obsim")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	run := func(command string) string {
		cmd := exec.Command("bash", "-c", command)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "PATH="+bin+string(filepath.ListSeparator)+os.Getenv("PATH"),
			"HOME="+dir, "XDG_CACHE_HOME="+filepath.Join(dir, ".cache"), "OBUILDER_STORE=")
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		if err := cmd.Run(); err != nil {
			t.Errorf("%s: %v\n%s%s", command, err, &stdout, &stderr)
		}
		return stdout.String()
	}

	const begin, end = "```console\n", "```"
	var want strings.Builder
	rest := string(readme)
	blocks := 0
	for {
		before, block, ok := strings.Cut(rest, begin)
		want.WriteString(before)
		if !ok {
			break
		}
		block, rest, _ = strings.Cut(block, end)
		blocks++
		want.WriteString(begin)
		for line := range strings.Lines(block) {
			if command, ok := strings.CutPrefix(line, "$ "); ok {
				want.WriteString(line)
				want.WriteString(run(strings.TrimSuffix(command, "\n")))
			}
		}
		want.WriteString(end)
	}
	if blocks == 0 {
		t.Fatal("the README shows no commands")
	}
	if want.String() == string(readme) {
		return
	}
	if *update {
		if err := os.WriteFile("../../README.md", []byte(want.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Errorf("the README is not what its commands print; go test ./cmd/obuilder -run Readme -update writes it:\n%s", want.String())
}

// What the README shows of the example is the example.
func TestReadmeShowsExample(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	example, err := os.ReadFile("../../examples/hello.spec")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(readme, append([]byte("```lisp\n"), append(example, "```"...)...)) {
		t.Error("the README does not show examples/hello.spec as it is")
	}
}
