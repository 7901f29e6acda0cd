package zfs

import "context"

// A Property is a setting of a dataset, written name=value on a command line.
type Property struct{ Name, Value string }

// String gives name=value.
func (p Property) String() string { return p.Name + "=" + p.Value }

// CreateOptions are the options of [FS.Create].
type CreateOptions struct {
	Parents    bool       // -p: create missing parents, and do not fail if it exists
	Properties []Property // -o
}

// A DestroyMode says how far [FS.Destroy] goes. The zero value destroys just
// the dataset or snapshot named.
type DestroyMode struct {
	Recursive  bool // -r: children (of a snapshot: the same snapshot of all descendants)
	Dependents bool // -R: also clones outside; implies Recursive
	Force      bool // -f: unmount by force first
	Defer      bool // -d: snapshots only: destroy it when its last clone or hold goes
}

// RenameOptions are the options of [FS.Rename].
type RenameOptions struct {
	Parents   bool // -p: create missing parents of the new name
	Recursive bool // -r: snapshots only: the same snapshot of all descendants
	Force     bool // -f: unmount by force if need be
	NoRemount bool // -u: leave mounts as they are
}

// A Type is a kind of thing that [FS.List] lists.
type Type string

// The types that are listed.
const (
	Filesystems Type = "filesystem"
	Snapshots   Type = "snapshot"
)

// ListOptions say what [FS.List] lists.
type ListOptions struct {
	// Roots are where to begin; all pools when empty.
	Roots []Name
	// Recursive lists everything below the roots, to Depth levels if that is
	// positive. Depth counts as in zfs-list(8) -d: the children of a root
	// are 1 below it, and so are its snapshots.
	Recursive bool
	Depth     int
	// Types are what to list; Filesystems when empty.
	Types []Type
	// Properties are the columns of [Row.Values], in this order, in
	// machine-readable form (-p). The name comes in Row.Name whether or
	// not it is asked for here.
	Properties []string
}

// A Row is a line of [FS.List]. A value that a dataset does not have is "-".
type Row struct {
	Name   string   // as zfs printed it; [Parse] reads it
	Values []string // parallel to ListOptions.Properties
}

// A Value is a line of [FS.Get].
type Value struct {
	Name     string // of the dataset or snapshot
	Property string
	Value    string // machine-readable (-p); "-" when it has none
	Source   string // "local", "default", "inherited from X", "temporary", "received", "none" or "-"
}

// PoolStatus is a line of [FS.Pool]. Sizes are bytes.
type PoolStatus struct {
	Size, Allocated, Free uint64
	Capacity              int    // percent of Size that is allocated
	Health                string // "ONLINE", "DEGRADED", "SUSPENDED", ...
}

// FS runs zfs commands. Each method is exactly one process: what it does not
// say in its options it does not do, and it neither retries nor asks first.
//
// Every error is an [*Error]. A method that returns because its context ended
// gives the kind Timeout; whether the command took effect is then unknown.
// Everything may be called concurrently. Implementations run commands that
// mount or unmount (Create, Clone, Set, Inherit, Mount, Unmount, Rename, Destroy) one at
// a time: on macOS two at once can leave automounting off for good.
type FS interface {
	// Create runs zfs create [-p] [-o p=v]... ds. The new dataset is mounted
	// unless its mountpoint is none or legacy or its canmount is not on.
	Create(ctx context.Context, ds Dataset, opts CreateOptions) error

	// Clone runs zfs clone [-o p=v]... origin ds: a writable copy that shares
	// all that it does not change. It is mounted as a created one is.
	Clone(ctx context.Context, origin Snapshot, ds Dataset, props ...Property) error

	// Snapshot runs zfs snapshot [-r] snaps..., all in one transaction.
	Snapshot(ctx context.Context, recursive bool, snaps ...Snapshot) error

	// Destroy runs zfs destroy [-r|-R] [-f] [-d] target.
	Destroy(ctx context.Context, target Name, mode DestroyMode) error

	// Set runs zfs set p=v... ds. Setting the mountpoint moves the mount; that
	// can fail with the property changed all the same.
	Set(ctx context.Context, ds Dataset, props ...Property) error

	// Inherit runs zfs inherit [-r] property ds.
	Inherit(ctx context.Context, ds Dataset, property string, recursive bool) error

	// Mount runs zfs mount target. Snapshots are mounted by it on macOS
	// only; elsewhere that gives Unsupported. Mounted when it is mounted
	// already (on macOS exit status 16), NotFound when there is no such snapshot.
	Mount(ctx context.Context, target Name) error

	// Unmount runs zfs unmount [-f] target.
	Unmount(ctx context.Context, target Name, force bool) error

	// Promote runs zfs promote ds: the clone ds and its origin change roles.
	Promote(ctx context.Context, ds Dataset) error

	// Rename runs zfs rename [-p] [-r] [-f] [-u] from to, both datasets or both snapshots.
	Rename(ctx context.Context, from, to Name, opts RenameOptions) error

	// Rollback runs zfs rollback [-r] to, -r destroying more recent snapshots.
	Rollback(ctx context.Context, to Snapshot, recursive bool) error

	// List runs zfs list -Hp. When some of the roots do not exist that is
	// NotFound, and the rows of those that do come with the error: one process
	// tells which of many names are there.
	List(ctx context.Context, opts ListOptions) ([]Row, error)

	// Get runs zfs get -Hp -o name,property,value,source properties target.
	Get(ctx context.Context, target Name, properties ...string) ([]Value, error)

	// Pool runs zpool list -Hp -o size,allocated,free,capacity,health pool.
	Pool(ctx context.Context, pool string) (PoolStatus, error)
}
