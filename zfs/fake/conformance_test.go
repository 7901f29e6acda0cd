package fake_test

import (
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
