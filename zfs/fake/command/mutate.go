package command

import (
	"strings"

	"obuilder.org/obuilder/zfs"
	"obuilder.org/obuilder/zfs/fake"
)

// takeProperty takes the argument of -o. If it is wrong it says how and gives false.
func (c *call) takeProperty(props *[]zfs.Property, arg string) bool {
	name, value, ok := strings.Cut(arg, "=")
	if !ok {
		c.errorf("missing '=' for property=value argument")
		return false
	}
	for _, p := range *props {
		if p.Name == name {
			c.errorf("property '%s' specified multiple times", name)
			return false
		}
	}
	*props = append(*props, zfs.Property{Name: name, Value: value})
	return true
}

// dataset reads the name of a file system that is to be made. If nothing can
// have it, it says so with what it was to be.
func (c *call) dataset(what, name string) (zfs.Dataset, bool) {
	text := wrongName(name, filesystem, true)
	if text == "" {
		ds, err := zfs.ParseDataset(name)
		if err == nil {
			return ds, true
		}
		switch {
		case tooDeep(name):
			text = "maximum name nesting depth exceeded"
		case strings.Contains(name, "/"):
			text = "no such pool '" + firstOf(name) + "'"
		default:
			text = "missing dataset name"
		}
	}
	c.errorf("%s '%s': %s", what, name, text)
	return zfs.Dataset{}, false
}

func tooDeep(name string) bool { return strings.Count(name, "/") >= zfs.MaxDepth }

// exists reports whether there is a file system of a name.
func (c *call) exists(ds zfs.Dataset) bool {
	_, err := c.m.List(c, zfs.ListOptions{Roots: []zfs.Name{ds}})
	return err == nil
}

// A creation is zfs create with its options.
type creation struct {
	name                                       string
	props                                      []zfs.Property
	parents, unmounted, dry, verbose, parsable bool
}

func (c *call) create(args []string) int {
	var n creation
	volumes, ofVolumes := false, false
	options, rest := getopt(args, "PV:b:nso:puv")
	for _, o := range options {
		switch {
		case o.missing:
			return c.usagef("missing size argument")
		case o.unknown:
			return c.wrong(o)
		}
		switch o.letter {
		case 'V':
			volumes = true
		case 's', 'b':
			ofVolumes = true
		case 'P':
			n.parsable, n.verbose = true, true
		case 'n':
			n.dry = true
		case 'o':
			if !c.takeProperty(&n.props, o.arg) {
				return 1
			}
		case 'p':
			n.parents = true
		case 'u':
			n.unmounted = true
		case 'v':
			n.verbose = true
		}
	}
	switch {
	case volumes:
		return c.notModelled("volumes")
	case ofVolumes:
		return c.usagef("'-s' and '-b' can only be used when creating a volume")
	case len(rest) == 0:
		return c.usagef("missing filesystem argument")
	case len(rest) > 1:
		return c.usagef("too many arguments")
	}
	n.name = rest[0]
	if n.dry {
		if status := c.checkCreation(&n); status != 0 {
			return status
		}
	}
	if n.parents && wrongName(n.name, filesystem, false) == "" {
		ds, err := zfs.ParseDataset(n.name)
		if err == nil && c.exists(ds) {
			return 0
		}
		c.sayCreates(&n, "create ancestors of "+n.name, "create_ancestors\t"+n.name)
		if !n.dry {
			if status := c.createAncestors(n.name); status != 0 {
				return status
			}
		}
	}
	c.sayCreates(&n, "create "+n.name, "create\t"+n.name)
	for _, p := range n.props {
		c.sayCreates(&n, "\t"+p.String(), "property\t"+p.Name+"\t"+p.Value)
	}
	if n.dry {
		return 0
	}
	ds, ok := c.dataset("cannot create", n.name)
	if !ok {
		return 1
	}
	create := c.m.Create
	if n.unmounted {
		create = c.m.CreateUnmounted
	}
	return c.ended(create(c, ds, zfs.CreateOptions{Properties: n.props}))
}

// checkCreation checks what is checked of a creation that is not to be: the pool
// and the properties.
func (c *call) checkCreation(n *creation) int {
	pool, _, _ := strings.Cut(n.name, "/")
	text := wrongPool(pool, false)
	if ds, err := zfs.ParseDataset(pool); text == "" && (err != nil || !c.exists(ds)) {
		text = "no such pool"
	}
	if text != "" {
		c.errorf("cannot open '%s': %s", pool, text)
		return 1
	}
	return c.ended(c.m.CheckProperties(c, n.name, n.props...))
}

// sayCreates prints what is about to be done, for people or for programs.
func (c *call) sayCreates(n *creation, human, parsable string) {
	switch {
	case !n.verbose:
		return
	case n.parsable:
		human = parsable
	case n.dry && strings.HasPrefix(human, "create "):
		human = "would " + human
	}
	_, _ = c.out.WriteString(human + "\n")
}

// createAncestors creates what is missing above a name.
func (c *call) createAncestors(name string) int {
	ds, ok := c.dataset("cannot create", name)
	if !ok {
		return 1
	}
	return c.ended(c.m.CreateAncestors(c, ds))
}

// firstOf gives the component of a name that is its pool.
func firstOf(name string) string {
	if i := strings.IndexAny(name, "/@#"); i >= 0 {
		return name[:i]
	}
	return name
}

// ended is failed where err may be nil.
func (c *call) ended(err error) int {
	if err == nil {
		return 0
	}
	return c.failed(err)
}

func (c *call) clone(args []string) int {
	var props []zfs.Property
	parents := false
	options, rest := getopt(args, "o:p")
	for _, o := range options {
		switch {
		case o.unknown || o.missing:
			return c.wrong(o)
		case o.letter == 'p':
			parents = true
		case o.letter == 'o':
			if !c.takeProperty(&props, o.arg) {
				return 1
			}
		}
	}
	if status, wrong := c.arguments(rest, "source dataset", "target dataset"); wrong {
		return status
	}
	origin, ok := c.find(rest[0], snapshot).(zfs.Snapshot)
	if !ok {
		return 1
	}
	if !parents && tooDeep(rest[1]) && wrongName(rest[1], filesystem, true) == "" {
		return c.notModelled("clones that are nested as deeply") // it does not check this
	}
	ds, ok := c.dataset("cannot create", rest[1])
	if !ok {
		return 1
	}
	if parents {
		if c.exists(ds) {
			return 0
		}
		if status := c.createAncestors(rest[1]); status != 0 {
			return status
		}
	}
	return c.ended(c.m.Clone(c, origin, ds, props...))
}

func (c *call) snapshot(args []string) int {
	var props []zfs.Property
	recursive := false
	options, rest := getopt(args, "ro:")
	for _, o := range options {
		switch {
		case o.unknown || o.missing:
			return c.wrong(o)
		case o.letter == 'r':
			recursive = true
		case o.letter == 'o':
			if !c.takeProperty(&props, o.arg) {
				return 1
			}
		}
	}
	if len(rest) == 0 {
		return c.usagef("missing snapshot argument")
	}
	var snaps []zfs.Snapshot
	wrong := ""
	for _, name := range rest {
		of, _, ok := strings.Cut(name, "@")
		if !ok || c.find(of, filesystem|volume) == nil {
			return c.usage(c.verb)
		}
		text := wrongName(name, snapshot, true)
		snap, err := zfs.ParseSnapshot(name)
		if text == "" && err != nil {
			text = "name is too long"
		}
		if text != "" && wrong == "" {
			wrong = "cannot create snapshot '" + name + "': " + text
		}
		snaps = append(snaps, snap)
	}
	if wrong != "" {
		c.errorf("%s", wrong)
		if recursive || len(rest) > 1 {
			c.errorf("no snapshots were created")
		}
		return 1
	}
	return c.ended(c.m.SnapshotWith(c, recursive, props, snaps...))
}

// dashed is for verbs without options: it refuses what looks like one.
func (c *call) dashed(args []string) (status int, refused bool) {
	if len(args) == 0 || !strings.HasPrefix(args[0], "-") {
		return 0, false
	}
	return c.wrong(option{letter: (args[0] + "\x00")[1]}), true // it prints the end of the string as well
}

func (c *call) promote(args []string) int {
	if status, refused := c.dashed(args); refused {
		return status
	}
	if status, wrong := c.arguments(args, "clone filesystem"); wrong {
		return status
	}
	ds, ok := c.find(args[0], filesystem|volume).(zfs.Dataset)
	if !ok {
		return 1
	}
	return c.ended(c.m.Promote(c, ds))
}

func (c *call) rename(args []string) int {
	var opts zfs.RenameOptions
	options, rest := getopt(args, "pruf")
	for _, o := range options {
		if o.unknown {
			return c.wrong(o)
		}
		switch o.letter {
		case 'p':
			opts.Parents = true
		case 'r':
			opts.Recursive = true
		case 'u':
			opts.NoRemount = true
		case 'f':
			opts.Force = true
		}
	}
	if status, wrong := c.arguments(rest, "source dataset", "target dataset"); wrong {
		return status
	}
	from, to := rest[0], rest[1]
	switch {
	case opts.Recursive && opts.Parents:
		return c.usagef("-p and -r options are mutually exclusive")
	case opts.NoRemount && opts.Parents:
		return c.usagef("-u and -p options are mutually exclusive")
	case opts.Recursive && !strings.Contains(from, "@"):
		return c.usagef("source dataset for recursive rename must be a snapshot")
	}
	kinds := anyDataset
	switch {
	case opts.NoRemount:
		kinds = filesystem
	case opts.Parents:
		kinds = filesystem | volume
	}
	switch source := c.find(from, kinds).(type) {
	case zfs.Snapshot:
		return c.renameSnapshot(source, to, opts)
	case zfs.Dataset:
		return c.renameDataset(source, to, opts)
	}
	return 1
}

func (c *call) renameDataset(source zfs.Dataset, to string, opts zfs.RenameOptions) int {
	if opts.Parents && wrongName(to, filesystem, false) == "" {
		if status := c.createAncestors(to); status != 0 {
			return status
		}
	}
	text := wrongName(to, filesystem, true)
	target, err := zfs.ParseDataset(to)
	switch {
	case text != "":
		c.errorf("cannot rename to '%s': %s", to, text)
	case err == nil:
		says, err := c.m.RenameWith(c, source, target, opts)
		return c.endedWith(says, err)
	case !tooDeep(to):
		c.dataset("cannot create", to)
	case c.parentExists(to):
		c.errorf("cannot rename '%s': dataset name is too long", source)
	default:
		c.errorf("cannot create '%s': parent does not exist", to)
	}
	return 1
}

func (c *call) parentExists(name string) bool {
	parent, err := zfs.ParseDataset(name[:strings.LastIndexByte(name, '/')])
	return err == nil && c.exists(parent)
}

// endedWith is ended of what may say something where it succeeds.
func (c *call) endedWith(says string, err error) int {
	if says != "" {
		c.errorf("%s", says)
	}
	return c.ended(err)
}

// renameSnapshot renames a snapshot to the name of one, with or without that
// of its dataset.
func (c *call) renameSnapshot(source zfs.Snapshot, to string, opts zfs.RenameOptions) int {
	if to == source.String() {
		return 0
	}
	whole := to
	of, tag, ok := strings.Cut(to, "@")
	switch {
	case !ok:
		whole = shortened(source.Dataset().String() + "@" + to)
	case of == "":
		whole = shortened(source.Dataset().String() + "@" + tag)
	case of != source.Dataset().String():
		c.errorf("cannot rename to '%s': snapshots must be part of same dataset", to)
		return 1
	}
	text := wrongName(whole, snapshot, true)
	target, err := zfs.ParseSnapshot(whole)
	switch {
	case text != "" || err != nil:
		c.errorf("cannot rename to '%s': %s", to, text)
		return 1
	case target == source && !opts.Recursive: // only the whole name is seen to be the same
		c.errorf("cannot rename '%s': dataset already exists", source)
		return 1
	}
	return c.ended(c.m.Rename(c, source, target, opts))
}

// shortened gives as much of a name as fits where zfs puts it together.
func shortened(name string) string { return name[:min(len(name), zfs.MaxNameLen)] }

func (c *call) rollback(args []string) int {
	var mode fake.RollbackOptions
	options, rest := getopt(args, "rRf")
	for _, o := range options {
		if o.unknown {
			return c.wrong(o)
		}
		switch o.letter {
		case 'r':
			mode.Recursive = true
		case 'R':
			mode.Dependents = true
		case 'f':
			mode.Force = true
		}
	}
	if status, wrong := c.arguments(rest, "dataset"); wrong {
		return status
	}
	snap, ok := c.find(rest[0], snapshot).(zfs.Snapshot)
	if !ok {
		return 1
	}
	says, err := c.m.RollbackWith(c, snap, mode)
	return c.endedWith(says, err)
}
