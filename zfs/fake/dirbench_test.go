package fake

import (
	"fmt"
	"testing"

	"obuilder.org/obuilder/zfs"
)

// BenchmarkDir measures a store of n results, each of three file systems with
// a snapshot, and one step in it.
func BenchmarkDir(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		m := openDir(b, b.TempDir(), Clock(fixed))
		for _, d := range []string{"tank/base/home", "tank/base/brew", "tank/result"} {
			create(b, m, d)
		}
		host, _ := m.Files().HostPath(tank + "/base/home")
		for i := range 20 {
			write(b, zfs.OSFiles{}, fmt.Sprintf("%s/f%d", host, i), "contents")
		}
		must(b, m.Snapshot(ctx, true, snap("tank/base@snap")))
		for i := range n {
			// Not mounted, so that it is made in seconds; a mount more or
			// less is a few bytes of the state.
			id := ds(fmt.Sprintf("tank/result/%064x", i))
			must(b, m.Clone(ctx, snap("tank/base@snap"), id, mountNone))
			must(b, m.Clone(ctx, snap("tank/base/home@snap"), id.MustChild("home"), mountNone))
			must(b, m.Clone(ctx, snap("tank/base/brew@snap"), id.MustChild("brew"), mountNone))
			must(b, m.Snapshot(ctx, true, id.MustSnapshot("snap")))
		}
		path := m.dir.path
		b.Run(fmt.Sprintf("open/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				must(b, m.Close())
				var err error
				m, err = OpenDir(ctx, path, Clock(fixed))
				must(b, err)
			}
		})
		b.Run(fmt.Sprintf("step/%d", n), func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				step(b, m, ds(fmt.Sprintf("tank/result/s%d", i)))
			}
		})
		must(b, m.Close())
	}
}
