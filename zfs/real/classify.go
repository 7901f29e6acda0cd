package real

import (
	"regexp"
	"slices"

	"obuilder.org/obuilder/zfs"
)

// A rule gives the kind of failure for one line that zfs prints on stderr.
type rule struct {
	source source
	kind   zfs.Kind
	verbs  []string // the commands it is for; all when empty
	re     *regexp.Regexp
}

// A source says how a rule is known to be right.
type source int

const (
	verified   source = iota // verified on OpenZFS 2.1.11: the tests on a real pool make each of these lines appear
	unverified               // read in the source or manual page that is named beside the rule
)

func is(from source, kind zfs.Kind, re string, verbs ...string) rule {
	return rule{from, kind, verbs, regexp.MustCompile(`(?m)^(?:` + re + `)$`)}
}

// Names and paths may have spaces and quotes in them.
const q = `'.*'`

// rules, the first that matches any line decides. Those for a failure that
// zfs reports beside others, which follow from it or are noise, come first.
var rules = []rule{
	// Could not be run at all.
	is(verified, zfs.Unavailable, `/dev/zfs and /proc/self/mounts are required\.`),
	is(unverified, zfs.Unavailable, `The ZFS modules (?:are not loaded|cannot be auto-loaded)\.`), // from lib/libzfs/libzfs_util.c of 2.1
	is(verified, zfs.Unavailable, `.*: pool I/O is currently suspended`),
	is(unverified, zfs.Unavailable, `(?:Failed to initialize|internal error: failed to initialize|Unable to open) .*`), // from lib/libzfs/os/macos/libzfs_util_os.c
	is(verified, zfs.Permission, `Permission denied the ZFS utilities must be run as root\.`),
	is(unverified, zfs.Permission, `sudo: .*`),                                                                                     // sudo(8)
	is(unverified, zfs.Permission, `cannot (?:create|destroy|mount|unmount|open|promote|rename|rollback|set) .*permission denied`), // from lib/libzfs/libzfs_util.c of 2.1 (EZFS_PERM)

	// In use. A mount that is hidden by a later one cannot be unmounted by its
	// path, and the text then denies that the dataset exists.
	is(verified, zfs.Busy, `cannot unmount `+q+`: pool or dataset is busy`),
	is(verified, zfs.Busy, `cannot unmount `+q+`: no such pool or dataset`),
	is(verified, zfs.Busy, `cannot destroy snapshot .*: dataset is busy`),
	is(unverified, zfs.Busy, `cannot .*: (?:pool or )?dataset is busy`),          // from lib/libzfs/libzfs_util.c of 2.1 (EZFS_BUSY)
	is(unverified, zfs.Busy, `cannot unmount `+q+`: un?mount failed`),            // macOS: from lib/libzfs/os/macos/libzfs_mount_os.c, errno is lost; "umount failed" until 1.9
	is(unverified, zfs.Busy, `umount\(.*\): Resource busy(?: -- .*)?`),           // macOS: umount(8), run when diskutil failed
	is(unverified, zfs.Busy, `Volume .* failed to unmount: dissented by .*`),     // macOS: diskutil(8)
	is(unverified, zfs.Busy, `cannot destroy snapshot .*: it's being held\. .*`), // held snapshots as of OpenZFS 2.4: from https://github.com/openzfs/zfs/pull/17234

	is(verified, zfs.HasClones, `cannot destroy `+q+`: (?:filesystem|volume|snapshot) has dependent clones`),
	is(verified, zfs.HasClones, `cannot rollback to `+q+`: clones of previous snapshots exist`),
	is(verified, zfs.HasChildren, `cannot destroy `+q+`: (?:filesystem|volume) has children`),
	is(verified, zfs.HasChildren, `cannot rollback to `+q+`: more recent snapshots or bookmarks exist`),

	is(verified, zfs.NoSpace, `cannot create .*: out of space`),
	is(verified, zfs.NoSpace, `cannot set property for `+q+`: size is (?:greater than available|less than current used or reserved) space`),
	is(verified, zfs.NoSpace, `cannot mount `+q+`: failed to create mountpoint: (?:Disk quota exceeded|No space left on device)`), // (the quota)
	is(unverified, zfs.NoSpace, `cannot .*: (?:out of space|disk quota exceeded)`),                                                // from lib/libzfs/libzfs_util.c of 2.1 (EZFS_NOSPC)

	is(verified, zfs.Exists, `cannot (?:create|create snapshot|rename) `+q+`: dataset already exists`),
	is(verified, zfs.Exists, `cannot promote `+q+`: conflicting snapshot `+q+` from parent `+q),

	is(verified, zfs.NotMounted, `cannot unmount `+q+`: not currently mounted`),
	is(unverified, zfs.NotMounted, `parent dataset `+q+` must be mounted`, "mount"), // macOS: from lib/libzfs/os/macos/libzfs_mount_os.c, exit status 22
	is(verified, zfs.Mounted, `cannot mount `+q+`: filesystem already mounted`),

	is(verified, zfs.NotFound, `cannot open `+q+`: (?:dataset does not exist|no such pool)`),
	is(verified, zfs.NotFound, `cannot create `+q+`: (?:parent does not exist|no such pool .*)`), // what rename prints as well
	is(verified, zfs.NotFound, `could not find any snapshots to destroy; check snapshot names\.`),

	// zfs unmount prints the first of these for each mounted snapshot of its
	// target, harmlessly, so what else there is has to be looked at before.
	is(verified, zfs.Unsupported, `cannot open '.*@.*': snapshot delimiter '@' is not expected here`, "mount", "unmount"),

	is(verified, zfs.Permission, `cannot (?:create|set property for) `+q+`: `+q+` is readonly`),
	is(verified, zfs.Permission, `.* property is read-only`, "inherit"),

	is(verified, zfs.Usage, `(?:.*: )?invalid property `+q),
	is(verified, zfs.Usage, `cannot (?:create|set property for) `+q+`: `+q+` must be .*`),
	is(verified, zfs.Usage, `cannot (?:create|set property for) `+q+`: bad numeric value `+q),
	is(verified, zfs.Usage, `property `+q+` specified multiple times`),
	is(verified, zfs.Usage, q+` property cannot be inherited`),
	is(verified, zfs.Usage, `cannot create snapshots : multiple snapshots of same fs not allowed`),
	is(verified, zfs.Usage, `cannot promote `+q+`: not a cloned filesystem`),
	is(verified, zfs.Usage, `cannot rename to `+q+`: (?:New dataset name cannot be a descendant of current dataset name|snapshots must be part of same dataset|trailing slash in name)`),
	is(verified, zfs.Usage, `cannot create `+q+`: missing dataset name`), // renaming a pool
	is(verified, zfs.Usage, `cannot destroy `+q+`: operation does not apply to pools`),
	is(verified, zfs.Usage, `cannot open `+q+`: missing '@' delimiter in snapshot name`), // destroy -d of a dataset
	is(verified, zfs.Usage, `cannot open '.*@.*': snapshot delimiter '@' is not expected here`, "list"),
	is(verified, zfs.Usage, `cannot mount `+q+`: (?:no mountpoint set|legacy mountpoint|'canmount' property is set to 'off')`),
	is(verified, zfs.Usage, `cannot unmount `+q+`: legacy mountpoint`),
	is(verified, zfs.Usage, `cannot (?:open|create) '.*': (?:invalid character .*|.* in name|name is too long|name must begin with a letter)`),
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
	if i := ruleFor(verb, stderr); i >= 0 {
		return rules[i].kind
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

// ruleFor gives the index of the rule that decides, -1 for none.
func ruleFor(verb, stderr string) int {
	return slices.IndexFunc(rules, func(r rule) bool {
		return (len(r.verbs) == 0 || slices.Contains(r.verbs, verb)) && r.re.MatchString(stderr)
	})
}
