package command

import (
	"strings"

	"obuilder.org/obuilder/zfs"
)

func (c *call) set(args []string) int {
	if len(args) > 0 && strings.HasPrefix(args[0], "-") {
		letter := byte(0)
		if len(args[0]) > 1 {
			letter = args[0][1]
		}
		return c.wrong(option{letter: letter})
	}
	switch {
	case len(args) == 0:
		return c.usagef("missing arguments")
	case len(args) == 1 && !strings.Contains(args[0], "="):
		return c.usagef("missing property=value argument(s)")
	}
	names := -1
	for i, arg := range args {
		switch isProperty := strings.Contains(arg, "="); {
		case isProperty && names >= 0:
			return c.usagef("invalid argument order")
		case !isProperty && names < 0:
			names = i
		}
	}
	if names < 0 {
		return c.usagef("missing dataset name(s)")
	}
	var props []zfs.Property
	for _, arg := range args[:names] {
		name, value, _ := strings.Cut(arg, "=")
		for _, p := range props {
			if p.Name == name {
				c.errorf("property '%s' specified multiple times", name)
				return 255
			}
		}
		props = append(props, zfs.Property{Name: name, Value: value})
	}
	rows, status := c.each(scope{kinds: anyDataset}, args[names:], nil)
	if len(props) == 0 {
		return status
	}
	return c.onEach(rows, status, func(target zfs.Name) error {
		if snap, ok := target.(zfs.Snapshot); ok {
			return c.m.SetSnapshot(c, snap, props...)
		}
		return c.m.Set(c, target.(zfs.Dataset), props...)
	})
}

// onEach does something to each of what was found, and goes on when it fails.
func (c *call) onEach(rows []zfs.Row, status int, do func(zfs.Name) error) int {
	for _, row := range rows {
		target, err := zfs.Parse(row.Name)
		if err == nil {
			err = do(target)
		}
		if err != nil {
			status = max(status, c.failed(err))
		}
	}
	return status
}

func (c *call) inherit(args []string) int {
	s := scope{kinds: anyDataset}
	recursive, received := false, false
	options, rest := getopt(args, "rS")
	for _, o := range options {
		switch {
		case o.unknown:
			return c.wrong(o)
		case o.letter == 'r':
			recursive = true
		case o.letter == 'S':
			received = true
		}
	}
	switch len(rest) {
	case 0:
		return c.usagef("missing property argument")
	case 1:
		return c.usagef("missing dataset argument")
	}
	property := rest[0]
	if err := c.m.CanInherit(property, received); err != nil {
		if zfs.IsKind(err, zfs.Usage) && !isKnown(property) {
			return c.usagef("invalid property '%s'", property)
		}
		return c.failed(err)
	}
	rows, status := c.each(s, rest[1:], nil)
	return c.onEach(rows, status, func(target zfs.Name) error {
		switch target := target.(type) {
		case zfs.Snapshot:
			return c.m.InheritSnapshot(c, target, property, recursive)
		case zfs.Dataset:
			if received {
				return c.m.InheritReceived(c, target, property, recursive)
			}
			return c.m.Inherit(c, target, property, recursive)
		}
		return nil
	})
}

func isKnown(property string) bool {
	_, ok := columnOf(property)
	return ok && !isWritten(property)
}
