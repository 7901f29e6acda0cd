package source

// A Kind is what an [Item] is.
type Kind uint8

// The kinds of item.
const (
	File    Kind = iota // a regular file
	Symlink             // a symbolic link, never followed
	Dir                 // a directory
)

// An Item is one node of a manifest: what a copy step copies, as it is hashed.
// Paths are relative to the root of the tree, slash-separated, and never begin
// with a slash; the root itself is "". Names are bytes, not text.
type Item struct {
	Kind     Kind
	Path     string
	Hash     string // File: sha256 of the contents, lower-case hex
	Target   string // Symlink
	Children []Item // Dir: sorted bytewise by name
}
