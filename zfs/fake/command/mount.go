package command

import (
	"fmt"
	"slices"
	"strings"

	"obuilder.org/obuilder/zfs"
	"obuilder.org/obuilder/zfs/fake"
)

func (c *call) mount(args []string) int {
	all := false
	options, rest := getopt(args, ":alvo:Of")
	for _, o := range options {
		switch {
		case o.missing:
			return c.usagef("missing argument for '%c' option", o.letter)
		case o.unknown:
			return c.wrong(o)
		}
		switch o.letter {
		case 'a':
			all = true
		case 'l', 'o':
			return c.notModelled(fmt.Sprintf("mount -%c", o.letter))
		}
	}
	switch {
	case all && len(rest) > 0:
		return c.usagef("too many arguments")
	case all:
		return c.mountAll()
	case len(rest) == 0:
		for _, at := range c.m.Mounts() {
			fmt.Fprintf(c.out, "%-30s  %s\n", at.Name, at.Path)
		}
		return 0
	case len(rest) > 1:
		return c.usagef("too many arguments")
	}
	target := c.toMount(rest[0])
	if target == nil {
		return 1
	}
	return c.ended(c.m.Mount(c, target))
}

// toMount finds what is to be mounted or unmounted: on a Mac, also a snapshot.
func (c *call) toMount(name string) zfs.Name {
	if c.m.MountsSnapshots() && strings.Contains(name, "@") {
		target, _ := c.open(name, snapshot)
		return target
	}
	return c.find(name, filesystem)
}

// mountAll mounts what is not mounted and is to be, outermost first.
func (c *call) mountAll() (status int) {
	rows, err := c.m.List(c, zfs.ListOptions{Recursive: true, Properties: []string{"mountpoint", "mounted", "canmount"}})
	if err != nil {
		return c.failed(err)
	}
	rows = slices.DeleteFunc(rows, func(row zfs.Row) bool {
		return !strings.HasPrefix(row.Values[0], "/") || row.Values[1] == "yes" || row.Values[2] != "on"
	})
	slices.SortStableFunc(rows, func(a, b zfs.Row) int { return comparePaths(a.Values[0], b.Values[0]) })
	for _, row := range rows {
		if err := c.m.Mount(c, zfs.MustDataset(row.Name)); err != nil {
			status = max(status, c.failed(err))
		}
	}
	return status
}

// comparePaths orders paths so that each comes before what is below it
// (mountpoint_cmp in libzfs_mount.c).
func comparePaths(a, b string) int {
	return strings.Compare(strings.ReplaceAll(a, "/", "\x00"), strings.ReplaceAll(b, "/", "\x00"))
}

func (c *call) unmount(args []string) int {
	all, force := false, false
	options, rest := getopt(args, "afu")
	for _, o := range options {
		if o.unknown {
			return c.wrong(o)
		}
		switch o.letter {
		case 'a':
			all = true
		case 'f':
			force = true
		case 'u':
			return c.notModelled("unmount -u")
		}
	}
	switch {
	case all && len(rest) > 0:
		return c.usagef("too many arguments")
	case all:
		return c.unmountAll(force)
	case len(rest) == 0:
		return c.usagef("missing filesystem argument")
	case len(rest) > 1:
		return c.usagef("too many arguments")
	}
	if strings.HasPrefix(rest[0], "/") {
		return c.unmountPath(rest[0], force)
	}
	target := c.toMount(rest[0])
	if target == nil {
		return 1
	}
	return c.ended(c.m.Unmount(c, target, force))
}

// unmountAll unmounts each file system that is mounted, by its path and from
// the last path to the first, and goes on when one is busy.
func (c *call) unmountAll(force bool) (status int) {
	mounts := c.m.Mounts()
	slices.SortFunc(mounts, func(a, b fake.Mounted) int { return strings.Compare(b.Path, a.Path) })
	for _, at := range mounts {
		values, err := c.m.Get(c, zfs.MustDataset(at.Name), "canmount", "mountpoint")
		if err != nil || values[0].Value == "noauto" || !strings.HasPrefix(values[1].Value, "/") {
			continue
		}
		if err := c.m.UnmountOne(c, zfs.MustDataset(at.Name), force); err != nil {
			status = max(status, c.failed(err))
		}
	}
	return status
}

// unmountPath unmounts the file system that is mounted on a path. Which one
// that is is found as zfs does it: by asking, for each mount, whether its path
// is on the same file system.
func (c *call) unmountPath(path string, force bool) int {
	if _, err := c.m.At(path); err != nil {
		c.errorf("cannot open '%s': %v", path, err)
		c.errorf("warning: %s not in/proc/self/mounts", path)
		c.errorf("%s: %v", path, err)
		return 1
	}
	for _, at := range c.m.Mounts() {
		same, here, err := c.m.SamePlace(at.Path, path)
		switch {
		case err != nil || !same:
			continue
		case !here:
			c.errorf("cannot unmount '%s': not a mountpoint", path)
			return 1
		}
		return c.ended(c.m.Unmount(c, zfs.MustDataset(at.Name), force))
	}
	c.errorf("cannot unmount '%s': not a ZFS filesystem", path)
	return 1
}
