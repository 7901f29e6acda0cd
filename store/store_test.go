package store

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
)

// What can be named is printed as it is read; a zfs: store that is named by a
// path is the pool that must be mounted there.
func TestParse(t *testing.T) {
	here, err := filepath.Abs("here")
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ name, printed, root, mountpoint string }{
		{"zfs:tank", "zfs:tank", "tank", ""},
		{"zfs:tank/a/b", "zfs:tank/a/b", "tank/a/b", ""},
		{"zfs:/Volumes/obuilder", "zfs:/Volumes/obuilder", "obuilder", "/Volumes/obuilder"},
		{"zfs:/Volumes/obuilder/", "zfs:/Volumes/obuilder", "obuilder", "/Volumes/obuilder"},
		{"dir:here", "dir:" + here, "obuilder", ""},
		{"fake:", "fake:", "obuilder", ""},
	} {
		n, err := Parse(test.name)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if n.String() != test.printed || n.Root.String() != test.root || n.Mountpoint != test.mountpoint {
			t.Errorf("%s is %s, root %s on %q", test.name, n, n.Root, n.Mountpoint)
		}
		if again, err := Parse(n.String()); err != nil || again != n {
			t.Errorf("%s is read as %+v, %v", n, again, err)
		}
	}
}

// What cannot be named is a *NameError with the forms that there are, or with
// the one that was meant.
func TestParseBad(t *testing.T) {
	for name, hint := range map[string]string{
		"":            "a store is zfs:POOL",
		"tank":        "a store is zfs:POOL",
		"./here":      "did you mean dir:./here?",
		"zfs:":        "a store is zfs:POOL",
		"zfs:/":       "a store is zfs:POOL",
		"zfs:tank@x":  "a store is zfs:POOL",
		"zfs:../x":    "a store is zfs:POOL",
		"dir:":        "a store is zfs:POOL",
		"fake:x":      "a store is zfs:POOL",
		"tape:x":      "a store is zfs:POOL",
		"dir":         "a store is zfs:POOL",
		"ZFS:tank":    "a store is zfs:POOL",
		"zfs:tank//a": "a store is zfs:POOL",
	} {
		_, err := Parse(name)
		var bad *NameError
		if !errors.As(err, &bad) || !strings.HasPrefix(bad.Hint(), hint) {
			t.Errorf("%q: %v, want hint %q", name, err, hint)
		}
	}
}

// A directory that somebody has is waited for, with who has it, until the
// context ends, and can be had afterwards.
func TestOneAtATime(t *testing.T) {
	name, err := Parse("dir:" + t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	first, err := Open(t.Context(), name, Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var holder string
	_, err = Open(ctx, name, Options{Waiting: func(h string) { holder = h; cancel() }})
	var dir *DirError
	if !errors.Is(err, context.Canceled) || !errors.As(err, &dir) || dir.Hint() != "" || !strings.HasPrefix(holder, "process ") {
		t.Errorf("the second gets %v, held by %q", err, holder)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second, err := Open(t.Context(), name, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
}
