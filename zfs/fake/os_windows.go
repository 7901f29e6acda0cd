package fake

import (
	"errors"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/windows"
)

type fileID struct{}

func linksOf(fs.FileInfo) (id fileID, several bool) { return fileID{}, false }

func own(string, fs.FileInfo) error { return nil }

func setLinkTime(string, time.Time) error { return nil }

func mkfifo(string, fs.FileMode) error { return errors.ErrUnsupported }

func shareBlocks(dst, src *os.File) error { return errors.ErrUnsupported }

func cloneFile(src, dst string) error { return errors.ErrUnsupported }

// space gives the size of the file system of a directory and what is free in it.
func space(dir string) (size, free uint64, err error) {
	name, err := windows.UTF16PtrFromString(dir)
	if err != nil {
		return 0, 0, err
	}
	var total uint64
	if err := windows.GetDiskFreeSpaceEx(name, &free, &size, &total); err != nil {
		return 0, 0, &os.PathError{Op: "GetDiskFreeSpaceEx", Path: dir, Err: err}
	}
	return size, free, nil
}

func diskUse(info fs.FileInfo) uint64 { return uint64(info.Size()) }
