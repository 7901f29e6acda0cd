package spec

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"

	"obuilder.org/obuilder/source"
	"obuilder.org/obuilder/spec/sexp"
)

// BaseID returns the id of a base image's result.
func BaseID(name string) string { return hash([]byte(name)) }

func hash(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// A SecretValue is a secret as a step sees it.
type SecretValue struct {
	Value  []byte
	Target string // path of the file
}

// A RunInput is all that a run step depends on. Caches are not part of it.
type RunInput struct {
	Base    string // id of the result that it starts from
	Workdir string
	User    User
	Env     []EnvVar // newest first
	Cmd     string
	Shell   []string
	Network []string
	Secrets []SecretValue // in the reverse of the order in which the spec has them
}

// Sexp returns what is hashed. It holds the values of secrets.
func (in RunInput) Sexp() string {
	var w sexp.Writer
	in.write(&w)
	return string(w.Bytes())
}

// ID returns the id of the step's result.
func (in RunInput) ID() string {
	var w sexp.Writer
	in.write(&w)
	return hash(w.Bytes())
}

func (in *RunInput) write(w *sexp.Writer) {
	w.Grow(512)
	w.Open()
	pair(w, "base", in.Base)
	pair(w, "workdir", in.Workdir)
	in.User.write(w)
	w.Open()
	w.Atom("env")
	w.Open()
	for _, v := range in.Env {
		pair(w, v.Name, v.Value)
	}
	w.Close()
	w.Close()
	pair(w, "cmd", in.Cmd)
	list(w, "shell", in.Shell)
	list(w, "network", in.Network)
	w.Open()
	w.Atom("mount_secrets")
	w.Open()
	for _, s := range in.Secrets {
		w.Open()
		pair(w, "value", string(s.Value))
		pair(w, "target", s.Target)
		w.Close()
	}
	w.Close()
	w.Close()
	w.Close()
}

// A CopyInput is all that a copy step depends on. The context's environment
// and shell are not part of it, nor are the modes of files.
type CopyInput struct {
	Base  string // id of the result that it starts from
	User  User
	Items []source.Item // one for each source, in the order of the spec
	Dst   string        // as [Context.CopyDst] returns it
}

// Sexp returns what is hashed. [CheckCopy] must have accepted the copy: unless
// Dst ends with a slash, there is exactly one item.
func (in CopyInput) Sexp() string {
	var w sexp.Writer
	in.write(&w)
	return string(w.Bytes())
}

// ID returns the id of the step's result, under the condition of Sexp.
func (in CopyInput) ID() string {
	var w sexp.Writer
	in.write(&w)
	return hash(w.Bytes())
}

func (in *CopyInput) write(w *sexp.Writer) {
	w.Grow(512)
	w.Open()
	pair(w, "base", in.Base)
	in.User.write(w)
	w.Open()
	w.Atom("op")
	w.Open()
	if isDir(in.Dst) {
		w.Atom("Copy_items")
		w.Open()
		w.Open()
		for i := range in.Items {
			writeItem(w, &in.Items[i])
		}
		w.Close()
	} else {
		w.Atom("Copy_item")
		w.Open()
		writeItem(w, &in.Items[0])
	}
	w.Atom(in.Dst)
	w.Close()
	w.Close()
	w.Close()
	w.Close()
}

func writeItem(w *sexp.Writer, it *source.Item) {
	w.Open()
	switch it.Kind {
	case source.File:
		w.Atom("File")
		pair(w, it.Path, it.Hash)
	case source.Symlink:
		w.Atom("Symlink")
		pair(w, it.Path, it.Target)
	case source.Dir:
		w.Atom("Dir")
		w.Open()
		w.Atom(it.Path)
		w.Open()
		for i := range it.Children {
			writeItem(w, &it.Children[i])
		}
		w.Close()
		w.Close()
	}
	w.Close()
}

func (u User) write(w *sexp.Writer) {
	w.Open()
	w.Atom("user")
	w.Open()
	if u.Name != "" {
		pair(w, "name", u.Name)
	} else {
		pair(w, "uid", strconv.Itoa(u.UID))
		pair(w, "gid", strconv.Itoa(u.GID))
	}
	w.Close()
	w.Close()
}

// pair writes (name value).
func pair(w *sexp.Writer, name, value string) {
	w.Open()
	w.Atom(name)
	w.Atom(value)
	w.Close()
}

// list writes (name (values...)).
func list(w *sexp.Writer, name string, values []string) {
	w.Open()
	w.Atom(name)
	w.Open()
	for _, v := range values {
		w.Atom(v)
	}
	w.Close()
	w.Close()
}
