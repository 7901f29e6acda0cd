package sexp

import (
	"bytes"
	"slices"
	"strings"
)

// MaxDepth is how deep lists may be nested in a source, so that no source can
// exhaust the stack of the reader or of what walks its result.
const MaxDepth = 1000

// Parse reads a source that holds one S-expression. The file is used only for
// positions. Errors are [*Error].
func Parse(file string, src []byte) (Node, error) {
	nodes, err := ParseAll(file, src)
	if err != nil {
		return Node{}, err
	}
	switch len(nodes) {
	case 0:
		return Node{}, &Error{Pos: Pos{File: file, Line: 1, Col: 1}, Msg: "nothing here but white space and comments"}
	case 1:
		return nodes[0], nil
	}
	return Node{}, &Error{
		Pos:  nodes[1].Pos,
		Msg:  "unexpected text after the end of the first expression",
		Hint: "it was closed by the parenthesis before this; is there one too many?",
	}
}

// byteOrderMarks are those of UTF-8 and UTF-16. No atom needs to begin with one,
// and what follows that of UTF-16 could not be read anyway.
var byteOrderMarks = []string{"\xef\xbb\xbf", "\xff\xfe", "\xfe\xff"}

// ParseAll reads a source that holds any number of S-expressions. The file is
// used only for positions. Errors are [*Error].
func ParseAll(file string, src []byte) ([]Node, error) {
	for _, mark := range byteOrderMarks {
		if bytes.HasPrefix(src, []byte(mark)) {
			return nil, &Error{Pos: Pos{File: file, Line: 1, Col: 1}, Msg: "the text begins with a byte order mark",
				Hint: "save it as UTF-8 without one"}
		}
	}
	items, err := ParseItems(file, src)
	if err != nil {
		return nil, err
	}
	return nodes(items), nil
}

func nodes(items []Item) []Node {
	ns := make([]Node, 0, len(items))
	for _, it := range items {
		switch it.Kind {
		case AtomItem:
			ns = append(ns, Node{Pos: it.Pos, Atom: it.Atom})
		case ListItem:
			ns = append(ns, Node{Pos: it.Pos, IsList: true, List: nodes(it.Items)})
		}
	}
	return ns
}

// A Kind is what an [Item] is.
type Kind uint8

// The kinds of item.
const (
	AtomItem     Kind = iota // an atom
	ListItem                 // a list
	LineComment              // ; ...
	BlockComment             // #| ... |#
	DatumComment             // #; and the atom or list that it drops
)

// An Item is an atom, a list or a comment, with all that a formatter needs to
// write it again.
type Item struct {
	Kind    Kind
	Pos     Pos    // of its first byte
	EndLine int    // of its last byte
	Text    string // atoms and comments, as in the source; a line comment has no newline
	Atom    string // of an AtomItem: what Text stands for
	Items   []Item // of a ListItem
}

// IsComment reports whether it is a comment of any kind.
func (it Item) IsComment() bool { return it.Kind >= LineComment }

// ParseItems reads any number of S-expressions and keeps the comments between
// and inside them. The file is used only for positions. Errors are [*Error].
func ParseItems(file string, src []byte) ([]Item, error) {
	r := reader{file: file, src: string(src), line: 1}
	var items []Item
	for {
		r.space()
		switch {
		case r.err != nil:
			return nil, r.err
		case r.off == len(r.src):
			return items, nil
		case r.src[r.off] == ')':
			return nil, Errorf(r.pos(), "unexpected \")\": no list is open here")
		}
		it := r.item()
		if r.err != nil {
			return nil, r.err
		}
		items = append(items, it)
	}
}

// A reader reads a source. Its methods do nothing of use once err is set.
type reader struct {
	file  string
	src   string
	off   int
	line  int
	bol   int // offset of the beginning of the line
	depth int
	stack []Item // what has been read of the lists that are open
	err   error
}

func (r *reader) pos() Pos { return r.posAt(r.off) }

// posAt returns the place of an offset in the current line.
func (r *reader) posAt(off int) Pos {
	return Pos{File: r.file, Line: r.line, Col: off - r.bol + 1, Offset: off}
}

func (r *reader) fail(pos Pos, msg, hint string) {
	if r.err == nil {
		r.err = &Error{Pos: pos, Msg: msg, Hint: hint}
	}
}

// at reports whether the source goes on with s.
func (r *reader) at(s string) bool { return strings.HasPrefix(r.src[r.off:], s) }

// next skips one byte.
func (r *reader) next() {
	r.off++
	if r.src[r.off-1] == '\n' {
		r.line++
		r.bol = r.off
	}
}

// space skips white space, but no comments.
func (r *reader) space() {
	for r.off < len(r.src) {
		switch r.src[r.off] {
		case ' ', '\t', '\n', '\f':
		case '\r':
			if !r.at("\r\n") {
				r.fail(r.pos(), "carriage return without a line feed", "lines must end with LF or CRLF")
				return
			}
		default:
			return
		}
		r.next()
	}
}

// item reads the atom, list or comment that begins here.
func (r *reader) item() Item {
	it := Item{Pos: r.pos()}
	switch c := r.src[r.off]; {
	case c == '(':
		it.Kind = ListItem
		it.Items = r.list()
	case c == '"':
		it.Atom = r.quoted(true)
	case c == ';':
		it.Kind = LineComment
		if n := strings.IndexAny(r.src[r.off:], "\r\n"); n >= 0 {
			r.off += n
		} else {
			r.off = len(r.src)
		}
	case r.at("#|"):
		it.Kind = BlockComment
		r.block()
	case r.at("#;"):
		it.Kind = DatumComment
		r.datum()
	default:
		r.unquoted()
		it.Atom = r.src[it.Pos.Offset:r.off]
	}
	it.EndLine = r.line
	if it.Kind != ListItem {
		it.Text = r.src[it.Pos.Offset:r.off]
	}
	return it
}

func (r *reader) list() []Item {
	open := r.pos()
	if r.depth++; r.depth > MaxDepth {
		r.fail(open, "lists are nested too deep", "")
		return nil
	}
	r.next()
	first := len(r.stack)
	for {
		r.space()
		switch {
		case r.err != nil:
			return nil
		case r.off == len(r.src):
			r.fail(open, `this "(" is never closed`, "")
			return nil
		case r.src[r.off] == ')':
			r.next()
			r.depth--
			items := slices.Clone(r.stack[first:])
			r.stack = r.stack[:first]
			return items
		}
		it := r.item()
		r.stack = append(r.stack, it)
	}
}

// datum skips #; and the atom or list that follows it, which may in turn be
// preceded by comments.
func (r *reader) datum() {
	start := r.pos()
	// Not nested in the source, but in this function.
	if r.depth++; r.depth > MaxDepth {
		r.fail(start, `too many "#;" in a row`, "")
		return
	}
	r.off += len("#;")
	for r.err == nil {
		r.space()
		if r.off == len(r.src) || r.src[r.off] == ')' {
			r.fail(start, `nothing follows this "#;"`, `it drops the next atom or list`)
			return
		}
		if it := r.item(); !it.IsComment() {
			r.depth--
			return
		}
	}
}

// block skips a block comment. Quoted strings in it are read as such.
func (r *reader) block() {
	start := r.pos()
	for depth := 0; r.off < len(r.src); {
		switch {
		case r.at("#|"):
			depth++
			r.off += 2
		case r.at("|#"):
			depth--
			r.off += 2
			if depth == 0 {
				return
			}
		case r.src[r.off] == '"':
			r.quoted(false)
			if r.err != nil {
				return
			}
		default:
			r.next()
		}
	}
	r.fail(start, `this "#|" is never closed`, "")
}

// unquoted skips an unquoted atom.
func (r *reader) unquoted() {
	var prev byte
	for ; r.off < len(r.src); r.off++ {
		c := r.src[r.off]
		switch c {
		case ' ', '\t', '\n', '\f', '\r', '(', ')', '"', ';':
			return
		case '|', '#':
			if prev == '|'+'#'-c {
				r.fail(r.posAt(r.off-1), `"#|" and "|#" may not be part of an unquoted atom`, "put it in double quotes")
				return
			}
		}
		prev = c
	}
}

// quoted skips a quoted string and returns what it stands for if that is
// wanted.
func (r *reader) quoted(wanted bool) string {
	start := r.pos()
	r.off++
	// Most strings have no escapes: those are part of the source as they are.
	if n := strings.IndexAny(r.src[r.off:], "\"\\\n"); n >= 0 && r.src[r.off+n] == '"' {
		r.off += n + 1
		return r.src[start.Offset+1 : r.off-1]
	}
	var b []byte
	add := func(s string) {
		if wanted {
			b = append(b, s...)
		}
	}
	for r.off < len(r.src) {
		switch r.src[r.off] {
		case '"':
			r.off++
			return string(b)
		case '\\':
			add(r.escape())
			if r.err != nil {
				return ""
			}
		default:
			add(r.src[r.off : r.off+1])
			r.next()
		}
	}
	r.fail(start, "this string is never closed", "")
	return ""
}

// escape skips an escape and returns what it stands for.
func (r *reader) escape() string {
	rest := r.src[r.off+1:]
	if rest == "" {
		r.off++ // the string is not closed, which is found next
		return ""
	}
	n := 1 // bytes that the escape takes after the backslash
	var s string
	switch c := rest[0]; c {
	case '\n', '\r':
		r.off++
		if c == '\r' {
			r.next()
			if !r.at("\n") {
				return "\r"
			}
		}
		r.next()
		r.off += len(r.src[r.off:]) - len(strings.TrimLeft(r.src[r.off:], " \t"))
		return ""
	case 'n':
		s = "\n"
	case 't':
		s = "\t"
	case 'r':
		s = "\r"
	case 'b':
		s = "\b"
	case '"', '\'', '\\':
		s = rest[:1]
	case 'x':
		n = 3
		v, ok := digits(rest[1:], 2, 16)
		if !ok {
			r.fail(r.pos(), `\x must be followed by two hexadecimal digits`, `for a backslash, write \\`)
			return ""
		}
		s = string([]byte{byte(v)})
	case '0', '1', '2', '3', '4', '5', '6', '7', '8', '9':
		n = 3
		v, ok := digits(rest, 3, 10)
		if !ok || v > 255 {
			r.fail(r.pos(), `a numeric escape is three decimal digits, from \000 to \255`, `for a backslash, write \\`)
			return ""
		}
		s = string([]byte{byte(v)})
	default:
		s = r.src[r.off : r.off+2]
	}
	r.off += 1 + n
	return s
}

// digits reads the first n bytes of s as a number.
func digits(s string, n, base int) (v int, ok bool) {
	if len(s) < n {
		return 0, false
	}
	for i := range n {
		d := strings.IndexByte("0123456789abcdef", s[i]|0x20)
		if s[i] < 'A' {
			d = strings.IndexByte("0123456789", s[i])
		}
		if d < 0 || d >= base {
			return 0, false
		}
		v = v*base + d
	}
	return v, true
}
