package zfs

import (
	"fmt"
	"strings"
)

// MaxNameLen is the length in bytes of the longest name that ZFS takes, for a
// dataset and for a snapshot with its dataset (ZFS_MAX_DATASET_NAME_LEN less
// the terminating NUL; zfsprops(7)).
const MaxNameLen = 255

// MaxDepth is how many components the name of a dataset may have
// (zfs_max_dataset_nesting, zfs(4)).
const MaxDepth = 50

// A Name is a [Dataset] or a [Snapshot]: what a zfs command takes as its target.
type Name interface {
	// String gives the name as zfs prints it.
	String() string
	zfsName()
}

// A Dataset is the name of a file system, POOL or POOL/A/B. The zero value
// names nothing; every other value is a name that ZFS takes.
type Dataset struct{ name string }

// A Snapshot is the name of a snapshot, POOL/A/B@NAME. The zero value names
// nothing.
type Snapshot struct {
	dataset Dataset
	name    string
}

// A NameError says what is wrong with a name.
type NameError struct {
	Name   string // the name as given
	Reason string // what is wrong with it
}

func (e *NameError) Error() string {
	return fmt.Sprintf("invalid zfs name %q: %s", e.Name, e.Reason)
}

// ParseDataset checks name by the rules of zfs(8): components separated by
// '/', each of letters, digits and "-_.: ", the first beginning with a
// letter and not reserved for a kind of device, none empty, "." or "..". It gives a *NameError for anything else.
func ParseDataset(name string) (Dataset, error) {
	if name == "" {
		return Dataset{}, &NameError{name, "empty"}
	}
	if len(name) > MaxNameLen {
		return Dataset{}, &NameError{name, fmt.Sprintf("longer than %d bytes", MaxNameLen)}
	}
	depth := 0
	for component := range strings.SplitSeq(name, "/") {
		depth++
		if reason := checkComponent(component); reason != "" {
			return Dataset{}, &NameError{name, reason}
		}
		if component == "." || component == ".." {
			return Dataset{}, &NameError{name, "a component is " + component}
		}
		if depth == 1 {
			if reason := checkPool(component); reason != "" {
				return Dataset{}, &NameError{name, reason}
			}
		}
	}
	if depth > MaxDepth {
		return Dataset{}, &NameError{name, fmt.Sprintf("more than %d components", MaxDepth)}
	}
	return Dataset{name}, nil
}

// MustDataset is [ParseDataset] for names written in the program: it panics
// where that gives an error.
func MustDataset(name string) Dataset {
	d, err := ParseDataset(name)
	if err != nil {
		panic(err)
	}
	return d
}

// ParseSnapshot checks name, DATASET@NAME, by the rules of zfs(8).
func ParseSnapshot(name string) (Snapshot, error) {
	ds, snap, ok := strings.Cut(name, "@")
	if !ok {
		return Snapshot{}, &NameError{name, "no '@' in the name of a snapshot"}
	}
	d, err := ParseDataset(ds)
	if err != nil {
		return Snapshot{}, err
	}
	return d.Snapshot(snap)
}

// MustSnapshot is [ParseSnapshot] for names written in the program.
func MustSnapshot(name string) Snapshot {
	s, err := ParseSnapshot(name)
	if err != nil {
		panic(err)
	}
	return s
}

// Parse reads the name of a dataset or, with an '@', of a snapshot.
func Parse(name string) (Name, error) {
	if strings.Contains(name, "@") {
		return ParseSnapshot(name)
	}
	return ParseDataset(name)
}

// zfs_namecheck.c: valid_char
func validByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
		c == '-' || c == '_' || c == '.' || c == ':' || c == ' '
}

func checkComponent(s string) string {
	if s == "" {
		return "a component is empty"
	}
	for i := 0; i < len(s); i++ {
		if !validByte(s[i]) {
			return fmt.Sprintf("character %q is not allowed", s[i:i+1])
		}
	}
	return ""
}

// zpool_main.c and zfs_namecheck.c (pool_namecheck): reserved words.
func checkPool(s string) string {
	c := s[0]
	if c < 'A' || c > 'Z' && c < 'a' || c > 'z' {
		return "the name of a pool begins with a letter"
	}
	for _, reserved := range []string{"mirror", "raidz", "draid", "spare"} {
		if strings.HasPrefix(s, reserved) {
			return "names of pools that begin with " + reserved + " are reserved"
		}
	}
	if s == "log" {
		return "the name of a pool is not log"
	}
	return ""
}

func (Dataset) zfsName()  {}
func (Snapshot) zfsName() {}

// String gives the name as zfs prints it, and "" for the zero value.
func (d Dataset) String() string { return d.name }

// IsZero reports whether d names nothing.
func (d Dataset) IsZero() bool { return d.name == "" }

// Child names the dataset component below d. It gives a *NameError when
// component is not one valid component or the whole gets too long.
func (d Dataset) Child(component string) (Dataset, error) {
	if strings.Contains(component, "/") {
		return Dataset{}, &NameError{component, "a component has a '/'"}
	}
	name := d.name + "/" + component
	if d.IsZero() || component == "." || component == ".." || checkComponent(component) != "" ||
		len(name) > MaxNameLen || strings.Count(name, "/") >= MaxDepth {
		return ParseDataset(name) // says what is wrong
	}
	return Dataset{name}, nil
}

// MustChild is [Dataset.Child] for components written in the program.
func (d Dataset) MustChild(component string) Dataset {
	c, err := d.Child(component)
	if err != nil {
		panic(err)
	}
	return c
}

// Snapshot names the snapshot of d called name. It gives a *NameError when
// name is not valid or the whole gets too long.
func (d Dataset) Snapshot(name string) (Snapshot, error) {
	full := d.name + "@" + name
	if d.IsZero() {
		return Snapshot{}, &NameError{full, "no dataset before the '@'"}
	}
	if reason := checkComponent(name); reason != "" {
		return Snapshot{}, &NameError{full, reason}
	}
	if name == "." || name == ".." {
		return Snapshot{}, &NameError{full, "the name of the snapshot is " + name}
	}
	if len(full) > MaxNameLen {
		return Snapshot{}, &NameError{full, fmt.Sprintf("longer than %d bytes", MaxNameLen)}
	}
	return Snapshot{d, name}, nil
}

// MustSnapshot is [Dataset.Snapshot] for names written in the program.
func (d Dataset) MustSnapshot(name string) Snapshot {
	s, err := d.Snapshot(name)
	if err != nil {
		panic(err)
	}
	return s
}

// Parent gives the dataset above d; ok is false for a pool.
func (d Dataset) Parent() (parent Dataset, ok bool) {
	i := strings.LastIndexByte(d.name, '/')
	if i < 0 {
		return Dataset{}, false
	}
	return Dataset{d.name[:i]}, true
}

// Pool gives the first component.
func (d Dataset) Pool() string {
	pool, _, _ := strings.Cut(d.name, "/")
	return pool
}

// Base gives the last component.
func (d Dataset) Base() string {
	return d.name[strings.LastIndexByte(d.name, '/')+1:]
}

// Contains reports whether other is d or below d.
func (d Dataset) Contains(other Dataset) bool {
	return other.name == d.name || strings.HasPrefix(other.name, d.name) && other.name[len(d.name)] == '/'
}

// String gives the name as zfs prints it, and "" for the zero value.
func (s Snapshot) String() string {
	if s.IsZero() {
		return ""
	}
	return s.dataset.name + "@" + s.name
}

// IsZero reports whether s names nothing.
func (s Snapshot) IsZero() bool { return s.name == "" }

// Dataset gives the dataset that s is a snapshot of.
func (s Snapshot) Dataset() Dataset { return s.dataset }

// Tag gives what follows the '@'.
func (s Snapshot) Tag() string { return s.name }
