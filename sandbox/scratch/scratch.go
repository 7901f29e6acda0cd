// Package scratch makes the directories that a step has for as long as it
// runs: its secrets and its temporary files.
//
//	dir, remove, err := scratch.Secrets("/var/run/obuilder-secrets/mac1000", cfg.Secrets, &scratch.Owner{UID: 1000, GID: 1000})
//	...
//	defer remove()
//
// A secret is readable (0400) and its directories are searchable (0500) by
// their owner only. The secrets of every command have a directory of their own.
package scratch

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"obuilder.org/obuilder/sandbox"
)

// SecretsVariable is the environment variable which tells a step where its secrets are.
const SecretsVariable = "OBUILDER_SECRETS_DIR"

// An Owner is the user that may read secrets.
type Owner struct{ UID, GID int }

// Temp makes a new directory in the directory parent, which exists. The caller
// calls remove in the end.
func Temp(parent string) (dir string, remove func() error, err error) {
	dir, err = os.MkdirTemp(parent, "")
	if err != nil {
		return "", nil, fmt.Errorf("make a temporary directory: %w", err)
	}
	return dir, func() error { return removeTree(dir) }, nil
}

// Secrets makes a new directory in the directory parent, which exists, and puts
// the secrets in there. They belong to owner, or to this process when that is
// nil. The caller calls remove in the end, whatever happens. Where there are
// no secrets, nothing is made and dir is empty.
//
// Nobody but this process may be able to write to parent: links below it are
// never followed, but a user who can rename what is in it can take it away.
func Secrets(parent string, secrets []sandbox.Secret, owner *Owner) (dir string, remove func() error, err error) {
	if len(secrets) == 0 {
		return "", func() error { return nil }, nil
	}
	dir, err = os.MkdirTemp(parent, "step-")
	if err != nil {
		return "", nil, fmt.Errorf("make a directory for secrets: %w", err)
	}
	remove = func() error { return removeTree(dir) }
	if err := write(dir, secrets, owner); err != nil {
		return "", nil, errors.Join(fmt.Errorf("write secrets: %w", err), remove())
	}
	return dir, remove, nil
}

func write(dir string, secrets []sandbox.Secret, owner *Owner) (err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	var all []string // files and directories
	made := map[string]bool{}
	for _, s := range secrets {
		name, err := s.File()
		if err != nil {
			return err
		}
		if err := root.MkdirAll(path.Dir(name), 0o700); err != nil {
			return err
		}
		file, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o400)
		if err != nil {
			return err
		}
		if _, err := file.Write(s.Value); err != nil {
			return errors.Join(err, file.Close())
		}
		if err := file.Close(); err != nil {
			return err
		}
		for d := name; !made[d]; d = path.Dir(d) {
			made[d] = true
			all = append(all, d)
			if d == "." {
				break
			}
		}
	}
	for _, name := range all {
		fi, err := root.Lstat(name)
		if err != nil {
			return err
		}
		if fi.IsDir() && name != "." {
			if err := root.Chmod(name, 0o500); err != nil {
				return err
			}
		}
		if owner != nil && name != "." {
			if err := root.Lchown(name, owner.UID, owner.GID); err != nil {
				return err
			}
		}
	}
	// Last, when everything is in place: the way in.
	if owner != nil {
		if err := root.Lchown(".", owner.UID, owner.GID); err != nil {
			return err
		}
	}
	return root.Chmod(".", 0o500)
}

// Clear removes what is in the directory dir, not following links: what a step
// or a killed process left there. It is no error for there to be no such
// directory. What cannot be removed does not keep the rest.
func Clear(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("clear directory: %w", err)
	}
	var errs []error
	for _, e := range entries {
		errs = append(errs, removeTree(filepath.Join(dir, e.Name())))
	}
	return errors.Join(errs...)
}

// removeTree removes name, and directories in it that cannot be written to as
// well: secrets and the module cache of Go have such.
func removeTree(name string) error {
	err := os.RemoveAll(name)
	if err == nil {
		return nil
	}
	root, rootErr := os.OpenRoot(name)
	if rootErr != nil {
		return err
	}
	// What could not be changed is reported by RemoveAll.
	_ = fs.WalkDir(root.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			_ = root.Chmod(name, 0o700)
		}
		return nil
	})
	root.Close()
	return os.RemoveAll(name)
}
