package fake

import (
	"errors"
	"io/fs"
	"os"
	"testing"

	"obuilder.org/obuilder/zfs"
)

func TestSetUnmoved(t *testing.T) {
	m := newTank(t, SnapshotMounts(true))
	create(t, m, "tank/a")
	create(t, m, "tank/none", mountNone)
	write(t, m.Files(), tank+"/a/f", "here")
	for _, c := range []struct {
		name       string
		prop       zfs.Property
		kind       zfs.Kind // of the failure; Unknown for none
		mountpoint string
		mounted    string
	}{
		{"tank/a", prop("atime", "off"), 0, tank + "/a", "yes"},
		{"tank/a", prop("mountpoint", "relative"), zfs.Usage, tank + "/a", "yes"},
		{"tank/a", mountNone, zfs.Busy, "none", "yes"},
		{"tank/none", mountNone, 0, "none", "no"},
		{"tank/none", prop("mountpoint", tank+"/there"), 0, tank + "/there", "yes"},
	} {
		err := m.SetUnmoved(ctx, ds(c.name), c.prop)
		if zfs.KindOf(err) != c.kind || (err == nil) != (c.kind == 0) {
			t.Errorf("%s %s: %v", c.prop, c.name, err)
		}
		if at, mounted := get(t, m, c.name, "mountpoint"), get(t, m, c.name, "mounted"); at != c.mountpoint || mounted != c.mounted {
			t.Errorf("%s %s: on %s, mounted %s", c.prop, c.name, at, mounted)
		}
	}
	if got := read(m.Files(), tank+"/a/f"); got != "here" {
		t.Errorf("the mount has moved: %q", got)
	}
	must(t, m.Set(ctx, ds("tank/a"), mountNone)) // the next try unmounts it
	if mounted := get(t, m, "tank/a", "mounted"); mounted != "no" {
		t.Error("it is still mounted")
	}
	if err := m.SetUnmoved(ctx, ds("tank/no"), mountNone); !zfs.IsKind(err, zfs.NotFound) {
		t.Errorf("what is not there: %v", err)
	}
}

func TestAutomountOff(t *testing.T) {
	m := newTank(t, SnapshotMounts(true))
	create(t, m, "tank/a")
	write(t, m.Files(), tank+"/a/f", "here")
	must(t, m.Snapshot(ctx, false, snap("tank/a@s")))
	const dir = tank + "/a/.zfs/snapshot/s"
	names := func() (names []string) {
		tree, err := m.Files().Tree(dir)
		must(t, err)
		defer tree.Close()
		entries, err := fs.ReadDir(tree, ".")
		must(t, err)
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}
	if got := read(m.Files(), dir+"/f"); got != "here" || len(names()) != 1 {
		t.Errorf("on: %q, %q", got, names())
	}
	m.SetAutomount(false)
	_, err := m.Files().ReadFile(dir+"/f", 1)
	if !errors.Is(err, fs.ErrNotExist) || len(names()) != 0 {
		t.Errorf("off: %v, %q", err, names())
	}
	if got := read(m.Files(), tank+"/a/f"); got != "here" {
		t.Errorf("off, in the head: %q", got)
	}
	_, err = m.Files().OpenFile(dir+"/new", os.O_CREATE|os.O_WRONLY, 0o644)
	if err == nil {
		t.Error("a file was made in it")
	}
	m.SetAutomount(true)
	if got := read(m.Files(), dir+"/f"); got != "here" {
		t.Errorf("on again: %q", got)
	}
	must(t, m.Destroy(ctx, snap("tank/a@s"), zfs.DestroyMode{}))
}
