package source_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"obuilder.org/obuilder/source"
	"obuilder.org/obuilder/zfs"
)

var _ source.Tree = zfs.Tree(nil)

// small is a tree in memory with one of everything.
func small() fstest.MapFS {
	return fstest.MapFS{
		"a.txt":     {Data: []byte("hello\n"), Mode: 0o644},
		"dir/x":     {Data: []byte("x"), Mode: 0o755},
		"dir/sub/y": {Data: []byte("y"), Mode: 0o600},
		"dirlink":   {Data: []byte("dir"), Mode: fs.ModeSymlink | 0o777},
		"pipe":      {Mode: fs.ModeNamedPipe},
		"more/dev":  {Mode: fs.ModeDevice},
		"more/sock": {Mode: fs.ModeSocket},
		"more/what": {Mode: fs.ModeIrregular},
	}
}

func TestScanErrors(t *testing.T) {
	for _, c := range []struct {
		sources []string
		want    string
	}{
		{nil, `there are no sources to copy`},
		{[]string{""}, `source ".": "more/dev" is a device, which cannot be copied`},
		{[]string{"pipe"}, `source "pipe" is a named pipe, which cannot be copied`},
		{[]string{"more/sock"}, `source "more/sock" is a socket, which cannot be copied`},
		{[]string{"more/what"}, `source "more/what" is neither a file, a directory nor a symbolic link, which cannot be copied`},
		{[]string{".."}, `source ".." leads upwards with ..`},
		{[]string{"dir/../a.txt"}, `source "dir/../a.txt" leads upwards with ..`},
		{[]string{"none"}, `source "none" does not exist`},
		{[]string{"./dir//none/of/it"}, `source "./dir//none/of/it": "dir/none" does not exist`},
		{[]string{"no\nne"}, `source "no\nne" does not exist`},
		{[]string{"dir/x/y"}, `source "dir/x/y": "dir/x" is not a directory`},
		{[]string{"dir/x/"}, `source "dir/x/": "dir/x" is not a directory`},
		{[]string{"dir/x/."}, `source "dir/x/.": "dir/x" is not a directory`},
		{[]string{"pipe/"}, `source "pipe/": "pipe" is not a directory`},
		{[]string{"dirlink/x"}, `source "dirlink/x": "dirlink" is a symbolic link, which is not followed`},
		{[]string{"dirlink/"}, `source "dirlink/": "dirlink" is a symbolic link, which is not followed`},
		{[]string{"a.txt", "../b", "none"}, `source "../b" leads upwards with ..`},
		{[]string{"dir", "none", "../b"}, `source "none" does not exist`},
	} {
		m, err := source.Scan(t.Context(), small(), c.sources, source.Options{})
		e, ok := errors.AsType[*source.Error](err)
		if !ok || m != nil || err.Error() != c.want {
			t.Errorf("%q: got %v, %v\nwant %s", c.sources, m, err, c.want)
			continue
		}
		if strings.Contains(c.want, "does not exist") && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%q: %v does not wrap what the file system said", c.sources, err)
		}
		if strings.Contains(c.want, "cannot be copied") && e.Hint == "" {
			t.Errorf("%q: no hint", c.sources)
		}
	}
	// What is excluded need not be possible to copy.
	opts := source.Options{Exclude: []string{"pipe", "more"}}
	if _, err := source.Scan(t.Context(), small(), []string{"."}, opts); err != nil {
		t.Error(err)
	}
}

func TestOpenDirErrors(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	none := filepath.Join(dir, "none")
	for path, want := range map[string]string{
		none: fmt.Sprintf("source directory %q does not exist", none),
		file: fmt.Sprintf("source directory %q is not a directory", file),
	} {
		_, err := source.OpenDir(path)
		if _, ok := errors.AsType[*source.Error](err); !ok || err.Error() != want {
			t.Errorf("got %v\nwant %s", err, want)
		}
	}
}

// TestLinksDoNotLeadOut shows that not even a link that takes the place of a
// directory after the scan has seen it leads out of the source directory.
func TestLinksDoNotLeadOut(t *testing.T) {
	outside, dir := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(dir, "link")); err != nil {
		t.Skipf("no symbolic links here: %v", err)
	}
	d := openDir(t, dir)
	if f, err := d.Open("link/secret"); err == nil {
		f.Close()
		t.Error("a file outside can be opened")
	}
	if _, err := d.ReadDir("link"); err == nil {
		t.Error("a directory outside can be read")
	}
	m, err := source.Scan(t.Context(), d, []string{"."}, source.Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := []source.Item{{Kind: source.Dir, Children: []source.Item{{Kind: source.Symlink, Path: "link", Target: outside}}}}
	if diff := cmp.Diff(want, m.Items); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// TestLoops shows that links which go in circles are links like others.
func TestLoops(t *testing.T) {
	tree := fstest.MapFS{
		"d/self":  {Data: []byte("self"), Mode: fs.ModeSymlink},
		"d/up":    {Data: []byte(".."), Mode: fs.ModeSymlink},
		"d/there": {Data: []byte("back"), Mode: fs.ModeSymlink},
		"d/back":  {Data: []byte("there"), Mode: fs.ModeSymlink},
	}
	m, err := source.Scan(t.Context(), tree, []string{"d", "d/self"}, source.Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := "(Dir(d((Symlink(d/back there))(Symlink(d/self self))(Symlink(d/there back))(Symlink(d/up ..)))))(Symlink(d/self self))"
	if got := printItems(m.Items); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}

// endless is a tree whose every directory has another one in it.
type endless struct{ fstest.MapFS }

func (endless) Lstat(name string) (fs.FileInfo, error) {
	return fs.Lstat(fstest.MapFS{"d": {Mode: fs.ModeDir}}, "d")
}

func (endless) ReadDir(name string) ([]fs.DirEntry, error) {
	return fs.ReadDir(fstest.MapFS{"d": {Mode: fs.ModeDir}}, ".")
}

func TestDepth(t *testing.T) {
	_, err := source.Scan(t.Context(), endless{}, []string{"."}, source.Options{})
	if e, ok := errors.AsType[*source.Error](err); !ok || !strings.Contains(e.Reason, "too many directories deep") {
		t.Errorf("got %v", err)
	}
	// As deep as this is no trouble.
	deep := strings.Repeat("d/", 1000) + "f"
	m, err := source.Scan(t.Context(), fstest.MapFS{deep: {}}, []string{"d"}, source.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.WriteTar(t.Context(), io.Discard, source.TarOptions{Dst: "/x"}); err != nil {
		t.Error(err)
	}
}

// hooked is a tree whose methods call a function first.
type hooked struct {
	source.Tree
	before func(op, name string) error
}

func (h hooked) Open(name string) (fs.File, error) {
	if err := h.before("open", name); err != nil {
		return nil, err
	}
	return h.Tree.Open(name)
}

func (h hooked) ReadDir(name string) ([]fs.DirEntry, error) {
	if err := h.before("readdir", name); err != nil {
		return nil, err
	}
	return h.Tree.ReadDir(name)
}

func (h hooked) ReadLink(name string) (string, error) {
	if err := h.before("readlink", name); err != nil {
		return "", err
	}
	return h.Tree.ReadLink(name)
}

// many is a tree of n directories with ten files and a link each.
func many(n int) fstest.MapFS {
	tree := make(fstest.MapFS)
	for d := range n {
		for i := range 10 {
			tree[fmt.Sprintf("d%03d/f%d", d, i)] = &fstest.MapFile{Data: fmt.Append(nil, d, i), Mode: 0o644}
		}
		tree[fmt.Sprintf("d%03d/link", d)] = &fstest.MapFile{Data: []byte("f1"), Mode: fs.ModeSymlink | 0o777}
	}
	return tree
}

// TestFirstErrorWins shows that of several errors the first in the order of the
// manifest is returned, whichever happens first.
func TestFirstErrorWins(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tree := many(3)
		var order []string // of the manifest
		for d := range 3 {
			dir := fmt.Sprintf("d%03d", d)
			order = append(order, dir)
			for i := range 10 {
				order = append(order, fmt.Sprintf("%s/f%d", dir, i))
			}
			order = append(order, dir+"/link")
		}
		bad := rapid.SliceOfNDistinct(rapid.SampledFrom(order), 1, 5, rapid.ID).Draw(t, "bad")
		first := slices.MinFunc(bad, func(a, b string) int { return slices.Index(order, a) - slices.Index(order, b) })
		// A failure before another is the later one: those first in order wait.
		slow := rapid.Bool().Draw(t, "slow")
		h := hooked{tree, func(op, name string) error {
			if !slices.Contains(bad, name) {
				return nil
			}
			if slow && name == first {
				for range 100 {
					runtime.Gosched()
				}
			}
			return &fs.PathError{Op: op, Path: name, Err: fs.ErrPermission}
		}}
		_, err := source.Scan(t.Context(), h, []string{"."}, source.Options{Workers: rapid.IntRange(1, 8).Draw(t, "workers")})
		want := fmt.Sprintf(`source ".": %q cannot be read: permission denied`, first)
		if err == nil || err.Error() != want || !errors.Is(err, fs.ErrPermission) {
			t.Fatalf("got %v\nwant %s", err, want)
		}
	})
}

// TestGoneWhileScanned shows that what is listed and then not there changed.
func TestGoneWhileScanned(t *testing.T) {
	for _, gone := range []string{"d000", "d000/f3", "d001/link"} {
		h := hooked{many(2), func(op, name string) error {
			if name == gone {
				return &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
			}
			return nil
		}}
		_, err := source.Scan(t.Context(), h, []string{"."}, source.Options{})
		if e, ok := errors.AsType[*source.ChangedError](err); !ok || e.Path != gone {
			t.Errorf("%s: got %v", gone, err)
		}
	}
}

func TestScanCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var opened atomic.Int32
	h := hooked{many(1000), func(op, name string) error {
		if op == "open" && opened.Add(1) == 100 {
			cancel()
		}
		return nil
	}}
	if _, err := source.Scan(ctx, h, []string{"."}, source.Options{Workers: 1}); err != context.Canceled {
		t.Errorf("got %v", err)
	}
	if n := opened.Load(); n != 100 {
		t.Errorf("%d files were opened, of which all but 100 after the cancellation", n)
	}
	opened.Store(1000)
	if _, err := source.Scan(ctx, h, []string{"a"}, source.Options{}); err == nil {
		t.Error("a cancelled scan succeeds")
	}
}

// TestScanStopsAtFailure shows that what cannot be the first error any more is
// not looked for.
func TestScanStopsAtFailure(t *testing.T) {
	var calls atomic.Int32
	h := hooked{many(1000), func(op, name string) error {
		calls.Add(1)
		if name == "d001/f1" {
			return &fs.PathError{Op: op, Path: name, Err: fs.ErrPermission}
		}
		return nil
	}}
	if _, err := source.Scan(t.Context(), h, []string{"."}, source.Options{Workers: 1}); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("got %v", err)
	}
	// What was in the queue by then may have been walked, but not the rest.
	if n := calls.Load(); n > 1000 {
		t.Errorf("%d calls of 12,000 in all", n)
	}
}

// counted counts the files that are open. The first few wait for each other.
type counted struct {
	source.Tree
	mu        sync.Mutex
	open, max int
	met       chan struct{} // closed when as many as should be are open at once
}

type countedFile struct {
	fs.File
	tree *counted
}

const workers = 3

func (c *counted) Open(name string) (fs.File, error) {
	c.mu.Lock()
	c.open++
	c.max = max(c.max, c.open)
	if c.open == workers && c.met != nil {
		close(c.met)
		c.met = nil
	}
	met := c.met
	c.mu.Unlock()
	if met != nil {
		select {
		case <-met:
		case <-time.After(10 * time.Second):
			return nil, errors.New("nobody else opens a file")
		}
	}
	f, err := c.Tree.Open(name)
	return countedFile{f, c}, err
}

func (f countedFile) Close() error {
	f.tree.mu.Lock()
	defer f.tree.mu.Unlock()
	f.tree.open--
	return f.File.Close()
}

func TestOpenFilesAreBounded(t *testing.T) {
	c := &counted{Tree: many(100), met: make(chan struct{})}
	m, err := source.Scan(t.Context(), c, []string{"."}, source.Options{Workers: workers})
	if err != nil {
		t.Fatal(err)
	}
	if c.open != 0 || c.max != workers {
		t.Errorf("%d files left open, %d at most", c.open, c.max)
	}
	c.max = 0
	if err := m.WriteTar(t.Context(), io.Discard, source.TarOptions{}); err != nil {
		t.Fatal(err)
	}
	if c.open != 0 || c.max != 1 {
		t.Errorf("sending: %d files left open, %d at most", c.open, c.max)
	}
}

// anyTree is a random tree in memory.
var anyTree = rapid.Custom(func(t *rapid.T) fstest.MapFS {
	tree := make(fstest.MapFS)
	// Names of which many are the beginning of others, and sort differently
	// with what comes after.
	name := rapid.OneOf(
		rapid.SampledFrom([]string{"a", "a-b", "a.c", "B", "_", ".x", "é", "nl\nnl", `q"\`, " ", strings.Repeat("long", 30)}),
		rapid.StringMatching(`[a-c#|;()~]{1,3}`))
	var fill func(dir string, depth int)
	fill = func(dir string, depth int) {
		for _, n := range rapid.SliceOfNDistinct(name, 0, 5, rapid.ID).Draw(t, "names") {
			p := path.Join(dir, n)
			f := &fstest.MapFile{ModTime: time.Unix(rapid.Int64Range(0, 1<<33).Draw(t, "mtime"), 5)}
			tree[p] = f
			switch kind := rapid.IntRange(0, 3).Draw(t, "kind"); {
			case kind == 0 && depth < 4:
				f.Mode = fs.ModeDir | 0o700
				fill(p, depth+1)
			case kind == 1:
				f.Mode = fs.ModeSymlink | 0o777
				f.Data = []byte(rapid.StringMatching(`[a-z./]{1,120}`).Draw(t, "target"))
			default:
				f.Mode = fs.FileMode(rapid.IntRange(0, 0o777).Draw(t, "mode")) | fs.ModeSetuid
				f.Data = rapid.SliceOfN(rapid.Byte(), 0, 1500).Draw(t, "data")
			}
		}
	}
	fill("", 0)
	return tree
})

// reference makes the manifest of one source in the simplest way.
func reference(tree fstest.MapFS, p string, exclude []string) source.Item {
	f := tree[p]
	switch {
	case f == nil || f.Mode.IsDir():
		it := source.Item{Kind: source.Dir, Path: p}
		var names []string
		for q := range tree {
			dir, base := path.Split(q)
			if strings.TrimSuffix(dir, "/") == p && !slices.Contains(exclude, base) {
				names = append(names, q)
			}
		}
		slices.Sort(names)
		for _, q := range names {
			it.Children = append(it.Children, reference(tree, q, exclude))
		}
		return it
	case f.Mode&fs.ModeSymlink != 0:
		return source.Item{Kind: source.Symlink, Path: p, Target: string(f.Data)}
	}
	sum := sha256.Sum256(f.Data)
	return source.Item{Kind: source.File, Path: p, Hash: hex.EncodeToString(sum[:])}
}

func TestScanMatchesReference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tree := anyTree.Draw(t, "tree")
		paths := []string{""}
		for p := range tree {
			paths = append(paths, p)
		}
		slices.Sort(paths)
		exclude := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "B", ".x", "a/a-b", "", "."}), 0, 2).Draw(t, "exclude")
		var want []source.Item
		var sources []string
		for _, p := range rapid.SliceOfN(rapid.SampledFrom(paths), 1, 3).Draw(t, "sources") {
			want = append(want, reference(tree, p, exclude))
			before := rapid.SampledFrom([]string{"", "/", "./", ".//./"}).Draw(t, "before")
			sources = append(sources, before+strings.ReplaceAll(p, "/", rapid.SampledFrom([]string{"/", "//", "/./"}).Draw(t, "between")))
		}
		m, err := source.Scan(t.Context(), tree, sources, source.Options{Exclude: exclude, Workers: rapid.IntRange(0, 4).Draw(t, "workers")})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, m.Items, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("(-want +got)\n%s", diff)
		}
	})
}
