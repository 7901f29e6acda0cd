package fake

import (
	"os"

	"golang.org/x/sys/unix"
)

// shareBlocks makes dst have the blocks of an open file; not on macOS.
func shareBlocks(dst, src *os.File) error { return unix.ENOTSUP }

// cloneFile makes dst, which does not exist, share the blocks of src. It fails
// where the file system cannot (clonefile(2)).
func cloneFile(src, dst string) error {
	return unix.Clonefile(src, dst, unix.CLONE_NOFOLLOW)
}
