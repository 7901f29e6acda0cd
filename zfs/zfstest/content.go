package zfstest

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"

	"obuilder.org/obuilder/zfs"
)

// What is in datasets, in snapshots and in clones, and the space that it takes.
var contentCases = []testCase{
	{name: "files", run: testFiles},
	{name: "trees", run: testTrees},
	{name: "clones share and diverge", run: testCopyOnWrite},
	{name: "snapshot directory", run: testSnapshotDirectory},
	{name: "snapshots are read-only", run: testSnapshotReadOnly, needs: []Feature{ReadOnly}},
	{name: "rollback", run: testRollback},
	{name: "rollback fails", run: testRollbackFails},
	{name: "space", run: testSpace, needs: []Feature{Space}},
	{name: "quota", run: testQuota, needs: []Feature{Quota}},
	{name: "no space", run: testNoSpace, needs: []Feature{Quota}},
}

func testFiles(w *world) {
	dir := w.at("d", "e")
	w.must(w.Files.MkdirAll(dir, 0o755))
	w.must(w.Files.MkdirAll(dir, 0o755))
	name := dir + "/f"
	f, err := w.Files.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o640)
	w.must(err)
	if _, err := w.Files.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o640); !errors.Is(err, fs.ErrExist) {
		w.Errorf("created twice: %v", err)
	}
	_, err = f.Write([]byte("hello"))
	w.must(err)
	at := make([]byte, 3)
	if _, err := f.ReadAt(at, 2); err != nil || string(at) != "llo" {
		w.Errorf("ReadAt: %q, %v", at, err)
	}
	if n, err := f.ReadAt(at, 4); n != 1 || err != io.EOF {
		w.Errorf("ReadAt the end: %d, %v", n, err)
	}
	w.must(f.Sync())
	info, err := f.Stat()
	w.must(err)
	if info.Size() != 5 || !info.Mode().IsRegular() || info.Name() != "f" {
		w.Errorf("stat: %v %v %s", info.Size(), info.Mode(), info.Name())
	}
	w.must(f.Close())
	f, err = w.Files.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
	w.must(err)
	_, err = f.Write([]byte(" all"))
	w.must(err)
	w.must(f.Close())
	w.reads(name, "hello all")
	if _, err := w.Files.ReadFile(name, 8); !errors.Is(err, zfs.ErrTooLarge) {
		w.Errorf("9 bytes in 8: %v", err)
	}
	if data, err := w.Files.ReadFile(name, 9); err != nil || len(data) != 9 {
		w.Errorf("9 bytes in 9: %q, %v", data, err)
	}
	if info, err := w.Files.Lstat(name); err != nil || info.Size() != 9 {
		w.Errorf("lstat: %v, %v", info, err)
	}
	if info, err := w.Files.Lstat(dir); err != nil || !info.IsDir() {
		w.Errorf("lstat of a directory: %v, %v", info, err)
	}
	for what, err := range map[string]error{
		"lstat": func() error { _, err := w.Files.Lstat(dir + "/no"); return err }(),
		"open":  func() error { _, err := w.Files.OpenFile(dir+"/no", os.O_RDONLY, 0); return err }(),
		"read":  func() error { _, err := w.Files.ReadFile(dir+"/no", 1); return err }(),
		"rm":    w.Files.Remove(dir + "/no"),
		"tree":  func() error { _, err := w.Files.Tree(dir + "/no"); return err }(),
	} {
		var e *fs.PathError
		if !errors.Is(err, fs.ErrNotExist) || !errors.As(err, &e) {
			w.Errorf("%s of nothing: %v", what, err)
		}
	}
	if w.Files.Remove(dir) == nil {
		w.Error("removed a directory with a file in it")
	}
	if w.Files.MkdirAll(name+"/below", 0o755) == nil {
		w.Error("made a directory below a file")
	}
	w.write(name, "")
	if info, err := w.Files.Lstat(name); err != nil || info.Size() != 0 {
		w.Errorf("truncated: %v, %v", info, err)
	}
	w.must(w.Files.Remove(name))
	w.must(w.Files.Remove(dir))
	w.must(w.Files.MkdirAll(dir, 0o755))
	w.write(name, "x")
	w.must(w.Files.RemoveAll(w.at("d")))
	w.must(w.Files.RemoveAll(w.at("d")))
	w.reads(name, "")
}

func testTrees(w *world) {
	w.create("a")
	w.must(w.Files.MkdirAll(w.at("a", "d"), 0o755))
	w.write(w.at("a", "d", "f"), "one")
	w.snapshot("a@s")
	// .zfs is there and is not listed, or copying a tree would copy it.
	if list := w.entries(w.at("a")); !slices.Equal(list, []string{"d"}) {
		w.Errorf("the root has %q", list)
	}
	tree, err := w.Files.Tree(w.at("a"))
	w.must(err)
	defer tree.Close()
	data, err := fs.ReadFile(tree, "d/f")
	w.must(err)
	if string(data) != "one" {
		w.Errorf("d/f: %q", data)
	}
	var walked []string
	w.must(fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		walked = append(walked, name)
		return err
	}))
	if !slices.Equal(walked, []string{".", "d", "d/f"}) {
		w.Errorf("walked %q", walked)
	}
	if _, err := tree.Open("../a"); err == nil {
		w.Error("opened a name with ..")
	}
	if _, err := tree.ReadLink("d/f"); err == nil {
		w.Error("a file was read as a link")
	}
}

func testCopyOnWrite(w *world) {
	w.create("a")
	w.must(w.Files.MkdirAll(w.at("a", "d"), 0o755))
	w.write(w.at("a", "d", "f"), "one")
	w.write(w.at("a", "gone"), "x")
	w.snapshot("a@s")
	w.clone("a@s", "b")
	w.clone("a@s", "c")
	w.write(w.at("b", "d", "f"), "two")
	w.write(w.at("b", "d", "new"), "n")
	w.must(w.Files.Remove(w.at("b", "gone")))
	w.must(w.Files.RemoveAll(w.at("c", "d")))
	w.write(w.at("a", "d", "f"), "three")

	w.reads(w.at("a", "d", "f"), "three")
	w.reads(w.at("b", "d", "f"), "two")
	w.reads(w.at("c", "d", "f"), "")
	w.reads(w.at("a", "d", "new"), "")
	w.reads(w.at("b", "d", "new"), "n")
	w.reads(w.at("a", "gone"), "x")
	w.reads(w.at("b", "gone"), "")
	w.reads(w.at("c", "gone"), "x")
	w.reads(w.at("a", ".zfs", "snapshot", "s", "d", "f"), "one")
	w.snapshot("b@s")
	w.clone("b@s", "d")
	w.reads(w.at("d", "d", "f"), "two")
	w.must(w.FS.Destroy(w.ctx, w.ds("b"), zfs.DestroyMode{Dependents: true}))
	w.reads(w.at("a", "d", "f"), "three")
}

func testSnapshotDirectory(w *world) {
	w.create("a")
	w.write(w.at("a", "f"), "one")
	w.snapshot("a@1")
	w.write(w.at("a", "f"), "two")
	w.snapshot("a@2")
	w.must(w.Files.Remove(w.at("a", "f")))
	in := func(tag string) string { return w.at("a", ".zfs", "snapshot", tag, "f") }
	w.reads(w.at("a", "f"), "")
	w.reads(in("1"), "one")
	w.reads(in("2"), "two")
	w.reads(in("no"), "")
	if list := w.entries(w.at("a", ".zfs", "snapshot")); !slices.Equal(list, []string{"1", "2"}) {
		w.Errorf("snapshots: %q", list)
	}
	w.must(w.destroy("a@1"))
	w.reads(in("1"), "")
	w.set("a", "mountpoint="+w.outside("m"))
	w.reads(w.outside("m", ".zfs", "snapshot", "2", "f"), "two")
	w.must(w.FS.Unmount(w.ctx, w.ds("a"), false))
	w.reads(w.outside("m", ".zfs", "snapshot", "2", "f"), "")
}

func testSnapshotReadOnly(w *world) {
	w.create("a")
	w.write(w.at("a", "f"), "one")
	w.snapshot("a@s")
	dir := w.at("a", ".zfs", "snapshot", "s")
	if f, err := w.Files.OpenFile(dir+"/new", os.O_WRONLY|os.O_CREATE, 0o644); err == nil {
		f.Close()
		w.Error("created a file in a snapshot")
	}
	if f, err := w.Files.OpenFile(dir+"/f", os.O_WRONLY, 0); err == nil {
		f.Close()
		w.Error("opened a file in a snapshot for writing")
	}
	if w.Files.Remove(dir+"/f") == nil {
		w.Error("removed a file from a snapshot")
	}
	w.reads(dir+"/f", "one")
}

func testRollback(w *world) {
	w.create("a")
	w.create("a/b")
	w.write(w.at("a", "f"), "one")
	w.snapshot("a@1")
	w.write(w.at("a", "f"), "two")
	w.write(w.at("a", "b", "f"), "kept")
	w.snapshot("a@2")
	w.write(w.at("a", "f"), "three")
	w.write(w.at("a", "new"), "n")
	w.must(w.FS.Rollback(w.ctx, w.snap("a@2"), false))
	w.reads(w.at("a", "f"), "two")
	w.reads(w.at("a", "new"), "")
	w.must(w.FS.Rollback(w.ctx, w.snap("a@1"), true))
	w.reads(w.at("a", "f"), "one")
	w.reads(w.at("a", "b", "f"), "kept")
	w.exist("a", "a@1", "a/b")
	w.mounted("a", "a/b")
}

func testRollbackFails(w *world) {
	w.create("a")
	w.snapshot("a@1")
	w.snapshot("a@2")
	w.clone("a@2", "c")
	w.fails(w.FS.Rollback(w.ctx, w.snap("a@1"), false), zfs.HasChildren)
	w.fails(w.FS.Rollback(w.ctx, w.snap("a@1"), true), zfs.HasClones)
	w.fails(w.FS.Rollback(w.ctx, w.snap("a@no"), true), zfs.NotFound)
	w.exist("a", "a@1", "a@2", "c")
}

func testSpace(w *world) {
	const mib = 1 << 20
	// about says that a property is near n, give or take metadata.
	about := func(name, property string, n int64) {
		w.Helper()
		got := int64(-1)
		w.eventually(name+" "+property, func() bool {
			got = w.number(name, property)
			return got >= n-mib/4 && got <= n+mib/2
		})
		if w.Failed() {
			w.Fatalf("%s of %s is %d, want about %d", property, name, got, n)
		}
	}
	w.create("a")
	about("a", "referenced", 0)
	available := w.number("a", "available")
	w.must(w.fill(w.at("a", "f"), 2*mib))
	about("a", "referenced", 2*mib)
	about("a", "used", 2*mib)
	about("", "used", 2*mib)
	about("a", "available", available-2*mib)

	w.snapshot("a@s")
	w.clone("a@s", "c")
	about("a@s", "used", 0)
	about("a@s", "referenced", 2*mib)
	about("c", "referenced", 2*mib)
	about("c", "used", 0)
	w.must(w.fill(w.at("c", "g"), mib))
	about("c", "used", mib)
	about("c", "referenced", 3*mib)

	w.must(w.Files.Remove(w.at("a", "f")))
	about("a", "referenced", 0)
	about("a", "used", 2*mib) // the snapshot holds it
	about("a", "usedbysnapshots", 2*mib)
	about("a@s", "used", 2*mib)

	w.must(w.FS.Promote(w.ctx, w.ds("c")))
	about("a", "used", 0)
	about("c", "used", 3*mib)
	w.must(w.destroy("a"))
	w.must(w.FS.Destroy(w.ctx, w.ds("c"), zfs.DestroyMode{Recursive: true}))
	about("", "used", 0)
}

func testQuota(w *world) {
	w.create("a", "quota=1M")
	w.create("b")
	if err := w.fill(w.at("a", "f"), 16<<20); err == nil {
		w.Error("wrote 16 MiB into a quota of 1 MiB")
	}
	if used := w.number("a", "used"); used > 3<<20 {
		w.Errorf("%d bytes in a quota of 1 MiB", used)
	}
	w.eventually("nothing is available", func() bool { return w.number("a", "available") == 0 })
	w.must(w.fill(w.at("b", "f"), 1<<20))
	w.fails(w.FS.Create(w.ctx, w.ds("a/b"), zfs.CreateOptions{}), zfs.NoSpace)
	w.mounted("-a/b") // created, but its mount point could not be
	w.snapshot("a@s")
	w.set("a", "quota=none")
	w.must(w.fill(w.at("a", "f"), 2<<20))
}

func testNoSpace(w *world) {
	create := func(assignment string) error {
		return w.FS.Create(w.ctx, w.ds("b"), zfs.CreateOptions{Properties: []zfs.Property{prop(assignment)}})
	}
	w.fails(create("quota=1K"), zfs.NoSpace)
	w.fails(create("reservation=1024T"), zfs.NoSpace)
	w.exist()
	w.create("a")
	w.fails(w.FS.Set(w.ctx, w.ds("a"), prop("quota=1K")), zfs.NoSpace)
	w.fails(w.FS.Set(w.ctx, w.ds("a"), prop("reservation=1024T")), zfs.NoSpace)
	w.is("a", "quota", "0", "default")
	w.is("a", "reservation", "0", "default")
}
