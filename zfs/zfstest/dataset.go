package zfstest

import (
	"fmt"
	"sync"

	"obuilder.org/obuilder/zfs"
)

// Datasets and snapshots come, go and change places.
var datasetCases = []testCase{
	{name: "create", run: testCreate},
	{name: "create -p", run: testCreateParents},
	{name: "create fails", run: testCreateFails},
	{name: "create without mount", run: testCreateUnmountable},
	{name: "clone", run: testClone},
	{name: "clone fails", run: testCloneFails},
	{name: "snapshot -r", run: testSnapshotRecursive},
	{name: "snapshot is atomic", run: testSnapshotAtomic},
	{name: "destroy", run: testDestroy},
	{name: "destroy -r", run: testDestroyRecursive},
	{name: "destroy with clones", run: testDestroyClones},
	{name: "destroy -d", run: testDestroyDeferred},
	{name: "promote", run: testPromote},
	{name: "promote along a chain", run: testPromoteChain},
	{name: "promote fails", run: testPromoteFails},
	{name: "rename", run: testRename},
	{name: "rename moves clones and properties", run: testRenameInherits},
	{name: "rename -p -u", run: testRenameOptions},
	{name: "rename of snapshots", run: testRenameSnapshots},
	{name: "rename fails", run: testRenameFails},
	{name: "concurrent", run: testConcurrent},
}

func testCreate(w *world) {
	w.create("a", "org.obuilder:note=x y=z", "atime=off")
	w.exist("a")
	w.mounted("a")
	w.is("a", "mountpoint", w.at("a"), w.mntSource)
	w.is("a", "org.obuilder:note", "x y=z", "local")
	w.is("a", "atime", "off", "local")
	w.is("a", "type", "filesystem", "-")
	w.is("a", "origin", "-", "-")
	w.write(w.at("a", "f"), "one")
	w.create("a/b")
	w.write(w.at("a", "b", "f"), "two")
	w.reads(w.at("a", "f"), "one")
	w.reads(w.at("a", "b", "f"), "two")
	if a, b := w.get(w.ds("a"), "guid"), w.get(w.ds("a/b"), "guid"); a == b || a == "-" {
		w.Errorf("guids: %s, %s", a, b)
	}
	w.create("with space and-_.:1")
	w.mounted("with space and-_.:1")
}

func testCreateParents(w *world) {
	deep := w.ds("a/b/c")
	w.must(w.FS.Create(w.ctx, deep, zfs.CreateOptions{Parents: true, Properties: []zfs.Property{prop("org.obuilder:k=v")}}))
	w.exist("a", "a/b", "a/b/c")
	w.mounted("a", "a/b", "a/b/c")
	w.is("a/b/c", "org.obuilder:k", "v", "local")
	w.is("a/b", "org.obuilder:k", "-", "-")
	w.must(w.FS.Create(w.ctx, deep, zfs.CreateOptions{Parents: true, Properties: []zfs.Property{prop("org.obuilder:k=w")}}))
	w.is("a/b/c", "org.obuilder:k", "v", "local")
}

func testCreateFails(w *world) {
	w.create("a")
	create := func(name string, assignments ...string) error {
		return w.FS.Create(w.ctx, w.ds(name), zfs.CreateOptions{Properties: props(assignments)})
	}
	w.fails(create("a"), zfs.Exists)
	w.fails(create("x/y"), zfs.NotFound)
	w.fails(w.FS.Create(w.ctx, zfs.MustDataset("obuilder-no-such-pool/y"), zfs.CreateOptions{}), zfs.NotFound)
	w.fails(w.FS.Create(w.ctx, zfs.MustDataset("obuilder-no-such-pool/y"), zfs.CreateOptions{Parents: true}), zfs.NotFound)
	w.fails(create("b", "nosuch=1"), zfs.Usage)
	w.fails(create("b", "mountpoint=relative"), zfs.Usage)
	w.fails(create("b", "canmount=maybe"), zfs.Usage)
	w.fails(create("b", "quota=abc"), zfs.Usage)
	w.fails(create("b", "atime=on", "atime=on"), zfs.Usage)
	w.fails(create("b", "used=3"), zfs.Permission)
	w.exist("a")
}

// A dataset that cannot be mounted where it should is created all the same.
func testCreateUnmountable(w *world) {
	w.write(w.outside("file"), "x")
	if err := w.FS.Create(w.ctx, w.ds("a"), zfs.CreateOptions{Properties: []zfs.Property{prop("mountpoint=" + w.outside("file", "below"))}}); err == nil {
		w.Error("mounted below a file")
	}
	w.exist("a")
	w.mounted("-a")
	w.create("none", "mountpoint=none")
	w.is("none", "mountpoint", "none", "local")
	w.create("off", "canmount=off")
	w.create("noauto", "canmount=noauto")
	w.mounted("-none", "-off", "-noauto")
}

func testClone(w *world) {
	w.create("a", "org.obuilder:k=v")
	w.write(w.at("a", "f"), "one")
	w.snapshot("a@s")
	w.write(w.at("a", "f"), "two")
	w.clone("a@s", "c")
	w.clone("a@s", "n", "mountpoint=none", "org.obuilder:k=w")
	w.mounted("c", "-n")
	w.reads(w.at("c", "f"), "one")
	w.is("c", "origin", w.snap("a@s").String(), "-")
	w.is("c", "org.obuilder:k", "-", "-") // not its origin's
	w.is("n", "org.obuilder:k", "w", "local")
	w.is("n", "mountpoint", "none", "local")
	if clones := w.get(w.snap("a@s"), "clones"); clones != w.ds("c").String()+","+w.ds("n").String() &&
		clones != w.ds("n").String()+","+w.ds("c").String() {
		w.Errorf("clones: %s", clones)
	}
	w.snapshot("c@s2")
	w.clone("c@s2", "c/d")
	w.reads(w.at("c", "d", "f"), "one")
	w.exist("a", "a@s", "c", "c@s2", "c/d", "n")
}

func testCloneFails(w *world) {
	w.create("a")
	w.snapshot("a@s")
	clone := func(origin, name string, assignments ...string) error {
		return w.FS.Clone(w.ctx, w.snap(origin), w.ds(name), props(assignments)...)
	}
	w.fails(clone("a@s", "a"), zfs.Exists)
	w.fails(clone("a@no", "b"), zfs.NotFound)
	w.fails(clone("no@s", "b"), zfs.NotFound)
	w.fails(clone("a@s", "x/y"), zfs.NotFound)
	w.fails(clone("a@s", "b", "nosuch=1"), zfs.Usage)
	w.fails(clone("a@s", "b", "mountpoint=relative"), zfs.Usage)
	w.fails(clone("a@s", "b", "used=1"), zfs.Permission)
	w.exist("a", "a@s")
}

func testSnapshotRecursive(w *world) {
	w.create("a")
	w.create("a/b")
	w.create("a/b/c")
	w.create("other")
	w.must(w.FS.Snapshot(w.ctx, true, w.snap("a@s")))
	w.exist("a", "a@s", "a/b", "a/b@s", "a/b/c", "a/b/c@s", "other")
	if a, b := w.get(w.snap("a@s"), "createtxg"), w.get(w.snap("a/b/c@s"), "createtxg"); a != b {
		w.Errorf("not one transaction: %s, %s", a, b)
	}
	w.snapshot("a@t", "other@u")
	w.exist("a", "a@s", "a@t", "a/b", "a/b@s", "a/b/c", "a/b/c@s", "other", "other@u")
	w.is("a@t", "type", "snapshot", "-")
}

func testSnapshotAtomic(w *world) {
	w.create("a")
	w.create("a/b")
	w.snapshot("a/b@s")
	w.fails(w.FS.Snapshot(w.ctx, false, w.snap("a/b@s")), zfs.Exists)
	w.fails(w.FS.Snapshot(w.ctx, true, w.snap("a@s")), zfs.Exists)
	w.fails(w.FS.Snapshot(w.ctx, false, w.snap("a@s"), w.snap("a/b@s")), zfs.Exists)
	w.fails(w.FS.Snapshot(w.ctx, false, w.snap("a@x"), w.snap("no@x")), zfs.NotFound)
	w.fails(w.FS.Snapshot(w.ctx, false, w.snap("no@x")), zfs.NotFound)
	w.fails(w.FS.Snapshot(w.ctx, false, w.snap("a@x"), w.snap("a@y")), zfs.Usage)
	w.exist("a", "a/b", "a/b@s")
	w.snapshot("a@x", "a@x") // the same twice is once
	w.exist("a", "a@x", "a/b", "a/b@s")
}

func testDestroy(w *world) {
	w.create("a")
	w.create("a/b")
	w.snapshot("a/b@s")
	w.fails(w.destroy("a"), zfs.HasChildren)
	w.fails(w.destroy("a/b"), zfs.HasChildren)
	w.exist("a", "a/b", "a/b@s")
	w.mounted("a", "a/b")
	w.must(w.destroy("a/b@s"))
	w.must(w.destroy("a/b"))
	w.must(w.destroy("a"))
	w.exist()
	for _, name := range []string{"a", "a@s", "no", "no@s"} {
		w.fails(w.destroy(name), zfs.NotFound)
	}
	w.fails(w.FS.Destroy(w.ctx, w.ds("no"), zfs.DestroyMode{Recursive: true}), zfs.NotFound)
	w.create("a")
	w.reads(w.at("a", "f"), "")
}

func testDestroyRecursive(w *world) {
	for _, name := range []string{"a", "a/b", "a/b/c", "z"} {
		w.create(name)
	}
	w.must(w.FS.Snapshot(w.ctx, true, w.snap("a@s")))
	w.snapshot("a/b@t", "a/b/c@t")
	w.must(w.FS.Destroy(w.ctx, w.snap("a@s"), zfs.DestroyMode{Recursive: true}))
	w.exist("a", "a/b", "a/b@t", "a/b/c", "a/b/c@t", "z")
	// A snapshot that only descendants have.
	w.must(w.FS.Destroy(w.ctx, w.snap("a@t"), zfs.DestroyMode{Recursive: true}))
	w.exist("a", "a/b", "a/b/c", "z")
	w.fails(w.FS.Destroy(w.ctx, w.snap("a@t"), zfs.DestroyMode{Recursive: true}), zfs.NotFound)
	w.must(w.FS.Snapshot(w.ctx, true, w.snap("a@s")))
	w.clone("a/b@s", "a/clone") // inside: no obstacle
	w.must(w.FS.Destroy(w.ctx, w.ds("a"), zfs.DestroyMode{Recursive: true, Force: true}))
	w.exist("z")
}

func testDestroyClones(w *world) {
	w.create("a")
	w.create("a/b")
	w.must(w.FS.Snapshot(w.ctx, true, w.snap("a@s")))
	w.clone("a/b@s", "c")
	w.snapshot("c@s")
	w.clone("c@s", "d")
	before := w.all()
	for _, mode := range []zfs.DestroyMode{{}, {Recursive: true}, {Recursive: true, Force: true}} {
		w.fails(w.FS.Destroy(w.ctx, w.snap("a/b@s"), mode), zfs.HasClones)
	}
	w.fails(w.FS.Destroy(w.ctx, w.ds("a"), zfs.DestroyMode{Recursive: true}), zfs.HasClones)
	w.fails(w.FS.Destroy(w.ctx, w.ds("c"), zfs.DestroyMode{Recursive: true}), zfs.HasClones)
	w.fails(w.FS.Destroy(w.ctx, w.snap("a@s"), zfs.DestroyMode{Recursive: true}), zfs.HasClones)
	w.exist(before...)
	w.mounted("a", "a/b", "c", "d")
	w.must(w.FS.Destroy(w.ctx, w.snap("c@s"), zfs.DestroyMode{Dependents: true}))
	w.exist("a", "a@s", "a/b", "a/b@s", "c")
	w.must(w.FS.Destroy(w.ctx, w.ds("a"), zfs.DestroyMode{Dependents: true}))
	w.exist()
}

func testDestroyDeferred(w *world) {
	later := zfs.DestroyMode{Defer: true}
	w.create("a")
	w.snapshot("a@s")
	w.must(w.FS.Destroy(w.ctx, w.snap("a@s"), later))
	w.exist("a")
	w.snapshot("a@s")
	w.clone("a@s", "c")
	w.clone("a@s", "d")
	w.is("a@s", "defer_destroy", "off", "-")
	w.must(w.FS.Destroy(w.ctx, w.snap("a@s"), later))
	w.is("a@s", "defer_destroy", "on", "-")
	w.fails(w.destroy("a@s"), zfs.HasClones)
	w.must(w.destroy("c"))
	w.exist("a", "a@s", "d")
	w.must(w.destroy("d"))
	w.exist("a")
	w.fails(w.FS.Destroy(w.ctx, w.ds("a"), later), zfs.Usage)
	w.fails(w.FS.Destroy(w.ctx, w.snap("a@s"), later), zfs.NotFound)
}

func testPromote(w *world) {
	w.create("a")
	w.write(w.at("a", "f"), "one")
	w.snapshot("a@1")
	w.write(w.at("a", "f"), "two")
	w.snapshot("a@2")
	w.snapshot("a@3")
	w.clone("a@1", "b")
	w.clone("a@2", "c")
	w.snapshot("c@4")
	w.must(w.FS.Promote(w.ctx, w.ds("c")))
	// The snapshots up to the origin have moved, with the clones of them.
	w.exist("a", "a@3", "b", "c", "c@1", "c@2", "c@4")
	w.is("a", "origin", w.snap("c@2").String(), "-")
	w.is("b", "origin", w.snap("c@1").String(), "-")
	w.is("c", "origin", "-", "-")
	w.is("c@2", "clones", w.ds("a").String(), "-")
	w.reads(w.at("a", "f"), "two")
	w.reads(w.at("c", ".zfs", "snapshot", "1", "f"), "one")
	w.fails(w.FS.Destroy(w.ctx, w.ds("c"), zfs.DestroyMode{Recursive: true}), zfs.HasClones)
	w.must(w.FS.Destroy(w.ctx, w.ds("a"), zfs.DestroyMode{Recursive: true}))
	w.exist("b", "c", "c@1", "c@2", "c@4")
	w.reads(w.at("c", "f"), "two")
	w.reads(w.at("b", "f"), "one")
}

func testPromoteChain(w *world) {
	w.create("a")
	w.snapshot("a@1")
	w.clone("a@1", "b")
	w.snapshot("b@2")
	w.clone("b@2", "c")
	w.must(w.FS.Promote(w.ctx, w.ds("c")))
	w.exist("a", "a@1", "b", "c", "c@2")
	w.is("b", "origin", w.snap("c@2").String(), "-")
	w.is("c", "origin", w.snap("a@1").String(), "-")
	w.must(w.FS.Promote(w.ctx, w.ds("c")))
	w.exist("a", "b", "c", "c@1", "c@2")
	w.is("a", "origin", w.snap("c@1").String(), "-")
	w.is("b", "origin", w.snap("c@2").String(), "-")
}

func testPromoteFails(w *world) {
	w.create("a")
	w.fails(w.FS.Promote(w.ctx, w.ds("a")), zfs.Usage)
	w.fails(w.FS.Promote(w.ctx, w.ds("no")), zfs.NotFound)
	w.snapshot("a@s")
	w.clone("a@s", "c")
	w.snapshot("c@s")
	w.fails(w.FS.Promote(w.ctx, w.ds("c")), zfs.Exists)
	w.exist("a", "a@s", "c", "c@s")
	w.is("c", "origin", w.snap("a@s").String(), "-")
}

func testRename(w *world) {
	w.create("a")
	w.create("a/b")
	w.write(w.at("a", "b", "f"), "one")
	w.must(w.FS.Snapshot(w.ctx, true, w.snap("a@s")))
	w.create("x")
	guid := w.get(w.ds("a/b"), "guid")
	w.must(w.FS.Rename(w.ctx, w.ds("a"), w.ds("x/y"), zfs.RenameOptions{}))
	w.exist("x", "x/y", "x/y@s", "x/y/b", "x/y/b@s")
	w.mounted("x/y", "x/y/b")
	w.is("x/y/b", "guid", guid, "-")
	w.reads(w.at("x", "y", "b", "f"), "one")
	w.reads(w.at("a", "b", "f"), "")
	w.reads(w.at("x", "y", "b", ".zfs", "snapshot", "s", "f"), "one")
}

func testRenameInherits(w *world) {
	w.create("from", "org.obuilder:k=from")
	w.create("to", "org.obuilder:k=to")
	w.create("from/a", "mountpoint="+w.outside("fixed"))
	w.write(w.outside("fixed", "f"), "one")
	w.snapshot("from/a@s")
	w.clone("from/a@s", "c")
	w.must(w.FS.Rename(w.ctx, w.ds("from/a"), w.ds("to/a"), zfs.RenameOptions{}))
	w.is("to/a", "org.obuilder:k", "to", "inherited from "+w.ds("to").String())
	w.is("to/a", "mountpoint", w.outside("fixed"), "local")
	w.is("c", "origin", w.snap("to/a@s").String(), "-")
	w.mounted("to/a")
	w.reads(w.outside("fixed", "f"), "one")
}

func testRenameOptions(w *world) {
	w.create("a")
	w.must(w.FS.Rename(w.ctx, w.ds("a"), w.ds("p/q/a"), zfs.RenameOptions{Parents: true}))
	w.exist("p", "p/q", "p/q/a")
	w.mounted("p", "p/q", "p/q/a")
	w.write(w.at("p", "q", "a", "f"), "one")
	w.must(w.FS.Rename(w.ctx, w.ds("p/q/a"), w.ds("p/q/b"), zfs.RenameOptions{NoRemount: true}))
	w.exist("p", "p/q", "p/q/b")
	w.mounted("p/q/b")
	w.reads(w.at("p", "q", "a", "f"), "one")
	w.is("p/q/b", "mountpoint", w.at("p", "q", "b"), "")
	w.must(w.FS.Unmount(w.ctx, w.ds("p/q/b"), false))
	w.must(w.FS.Rename(w.ctx, w.ds("p/q/b"), w.ds("p/q/c"), zfs.RenameOptions{}))
	w.mounted("-p/q/c") // was not mounted before
}

func testRenameSnapshots(w *world) {
	w.create("a")
	w.create("a/b")
	w.must(w.FS.Snapshot(w.ctx, true, w.snap("a@s")))
	w.clone("a/b@s", "c")
	w.must(w.FS.Rename(w.ctx, w.snap("a@s"), w.snap("a@t"), zfs.RenameOptions{}))
	w.exist("a", "a@t", "a/b", "a/b@s", "c")
	w.must(w.FS.Rename(w.ctx, w.snap("a@t"), w.snap("a@s"), zfs.RenameOptions{}))
	w.must(w.FS.Rename(w.ctx, w.snap("a@s"), w.snap("a@u"), zfs.RenameOptions{Recursive: true}))
	w.exist("a", "a@u", "a/b", "a/b@u", "c")
	w.is("c", "origin", w.snap("a/b@u").String(), "-")
	w.snapshot("a@v")
	w.fails(w.FS.Rename(w.ctx, w.snap("a@u"), w.snap("a@v"), zfs.RenameOptions{}), zfs.Exists)
	w.fails(w.FS.Rename(w.ctx, w.snap("a@no"), w.snap("a@w"), zfs.RenameOptions{}), zfs.NotFound)
	w.fails(w.FS.Rename(w.ctx, w.snap("a@u"), w.snap("a/b@w"), zfs.RenameOptions{}), zfs.Usage)
	w.exist("a", "a@u", "a@v", "a/b", "a/b@u", "c")
}

func testRenameFails(w *world) {
	w.create("a")
	w.create("b")
	rename := func(from, to string, opts zfs.RenameOptions) error {
		return w.FS.Rename(w.ctx, w.name(from), w.name(to), opts)
	}
	w.fails(rename("a", "b", zfs.RenameOptions{}), zfs.Exists)
	w.fails(rename("no", "c", zfs.RenameOptions{}), zfs.NotFound)
	w.fails(rename("a", "x/y", zfs.RenameOptions{}), zfs.NotFound)
	w.fails(rename("a", "a/c", zfs.RenameOptions{}), zfs.Usage)
	w.fails(rename("a", "c", zfs.RenameOptions{Recursive: true}), zfs.Usage)
	w.fails(w.FS.Rename(w.ctx, w.ds("a"), zfs.MustDataset("obuilder-no-such-pool/a"), zfs.RenameOptions{}), zfs.NotFound)
	w.exist("a", "b")
	w.mounted("a", "b")
}

// Commands from many goroutines neither disturb each other nor interleave.
func testConcurrent(w *world) {
	w.create("base")
	w.write(w.at("base", "f"), "one")
	w.snapshot("base@s")
	const n = 4
	var group sync.WaitGroup
	errs := make([]error, n)
	race := make([]error, n)
	for i := range n {
		group.Go(func() {
			errs[i] = func() error {
				mine := w.ds(fmt.Sprintf("mine%d", i))
				if err := w.FS.Clone(w.ctx, w.snap("base@s"), mine); err != nil {
					return err
				}
				if _, err := w.FS.List(w.ctx, zfs.ListOptions{Roots: []zfs.Name{w.Root}, Recursive: true}); err != nil {
					return err
				}
				if err := w.FS.Set(w.ctx, mine, prop(fmt.Sprintf("org.obuilder:n=%d", i))); err != nil {
					return err
				}
				return w.FS.Snapshot(w.ctx, false, mine.MustSnapshot("s"))
			}()
			race[i] = w.FS.Create(w.ctx, w.ds("race"), zfs.CreateOptions{})
		})
	}
	group.Wait()
	won := 0
	for i := range n {
		w.must(errs[i])
		name := fmt.Sprintf("mine%d", i)
		w.is(name, "org.obuilder:n", fmt.Sprint(i), "local")
		w.reads(w.at(name, "f"), "one")
		if race[i] == nil {
			won++
		} else {
			w.fails(race[i], zfs.Exists)
		}
	}
	if won != 1 {
		w.Errorf("%d created the same dataset", won)
	}
}
