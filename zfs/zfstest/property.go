package zfstest

import (
	"context"
	"errors"
	"slices"
	"strings"

	"obuilder.org/obuilder/zfs"
)

// Properties, where their values come from, and what a failed command says.
var propertyCases = []testCase{
	{name: "set", run: testSet},
	{name: "set fails", run: testSetFails},
	{name: "inherit", run: testInherit},
	{name: "inherit fails", run: testInheritFails},
	{name: "get", run: testGet},
	{name: "get of a snapshot", run: testGetSnapshot},
	{name: "errors name the command", run: testErrors},
	{name: "cancelled", run: testCancelled},
	{name: "pool", run: testPool},
}

func testSet(w *world) {
	w.create("a")
	w.create("a/b")
	w.is("a", "atime", "on", "default")
	w.set("a", "atime=off", "org.obuilder:k=v")
	w.is("a", "atime", "off", "local")
	w.is("a/b", "atime", "off", "inherited from "+w.ds("a").String())
	w.is("a/b", "org.obuilder:k", "v", "inherited from "+w.ds("a").String())
	w.set("a/b", "atime=on", "org.obuilder:k=")
	w.is("a/b", "atime", "on", "local")
	w.is("a/b", "org.obuilder:k", "", "local")
	w.set("a/b", "org.obuilder:k=-")
	w.is("a/b", "org.obuilder:k", "-", "local")
	w.set("a/b", "quota=1M")
	w.is("a/b", "quota", "1048576", "local")
	w.is("a", "quota", "0", "default")
	w.set("a/b", "quota=none")
	w.is("a/b", "quota", "0", "local")
}

func testSetFails(w *world) {
	w.create("a")
	set := func(name string, assignments ...string) error {
		return w.FS.Set(w.ctx, w.ds(name), props(assignments)...)
	}
	w.fails(set("no", "atime=off"), zfs.NotFound)
	w.fails(set("no", "mountpoint=none"), zfs.NotFound)
	w.fails(set("a", "nosuch=1"), zfs.Usage)
	w.fails(set("a", "mountpoint=relative"), zfs.Usage)
	w.fails(set("a", "canmount=maybe"), zfs.Usage)
	w.fails(set("a", "quota=abc"), zfs.Usage)
	w.fails(set("a", "atime=on", "atime=off"), zfs.Usage)
	w.fails(set("a"), zfs.Usage)
	w.fails(set("a", "atime=off", "canmount=maybe"), zfs.Usage) // none of them is set
	w.fails(set("a", "atime=off", "used=1"), zfs.Permission)
	for _, readonly := range []string{"used=1", "type=snapshot", "mounted=no", "origin=x", "guid=1", "creation=1"} {
		w.fails(set("a", readonly), zfs.Permission)
	}
	w.is("a", "atime", "on", "default")
	w.mounted("a")
}

func testInherit(w *world) {
	w.create("a", "org.obuilder:k=a", "atime=off")
	w.create("a/b", "org.obuilder:k=b", "atime=on")
	w.create("a/b/c", "org.obuilder:k=c")
	from := func(name string) string { return "inherited from " + w.ds(name).String() }
	w.must(w.FS.Inherit(w.ctx, w.ds("a/b"), "org.obuilder:k", false))
	w.is("a/b", "org.obuilder:k", "a", from("a"))
	w.is("a/b/c", "org.obuilder:k", "c", "local")
	w.must(w.FS.Inherit(w.ctx, w.ds("a"), "org.obuilder:k", true))
	w.is("a", "org.obuilder:k", "-", "-")
	w.is("a/b/c", "org.obuilder:k", "-", "-")
	w.must(w.FS.Inherit(w.ctx, w.ds("a/b"), "atime", false))
	w.is("a/b/c", "atime", "off", from("a"))
	w.must(w.FS.Inherit(w.ctx, w.ds("a/b"), "atime", false)) // again is no error
	w.must(w.FS.Inherit(w.ctx, w.ds("a"), "atime", false))
	w.is("a/b/c", "atime", "on", "default")
}

func testInheritFails(w *world) {
	w.create("a")
	w.fails(w.FS.Inherit(w.ctx, w.ds("no"), "atime", false), zfs.NotFound)
	w.fails(w.FS.Inherit(w.ctx, w.ds("a"), "nosuch", false), zfs.Usage)
	w.fails(w.FS.Inherit(w.ctx, w.ds("a"), "quota", false), zfs.Usage)
	w.fails(w.FS.Inherit(w.ctx, w.ds("a"), "canmount", false), zfs.Usage)
	w.fails(w.FS.Inherit(w.ctx, w.ds("a"), "used", false), zfs.Permission)
}

func testGet(w *world) {
	w.create("a")
	values, err := w.FS.Get(w.ctx, w.ds("a"), "org.obuilder:none", "origin", "mountpoint", "canmount", "name", "origin")
	w.must(err)
	name := w.ds("a").String()
	want := []zfs.Value{
		{Name: name, Property: "org.obuilder:none", Value: "-", Source: "-"},
		{Name: name, Property: "origin", Value: "-", Source: "-"},
		{Name: name, Property: "mountpoint", Value: w.at("a"), Source: w.mntSource},
		{Name: name, Property: "canmount", Value: "on", Source: "default"},
		{Name: name, Property: "name", Value: name, Source: "-"},
		{Name: name, Property: "origin", Value: "-", Source: "-"},
	}
	if !slices.Equal(values, want) {
		w.Errorf("got  %+v\nwant %+v", values, want)
	}
	for _, property := range []string{"available", "creation", "createtxg"} {
		if w.number("a", property) <= 0 {
			w.Errorf("%s is 0", property)
		}
	}
	get := func(name zfs.Name, properties ...string) error {
		_, err := w.FS.Get(w.ctx, name, properties...)
		return err
	}
	w.fails(get(w.ds("no"), "used"), zfs.NotFound)
	w.fails(get(w.snap("a@no"), "used"), zfs.NotFound)
	w.fails(get(w.ds("a"), "nosuch"), zfs.Usage)
	w.fails(get(w.ds("a")), zfs.Usage)
}

func testGetSnapshot(w *world) {
	w.create("a", "org.obuilder:k=v")
	w.snapshot("a@s")
	w.is("a@s", "mountpoint", "-", "-")
	w.is("a@s", "mounted", "-", "-")
	w.is("a@s", "clones", "-", "-")
	w.is("a@s", "origin", "-", "-")
	w.is("a@s", "defer_destroy", "off", "-")
	w.is("a@s", "userrefs", "0", "-")
	w.is("a@s", "org.obuilder:k", "v", "inherited from "+w.ds("a").String())
	w.is("a", "defer_destroy", "-", "-")
	guid := w.get(w.snap("a@s"), "guid")
	w.must(w.destroy("a@s"))
	w.snapshot("a@s")
	if again := w.get(w.snap("a@s"), "guid"); again == guid {
		w.Errorf("two snapshots with the guid %s", guid)
	}
}

// Each method's error has the command line that the method is.
func testErrors(w *world) {
	no, snap := w.ds("no"), w.snap("no@s")
	for _, c := range []struct {
		argv []string
		err  error
	}{
		{zfs.ArgvCreate(w.ds("no/no"), zfs.CreateOptions{}), w.FS.Create(w.ctx, w.ds("no/no"), zfs.CreateOptions{})},
		{zfs.ArgvClone(snap, no, prop("mountpoint=none")), w.FS.Clone(w.ctx, snap, no, prop("mountpoint=none"))},
		{zfs.ArgvSnapshot(true, snap), w.FS.Snapshot(w.ctx, true, snap)},
		{zfs.ArgvDestroy(no, zfs.DestroyMode{Recursive: true}), w.FS.Destroy(w.ctx, no, zfs.DestroyMode{Recursive: true})},
		{zfs.ArgvSet(no, prop("atime=on")), w.FS.Set(w.ctx, no, prop("atime=on"))},
		{zfs.ArgvInherit(no, "atime", true), w.FS.Inherit(w.ctx, no, "atime", true)},
		{zfs.ArgvMount(no), w.FS.Mount(w.ctx, no)},
		{zfs.ArgvUnmount(no, false), w.FS.Unmount(w.ctx, no, false)},
		{zfs.ArgvPromote(no), w.FS.Promote(w.ctx, no)},
		{zfs.ArgvRename(no, w.ds("b"), zfs.RenameOptions{Parents: true}), w.FS.Rename(w.ctx, no, w.ds("b"), zfs.RenameOptions{Parents: true})},
		{zfs.ArgvRollback(snap, true), w.FS.Rollback(w.ctx, snap, true)},
		{zfs.ArgvList(zfs.ListOptions{Roots: []zfs.Name{no}}), func() error {
			_, err := w.FS.List(w.ctx, zfs.ListOptions{Roots: []zfs.Name{no}})
			return err
		}()},
		{zfs.ArgvGet(no, "used"), func() error { _, err := w.FS.Get(w.ctx, no, "used"); return err }()},
		{zfs.ArgvPool("obuilder-no-such-pool"), func() error { _, err := w.FS.Pool(w.ctx, "obuilder-no-such-pool"); return err }()},
	} {
		w.fails(c.err, zfs.NotFound)
		var e *zfs.Error
		errors.As(c.err, &e)
		if !slices.Equal(e.Argv, c.argv) {
			w.Errorf("argv is %q, want %q", e.Argv, c.argv)
		}
		said, _, _ := strings.Cut(e.Stderr, "\n")
		if text := c.err.Error(); said == "" || !strings.Contains(text, zfs.CommandLine(c.argv)) || !strings.Contains(text, said) || strings.Contains(text, "usage") {
			w.Errorf("the text %q is not the command line and what zfs printed, %q", c.err, e.Stderr)
		}
	}
}

func testCancelled(w *world) {
	ctx, cancel := context.WithCancel(w.ctx)
	cancel()
	err := w.FS.Create(ctx, w.ds("a"), zfs.CreateOptions{})
	if !zfs.IsKind(err, zfs.Timeout) || !errors.Is(err, context.Canceled) {
		w.Errorf("create: %v", err)
	}
	if _, err := w.FS.List(ctx, zfs.ListOptions{}); !zfs.IsKind(err, zfs.Timeout) || !errors.Is(err, context.Canceled) {
		w.Errorf("list: %v", err)
	}
	w.exist()
}

func testPool(w *world) {
	status, err := w.FS.Pool(w.ctx, w.Root.Pool())
	w.must(err)
	if status.Health != "ONLINE" || status.Size == 0 || status.Allocated+status.Free != status.Size ||
		status.Capacity < 0 || status.Capacity > 100 {
		w.Errorf("%+v", status)
	}
}
