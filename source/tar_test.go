package source_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"obuilder.org/obuilder/source"
)

func scan(t interface {
	Fatal(...any)
	Context() context.Context
}, tree source.Tree, sources ...string) *source.Manifest {
	m, err := source.Scan(t.Context(), tree, sources, source.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// extract reads an archive into a tree below the directory x.
func extract(stream io.Reader) (fstest.MapFS, error) {
	tree := make(fstest.MapFS)
	r := tar.NewReader(stream)
	for {
		h, err := r.Next()
		if err == io.EOF {
			return tree, nil
		} else if err != nil {
			return tree, err
		}
		f := &fstest.MapFile{Mode: fs.FileMode(h.Mode), ModTime: h.ModTime}
		if f.Data, err = io.ReadAll(r); err != nil {
			return tree, err
		}
		name, isDir := strings.CutSuffix(h.Name, "/")
		switch {
		case isDir:
			f.Mode |= fs.ModeDir
		case h.Typeflag == tar.TypeSymlink:
			f.Mode |= fs.ModeSymlink
			f.Data = []byte(h.Linkname)
		}
		tree[strings.TrimPrefix(strings.TrimPrefix(name, "x"), "/")] = f
	}
}

func TestExtractedTreeIsTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tree := anyTree.Draw(t, "tree")
		var stream bytes.Buffer
		if err := scan(t, tree, ".").WriteTar(t.Context(), &stream, source.TarOptions{Dst: "/x"}); err != nil {
			t.Fatal(err)
		}
		got, err := extract(&stream)
		if err != nil {
			t.Fatal(err)
		}
		delete(got, "")
		for _, f := range tree {
			f.ModTime = time.Unix(f.ModTime.Unix(), 0)
			switch {
			case f.Mode.IsDir():
				f.Mode = fs.ModeDir | 0o755
			case f.Mode&fs.ModeSymlink != 0:
			case f.Mode&0o111 != 0:
				f.Mode = 0o755
			default:
				f.Mode = 0o644
			}
			if f.Data == nil {
				f.Data = []byte{}
			}
		}
		if diff := cmp.Diff(tree, got); diff != "" {
			t.Fatalf("(-want +got)\n%s", diff)
		}
	})
}

// TestChangeIsDetected changes one thing after the scan: the stream is cut off,
// and the error says where.
func TestChangeIsDetected(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tree := anyTree.Filter(func(tree fstest.MapFS) bool { return len(tree) > 0 }).Draw(t, "tree")
		m := scan(t, tree, ".")
		var paths []string
		for p := range tree {
			paths = append(paths, p)
		}
		slices.Sort(paths)
		p := rapid.SampledFrom(paths).Draw(t, "path")
		old := *tree[p]
		was := old.Mode.Type()
		changes := map[string]fstest.MapFile{
			"to a file":      {Data: old.Data, Mode: 0o644},
			"to a link":      {Data: append([]byte("x"), old.Data...), Mode: fs.ModeSymlink},
			"to a pipe":      {Mode: fs.ModeNamedPipe},
			"to a directory": {Mode: fs.ModeDir},
			"contents":       {Data: append(bytes.Clone(old.Data), 0), Mode: old.Mode},
			"shorter":        {Data: bytes.Clone(old.Data[:max(0, len(old.Data)-1)]), Mode: old.Mode},
			"same length":    {Data: bytes.Map(func(r rune) rune { return 'A' }, bytes.Repeat([]byte("A"), len(old.Data))), Mode: old.Mode},
		}
		var names []string
		for name, f := range changes {
			if f.Mode.Type() != was || was != fs.ModeDir && !bytes.Equal(f.Data, old.Data) {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		if name := rapid.SampledFrom(append(names, "gone")).Draw(t, "change"); name == "gone" {
			for q := range tree {
				if q == p || strings.HasPrefix(q, p+"/") {
					delete(tree, q)
				}
			}
		} else {
			f := changes[name]
			tree[p] = &f
			if was == fs.ModeDir {
				for q := range tree {
					if strings.HasPrefix(q, p+"/") {
						delete(tree, q)
					}
				}
			}
		}
		var stream bytes.Buffer
		err := m.WriteTar(t.Context(), &stream, source.TarOptions{Dst: "/x"})
		if e, ok := errors.AsType[*source.ChangedError](err); !ok || e.Path != p {
			t.Fatalf("got %v, want an error about %q", err, p)
		}
		if _, err := extract(&stream); err == nil && bytes.HasSuffix(stream.Bytes(), make([]byte, 1024)) {
			t.Fatal("the stream looks complete")
		}
	})
}

// moving is a tree in which one file has other contents than its size tells,
// as when it is written to between the two.
type moving struct {
	fstest.MapFS
	data string
}

func (m moving) Open(name string) (fs.File, error) {
	return fstest.MapFS{name: {Data: []byte(m.data)}}.Open(name)
}

func TestChangeWhileSent(t *testing.T) {
	tree := fstest.MapFS{"f": {Data: []byte("12345"), Mode: 0o644}}
	m := scan(t, &moving{tree, "12345"}, "f")
	if err := m.WriteTar(t.Context(), io.Discard, source.TarOptions{Dst: "/x"}); err != nil {
		t.Fatal(err)
	}
	for data, want := range map[string]string{
		"123456": `"f" changed while it was copied: it grew`,
		"1234":   `"f" changed while it was copied: it shrank`,
		"":       `"f" changed while it was copied: it shrank`,
		"12354":  `"f" changed while it was copied: it has other contents`,
	} {
		mv := &moving{tree, "12345"}
		m := scan(t, mv, "f")
		mv.data = data
		var stream bytes.Buffer
		err := m.WriteTar(t.Context(), &stream, source.TarOptions{Dst: "/x"})
		if _, ok := errors.AsType[*source.ChangedError](err); !ok || err.Error() != want {
			t.Errorf("%q: got %v\nwant %s", data, err, want)
		}
	}
}

func TestTarErrors(t *testing.T) {
	tree := small()
	for _, c := range []struct {
		sources []string
		opts    source.TarOptions
		want    string
	}{
		{[]string{"a.txt", "dir"}, source.TarOptions{Dst: "/x"}, `2 sources cannot all be copied to "/x"`},
		{[]string{"a.txt"}, source.TarOptions{Dst: "/."}, `source "a.txt" cannot take the place of the root directory`},
	} {
		var stream bytes.Buffer
		err := scan(t, tree, c.sources...).WriteTar(t.Context(), &stream, c.opts)
		if e, ok := errors.AsType[*source.Error](err); !ok || err.Error() != c.want || e.Hint == "" {
			t.Errorf("%q: got %v\nwant %s", c.sources, err, c.want)
		}
		if stream.Len() > 0 {
			t.Errorf("%q: %d bytes were written", c.sources, stream.Len())
		}
	}

	// A directory can: its contents go there.
	var stream bytes.Buffer
	if err := scan(t, tree, "dir").WriteTar(t.Context(), &stream, source.TarOptions{Dst: "/."}); err != nil {
		t.Error(err)
	}
	var names []string
	for _, e := range entries(t, stream.Bytes()) {
		names = append(names, e.Name)
	}
	if got := strings.Join(names, " "); got != "./ sub/ sub/y x" {
		t.Errorf("got %s", got)
	}
}

// limited is a writer that fails after some bytes.
type limited struct {
	left int
	err  error
	then func()
}

func (l *limited) Write(p []byte) (int, error) {
	if l.left -= len(p); l.left >= 0 {
		return len(p), nil
	}
	if l.then != nil {
		l.then()
	}
	return len(p), l.err
}

func TestTarWriterFails(t *testing.T) {
	data := make([]byte, 1<<20)
	m := scan(t, fstest.MapFS{"a": {Data: data}, "b": {Data: data}}, ".")
	broken := errors.New("broken pipe")
	for _, left := range []int{0, 1 << 19, 1<<20 + 600, 1<<21 + 2048} {
		err := m.WriteTar(t.Context(), &limited{left: left, err: broken}, source.TarOptions{Dst: "/x"})
		if !errors.Is(err, broken) {
			t.Errorf("after %d bytes: got %v", left, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := m.WriteTar(ctx, &limited{left: 1 << 19, then: cancel}, source.TarOptions{Dst: "/x"}); err != context.Canceled {
		t.Errorf("got %v", err)
	}
}

// TestBigUsers shows that numbers too large for the octal form are passed on.
func TestBigUsers(t *testing.T) {
	var stream bytes.Buffer
	big := 1<<31 - 2 // nobody, on a Mac, as a 32-bit number
	opts := source.TarOptions{Dst: "/x", User: source.User{UID: big, GID: big}}
	if err := scan(t, small(), "a.txt").WriteTar(t.Context(), &stream, opts); err != nil {
		t.Fatal(err)
	}
	if got := entries(t, stream.Bytes()); got[0].UID != big || got[0].GID != big {
		t.Errorf("got %+v", got)
	}
}

// TestBigFile shows that memory does not grow with the size of a file.
func TestBigFile(t *testing.T) {
	const size = 300 << 20
	tree := sparse(t, size)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	m := scan(t, tree, "big")
	n := &counter{}
	if err := m.WriteTar(t.Context(), n, source.TarOptions{Dst: "/x"}); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if want := int64(size + 512 + 1024); n.n != want {
		t.Errorf("sent %d bytes, want %d", n.n, want)
	}
	if used := after.TotalAlloc - before.TotalAlloc; used > 8<<20 {
		t.Errorf("%d bytes were allocated", used)
	}
}

type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return len(p), nil
}

// TestTarProgram shows that the system's tar extracts the stream: directories
// that are told by a slash, long names, odd names.
func TestTarProgram(t *testing.T) {
	program, err := exec.LookPath("tar")
	if err != nil || runtime.GOOS == "windows" {
		t.Skipf("no tar here that takes every name: %v", err)
	}
	long := strings.Repeat("long-name/", 30)
	tree := fstest.MapFS{
		"empty":             {Mode: fs.ModeDir},
		"run.sh":            {Data: []byte("#!/bin/sh\n"), Mode: 0o711},
		"nl\nname":          {Data: []byte("n"), Mode: 0o600},
		"link":              {Data: []byte(long), Mode: fs.ModeSymlink},
		long + "file":       {Data: bytes.Repeat([]byte("x"), 1000)},
		"sub/" + long + "d": {Mode: fs.ModeDir},
	}
	dir := t.TempDir()
	m := scan(t, tree, ".")
	cmd := exec.CommandContext(t.Context(), program, "-xf", "-", "-C", dir)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	opts := source.TarOptions{Dst: "/a/b/", User: source.User{UID: os.Getuid(), GID: os.Getgid()}}
	if err := errors.Join(m.WriteTar(t.Context(), stdin, opts), stdin.Close(), cmd.Wait()); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	got := scan(t, openDir(t, filepath.Join(dir, "a", "b")), ".")
	if got, want := printItems(got.Items), printItems(m.Items); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	for name, want := range map[string]fs.FileMode{"run.sh": 0o755, "nl\nname": 0o644, path.Dir(long): fs.ModeDir | 0o755} {
		if info, err := os.Lstat(filepath.Join(dir, "a", "b", name)); err != nil || info.Mode() != want {
			t.Errorf("%s: got %v, %v", name, info.Mode(), err)
		}
	}
}
