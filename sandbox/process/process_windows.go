package process

import (
	"os"
	"os/exec"
)

func separate(*exec.Cmd) {}

// There is no signal that asks a process to end.
func terminateGroup(cmd *exec.Cmd) { cmd.Process.Kill() }

func killGroup(cmd *exec.Cmd) { cmd.Process.Kill() }

func signalName(*os.ProcessState) string { return "" }

// KillGroup does nothing more than what cmd does by itself.
func KillGroup(*exec.Cmd) {}
