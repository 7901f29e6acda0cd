//go:build unix

package vectors

import "golang.org/x/sys/unix"

func chmod(path string, mode uint32) error { return unix.Chmod(path, mode) }

func mkfifo(path string) error { return unix.Mkfifo(path, 0o644) }

func lutimes(path string) error {
	t := unix.NsecToTimeval(Mtime.UnixNano())
	return unix.Lutimes(path, []unix.Timeval{t, t})
}
