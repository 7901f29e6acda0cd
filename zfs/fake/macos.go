package fake

import (
	"context"
	"slices"

	"obuilder.org/obuilder/zfs"
)

// What OpenZFS on macOS does now and then, rather than always as with
// [SnapshotMounts]: zfs/fault says when. None of it was reproduced on a Mac.

// SetUnmoved is zfs set on a Mac that fails to unmount ds: the properties
// change, what is mounted stays where it is, and the command fails as Busy.
// Where there is nothing to unmount it is [Machine.Set].
func (m *Machine) SetUnmoved(ctx context.Context, ds zfs.Dataset, list ...zfs.Property) error {
	return m.change(ctx, zfs.ArgvSet(ds, list...), func() *failure {
		d := m.lookup(ds.String())
		moves := slices.ContainsFunc(list, func(p zfs.Property) bool { return p.Name == "mountpoint" })
		if d == nil || d.mnt == nil || !moves {
			return m.set(ds, list)
		}
		settings, f := m.parseAll("cannot set property for", ds.String(), list, nil)
		if f != nil {
			return f
		}
		for _, s := range settings {
			d.setLocal(s.id, s.value)
		}
		m.store.changed(d)
		return failf(zfs.Busy, "cannot unmount '%s': pool or dataset is busy", d.mnt.path)
	})
}

// SetAutomount turns automounting of snapshots on, as it is at first, or off.
// While it is off every directory of a snapshot looks empty, without any error.
// On a machine in a directory it does nothing.
func (m *Machine) SetAutomount(on bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.pools {
		p.noAutomount = !on
	}
}
