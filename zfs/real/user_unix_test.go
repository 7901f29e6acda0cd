//go:build unix

package real

import (
	"os/exec"
	"syscall"
)

// asNobody makes cmd run without privileges.
func asNobody(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
}
