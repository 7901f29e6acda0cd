package command

import (
	"fmt"
	"strings"

	"obuilder.org/obuilder/zfs"
)

// A destruction is zfs destroy with its options.
type destruction struct {
	mode                   zfs.DestroyMode
	dry, verbose, parsable bool
}

func (c *call) destroy(args []string) int {
	var d destruction
	options, rest := getopt(args, "vpndfrR")
	for _, o := range options {
		if o.unknown {
			return c.wrong(o)
		}
		switch o.letter {
		case 'v':
			d.verbose = true
		case 'p':
			d.verbose, d.parsable = true, true
		case 'n':
			d.dry = true
		case 'd':
			d.mode.Defer = true
		case 'f':
			d.mode.Force = true
		case 'r':
			d.mode.Recursive = true
		case 'R':
			d.mode.Recursive, d.mode.Dependents = true, true
		}
	}
	switch len(rest) {
	case 0:
		return c.usagef("missing dataset argument")
	case 1:
	default:
		return c.usagef("too many arguments")
	}
	name := rest[0]
	if of, spec, ok := strings.Cut(name, "@"); ok {
		return c.destroySnapshots(d, of, spec)
	}
	if strings.Contains(name, "#") {
		return c.notModelled("bookmarks")
	}
	kinds := filesystem | volume
	if d.mode.Defer {
		kinds = snapshot
	}
	ds, ok := c.find(name, kinds).(zfs.Dataset)
	if !ok {
		return 1
	}
	if err := c.m.CheckDestroy(c, ds, d.mode); err != nil {
		return c.failed(err)
	}
	if d.verbose {
		for _, name := range c.m.Dependents(ds) {
			c.say(d, name)
		}
		c.say(d, name)
	}
	if d.dry {
		return 0
	}
	return c.ended(c.m.Destroy(c, ds, d.mode))
}

// say prints what is going to be destroyed.
func (c *call) say(d destruction, name string) {
	switch {
	case d.parsable:
		fmt.Fprintf(c.out, "destroy\t%s\n", name)
	case d.dry:
		fmt.Fprintf(c.out, "would destroy %s\n", name)
	default:
		fmt.Fprintf(c.out, "will destroy %s\n", name)
	}
}

// destroySnapshots destroys the snapshots of a file system that spec names.
func (c *call) destroySnapshots(d destruction, of, spec string) int {
	ds, ok := c.find(of, filesystem|volume).(zfs.Dataset)
	if !ok {
		return 1
	}
	found, err := c.m.SnapshotsOf(c, ds, spec, d.mode)
	if err != nil {
		return c.failed(err)
	}
	blocked := false
	for _, of := range found {
		if of.Cloned != "" { // from here on, nothing is going to be destroyed
			blocked, d.dry = true, true
			c.errorf("%s", of.Cloned)
		}
		for _, name := range of.Names {
			if d.verbose {
				c.say(d, name)
			}
		}
	}
	switch {
	case blocked:
		return 1
	case len(found) == 0:
		c.errorf("could not find any snapshots to destroy; check snapshot names.")
		return 1
	}
	if d.verbose {
		var bytes uint64
		for _, of := range found {
			bytes += of.Reclaims
		}
		switch {
		case d.parsable:
			fmt.Fprintf(c.out, "reclaim\t%d\n", bytes)
		case d.dry:
			fmt.Fprintf(c.out, "would reclaim %s\n", zfs.FormatSize(bytes))
		default:
			fmt.Fprintf(c.out, "will reclaim %s\n", zfs.FormatSize(bytes))
		}
	}
	if d.dry {
		return 0
	}
	if d.verbose && d.mode.Dependents {
		for _, name := range c.m.ClonesOf(ds, spec, d.mode) {
			c.say(d, name)
		}
	}
	return c.ended(c.m.DestroySnapshots(c, ds, spec, d.mode))
}
