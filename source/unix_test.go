//go:build unix

package source_test

import (
	"bytes"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"obuilder.org/obuilder/source"
	"obuilder.org/obuilder/zfs"
)

// TestSpecialFiles shows that what would block, or never end, is not opened.
func TestSpecialFiles(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir) // the name of a socket must be short
	l, err := net.Listen("unix", "sock")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for path, want := range map[string]string{"pipe": "a named pipe", "sock": "a socket", "/dev/null": "a device"} {
		base := filepath.Base(path)
		_, err := source.Scan(t.Context(), openDir(t, filepath.Dir(path)), []string{base}, source.Options{})
		e, ok := errors.AsType[*source.Error](err)
		if !ok || e.Path != base || e.Reason != "is "+want+", which cannot be copied" {
			t.Errorf("%s: got %v", path, err)
		}
	}
}

// TestPipeInPlaceOfFile shows that a named pipe that takes the place of a file
// at the worst moment, after its type was asked, does not keep us waiting.
func TestPipeInPlaceOfFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if err := os.WriteFile(path, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	h := hooked{openDir(t, dir), func(op, name string) error { return nil }}
	m := scan(t, h, "f")
	m2, err := source.Scan(t.Context(), hooked{h.Tree, func(op, name string) error {
		if op != "open" {
			return nil
		}
		return errors.Join(os.Remove(path), syscall.Mkfifo(path, 0o644))
	}}, []string{"."}, source.Options{})
	done := make(chan struct{})
	defer close(done)
	go func() { // so that a failure is not a hang
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			panic("waits for a named pipe")
		}
	}()
	if err == nil {
		err = m2.WriteTar(t.Context(), new(bytes.Buffer), source.TarOptions{Dst: "/x/"})
	}
	if _, ok := errors.AsType[*source.ChangedError](err); !ok {
		t.Errorf("got %v", err)
	}
	err = m.WriteTar(t.Context(), new(bytes.Buffer), source.TarOptions{Dst: "/x/"})
	if _, ok := errors.AsType[*source.ChangedError](err); !ok {
		t.Errorf("got %v", err)
	}
}

// TestOddNames shows that names are bytes, and that modes come out as
// ocurrent/obuilder has them.
func TestOddNames(t *testing.T) {
	dir := t.TempDir()
	names := []string{"nl\nname", "tab\t", "back\\slash", "-rf", "~", "a b", "setuid", "\xff\xfe"}
	for _, name := range names {
		err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o644)
		if name == "\xff\xfe" && errors.Is(err, syscall.EILSEQ) {
			t.Log("this file system takes only names in UTF-8")
			names = names[:len(names)-1]
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Chmod(filepath.Join(dir, "setuid"), 0o6711); err != nil {
		t.Fatal(err)
	}
	tree := openDir(t, dir)
	m := scan(t, tree, names...)
	var stream bytes.Buffer
	if err := m.WriteTar(t.Context(), &stream, source.TarOptions{Dst: "/x/"}); err != nil {
		t.Fatal(err)
	}
	got := entries(t, stream.Bytes())
	for i, e := range got[1:] {
		want := uint32(0o644)
		if names[i] == "setuid" {
			want = 0o755
		}
		if e.Name != "x/"+names[i] || e.Mode != want || m.Items[i].Path != names[i] {
			t.Errorf("got %q %o, want %q %o", e.Name, e.Mode, names[i], want)
		}
	}
	if len(got) != 1+len(names) {
		t.Errorf("got %d entries", len(got))
	}
	if all := scan(t, tree, "."); len(all.Items[0].Children) != len(names) {
		t.Errorf("got %+v", all.Items)
	}
}

// TestNameNotUTF8 shows what a tree that goes by package fs has to say of a
// name that such a tree cannot open.
func TestNameNotUTF8(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "\xff"), nil, 0o644); err != nil {
		t.Skipf("this file system takes only names in UTF-8: %v", err)
	}
	tree, err := (zfs.OSFiles{}).Tree(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	_, err = source.Scan(t.Context(), tree, []string{"."}, source.Options{})
	if err == nil {
		t.Skip("this tree opens it")
	}
	if e, ok := errors.AsType[*source.Error](err); !ok || e.Path != "\xff" || e.Hint == "" {
		t.Errorf("got %v", err)
	}
}

func TestUnreadable(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may read everything")
	}
	dir := t.TempDir()
	for name, mode := range map[string]fs.FileMode{"a": 0o644, "b": 0, "d/c": 0o644} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "d"), 0); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(filepath.Join(dir, "d"), 0o755)
	for src, want := range map[string]string{
		".":   `source ".": "b" cannot be read: permission denied`,
		"d":   `source "d" cannot be read: permission denied`,
		"d/c": `source "d/c" cannot be read: permission denied`,
	} {
		_, err := source.Scan(t.Context(), openDir(t, dir), []string{src}, source.Options{})
		if _, ok := errors.AsType[*source.Error](err); !ok || err.Error() != want || !errors.Is(err, fs.ErrPermission) {
			t.Errorf("%s: got %v\nwant %s", src, err, want)
		}
	}
}
