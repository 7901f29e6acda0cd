package zfstest

import (
	"os"
	"slices"

	"obuilder.org/obuilder/zfs"
)

// What is mounted where, and what a program sees there.
var mountCases = []testCase{
	{name: "mount and unmount", run: testMount},
	{name: "mount fails", run: testMountFails},
	{name: "mount of a snapshot", run: testMountSnapshot},
	{name: "mountpoint moves the mount", run: testMountpoint},
	{name: "mountpoint moves children", run: testMountpointChildren},
	{name: "mountpoint of what is not mounted", run: testMountpointUnmounted},
	{name: "canmount", run: testCanmount},
	{name: "unmount takes children with it", run: testUnmountChildren},
	{name: "mount over files", run: testMountOver, needs: []Feature{Overlay}},
	{name: "hidden mount", run: testHidden, needs: []Feature{Overlay}},
	{name: "hidden child", run: testHiddenChild, needs: []Feature{Overlay}},
	{name: "busy", run: testBusy, needs: []Feature{Busy}},
	{name: "busy stops destroy -r halfway", run: testBusyDestroy, needs: []Feature{Busy}},
	{name: "readonly", run: testReadonly, needs: []Feature{ReadOnly}},
}

func testMount(w *world) {
	w.create("a")
	w.write(w.at("a", "f"), "one")
	w.must(w.FS.Unmount(w.ctx, w.ds("a"), false))
	w.mounted("-a")
	w.reads(w.at("a", "f"), "")
	w.fails(w.FS.Unmount(w.ctx, w.ds("a"), false), zfs.NotMounted)
	w.must(w.FS.Mount(w.ctx, w.ds("a")))
	w.mounted("a")
	w.reads(w.at("a", "f"), "one")
	w.fails(w.FS.Mount(w.ctx, w.ds("a")), zfs.Mounted)
	w.must(w.FS.Unmount(w.ctx, w.ds("a"), true))
	w.mounted("-a")
}

func testMountFails(w *world) {
	w.create("none", "mountpoint=none")
	w.create("off", "canmount=off")
	w.create("legacy", "mountpoint=legacy")
	for _, name := range []string{"none", "off", "legacy"} {
		w.fails(w.FS.Mount(w.ctx, w.ds(name)), zfs.Usage)
	}
	w.fails(w.FS.Mount(w.ctx, w.ds("no")), zfs.NotFound)
	w.fails(w.FS.Unmount(w.ctx, w.ds("no"), false), zfs.NotFound)
	w.fails(w.FS.Unmount(w.ctx, w.ds("none"), false), zfs.NotMounted)
	w.fails(w.FS.Unmount(w.ctx, w.ds("off"), false), zfs.NotMounted)
	w.fails(w.FS.Unmount(w.ctx, w.ds("legacy"), false), zfs.Usage)
}

func testMountSnapshot(w *world) {
	w.create("a")
	w.snapshot("a@s")
	if !w.SnapshotMounts {
		for _, name := range []string{"a@s", "a@no", "no@s"} {
			w.fails(w.FS.Mount(w.ctx, w.snap(name)), zfs.Unsupported)
			w.fails(w.FS.Unmount(w.ctx, w.snap(name), false), zfs.Unsupported)
		}
		return
	}
	w.fails(w.FS.Mount(w.ctx, w.snap("a@no")), zfs.NotFound)
	w.fails(w.FS.Mount(w.ctx, w.snap("no@s")), zfs.NotFound)
	w.must(w.FS.Mount(w.ctx, w.snap("a@s")))
	w.fails(w.FS.Mount(w.ctx, w.snap("a@s")), zfs.Mounted)
	w.must(w.FS.Unmount(w.ctx, w.snap("a@s"), false))
	w.must(w.FS.Unmount(w.ctx, w.ds("a"), false))
	w.fails(w.FS.Mount(w.ctx, w.snap("a@s")), zfs.NotMounted)
}

func testMountpoint(w *world) {
	w.create("a", "mountpoint=none")
	w.mounted("-a")
	home := w.outside("Users", "mac 1000")
	w.set("a", "mountpoint="+home)
	w.mounted("a")
	w.is("a", "mountpoint", home, "local")
	w.write(home+"/f", "one")
	other := w.outside("deep", "er", "dir")
	w.set("a", "mountpoint="+other)
	w.reads(other+"/f", "one")
	w.reads(home+"/f", "")
	w.set("a", "mountpoint=none")
	w.mounted("-a")
	w.reads(other+"/f", "")
	w.is("a", "mountpoint", "none", "local")
	w.must(w.FS.Inherit(w.ctx, w.ds("a"), "mountpoint", false))
	w.mounted("a")
	w.reads(w.at("a", "f"), "one")
	w.set("a", "mountpoint=legacy")
	w.mounted("-a")
}

func testMountpointChildren(w *world) {
	w.create("a")
	w.create("a/b")
	w.create("a/fixed", "mountpoint="+w.outside("fixed"))
	w.create("a/none", "mountpoint=none")
	w.write(w.at("a", "b", "f"), "one")
	w.set("a", "mountpoint="+w.outside("m"))
	w.mounted("a", "a/b", "a/fixed", "-a/none")
	w.is("a/b", "mountpoint", w.outside("m", "b"), "inherited from "+w.ds("a").String())
	w.reads(w.outside("m", "b", "f"), "one")
	w.reads(w.at("a", "b", "f"), "")
	w.set("a", "mountpoint=none")
	w.mounted("-a", "-a/b", "a/fixed")
	w.is("a/b", "mountpoint", "none", "inherited from "+w.ds("a").String())
	w.must(w.FS.Inherit(w.ctx, w.ds("a"), "mountpoint", true))
	w.is("a/fixed", "mountpoint", w.at("a", "fixed"), w.mntSource)
	w.mounted("a", "a/b", "a/fixed")
	w.reads(w.at("a", "b", "f"), "one")
}

// Only a mountpoint that was none or legacy mounts what was not mounted before.
func testMountpointUnmounted(w *world) {
	w.create("a")
	w.must(w.FS.Unmount(w.ctx, w.ds("a"), false))
	w.set("a", "mountpoint="+w.outside("one"))
	w.mounted("-a")
	w.set("a", "mountpoint=none")
	w.set("a", "mountpoint="+w.outside("two"))
	w.mounted("a")
	w.set("a", "mountpoint="+w.outside("two")) // as it was
	w.mounted("a")
}

func testCanmount(w *world) {
	w.create("a", "canmount=noauto", "mountpoint=none")
	w.set("a", "mountpoint="+w.outside("a"))
	w.mounted("-a")
	w.must(w.FS.Mount(w.ctx, w.ds("a")))
	w.mounted("a")
	w.set("a", "canmount=noauto")
	w.mounted("a")
	w.set("a", "canmount=off")
	w.mounted("-a")
	w.set("a", "canmount=on")
	w.mounted("-a")
	w.must(w.FS.Mount(w.ctx, w.ds("a")))
	w.create("off", "canmount=off")
	w.create("off/child")
	w.mounted("-off", "off/child")
	w.is("off", "mountpoint", w.at("off"), w.mntSource)
}

func testUnmountChildren(w *world) {
	w.create("a")
	w.create("a/b")
	w.create("a/b/c")
	w.create("a/else", "mountpoint="+w.outside("else"))
	w.must(w.FS.Unmount(w.ctx, w.ds("a"), false))
	w.mounted("-a", "-a/b", "-a/b/c")
	w.must(w.FS.Mount(w.ctx, w.ds("a")))
	w.mounted("a", "-a/b", "-a/b/c")
}

func testMountOver(w *world) {
	home := w.outside("home")
	w.must(w.Files.MkdirAll(home, 0o755))
	w.write(home+"/f", "below")
	w.create("a", "mountpoint=none")
	w.set("a", "mountpoint="+home)
	w.reads(home+"/f", "")
	w.write(home+"/f", "above")
	w.set("a", "mountpoint=none")
	w.reads(home+"/f", "below")
	w.set("a", "mountpoint="+home)
	w.reads(home+"/f", "above")
	w.must(w.destroy("a"))
	w.reads(home+"/f", "below")
}

// Of two datasets with one mount point the later is seen. Both count as
// mounted, and what unmounts by path takes the later whichever was meant.
func testHidden(w *world) {
	home := w.outside("home")
	w.create("a", "mountpoint="+home)
	w.write(home+"/f", "a")
	w.create("b", "mountpoint="+home)
	w.mounted("a", "b")
	w.reads(home+"/f", "")
	w.write(home+"/f", "b")
	w.must(w.FS.Unmount(w.ctx, w.ds("b"), false))
	w.mounted("a", "-b")
	w.reads(home+"/f", "a")
	w.must(w.FS.Mount(w.ctx, w.ds("b")))
	w.reads(home+"/f", "b")
	w.set("a", "mountpoint=none")
	w.is("a", "mountpoint", "none", "local")
	w.mounted("a", "-b")
	w.reads(home+"/f", "a")
	w.must(w.FS.Unmount(w.ctx, w.ds("a"), false))
	w.mounted("-a", "-b")
	w.reads(home+"/f", "")
}

// A child that was mounted before its parent cannot be reached, and cannot be
// unmounted; nor then the parent. It is busy, whatever the text says.
func testHiddenChild(w *world) {
	w.create("a")
	w.create("a/b")
	w.create("a/b/c")
	w.must(w.FS.Unmount(w.ctx, w.ds("a"), false))
	w.must(w.FS.Mount(w.ctx, w.ds("a/b/c")))
	w.write(w.at("a", "b", "c", "f"), "one")
	w.must(w.FS.Mount(w.ctx, w.ds("a")))
	w.mounted("a", "-a/b", "a/b/c")
	w.reads(w.at("a", "b", "c", "f"), "")
	if list := w.entries(w.at("a")); !slices.Equal(list, []string{"b"}) {
		w.Errorf("the parent has %q", list)
	}
	w.fails(w.FS.Unmount(w.ctx, w.ds("a"), false), zfs.Busy)
	w.fails(w.FS.Set(w.ctx, w.ds("a"), prop("mountpoint="+w.outside("m"))), zfs.Busy)
	w.fails(w.FS.Destroy(w.ctx, w.ds("a"), zfs.DestroyMode{Recursive: true}), zfs.Busy)
	w.exist("a", "a/b", "a/b/c")
	// That much the attempt to destroy has done; the child is seen again.
	w.mounted("-a", "a/b/c")
	w.reads(w.at("a", "b", "c", "f"), "one")
}

func testBusy(w *world) {
	w.create("a")
	f, err := w.Files.OpenFile(w.at("a", "f"), os.O_WRONLY|os.O_CREATE, 0o644)
	w.must(err)
	w.fails(w.FS.Unmount(w.ctx, w.ds("a"), false), zfs.Busy)
	w.fails(w.destroy("a"), zfs.Busy)
	w.fails(w.FS.Set(w.ctx, w.ds("a"), prop("mountpoint=none")), zfs.Busy)
	w.fails(w.FS.Set(w.ctx, w.ds("a"), prop("mountpoint="+w.outside("m"))), zfs.Busy)
	w.fails(w.FS.Set(w.ctx, w.ds("a"), prop("canmount=off")), zfs.Busy)
	w.fails(w.FS.Rename(w.ctx, w.ds("a"), w.ds("b"), zfs.RenameOptions{}), zfs.Busy)
	w.exist("a")
	w.mounted("a")
	w.is("a", "mountpoint", w.at("a"), w.mntSource)
	w.is("a", "canmount", "on", "default")
	// What needs no unmounting works.
	w.snapshot("a@s")
	w.must(w.FS.Rename(w.ctx, w.ds("a"), w.ds("b"), zfs.RenameOptions{NoRemount: true}))
	w.must(w.FS.Rename(w.ctx, w.ds("b"), w.ds("a"), zfs.RenameOptions{NoRemount: true}))
	_, err = f.Write([]byte("one"))
	w.must(err)
	w.must(f.Close())
	w.reads(w.at("a", "f"), "one")
	w.must(w.FS.Unmount(w.ctx, w.ds("a"), false))
}

// The children are gone although the dataset itself could not be destroyed.
func testBusyDestroy(w *world) {
	w.create("a")
	w.create("a/b")
	f, err := w.Files.OpenFile(w.at("a", "f"), os.O_WRONLY|os.O_CREATE, 0o644)
	w.must(err)
	w.fails(w.FS.Destroy(w.ctx, w.ds("a"), zfs.DestroyMode{Recursive: true}), zfs.Busy)
	w.exist("a")
	w.mounted("a")
	w.must(f.Close())
	w.must(w.FS.Destroy(w.ctx, w.ds("a"), zfs.DestroyMode{Recursive: true}))
	w.exist()
}

func testReadonly(w *world) {
	w.create("a")
	w.write(w.at("a", "f"), "one")
	w.set("a", "readonly=on")
	if f, err := w.Files.OpenFile(w.at("a", "f"), os.O_WRONLY, 0); err == nil {
		f.Close()
		w.Error("opened for writing with readonly=on")
	}
	w.reads(w.at("a", "f"), "one")
	w.set("a", "readonly=off")
	w.write(w.at("a", "f"), "two")
}
