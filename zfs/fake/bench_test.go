package fake

import (
	"fmt"
	"testing"
	"time"

	"obuilder.org/obuilder/zfs"
)

func fixed() time.Time { return time.Unix(1, 0) }

// step runs the commands of a step of a build.
func step(b testing.TB, m zfs.FS, id zfs.Dataset) {
	home, brew := id.MustChild("home"), id.MustChild("brew")
	must(b, m.Clone(ctx, snap("tank/base@snap"), id))
	must(b, m.Clone(ctx, snap("tank/base/home@snap"), home, mountNone))
	must(b, m.Clone(ctx, snap("tank/base/brew@snap"), brew, mountNone))
	must(b, m.Set(ctx, home, prop("mountpoint", "/Users/mac1000")))
	must(b, m.Set(ctx, brew, prop("mountpoint", "/usr/local")))
	must(b, m.Set(ctx, home, mountNone))
	must(b, m.Set(ctx, brew, mountNone))
	must(b, m.Snapshot(ctx, true, id.MustSnapshot("snap")))
}

func withResults(b testing.TB, n int) *Machine {
	m := newTank(b, Clock(fixed))
	for _, d := range []string{"tank/base/home", "tank/base/brew", "tank/result"} {
		create(b, m, d)
	}
	must(b, m.Snapshot(ctx, true, snap("tank/base@snap")))
	for i := range n {
		step(b, m, ds(fmt.Sprintf("tank/result/%064x", i)))
	}
	return m
}

// BenchmarkStep is the commands of a step, and a destroy -r, on a pool of n results.
func BenchmarkStep(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			m := withResults(b, n)
			id := ds(fmt.Sprintf("tank/result/%064x", n))
			b.ReportAllocs()
			for b.Loop() {
				step(b, m, id)
				must(b, m.Destroy(ctx, id, zfs.DestroyMode{Recursive: true}))
			}
		})
	}
}

// BenchmarkCommands is one command at a time on a pool of n datasets.
func BenchmarkCommands(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		m := withResults(b, n/3)
		id := ds(fmt.Sprintf("tank/result/%064x", n)) // is mounted
		child := ds(fmt.Sprintf("tank/result/%064x/x", 1))
		origin, at := snap("tank/base@snap"), id.MustSnapshot("snap")
		run := func(name string, commands int, f func()) {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					f()
				}
				b.ReportMetric(float64(b.N*commands)/b.Elapsed().Seconds(), "commands/s")
			})
		}
		run("clone+destroy", 2, func() {
			must(b, m.Clone(ctx, origin, child, mountNone))
			must(b, m.Destroy(ctx, child, zfs.DestroyMode{}))
		})
		run("clone+destroy-mounted", 2, func() {
			must(b, m.Clone(ctx, origin, id))
			must(b, m.Destroy(ctx, id, zfs.DestroyMode{}))
		})
		must(b, m.Clone(ctx, origin, id))
		run("set", 1, func() { must(b, m.Set(ctx, id, prop("a:b", "c"))) })
		run("set-mountpoint", 2, func() {
			must(b, m.Set(ctx, id, prop("mountpoint", "/Users/mac1000")))
			must(b, m.Set(ctx, id, mountNone))
		})
		run("snapshot+destroy", 2, func() {
			must(b, m.Snapshot(ctx, false, at))
			must(b, m.Destroy(ctx, at, zfs.DestroyMode{}))
		})
	}
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
