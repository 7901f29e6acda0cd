package macos

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The test binary stands in for these programs of a Mac, called by scripts
// which newMac writes: it adds its arguments to the file "record" of the mac's
// directory, and answers from the files there.
var programs = map[string]func(dir string, args []string) int{
	"dscl": func(dir string, args []string) int {
		switch args[1] {
		case "-read":
			if show(dir, "account") != 0 {
				fmt.Fprintln(os.Stderr, "<dscl_cmd> DS Error: -14136 (eDSRecordNotFound)")
				return 56
			}
		case "-search":
			show(dir, "search")
		case "-create":
			f, err := os.OpenFile(filepath.Join(dir, "account"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
			if err != nil {
				return 2
			}
			fmt.Fprintf(f, "%s: %s\n", args[3], args[4])
			return status(f.Close())
		}
		return 0
	},
	"su": func(dir string, args []string) int { // -l USER -c -- SCRIPT ARGS...
		if args[0] != "-l" || args[2] != "-c" {
			return 64
		}
		if _, err := os.Lstat(filepath.Join(dir, "su-runs-nothing")); err == nil {
			return 0
		}
		home := filepath.Join(dir, "mnt", "Users", args[1])
		cmd := exec.Command("bash", args[2:]...)
		cmd.Dir = home
		cmd.Env = []string{"HOME=" + home, "PATH=" + os.Getenv("PATH"), "LOGIN=yes"}
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		if err := cmd.Run(); err != nil {
			return max(1, cmd.ProcessState.ExitCode())
		}
		return 0
	},
	"sudo": func(dir string, args []string) int {
		if len(args) > 3 && args[1] == "-u" {
			args = args[3:] // "--" is left
		}
		program, err := exec.LookPath(args[1])
		if err != nil {
			return 1
		}
		cmd := exec.Command(program, args[2:]...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		if err := cmd.Run(); err != nil {
			return max(1, cmd.ProcessState.ExitCode())
		}
		return 0
	},
	// pkill finds something as often as the file says.
	"pkill": func(dir string, args []string) int {
		name := filepath.Join(dir, "pkill")
		text, err := os.ReadFile(name)
		if err != nil {
			return 1
		}
		n, _ := strconv.Atoi(string(text))
		if n == 0 {
			return 1
		}
		return status(os.WriteFile(name, []byte(strconv.Itoa(n-1)), 0o644))
	},
	"ps":        func(dir string, args []string) int { return show(dir, "ps") },
	"lsof":      func(dir string, args []string) int { show(dir, "lsof"); return 1 },
	"getconf":   func(dir string, args []string) int { return show(dir, "getconf") },
	"launchctl": func(dir string, args []string) int { return 3 },
	"chown":     func(dir string, args []string) int { return 0 },
}

// status gives the exit status 2 for an error.
func status(err error) int {
	if err != nil {
		return 2
	}
	return 0
}

func show(dir, name string) int {
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return 1
	}
	defer f.Close()
	_, err = io.Copy(os.Stdout, f)
	return status(err)
}

func TestMain(m *testing.M) {
	name, dir := os.Getenv("OBUILDER_TEST_PROGRAM"), os.Getenv("OBUILDER_TEST_DIR")
	if name == "" {
		os.Exit(m.Run())
	}
	f, err := os.OpenFile(filepath.Join(dir, "record"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err == nil {
		_, err = fmt.Fprintln(f, name, strings.Join(os.Args[1:], " "))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	f.Close()
	os.Exit(programs[name](dir, os.Args[1:]))
}

// A mac is a directory with programs that record how they are called.
type mac struct {
	t   *testing.T
	dir string
}

func newMac(t *testing.T) mac {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("needs bash and links, which Windows does not have")
	}
	m := mac{t, t.TempDir()}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"bin", "mnt/Users/mac1000", "mnt/usr/local", "T"} {
		if err := os.MkdirAll(filepath.Join(m.dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name := range programs {
		// A program built with the race detector sleeps a second in the end.
		script := fmt.Sprintf("#!/bin/sh\nGORACE=atexit_sleep_ms=0 OBUILDER_TEST_PROGRAM=%s OBUILDER_TEST_DIR=%s exec %s \"$@\"\n",
			name, quote(m.dir), quote(self))
		if err := os.WriteFile(filepath.Join(m.dir, "bin", name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	m.write("getconf", m.dir+"/T/\n")
	return m
}

// write writes a file, from which a program answers.
func (m mac) write(name, contents string) {
	m.t.Helper()
	if err := os.WriteFile(filepath.Join(m.dir, name), []byte(contents), 0o644); err != nil {
		m.t.Fatal(err)
	}
}

// existing makes the account of the build user.
func (m mac) existing() {
	m.write("account", "NFSHomeDirectory: /Users/mac1000\nPrimaryGroupID: 1000\nUniqueID: 1000\nUserShell: /bin/bash\n")
	m.write("search", "mac1000\t\tUniqueID = (\n    1000\n)\n")
}

// options are those of a sandbox on this Mac, for an obuilder with a user id.
func (m mac) sandbox(euid int) *Sandbox {
	m.t.Helper()
	commands := NewExec(filepath.Join(m.dir, "bin"))
	d := Darwin{Commands: commands, Sudo: euid != 0}
	s, err := newSandbox(Options{
		Accounts: d, Processes: d, Commands: commands,
		SecretsDir: filepath.Join(m.dir, "secrets"),
	}, euid)
	if err != nil {
		m.t.Fatal(err)
	}
	return s
}

func (m mac) hostPath(name string) (string, bool) { return filepath.Join(m.dir, "mnt", name), true }

// ran checks what was called since it was last asked; M is the directory.
func (m mac) ran(want ...string) {
	m.t.Helper()
	name := filepath.Join(m.dir, "record")
	text, err := os.ReadFile(name)
	if err != nil && !os.IsNotExist(err) {
		m.t.Fatal(err)
	}
	os.Remove(name)
	var got []string
	for line := range strings.Lines(string(text)) {
		got = append(got, strings.ReplaceAll(strings.TrimSuffix(line, "\n"), m.dir, "M"))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		m.t.Error(diff)
	}
}
