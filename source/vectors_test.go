package source_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"obuilder.org/obuilder/source"
	"obuilder.org/obuilder/spec/vectors"
)

func load(t testing.TB) *vectors.Data {
	t.Helper()
	d, err := vectors.Load()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// tree writes a recorded tree and opens it.
func tree(t testing.TB, entries []vectors.Entry) *source.Directory {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("the recorded trees have names that Windows cannot store")
	}
	dir := t.TempDir()
	if err := vectors.WriteTree(dir, entries); errors.Is(err, fs.ErrExist) {
		t.Skip("the temporary directory's file system ignores case")
	} else if err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(dir, vectors.Mtime, vectors.Mtime); err != nil {
		t.Fatal(err)
	}
	return openDir(t, dir)
}

func openDir(t testing.TB, path string) *source.Directory {
	t.Helper()
	d, err := source.OpenDir(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// TestManifestVectors shows that manifests are those of ocurrent/obuilder, and
// that what is an error there is one here.
func TestManifestVectors(t *testing.T) {
	for _, m := range load(t).Manifests {
		dir := tree(t, m.Tree)
		for _, it := range m.Items {
			got, err := source.Scan(t.Context(), dir, []string{it.Path}, source.Options{Exclude: it.Exclude})
			if it.Error != "" {
				if e, ok := errors.AsType[*source.Error](err); !ok || e.Source != it.Path {
					t.Errorf("%q: got %v, want an error such as %s", it.Path, err, it.Error)
				}
				continue
			}
			if err != nil {
				t.Errorf("%q: %v", it.Path, err)
				continue
			}
			if sexp := printItems(got.Items); sexp != it.Sexp {
				t.Errorf("%q: got %s\nwant %s", it.Path, sexp, it.Sexp)
			}
		}
	}
}

// TestCopyVectors shows that the copy steps of every recorded spec hash the
// same manifest and send the same stream.
func TestCopyVectors(t *testing.T) {
	steps := 0
	for _, v := range load(t).Vectors {
		for _, s := range v.Expected.Steps {
			if s.Op != "copy" || s.Tar == nil {
				continue
			}
			op, _ := parse(s.Heading[strings.Index(s.Heading, ": (copy")+2:])
			if _, ok := op.field("from"); ok && !strings.Contains(s.Heading, "(from context)") {
				continue // from the root of the nested build, as recorded on Linux
			}
			steps++
			t.Run(v.Name, func(t *testing.T) { copyVector(t, tree(t, v.Tree), op, s) })
		}
	}
	if steps < 50 {
		t.Errorf("only %d copy steps in the recording", steps)
	}
}

func copyVector(t *testing.T, dir source.Tree, op node, s vectors.Step) {
	src, _ := op.field("src")
	exclude, _ := op.field("exclude")
	hashed, _ := parse(s.Sexp)
	opNode, _ := hashed.field("op")
	args := opNode.list[1].list // Copy_item or Copy_items, the manifest, the destination
	dst := args[1].list[1].atom
	m, err := source.Scan(t.Context(), dir, src.atoms(), source.Options{Exclude: exclude.atoms()})
	if err != nil {
		t.Fatal(err)
	}
	want := "(op(Copy_item(" + printItems(m.Items) + printAtom(dst) + "))))"
	if args[0].atom == "Copy_items" {
		want = "(op(Copy_items((" + printItems(m.Items) + ")" + printAtom(dst) + "))))"
	}
	if !strings.HasSuffix(s.Sexp, want) {
		t.Errorf("got %s\nwant %s", want, s.Sexp)
	}

	var stream bytes.Buffer
	if err := m.WriteTar(t.Context(), &stream, source.TarOptions{Dst: dst, User: user(t, hashed)}); err != nil {
		t.Fatal(err)
	}
	recorded := directoriesAsFiles(t, stream.Bytes())
	if diff := cmp.Diff(s.Tar.Entries, entries(t, recorded)); diff != "" {
		t.Errorf("entries: (-want +got)\n%s", diff)
	}
	sum := sha256.Sum256(recorded)
	if got := hex.EncodeToString(sum[:]); got != s.Tar.StreamSHA256 {
		t.Errorf("sha256 of the stream: got %s, want %s", got, s.Tar.StreamSHA256)
	}
}

func user(t *testing.T, hashed node) (u source.User) {
	n, ok := hashed.field("user")
	if !ok {
		t.Fatal("no user")
	}
	for _, f := range n.list[1].list {
		switch number, _ := strconv.Atoi(f.list[1].atom); f.list[0].atom {
		case "uid":
			u.UID = number
		case "gid":
			u.GID = number
		case "name":
			u.Name = f.list[1].atom
		}
	}
	return u
}

// directoriesAsFiles gives an archive as ocurrent/obuilder writes it: there a
// directory is a file whose name ends in a slash, as tar had it before it had
// directories. Most programs read that as a directory; busybox does not.
func directoriesAsFiles(t *testing.T, stream []byte) []byte {
	t.Helper()
	const blockSize, typeflag, checksum = 512, 156, 148
	out := bytes.Clone(stream)
	for at := 0; at < len(out); {
		block := out[at : at+blockSize]
		size, err := strconv.ParseInt(strings.Trim(string(block[124:136]), " \x00"), 8, 64)
		if err != nil {
			return out // the zeros at the end
		}
		if block[typeflag] == tar.TypeDir {
			block[typeflag] = tar.TypeReg
			sum, err := strconv.ParseInt(strings.Trim(string(block[checksum:checksum+8]), " \x00"), 8, 64)
			if err != nil {
				t.Fatal(err)
			}
			copy(block[checksum:], fmt.Sprintf("%07o\x00", sum-int64(tar.TypeDir)+int64(tar.TypeReg)))
		}
		at += blockSize + int(size+blockSize-1)/blockSize*blockSize
	}
	return out
}

// entries reads an archive as the recording lists it.
func entries(t *testing.T, stream []byte) (list []vectors.TarEntry) {
	t.Helper()
	r := tar.NewReader(bytes.NewReader(stream))
	for {
		h, err := r.Next()
		if err == io.EOF {
			return list
		} else if err != nil {
			t.Fatal(err)
		}
		mtime := h.ModTime.Unix()
		e := vectors.TarEntry{Name: h.Name, Typeflag: string(h.Typeflag), Mode: uint32(h.Mode), UID: h.Uid, GID: h.Gid,
			Uname: h.Uname, Gname: h.Gname, Size: h.Size, Linkname: h.Linkname, Mtime: &mtime}
		switch {
		case strings.HasSuffix(h.Name, "/"):
			e.Type = "dir"
		case h.Typeflag == tar.TypeReg:
			data, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			sum := sha256.Sum256(data)
			e.Type, e.SHA256 = "file", hex.EncodeToString(sum[:])
		case h.Typeflag == tar.TypeSymlink:
			e.Type = "symlink"
		}
		list = append(list, e)
	}
}
