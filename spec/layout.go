package spec

import (
	"slices"
	"strings"

	"obuilder.org/obuilder/spec/sexp"
)

// The layout is that of ocurrent/obuilder, which prints with OCaml's Format:
// boxes that remember the column they were opened in, lines of at most margin
// bytes where there is a choice, and no indentation beyond maxIndent.
const (
	margin    = 78
	maxIndent = 68
)

// A printer lays out S-expressions. The zero printer is at the beginning of a
// line.
type printer struct {
	buf   []byte
	col   int
	boxes []box
	// A line comment was printed last: nothing else may be put in this line.
	inComment bool
}

// A box is where lines begin until it is closed.
type box struct {
	indent int
	breaks bool // it is printed on several lines
}

func (p *printer) top() box {
	if n := len(p.boxes); n > 0 {
		return p.boxes[n-1]
	}
	return box{breaks: true}
}

// makeRoom begins a new line if a box would otherwise be opened too far right.
func (p *printer) makeRoom() {
	if top := p.top(); p.col > maxIndent && top.breaks && p.col > top.indent {
		p.newline()
	}
}

// open opens a box here. Its lines but the first begin offset bytes to the
// right.
func (p *printer) open(breaks bool, offset int) {
	p.makeRoom()
	p.boxes = append(p.boxes, box{p.col + offset, breaks})
}

func (p *printer) shut() { p.boxes = p.boxes[:len(p.boxes)-1] }

func (p *printer) newline() {
	p.buf = append(p.buf, '\n')
	p.inComment = false
	p.col = min(p.top().indent, maxIndent)
	for range p.col {
		p.buf = append(p.buf, ' ')
	}
}

func (p *printer) text(s string) {
	p.buf = append(p.buf, s...)
	p.col += len(s)
}

// closing prints the parenthesis that ends a list.
func (p *printer) closing() {
	if p.inComment {
		p.newline()
	}
	p.text(")")
}

// atom prints an atom from its text in a source. A string that goes on in
// further lines is indented anew: what follows a backslash and a newline
// stands below what follows the opening quote, but for \n, which stands to the
// left of it so that its line does.
func (p *printer) atom(text string) {
	lines := continued(text)
	if len(lines) == 1 {
		p.text(text)
		return
	}
	p.open(false, 0)
	outdented := outdents(lines)
	if outdented {
		p.text(" ")
	}
	below := p.col + 1
	for i, line := range lines {
		if i > 0 {
			p.text(`\`)
			p.boxes[len(p.boxes)-1].indent = below
			if strings.HasPrefix(line, `\n`) {
				p.boxes[len(p.boxes)-1].indent = below - 2
			}
			p.newline()
		}
		p.text(line)
	}
	p.shut()
}

func outdents(lines []string) bool {
	return slices.ContainsFunc(lines[1:], func(l string) bool { return strings.HasPrefix(l, `\n`) })
}

// continued splits the text of an atom where a backslash, a newline and blanks
// let the string go on in the next line. It leaves these out.
func continued(text string) []string {
	if !strings.Contains(text, "\\\n") && !strings.Contains(text, "\\\r\n") {
		return []string{text}
	}
	var lines []string
	start := 0
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' {
			continue
		}
		rest := text[i+1:]
		if after, ok := strings.CutPrefix(strings.TrimPrefix(rest, "\r"), "\n"); ok {
			lines = append(lines, text[start:i])
			start = len(text) - len(strings.TrimLeft(after, " \t"))
			i = start - 1
		} else {
			i++ // the escaped byte
		}
	}
	return append(lines, text[start:])
}

// atomText returns s as it would stand in a source that is to be read: a
// string of several lines is continued after each of them.
func atomText(s string) string {
	text := sexp.AtomText(s)
	if n := strings.IndexByte(s, '\n'); n < 0 || n == len(s)-1 {
		return text
	}
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		lines[i] = sexp.Escape(l)
	}
	return `"` + strings.Join(lines, "\\\n\\n") + `"`
}

// item makes of a node what the printer prints.
func item(n sexp.Node) sexp.Item {
	if !n.IsList {
		return sexp.Item{Kind: sexp.AtomItem, Text: atomText(n.Atom), Atom: n.Atom}
	}
	it := sexp.Item{Kind: sexp.ListItem, Items: make([]sexp.Item, len(n.List))}
	for i, sub := range n.List {
		it.Items[i] = item(sub)
	}
	return it
}

// width is how long it is when printed by flat, without the indentation of
// further lines.
func width(it sexp.Item) int {
	if it.Kind != sexp.ListItem {
		lines := continued(it.Text)
		n := len(lines) - 1 // backslashes
		for _, l := range lines {
			n += len(l)
		}
		if outdents(lines) {
			n++
		}
		return n
	}
	n := len("()") + max(0, len(it.Items)-1)
	for _, sub := range it.Items {
		n += width(sub)
	}
	return n
}

// commented reports whether there is a comment in a list.
func commented(it sexp.Item) bool {
	return slices.ContainsFunc(it.Items, func(it sexp.Item) bool {
		return it.IsComment() || commented(it)
	})
}

// flat prints it on one line, but for strings that go on in further lines.
func (p *printer) flat(it sexp.Item) {
	p.open(false, 0)
	p.flatIn(it)
	p.shut()
}

func (p *printer) flatIn(it sexp.Item) {
	if it.Kind != sexp.ListItem {
		p.atom(it.Text)
		return
	}
	p.text("(")
	for i, sub := range it.Items {
		if i > 0 {
			p.text(" ")
		}
		p.flatIn(sub)
	}
	p.text(")")
}

// spec prints a whole spec.
func (p *printer) spec(it sexp.Item) {
	p.text("(")
	p.open(true, 0)
	p.lines(it.Items, true, p.op)
	p.shut()
	p.newline()
	p.text(")")
}

// op prints an operation, (from ...) or (build ...).
func (p *printer) op(it sexp.Item) {
	switch head := head(it); {
	case head == "build" && len(it.Items) == 3 && it.Items[1].Kind == sexp.AtomItem && it.Items[2].Kind == sexp.ListItem:
		p.text("(build ")
		p.open(true, 0)
		p.atom(it.Items[1].Text)
		p.newline()
		p.body(it.Items[2])
		p.shut()
		p.closing()
	case head == "build":
		p.list(it, p.body)
	case head == "run" || commented(it):
		p.list(it, p.arg)
	case head == "copy":
		p.text("(copy ")
		p.makeRoom()
		size := -1
		for _, sub := range it.Items[1:] {
			size += width(sub) + 1
		}
		p.open(size >= margin-p.col, 0)
		for i, sub := range it.Items[1:] {
			switch {
			case i == 0:
			case p.top().breaks:
				p.newline()
			default:
				p.text(" ")
			}
			p.flat(sub)
		}
		p.shut()
		p.text(")")
	default:
		p.flat(it)
	}
}

// head returns the first item of a list if that is an atom and more follows.
func head(it sexp.Item) string {
	if len(it.Items) > 1 {
		return it.Items[0].Atom
	}
	return ""
}

// body prints the spec of a nested build.
func (p *printer) body(it sexp.Item) {
	if it.Kind != sexp.ListItem {
		p.flat(it)
		return
	}
	p.text("(")
	p.open(true, 0)
	p.lines(it.Items, true, p.op)
	p.shut()
	p.closing()
}

// arg prints an argument of an operation.
func (p *printer) arg(it sexp.Item) {
	if commented(it) {
		p.list(it, p.arg)
	} else {
		p.flat(it)
	}
}

// list prints a list with its items below each other, but for the first two
// if the first is an atom.
func (p *printer) list(it sexp.Item, each func(sexp.Item)) {
	p.text("(")
	items := it.Items
	if head(it) != "" {
		p.atom(items[0].Text)
		p.text(" ")
		items = items[1:]
	}
	p.open(true, 0)
	p.lines(items, false, each)
	p.shut()
	p.closing()
}

// lines prints items below each other. A comment stays in the line of the item
// before it; with spaced set, an empty line before an item stays too.
func (p *printer) lines(items []sexp.Item, spaced bool, each func(sexp.Item)) {
	for i, it := range items {
		if i > 0 {
			gap := it.Pos.Line - items[i-1].EndLine
			if it.IsComment() && gap == 0 && !p.inComment {
				p.text(" ")
			} else {
				if spaced && gap > 1 {
					p.buf = append(p.buf, '\n')
				}
				p.newline()
			}
		}
		switch it.Kind {
		case sexp.LineComment:
			p.text(strings.TrimRight(it.Text, " \t"))
			p.inComment = true
		case sexp.BlockComment, sexp.DatumComment:
			p.text(it.Text)
		default:
			each(it)
		}
	}
}

// Format lays out the source of a spec anew and keeps what it says: comments,
// empty lines between operations, the order of fields and the way atoms are
// written. What it returns ends with a newline, and formatting that again
// changes nothing. The filename is used only for positions; the source must be
// a valid spec, and the error is an [*Error] if it is not.
func Format(filename string, src []byte) ([]byte, error) {
	if _, err := Parse(filename, src); err != nil {
		return nil, err
	}
	items, err := sexp.ParseItems(filename, src)
	if err != nil {
		return nil, err
	}
	var p printer
	p.lines(items, true, p.spec)
	return append(p.buf, '\n'), nil
}
