//go:build unix

package real

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"syscall"
)

// setGroup makes cmd the head of a process group, so that what it starts
// (zfs on macOS runs diskutil) is killed with it.
func setGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

func (f *FS) killGroup(cmd *exec.Cmd) error {
	err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	if errors.Is(err, syscall.EPERM) && len(f.sudo) > 0 { // it is root's by now
		ctx, cancel := context.WithTimeout(context.Background(), f.killGrace)
		defer cancel()
		line := append(f.sudo[:len(f.sudo):len(f.sudo)], "kill", "-KILL", "--", strconv.Itoa(-cmd.Process.Pid))
		return exec.CommandContext(ctx, line[0], line[1:]...).Run()
	}
	if errors.Is(err, syscall.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}
