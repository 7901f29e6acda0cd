package command

import (
	"fmt"
	"io/fs"
	"math/bits"
	"slices"
	"strconv"
	"strings"

	"obuilder.org/obuilder/zfs"
)

// zpoolVerb gives the function for a subcommand of zpool.
func zpoolVerb(name string) verb {
	switch name {
	case "create":
		return (*call).createPool
	case "destroy":
		return (*call).destroyPool
	case "list":
		return (*call).listPools
	case "get":
		return (*call).getPools
	case "set":
		return (*call).setPool
	case "status":
		return (*call).statusOfPools
	}
	return nil
}

// wrongPool gives what is wrong with the name of a pool, "" for nothing: of
// one that is there or, with create set, of a new one (pool_namecheck in
// zfs_namecheck.c, zpool_name_valid in libzfs_pool.c).
func wrongPool(name string, create bool) string {
	if len(name) > zfs.MaxNameLen {
		return "name is too long"
	}
	for i := range len(name) {
		if c := name[i]; c == '%' || !validByte(c) {
			return "invalid character '" + name[i:i+1] + "' in pool name"
		}
	}
	if name == "" || name[0] < 'A' || name[0] > 'Z' && name[0] < 'a' || name[0] > 'z' {
		return "name must begin with a letter"
	}
	for _, reserved := range []string{"mirror", "raidz", "draid"} {
		if name == reserved || create && strings.HasPrefix(name, reserved) {
			return "name is reserved"
		}
	}
	if create && (name == "log" || strings.HasPrefix(name, "spare")) {
		return "name is reserved"
	}
	return ""
}

// pools gives the pools of these names, or all, sorted and each once. It prints
// which are not there; status is then 1.
func (c *call) pools(names []string) (found []string, status int) {
	there := c.m.Pools()
	if len(names) == 0 {
		return there, 0
	}
	for _, name := range names {
		switch fault := wrongPool(name, false); {
		case fault != "":
			c.errorf("cannot open '%s': %s", name, fault)
			status = 1
		case !slices.Contains(there, name):
			c.errorf("cannot open '%s': no such pool", name)
			status = 1
		default:
			found = append(found, name)
		}
	}
	slices.Sort(found)
	return slices.Compact(found), status
}

// repeats reports whether the last of the names is how often to repeat.
func repeats(names []string) bool {
	if len(names) == 0 {
		return false
	}
	_, err := strconv.ParseFloat(names[len(names)-1], 64)
	return err == nil
}

func (c *call) createPool(args []string) int {
	var force, dry bool
	mountpoint, given := "", false
	var settings, props []zfs.Property
	options, rest := getopt(args, "fndR:m:o:O:t:")
	for _, o := range options {
		switch {
		case o.unknown:
			return c.wrong(o)
		case o.missing:
			return c.usagef("missing argument for '%c' option", o.letter)
		}
		switch o.letter {
		case 'f':
			force = true
		case 'n':
			dry = true
		case 'm':
			mountpoint, given = o.arg, true
		case 'o', 'O':
			name, value, ok := strings.Cut(o.arg, "=")
			if !ok {
				c.errorf("missing '=' for -%c option", o.letter)
				return 1
			}
			list := &props
			if o.letter == 'o' {
				list = &settings
			}
			if !c.addPoolProperty(list, name, value, o.letter == 'o') {
				return 1
			}
		default:
			return c.notModelled(fmt.Sprintf("-%c of zpool create", o.letter))
		}
	}
	switch len(rest) {
	case 0:
		return c.usagef("missing pool name argument")
	case 1:
		return c.usagef("missing vdev specification")
	}
	name, devices := rest[0], rest[1:]
	if strings.Contains(name, "/") {
		c.errorf("cannot create '%s': invalid character '/' in pool name\nuse 'zfs create' to create a dataset", name)
		return 1
	}
	size, status := c.vdevs(name, devices, force)
	if status != 0 {
		return status
	}
	if status := c.checkPoolMountpoint(name, mountpoint, given); status != 0 {
		return status
	}
	if given {
		props = slices.DeleteFunc(props, func(p zfs.Property) bool { return p.Name == "mountpoint" })
		props = append(props, zfs.Property{Name: "mountpoint", Value: mountpoint})
	}
	if dry {
		fmt.Fprintf(c.out, "would create '%s' with the following layout:\n\n\t%s\n", name, name)
		for _, d := range devices {
			fmt.Fprintf(c.out, "\t  %s\n", d)
		}
		return 0
	}
	if fault := wrongPool(name, true); fault != "" {
		c.errorf("cannot create '%s': %s\npool name may have been omitted", name, fault)
		return 1
	}
	if err := c.m.CreatePool(c, name, size, devices, settings, props...); err != nil {
		return c.failed(err)
	}
	return 0
}

// addPoolProperty takes one of the properties of a new pool or, unless pool is set,
// of its file system. If that is wrong it says so and gives false.
func (c *call) addPoolProperty(list *[]zfs.Property, name, value string, pool bool) bool {
	if pool {
		col, ok := poolColumnOf(name)
		if !ok {
			c.errorf("property '%s' is not a valid pool property", name)
			return false
		}
		name = col.name
	} else {
		col, ok := columnOf(name)
		if !ok && !ofSpace(name) {
			c.errorf("property '%s' is not a valid filesystem property", name)
			return false
		}
		if ok {
			name = col.name
		}
	}
	if slices.ContainsFunc(*list, func(p zfs.Property) bool { return p.Name == name }) {
		c.errorf("property '%s' specified multiple times", name)
		return false
	}
	*list = append(*list, zfs.Property{Name: name, Value: value})
	return true
}

const (
	minDevice = 64 << 20
	labels    = 4<<20 + 1<<19 // of a device, at both ends
)

// vdevs checks what a pool is to be made of, and gives its size.
func (c *call) vdevs(name string, devices []string, force bool) (size uint64, status int) {
	var used []string
	other := "" // a kind of vdev that is not modelled
	tooSmall, twice := false, false
	for i, d := range devices {
		if isVdevKind(d) {
			other = d
			continue
		}
		if !strings.HasPrefix(d, "/") {
			c.errorf("cannot open '%s': no such device in /dev\nmust be a full path or shorthand device name", d)
			return 0, 1
		}
		info, err := c.m.Files().Lstat(d)
		switch {
		case err != nil:
			c.errorf("cannot resolve path '%s'", d)
			return 0, 1
		case info.Mode()&fs.ModeType != 0:
			c.errorf("cannot use '%s': must be a block device or regular file", d)
			return 0, 1
		}
		for _, pool := range c.m.Pools() {
			if slices.Contains(c.m.Devices(pool), d) {
				used = append(used, d+" is part of active pool '"+pool+"'")
			}
		}
		twice = twice || slices.Contains(devices[:i], d)
		if info.Size() < minDevice {
			tooSmall = true
			continue
		}
		size += deviceSize(uint64(info.Size()))
	}
	switch {
	case len(used) > 0:
		what := "use '-f' to override the following errors:"
		if force {
			what = "the following errors must be manually repaired:"
		}
		c.errorf("invalid vdev specification\n%s\n%s", what, strings.Join(used, "\n"))
		return 0, 1
	case other != "":
		return 0, c.notModelled("vdevs that are " + other)
	case twice:
		c.errorf("cannot create '%s': one or more vdevs refer to the same device, or one of\nthe devices is part of an active md or lvm device", name)
		return 0, 1
	case tooSmall:
		c.errorf("cannot create '%s': one or more devices is less than the minimum size (64M)", name)
		return 0, 1
	}
	return size, 0
}

// isVdevKind reports whether an argument says how the devices after it make a vdev.
func isVdevKind(arg string) bool {
	switch arg {
	case "mirror", "spare", "log", "cache", "special", "dedup":
		return true
	}
	return strings.HasPrefix(arg, "raidz") || strings.HasPrefix(arg, "draid")
}

// deviceSize is what a device of so many bytes is to a pool: whole metaslabs
// (vdev_metaslab_set_size in vdev.c).
func deviceSize(bytes uint64) uint64 {
	const minCount, maxCount, minShift, usualShift, maxShift = 16, 200, 24, 29, 34
	size := bytes&^(256<<10-1) - labels
	shift := usualShift
	switch count := size >> usualShift; {
	case count < minCount:
		shift = bits.Len64(size / minCount)
	case count > maxCount:
		shift = bits.Len64(size / maxCount)
	}
	shift = min(max(shift, minShift), maxShift)
	return size >> shift << shift
}

// checkPoolMountpoint checks where the file system of a new pool is to be mounted.
func (c *call) checkPoolMountpoint(name, mountpoint string, given bool) int {
	const hint = "use '-m' option to provide a different default"
	switch {
	case !given:
		mountpoint = "/" + name
	case mountpoint == "none", mountpoint == "legacy":
		return 0
	case !strings.HasPrefix(mountpoint, "/"):
		c.errorf("invalid mountpoint '%s': must be an absolute path, 'legacy', or 'none'", mountpoint)
		return 1
	}
	info, err := c.m.Files().Lstat(mountpoint)
	if err != nil {
		return 0
	}
	if !info.IsDir() {
		c.errorf("mountpoint '%s' : Not a directory\n%s", mountpoint, hint)
		return 1
	}
	tree, err := c.m.Files().Tree(mountpoint)
	if err != nil {
		return c.failed(err)
	}
	defer tree.Close()
	entries, err := tree.ReadDir(".")
	if err != nil {
		return c.failed(err)
	}
	if len(entries) > 0 {
		c.errorf("mountpoint '%s' exists and is not empty\n%s", mountpoint, hint)
		return 1
	}
	return 0
}

func (c *call) destroyPool(args []string) int {
	force := false
	options, rest := getopt(args, "f")
	for _, o := range options {
		if o.unknown {
			return c.wrong(o)
		}
		force = true
	}
	if status, wrong := c.arguments(rest, "pool"); wrong {
		return status
	}
	if _, status := c.pools(rest); status != 0 {
		if strings.Contains(rest[0], "/") {
			c.errorf("use 'zfs destroy' to destroy a dataset")
		}
		return status
	}
	if err := c.m.DestroyPool(c, rest[0], force); err != nil {
		return c.failed(err)
	}
	return 0
}

func (c *call) setPool(args []string) int {
	switch {
	case len(args) > 0 && strings.HasPrefix(args[0], "-") && len(args[0]) > 1:
		return c.wrong(option{letter: args[0][1]})
	case len(args) < 1:
		return c.usagef("missing property=value argument")
	case len(args) < 2:
		return c.usagef("missing pool name")
	case len(args) > 2:
		return c.usagef("too many pool names")
	}
	property, value, ok := strings.Cut(args[0], "=")
	if !ok {
		return c.usagef("missing value in property=value argument")
	}
	found, status := c.pools(args[1:])
	for _, pool := range found {
		if strings.HasPrefix(property, "feature@") {
			return c.notModelled("property " + property)
		}
		if err := c.m.SetPool(c, pool, c.poolProperty(property), value); err != nil {
			status = max(status, c.failed(err))
		}
	}
	return status
}

// poolProperty gives the name of a property of pools of which name is one.
func (c *call) poolProperty(name string) string {
	if col, ok := poolColumnOf(name); ok {
		return col.name
	}
	return name
}

func (c *call) statusOfPools(args []string) int {
	unhealthy := false
	options, names := getopt(args, "c:igLpPstT:vxD")
	for _, o := range options {
		switch {
		case o.unknown:
			return c.wrong(o)
		case o.missing:
			return c.usagef("missing argument for '%c' option", o.letter)
		}
		switch o.letter {
		case 'x':
			unhealthy = true
		case 'v', 'L', 'P', 'p':
		default:
			return c.notModelled(fmt.Sprintf("-%c of zpool status", o.letter))
		}
	}
	if repeats(names) {
		return c.notModelled("zpool status again and again")
	}
	found, status := c.pools(names)
	if len(names) == 0 {
		switch {
		case len(found) == 0:
			c.errorf("no pools available")
			return 0
		case unhealthy:
			_, _ = c.out.WriteString("all pools are healthy\n")
			return 0
		}
	}
	for i, pool := range found {
		if unhealthy {
			fmt.Fprintf(c.out, "pool '%s' is healthy\n", pool)
			continue
		}
		if i > 0 {
			_ = c.out.WriteByte('\n')
		}
		devices := c.m.Devices(pool)
		width := max(len(pool), 10)
		for _, d := range devices {
			width = max(width, len(d)+2)
		}
		fmt.Fprintf(c.out, "  pool: %s\n state: ONLINE\nconfig:\n\n\t%-*s  %-8s %5s %5s %5s\n", pool, width, "NAME", "STATE", "READ", "WRITE", "CKSUM")
		line := func(name string) {
			fmt.Fprintf(c.out, "\t%-*s  %-8s %5d %5d %5d\n", width, name, "ONLINE", 0, 0, 0)
		}
		line(pool)
		for _, d := range devices {
			line("  " + d)
		}
		_, _ = c.out.WriteString("\nerrors: No known data errors\n")
	}
	return status
}
