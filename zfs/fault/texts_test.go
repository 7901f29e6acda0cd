package fault_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"obuilder.org/obuilder/zfs"
	"obuilder.org/obuilder/zfs/fault"
	"obuilder.org/obuilder/zfs/real"
)

// The environment of the test program when it is run as zfs.
const (
	stderrVar = "FAULT_TEST_STDERR"
	statusVar = "FAULT_TEST_STATUS"
)

func TestMain(m *testing.M) {
	if status, ok := os.LookupEnv(statusVar); ok {
		fmt.Fprintln(os.Stderr, os.Getenv(stderrVar))
		n, _ := strconv.Atoi(status)
		os.Exit(n)
	}
	os.Exit(m.Run())
}

// program makes a zfs.FS that runs programs, which fail as t has it.
func program(t *testing.T, status int, stderr string) zfs.FS {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir, ext := t.TempDir(), filepath.Ext(self)
	for _, name := range []string{"zfs", "zpool"} {
		if err := os.Symlink(self, filepath.Join(dir, name+ext)); err != nil {
			if runtime.GOOS == "windows" {
				t.Skip("links cannot be made: " + err.Error())
			}
			t.Fatal(err)
		}
	}
	t.Setenv(statusVar, strconv.Itoa(status))
	t.Setenv(stderrVar, stderr)
	fs, err := real.New(real.Options{ZFS: filepath.Join(dir, "zfs"+ext)})
	if err != nil {
		t.Fatal(err)
	}
	return fs
}

// Every text of a fault gives the error that it stands for, when it comes from
// a program.
func TestTextsAreRecognised(t *testing.T) {
	for _, f := range fault.Faults() {
		for i, text := range f.Texts {
			t.Run(fmt.Sprintf("%s/%d", f.Name, i), func(t *testing.T) {
				fs := program(t, text.Status, text.Stderr)
				line := strings.TrimPrefix(text.Command, "zfs ")
				switch {
				case strings.HasPrefix(line, "list "):
					line = line[:5] + line[strings.LastIndexByte(line, ' ')+1:]
				case strings.HasPrefix(line, "zpool "):
					line = "zpool " + line[strings.LastIndexByte(line, ' ')+1:]
				}
				err := run(t.Context(), fs, line)
				var e *zfs.Error
				if !errors.As(err, &e) || e.Kind != text.Kind || e.Status != text.Status || zfs.CommandLine(e.Argv) != text.Command {
					t.Errorf("%v (%v), want %v from %s", err, zfs.KindOf(err), text.Kind, text.Command)
				}
			})
		}
	}
}

// What fail prints when it is not told what is recognised as the kind.
func TestDefaultTextsAreRecognised(t *testing.T) {
	for kind := zfs.Unknown; kind <= zfs.Unavailable; kind++ {
		if kind == zfs.Timeout || kind == zfs.Unsupported {
			continue // not something that zfs says
		}
		t.Run(kind.String(), func(t *testing.T) {
			name := strings.ReplaceAll(kind.String(), " ", "-")
			said := run(t.Context(), fault.Wrap(&record{}, arm(t, "(fail (kind "+name+"))", nil)), "unmount tank/a")
			var e *zfs.Error
			if !errors.As(said, &e) || e.Kind != kind {
				t.Fatal(said)
			}
			err := run(t.Context(), program(t, e.Status, e.Stderr), "unmount tank/a")
			if !errors.As(err, &e) || e.Kind != kind {
				t.Errorf("%v is %v", err, e.Kind)
			}
		})
	}
}
