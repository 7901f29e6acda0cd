package command

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"obuilder.org/obuilder/zfs"
)

// A scope is which datasets a verb is about (zfs_iter.c).
type scope struct {
	kinds    kind
	recurse  bool
	limited  bool // to depth levels
	depth    int
	paths    bool // names may be paths
	optional bool // snapshots are listed where their pool's listsnapshots says so
	byName   bool // snapshots are in the order of their names, not of their creation
}

// setDepth takes the argument of -d. If that is wrong it says how and gives false.
func (s *scope) setDepth(c *call, arg string) bool {
	n, err := strconv.ParseInt(arg, 0, 32)
	switch {
	case err != nil && arg != "": // as strtol(3) has it
		c.errorf("%s is not an integer", arg)
		return false
	case n < 0:
		c.errorf("Depth can not be negative.")
		return false
	}
	s.recurse, s.limited, s.depth = true, true, int(n)
	return true
}

// subOptions calls f for each of what is between commas, as getsubopt(3) does:
// with its name and, for what is to be said of a wrong one, as it was written.
func subOptions(arg string, f func(name, whole string) bool) bool {
	for arg != "" {
		var whole string
		whole, arg, _ = strings.Cut(arg, ",")
		name, _, _ := strings.Cut(whole, "=")
		if !f(name, whole) {
			return false
		}
	}
	return true
}

// setKinds takes the argument of -t. If that is wrong it says how and gives false.
func (s *scope) setKinds(c *call, arg string) bool {
	s.kinds, s.optional = 0, false
	return subOptions(arg, func(name, whole string) bool {
		switch name {
		case "filesystem":
			s.kinds |= filesystem
		case "volume":
			s.kinds |= volume
		case "snapshot", "snap":
			s.kinds |= snapshot
		case "bookmark":
			s.kinds |= bookmark
		case "all":
			s.kinds = anyDataset | bookmark
		default:
			c.errorf("invalid type '%s'", whole)
			return false
		}
		return true
	})
}

// ofNamed makes it about the snapshots of what is named, where it is about
// snapshots only.
func (s *scope) ofNamed(named bool) {
	if named && !s.recurse && (s.kinds == snapshot || s.kinds == bookmark) {
		s.recurse, s.limited, s.depth = true, true, 1
	}
}

// each gives what is in scope, below the names or everywhere, each once and
// sorted, with some properties. It prints which names are not there; status is
// then 1.
func (c *call) each(s scope, names []string, properties []string) (rows []zfs.Row, status int) {
	opts := zfs.ListOptions{Recursive: s.recurse, Depth: s.depth, Properties: append(slices.Clip(properties), "createtxg")}
	var snaps []zfs.Name
	for _, name := range names {
		kinds := s.kinds
		if s.recurse {
			kinds |= filesystem
			if s.kinds&(snapshot|bookmark) != 0 {
				kinds |= volume
			}
		}
		find := c.find
		if s.paths {
			find = c.findPath
		}
		switch target := find(name, kinds).(type) {
		case nil:
			status = 1
		case zfs.Snapshot:
			snaps = append(snaps, target)
		default:
			opts.Roots = append(opts.Roots, target)
		}
	}
	if len(names) == 0 {
		opts.Recursive = true
	}
	if s.limited && s.depth == 0 {
		opts.Recursive = false
	}
	if s.kinds&filesystem != 0 {
		opts.Types = append(opts.Types, zfs.Filesystems)
	}
	all := c.m.Pools()
	optional := slices.DeleteFunc(slices.Clone(all), func(pool string) bool {
		value, _ := c.m.PoolSetting(pool, "listsnapshots")
		return value != "on"
	})
	wanted := s.kinds&snapshot != 0
	if s.optional {
		wanted = len(optional) > 0
	}
	if wanted && opts.Recursive {
		opts.Types = append(opts.Types, zfs.Snapshots)
	}
	list := func(opts zfs.ListOptions) {
		found, err := c.m.List(c, opts)
		if err != nil {
			status = c.failed(err)
		}
		rows = append(rows, found...)
	}
	if len(opts.Types) > 0 && (len(names) == 0 || len(opts.Roots) > 0) {
		list(opts)
	}
	if s.optional && len(optional) < len(all) {
		rows = slices.DeleteFunc(rows, func(row zfs.Row) bool {
			of, _, snap := strings.Cut(row.Name, "@")
			pool, _, _ := strings.Cut(of, "/")
			return snap && !slices.Contains(optional, pool)
		})
	}
	if len(snaps) > 0 {
		opts.Roots, opts.Recursive, opts.Types = snaps, false, bothTypes
		list(opts)
	}
	sortRows(rows, len(properties), s.byName)
	return slices.CompactFunc(rows, func(a, b zfs.Row) bool { return a.Name == b.Name }), status
}

// sortRows sorts rows as zfs_compare does: by name, snapshots after their
// dataset and by createtxg, which is in a column.
func sortRows(rows []zfs.Row, column int, byName bool) {
	slices.SortStableFunc(rows, func(a, b zfs.Row) int {
		of, tag, aSnap := strings.Cut(a.Name, "@")
		other, otherTag, bSnap := strings.Cut(b.Name, "@")
		switch {
		case of != other:
			return strings.Compare(of, other)
		case aSnap && bSnap && byName:
			return strings.Compare(tag, otherTag)
		case aSnap && bSnap:
			return compareNumbers(a.Values[column], b.Values[column])
		case aSnap:
			return 1
		case bSnap:
			return -1
		}
		return 0
	})
}

func compareNumbers(a, b string) int {
	x, _ := strconv.ParseFloat(a, 64)
	y, _ := strconv.ParseFloat(b, 64)
	if x == y { // also what is not exact, such as guids
		return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b))
	}
	return cmp.Compare(x, y)
}

// A shown property is one of those that are asked for.
type shown struct {
	column
	all   bool // by asking for all of them
	width int
}

// properties reads a list of properties. all says that it is all of them. If
// one is wrong it says so and gives false.
func (c *call) properties(list string) (asked []shown, all, ok bool) {
	if list == "all" {
		asked = append(asked, shown{column: nameColumn, all: true, width: nameColumn.width})
		for _, col := range columns {
			asked = append(asked, shown{column: col, all: true, width: col.width})
		}
		return asked, true, true
	}
	const bad = "bad property list: "
	if list == "" {
		c.errorf(bad + "no properties specified")
		return nil, false, false
	}
	ok = true
	for list != "" && ok {
		var name string
		name, list, _ = strings.Cut(list, ",")
		switch name {
		case "":
			c.errorf(bad + "empty property name")
			return nil, false, false
		case "space":
			for _, name := range []string{"name", "avail", "used", "usedbysnapshots", "usedbydataset", "usedbyrefreservation", "usedbychildren"} {
				col, _ := columnOf(name)
				asked = append(asked, shown{column: col, width: col.width})
			}
			continue
		}
		col, known := columnOf(name)
		if !known {
			if ofSpace(name) {
				c.notModelled("property " + name)
			} else {
				c.errorf(bad+"invalid property '%s'", name)
			}
			return nil, false, false
		}
		asked = append(asked, shown{column: col, width: col.width})
	}
	return asked, false, ok
}

// withUsers appends the properties of users that some of the rows have.
func (c *call) withUsers(asked []shown, rows []zfs.Row) []shown {
	for _, row := range rows {
		for _, v := range c.users(row.Name) {
			if slices.ContainsFunc(asked, func(s shown) bool { return s.name == v.Property }) {
				continue
			}
			col, _ := columnOf(v.Property)
			asked = append(asked, shown{column: col, all: true, width: col.width})
		}
	}
	return asked
}

func (c *call) users(name string) []zfs.Value {
	target, err := zfs.Parse(name)
	if err != nil {
		return nil
	}
	values, err := c.m.UserProperties(c, target)
	if err != nil {
		return nil
	}
	return values
}

// written gives what was written to name since a snapshot, as written@ has it.
func (c *call) written(name, property string) (value string, ok bool) {
	target, err := zfs.Parse(name)
	if err != nil || strings.HasPrefix(property, "written#") {
		return "-", false
	}
	of, _, _ := strings.Cut(name, "@")
	since := strings.TrimPrefix(property, "written@")
	if !strings.Contains(since, "@") {
		since = of + "@" + since
	}
	from, err := zfs.ParseSnapshot(since)
	if err != nil {
		return "-", false
	}
	n, ok := c.m.WrittenSince(target, from)
	if !ok {
		return "-", false
	}
	return strconv.FormatUint(n, 10), true
}

// sorting is a column to sort by.
type sorting struct {
	column
	reverse bool
}

// sortBy sorts rows, which are in the usual order, by columns whose values
// begin at one place (zfs_sort in zfs_iter.c).
func sortBy(rows []zfs.Row, by []sorting, at int) {
	slices.SortStableFunc(rows, func(a, b zfs.Row) int {
		for i, s := range by {
			x, y := a.Values[at+i], b.Values[at+i]
			order := 0
			switch none := "-"; {
			case x == none && y == none:
				continue
			case x == none:
				return 1
			case y == none:
				return -1
			case s.number:
				order = compareNumbers(x, y)
			default:
				order = strings.Compare(x, y)
			}
			if s.reverse {
				order = -order
			}
			if order != 0 {
				return order
			}
		}
		return 0
	})
}

func (c *call) list(args []string) int {
	s := scope{kinds: anyDataset, paths: true, optional: true}
	fields := "name,used,available,referenced,mountpoint"
	var scripted, literal, typed bool
	var by []sorting
	options, names := getopt(args, "HS:d:o:prs:t:")
	for _, o := range options {
		if o.unknown || o.missing {
			return c.wrong(o)
		}
		switch o.letter {
		case 'H':
			scripted = true
		case 'p':
			literal = true
		case 'r':
			s.recurse = true
		case 'o':
			fields = o.arg
		case 'd':
			if !s.setDepth(c, o.arg) {
				return c.usage(c.verb)
			}
		case 's', 'S':
			col, ok := columnOf(o.arg)
			if !ok || isWritten(o.arg) {
				return c.usagef("invalid property '%s'", o.arg)
			}
			by = append(by, sorting{col, o.letter == 'S'})
		case 't':
			if typed = true; !s.setKinds(c, o.arg) {
				return c.usage(c.verb)
			}
		}
	}
	s.byName = fields == "name" && len(by) == 1 && by[0].name == "name"
	if fields == "space" && !typed {
		s.kinds &^= snapshot
	}
	if typed {
		s.ofNamed(len(names) > 0)
	}
	asked, all, ok := c.properties(fields)
	if !ok {
		return c.badList(fields)
	}
	properties := namesOf(asked)
	for _, b := range by {
		properties = append(properties, b.name)
	}
	rows, status := c.each(s, names, properties)
	if len(rows) == 0 && status == 0 && !scripted {
		c.errorf("no datasets available")
	}
	sortBy(rows, by, len(asked)-writtenIn(asked))
	if all {
		asked = c.withUsers(asked, rows)
	}
	c.table(asked, rows, scripted, literal)
	return status
}

// badList ends a verb whose list of properties was wrong.
func (c *call) badList(list string) int {
	for name := range strings.SplitSeq(list, ",") {
		if _, known := columnOf(name); known || name == "space" {
			continue
		}
		if ofSpace(name) {
			return NotModelled
		}
		break
	}
	return c.usage(c.verb)
}

// namesOf gives the names of properties, without those that List does not know.
func namesOf(asked []shown) []string {
	var names []string
	for _, a := range asked {
		if !isWritten(a.name) {
			names = append(names, a.name)
		}
	}
	return names
}

func writtenIn(asked []shown) int { return len(asked) - len(namesOf(asked)) }

// table prints rows with the columns that were asked for.
func (c *call) table(asked []shown, rows []zfs.Row, scripted, literal bool) {
	if len(rows) == 0 {
		return
	}
	cells := make([][]string, len(rows))
	for i, row := range rows {
		users := map[string]string{}
		if len(asked) > 0 && asked[0].all {
			for _, v := range c.users(row.Name) {
				users[v.Property] = v.Value
			}
		}
		values := row.Values
		cells[i] = make([]string, len(asked))
		for j := range asked {
			a := &asked[j]
			value := "-"
			switch {
			case isWritten(a.name):
				value, _ = c.written(row.Name, a.name)
			case a.all && isUser(a.name):
				if v, ok := users[a.name]; ok {
					value = v
				}
			default:
				value, values = values[0], values[1:]
			}
			if !literal {
				value = a.human(value)
			}
			cells[i][j] = value
			if !(a.fixed && !literal) && !isWritten(a.name) {
				a.width = max(a.width, len(value))
			}
		}
	}
	if !scripted {
		titles := make([]string, len(asked))
		for i, a := range asked {
			titles[i] = a.title
		}
		c.row(asked, titles, scripted)
	}
	for _, row := range cells {
		c.row(asked, row, scripted)
	}
}

func (c *call) row(asked []shown, cells []string, scripted bool) {
	for i, cell := range cells {
		last := i == len(cells)-1
		switch {
		case scripted && !last:
			cell += "\t"
		case scripted, last && !asked[i].right:
		case asked[i].right:
			cell = padding(cell, asked[i].width) + cell
		default:
			cell += padding(cell, asked[i].width)
		}
		if !scripted && !last {
			cell += "  "
		}
		_, _ = c.out.WriteString(cell)
	}
	_ = c.out.WriteByte('\n')
}

// padding is what makes a cell as wide as its column, in bytes as printf(3) has it.
func padding(cell string, width int) string {
	return strings.Repeat(" ", max(width-len(cell), 0))
}

// getFields are what zfs get and zpool get can print of a property, and its title.
var getFields = map[string]string{"name": "NAME", "property": "PROPERTY", "value": "VALUE", "received": "RECEIVED", "source": "SOURCE"}

const maxGetFields = 5

// setFields takes the argument of -o of a get. If that is wrong it says how
// and gives false.
func (c *call) setFields(arg string, all []string) (fields []string, ok bool) {
	ok = subOptions(arg, func(name, whole string) bool {
		switch {
		case len(fields) == maxGetFields:
			c.errorf("too many fields given to -o option")
			return false
		case name == "all" && len(fields) > 0:
			c.errorf(`"all" conflicts with specific fields given to -o option`)
			return false
		case name == "all":
			fields = slices.Grow(slices.Clone(all), maxGetFields-len(all))
		case getFields[name] == "" || !slices.Contains(all, name):
			c.errorf("invalid column name '%s'", whole)
			return false
		default:
			fields = append(fields, name)
		}
		return true
	})
	return fields, ok
}

// A getTable prints what a get finds, as zprop_print_one_property does.
type getTable struct {
	fields   []string
	widths   map[string]int
	scripted bool
	begun    bool
}

func (t *getTable) print(c *call, cells map[string]string) {
	if !t.begun && !t.scripted {
		t.row(c, getFields)
	}
	t.begun = true
	t.row(c, cells)
}

func (t *getTable) row(c *call, cells map[string]string) {
	for i, f := range t.fields {
		switch cell := cells[f]; {
		case i == len(t.fields)-1:
			_, _ = c.out.WriteString(cell)
		case t.scripted:
			_, _ = c.out.WriteString(cell + "\t")
		default:
			_, _ = c.out.WriteString(cell + padding(cell, t.widths[f]) + "  ")
		}
	}
	_ = c.out.WriteByte('\n')
}

func (c *call) get(args []string) int {
	s := scope{kinds: anyDataset | bookmark, paths: true}
	t := getTable{fields: []string{"name", "property", "value", "source"}}
	literal := false
	var sources []string
	options, rest := getopt(args, "d:o:s:rt:Hp")
	for _, o := range options {
		switch {
		case o.unknown:
			return c.wrong(o)
		case o.missing:
			return c.usagef("missing argument for '%c' option", o.letter)
		}
		ok := true
		switch o.letter {
		case 'H':
			t.scripted = true
		case 'p':
			literal = true
		case 'r':
			s.recurse = true
		case 'd':
			ok = s.setDepth(c, o.arg)
		case 'o':
			t.fields, ok = c.setFields(o.arg, []string{"name", "property", "value", "received", "source"})
		case 's':
			sources = []string{}
			ok = subOptions(o.arg, func(name, whole string) bool {
				if !slices.Contains([]string{"local", "default", "inherited", "received", "temporary", "none"}, name) {
					c.errorf("invalid source '%s'", whole)
					return false
				}
				sources = append(sources, name)
				return true
			})
		case 't':
			ok = s.setKinds(c, o.arg)
		}
		if !ok {
			return c.usage(c.verb)
		}
	}
	if len(rest) == 0 {
		return c.usagef("missing property argument")
	}
	list, names := rest[0], rest[1:]
	s.ofNamed(len(names) > 0)
	asked, all, ok := c.properties(list)
	if !ok {
		return c.badList(list)
	}
	if all {
		asked = asked[1:]
	}
	rows, status := c.each(s, names, nil)
	if all {
		asked = c.withUsers(asked, rows)
	}
	gotten := make([][]zfs.Value, len(rows))
	for i, row := range rows {
		gotten[i] = c.getOne(row.Name, asked)
	}
	t.measure(asked, rows, gotten, false)
	for i, values := range gotten {
		for j, v := range values {
			from := v.Source
			switch {
			case asked[j].all && v.Value == "-" && from == "-":
				continue
			case from == "-":
				from = "none"
			case strings.HasPrefix(from, "inherited"):
				from = "inherited"
			}
			if sources != nil && !slices.Contains(sources, from) {
				continue
			}
			if !literal {
				v.Value = asked[j].human(v.Value)
			}
			t.print(c, map[string]string{"name": rows[i].Name, "property": asked[j].name, "value": v.Value, "received": c.received(rows[i].Name, asked[j]), "source": v.Source})
		}
	}
	return status
}

// received gives the value of a property that a dataset was received with.
func (c *call) received(name string, asked shown) string {
	if target, err := zfs.Parse(name); err == nil {
		if value, ok := c.m.Received(target, asked.name); ok {
			return asked.human(value)
		}
	}
	return "-"
}

// getOne gives the values of properties of one dataset.
func (c *call) getOne(name string, asked []shown) []zfs.Value {
	target, err := zfs.Parse(name)
	if err != nil {
		return nil
	}
	known, _ := c.m.Get(c, target, namesOf(asked)...)
	values := make([]zfs.Value, len(asked))
	for i, a := range asked {
		values[i] = zfs.Value{Value: "-", Source: "-"}
		switch {
		case isWritten(a.name):
			if n, ok := c.written(name, a.name); ok {
				values[i] = zfs.Value{Value: n, Source: "local"}
			}
		case len(known) > 0:
			values[i], known = known[0], known[1:]
		}
	}
	return values
}

// measure finds the widths of the columns, as zprop_print_headers does. That of
// the values is for people unless literal is set, which only zpool does.
func (t *getTable) measure(asked []shown, rows []zfs.Row, gotten [][]zfs.Value, literal bool) {
	name, value, property := len("NAME"), len("VALUE"), len("PROPERTY")
	for _, row := range rows {
		name = max(name, len(row.Name))
	}
	for i, a := range asked {
		width := a.width
		for _, values := range gotten {
			v := values[i]
			if a.fixed && !literal || isWritten(a.name) || v.Value == "-" && v.Source == "-" {
				continue
			}
			if !literal {
				v.Value = a.human(v.Value)
			}
			width = max(width, len(v.Value))
		}
		property, value = max(property, len(a.name)), max(value, width)
	}
	source := len("SOURCE")
	if name > len("NAME") {
		source = name + len("inherited from")
	}
	t.widths = map[string]int{"name": name, "property": property, "value": value, "received": len("RECEIVED"), "source": source}
}
