package real

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	gozfs "github.com/mistifyio/go-zfs/v3"

	"obuilder.org/obuilder/zfs"
	"obuilder.org/obuilder/zfs/fault"
	"obuilder.org/obuilder/zfs/zfstest"
)

// The tests in this file run on a real pool. OBUILDER_TEST_POOL names an
// existing dataset to play in; OBUILDER_TEST_DISPOSABLE says that the machine
// is thrown away afterwards, so that tests may make pools and take devices away.

func needPool(t *testing.T) zfs.Dataset {
	t.Helper()
	name := os.Getenv("OBUILDER_TEST_POOL")
	if name == "" {
		t.Skip("OBUILDER_TEST_POOL is not set: it names a dataset of a real pool to play in, as root")
	}
	if os.Geteuid() != 0 {
		t.Skip("OBUILDER_TEST_POOL is set, but this is not root")
	}
	ds, err := zfs.ParseDataset(name)
	if err != nil {
		t.Fatal("OBUILDER_TEST_POOL: ", err)
	}
	return ds
}

func needDisposable(t *testing.T) {
	t.Helper()
	if os.Getenv("OBUILDER_TEST_DISPOSABLE") == "" {
		t.Skip("OBUILDER_TEST_DISPOSABLE is not set: this test takes devices away from the machine it runs on")
	}
}

// hits are the rules that were needed to class a failure.
var hits = struct {
	sync.Mutex
	rule map[int]bool
}{rule: map[int]bool{}}

// An observer counts which rules the failures of an FS are classed by.
type observer struct{}

func (observer) Intercept(_ context.Context, argv []string, run func() error) error {
	err := run()
	var e *zfs.Error
	if errors.As(err, &e) && e.Status > 0 {
		hits.Lock()
		defer hits.Unlock()
		hits.rule[ruleFor(argv[1], e.Stderr)] = true
	}
	return err
}

var play int

// openPool makes an empty dataset to play in.
func openPool(t *testing.T) zfstest.Env {
	pool := needPool(t)
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	real, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	fs := fault.Wrap(real, observer{})
	play++
	root := pool.MustChild(fmt.Sprintf("play%d-%d", os.Getpid(), play))
	if err := fs.Create(t.Context(), root, zfs.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unmountAll(t, root.String())
		if err := fs.Destroy(context.Background(), root, zfs.DestroyMode{Dependents: true, Force: true}); err != nil {
			t.Error("cleaning up: ", err)
		}
	})
	return zfstest.Env{FS: fs, Files: zfs.OSFiles{}, Root: root, Dir: dir, SnapshotMounts: runtime.GOOS == "darwin"}
}

// unmountAll unmounts what a test left mounted, latest first, since zfs cannot
// unmount what is hidden.
func unmountAll(t *testing.T, root string) {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return // not Linux: left to zfs
	}
	unescape := strings.NewReplacer(`\040`, " ", `\134`, `\`)
	lines := strings.Split(strings.TrimSpace(string(mounts)), "\n")
	slices.Reverse(lines)
	for _, line := range lines {
		fields := strings.Fields(line)
		if source := unescape.Replace(fields[0]); source == root || strings.HasPrefix(source, root+"/") || strings.HasPrefix(source, root+"@") {
			if out, err := exec.Command("umount", unescape.Replace(fields[1])).CombinedOutput(); err != nil {
				t.Errorf("umount %s: %v: %s", fields[1], err, out)
			}
		}
	}
}

func TestOpenZFS(t *testing.T) {
	needPool(t)
	zfstest.Run(t, openPool)
}

// go-zfs, written by others, sees what our commands did.
func TestGoZFSAgrees(t *testing.T) {
	env := openPool(t)
	ctx := t.Context()
	a, b, s := env.Root.MustChild("a"), env.Root.MustChild("b"), env.Root.MustChild("a").MustSnapshot("s")
	for _, err := range []error{
		env.FS.Create(ctx, a, zfs.CreateOptions{Properties: []zfs.Property{{Name: "quota", Value: "64M"}, {Name: "org.obuilder:k", Value: "v w"}}}),
		env.FS.Snapshot(ctx, false, s),
		env.FS.Clone(ctx, s, b, zfs.Property{Name: "mountpoint", Value: env.Dir + "/b"}),
		env.FS.Set(ctx, b, zfs.Property{Name: "compression", Value: "off"}),
		env.FS.Promote(ctx, b),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	get := func(name string) *gozfs.Dataset {
		t.Helper()
		d, err := gozfs.GetDataset(name)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	origin := b.MustSnapshot("s").String()
	if d := get(a.String()); d.Origin != origin || d.Quota != 64<<20 || d.Type != gozfs.DatasetFilesystem {
		t.Errorf("%+v", d)
	}
	if d := get(b.String()); d.Mountpoint != env.Dir+"/b" || d.Compression != "off" || d.Origin != "" {
		t.Errorf("%+v", d)
	}
	if v, err := get(a.String()).GetProperty("org.obuilder:k"); err != nil || v != "v w" {
		t.Errorf("property: %q, %v", v, err)
	}
	snapshots, err := gozfs.Snapshots(b.String())
	if err != nil || len(snapshots) != 1 || snapshots[0].Name != origin || snapshots[0].Type != gozfs.DatasetSnapshot {
		t.Errorf("snapshots: %+v, %v", snapshots, err)
	}

	rows, err := env.FS.List(ctx, zfs.ListOptions{Roots: []zfs.Name{env.Root}, Recursive: true,
		Types: []zfs.Type{zfs.Filesystems, zfs.Snapshots}, Properties: []string{"referenced", "type", "origin"}})
	if err != nil {
		t.Fatal(err)
	}
	all, err := gozfs.Datasets(env.Root.String())
	if err != nil || len(all) != len(rows) {
		t.Fatalf("%d datasets, %d rows, %v", len(all), len(rows), err)
	}
	for i, d := range all {
		if got := []string{fmt.Sprint(d.Referenced), d.Type, d.Origin}; d.Name != rows[i].Name || got[0] != rows[i].Values[0] || got[1] != rows[i].Values[1] || (got[2] != rows[i].Values[2] && rows[i].Values[2] != "-") {
			t.Errorf("%s: %v, we have %v", d.Name, got, rows[i])
		}
	}

	pools, err := gozfs.ListZpools()
	if err != nil {
		t.Fatal(err)
	}
	status, err := env.FS.Pool(ctx, env.Root.Pool())
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(pools, func(p *gozfs.Zpool) bool {
		return p.Name == env.Root.Pool() && p.Health == gozfs.ZpoolOnline && p.Health == status.Health && p.Size == status.Size
	}) {
		t.Errorf("%+v is not among %+v", status, pools)
	}

	if err := get(a.String()).Destroy(gozfs.DestroyDefault); err != nil {
		t.Fatal(err)
	}
	if _, err := env.FS.Get(ctx, a, "type"); !zfs.IsKind(err, zfs.NotFound) {
		t.Errorf("destroyed by go-zfs: %v", err)
	}
}

// Names are taken and refused as by the one who makes what they name.
func TestNamesOnPool(t *testing.T) {
	needPool(t)
	needDisposable(t)
	fs, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	run := func(argv ...string) error {
		_, err := fs.run(t.Context(), argv, fs.deadline)
		return err
	}
	makePool := func(name string) error {
		disk := filepath.Join(dir, fmt.Sprintf("disk-%x", name))
		if err := os.WriteFile(disk, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(disk, 64<<20); err != nil {
			t.Fatal(err)
		}
		return run("zpool", "create", "-m", "none", "--", name, disk)
	}
	deepest := "tank" + strings.Repeat("/d", zfs.MaxDepth-1)
	names := append(zfstest.Names, zfstest.Name{Name: deepest, Valid: true}, zfstest.Name{Name: deepest + "/d"})
	for _, c := range names {
		if strings.Contains(c.Name, "\x00") {
			continue // no argument of a program can have one
		}
		var err error
		switch snapshot := strings.Contains(c.Name, "@"); {
		case c.Pool:
			if err = makePool(c.Name); err == nil && c.Name != "tank" { // the first, for those below
				if err := run("zpool", "destroy", "--", c.Name); err != nil {
					t.Error(err)
				}
			}
		case snapshot:
			err = run("zfs", "snapshot", "--", c.Name)
		default:
			err = run("zfs", "create", "-p", "--", c.Name)
		}
		if (err == nil) != c.Valid {
			t.Errorf("%q: valid is %v, and zfs says: %v", c.Name, c.Valid, err)
		}
	}
	if err := run("zpool", "destroy", "tank"); err != nil {
		t.Error(err)
	}
}

func TestOddPropertyValues(t *testing.T) {
	env := openPool(t)
	for _, value := range []string{"a\tb", "a\nb", "\n", "\t", "a\n" + env.Root.String() + " x", "ü", "a  b "} {
		if err := env.FS.Set(t.Context(), env.Root, zfs.Property{Name: "org.obuilder:k", Value: value}); err != nil {
			t.Fatal(err)
		}
		values, err := env.FS.Get(t.Context(), env.Root, "org.obuilder:k", "type")
		if err != nil || len(values) != 2 || values[0].Value != value || values[0].Source != "local" {
			t.Errorf("%q: %+v, %v", value, values, err)
		}
	}
}

// Failures that the suite does not come by.
func TestMoreFailures(t *testing.T) {
	env := openPool(t)
	ctx := t.Context()
	pool := zfs.MustDataset(env.Root.Pool())
	a := env.Root.MustChild("a")
	if err := errors.Join(env.FS.Create(ctx, a, zfs.CreateOptions{}), env.FS.Snapshot(ctx, false, a.MustSnapshot("s"))); err != nil {
		t.Fatal(err)
	}
	check := func(what string, err error, want zfs.Kind) {
		t.Helper()
		if zfs.KindOf(err) != want {
			t.Errorf("%s: kind %q, want %q: %v", what, zfs.KindOf(err), want, err)
		}
	}
	check("destroying a pool", env.FS.Destroy(ctx, pool, zfs.DestroyMode{}), zfs.Usage)
	check("renaming a pool", env.FS.Rename(ctx, pool, zfs.MustDataset("obuilder-other"), zfs.RenameOptions{}), zfs.Usage)
	check("a snapshot becoming a file system", env.FS.Rename(ctx, a.MustSnapshot("s"), env.Root.MustChild("b"), zfs.RenameOptions{}), zfs.Usage)
	_, err := env.FS.Pool(ctx, "a!b")
	check("pool with an odd name", err, zfs.Usage)

	if out, err := exec.Command("zfs", "hold", "tag", a.MustSnapshot("s").String()).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	check("a held snapshot", env.FS.Destroy(ctx, a.MustSnapshot("s"), zfs.DestroyMode{}), zfs.Busy)
	check("a dataset with one", env.FS.Destroy(ctx, a, zfs.DestroyMode{Recursive: true}), zfs.Busy)
	if out, err := exec.Command("zfs", "release", "tag", a.MustSnapshot("s").String()).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// What was verified is still so: every rule that says so has decided in one of
// the tests above. It comes last.
func TestZVerifiedRules(t *testing.T) {
	needPool(t)
	needDisposable(t)
	testDevice(t)
	testPermission(t)
	testSuspended(t)
	if run := flag.Lookup("test.run").Value.String(); run != "" {
		t.Skip("-run leaves out tests that rules are to be seen in")
	}
	for i, r := range rules {
		if r.source == verified && !hits.rule[i] {
			t.Errorf("no failure was classed by %v %s", r.verbs, r.re)
		}
		if r.source == unverified && hits.rule[i] {
			t.Logf("seen here, and marked unverified: %s", r.re)
		}
	}
}

func testDevice(t *testing.T) {
	env := openPool(t)
	if err := os.Rename("/dev/zfs", "/dev/zfs.away"); err != nil {
		t.Fatal(err)
	}
	_, err := env.FS.List(t.Context(), zfs.ListOptions{})
	if err := os.Rename("/dev/zfs.away", "/dev/zfs"); err != nil {
		t.Fatal(err)
	}
	if !zfs.IsKind(err, zfs.Unavailable) {
		t.Errorf("without /dev/zfs: %v", err)
	}
}

// asUser names, for a process that is started by testPermission, the dataset
// that it tries to create.
const asUser = "OBUILDER_TEST_AS_USER"

func testPermission(t *testing.T) {
	env := openPool(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), asUser+"="+env.Root.MustChild("a").String())
	asNobody(cmd)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for i, r := range rules {
		if r.kind == zfs.Permission && bytes.Contains(out, fmt.Appendf(nil, "rule %d, kind permission:", i)) {
			hits.rule[i] = true
			return
		}
	}
	t.Errorf("a user got: %s", out)
}

// testSuspended makes a pool whose device is full, and gives it room again.
func testSuspended(t *testing.T) {
	real, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	fs := fault.Wrap(real, observer{})
	run := func(argv ...string) {
		t.Helper()
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v: %s", argv, err, out)
		}
	}
	dir := t.TempDir()
	run("mount", "-t", "tmpfs", "-o", "size=70M", "none", dir)
	defer run("umount", dir)
	run("truncate", "-s", "256M", dir+"/disk")
	run("zpool", "create", "-o", "failmode=wait", "-m", dir+"/mnt", "obuilder-small", dir+"/disk")
	defer run("zpool", "destroy", "-f", "obuilder-small")
	writer := exec.Command("dd", "if=/dev/urandom", "of="+dir+"/mnt/f", "bs=1M", "count=150")
	if err := writer.Start(); err != nil {
		t.Fatal(err)
	}
	defer writer.Wait()
	defer run("zpool", "clear", "obuilder-small")
	defer run("mount", "-o", "remount,size=400M", dir)
	for {
		status, err := fs.Pool(t.Context(), "obuilder-small")
		if err != nil {
			t.Fatal(err)
		}
		if status.Health == "SUSPENDED" {
			break
		}
	}
	_, err = fs.Get(t.Context(), zfs.MustDataset("obuilder-small"), "used")
	if !zfs.IsKind(err, zfs.Unavailable) {
		t.Errorf("suspended: %v", err)
	}
}
