package fault

import (
	"slices"
	"strings"

	"obuilder.org/obuilder/zfs"
)

// verbs are the commands that there are, as rules name them. zpool-list is
// zpool list.
var verbs = []string{
	"clone", "create", "destroy", "get", "inherit", "list", "mount", "promote",
	"rename", "rollback", "set", "snapshot", "unmount", "zpool-list",
}

// Verbs names the commands that a rule can be for: those of zfs as they are,
// and zpool-list.
func Verbs() []string { return slices.Clone(verbs) }

// A command is a command line of zfs.FS, taken apart.
type command struct {
	argv      []string
	verb      string
	recursive bool // -r or -R
	noRemount bool // -u
	props     []string
	// targets are what it is about: all names but the origin of a clone.
	targets []string
}

// withArgument are the options that have one.
var withArgument = []string{"-o", "-t", "-d"}

// parseCommand takes apart what the functions zfs.Argv... give.
func parseCommand(argv []string) command {
	c := command{argv: argv, verb: argv[1]}
	if argv[0] == "zpool" {
		c.verb = "zpool-list"
	}
	args := argv[2:]
	for len(args) > 0 && strings.HasPrefix(args[0], "-") {
		switch option := args[0]; {
		case slices.Contains(withArgument, option) && !(c.verb == "destroy") && len(args) > 1:
			if option == "-o" {
				c.property(args[1])
			}
			args = args[1:]
		case option == "-r", option == "-R":
			c.recursive = true
		case option == "-u":
			c.noRemount = true
		}
		args = args[1:]
	}
	switch c.verb {
	case "set":
		for len(args) > 1 {
			c.property(args[0])
			args = args[1:]
		}
	case "inherit", "get":
		c.props = append(c.props, strings.Split(args[0], ",")...)
		args = args[1:]
	case "clone":
		args = args[1:]
	}
	c.targets = args
	return c
}

func (c *command) property(assignment string) {
	name, _, _ := strings.Cut(assignment, "=")
	c.props = append(c.props, name)
}

// dataset gives the one dataset that the command is about; ok is false when
// that is a snapshot, or more than one.
func (c *command) dataset() (zfs.Dataset, bool) {
	if len(c.targets) == 0 || len(c.targets) > 1 && c.verb != "rename" {
		return zfs.Dataset{}, false
	}
	ds, err := zfs.ParseDataset(c.targets[0])
	return ds, err == nil
}

// snapshot gives the one snapshot that the command is about.
func (c *command) snapshot() (zfs.Snapshot, bool) {
	if len(c.targets) == 0 || len(c.targets) > 1 && c.verb != "rename" {
		return zfs.Snapshot{}, false
	}
	s, err := zfs.ParseSnapshot(c.targets[0])
	return s, err == nil
}

// name gives what an error of the command names.
func (c *command) name() string {
	if len(c.targets) == 0 {
		return ""
	}
	return c.targets[0]
}
