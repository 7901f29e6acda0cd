package fake

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"obuilder.org/obuilder/lockfile"
	"obuilder.org/obuilder/zfs"
)

func skipWithoutLinks(t testing.TB) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("symbolic links need a privilege on Windows")
	}
}

func openDir(t testing.TB, path string, opts ...Option) *Machine {
	t.Helper()
	skipWithoutLinks(t)
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second) // for the lock
	defer cancel()
	m, err := OpenDir(ctx, path, append([]Option{Pool("tank", 0, tank)}, opts...)...)
	must(t, err)
	t.Cleanup(func() { must(t, m.Close()) })
	return m
}

// reopen ends the use of m and begins it again.
func reopen(t testing.TB, m *Machine) *Machine {
	t.Helper()
	path, like := m.dir.path, func(c *config) { c.parkFrom, c.journalMax = m.dir.parkFrom, m.dir.journalMax }
	must(t, m.Close())
	return openDir(t, path, like)
}

// describe gives all that can be seen of the datasets of m.
func describe(t testing.TB, m *Machine) string {
	t.Helper()
	rows, err := m.List(ctx, zfs.ListOptions{Recursive: true, Types: []zfs.Type{zfs.Filesystems, zfs.Snapshots},
		Properties: []string{"guid", "createtxg", "creation", "origin", "mountpoint", "mounted", "canmount", "clones", "defer_destroy", "a:b", "userrefs"}})
	must(t, err)
	var b strings.Builder
	for _, r := range rows {
		fmt.Fprintln(&b, r.Name, strings.Join(r.Values, " "))
		if strings.Contains(r.Name, "@") {
			held, err := m.Holds(ctx, snap(r.Name), false)
			must(t, err)
			for _, h := range held {
				fmt.Fprintln(&b, "held", h.Tag, h.Since)
			}
		}
	}
	for _, pool := range m.Pools() {
		comment, _ := m.PoolSetting(pool, "comment")
		autotrim, _ := m.PoolSetting(pool, "autotrim")
		fmt.Fprintln(&b, pool, m.Devices(pool), comment+autotrim)
	}
	return b.String()
}

// checkDir checks that what is on disk is what the machine says.
func checkDir(t testing.TB, m *Machine) {
	t.Helper()
	d := m.dir
	data, hidden := map[string]int{}, map[string]bool{}
	var visit func(x *dataset)
	visit = func(x *dataset) {
		count := func(data map[string]int, c *dataDir) {
			if c != nil {
				data[fmt.Sprintf("%x", c.id)]++
			}
		}
		count(data, x.data)
		for _, s := range x.snaps {
			count(data, s.data)
		}
		if x.mnt != nil {
			hidden[filepath.Base(hiddenName(x))] = true
			if x.data == nil || x.data.refs != 1 {
				t.Errorf("%s is mounted and shares its data", x.fullName())
			}
			if s, err := d.locate(x, x.mnt.path, false); err == nil && s.below == x.mnt {
				if got, err := filepath.EvalSymlinks(d.linkPath(x.mnt)); err != nil || got != d.dataPath(x.data.id) {
					t.Errorf("link of %s leads to %s, %v", x.fullName(), got, err)
				}
			}
		}
		x.children.all(visit)
	}
	for _, p := range m.pools {
		visit(p.root)
	}
	for dir, want := range map[string]func(string) bool{
		"data":   func(name string) bool { return data[name] > 0 },
		"hidden": func(name string) bool { return hidden[name] },
		"tmp":    func(string) bool { return false },
		"trash":  func(string) bool { return false },
	} {
		entries, err := os.ReadDir(d.join(dir))
		must(t, err)
		found := 0
		for _, e := range entries {
			found++
			if !want(e.Name()) {
				t.Errorf("%s/%s belongs to nothing", dir, e.Name())
			}
		}
		if dir == "data" && found != len(data) || dir == "hidden" && found != len(hidden) {
			t.Errorf("%d in %s, want %d and %d", found, dir, len(data), len(hidden))
		}
	}
}

func TestDirStep(t *testing.T) {
	m := openDir(t, filepath.Join(t.TempDir(), "store"))
	f := m.Files()
	for _, d := range []string{"tank/result", "tank/base/home", "tank/base/brew"} {
		create(t, m, d)
	}
	write(t, f, tank+"/base/home/.profile", "base")
	must(t, m.Snapshot(ctx, true, snap("tank/base@snap")))
	write(t, f, tank+"/base/home/.profile", "changed")
	step(t, m, ds("tank/result/H"))
	checkDir(t, m)

	id := ds("tank/result/N")
	must(t, m.Clone(ctx, snap("tank/result/H@snap"), id))
	must(t, m.Clone(ctx, snap("tank/result/H/home@snap"), id.MustChild("home"), mountNone))
	must(t, m.Set(ctx, id.MustChild("home"), prop("mountpoint", "/Users/mac1000")))
	if got := read(f, "/Users/mac1000/.profile"); got != "base" {
		t.Errorf("home holds %q", got)
	}
	host, ok := f.HostPath("/Users/mac1000")
	must(t, os.WriteFile(filepath.Join(host, "made"), []byte("by the step"), 0o600))
	write(t, f, tank+"/result/N/log", "the log")
	must(t, m.Set(ctx, id.MustChild("home"), mountNone))
	if _, err := os.Stat(filepath.Join(host, "made")); !ok || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("still mounted: %v", err)
	}
	must(t, m.Snapshot(ctx, true, id.MustSnapshot("snap")))
	write(t, f, tank+"/result/N/log", "written to later")
	checkDir(t, m)

	before := describe(t, m)
	m = reopen(t, m)
	f = m.Files()
	if after := describe(t, m); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	checkDir(t, m)
	if got := read(f, tank+"/result/N/.zfs/snapshot/snap/log"); got != "the log" {
		t.Errorf("log: %q", got)
	}
	must(t, m.Set(ctx, id.MustChild("home"), prop("mountpoint", "/Users/mac1000")))
	if got := read(f, "/Users/mac1000/made"); got != "by the step" {
		t.Errorf("home holds %q", got)
	}
	must(t, m.Destroy(ctx, ds("tank/result"), zfs.DestroyMode{Dependents: true}))
	checkDir(t, m)
}

func TestDirRefuses(t *testing.T) {
	skipWithoutLinks(t)
	dir := t.TempDir()
	other := filepath.Join(dir, "other")
	must(t, os.MkdirAll(other, 0o755))
	must(t, os.WriteFile(filepath.Join(other, "precious"), nil, 0o600))
	file := filepath.Join(dir, "file")
	must(t, os.WriteFile(file, nil, 0o600))
	newer := filepath.Join(dir, "newer")
	must(t, os.MkdirAll(newer, 0o755))
	must(t, os.WriteFile(filepath.Join(newer, markerName), []byte(markerText+"7\n"), 0o600))
	sealed := filepath.Join(dir, "sealed")
	must(t, os.MkdirAll(sealed, 0o500))
	for path, want := range map[string]string{
		other:                          `is not empty and not a store: there is "precious" in it`,
		file:                           "is not a directory",
		filepath.Join(file, "x"):       "not a directory",
		newer:                          "a newer obuilder has made it: its format is 7, this one knows 2",
		filepath.Join(sealed, "store"): "is not writable",
	} {
		if want == "is not writable" && os.Geteuid() == 0 {
			continue // nothing is not writable
		}
		m, err := OpenDir(ctx, path)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", path, err)
		}
		if m != nil {
			must(t, m.Close())
		}
	}
	if entries, _ := os.ReadDir(other); len(entries) != 1 {
		t.Errorf("something was put into a directory that is not a store: %v", entries)
	}
}

func TestDirLocked(t *testing.T) {
	m := openDir(t, t.TempDir())
	ctx, cancel := context.WithCancel(ctx)
	told := ""
	_, err := OpenDir(ctx, m.dir.path, Waiting(func(holder string) { told = holder; cancel() }))
	var held *lockfile.HeldError
	if !errors.As(err, &held) || !strings.Contains(told, fmt.Sprint(os.Getpid())) {
		t.Errorf("a second process was told %q, %v", told, err)
	}
}

// TestDirOther has what a step and a snapshot must keep.
func TestDirKeepsMeta(t *testing.T) {
	m := openDir(t, t.TempDir())
	create(t, m, "tank/a")
	host, _ := m.Files().HostPath(tank + "/a")
	old := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
	must(t, os.MkdirAll(filepath.Join(host, "ro/sub"), 0o755))
	must(t, os.WriteFile(filepath.Join(host, "ro/sub/f"), []byte("x"), 0o600))
	must(t, os.Link(filepath.Join(host, "ro/sub/f"), filepath.Join(host, "g")))
	must(t, os.WriteFile(filepath.Join(host, "secret"), []byte("y"), 0o600))
	must(t, os.Chmod(filepath.Join(host, "secret"), 0o200))
	must(t, os.Symlink("/nowhere/../x", filepath.Join(host, "l")))
	must(t, os.Chtimes(filepath.Join(host, "ro/sub/f"), old, old))
	must(t, os.Chtimes(filepath.Join(host, "ro/sub"), old, old))
	must(t, os.Chmod(filepath.Join(host, "ro/sub"), 0o555))
	must(t, m.Snapshot(ctx, false, snap("tank/a@1")))
	must(t, m.Clone(ctx, snap("tank/a@1"), ds("tank/b")))

	clone, _ := m.Files().HostPath(tank + "/b")
	for _, name := range []string{"ro", "ro/sub", "ro/sub/f", "g", "secret", "l"} {
		a, err := os.Lstat(filepath.Join(host, name))
		must(t, err)
		b, err := os.Lstat(filepath.Join(clone, name))
		must(t, err)
		if a.Mode() != b.Mode() || !a.ModTime().Equal(b.ModTime()) || a.Size() != b.Size() && !a.IsDir() {
			t.Errorf("%s: %v %v %v, want %v %v %v", name, b.Mode(), b.ModTime(), b.Size(), a.Mode(), a.ModTime(), a.Size())
		}
	}
	f, err := os.Stat(filepath.Join(clone, "ro/sub/f"))
	must(t, err)
	g, err := os.Stat(filepath.Join(clone, "g"))
	must(t, err)
	if !os.SameFile(f, g) {
		t.Error("two names of one file are two files")
	}
	if target, err := os.Readlink(filepath.Join(clone, "l")); err != nil || target != "/nowhere/../x" {
		t.Errorf("link to %q, %v", target, err)
	}
	must(t, m.Destroy(ctx, ds("tank/a"), zfs.DestroyMode{Dependents: true})) // though ro/sub cannot be written to
	checkDir(t, m)
}

func TestDirMounts(t *testing.T) {
	m := openDir(t, t.TempDir())
	f := m.Files()
	must(t, f.MkdirAll("/Users/x", 0o755))
	write(t, f, "/Users/x/below", "below")
	create(t, m, "tank/a", prop("mountpoint", "/Users/x"))
	create(t, m, "tank/a/in")
	create(t, m, "tank/b", prop("mountpoint", "/Users/x/in/deep/er"))
	write(t, f, "/Users/x/in/deep/er/f", "b")
	checkDir(t, m)

	// What is mounted inside is not part of a snapshot.
	must(t, m.Snapshot(ctx, false, snap("tank/a@1"), snap("tank/a/in@1")))
	path, _ := f.HostPath("/Users/x/.zfs/snapshot/1/in")
	if info, err := os.Lstat(path); err != nil || !info.IsDir() {
		t.Errorf("a mount in a snapshot: %v, %v", info, err)
	}
	if err := m.Unmount(ctx, ds("tank/a"), false); !zfs.IsKind(err, zfs.Busy) {
		t.Errorf("unmounted under a mount: %v", err)
	}
	m = reopen(t, m)
	f = m.Files()
	checkDir(t, m)
	must(t, m.Destroy(ctx, ds("tank/b"), zfs.DestroyMode{}))
	must(t, m.Rename(ctx, ds("tank/a"), ds("tank/c"), zfs.RenameOptions{}))
	checkDir(t, m)
	must(t, m.Unmount(ctx, ds("tank/c"), false))
	if got := read(f, "/Users/x/below"); got != "below" {
		t.Errorf("under the mount: %q", got)
	}
	checkDir(t, m)

	// A link that a build has made does not lead out.
	outside := t.TempDir()
	must(t, m.Mount(ctx, ds("tank/c")))
	host, _ := f.HostPath("/Users/x")
	must(t, os.Symlink(outside, filepath.Join(host, "evil")))
	err := m.Create(ctx, ds("tank/e"), zfs.CreateOptions{Properties: []zfs.Property{prop("mountpoint", "/Users/x/evil/mnt")}})
	if err == nil || !strings.Contains(err.Error(), errOutside.Error()) {
		t.Errorf("mounted through a link that leads out: %v", err)
	}
	if entries, _ := os.ReadDir(outside); len(entries) > 0 {
		t.Errorf("made %v outside", entries)
	}
	checkDir(t, m)
}

func TestDirRollback(t *testing.T) {
	m := openDir(t, t.TempDir())
	f := m.Files()
	create(t, m, "tank/a")
	write(t, f, tank+"/a/f", "one")
	must(t, m.Snapshot(ctx, false, snap("tank/a@1")))
	write(t, f, tank+"/a/f", "two")
	must(t, m.Snapshot(ctx, false, snap("tank/a@2")))
	must(t, m.Rollback(ctx, snap("tank/a@1"), true))
	if got := read(f, tank+"/a/f"); got != "one" {
		t.Errorf("holds %q", got)
	}
	checkDir(t, m)
	must(t, m.Clone(ctx, snap("tank/a@1"), ds("tank/c")))
	must(t, m.Promote(ctx, ds("tank/c")))
	must(t, m.Destroy(ctx, ds("tank/a"), zfs.DestroyMode{}))
	before := describe(t, m)
	m = reopen(t, m)
	if after := describe(t, m); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	checkDir(t, m)
	if got := read(m.Files(), tank+"/c/f"); got != "one" {
		t.Errorf("holds %q", got)
	}
}

// TestDirPools has pools made and destroyed, and holds and properties of
// snapshots, in the state and in its journal.
func TestDirPools(t *testing.T) {
	for _, inState := range []bool{false, true} {
		m := openDir(t, t.TempDir(), func(c *config) { c.parkFrom = 1 })
		must(t, m.CreatePool(ctx, "two", 1<<30, []string{"/tmp/disk", "/tmp/other"}, nil, prop("mountpoint", "/Volumes/two")))
		must(t, m.CreatePool(ctx, "three", 1<<30, []string{"/tmp/disk3"}, nil, mountNone))
		for _, d := range []string{"tank/a/x", "tank/b", "two/a", "three/a"} {
			create(t, m, d)
			must(t, m.Snapshot(ctx, false, ds(d).MustSnapshot("1")))
		}
		must(t, m.Clone(ctx, snap("two/a@1"), ds("two/c")))
		must(t, m.SetPool(ctx, "two", "comment", "my pool"))
		must(t, m.SetPool(ctx, "two", "autotrim", "on"))
		must(t, m.SetPool(ctx, "two", "autotrim", "off"))
		must(t, m.HoldSnapshot(ctx, "keep", snap("tank@1"), true))
		must(t, m.HoldSnapshot(ctx, "more", snap("tank/b@1"), false))
		must(t, m.SetSnapshot(ctx, snap("tank/b@1"), prop("a:b", "of the snapshot"), prop("c:d", "e")))
		must(t, m.InheritSnapshot(ctx, snap("tank/b@1"), "c:d", false))
		must(t, m.Destroy(ctx, snap("tank/b@1"), zfs.DestroyMode{Defer: true}))
		must(t, m.Clone(ctx, snap("three/a@1"), ds("three/c")))
		if inState {
			m.dir.compact()
			m = reopen(t, m)
		}
		must(t, m.DestroyPool(ctx, "three", false))
		must(t, m.ReleaseSnapshot(ctx, "more", snap("tank/b@1"), false))
		before := describe(t, m)
		if !strings.Contains(before, "held keep") || !strings.Contains(before, "of the snapshot 1") || !strings.Contains(before, "two [/tmp/disk /tmp/other] my pool\n") {
			t.Fatal(before)
		}
		for range 2 {
			m = reopen(t, m)
			if after := describe(t, m); after != before {
				t.Fatalf("before:\n%s\nafter:\n%s", before, after)
			}
			checkDir(t, m)
			m.dir.compact()
		}
		if err := m.Destroy(ctx, ds("tank/a"), zfs.DestroyMode{Recursive: true}); !zfs.IsKind(err, zfs.Busy) {
			t.Errorf("a held snapshot: %v", err)
		}
		must(t, m.ReleaseSnapshot(ctx, "keep", snap("tank@1"), true))
		if rows, err := m.List(ctx, zfs.ListOptions{Roots: []zfs.Name{ds("tank/b")}, Types: []zfs.Type{zfs.Snapshots}}); err != nil || len(rows) > 0 {
			t.Errorf("destroyed with its last hold: %v, %v", rows, err)
		}
		must(t, m.DestroyPool(ctx, "two", false))
		must(t, m.DestroyPool(ctx, "tank", false))
		checkDir(t, m)
		path := m.dir.path
		must(t, m.Close())
		m, err := OpenDir(ctx, path) // a store without pools is not a new one
		must(t, err)
		if pools := m.Pools(); len(pools) > 0 {
			t.Errorf("there are %q", pools)
		}
		checkDir(t, m)
		must(t, m.Close())
	}
}

// TestDirFormat1 opens what was written before there were holds.
func TestDirFormat1(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store")
	must(t, os.CopyFS(path, os.DirFS("testdata/format1")))
	want, err := os.ReadFile(filepath.Join(path, "want"))
	must(t, err)
	must(t, os.Remove(filepath.Join(path, "want")))
	m := openDir(t, path)
	if got := describe(t, m); got != string(want) {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
	must(t, m.HoldSnapshot(ctx, "keep", snap("tank/base@snap"), true))
	m.dir.compact()
	before := describe(t, m)
	m = reopen(t, m)
	if after := describe(t, m); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	if marker, _ := os.ReadFile(filepath.Join(path, markerName)); string(marker) != markerText+"2\n" {
		t.Errorf("the marker says %q", marker)
	}
	checkDir(t, m)
}

// TestDirCompacts makes the journal begin anew several times.
func TestDirCompacts(t *testing.T) {
	m := openDir(t, t.TempDir())
	create(t, m, "tank/a", mountNone)
	for i := range 50 {
		create(t, m, fmt.Sprintf("tank/a/%d", i), prop("a:b", strings.Repeat("x", 4000)))
		must(t, m.Snapshot(ctx, true, snap(fmt.Sprintf("tank/a@%d", i))))
		for j := range 8 {
			must(t, m.Set(ctx, ds("tank/a"), prop("a:b", strings.Repeat("y", 4000+j))))
		}
	}
	if m.dir.generation == 0 {
		t.Error("the journal never began anew")
	}
	before := describe(t, m)
	m = reopen(t, m)
	if after := describe(t, m); after != before {
		t.Error("the machine has changed")
	}
	checkDir(t, m)
}

// TestDirTorn ends the journal in the middle of its last frame, at every byte.
func TestDirTorn(t *testing.T) {
	m := openDir(t, t.TempDir())
	create(t, m, "tank/a", mountNone)
	before, start := describe(t, m), m.dir.journal.end
	must(t, m.Set(ctx, ds("tank/a"), prop("a:b", "some text")))
	after, end := describe(t, m), m.dir.journal.end
	path := journalPath(m.dir.path, m.dir.generation)
	must(t, m.Close())
	whole, err := os.ReadFile(path)
	must(t, err)
	for n := start; n <= end; n++ {
		must(t, os.WriteFile(path, append(whole[:n:n], make([]byte, 100)...), 0o600))
		want := before
		if len(bytes.Trim(whole[n:end], "\x00")) == 0 {
			want = after // what is missing is zeros, and so is what follows
		}
		m := openDir(t, m.dir.path)
		if got := describe(t, m); got != want {
			t.Fatalf("with %d of %d bytes of a frame:\n%s\nwant:\n%s", n-start, end-start, got, want)
		}
		must(t, m.Close())
	}
	for n := range start { // a frame that is not the last was whole once: it is damaged
		broken := append([]byte(nil), whole[:end]...)
		broken[n] ^= 0x10
		must(t, os.WriteFile(path, broken, 0o600))
		if m, err := OpenDir(ctx, m.dir.path, Pool("tank", 0, tank)); err == nil || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("with byte %d of the journal changed: %v", n, err)
			must(t, m.Close())
		}
	}
}

// TestDirCannotWrite has a journal that cannot be written to. The machine is
// of no use then, and the directory is as it was.
func TestDirCannotWrite(t *testing.T) {
	m := openDir(t, t.TempDir())
	create(t, m, "tank/a", mountNone)
	before := describe(t, m)
	must(t, m.dir.journal.file.Close())
	if err := m.Set(ctx, ds("tank/a"), prop("a:b", "c")); err == nil {
		t.Error("set what could not be recorded")
	}
	if err := m.Destroy(ctx, ds("tank/a"), zfs.DestroyMode{}); !zfs.IsKind(err, zfs.Unavailable) {
		t.Errorf("a command after that: %v", err)
	}
	m.dir.journal.file, _ = os.Open(os.DevNull)
	m = reopen(t, m)
	if after := describe(t, m); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	checkDir(t, m)
}
