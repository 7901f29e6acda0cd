package command

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"obuilder.org/obuilder/zfs"
)

// poolColumns are the properties of pools, in ZFS's order (zpool_prop.c).
// hidden ones are not among all.
var poolColumns = func() []column {
	size := number("size", "SIZE", count)
	size.fixed = false // zprop_width takes it for the creation of a dataset, which has the same number
	health := number("health", "HEALTH", asIs)
	health.width = len("SUSPENDED") - 1
	return []column{
		size,
		number("capacity", "CAP", percent),
		text("altroot", "ALTROOT"),
		health,
		number("guid", "GUID", asIs),
		number("version", "VERSION", asIs),
		text("bootfs", "BOOTFS"),
		index("delegation", "DELEGATION", onOff),
		index("autoreplace", "REPLACE", onOff),
		text("cachefile", "CACHEFILE"),
		index("failmode", "FAILMODE", len("continue")),
		index("listsnapshots", "LISTSNAPS", onOff),
		index("autoexpand", "EXPAND", onOff),
		number("dedupratio", "DEDUP", ratio),
		number("free", "FREE", count),
		number("allocated", "ALLOC", count),
		index("readonly", "RDONLY", onOff),
		number("ashift", "ASHIFT", count),
		text("comment", "COMMENT"),
		number("expandsize", "EXPANDSZ", count),
		number("freeing", "FREEING", count),
		number("fragmentation", "FRAG", percent),
		number("leaked", "LEAKED", count),
		index("multihost", "MULTIHOST", onOff),
		number("checkpoint", "CKPOINT", count),
		number("load_guid", "LOAD_GUID", asIs),
		index("autotrim", "AUTOTRIM", onOff),
		text("compatibility", "COMPATIBILITY"),
	}
}()

// features are what pools of OpenZFS 2.1 can have, in its order. A new pool has
// all of them enabled, and these active.
var features = []struct {
	name   string
	active bool
}{
	{"async_destroy", false}, {"empty_bpobj", false}, {"lz4_compress", true}, {"multi_vdev_crash_dump", false},
	{"spacemap_histogram", true}, {"enabled_txg", true}, {"hole_birth", true}, {"extensible_dataset", true},
	{"embedded_data", true}, {"bookmarks", false}, {"filesystem_limits", false}, {"large_blocks", false},
	{"large_dnode", false}, {"sha512", false}, {"skein", false}, {"edonr", false}, {"userobj_accounting", true},
	{"encryption", false}, {"project_quota", true}, {"device_removal", false}, {"obsolete_counts", false},
	{"zpool_checkpoint", false}, {"spacemap_v2", true}, {"allocation_classes", false}, {"resilver_defer", false},
	{"bookmark_v2", false}, {"redaction_bookmarks", false}, {"redacted_datasets", false}, {"bookmark_written", false},
	{"log_spacemap", true}, {"livelist", false}, {"device_rebuild", false}, {"zstd_compress", false}, {"draid", false},
}

func poolColumnOf(name string) (column, bool) {
	if name == nameColumn.name {
		return nameColumn, true
	}
	for _, col := range poolColumns {
		if name == col.name || name == strings.ToLower(col.title) {
			return col, true
		}
	}
	return column{}, false
}

func isFeature(name string) bool { return strings.HasPrefix(name, "feature@") }

// poolProperties reads a list of properties of pools. If one is wrong it says
// so and gives false.
func (c *call) poolProperties(list string) (asked []shown, ok bool) {
	const bad = "bad property list: "
	switch list {
	case "all":
		for _, col := range poolColumns {
			asked = append(asked, shown{column: col, all: true, width: col.width})
		}
		for _, f := range features {
			name := "feature@" + f.name
			asked = append(asked, shown{column: column{name: name, title: strings.ToUpper(name)}, all: true, width: len(name)})
		}
		return asked, true
	case "":
		c.errorf(bad + "no properties specified")
		return nil, false
	}
	for list != "" {
		var name string
		name, list, _ = strings.Cut(list, ",")
		col, known := poolColumnOf(name)
		switch {
		case known:
		case isFeature(name):
			col = column{name: name, title: strings.ToUpper(name), width: len(name)}
		case name == "":
			c.errorf(bad + "empty property name")
			return nil, false
		default:
			c.errorf(bad+"invalid property '%s'", name)
			return nil, false
		}
		asked = append(asked, shown{column: col, width: col.width})
	}
	return asked, true
}

// poolValues gives the values and sources of properties of a pool.
func (c *call) poolValues(pool string, asked []shown) ([]zfs.Value, error) {
	st, err := c.m.Pool(c, pool)
	if err != nil {
		return nil, err
	}
	values := make([]zfs.Value, len(asked))
	for i, a := range asked {
		v := zfs.Value{Source: "default"}
		switch a.name {
		case "name":
			v = zfs.Value{Value: pool, Source: "-"}
		case "size":
			v = zfs.Value{Value: strconv.FormatUint(st.Size, 10), Source: "-"}
		case "allocated":
			v = zfs.Value{Value: strconv.FormatUint(st.Allocated, 10), Source: "-"}
		case "free":
			v = zfs.Value{Value: strconv.FormatUint(st.Free, 10), Source: "-"}
		case "capacity":
			v = zfs.Value{Value: strconv.Itoa(st.Capacity), Source: "-"}
		case "health":
			v = zfs.Value{Value: st.Health, Source: "-"}
		case "guid", "load_guid":
			v = zfs.Value{Value: c.poolGUID(pool, a.name), Source: "-"}
		case "dedupratio":
			v = zfs.Value{Value: "1.00", Source: "-"}
		case "freeing", "fragmentation", "leaked":
			v = zfs.Value{Value: "0", Source: "-"}
		case "readonly":
			v = zfs.Value{Value: "off", Source: "-"}
		case "expandsize", "checkpoint":
			v = zfs.Value{Value: "-", Source: "-"}
		case "delegation":
			v.Value = "on"
		case "failmode":
			v.Value = "wait"
		case "autoreplace", "listsnapshots", "autoexpand", "multihost", "autotrim", "compatibility":
			v.Value = "off"
		case "ashift":
			v.Value = "0"
		default:
			v.Value = "-"
		}
		if set, ok := c.m.PoolSetting(pool, a.name); ok {
			v = zfs.Value{Value: set, Source: "local"}
		}
		if isFeature(a.name) {
			v = zfs.Value{}
			for _, f := range features {
				switch {
				case f.name != strings.TrimPrefix(a.name, "feature@"):
				case f.active:
					v = zfs.Value{Value: "active", Source: "local"}
				default:
					v = zfs.Value{Value: "enabled", Source: "local"}
				}
			}
		}
		values[i] = v
	}
	return values, nil
}

// poolGUID makes up a guid of a pool from that of its file system.
func (c *call) poolGUID(pool, which string) string {
	ds, err := zfs.ParseDataset(pool)
	if err != nil {
		return "-"
	}
	values, err := c.m.Get(c, ds, "guid")
	if err != nil {
		return "-"
	}
	n, _ := strconv.ParseUint(values[0].Value, 10, 64)
	for _, b := range []byte(which) { // as FNV-1a does
		n = (n ^ uint64(b)) * 1099511628211
	}
	return strconv.FormatUint(n, 10)
}

func (c *call) getPools(args []string) int {
	t := getTable{fields: []string{"name", "property", "value", "source"}}
	literal := false
	options, rest := getopt(args, "Hpo:")
	for _, o := range options {
		switch {
		case o.unknown:
			return c.wrong(o)
		case o.missing: // zpool does not look for that
		case o.letter == 'H':
			t.scripted = true
		case o.letter == 'p':
			literal = true
		case o.letter == 'o':
			var ok bool
			if t.fields, ok = c.setFields(o.arg, []string{"name", "property", "value", "source"}); !ok {
				return c.usage(c.verb)
			}
		}
	}
	if len(rest) == 0 {
		return c.usagef("missing property argument")
	}
	asked, ok := c.poolProperties(rest[0])
	if !ok {
		return c.usage(c.verb)
	}
	found, status := c.pools(rest[1:])
	rows := make([]zfs.Row, len(found))
	gotten := make([][]zfs.Value, len(found))
	for i, pool := range found {
		values, err := c.poolValues(pool, asked)
		if err != nil {
			return c.failed(err)
		}
		rows[i], gotten[i] = zfs.Row{Name: pool}, values
	}
	t.measure(asked, rows, gotten, literal)
	for i, values := range gotten {
		for j, v := range values {
			if v.Source == "" { // there is no such feature
				continue
			}
			if !literal {
				v.Value = asked[j].human(v.Value)
			}
			t.print(c, map[string]string{"name": found[i], "property": asked[j].name, "value": v.Value, "source": v.Source})
		}
	}
	return status
}

func (c *call) listPools(args []string) int {
	fields := "name,size,allocated,free,checkpoint,expandsize,fragmentation,capacity,dedupratio,health,altroot"
	var scripted, literal, verbose, columns bool
	options, names := getopt(args, "gHLo:pPT:v")
	for _, o := range options {
		switch {
		case o.unknown:
			return c.wrong(o)
		case o.missing:
			return c.usagef("missing argument for '%c' option", o.letter)
		}
		switch o.letter {
		case 'H':
			scripted = true
		case 'p':
			literal = true
		case 'v':
			verbose = true
		case 'o':
			fields, columns = o.arg, true
		case 'L', 'P':
		default:
			return c.notModelled(fmt.Sprintf("-%c of zpool list", o.letter))
		}
	}
	if repeats(names) {
		return c.notModelled("zpool list again and again")
	}
	asked, ok := c.poolProperties(fields)
	if !ok {
		return c.usage(c.verb)
	}
	if fields == "all" {
		asked = slices.Insert(asked, 0, shown{column: nameColumn, width: nameColumn.width})
	}
	found, status := c.pools(names)
	if len(found) == 0 {
		if len(names) == 0 && !scripted {
			_, _ = c.out.WriteString("no pools available\n")
		}
		return status
	}
	if verbose && columns {
		return c.notModelled("-v with -o of zpool list")
	}
	cells := make([][]string, len(found))
	for i, pool := range found {
		values, err := c.poolValues(pool, asked)
		if err != nil {
			return c.failed(err)
		}
		cells[i] = make([]string, len(asked))
		for j, v := range values {
			a := &asked[j]
			if cells[i][j] = v.Value; !literal {
				cells[i][j] = a.human(v.Value)
			}
			if !a.fixed || literal {
				a.width = max(a.width, len(cells[i][j]))
			}
		}
		if devices := c.m.Devices(pool); verbose && len(devices) > 1 {
			return c.notModelled("what several vdevs hold")
		} else if verbose {
			asked[0].width = max(asked[0].width, len("  ")+len(devices[0]))
		}
	}
	if !scripted {
		titles := make([]string, len(asked))
		for i, a := range asked {
			titles[i] = a.title
		}
		c.row(asked, titles, scripted)
	}
	for i, row := range cells {
		c.row(asked, row, scripted)
		if verbose {
			c.vdevRow(found[i], asked, row, scripted, literal)
		}
	}
	return 0 // zpool forgets what it has not found
}

// vdevRow prints what is said of the one device of a pool, below the row of that.
func (c *call) vdevRow(pool string, asked []shown, row []string, scripted, literal bool) {
	st, err := c.m.Pool(c, pool)
	if err != nil {
		return
	}
	cells := slices.Clone(row[:len(row)-1])
	name := c.m.Devices(pool)[0]
	if cells[0] = "  " + name; scripted {
		cells[0] = "\t" + name
	}
	for i, a := range asked[:len(cells)] {
		switch a.name {
		case "capacity":
			parts := st.Allocated * 10000 / max(st.Size, 1)
			switch {
			case literal:
				cells[i] = strconv.FormatUint(parts/100, 10)
			case parts < 1000:
				cells[i] = fmt.Sprintf("%.2f%%", float64(parts)/100)
			case parts < 10000:
				cells[i] = fmt.Sprintf("%.1f%%", float64(parts)/100)
			default:
				cells[i] = fmt.Sprintf("%.0f%%", float64(parts)/100)
			}
		case "dedupratio":
			cells[i] = "-"
		}
	}
	c.row(asked[:len(cells)], cells, scripted)
}
