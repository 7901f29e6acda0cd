// Package zfstest is the suite that every [zfs.FS] passes. What it expects is
// what OpenZFS 2.1.11 does: each expectation was found by asking it, and the
// tests of zfs/real ask again whenever they run on a pool.
//
//	func TestConformance(t *testing.T) {
//		zfstest.Run(t, func(t *testing.T) zfstest.Env {
//			m := fake.New("tank")
//			return zfstest.Env{FS: m, Files: m.Files(), Root: zfs.MustDataset("tank"), Dir: "/mnt"}
//		})
//	}
package zfstest

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"obuilder.org/obuilder/zfs"
)

// An Env is what one test plays in.
type Env struct {
	FS    zfs.FS
	Files zfs.Files

	// Root is mounted and has neither children, snapshots nor local
	// properties. Whoever opened the Env removes what a test leaves in it.
	Root zfs.Dataset

	// Dir is the absolute path of an empty directory outside of every dataset,
	// in which tests put mount points.
	Dir string

	// SnapshotMounts says that zfs mount takes snapshots, as on macOS.
	SnapshotMounts bool

	// Lacks are the features that this implementation does not have. Tests of
	// them are skipped.
	Lacks []Feature
}

// A Feature is something that only a file system in the kernel can do, or a
// complete model of one.
type Feature string

// The features that an [Env] can lack.
const (
	Busy     Feature = "busy"     // an open file keeps a dataset from being unmounted
	Quota    Feature = "quota"    // a quota stops writes
	Space    Feature = "space"    // used, referenced and the like follow what is written
	Overlay  Feature = "overlay"  // mounting over a directory with files in it, or over another mount
	ReadOnly Feature = "readonly" // snapshots and datasets with readonly=on cannot be written to
)

// Run runs the suite. open is called once for each test.
func Run(t *testing.T, open func(t *testing.T) Env) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			env := open(t)
			for _, f := range c.needs {
				if slices.Contains(env.Lacks, f) {
					t.Skipf("this implementation lacks %q", f)
				}
			}
			w := &world{T: t, Env: env, ctx: t.Context()}
			var source string
			w.mnt, source = w.getSource(env.Root, "mountpoint")
			w.mntSource = source
			if !strings.HasPrefix(source, "inherited from ") {
				w.mntSource = "inherited from " + env.Root.String()
			}
			c.run(w)
		})
	}
}

type testCase struct {
	name  string
	run   func(w *world)
	needs []Feature
}

// cases are the suite; the files of this package say what each shows.
var cases = slices.Concat(datasetCases, propertyCases, mountCases, contentCases, listCases, jobCases)

// A world is an Env with what makes tests short. Names are relative to Root.
type world struct {
	*testing.T
	Env
	ctx context.Context
	mnt string // mount point of Root
	// mntSource is the source of the mount points that are inherited through Root.
	mntSource string
}

func (w *world) ds(name string) zfs.Dataset {
	w.Helper()
	if name == "" {
		return w.Root
	}
	d, err := zfs.ParseDataset(w.Root.String() + "/" + name)
	if err != nil {
		w.Fatal(err)
	}
	return d
}

func (w *world) snap(name string) zfs.Snapshot {
	w.Helper()
	ds, tag, _ := strings.Cut(name, "@")
	return w.ds(ds).MustSnapshot(tag)
}

// name gives the dataset or snapshot called name.
func (w *world) name(name string) zfs.Name {
	w.Helper()
	if strings.Contains(name, "@") {
		return w.snap(name)
	}
	return w.ds(name)
}

// at gives a path below the mount point of Root.
func (w *world) at(elem ...string) string { return path.Join(append([]string{w.mnt}, elem...)...) }

// outside gives a path below Dir.
func (w *world) outside(elem ...string) string { return path.Join(append([]string{w.Dir}, elem...)...) }

func prop(assignment string) zfs.Property {
	name, value, _ := strings.Cut(assignment, "=")
	return zfs.Property{Name: name, Value: value}
}

func props(assignments []string) []zfs.Property {
	var list []zfs.Property
	for _, a := range assignments {
		list = append(list, prop(a))
	}
	return list
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// fails checks that err is a command that zfs refused, of the given kind.
func (w *world) fails(err error, kind zfs.Kind) {
	w.Helper()
	var e *zfs.Error
	switch {
	case err == nil:
		w.Fatalf("no error; want one of the kind %q", kind)
	case !errors.As(err, &e):
		w.Fatalf("not a *zfs.Error: %v", err)
	case e.Kind != kind:
		w.Fatalf("kind %q, want %q: %v", e.Kind, kind, err)
	case e.Status <= 0 || e.Err != nil || len(e.Argv) < 3:
		w.Fatalf("not the failure of a command that ran: %#v", e)
	}
}

func (w *world) create(name string, assignments ...string) {
	w.Helper()
	w.must(w.FS.Create(w.ctx, w.ds(name), zfs.CreateOptions{Properties: props(assignments)}))
}

func (w *world) clone(origin, name string, assignments ...string) {
	w.Helper()
	w.must(w.FS.Clone(w.ctx, w.snap(origin), w.ds(name), props(assignments)...))
}

func (w *world) snapshot(names ...string) {
	w.Helper()
	var snaps []zfs.Snapshot
	for _, name := range names {
		snaps = append(snaps, w.snap(name))
	}
	w.must(w.FS.Snapshot(w.ctx, false, snaps...))
}

func (w *world) set(name string, assignments ...string) {
	w.Helper()
	w.must(w.FS.Set(w.ctx, w.ds(name), props(assignments)...))
}

func (w *world) destroy(name string) error {
	return w.FS.Destroy(w.ctx, w.name(name), zfs.DestroyMode{})
}

// get gives the value of one property.
func (w *world) get(name zfs.Name, property string) string {
	w.Helper()
	value, _ := w.getSource(name, property)
	return value
}

func (w *world) getSource(name zfs.Name, property string) (value, source string) {
	w.Helper()
	values, err := w.FS.Get(w.ctx, name, property)
	w.must(err)
	if len(values) != 1 || values[0].Name != name.String() || values[0].Property != property {
		w.Fatalf("get %s %s: %+v", property, name, values)
	}
	return values[0].Value, values[0].Source
}

// is checks the value of a property and, unless source is empty, where it comes from.
func (w *world) is(name, property, value, source string) {
	w.Helper()
	v, s := w.getSource(w.name(name), property)
	if v != value || source != "" && s != source {
		w.Errorf("%s of %s is %q (%s), want %q (%s)", property, name, v, s, value, source)
	}
}

func (w *world) number(name, property string) int64 {
	w.Helper()
	n, err := strconv.ParseInt(w.get(w.name(name), property), 10, 64)
	w.must(err)
	return n
}

// mounted checks which of the datasets are mounted: "a", or "-a" for one that is not.
func (w *world) mounted(names ...string) {
	w.Helper()
	for _, name := range names {
		name, no := strings.CutPrefix(name, "-")
		w.is(name, "mounted", map[bool]string{true: "no", false: "yes"}[no], "-")
	}
}

// all gives the datasets and snapshots in Root, without Root itself.
func (w *world) all() []string {
	w.Helper()
	rows, err := w.FS.List(w.ctx, zfs.ListOptions{
		Roots: []zfs.Name{w.Root}, Recursive: true, Types: []zfs.Type{zfs.Filesystems, zfs.Snapshots},
	})
	w.must(err)
	return w.names(rows)[1:]
}

// names gives the names of rows, relative to Root, which is "".
func (w *world) names(rows []zfs.Row) []string {
	w.Helper()
	names := []string{}
	for _, row := range rows {
		rest, ok := strings.CutPrefix(row.Name, w.Root.String())
		if !ok {
			w.Errorf("%s is listed and is not in %s", row.Name, w.Root)
		}
		names = append(names, strings.TrimPrefix(rest, "/"))
	}
	return names
}

// exist checks what there is, all of it, in the order of a list.
func (w *world) exist(want ...string) {
	w.Helper()
	if got := w.all(); !slices.Equal(got, want) {
		w.Errorf("there are %q, want %q", got, want)
	}
}

func (w *world) write(name, content string) {
	w.Helper()
	f, err := w.Files.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	w.must(err)
	_, err = io.WriteString(f, content)
	w.must(cmp.Or(err, f.Close()))
}

// fill writes n bytes that cannot be compressed, and waits until they are on disk.
func (w *world) fill(name string, n int) error {
	w.Helper()
	f, err := w.Files.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	w.must(err)
	defer f.Close()
	block := make([]byte, 128<<10)
	rand.Read(block)
	for n > 0 {
		written, err := f.Write(block[:min(n, len(block))])
		if err != nil {
			return err
		}
		n -= written
	}
	return f.Sync()
}

// reads checks what is in a file; "" for content says that there is no such file.
func (w *world) reads(name, content string) {
	w.Helper()
	got, err := w.Files.ReadFile(name, 1<<20)
	switch {
	case content == "" && err == nil:
		w.Errorf("%s can be read: %q", name, got)
	case content == "" && !errors.Is(err, fs.ErrNotExist) && !strings.Contains(name, "/.zfs/"):
		// Linux keeps looking for a snapshot that has gone, and gives ELOOP.
		w.Errorf("%s should not exist: %v", name, err)
	case content != "" && (err != nil || string(got) != content):
		w.Errorf("%s: %q, %v; want %q", name, got, err, content)
	}
}

// entries gives the names in a directory.
func (w *world) entries(name string) []string {
	w.Helper()
	tree, err := w.Files.Tree(name)
	w.must(err)
	defer tree.Close()
	list, err := tree.ReadDir(".")
	w.must(err)
	names := []string{}
	for _, e := range list {
		names = append(names, e.Name())
	}
	slices.Sort(names)
	return names
}

// eventually waits for space accounting, which follows some seconds behind.
func (w *world) eventually(what string, ok func() bool) {
	w.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.Errorf("not within 30 s: %s", what)
			return
		}
	}
}
