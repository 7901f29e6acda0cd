// Package fake is ZFS without a kernel: pools, file systems, snapshots and
// clones, what is mounted where, and the files in them. It comes in memory
// ([New]), for tests and for obsim, and in a directory ([OpenDir]), for trying
// obuilder out where there is no ZFS.
//
//	m := fake.New(fake.Pool("tank", 64<<30, "/Volumes/tank"))
//	err := m.Create(ctx, zfs.MustDataset("tank/a"), zfs.CreateOptions{})
//	f, err := m.Files().OpenFile("/Volumes/tank/a/hello", os.O_CREATE|os.O_WRONLY, 0o644)
//
// A clone, a snapshot and a rollback cost the same however much they hold: the
// contents of a dataset are an immutable tree of which only what is written to
// is copied, as in ZFS itself. A command takes about a microsecond.
//
// [Machine.Send] and [Machine.Receive] take snapshots from one machine in memory
// to another, in a stream of a format of their own.
//
// What it does, the texts it prints on standard error and its exit statuses
// are those of OpenZFS 2.1.11 on Linux, observed on a real pool, but that the
// usage of a command is left out; [SnapshotMounts] makes it behave as OpenZFS on
// macOS does where the two differ.
package fake
