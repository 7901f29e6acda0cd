package zfs_test

import (
	"errors"
	"strings"
	"testing"

	"obuilder.org/obuilder/zfs"
	"obuilder.org/obuilder/zfs/zfstest"
	"pgregory.net/rapid"
)

func TestNames(t *testing.T) {
	for _, c := range zfstest.Names {
		name, err := zfs.Parse(c.Name)
		var invalid *zfs.NameError
		switch {
		case c.Valid && err != nil:
			t.Errorf("%q: %v", c.Name, err)
		case c.Valid && name.String() != c.Name:
			t.Errorf("%q became %q", c.Name, name)
		case !c.Valid && !errors.As(err, &invalid):
			t.Errorf("%q is taken: %v", c.Name, err)
		}
	}
}

func TestDepth(t *testing.T) {
	deepest := "p" + strings.Repeat("/d", zfs.MaxDepth-1)
	d, err := zfs.ParseDataset(deepest)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Child("d"); err == nil {
		t.Error("one deeper is taken")
	}
	if _, err := d.Snapshot("s"); err != nil {
		t.Error(err)
	}
}

func TestParts(t *testing.T) {
	d := zfs.MustDataset("tank/a/b")
	parent, ok := d.Parent()
	if !ok || parent.String() != "tank/a" || d.Pool() != "tank" || d.Base() != "b" {
		t.Errorf("%v %v %s %s", parent, ok, d.Pool(), d.Base())
	}
	if _, ok := zfs.MustDataset("tank").Parent(); ok {
		t.Error("a pool has a parent")
	}
	s := d.MustSnapshot("snap")
	if s.Dataset() != d || s.Tag() != "snap" || s.String() != "tank/a/b@snap" {
		t.Errorf("%v", s)
	}
	for other, want := range map[string]bool{"tank/a/b": true, "tank/a/b/c": true, "tank/a/bc": false, "tank/a": false, "tank": false} {
		if d.Contains(zfs.MustDataset(other)) != want {
			t.Errorf("%s contains %s: not %v", d, other, want)
		}
	}
	if _, err := d.Child("x/y"); err == nil {
		t.Error("two components are one child")
	}
	if _, err := d.Child("x@y"); err == nil {
		t.Error("a snapshot is a child")
	}
	var none zfs.Dataset
	if !none.IsZero() || none.String() != "" || (zfs.Snapshot{}).String() != "" || !(zfs.Snapshot{}).IsZero() {
		t.Error("the zero values name something")
	}
	if c, err := none.Child("a"); err == nil {
		t.Errorf("nothing has the child %q", c)
	}
	if s, err := none.Snapshot("a"); err == nil {
		t.Errorf("nothing has the snapshot %q", s)
	}
}

// What is built from valid parts reads back as the same value.
func TestNamesReadBack(t *testing.T) {
	component := rapid.OneOf(rapid.StringMatching(`[A-Za-z0-9_.: -]{1,40}`), rapid.StringMatching(`[a.@%]{0,3}`))
	rapid.Check(t, func(t *rapid.T) {
		d := zfs.MustDataset("tank")
		for _, c := range rapid.SliceOfN(component, 0, 80).Draw(t, "components") {
			child, err := d.Child(c)
			if whole, wholeErr := zfs.ParseDataset(d.String() + "/" + c); whole != child || (err == nil) != (wholeErr == nil) {
				t.Fatalf("%q has the child %q, %v; its name is %q, %v", d, child, err, whole, wholeErr)
			}
			if err != nil {
				continue // "." or "..", not allowed, or too long or too deep by now
			}
			if parent, ok := child.Parent(); !ok || parent != d || child.Base() != c || !d.Contains(child) || child.Contains(d) {
				t.Fatalf("%q and its child %q", d, child)
			}
			d = child
		}
		if again, err := zfs.ParseDataset(d.String()); err != nil || again != d {
			t.Fatalf("%q: %q, %v", d, again, err)
		}
		s, err := d.Snapshot(component.Draw(t, "snapshot"))
		if err != nil {
			return // not allowed, or too long
		}
		if again, err := zfs.ParseSnapshot(s.String()); err != nil || again != s {
			t.Fatalf("%q: %q, %v", s, again, err)
		}
	})
}

// No name that is taken can be read differently by zfs or a line of its output.
func FuzzParse(f *testing.F) {
	for _, c := range zfstest.Names {
		f.Add(c.Name)
	}
	f.Fuzz(func(t *testing.T, text string) {
		name, err := zfs.Parse(text)
		if err != nil {
			var invalid *zfs.NameError
			if !errors.As(err, &invalid) || invalid.Reason == "" {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		if name.String() != text {
			t.Fatalf("%q became %q", text, name)
		}
		if text == "" || len(text) > zfs.MaxNameLen || strings.ContainsAny(text, "\t\n\x00%#,") ||
			text[0] == '-' || text[0] == '/' || strings.HasSuffix(text, "/") || strings.Count(text, "@") > 1 {
			t.Fatalf("%q is taken", text)
		}
	})
}
