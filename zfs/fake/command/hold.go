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
		if err != nil {
			text := wrongName(name, snapshot, false)
			if text == "" || c.verb == "release" { // which asks for the holds before it looks at the name
				text = "dataset does not exist"
			}
			c.errorf("%s '%s': %s", what, name, text)
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
	found := false
	nameWidth, tagWidth := len("NAME"), len("TAG")
	for _, name := range rest {
		if !strings.Contains(name, "@") {
			c.errorf("'%s' is not a snapshot", name)
			status = 1
			continue
		}
		snap, ok := c.find(name, snapshot).(zfs.Snapshot)
		if !ok {
			status = 1
			continue
		}
		found = true
		in, _ := c.m.SnapshotsOf(c, snap.Dataset(), snap.Tag(), zfs.DestroyMode{Recursive: recursive, Defer: true})
		for _, of := range in {
			nameWidth = max(nameWidth, len(of.Names[0]))
		}
		list, err := c.m.Holds(c, snap, recursive)
		if err != nil {
			status = max(status, c.failed(err))
		}
		held = append(held, list...)
	}
	if !found {
		c.errorf("no datasets available")
	}
	for _, h := range held {
		tagWidth = max(tagWidth, len(h.Tag))
	}
	if !script {
		fmt.Fprintf(c.out, "%-*s  %-*s  TIMESTAMP\n", nameWidth, "NAME", tagWidth, "TAG")
	}
	for _, h := range held {
		since := time.Unix(h.Since, 0).UTC().Format("Mon Jan _2 15:04 2006")
		if script {
			fmt.Fprintf(c.out, "%s\t%s\t%s\n", h.Snapshot, h.Tag, since)
		} else {
			fmt.Fprintf(c.out, "%-*s  %-*s  %s\n", nameWidth, h.Snapshot, tagWidth, h.Tag, since)
		}
	}
	return status
}
