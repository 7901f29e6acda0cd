package command

import (
	"fmt"
	"strings"
	"time"

	"obuilder.org/obuilder/zfs"
	"obuilder.org/obuilder/zfs/fake"
)

func (c *call) hold(args []string) int {
	recursive := false
	options, rest := getopt(args, "rt")
	for _, o := range options {
		switch {
		case o.unknown:
			return c.wrong(o)
		case o.letter == 't':
			return c.notModelled("hold -t")
		}
		recursive = true
	}
	if len(rest) < 2 {
		return c.usage(c.verb)
	}
	if strings.HasPrefix(rest[0], ".") {
		return c.usagef("tag may not start with '.'")
	}
	return c.onHeld(rest[1:], func(s zfs.Snapshot) error { return c.m.HoldSnapshot(c, rest[0], s, recursive) }, "cannot hold snapshot")
}

func (c *call) release(args []string) int {
	recursive := false
	options, rest := getopt(args, "r")
	for _, o := range options {
		if o.unknown {
			return c.wrong(o)
		}
		recursive = true
	}
	if len(rest) < 2 {
		return c.usage(c.verb)
	}
	return c.onHeld(rest[1:], func(s zfs.Snapshot) error { return c.m.ReleaseSnapshot(c, rest[0], s, recursive) }, "cannot release hold from snapshot")
}

// onHeld does something to snapshots, to each whatever becomes of the others.
func (c *call) onHeld(names []string, do func(zfs.Snapshot) error, what string) (status int) {
	for _, name := range names {
		of, _, ok := strings.Cut(name, "@")
		if !ok {
			c.errorf("'%s' is not a snapshot", name)
			status = 1
			continue
		}
		if c.find(of, filesystem|volume) == nil {
			status = 1
			continue
		}
		snap, err := zfs.ParseSnapshot(name)
		if err != nil { // it asks for it without a look at the name
			c.errorf("%s '%s': dataset does not exist", what, name)
			status = 1
			continue
		}
		if err := do(snap); err != nil {
			status = max(status, c.failed(err))
		}
	}
	return status
}

func (c *call) holds(args []string) (status int) {
	recursive, script := false, false
	options, rest := getopt(args, "rH")
	for _, o := range options {
		switch {
		case o.unknown:
			return c.wrong(o)
		case o.letter == 'r':
			recursive = true
		default:
			script = true
		}
	}
	if len(rest) == 0 {
		return c.usage(c.verb)
	}
	var held []fake.Held
	nameWidth, tagWidth := 0, 0
	found := false
	for _, name := range rest {
		of, _, ok := strings.Cut(name, "@")
		switch {
		case !ok:
			c.errorf("'%s' is not a snapshot", name)
			status = 1
			continue
		case recursive: // it looks for the dataset, and then at what is below
			ok = c.find(of, filesystem|volume) != nil
		default:
			ok = c.find(name, snapshot) != nil
		}
		snap, err := zfs.ParseSnapshot(name)
		if !ok || err != nil {
			status = 1
			continue
		}
		for _, s := range c.sameBelow(snap, recursive) {
			found = true
			nameWidth = max(nameWidth, len(s))
		}
		list, err := c.m.Holds(c, snap, recursive)
		if err != nil {
			status = max(status, c.failed(err))
		}
		for _, h := range list {
			tagWidth = max(tagWidth, len(h.Tag))
		}
		held = append(held, list...)
	}
	if !found {
		c.errorf("no datasets available")
	}
	if !script {
		fmt.Fprintf(c.out, "%-*s  %-*s  TIMESTAMP\n", nameWidth, "NAME", tagWidth, "TAG")
	}
	for _, h := range held {
		at := time.Unix(h.Since, 0)
		since := fmt.Sprintf("%s %2d%s", at.Format("Mon Jan _2"), at.Hour(), at.Format(":04 2006"))
		if script {
			fmt.Fprintf(c.out, "%s\t%s\t%s\n", h.Snapshot, h.Tag, since)
		} else {
			fmt.Fprintf(c.out, "%-*s  %-*s  %s\n", nameWidth, h.Snapshot, tagWidth, h.Tag, since)
		}
	}
	return status
}

// sameBelow gives the snapshots of one name: that of its dataset and, when
// recursive, those of all below it.
func (c *call) sameBelow(snap zfs.Snapshot, recursive bool) (names []string) {
	if !recursive {
		return []string{snap.String()}
	}
	rows, _ := c.m.List(c, zfs.ListOptions{Roots: []zfs.Name{snap.Dataset()}, Recursive: true, Types: []zfs.Type{zfs.Snapshots}})
	for _, row := range rows {
		if strings.HasSuffix(row.Name, "@"+snap.Tag()) {
			names = append(names, row.Name)
		}
	}
	return names
}
