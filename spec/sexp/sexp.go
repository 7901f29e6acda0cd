// Package sexp reads and writes S-expressions: atoms, which are strings of
// bytes, and lists of them. Build specs are written in it, and so are the
// inputs that name a step and the environment that a base image carries.
//
//	n, err := sexp.Parse("hello.spec", src)
//	if err != nil { ... }             // *sexp.Error: hello.spec:3:7: ...
//	for _, item := range n.List { ... item.Pos ... }
//	fmt.Println(n)                    // ((from base)(run(shell make)))
//
// The syntax is that of OCaml's sexplib, which is what ocurrent/obuilder uses:
//
//   - Lists are in parentheses; items need white space between them only where
//     two unquoted atoms would run together.
//   - An unquoted atom ends at white space, a parenthesis, a double quote or a
//     semicolon, and may not hold #| or |#.
//   - A quoted atom may hold any byte. Escapes are \n \t \r \b \" \' \\, \DDD
//     (decimal), \xHH and backslash newline, which is dropped together with
//     the spaces and tabs that follow it. Any other escape stands for itself,
//     backslash included.
//   - Comments are ; to the end of the line, #| nested |#, and #; which drops
//     the next atom or list.
//
// [Parse] and [ParseAll] drop comments, [ParseItems] keeps them. All functions
// are safe for concurrent use.
package sexp

import (
	"fmt"
	"strconv"
)

// A Pos is a place in a source. The zero Pos is that of something which was
// not read from any.
type Pos struct {
	File   string // as it was given to the reader; may be empty
	Line   int    // from 1
	Col    int    // from 1, in bytes
	Offset int    // from 0, in bytes
}

// IsValid reports whether p is a place in a source.
func (p Pos) IsValid() bool { return p.Line > 0 }

// String returns file:line:col, without the file if that is empty, and "-" for
// no place.
func (p Pos) String() string {
	if !p.IsValid() {
		return "-"
	}
	s := strconv.Itoa(p.Line) + ":" + strconv.Itoa(p.Col)
	if p.File != "" {
		s = p.File + ":" + s
	}
	return s
}

// An Error is what is wrong at a place in a source.
type Error struct {
	Pos  Pos
	Msg  string
	Hint string // how to put it right; may be empty; not part of Error()
}

// Error returns file:line:col: message, or only the message if there is no
// place.
func (e *Error) Error() string {
	if !e.Pos.IsValid() {
		return e.Msg
	}
	return e.Pos.String() + ": " + e.Msg
}

// Errorf returns an [*Error] without a hint.
func Errorf(pos Pos, format string, args ...any) *Error {
	return &Error{Pos: pos, Msg: fmt.Sprintf(format, args...)}
}

// A Node is an atom or a list.
type Node struct {
	Pos    Pos
	IsList bool
	Atom   string // if not IsList
	List   []Node // if IsList
}

// Atom returns an atom without a place.
func Atom(s string) Node { return Node{Atom: s} }

// List returns a list without a place.
func List(nodes ...Node) Node { return Node{IsList: true, List: nodes} }

// Head returns the first item of a list if that is an atom, else "".
func (n Node) Head() string {
	if len(n.List) == 0 {
		return ""
	}
	return n.List[0].Atom
}

// String returns n as [Writer] writes it.
func (n Node) String() string {
	var w Writer
	w.Node(n)
	return string(w.Bytes())
}

// Equal reports whether a and b are the same apart from where they were read.
func Equal(a, b Node) bool {
	if a.IsList != b.IsList || a.Atom != b.Atom || len(a.List) != len(b.List) {
		return false
	}
	for i := range a.List {
		if !Equal(a.List[i], b.List[i]) {
			return false
		}
	}
	return true
}
