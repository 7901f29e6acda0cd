package fake

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"obuilder.org/obuilder/zfs"
)

// TestDirFull fills the disk of a store. Nothing that was there is lost, it
// opens, what frees space works, and then everything does.
func TestDirFull(t *testing.T) {
	disk := t.TempDir()
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=8m"); err != nil {
		t.Skipf("needs root, to mount a small disk: %v", err)
	}
	t.Cleanup(func() { must(t, unix.Unmount(disk, 0)) })
	m := openDir(t, filepath.Join(disk, "store"))
	f := m.Files()
	create(t, m, "tank/a")
	write(t, f, tank+"/a/f", string(bytes.Repeat([]byte("x"), 1<<20)))
	must(t, m.Snapshot(ctx, false, snap("tank/a@1")))
	before := describe(t, m)

	ballast := filepath.Join(disk, "ballast")
	fillDisk(t, ballast)
	for i, err := range []error{
		m.Clone(ctx, snap("tank/a@1"), ds("tank/c")),
		m.Snapshot(ctx, false, snap("tank/a@2")),
		m.Create(ctx, ds("tank/d"), zfs.CreateOptions{}),
	} {
		if !zfs.IsKind(err, zfs.NoSpace) {
			t.Errorf("command %d on a full disk: %v", i, err)
		}
	}
	if after := describe(t, m); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	checkDir(t, m)

	// Room enough to begin, not to copy.
	must(t, os.Remove(ballast))
	must(t, m.Clone(ctx, snap("tank/a@1"), ds("tank/e"), mountNone))
	fillDisk(t, ballast)
	must(t, os.Truncate(ballast, info(t, ballast).Size()-512<<10))
	if err := m.Set(ctx, ds("tank/e"), prop("mountpoint", "/e")); !zfs.IsKind(err, zfs.NoSpace) {
		t.Errorf("copying on a full disk: %v", err)
	}
	checkDir(t, m)
	fillDisk(t, filepath.Join(disk, "more"))
	must(t, m.Set(ctx, ds("tank/e"), prop("mountpoint", "none")))
	must(t, m.Destroy(ctx, ds("tank/e"), zfs.DestroyMode{}))

	must(t, m.Close())
	if _, err := OpenDir(ctx, m.dir.path); err != nil && !errors.Is(err, unix.ENOSPC) {
		t.Errorf("opening on a full disk: %v", err)
	} else if err == nil {
		t.Error("opened on a full disk, where nothing can be recorded")
	}
	must(t, os.Remove(filepath.Join(disk, "more")))
	must(t, os.Remove(ballast))
	m = openDir(t, m.dir.path)
	if after := describe(t, m); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	if got := read(m.Files(), tank+"/a/.zfs/snapshot/1/f"); len(got) != 1<<20 {
		t.Errorf("the snapshot holds %d bytes", len(got))
	}
	checkDir(t, m)
}

func info(t *testing.T, name string) os.FileInfo {
	t.Helper()
	i, err := os.Stat(name)
	must(t, err)
	return i
}

func fillDisk(t *testing.T, name string) {
	t.Helper()
	f, err := os.Create(name)
	must(t, err)
	for block := make([]byte, 4096); err == nil; {
		_, err = f.Write(block)
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	must(t, f.Close())
}
