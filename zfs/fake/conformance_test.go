package fake_test

import (
	"runtime"
	"testing"

	"obuilder.org/obuilder/zfs"
	"obuilder.org/obuilder/zfs/fake"
	"obuilder.org/obuilder/zfs/zfstest"
)

func TestConformance(t *testing.T) {
	for name, snapshotMounts := range map[string]bool{"linux": false, "macos": true} {
		t.Run(name, func(t *testing.T) {
			zfstest.Run(t, func(t *testing.T) zfstest.Env {
				m := fake.New(fake.Pool("tank", 1<<30, "/Volumes/tank"), fake.SnapshotMounts(snapshotMounts))
				root, dir := zfs.MustDataset("tank"), "/mnt"
				if err := m.Files().MkdirAll(dir, 0o755); err != nil {
					t.Fatal(err)
				}
				return zfstest.Env{FS: m, Files: m.Files(), Root: root, Dir: dir, SnapshotMounts: snapshotMounts}
			})
		})
	}
}

func TestConformanceDir(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("symbolic links need a privilege on Windows")
	}
	zfstest.Run(t, func(t *testing.T) zfstest.Env {
		m, err := fake.OpenDir(t.Context(), t.TempDir(), fake.Pool("tank", 0, "/Volumes/tank"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := m.Close(); err != nil {
				t.Error(err)
			}
		})
		if err := m.Files().MkdirAll("/mnt", 0o755); err != nil {
			t.Fatal(err)
		}
		return zfstest.Env{FS: m, Files: m.Files(), Root: zfs.MustDataset("tank"), Dir: "/mnt",
			Lacks: []zfstest.Feature{zfstest.Busy, zfstest.Quota, zfstest.Space, zfstest.ReadOnly}}
	})
}
