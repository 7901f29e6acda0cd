package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const thisPackage = "obuilder.org/obuilder/zfs/zfstest/differ"

const insideScript = `#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin:$PATH HOME=/root TMPDIR=/tmp OBUILDER_TEST_DISPOSABLE=1
mkdir -p /root /tmp
modprobe zfs 2>/dev/null
exec "$(dirname "$0")/differ" -inside -ops %d -length %d -seed %d -limit %s -shrink %s -tolerate %d -record=%t
`

// inMachine runs this program in a machine that has OpenZFS, and takes the
// files that it makes there.
func (s *settings) inMachine(ctx context.Context, vm string, stdout io.Writer, keep func(name string, data []byte)) (diverges bool, err error) {
	dir, err := os.MkdirTemp("", "differ-")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(dir)
	arch := os.Getenv("OPENZFS_VM_GOARCH")
	if arch == "" {
		arch = "amd64"
	}
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", filepath.Join(dir, "differ"), thisPackage)
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
	if out, err := build.CombinedOutput(); err != nil {
		return false, fmt.Errorf("building this program for the machine: %w\n%s", err, out)
	}
	script := fmt.Sprintf(insideScript, s.ops, s.length, s.seed, s.limit, s.shrink, s.tolerate, s.record)
	if err := os.WriteFile(filepath.Join(dir, "run"), []byte(script), 0o755); err != nil {
		return false, err
	}
	if vm, err = filepath.Abs(vm); err != nil {
		return false, err
	}
	cmd := exec.CommandContext(ctx, vm, dir)
	cmd.Env = append(os.Environ(), fmt.Sprintf("TIMEOUT=%d", s.machineSeconds()))
	cmd.Stderr = os.Stderr
	ownGroup(cmd)
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.StdoutPipe()
	if err != nil {
		return false, err
	}
	if err := cmd.Start(); err != nil {
		return false, err
	}
	err = readMachine(out, stdout, keep)
	_, _ = io.Copy(io.Discard, out)
	ended := cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](ended); ok && exit.ExitCode() == exitDiverges {
		return true, err
	}
	return false, errors.Join(ended, err)
}

// machineSeconds bounds how long a machine runs. An operation takes half a
// second, with all that belongs to it and on a busy computer.
func (s *settings) machineSeconds() int {
	if s.limit > 0 {
		return int(s.limit.Seconds()) + 600
	}
	return 900 + 2*s.ops
}

// How files come out of a machine, whose only way out is a serial line.
const (
	beginFile = "@file "
	endFile   = "@end"
)

func printFile(w io.Writer, name string, data []byte) {
	fmt.Fprintf(w, "%s%s\n", beginFile, name)
	text := base64.StdEncoding.EncodeToString(data)
	for len(text) > 0 {
		n := min(len(text), 100)
		fmt.Fprintln(w, text[:n])
		text = text[n:]
	}
	fmt.Fprintln(w, endFile)
}

// readMachine copies what a machine prints and takes the files out of it.
func readMachine(in io.Reader, out io.Writer, keep func(name string, data []byte)) error {
	name := ""
	var text strings.Builder
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		line := lines.Text()
		begun, ok := strings.CutPrefix(line, beginFile)
		switch {
		case ok:
			name = begun
			text.Reset()
		case name != "" && line == endFile:
			data, err := base64.StdEncoding.DecodeString(text.String())
			if err != nil {
				return fmt.Errorf("%s from the machine: %w", name, err)
			}
			keep(name, data)
			name = ""
		case name != "":
			text.WriteString(line)
		case !strings.HasPrefix(line, "EXIT:"):
			fmt.Fprintln(out, line)
		}
	}
	return lines.Err()
}

// testdata gives the directory for the files that are made.
func (s *settings) testdata(ctx context.Context) (string, error) {
	if s.out != "" {
		return s.out, nil
	}
	out, err := exec.CommandContext(ctx, "go", "list", "-f", "{{.Dir}}", thisPackage).Output()
	if err != nil {
		return "", fmt.Errorf("where the module is: %w (-out says where files go)", err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), "testdata"), nil
}

// save writes a file below dir, and prints it if it is for people.
func save(stdout io.Writer, dir, name string, data []byte) error {
	if !filepath.IsLocal(name) {
		return fmt.Errorf("a file with a strange name: %q", name)
	}
	file := filepath.Join(dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(file), 0o777); err != nil {
		return err
	}
	if strings.HasSuffix(name, ".txtar") {
		fmt.Fprintf(stdout, "%s:\n%s", name, data)
	}
	return os.WriteFile(file, data, 0o666)
}
