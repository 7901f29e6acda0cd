// Package real is [zfs.FS] on a machine with OpenZFS: it runs the programs zfs
// and zpool, one process for each method.
//
//	fs, err := real.New(real.Options{Forbidden: []string{"/opt/homebrew"}})
//	if err != nil {
//		return err
//	}
//	err = fs.Clone(ctx, origin, step, zfs.Property{Name: "mountpoint", Value: "none"})
//	if zfs.IsKind(err, zfs.Exists) {
//		// left over from a build that was stopped
//	}
//
// # Why the runner is our own
//
// github.com/mistifyio/go-zfs/v3 wraps the same programs, but a command of
// its cannot be cancelled, has no deadline, is looked up in PATH each time
// (during a step PATH leads into the clone that is being built), and leaves
// the kind of failure to whoever reads the text. Clone, Snapshot, Rename, Mount
// and creating a file system are two processes there, the second reading back what the first did;
// there is no promote, inherit or mount of a snapshot. What is left, set, destroy
// and rollback of a dataset that it has read before, is not worth two ways of
// running a program. It is used where being written by others is the point:
// the tests on a real pool ask go-zfs what the commands of this package did.
//
// # A process that cannot be killed
//
// A process that is waiting in the kernel does not die when it is killed, and
// OpenZFS on macOS has deadlocks that leave zfs in that state until the
// machine is rebooted. Such a process is given up after a bounded time: the
// method returns an error of the kind [zfs.Unavailable] with a
// [*StuckError], and until the process is gone every further command of this
// process fails with the same error without being started.
package real
