package scratch_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"
	"obuilder.org/obuilder/sandbox"
	"obuilder.org/obuilder/sandbox/scratch"
)

func list(t *testing.T, dir string) map[string]string {
	t.Helper()
	got := map[string]string{}
	err := filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := e.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, name)
		got[filepath.ToSlash(rel)] = fi.Mode().String()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestSecrets(t *testing.T) {
	parent := t.TempDir()
	owner := &scratch.Owner{UID: os.Getuid(), GID: os.Getgid()}
	if runtime.GOOS == "windows" {
		owner = nil
	}
	dir, remove, err := scratch.Secrets(parent, []sandbox.Secret{
		{Target: "/run/secrets/key", Value: []byte("s3cret")},
		{Target: "token", Value: nil},
	}, owner)
	if err != nil {
		t.Fatal(err)
	}
	if filepath.Dir(dir) != parent {
		t.Errorf("written in %s", dir)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "run", "secrets", "key")); err != nil || string(got) != "s3cret" {
		t.Errorf("read %q, %v", got, err)
	}
	if runtime.GOOS != "windows" { // which has no such modes
		want := map[string]string{
			".": "dr-x------", "run": "dr-x------", "run/secrets": "dr-x------",
			"run/secrets/key": "-r--------", "token": "-r--------",
		}
		if diff := cmp.Diff(want, list(t, dir)); diff != "" {
			t.Error(diff)
		}
	}
	if err := remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("still there: %v", err)
	}
}

func TestNoSecrets(t *testing.T) {
	dir, remove, err := scratch.Secrets(filepath.Join(t.TempDir(), "missing"), nil, nil)
	if dir != "" || err != nil || remove() != nil {
		t.Errorf("got %q, %v", dir, err)
	}
}

// What cannot be written as a whole is not left in part.
func TestSecretsFail(t *testing.T) {
	parent := t.TempDir()
	for _, target := range []string{"../x", "a/b"} {
		_, _, err := scratch.Secrets(parent, []sandbox.Secret{{Target: "a"}, {Target: target}}, nil)
		if err == nil {
			t.Errorf("%s was written", target)
		}
		if entries, err := os.ReadDir(parent); err != nil || len(entries) != 0 {
			t.Errorf("left %v, %v", entries, err)
		}
	}
}

func TestClear(t *testing.T) {
	parent := t.TempDir()
	if err := scratch.Clear(filepath.Join(parent, "missing")); err != nil {
		t.Error(err)
	}
	for range 2 {
		if _, _, err := scratch.Secrets(parent, []sandbox.Secret{{Target: "a/b"}}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := scratch.Clear(parent); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(parent); err != nil || len(entries) != 0 {
		t.Errorf("left %v, %v", entries, err)
	}
}

func TestTemp(t *testing.T) {
	parent := t.TempDir()
	dir, remove, err := scratch.Temp(parent)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "mod", "x"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, "mod"), 0o500); err != nil {
		t.Fatal(err)
	}
	if err := remove(); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(parent); err != nil || len(entries) != 0 {
		t.Errorf("left %v, %v", entries, err)
	}
}
