package zfstest

import (
	"slices"
	"strings"

	"obuilder.org/obuilder/zfs"
)

// What is listed, in which order and with which values.
var listCases = []testCase{
	{name: "list", run: testList},
	{name: "list in order", run: testListOrder},
	{name: "list values", run: testListValues},
	{name: "list pools", run: testListPools},
	{name: "list fails", run: testListFails},
}

var (
	both      = []zfs.Type{zfs.Filesystems, zfs.Snapshots}
	snapshots = []zfs.Type{zfs.Snapshots}
)

func testList(w *world) {
	w.create("a")
	w.create("a/b")
	w.create("a/b/c")
	w.create("x")
	w.snapshot("a@1", "a/b@1", "x@1")
	w.must(w.FS.Snapshot(w.ctx, false, w.Root.MustSnapshot("0")))
	for _, c := range []struct {
		opts  zfs.ListOptions
		roots []string
		want  []string
	}{
		{zfs.ListOptions{}, []string{""}, []string{""}},
		{zfs.ListOptions{}, []string{"x", "a", "x"}, []string{"a", "x"}},
		{zfs.ListOptions{Recursive: true}, []string{""}, []string{"", "a", "a/b", "a/b/c", "x"}},
		{zfs.ListOptions{Recursive: true}, []string{"x", "a"}, []string{"a", "a/b", "a/b/c", "x"}},
		{zfs.ListOptions{Recursive: true}, []string{"a", "a/b"}, []string{"a", "a/b", "a/b/c"}},
		{zfs.ListOptions{Recursive: true, Depth: 1}, []string{""}, []string{"", "a", "x"}},
		{zfs.ListOptions{Recursive: true, Depth: 2}, []string{""}, []string{"", "a", "a/b", "x"}},
		{zfs.ListOptions{Recursive: true, Depth: 1, Types: both}, []string{""}, []string{"", "@0", "a", "x"}},
		{zfs.ListOptions{Recursive: true, Depth: 2, Types: both}, []string{""}, []string{"", "@0", "a", "a@1", "a/b", "x", "x@1"}},
		{zfs.ListOptions{Recursive: true, Types: both}, []string{"a"}, []string{"a", "a@1", "a/b", "a/b@1", "a/b/c"}},
		{zfs.ListOptions{Recursive: true, Types: snapshots}, []string{""}, []string{"@0", "a@1", "a/b@1", "x@1"}},
		{zfs.ListOptions{Recursive: true, Depth: 2, Types: snapshots}, []string{""}, []string{"@0", "a@1", "x@1"}},
		// Without -r, snapshots alone are those of the root; with other types there are none.
		{zfs.ListOptions{Types: snapshots}, []string{"a"}, []string{"a@1"}},
		{zfs.ListOptions{Types: both}, []string{"a"}, []string{"a"}},
		{zfs.ListOptions{Types: snapshots}, []string{"a/b/c"}, []string{}},
		{zfs.ListOptions{Types: snapshots}, []string{"a@1", "a/b"}, []string{"a@1", "a/b@1"}},
		{zfs.ListOptions{Types: both}, []string{"a@1", "a/b"}, []string{"a@1", "a/b"}},
		{zfs.ListOptions{Types: snapshots, Recursive: true}, []string{"a@1"}, []string{"a@1"}},
	} {
		for _, root := range c.roots {
			switch {
			case root == "":
				c.opts.Roots = append(c.opts.Roots, w.Root)
			default:
				c.opts.Roots = append(c.opts.Roots, w.name(root))
			}
		}
		rows, err := w.FS.List(w.ctx, c.opts)
		if err != nil {
			w.Error(err)
			continue
		}
		if got := w.names(rows); !slices.Equal(got, c.want) {
			w.Errorf("%s\ngives %q\nwant  %q", zfs.CommandLine(zfs.ArgvList(c.opts)), got, c.want)
		}
	}
}

// Datasets come in the order of their bytes, not of their components, each
// followed by its snapshots in the order in which they were taken.
func testListOrder(w *world) {
	for _, name := range []string{"a0", "a", "a/z", "a b", "a-b", "A", "b", "a_b"} {
		w.create(name)
	}
	w.snapshot("a@zz")
	w.snapshot("a@aa", "a-b@q")
	w.snapshot("a@mm")
	w.exist("A", "a", "a@zz", "a@aa", "a@mm", "a b", "a-b", "a-b@q", "a/z", "a0", "a_b", "b")
}

func testListValues(w *world) {
	w.create("a", "org.obuilder:k=v w", "mountpoint=none")
	w.snapshot("a@s")
	w.clone("a@s", "c")
	columns := []string{"origin", "mountpoint", "mounted", "clones", "defer_destroy", "org.obuilder:k", "org.obuilder:no", "type", "name", "quota", "canmount"}
	rows, err := w.FS.List(w.ctx, zfs.ListOptions{Roots: []zfs.Name{w.ds("a"), w.ds("c")}, Recursive: true, Types: both, Properties: columns})
	w.must(err)
	a, s, c := w.ds("a").String(), w.snap("a@s").String(), w.ds("c").String()
	want := []zfs.Row{
		{Name: a, Values: []string{"-", "none", "no", "-", "-", "v w", "-", "filesystem", a, "0", "on"}},
		{Name: s, Values: []string{"-", "-", "-", c, "off", "v w", "-", "snapshot", s, "-", "-"}},
		{Name: c, Values: []string{s, w.at("c"), "yes", "-", "-", "-", "-", "filesystem", c, "0", "on"}},
	}
	if !slices.EqualFunc(rows, want, func(a, b zfs.Row) bool { return a.Name == b.Name && slices.Equal(a.Values, b.Values) }) {
		w.Errorf("got  %q\nwant %q", rows, want)
	}
	rows, err = w.FS.List(w.ctx, zfs.ListOptions{Roots: []zfs.Name{w.snap("a@s")}, Types: snapshots,
		Properties: []string{"used", "available", "referenced", "guid", "creation", "createtxg"}})
	w.must(err)
	for i, value := range rows[0].Values {
		if dash := i == 1; (value == "-") != dash || !dash && strings.Trim(value, "0123456789") != "" {
			w.Errorf("value %d is %q", i, value)
		}
	}
}

// Without roots there is the pool, and nothing below it unless asked for.
func testListPools(w *world) {
	w.create("a")
	rows, err := w.FS.List(w.ctx, zfs.ListOptions{})
	w.must(err)
	found := false
	for _, row := range rows {
		found = found || row.Name == w.Root.Pool()
		if strings.Contains(row.Name, "/") {
			w.Errorf("%s is listed", row.Name)
		}
	}
	if !found {
		w.Errorf("%s is not in %q", w.Root.Pool(), rows)
	}
	rows, err = w.FS.List(w.ctx, zfs.ListOptions{Recursive: true})
	w.must(err)
	if !slices.ContainsFunc(rows, func(row zfs.Row) bool { return row.Name == w.ds("a").String() }) {
		w.Errorf("%s is not in %q", w.ds("a"), rows)
	}
}

func testListFails(w *world) {
	w.create("a")
	w.snapshot("a@s")
	list := func(opts zfs.ListOptions, roots ...zfs.Name) error {
		opts.Roots = roots
		rows, err := w.FS.List(w.ctx, opts)
		if err != nil && len(rows) > 0 {
			w.Errorf("rows with an error: %q", rows)
		}
		return err
	}
	w.fails(list(zfs.ListOptions{}, w.ds("no")), zfs.NotFound)
	rows, err := w.FS.List(w.ctx, zfs.ListOptions{Types: snapshots, Roots: []zfs.Name{w.snap("a@no"), w.snap("a@s"), w.snap("no@s")}})
	w.fails(err, zfs.NotFound)
	if len(rows) != 1 || rows[0].Name != w.snap("a@s").String() {
		w.Errorf("of three snapshots, one of them there: %q", rows)
	}
	w.fails(list(zfs.ListOptions{}, zfs.MustDataset("obuilder-no-such-pool")), zfs.NotFound)
	w.fails(list(zfs.ListOptions{Types: snapshots}, w.snap("a@no")), zfs.NotFound)
	w.fails(list(zfs.ListOptions{}, w.snap("a@s")), zfs.Usage) // a snapshot is no file system
	w.fails(list(zfs.ListOptions{Properties: []string{"nosuch"}}, w.ds("a")), zfs.Usage)
	w.fails(list(zfs.ListOptions{Types: []zfs.Type{"nosuch"}}, w.ds("a")), zfs.Usage)
}
