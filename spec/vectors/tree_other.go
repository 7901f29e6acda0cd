//go:build !unix

package vectors

import (
	"errors"
	"os"
)

func chmod(path string, mode uint32) error { return os.Chmod(path, os.FileMode(mode&0o777)) }

func mkfifo(string) error { return errors.ErrUnsupported }

func lutimes(string) error { return nil }
