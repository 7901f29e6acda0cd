// Package zfs is what the engine knows of ZFS: names of datasets and
// snapshots that cannot be built wrong, the commands it runs ([FS]), the errors
// they end in ([Error]) and the files that they make visible ([Files]).
// Nothing in it runs anything.
//
// One method of FS is exactly one zfs or zpool process, so that a transcript,
// a cost, a crash point and a fault all mean the same thing whichever
// implementation is behind it:
//
//   - zfs/real runs the programs zfs and zpool;
//   - zfs/fake is ZFS in memory, or in a directory;
//   - zfs/fault wraps any of them: it records, fails or stops a command;
//   - zfs/zfstest is the suite that every implementation passes.
//
// A step of a build begins like this:
//
//	base := zfs.MustDataset("tank/result/aaaa")
//	step := zfs.MustDataset("tank/result/bbbb")
//	err := fs.Clone(ctx, base.MustSnapshot("snap"), step)
//	if zfs.IsKind(err, zfs.NotFound) {
//		// the base is not there
//	}
package zfs
