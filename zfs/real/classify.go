package real

import (
	"regexp"
	"slices"

	"obuilder.org/obuilder/zfs"
)

// A rule gives the kind of failure for one line that zfs prints on stderr.
type rule struct {
	kind  zfs.Kind
	verbs []string // the commands it is for; all when empty
	re    *regexp.Regexp
}

func is(kind zfs.Kind, re string, verbs ...string) rule {
	return rule{kind, verbs, regexp.MustCompile(`(?m)^(?:` + re + `)$`)}
}

// Names and paths may have spaces and quotes in them.
const q = `'.*'`

// rules, the first that matches any line decides. Those for a failure that
// zfs reports beside others, which follow from it or are noise, come first.
// Each is matched in the tests on a real pool, where each line says what it
// was verified on.
var rules = []rule{
	// Could not be run at all.
	is(zfs.Unavailable, `/dev/zfs and /proc/self/mounts are required\.`),                                   // verified on OpenZFS 2.1.11
	is(zfs.Unavailable, `The ZFS modules (?:are not loaded|cannot be auto-loaded)\.`),                      // from lib/libzfs/libzfs_util.c of 2.1, not verified
	is(zfs.Unavailable, `.*: pool I/O is currently suspended`),                                             // verified on OpenZFS 2.1.11
	is(zfs.Unavailable, `(?:Failed to initialize|internal error: failed to initialize|Unable to open) .*`), // from lib/libzfs/os/macos/libzfs_util_os.c, not verified
	is(zfs.Permission, `Permission denied the ZFS utilities must be run as root\.`),                        // verified on OpenZFS 2.1.11
	is(zfs.Permission, `sudo: .*`), // sudo(8), not verified
	is(zfs.Permission, `cannot (?:create|destroy|mount|unmount|open|promote|rename|rollback|set) .*permission denied`), // from lib/libzfs/libzfs_util.c of 2.1 (EZFS_PERM), not verified

	// In use. A mount that is hidden by a later one cannot be unmounted by its
	// path, and the text then denies that the dataset exists.
	is(zfs.Busy, `cannot unmount `+q+`: pool or dataset is busy`),          // verified on OpenZFS 2.1.11
	is(zfs.Busy, `cannot unmount `+q+`: no such pool or dataset`),          // verified on OpenZFS 2.1.11
	is(zfs.Busy, `cannot destroy snapshot .*: dataset is busy`),            // verified on OpenZFS 2.1.11
	is(zfs.Busy, `cannot .*: (?:pool or )?dataset is busy`),                // from lib/libzfs/libzfs_util.c of 2.1 (EZFS_BUSY), not verified
	is(zfs.Busy, `cannot unmount `+q+`: unmount failed`),                   // macOS: from lib/libzfs/os/macos/libzfs_mount_os.c, errno is lost; not verified
	is(zfs.Busy, `umount\(.*\): Resource busy(?: -- .*)?`),                 // macOS: umount(8), run when diskutil failed; not verified
	is(zfs.Busy, `Volume .* failed to unmount: dissented by .*`),           // macOS: diskutil(8), not verified
	is(zfs.Busy, `cannot destroy snapshots?: .*snapshot is (?:held|busy)`), // OpenZFS 2.4's wording of held snapshots, not verified

	is(zfs.HasClones, `cannot destroy `+q+`: (?:filesystem|volume|snapshot) has dependent clones`), // verified on OpenZFS 2.1.11
	is(zfs.HasClones, `cannot rollback to `+q+`: clones of previous snapshots exist`),              // verified on OpenZFS 2.1.11
	is(zfs.HasChildren, `cannot destroy `+q+`: (?:filesystem|volume) has children`),                // verified on OpenZFS 2.1.11
	is(zfs.HasChildren, `cannot rollback to `+q+`: more recent snapshots or bookmarks exist`),      // verified on OpenZFS 2.1.11

	is(zfs.NoSpace, `cannot create .*: out of space`), // verified on OpenZFS 2.1.11
	is(zfs.NoSpace, `cannot set property for `+q+`: size is (?:greater than available|less than current used or reserved) space`), // verified on OpenZFS 2.1.11
	is(zfs.NoSpace, `cannot mount `+q+`: failed to create mountpoint: (?:Disk quota exceeded|No space left on device)`),           // verified on OpenZFS 2.1.11 (the quota)
	is(zfs.NoSpace, `cannot .*: (?:out of space|disk quota exceeded)`),                                                            // from lib/libzfs/libzfs_util.c of 2.1 (EZFS_NOSPC), not verified

	is(zfs.Exists, `cannot (?:create|create snapshot|rename) `+q+`: dataset already exists`), // verified on OpenZFS 2.1.11
	is(zfs.Exists, `cannot promote `+q+`: conflicting snapshot `+q+` from parent `+q),        // verified on OpenZFS 2.1.11

	is(zfs.NotMounted, `cannot unmount `+q+`: not currently mounted`),   // verified on OpenZFS 2.1.11
	is(zfs.NotMounted, `parent dataset `+q+` must be mounted`, "mount"), // macOS: from lib/libzfs/os/macos/libzfs_mount_os.c, exit status 22; not verified
	is(zfs.Mounted, `cannot mount `+q+`: filesystem already mounted`),   // verified on OpenZFS 2.1.11

	is(zfs.NotFound, `cannot open `+q+`: (?:dataset does not exist|no such pool)`),      // verified on OpenZFS 2.1.11
	is(zfs.NotFound, `cannot create `+q+`: (?:parent does not exist|no such pool .*)`),  // verified on OpenZFS 2.1.11; what rename prints as well
	is(zfs.NotFound, `could not find any snapshots to destroy; check snapshot names\.`), // verified on OpenZFS 2.1.11

	// zfs unmount prints the first of these for each mounted snapshot of its
	// target, harmlessly, so what else there is has to be looked at before.
	is(zfs.Unsupported, `cannot open '.*@.*': snapshot delimiter '@' is not expected here`, "mount", "unmount"), // verified on OpenZFS 2.1.11

	is(zfs.Permission, `cannot (?:create|set property for) `+q+`: `+q+` is readonly`), // verified on OpenZFS 2.1.11
	is(zfs.Permission, `.* property is read-only`, "inherit"),                         // verified on OpenZFS 2.1.11

	is(zfs.Usage, `(?:.*: )?invalid property `+q),                                        // verified on OpenZFS 2.1.11
	is(zfs.Usage, `cannot (?:create|set property for) `+q+`: `+q+` must be .*`),          // verified on OpenZFS 2.1.11
	is(zfs.Usage, `cannot (?:create|set property for) `+q+`: bad numeric value `+q),      // verified on OpenZFS 2.1.11
	is(zfs.Usage, `property `+q+` specified multiple times`),                             // verified on OpenZFS 2.1.11
	is(zfs.Usage, q+` property cannot be inherited`),                                     // verified on OpenZFS 2.1.11
	is(zfs.Usage, `cannot create snapshots : multiple snapshots of same fs not allowed`), // verified on OpenZFS 2.1.11
	is(zfs.Usage, `cannot promote `+q+`: not a cloned filesystem`),                       // verified on OpenZFS 2.1.11
	is(zfs.Usage, `cannot rename to `+q+`: (?:New dataset name cannot be a descendant of current dataset name|snapshots must be part of same dataset|trailing slash in name)`), // verified on OpenZFS 2.1.11
	is(zfs.Usage, `cannot create `+q+`: missing dataset name`),                                                                       // verified on OpenZFS 2.1.11; renaming a pool
	is(zfs.Usage, `cannot destroy `+q+`: operation does not apply to pools`),                                                         // verified on OpenZFS 2.1.11
	is(zfs.Usage, `cannot open `+q+`: missing '@' delimiter in snapshot name`),                                                       // verified on OpenZFS 2.1.11; destroy -d of a dataset
	is(zfs.Usage, `cannot open '.*@.*': snapshot delimiter '@' is not expected here`, "list"),                                        // verified on OpenZFS 2.1.11
	is(zfs.Usage, `cannot mount `+q+`: (?:no mountpoint set|legacy mountpoint|'canmount' property is set to 'off')`),                 // verified on OpenZFS 2.1.11
	is(zfs.Usage, `cannot unmount `+q+`: legacy mountpoint`),                                                                         // verified on OpenZFS 2.1.11
	is(zfs.Usage, `cannot (?:open|create) '.*': (?:invalid character .*|.* in name|name is too long|name must begin with a letter)`), // verified on OpenZFS 2.1.11
}

// Exit statuses of zfs mount SNAPSHOT on macOS, where it returns the errno:
// zfs_snapshot_mount in lib/libzfs/os/macos/libzfs_mount_os.c; not verified.
const (
	statusMounted    = 16 // EBUSY, with nothing printed
	statusNotMounted = 22 // EINVAL, "parent dataset ... must be mounted"
)

// classify gives the kind of the failure of argv, with its exit status other
// than 0 and what it printed on stderr.
func classify(argv []string, status int, stderr string) zfs.Kind {
	verb := argv[1]
	for _, r := range rules {
		if (len(r.verbs) == 0 || slices.Contains(r.verbs, verb)) && r.re.MatchString(stderr) {
			return r.kind
		}
	}
	switch {
	case verb == "mount" && status == statusMounted:
		return zfs.Mounted
	case verb == "mount" && status == statusNotMounted:
		return zfs.NotMounted
	case status == 2: // zfs(8), EXIT STATUS
		return zfs.Usage
	}
	return zfs.Unknown
}
