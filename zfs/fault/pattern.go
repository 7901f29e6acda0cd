package fault

import (
	"path"
	"strings"
)

// A Pattern is what names of datasets are matched against, component by
// component: * stands for any number of characters in one, ? for one, [a-z]
// for one of several (package path), and ** for any number of components, none
// among them. A pattern with an '@' is for snapshots, one without for datasets.
type Pattern string

// Matches reports whether the pattern matches a whole name. A pattern that is
// not well formed matches nothing.
func (p Pattern) Matches(name string) bool {
	pattern, patternTag, patternSnap := strings.Cut(string(p), "@")
	ds, tag, snap := strings.Cut(name, "@")
	if patternSnap != snap {
		return false
	}
	if ok, err := path.Match(patternTag, tag); !ok || err != nil {
		return false
	}
	return matchComponents(strings.Split(pattern, "/"), strings.Split(ds, "/"))
}

// matchComponents matches as most people write it: a row of the table of what
// the pattern so far matches, for each component of the pattern.
func matchComponents(pattern, name []string) bool {
	row := make([]bool, len(name)+1)
	row[0] = true
	for _, p := range pattern {
		next := make([]bool, len(name)+1)
		if p == "**" {
			reached := false
			for i, ok := range row {
				reached = reached || ok
				next[i] = reached
			}
		} else {
			for i, n := range name {
				if row[i] {
					next[i+1], _ = path.Match(p, n)
				}
			}
		}
		row = next
	}
	return row[len(name)]
}

// check says what is wrong with a pattern; "" for nothing.
func (p Pattern) check() string {
	if len(p) > maxPattern {
		return "the pattern is too long"
	}
	pattern, tag, snap := strings.Cut(string(p), "@")
	if snap && tag == "" {
		return "nothing follows the @ of the pattern"
	}
	if strings.Contains(tag, "@") {
		return "the pattern has more than one @"
	}
	for component := range strings.SplitSeq(pattern, "/") {
		if component == "" {
			return "a component of the pattern is empty"
		}
		if component != "**" && strings.Contains(component, "**") {
			return "** is a whole component of a pattern"
		}
		if _, err := path.Match(component, ""); err != nil {
			return "the pattern is not well formed"
		}
	}
	if _, err := path.Match(tag, ""); err != nil {
		return "the pattern is not well formed"
	}
	return ""
}

// maxPattern is the length in bytes of the longest pattern.
const maxPattern = 1024
