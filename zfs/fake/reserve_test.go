package fake

import (
	"os"
	"strconv"
	"testing"

	"obuilder.org/obuilder/zfs"
)

// What is reserved is taken from all others, and used by its owner first.
func TestReservations(t *testing.T) {
	m := New(Pool("tank", 1<<30, ""))
	ctx := t.Context()
	get := func(ds, property string) int64 {
		t.Helper()
		values, err := m.Get(ctx, zfs.MustDataset(ds), property)
		if err != nil {
			t.Fatal(err)
		}
		n, err := strconv.ParseInt(values[0].Value, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	write := func(name string, bytes int) {
		t.Helper()
		f, err := m.Files().OpenFile(name, os.O_CREATE|os.O_WRONLY, 0o644)
		must(err)
		_, err = f.Write(make([]byte, bytes))
		must(err)
		must(f.Close())
	}
	check := func(ds, property string, want int64) {
		t.Helper()
		if got := get(ds, property); got != want {
			t.Errorf("%s of %s is %d, not %d", property, ds, got, want)
		}
	}
	const mib = 1 << 20
	a, b := zfs.MustDataset("tank/a"), zfs.MustDataset("tank/b")
	must(m.Create(ctx, a, zfs.CreateOptions{}))
	must(m.Create(ctx, b, zfs.CreateOptions{}))
	free, used := get("tank/b", "available"), get("tank/a", "used")

	must(m.Set(ctx, a, zfs.Property{Name: "reservation", Value: "100M"}))
	check("tank/b", "available", free-100*mib+used)
	check("tank/a", "available", free)
	check("tank/a", "used", used)
	write("/tank/a/f", 10*mib)
	check("tank/b", "available", free-100*mib+used)

	must(m.Set(ctx, a, zfs.Property{Name: "refreservation", Value: "50M"}))
	check("tank/a", "used", 50*mib)
	check("tank/a", "usedbyrefreservation", 50*mib-get("tank/a", "usedbydataset"))
	must(m.Snapshot(ctx, false, a.MustSnapshot("s")))
	check("tank/a", "usedbyrefreservation", 50*mib)
	head := get("tank/a", "usedbydataset")
	check("tank/a", "used", 50*mib+head)
	must(m.Destroy(ctx, a.MustSnapshot("s"), zfs.DestroyMode{}))
	check("tank/a", "used", 50*mib)

	c := zfs.MustDataset("tank/b/c")
	must(m.Rename(ctx, a, c, zfs.RenameOptions{}))
	check("tank/b", "used", 100*mib+get("tank/b", "usedbydataset"))
	for _, p := range []string{"reservation", "refreservation"} {
		if err := m.Set(ctx, c, zfs.Property{Name: p, Value: "2G"}); !zfs.IsKind(err, zfs.NoSpace) {
			t.Errorf("%s of more than there is gives %v", p, err)
		}
	}
	if err := m.Set(ctx, c, zfs.Property{Name: "quota", Value: "99M"}); !zfs.IsKind(err, zfs.NoSpace) {
		t.Errorf("a quota below the reservation gives %v", err)
	}
	must(m.Destroy(ctx, c, zfs.DestroyMode{}))
	check("tank/b", "usedbychildren", 0)
	check("tank/b", "available", free+used+objectSize) // and the mount point of tank/a
}
