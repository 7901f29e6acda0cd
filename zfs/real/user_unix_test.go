//go:build unix

package real

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"syscall"

	"obuilder.org/obuilder/zfs"
)

// asNobody makes cmd run without privileges.
func asNobody(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
}

// createAs is this program when it was started by asNobody: it creates the
// dataset and prints how that was classed.
func createAs(name string) int {
	fs, err := New(Options{})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	var e *zfs.Error
	if err := fs.Create(context.Background(), zfs.MustDataset(name), zfs.CreateOptions{}); !errors.As(err, &e) {
		fmt.Println(err)
		return 1
	}
	fmt.Printf("rule %d, kind %s: %v\n", ruleFor("create", e.Stderr), e.Kind, e)
	return 0
}
