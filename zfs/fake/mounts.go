package fake

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"obuilder.org/obuilder/zfs"
)

// Mount implements [zfs.FS].
func (m *Machine) Mount(ctx context.Context, target zfs.Name) error {
	f := m.begin(ctx)
	if f == nil {
		f = m.end(m.mountTarget(target, false))
	}
	if f != nil {
		return as(f, zfs.ArgvMount(target))
	}
	return nil
}

// MountOver is zfs mount -O: what is in the directory does not matter.
func (m *Machine) MountOver(ctx context.Context, target zfs.Name) error {
	return m.change(ctx, slices.Insert(zfs.ArgvMount(target), 2, "-O"), func() *failure { return m.mountTarget(target, true) })
}

func (m *Machine) mountTarget(target zfs.Name, over bool) *failure {
	d, f := m.toMount(target)
	if f != nil {
		return f
	}
	if s, ok := target.(zfs.Snapshot); ok {
		i := d.snapIndex(s.Tag())
		switch {
		case i < 0:
			return failf(zfs.NotFound, "cannot open '%s': dataset does not exist", s)
		case d.mnt == nil:
			f := failf(zfs.NotMounted, "parent dataset '%s' must be mounted", s.Dataset())
			f.Status = 22 // EINVAL
			return f
		case d.snaps[i].mounted:
			return &failure{Kind: zfs.Mounted, Status: 16} // EBUSY; it prints nothing
		}
		d.snaps[i].mounted = true
		return nil
	}
	at, _ := d.mountpoint()
	switch {
	case at == "legacy":
		return failf(zfs.Usage, "cannot mount '%s': legacy mountpoint\nuse mount(8) to mount this filesystem", target)
	case at == "none":
		return failf(zfs.Usage, "cannot mount '%s': no mountpoint set", target)
	case d.is(propCanmount, "off"):
		return failf(zfs.Usage, "cannot mount '%s': 'canmount' property is set to 'off'", target)
	case d.mnt != nil:
		return failf(zfs.Mounted, "cannot mount '%s': filesystem already mounted", target)
	}
	return m.mountOver(d, at, over || d.is(propOverlay, "on"))
}

// MountAll is zfs mount -a, and with over zfs mount -a -O: it mounts what is not
// mounted and is to be, the outermost first, and goes on when one cannot be.
func (m *Machine) MountAll(ctx context.Context, over bool) error {
	return m.change(ctx, []string{"zfs", "mount", "-a"}, func() *failure {
		var list []affected
		for _, p := range m.pools {
			for _, d := range p.root.subtree(nil) {
				at, _ := d.mountpoint()
				if d.mnt == nil && at != "none" && at != "legacy" && d.is(propCanmount, "on") {
					list = append(list, affected{d: d, path: at})
				}
			}
		}
		slices.SortStableFunc(list, func(a, b affected) int { return comparePaths(a.path, b.path) })
		var x failures
		for _, a := range list {
			x.add(m.mountOver(a.d, a.path, over || a.d.is(propOverlay, "on")))
		}
		return x.all()
	})
}

// comparePaths orders paths so that each comes before what is below it
// (mountpoint_cmp in libzfs_mount.c).
func comparePaths(a, b string) int {
	return strings.Compare(strings.ReplaceAll(a, "/", "\x00"), strings.ReplaceAll(b, "/", "\x00"))
}

// failures are those of a command that goes on.
type failures struct {
	texts []string
	kind  zfs.Kind // of the first
}

func (x *failures) add(f *failure) {
	if f == nil {
		return
	}
	if x.texts == nil {
		x.kind = f.Kind
	}
	x.texts = append(x.texts, f.Stderr)
}

// all gives one failure for all of them, or nil.
func (x *failures) all() *failure {
	if x.texts == nil {
		return nil
	}
	return failf(x.kind, "%s", strings.Join(x.texts, "\n"))
}

// toMount finds what is to be mounted or unmounted.
func (m *Machine) toMount(target zfs.Name) (*dataset, *failure) {
	ds, ok := target.(zfs.Dataset)
	if s, snap := target.(zfs.Snapshot); snap {
		if !m.macOS {
			return nil, failf(zfs.Unsupported, "cannot open '%s': snapshot delimiter '@' is not expected here", s)
		}
		ds, ok = s.Dataset(), true
	}
	d := m.lookup(ds.String())
	if !ok || d == nil {
		return nil, failf(zfs.NotFound, "cannot open '%s': dataset does not exist", target)
	}
	return d, nil
}

// Unmount implements [zfs.FS].
func (m *Machine) Unmount(ctx context.Context, target zfs.Name, force bool) error {
	_, err := m.UnmountWith(ctx, target, force)
	return err
}

// UnmountWith is Unmount. What zfs unmount says on standard error when it
// succeeds, it gives.
func (m *Machine) UnmountWith(ctx context.Context, target zfs.Name, force bool) (says string, err error) {
	return m.unmounting(ctx, zfs.ArgvUnmount(target, force), func() (string, *failure) { return m.unmountTarget(target, force) })
}

// UnmountPath is zfs unmount of what is mounted on a path.
func (m *Machine) UnmountPath(ctx context.Context, path string, force bool) (says string, err error) {
	argv := withForce([]string{"zfs", "unmount"}, force)
	return m.unmounting(ctx, append(argv, path), func() (string, *failure) {
		d, top, f := m.mountedAt(path)
		switch {
		case f != nil:
			return "", f
		case d == nil:
			return "", failf(zfs.NotMounted, "cannot unmount '%s': not a ZFS filesystem", path)
		case !top:
			return "", failf(zfs.NotMounted, "cannot unmount '%s': not a mountpoint", path)
		}
		return m.unmountBelow(d, force)
	})
}

// mountedAt gives the dataset that zfs takes to be what is mounted on a path, and
// whether the path is where it is mounted: the first mount whose own path leads
// into the same file system (getextmntent in libspl). d is nil for none.
func (m *Machine) mountedAt(path string) (d *dataset, top bool, _ *failure) {
	of, top, err := m.at(path)
	if err != nil {
		return nil, false, failf(zfs.NotFound, "cannot open '%[1]s': %[2]v\nwarning: %[1]s not in/proc/self/mounts\n%[1]s: %[2]v", path, err)
	}
	if of == "" {
		return nil, false, nil
	}
	if d = m.lookup(of); d == nil {
		return nil, false, failf(zfs.Unsupported, "cannot open '%s': snapshot delimiter '@' is not expected here", of)
	}
	if m.dir != nil {
		return d, top, nil
	}
	var mounts []*dataset
	for _, p := range m.pools {
		mounts = p.root.subtree(mounts)
	}
	mounts = slices.DeleteFunc(mounts, func(d *dataset) bool { return d.mnt == nil })
	slices.SortFunc(mounts, func(a, b *dataset) int { return cmp.Compare(a.mnt.order, b.mnt.order) })
	here, _ := m.resolve(path, true)
	for _, x := range mounts {
		if p, err := m.resolve(x.mnt.path, true); err == nil && p.mnt == here.mnt && p.snap == nil {
			return x, p.obj == here.obj && p.ctl == here.ctl, nil
		}
	}
	return d, top, nil
}

func withForce(argv []string, force bool) []string {
	if force {
		argv = append(argv, "-f")
	}
	return argv
}

func (m *Machine) unmounting(ctx context.Context, argv []string, do func() (string, *failure)) (says string, err error) {
	f := m.begin(ctx)
	if f == nil {
		says, f = do()
		f = m.end(f)
	}
	if f != nil {
		f.Stderr = joinLines(says, f.Stderr)
		return "", as(f, argv)
	}
	return says, nil
}

// UnmountAll is zfs unmount -a. It unmounts each file system that is mounted
// and is to be by itself, from the last path to the first, and goes on when one
// cannot be.
func (m *Machine) UnmountAll(ctx context.Context, force bool) error {
	return m.change(ctx, append(withForce([]string{"zfs", "unmount"}, force), "-a"), func() *failure {
		var list []*dataset
		for _, p := range m.pools {
			list = p.root.subtree(list)
		}
		list = slices.DeleteFunc(list, func(d *dataset) bool {
			at, _ := d.mountpoint()
			return d.mnt == nil || at == "legacy" || d.is(propCanmount, "noauto")
		})
		slices.SortFunc(list, func(a, b *dataset) int {
			return cmp.Or(strings.Compare(b.mnt.path, a.mnt.path), cmp.Compare(a.mnt.order, b.mnt.order))
		})
		list = slices.CompactFunc(list, func(a, b *dataset) bool { return a.mnt.path == b.mnt.path }) // each path once
		var x failures
		for _, d := range list {
			if d.mnt != nil {
				x.add(m.detach(d, force))
			}
		}
		return x.all()
	})
}

func (m *Machine) unmountTarget(target zfs.Name, force bool) (says string, _ *failure) {
	d, f := m.toMount(target)
	if f != nil {
		return "", f
	}
	if s, ok := target.(zfs.Snapshot); ok {
		i := d.snapIndex(s.Tag())
		switch {
		case i < 0:
			return "", failf(zfs.NotFound, "cannot open '%s': dataset does not exist", s)
		case !d.snaps[i].mounted:
			return "", failf(zfs.NotMounted, "cannot unmount '%s': not currently mounted", s)
		case d.snaps[i].open > 0 && !force:
			return "", failf(zfs.Busy, "cannot unmount '%s/.zfs/snapshot/%s': pool or dataset is busy", d.mnt.path, s.Tag())
		}
		d.snaps[i].mounted = false
		return "", nil
	}
	return m.unmountBelow(d, force)
}

// unmountBelow unmounts d and what is below it.
func (m *Machine) unmountBelow(d *dataset, force bool) (says string, _ *failure) {
	if at, _ := d.mountpoint(); at == "legacy" {
		return "", failf(zfs.Usage, "cannot unmount '%s': legacy mountpoint\nuse umount(8) to unmount this filesystem", d.fullName())
	}
	if d.mnt == nil {
		return "", failf(zfs.NotMounted, "cannot unmount '%s': not currently mounted", d.fullName())
	}
	list, says := m.mountedBelow(d)
	return says, m.unmountAll(list, force)
}
