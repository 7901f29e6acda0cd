package source_test

import (
	"fmt"
	"strconv"
	"strings"

	"obuilder.org/obuilder/source"
)

// The few lines of S-expressions that the vectors of this package need, kept
// apart from package spec so that one mistake does not hide another.

// printItem prints an item as it is hashed.
func printItem(it source.Item) string {
	switch it.Kind {
	case source.File:
		return "(File(" + printPair(it.Path, it.Hash) + "))"
	case source.Symlink:
		return "(Symlink(" + printPair(it.Path, it.Target) + "))"
	}
	return "(Dir(" + printAtom(it.Path) + "(" + printItems(it.Children) + ")))"
}

func printItems(items []source.Item) string {
	var s string
	for _, it := range items {
		s += printItem(it)
	}
	return s
}

func printPair(a, b string) string {
	a, b = printAtom(a), printAtom(b)
	if strings.HasPrefix(b, `"`) || strings.HasSuffix(a, `"`) {
		return a + b
	}
	return a + " " + b
}

func printAtom(s string) string {
	quote := s == "" || strings.Contains(s, "#|") || strings.Contains(s, "|#")
	var b strings.Builder
	for _, c := range []byte(s) {
		switch {
		case c == '"' || c == '\\':
			b.WriteString("\\" + string(rune(c)))
			quote = true
		case strings.IndexByte("\n\t\r\b", c) >= 0:
			b.WriteString("\\" + string("ntrb"[strings.IndexByte("\n\t\r\b", c)]))
			quote = true
		case c < ' ' || c >= 127:
			fmt.Fprintf(&b, "\\%03d", c)
			quote = true
		default:
			b.WriteByte(c)
			quote = quote || strings.IndexByte("(); ", c) >= 0
		}
	}
	if quote {
		return `"` + b.String() + `"`
	}
	return b.String()
}

// A node is an atom, or a list.
type node struct {
	atom string
	list []node
}

// field finds the list that begins with a name, below n.
func (n node) field(name string) (node, bool) {
	for _, c := range n.list {
		if len(c.list) > 0 && c.list[0].atom == name {
			return c, true
		}
	}
	return node{}, false
}

// atoms are those of a list after the first.
func (n node) atoms() []string {
	var s []string
	for _, c := range n.list[min(1, len(n.list)):] {
		s = append(s, c.atom)
	}
	return s
}

// parse reads what printAtom prints, with any space and newlines in between.
func parse(s string) (n node, rest string) {
	s = strings.TrimLeft(s, " \n")
	switch s[0] {
	case '(':
		s = strings.TrimLeft(s[1:], " \n")
		n.list = []node{}
		for s[0] != ')' {
			var c node
			c, s = parse(s)
			n.list = append(n.list, c)
			s = strings.TrimLeft(s, " \n")
		}
		return n, s[1:]
	case '"':
		for s = s[1:]; s[0] != '"'; s = s[1:] {
			if s[0] != '\\' {
				n.atom += s[:1]
				continue
			}
			s = s[1:]
			if i := strings.IndexByte("ntrb", s[0]); i >= 0 {
				n.atom += "\n\t\r\b"[i : i+1]
			} else if s[0] >= '0' && s[0] <= '9' {
				c, err := strconv.Atoi(s[:3])
				if err != nil {
					panic(err)
				}
				n.atom += string([]byte{byte(c)})
				s = s[2:]
			} else if s[0] == '\n' { // a folded line
				s = s[:1] + strings.TrimLeft(s[1:], " ")
			} else {
				n.atom += s[:1]
			}
		}
		return n, s[1:]
	}
	i := strings.IndexAny(s, "() \n\"")
	return node{atom: s[:i]}, s[i:]
}
