package vectors_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"obuilder.org/obuilder/spec/vectors"
)

func load(t *testing.T) *vectors.Data {
	t.Helper()
	d, err := vectors.Load()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestLoad(t *testing.T) {
	d := load(t)
	if len(d.Vectors) != 228 || len(d.Manifests) != 1 || len(d.Manifests[0].Items) != 30 || len(d.EscapeCache) != 35 {
		t.Errorf("got %d vectors, %d manifests, %d cache names", len(d.Vectors), len(d.Manifests), len(d.EscapeCache))
	}
	valid, steps := 0, 0
	for _, v := range d.Vectors {
		if v.Valid() {
			valid++
			if v.Expected.PP == "" || v.Expected.Result == "" || v.Expected.Dockerfile.Unix.Text == "" {
				t.Errorf("%s: incomplete: %+v", v.Name, v.Expected)
			}
		} else if v.Expected.Error == nil || v.Expected.Error.Message == "" {
			t.Errorf("%s: no error", v.Name)
		}
		for _, s := range v.Expected.Steps {
			steps++
			sum := sha256.Sum256([]byte(s.Sexp))
			if hex.EncodeToString(sum[:]) != s.ID {
				t.Errorf("%s: sha256 of %s is not %s", v.Name, s.Sexp, s.ID)
			}
			if (s.Op != "from" && s.Result == "saved") != (s.Config != nil) || (s.Op == "copy") != (s.Tar != nil) {
				t.Errorf("%s: incomplete step %+v", v.Name, s)
			}
		}
	}
	if valid != 147 || steps != 555 {
		t.Errorf("got %d valid vectors, %d steps", valid, steps)
	}
}

func TestBytesThatAreNotText(t *testing.T) {
	for _, v := range load(t).Vectors {
		switch v.Name {
		case "atom-latin1-bytes":
			if !strings.Contains(v.Spec, "\xe9") || !strings.Contains(v.Expected.Dockerfile.Unix.Text, "\xe9") {
				t.Errorf("%s: latin-1 bytes are lost: %q", v.Name, v.Spec)
			}
		case "secrets-binary-value":
			if len(v.Secrets) == 0 || v.Secrets[0].Value == "" || v.Secrets[0].Value != v.Expected.Steps[1].Config.MountSecrets[0].Value {
				t.Errorf("%s: secret %q", v.Name, v.Secrets)
			}
		case "env-per-base":
			if len(v.Env("one")) != 1 || len(v.Env("two")) != 1 || len(v.Env("three")) != 0 {
				t.Errorf("%s: env %q", v.Name, v.BaseEnv)
			}
		}
	}
}

func TestWriteTree(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the recorded trees have names that Windows cannot store")
	}
	m := load(t).Manifests[0]
	dir := t.TempDir()
	tree := append(m.Tree, vectors.Entry{Path: "pipe", Type: "fifo"})
	if err := vectors.WriteTree(dir, tree); errors.Is(err, fs.ErrExist) {
		t.Skip("the temporary directory's file system ignores case")
	} else if err != nil {
		t.Fatal(err)
	}
	for _, e := range tree {
		info, err := os.Lstat(filepath.Join(dir, e.Path))
		if err != nil {
			t.Fatal(err)
		}
		if e.Type != "fifo" && !info.ModTime().Equal(vectors.Mtime) {
			t.Errorf("%s: modified at %v", e.Path, info.ModTime())
		}
		switch e.Type {
		case "file":
			got, err := os.ReadFile(filepath.Join(dir, e.Path))
			if err != nil || string(got) != e.Content || uint32(info.Mode().Perm()) != e.Mode&0o777 {
				t.Errorf("%s: got %q %v, %v", e.Path, got, info.Mode(), err)
			}
		case "symlink":
			if got, err := os.Readlink(filepath.Join(dir, e.Path)); err != nil || got != e.Target {
				t.Errorf("%s: got %q, %v", e.Path, got, err)
			}
		case "fifo":
			if info.Mode()&os.ModeNamedPipe == 0 {
				t.Errorf("%s: got %v", e.Path, info.Mode())
			}
		}
	}
	if err := vectors.WriteTree(dir, []vectors.Entry{{Path: "x", Type: "socket"}}); err == nil {
		t.Error("an unknown type is accepted")
	}
}
