package zfs

import (
	"strconv"
	"strings"
)

// The functions Argv... give the command line that a method of [FS] is, from
// the name of the program on. zfs/real runs them, zfs/fake names them in its
// errors and zfs/fault writes them down, so that the three never disagree.

// ArgvCreate is the command line of [FS.Create].
func ArgvCreate(ds Dataset, opts CreateOptions) []string {
	argv := []string{"zfs", "create"}
	if opts.Parents {
		argv = append(argv, "-p")
	}
	return append(withProperties(argv, opts.Properties), ds.String())
}

// ArgvClone is the command line of [FS.Clone].
func ArgvClone(origin Snapshot, ds Dataset, props ...Property) []string {
	return append(withProperties([]string{"zfs", "clone"}, props), origin.String(), ds.String())
}

// ArgvSnapshot is the command line of [FS.Snapshot].
func ArgvSnapshot(recursive bool, snaps ...Snapshot) []string {
	argv := withFlags([]string{"zfs", "snapshot"}, flag{"-r", recursive})
	for _, s := range snaps {
		argv = append(argv, s.String())
	}
	return argv
}

// ArgvDestroy is the command line of [FS.Destroy].
func ArgvDestroy(target Name, mode DestroyMode) []string {
	argv := withFlags([]string{"zfs", "destroy"},
		flag{"-r", mode.Recursive && !mode.Dependents},
		flag{"-R", mode.Dependents},
		flag{"-f", mode.Force},
		flag{"-d", mode.Defer})
	return append(argv, target.String())
}

// ArgvSet is the command line of [FS.Set].
func ArgvSet(ds Dataset, props ...Property) []string {
	argv := []string{"zfs", "set"}
	for _, p := range props {
		argv = append(argv, p.String())
	}
	return append(argv, ds.String())
}

// ArgvInherit is the command line of [FS.Inherit].
func ArgvInherit(ds Dataset, property string, recursive bool) []string {
	return append(withFlags([]string{"zfs", "inherit"}, flag{"-r", recursive}), property, ds.String())
}

// ArgvMount is the command line of [FS.Mount].
func ArgvMount(target Name) []string {
	return []string{"zfs", "mount", target.String()}
}

// ArgvUnmount is the command line of [FS.Unmount].
func ArgvUnmount(target Name, force bool) []string {
	return append(withFlags([]string{"zfs", "unmount"}, flag{"-f", force}), target.String())
}

// ArgvPromote is the command line of [FS.Promote].
func ArgvPromote(ds Dataset) []string {
	return []string{"zfs", "promote", ds.String()}
}

// ArgvRename is the command line of [FS.Rename].
func ArgvRename(from, to Name, opts RenameOptions) []string {
	argv := withFlags([]string{"zfs", "rename"},
		flag{"-p", opts.Parents},
		flag{"-r", opts.Recursive},
		flag{"-f", opts.Force},
		flag{"-u", opts.NoRemount})
	return append(argv, from.String(), to.String())
}

// ArgvRollback is the command line of [FS.Rollback].
func ArgvRollback(to Snapshot, recursive bool) []string {
	return append(withFlags([]string{"zfs", "rollback"}, flag{"-r", recursive}), to.String())
}

// ArgvList is the command line of [FS.List]. Its first column is always the name.
func ArgvList(opts ListOptions) []string {
	argv := []string{"zfs", "list", "-Hp"}
	switch {
	case opts.Recursive && opts.Depth > 0:
		argv = append(argv, "-d", strconv.Itoa(opts.Depth))
	case opts.Recursive:
		argv = append(argv, "-r")
	case len(opts.Roots) == 0: // without names, zfs lists everything unless told not to
		argv = append(argv, "-d", "0")
	}
	types := opts.Types
	if len(types) == 0 {
		types = []Type{Filesystems}
	}
	names := make([]string, len(types))
	for i, t := range types {
		names[i] = string(t)
	}
	columns := strings.Join(append([]string{"name"}, opts.Properties...), ",")
	argv = append(argv, "-t", strings.Join(names, ","), "-o", columns)
	for _, root := range opts.Roots {
		argv = append(argv, root.String())
	}
	return argv
}

// ArgvGet is the command line of [FS.Get].
func ArgvGet(target Name, properties ...string) []string {
	return []string{"zfs", "get", "-Hp", "-o", "name,property,value,source", strings.Join(properties, ","), target.String()}
}

// ArgvPool is the command line of [FS.Pool].
func ArgvPool(pool string) []string {
	return []string{"zpool", "list", "-Hp", "-o", "size,allocated,free,capacity,health", pool}
}

type flag struct {
	name string
	on   bool
}

func withFlags(argv []string, flags ...flag) []string {
	for _, f := range flags {
		if f.on {
			argv = append(argv, f.name)
		}
	}
	return argv
}

func withProperties(argv []string, props []Property) []string {
	for _, p := range props {
		argv = append(argv, "-o", p.String())
	}
	return argv
}

// CommandLine writes argv as one would type it in a POSIX shell: arguments are
// quoted where the shell would otherwise read them differently.
func CommandLine(argv []string) string {
	var b strings.Builder
	for i, arg := range argv {
		if i > 0 {
			b.WriteByte(' ')
		}
		if plain(arg, i == 0) {
			b.WriteString(arg)
		} else {
			b.WriteString("'" + strings.ReplaceAll(arg, "'", `'\''`) + "'")
		}
	}
	return b.String()
}

// plain reports whether a shell reads arg as it is. A command with an '='
// would be an assignment.
func plain(arg string, command bool) bool {
	for i := 0; i < len(arg); i++ {
		c := arg[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
			strings.IndexByte("-_./:@,+%", c) >= 0 || c == '=' && !command) {
			return false
		}
	}
	return arg != ""
}
