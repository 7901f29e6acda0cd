package command

import (
	"fmt"
	"strings"

	"obuilder.org/obuilder/zfs"
)

func (c *call) mount(args []string) int {
	all, over, withOptions := false, false, false
	options, rest := getopt(args, ":alvo:Of")
	for _, o := range options {
		switch {
		case o.missing:
			return c.usagef("missing argument for '%c' option", o.letter)
		case o.unknown:
			return c.wrong(o)
		}
		switch o.letter { // of the others, -v is for what takes long, -l for keys and -f for what is redacted
		case 'a':
			all = true
		case 'O':
			over = true
		case 'o':
			if o.arg == "" {
				return c.usagef("empty mount options (-o) specified")
			}
			withOptions = true
		}
	}
	switch {
	case all && len(rest) > 0, len(rest) > 1:
		return c.usagef("too many arguments")
	case withOptions && !all && len(rest) == 0:
		return c.usagef("missing filesystem argument (specify -a for all)")
	case withOptions:
		return c.notModelled("options of mounts")
	case all:
		return c.ended(c.m.MountAll(c, over))
	case len(rest) == 0:
		for _, at := range c.m.Mounts() {
			fmt.Fprintf(c.out, "%-30s  %s\n", at.Name, at.Path)
		}
		return 0
	}
	target := c.toMount(rest[0])
	switch {
	case target == nil:
		return 1
	case over:
		return c.ended(c.m.MountOver(c, target))
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

func (c *call) unmount(args []string) int {
	all, force := false, false
	options, rest := getopt(args, "afu")
	for _, o := range options {
		if o.unknown {
			return c.wrong(o)
		}
		switch o.letter { // -u is for keys
		case 'a':
			all = true
		case 'f':
			force = true
		}
	}
	switch {
	case all && len(rest) > 0, len(rest) > 1:
		return c.usagef("too many arguments")
	case all:
		return c.ended(c.m.UnmountAll(c, force))
	case len(rest) == 0:
		return c.usagef("missing filesystem argument")
	case strings.HasPrefix(rest[0], "/"):
		says, err := c.m.UnmountPath(c, rest[0], force)
		return c.endedWith(says, err)
	}
	target := c.toMount(rest[0])
	if target == nil {
		return 1
	}
	says, err := c.m.UnmountWith(c, target, force)
	return c.endedWith(says, err)
}
