package sexp

import "strings"

// A Writer writes S-expressions as sexplib's machine printer does, which is
// the form that step ids are hashes of: a single space between two unquoted
// atoms, and no other white space. The zero Writer is ready to use.
//
//	var w sexp.Writer
//	w.Open()
//	w.Atom("from")
//	w.Atom("a base")
//	w.Close()
//	w.Bytes() // (from"a base")
type Writer struct {
	buf      []byte
	unquoted bool // the last thing written was an unquoted atom
}

// Bytes returns what has been written. It is valid until the next write.
func (w *Writer) Bytes() []byte { return w.buf }

// Grow makes room for n more bytes.
func (w *Writer) Grow(n int) {
	if cap(w.buf)-len(w.buf) < n {
		w.buf = append(make([]byte, 0, len(w.buf)+n), w.buf...)
	}
}

// Open begins a list.
func (w *Writer) Open() {
	w.buf = append(w.buf, '(')
	w.unquoted = false
}

// Close ends the innermost list.
func (w *Writer) Close() {
	w.buf = append(w.buf, ')')
	w.unquoted = false
}

// Atom writes an atom, quoted if it must be.
func (w *Writer) Atom(s string) {
	if mustQuote(s) {
		w.buf = appendQuoted(w.buf, s)
		w.unquoted = false
		return
	}
	if w.unquoted {
		w.buf = append(w.buf, ' ')
	}
	w.buf = append(w.buf, s...)
	w.unquoted = true
}

// Node writes n.
func (w *Writer) Node(n Node) {
	if !n.IsList {
		w.Atom(n.Atom)
		return
	}
	w.Open()
	for _, item := range n.List {
		w.Node(item)
	}
	w.Close()
}

// plain is set for the bytes that an unquoted atom may hold.
var plain = func() (t [256]bool) {
	for c := '!'; c <= '~'; c++ {
		t[c] = !strings.ContainsRune(`"();\`, c)
	}
	return t
}()

func mustQuote(s string) bool {
	var prev byte
	for i := range len(s) {
		c := s[i]
		if !plain[c] || c == '|' && prev == '#' || c == '#' && prev == '|' {
			return true
		}
		prev = c
	}
	return s == ""
}

// AtomText returns s as an atom is written: quoted if it must be.
func AtomText(s string) string {
	if mustQuote(s) {
		return Quote(s)
	}
	return s
}

// Quote returns s in double quotes, with escapes.
func Quote(s string) string { return string(appendQuoted(nil, s)) }

func appendQuoted(b []byte, s string) []byte {
	b = append(b, '"')
	b = appendEscaped(b, s)
	return append(b, '"')
}

// Escape returns s with escapes, as it stands between double quotes.
func Escape(s string) string { return string(appendEscaped(nil, s)) }

func appendEscaped(b []byte, s string) []byte {
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case ' ' <= c && c <= '~':
			b = append(b, c)
		case c == '\n':
			b = append(b, '\\', 'n')
		case c == '\t':
			b = append(b, '\\', 't')
		case c == '\r':
			b = append(b, '\\', 'r')
		case c == '\b':
			b = append(b, '\\', 'b')
		default:
			b = append(b, '\\', '0'+c/100, '0'+c/10%10, '0'+c%10)
		}
	}
	return b
}
