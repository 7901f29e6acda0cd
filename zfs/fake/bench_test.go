package fake

import (
	"crypto/sha256"
	"fmt"
	"runtime"
	"testing"
	"time"

	"obuilder.org/obuilder/zfs"
)

func fixed() time.Time { return time.Unix(1, 0) }

// A result is the names of what a step of a build makes.
type result struct {
	top, home, brew zfs.Dataset
	snap            zfs.Snapshot
}

func newResult(n int) result {
	top := ds(fmt.Sprintf("tank/result/%x", sha256.Sum256(fmt.Append(nil, n))))
	return result{top, top.MustChild("home"), top.MustChild("brew"), top.MustSnapshot("snap")}
}

var (
	base     = snap("tank/base@snap")
	baseHome = snap("tank/base/home@snap")
	baseBrew = snap("tank/base/brew@snap")

	none = []zfs.Property{mountNone}
	home = []zfs.Property{prop("mountpoint", "/Users/mac1000")}
	brew = []zfs.Property{prop("mountpoint", "/usr/local")}
)

// step runs the commands of a step of a build.
func (r *result) step(m zfs.FS) error {
	return firstError(
		m.Clone(ctx, base, r.top),
		m.Clone(ctx, baseHome, r.home, none...),
		m.Clone(ctx, baseBrew, r.brew, none...),
		m.Set(ctx, r.home, home...),
		m.Set(ctx, r.brew, brew...),
		m.Set(ctx, r.home, none...),
		m.Set(ctx, r.brew, none...),
		m.Snapshot(ctx, true, r.snap))
}

func step(t testing.TB, m zfs.FS, id zfs.Dataset) {
	t.Helper()
	r := result{id, id.MustChild("home"), id.MustChild("brew"), id.MustSnapshot("snap")}
	must(t, r.step(m))
}

// withResults gives a machine with n results, each of three datasets.
func withResults(b testing.TB, n int) *Machine {
	b.Helper()
	m := newTank(b, Clock(fixed))
	for _, d := range []string{"tank/base/home", "tank/base/brew", "tank/result"} {
		create(b, m, d)
	}
	must(b, m.Snapshot(ctx, true, base))
	for i := range n {
		r := newResult(i)
		must(b, r.step(m))
	}
	return m
}

// measure runs f, which is so many commands, again and again.
func measure(b *testing.B, name string, commands int, f func() error) {
	b.Run(name, func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := f(); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.N*commands)/b.Elapsed().Seconds(), "commands/s")
	})
}

// BenchmarkCommands measures commands on a pool of n datasets: one kind at a
// time, and as the engine mixes them in a step and in its removal.
func BenchmarkCommands(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		m := withResults(b, n/3)
		r, whole := newResult(n), zfs.DestroyMode{Recursive: true}
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			measure(b, "clone+destroy", 2, func() error {
				return firstError(m.Clone(ctx, base, r.top, none...), m.Destroy(ctx, r.top, zfs.DestroyMode{}))
			})
			measure(b, "clone+destroy-mounted", 2, func() error {
				return firstError(m.Clone(ctx, base, r.top), m.Destroy(ctx, r.top, zfs.DestroyMode{}))
			})
			measure(b, "step+destroy", 9, func() error {
				return firstError(r.step(m), m.Destroy(ctx, r.top, whole))
			})
			must(b, m.Clone(ctx, base, r.top))
			set := []zfs.Property{prop("a:b", "c")}
			measure(b, "set", 1, func() error { return m.Set(ctx, r.top, set...) })
			measure(b, "set-mountpoint", 2, func() error {
				return firstError(m.Set(ctx, r.top, home...), m.Set(ctx, r.top, none...))
			})
			measure(b, "snapshot+destroy", 2, func() error {
				return firstError(m.Snapshot(ctx, false, r.snap), m.Destroy(ctx, r.snap, zfs.DestroyMode{}))
			})
		})
	}
}

// BenchmarkSize is commands on datasets of n files, one of which is written to
// in between: what they cost does not depend on n.
func BenchmarkSize(b *testing.B) {
	for _, n := range []int{10, 100_000} {
		m := newTank(b, Clock(fixed))
		create(b, m, "tank/base")
		for i := range n {
			dir := fmt.Sprintf("%s/base/%d", tank, i/1000)
			if i%1000 == 0 {
				must(b, m.Files().MkdirAll(dir, 0o755))
			}
			write(b, m.Files(), fmt.Sprintf("%s/%d", dir, i), "")
		}
		must(b, m.Snapshot(ctx, false, base))
		clone, at := ds("tank/clone"), snap("tank/clone@1")
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			measure(b, "clone+snapshot+rollback+destroy", 4, func() error {
				return firstError(m.Clone(ctx, base, clone), m.Snapshot(ctx, false, at), m.Rollback(ctx, at, false),
					m.Destroy(ctx, clone, zfs.DestroyMode{Recursive: true}))
			})
		})
	}
}

// BenchmarkMillion is the memory that 1,000,000 datasets take, a third of them
// mounted, with as many snapshots.
func BenchmarkMillion(b *testing.B) {
	if testing.Short() {
		b.Skip("it takes seconds")
	}
	const results = 1_000_000 / 3
	used := func() float64 {
		var s runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&s)
		return float64(s.HeapAlloc)
	}
	before := used()
	var m *Machine
	for b.Loop() {
		m = withResults(b, results)
	}
	b.ReportMetric((used()-before)/(1<<30), "GiB")
	b.ReportMetric((used()-before)/(3*results), "B/dataset")
	runtime.KeepAlive(m)
}

// BenchmarkList is the listing of 10,000 results at the start of an engine.
func BenchmarkList(b *testing.B) {
	m := withResults(b, 10_000)
	b.ReportAllocs()
	for b.Loop() {
		rows, err := m.List(ctx, zfs.ListOptions{Roots: []zfs.Name{ds("tank/result")}, Recursive: true, Depth: 2,
			Types: []zfs.Type{zfs.Snapshots}, Properties: []string{"guid", "origin"}})
		if err != nil || len(rows) != 10_000 {
			b.Fatal(len(rows), err)
		}
	}
}
