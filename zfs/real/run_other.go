//go:build !unix

package real

import "os/exec"

func setGroup(*exec.Cmd) {}

func (f *FS) killGroup(cmd *exec.Cmd) error { return cmd.Process.Kill() }
