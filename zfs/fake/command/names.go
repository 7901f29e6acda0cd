package command

import (
	"fmt"
	"strings"

	"obuilder.org/obuilder/zfs"
)

// A kind is what a name may be of.
type kind int

const (
	filesystem kind = 1 << iota
	snapshot
	bookmark
)

// wrongName gives what is wrong with a name for something of one of kinds, ""
// if nothing is. A name that is to be modified, or made, has no '%'
// (zfs_validate_name in libzfs_dataset.c).
func wrongName(name string, kinds kind, modify bool) string {
	at, hash := strings.Contains(name, "@"), strings.Contains(name, "#")
	switch {
	case kinds&snapshot == 0 && at:
		return "snapshot delimiter '@' is not expected here"
	case kinds == snapshot && !at:
		return "missing '@' delimiter in snapshot name"
	case kinds&bookmark == 0 && hash:
		return "bookmark delimiter '#' is not expected here"
	case kinds == bookmark && !hash:
		return "missing '#' delimiter in bookmark name"
	case modify && strings.Contains(name, "%"):
		return "invalid character % in name"
	}
	return wrongSpelling(name)
}

// wrongSpelling gives what is wrong with a name of anything
// (entity_namecheck in zfs_namecheck.c).
func wrongSpelling(name string) string {
	const empty = "empty component or misplaced '@' or '#' delimiter in name"
	switch {
	case len(name) > zfs.MaxNameLen:
		return "name is too long"
	case strings.HasPrefix(name, "/"):
		return "leading slash in name"
	case name == "":
		return empty
	}
	delimited := false
	for rest := name; ; {
		component := rest
		var end byte // what ends it
		if i := strings.IndexAny(rest, "/@#"); i >= 0 {
			component, end = rest[:i], rest[i]
		}
		if end == 0 && component == "" && name[len(name)-1] == '/' {
			return "trailing slash in name"
		}
		for i := range len(component) {
			if c := component[i]; !validByte(c) {
				return fmt.Sprintf("invalid character '%s' in name", component[i:i+1])
			}
		}
		if end == 0 || end == '/' {
			switch component {
			case ".":
				return "self reference, '.' is found in name"
			case "..":
				return "parent reference, '..' is found in name"
			}
		}
		if end == '@' || end == '#' {
			if delimited {
				return "multiple '@' and/or '#' delimiters in name"
			}
			delimited = true
		}
		switch {
		case component == "":
			return empty
		case end == 0:
			return ""
		case end == '/' && delimited:
			return "trailing slash in name"
		}
		rest = rest[len(component)+1:]
	}
}

func validByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
		strings.IndexByte("-_.: %", c) >= 0
}

// open reads the name of what has to be there, of one of kinds. For a name
// that nothing can have, it prints that there is no such thing.
func (c *call) open(name string, kinds kind) (zfs.Name, bool) {
	text := wrongName(name, kinds, false)
	if text == "" {
		if n, err := zfs.Parse(name); err == nil {
			return n, true
		}
		text = "dataset does not exist"
		if strings.Contains(name, "#") {
			text = "no such pool or dataset"
		}
	}
	c.errorf("cannot open '%s': %s", name, text)
	return nil, false
}
