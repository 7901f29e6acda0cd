package fake

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"

	"obuilder.org/obuilder/zfs"
)

var ctx = context.Background()

const tank = "/Volumes/tank"

func ds(name string) zfs.Dataset    { return zfs.MustDataset(name) }
func snap(name string) zfs.Snapshot { return zfs.MustSnapshot(name) }

func prop(name, value string) zfs.Property { return zfs.Property{Name: name, Value: value} }

var mountNone = prop("mountpoint", "none")

func newTank(t testing.TB, opts ...Option) *Machine {
	t.Helper()
	return New(append([]Option{Pool("tank", 64<<30, tank)}, opts...)...)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func create(t testing.TB, m zfs.FS, name string, props ...zfs.Property) {
	t.Helper()
	must(t, m.Create(ctx, ds(name), zfs.CreateOptions{Parents: true, Properties: props}))
}

func write(t testing.TB, f zfs.Files, name, data string) {
	t.Helper()
	h, err := f.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
	must(t, err)
	_, err = io.WriteString(h, data)
	must(t, err)
	must(t, h.Close())
}

func read(f zfs.Files, name string) string {
	data, err := f.ReadFile(name, 1<<20)
	if err != nil {
		return "error: " + err.Error()
	}
	return string(data)
}

func get(t testing.TB, m zfs.FS, name, prop string) string {
	t.Helper()
	target, err := zfs.Parse(name)
	must(t, err)
	v, err := m.Get(ctx, target, prop)
	must(t, err)
	return v[0].Value
}

// TestStep runs the commands of one job, as DESIGN.md has them.
func TestStep(t *testing.T) {
	m := newTank(t, SnapshotMounts(true))
	f := m.Files()
	for _, d := range []string{"tank/result", "tank/base-image/b/home", "tank/base-image/b/brew"} {
		create(t, m, d)
	}
	write(t, f, tank+"/base-image/b/home/.profile", "base")
	must(t, m.Snapshot(ctx, true, snap("tank/base-image/b@snap")))

	must(t, m.Create(ctx, ds("tank/result/H"), zfs.CreateOptions{}))
	if err := m.Mount(ctx, snap("tank/result/H@snap")); !zfs.IsKind(err, zfs.NotFound) {
		t.Fatalf("mount of a missing snapshot: %v", err)
	}
	for _, c := range []string{"home", "brew"} {
		must(t, m.Clone(ctx, snap("tank/base-image/b/"+c+"@snap"), ds("tank/result/H/"+c), mountNone))
	}
	must(t, m.Snapshot(ctx, true, snap("tank/result/H@snap")))
	must(t, m.Mount(ctx, snap("tank/result/H@snap")))
	err := m.Mount(ctx, snap("tank/result/H@snap"))
	var e *zfs.Error
	if !errors.As(err, &e) || e.Kind != zfs.Mounted || e.Status != 16 {
		t.Fatalf("mount of a mounted snapshot: %v", err)
	}

	must(t, m.Clone(ctx, snap("tank/result/H@snap"), ds("tank/result/N")))
	for _, c := range []string{"home", "brew"} {
		must(t, m.Clone(ctx, snap("tank/result/H/"+c+"@snap"), ds("tank/result/N/"+c), mountNone))
	}
	must(t, m.Set(ctx, ds("tank/result/N/home"), prop("mountpoint", "/Users/mac1000")))
	must(t, m.Set(ctx, ds("tank/result/N/brew"), prop("mountpoint", "/usr/local")))
	if got := read(f, "/Users/mac1000/.profile"); got != "base" {
		t.Errorf("home of the step holds %q", got)
	}
	write(t, f, "/Users/mac1000/.profile", "step")
	write(t, f, tank+"/result/N/log", "the log")
	must(t, m.Set(ctx, ds("tank/result/N/home"), mountNone))
	must(t, m.Set(ctx, ds("tank/result/N/brew"), mountNone))
	must(t, m.Snapshot(ctx, true, snap("tank/result/N@snap")))

	if got := read(f, "/Users/mac1000/.profile"); !strings.HasPrefix(got, "error") {
		t.Errorf("home is still mounted: %q", got)
	}
	if got := read(f, tank+"/result/N/.zfs/snapshot/snap/log"); got != "the log" {
		t.Errorf("log in the snapshot: %q", got)
	}
	if got := read(f, tank+"/base-image/b/home/.profile"); got != "base" {
		t.Errorf("the base changed to %q", got)
	}
	if got := get(t, m, "tank/result/N/home", "origin"); got != "tank/result/H/home@snap" {
		t.Errorf("origin %s", got)
	}
	rows, err := m.List(ctx, zfs.ListOptions{Roots: []zfs.Name{ds("tank/result")}, Recursive: true, Depth: 2, Types: []zfs.Type{zfs.Snapshots}})
	must(t, err)
	if got := fmt.Sprint(rows); got != "[{tank/result/H@snap []} {tank/result/N@snap []}]" {
		t.Errorf("complete results: %s", got)
	}
}

// TestErrors has the errors of every command, with the text and exit status
// that OpenZFS 2.1.11 gave.
func TestErrors(t *testing.T) {
	for _, c := range []struct {
		name   string
		run    func(m *Machine) error
		kind   zfs.Kind
		status int
		text   string
	}{
		{"create exists", func(m *Machine) error { return m.Create(ctx, ds("tank/a"), zfs.CreateOptions{}) },
			zfs.Exists, 1, "cannot create 'tank/a': dataset already exists"},
		{"create no parent", func(m *Machine) error { return m.Create(ctx, ds("tank/x/y"), zfs.CreateOptions{}) },
			zfs.NotFound, 1, "cannot create 'tank/x/y': parent does not exist"},
		{"create no pool", func(m *Machine) error { return m.Create(ctx, ds("no/x"), zfs.CreateOptions{Parents: true}) },
			zfs.NotFound, 1, "cannot create 'no/x': no such pool 'no'"},
		{"create pool", func(m *Machine) error { return m.Create(ctx, ds("tank"), zfs.CreateOptions{}) },
			zfs.Usage, 1, "cannot create 'tank': missing dataset name"},
		{"create relative", func(m *Machine) error {
			return m.Create(ctx, ds("tank/n"), zfs.CreateOptions{Properties: []zfs.Property{prop("mountpoint", "rel")}})
		}, zfs.Usage, 1, "cannot create 'tank/n': 'mountpoint' must be an absolute path, 'none', or 'legacy'"},
		{"create in read-only parent", func(m *Machine) error {
			must(t, m.Set(ctx, ds("tank/a"), prop("readonly", "on")))
			return m.Create(ctx, ds("tank/a/ro"), zfs.CreateOptions{})
		}, zfs.Unknown, 1, "cannot mount '/Volumes/tank/a/ro': failed to create mountpoint: Read-only file system\nfilesystem successfully created, but not mounted"},
		{"clone missing", func(m *Machine) error { return m.Clone(ctx, snap("tank/a@no"), ds("tank/n")) },
			zfs.NotFound, 1, "cannot open 'tank/a@no': dataset does not exist"},
		{"clone bad property", func(m *Machine) error { return m.Clone(ctx, snap("tank/a@s"), ds("tank/n"), prop("nosuch", "1")) },
			zfs.Usage, 1, "cannot create 'tank/n': invalid property 'nosuch'"},
		{"snapshot exists", func(m *Machine) error { return m.Snapshot(ctx, true, snap("tank/a@s")) },
			zfs.Exists, 1, "cannot create snapshot 'tank/a@s': dataset already exists\nno snapshots were created"},
		{"snapshot missing", func(m *Machine) error { return m.Snapshot(ctx, false, snap("tank/no@s")) },
			zfs.NotFound, 2, "cannot open 'tank/no': dataset does not exist"},
		{"destroy with children", func(m *Machine) error { return m.Destroy(ctx, ds("tank/a"), zfs.DestroyMode{Force: true}) },
			zfs.HasChildren, 1, "cannot destroy 'tank/a': filesystem has children\nuse '-r' to destroy the following datasets:\ntank/a/k\ntank/a@s"},
		{"destroy with clones", func(m *Machine) error { return m.Destroy(ctx, ds("tank/a"), zfs.DestroyMode{Recursive: true}) },
			zfs.HasClones, 1, "cannot destroy 'tank/a': filesystem has dependent clones\nuse '-R' to destroy the following datasets:\ntank/c"},
		{"destroy snapshot with clones", func(m *Machine) error { return m.Destroy(ctx, snap("tank/a@s"), zfs.DestroyMode{Recursive: true}) },
			zfs.HasClones, 1, "cannot destroy 'tank/a@s': snapshot has dependent clones\nuse '-R' to destroy the following datasets:\ntank/c"},
		{"destroy missing snapshot", func(m *Machine) error { return m.Destroy(ctx, snap("tank/a@x"), zfs.DestroyMode{}) },
			zfs.NotFound, 1, "could not find any snapshots to destroy; check snapshot names."},
		{"destroy defer dataset", func(m *Machine) error { return m.Destroy(ctx, ds("tank/a"), zfs.DestroyMode{Defer: true}) },
			zfs.Usage, 1, "cannot open 'tank/a': missing '@' delimiter in snapshot name"},
		{"destroy busy", func(m *Machine) error {
			_, err := m.Hold(ds("tank/c"))
			must(t, err)
			return m.Destroy(ctx, ds("tank/c"), zfs.DestroyMode{Force: true})
		}, zfs.Busy, 1, "cannot unmount '/Volumes/tank/c': pool or dataset is busy"},
		{"set busy", func(m *Machine) error {
			_, err := m.Files().OpenFile(tank+"/c/f", os.O_CREATE|os.O_RDWR, 0o644)
			must(t, err)
			return m.Set(ctx, ds("tank/c"), mountNone)
		}, zfs.Busy, 1, "cannot unmount '/Volumes/tank/c': pool or dataset is busy"},
		{"set read-only property", func(m *Machine) error { return m.Set(ctx, ds("tank/a"), prop("used", "1")) },
			zfs.Permission, 1, "cannot set property for 'tank/a': 'used' is readonly"},
		{"set twice", func(m *Machine) error { return m.Set(ctx, ds("tank/a"), prop("a:b", "1"), prop("a:b", "2")) },
			zfs.Usage, 255, "property 'a:b' specified multiple times"},
		{"set quota below used", func(m *Machine) error { return m.Set(ctx, ds("tank/a"), prop("quota", "1k")) },
			zfs.NoSpace, 1, "cannot set property for 'tank/a': size is less than current used or reserved space"},
		{"mount mounted", func(m *Machine) error { return m.Mount(ctx, ds("tank/a")) },
			zfs.Mounted, 1, "cannot mount 'tank/a': filesystem already mounted"},
		{"mount snapshot", func(m *Machine) error { return m.Mount(ctx, snap("tank/a@s")) },
			zfs.Unsupported, 1, "cannot open 'tank/a@s': snapshot delimiter '@' is not expected here"},
		{"unmount unmounted", func(m *Machine) error {
			must(t, m.Unmount(ctx, ds("tank/a"), false))
			return m.Unmount(ctx, ds("tank/a"), false)
		}, zfs.NotMounted, 1, "cannot unmount 'tank/a': not currently mounted"},
		{"promote", func(m *Machine) error { return m.Promote(ctx, ds("tank/a")) },
			zfs.Usage, 1, "cannot promote 'tank/a': not a cloned filesystem"},
		{"rename exists", func(m *Machine) error { return m.Rename(ctx, ds("tank/a"), ds("tank/c"), zfs.RenameOptions{}) },
			zfs.Exists, 1, "cannot rename 'tank/a': dataset already exists"},
		{"rollback", func(m *Machine) error {
			must(t, m.Snapshot(ctx, false, snap("tank/a@t")))
			return m.Rollback(ctx, snap("tank/a@s"), false)
		}, zfs.HasChildren, 1, "cannot rollback to 'tank/a@s': more recent snapshots or bookmarks exist\nuse '-r' to force deletion of the following snapshots and bookmarks:\ntank/a@t"},
		{"inherit", func(m *Machine) error { return m.Inherit(ctx, ds("tank/a"), "canmount", false) },
			zfs.Usage, 1, "'canmount' property cannot be inherited"},
		{"list", func(m *Machine) error {
			_, err := m.List(ctx, zfs.ListOptions{Roots: []zfs.Name{ds("tank/no"), ds("tank")}})
			return err
		}, zfs.NotFound, 1, "cannot open 'tank/no': dataset does not exist"},
		{"get", func(m *Machine) error { _, err := m.Get(ctx, snap("tank@no"), "used"); return err },
			zfs.NotFound, 1, "cannot open 'tank@no': dataset does not exist"},
		{"pool", func(m *Machine) error { _, err := m.Pool(ctx, "no"); return err },
			zfs.NotFound, 1, "cannot open 'no': no such pool"},
		{"cancelled", func(m *Machine) error {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			return m.Promote(ctx, ds("tank/c"))
		}, zfs.Timeout, -1, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newTank(t)
			create(t, m, "tank/a/k")
			must(t, m.Snapshot(ctx, false, snap("tank/a@s")))
			must(t, m.Clone(ctx, snap("tank/a@s"), ds("tank/c")))
			err := c.run(m)
			var e *zfs.Error
			if !errors.As(err, &e) {
				t.Fatalf("error %v", err)
			}
			if e.Kind != c.kind || e.Status != c.status || e.Stderr != c.text || len(e.Argv) < 3 {
				t.Errorf("%v: kind %v, status %d\n%s\nwant %v, status %d\n%s", e.Argv, e.Kind, e.Status, e.Stderr, c.kind, c.status, c.text)
			}
		})
	}
}

func TestCopyOnWrite(t *testing.T) {
	m := newTank(t)
	f := m.Files()
	create(t, m, "tank/a")
	for i := range 300 { // several levels of nodes
		write(t, f, fmt.Sprintf("%s/a/f%03d", tank, i), "old")
	}
	must(t, m.Snapshot(ctx, false, snap("tank/a@1")))
	must(t, m.Clone(ctx, snap("tank/a@1"), ds("tank/b")))
	for i := 0; i < 300; i += 2 {
		write(t, f, fmt.Sprintf("%s/b/f%03d", tank, i), "new")
		must(t, f.Remove(fmt.Sprintf("%s/a/f%03d", tank, i+1)))
	}
	for i := range 300 {
		name := fmt.Sprintf("f%03d", i)
		wantA, wantB := "old", "new"
		if i%2 == 1 {
			wantA, wantB = "", "old"
		}
		if got := read(f, tank+"/a/.zfs/snapshot/1/"+name); got != "old" {
			t.Fatalf("snapshot: %s holds %q", name, got)
		}
		if got := read(f, tank+"/b/"+name); got != wantB {
			t.Fatalf("clone: %s holds %q, want %q", name, got, wantB)
		}
		got, err := f.ReadFile(tank+"/a/"+name, 10)
		if (wantA == "") != errors.Is(err, fs.ErrNotExist) || string(got) != wantA {
			t.Fatalf("origin: %s holds %q, %v", name, got, err)
		}
	}
	must(t, m.Rollback(ctx, snap("tank/a@1"), false))
	if got := read(f, tank+"/a/f001"); got != "old" {
		t.Errorf("after rollback: %q", got)
	}
}

func TestFull(t *testing.T) {
	m := New(Pool("tank", 64<<20, tank))
	f := m.Files()
	create(t, m, "tank/a")
	create(t, m, "tank/q", prop("quota", "1M"))
	must(t, m.Snapshot(ctx, false, snap("tank/a@s")))
	fill := func(name string) error {
		h, err := f.OpenFile(name, os.O_CREATE|os.O_WRONLY, 0o644)
		must(t, err)
		defer h.Close()
		for {
			if _, err := h.Write(make([]byte, 1<<20)); err != nil {
				return err
			}
		}
	}
	if err := fill(tank + "/q/x"); !errors.Is(err, syscall.EDQUOT) {
		t.Errorf("write over quota: %v", err)
	}
	if err := fill(tank + "/a/x"); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("write to a full pool: %v", err)
	}
	for name, err := range map[string]error{
		"create":   m.Create(ctx, ds("tank/n"), zfs.CreateOptions{}),
		"clone":    m.Clone(ctx, snap("tank/a@s"), ds("tank/n")),
		"snapshot": m.Snapshot(ctx, false, snap("tank/a@t")),
	} {
		if !zfs.IsKind(err, zfs.NoSpace) {
			t.Errorf("%s in a full pool: %v", name, err)
		}
	}
	st, err := m.Pool(ctx, "tank")
	must(t, err)
	if st.Size != 64<<20 || st.Allocated+st.Free != st.Size || st.Capacity < 45 {
		t.Errorf("pool: %+v", st)
	}
	must(t, f.Remove(tank+"/a/x"))
	must(t, m.Snapshot(ctx, false, snap("tank/a@t")))
}

// TestMountPoints has mount points that are in the way of something.
func TestMountPoints(t *testing.T) {
	m := newTank(t)
	f := m.Files().(*Files)
	must(t, f.MkdirAll("/Users/m", 0o755))
	write(t, f, "/Users/file", "x")
	must(t, f.Symlink("/Users/m", "/Users/link"))
	must(t, f.Symlink("nosuch", "/Users/dangling"))
	must(t, f.Symlink("loop", "/Users/loop"))
	create(t, m, "tank/b", mountNone)
	for _, c := range []struct{ at, text string }{
		{"/Users/file", "cannot mount 'tank/b': Not a directory\nproperty may be set but unable to remount filesystem"},
		{"/Users/file/below", "cannot mount '/Users/file/below': failed to create mountpoint: Not a directory\nproperty may be set but unable to remount filesystem"},
		{"/Users/dangling", "cannot mount 'tank/b': No such file or directory\nproperty may be set but unable to remount filesystem"},
		{"/Users/dangling/in", "cannot mount '/Users/dangling/in': failed to create mountpoint: No such file or directory\nproperty may be set but unable to remount filesystem"},
		{"/Users/loop/in", "cannot mount '/Users/loop/in': failed to create mountpoint: Too many levels of symbolic links\nproperty may be set but unable to remount filesystem"},
	} {
		must(t, m.Set(ctx, ds("tank/b"), mountNone))
		err := m.Set(ctx, ds("tank/b"), prop("mountpoint", c.at))
		var e *zfs.Error
		if !errors.As(err, &e) || e.Stderr != c.text {
			t.Errorf("%s: %v", c.at, err)
		}
		if get(t, m, "tank/b", "mounted") != "no" {
			t.Errorf("mounted on %s", c.at)
		}
	}
	must(t, m.Set(ctx, ds("tank/b"), mountNone))
	must(t, m.Set(ctx, ds("tank/b"), prop("mountpoint", "/Users/link/./x//y")))
	write(t, f, "/Users/m/x/y/f", "through the link")
	if got := read(f, "/Users/link/x/y/f"); got != "through the link" {
		t.Errorf("%q", got)
	}

	// The last mount is on top, and zfs unmounts by path.
	create(t, m, "tank/s1", prop("mountpoint", "/Users/s"))
	create(t, m, "tank/s2", prop("mountpoint", "/Users/s"))
	err := m.Destroy(ctx, ds("tank/s1"), zfs.DestroyMode{})
	if !zfs.IsKind(err, zfs.Busy) || get(t, m, "tank/s1", "mounted") != "yes" || get(t, m, "tank/s2", "mounted") != "no" {
		t.Errorf("destroy of a hidden mount: %v", err)
	}
	must(t, m.Set(ctx, ds("tank/s1"), prop("overlay", "off")))
	must(t, m.Unmount(ctx, ds("tank/s1"), false))
	write(t, f, "/Users/s/f", "below")
	if err := m.Mount(ctx, ds("tank/s1")); err == nil || !strings.Contains(err.Error(), "cannot mount '/Users/s': directory is not empty") {
		t.Errorf("overlay=off: %v", err)
	}
}

// TestConcurrent has commands and files at once, for the race detector.
func TestConcurrent(t *testing.T) {
	m := newTank(t)
	f := m.Files()
	create(t, m, "tank/a")
	done := make(chan error)
	for i := range 4 {
		go func() {
			name := fmt.Sprintf("tank/a/%d", i)
			for range 50 {
				h, err := f.OpenFile(tank+"/a/f", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
				if err == nil {
					_, err = h.Write([]byte("x"))
					err = errors.Join(err, h.Close())
				}
				err = errors.Join(err,
					m.Create(ctx, ds(name), zfs.CreateOptions{}),
					m.Snapshot(ctx, false, snap(name+"@s")),
					m.Destroy(ctx, ds(name), zfs.DestroyMode{Recursive: true}))
				_, lerr := m.List(ctx, zfs.ListOptions{Recursive: true, Properties: []string{"used"}})
				if err = errors.Join(err, lerr); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range 4 {
		must(t, <-done)
	}
	if got := len(read(f, tank+"/a/f")); got != 200 {
		t.Errorf("%d of 200 writes", got)
	}
}
