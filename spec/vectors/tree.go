package vectors

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Mtime is the modification time that every file of a recorded tree had.
var Mtime = time.Unix(1_700_000_000, 0)

// WriteTree creates tree's entries below dir, which must exist, as they were
// when the recording was made. Some names, symbolic links and fifos cannot be
// made on Windows, and a file system that ignores case cannot hold all names: it
// fails there, on the latter with [fs.ErrExist], and callers skip.
func WriteTree(dir string, tree []Entry) error {
	var made []string
	for _, e := range tree {
		path := filepath.Join(dir, filepath.FromSlash(e.Path))
		for d := filepath.Dir(path); len(d) > len(dir); d = filepath.Dir(d) {
			made = append(made, d)
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := writeEntry(path, e); err != nil {
			return fmt.Errorf("vectors: %q: %w", e.Path, err)
		}
		if e.Type == "file" || e.Type == "dir" {
			made = append(made, path)
		}
	}
	// Last, because writing into a directory changes its time.
	for _, path := range made {
		if err := os.Chtimes(path, Mtime, Mtime); err != nil {
			return err
		}
	}
	return nil
}

func writeEntry(path string, e Entry) error {
	switch e.Type {
	case "file":
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if err != nil {
			return err
		}
		_, err = f.WriteString(e.Content)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
		return chmod(path, e.Mode)
	case "dir":
		if err := os.MkdirAll(path, 0o755); err != nil {
			return err
		}
		return chmod(path, e.Mode)
	case "symlink":
		if err := os.Symlink(e.Target, path); err != nil {
			return err
		}
		return lutimes(path)
	case "fifo":
		return mkfifo(path)
	}
	return fmt.Errorf("unknown type %q", e.Type)
}
