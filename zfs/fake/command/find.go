package command

import (
	"strings"

	"obuilder.org/obuilder/zfs"
)

// volume is a kind that there is nothing of here.
const volume kind = 1 << 3

const anyDataset = filesystem | volume | snapshot

// find is open of what exists, and is of one of kinds. If there is none it says
// so and gives nil.
func (c *call) find(name string, kinds kind) zfs.Name {
	target, ok := c.open(name, kinds)
	if !ok {
		return nil
	}
	is := filesystem
	if _, snap := target.(zfs.Snapshot); snap {
		is = snapshot
	}
	_, err := c.m.List(c, zfs.ListOptions{Roots: []zfs.Name{target}, Types: bothTypes})
	switch {
	case err != nil:
		c.errorf("cannot open '%s': dataset does not exist", name)
		return nil
	case is&kinds == 0:
		c.errorf("cannot open '%s': operation not applicable to datasets of this type", name)
		return nil
	}
	return target
}

var bothTypes = []zfs.Type{zfs.Filesystems, zfs.Snapshots}

// findPath is find of what may also be a path, which stands for the file
// system that it leads into.
func (c *call) findPath(name string, kinds kind) zfs.Name {
	if !strings.HasPrefix(name, "/") && !strings.HasPrefix(name, "./") {
		return c.find(name, kinds)
	}
	at, err := c.m.At(name)
	switch {
	case err != nil:
		c.errorf("cannot open '%s': %s", name, err)
		return nil
	case at == "":
		c.errorf("'%s': not a ZFS filesystem", name)
		return nil
	}
	return c.find(at, filesystem)
}
