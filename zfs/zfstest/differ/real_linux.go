package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	obzfs "obuilder.org/obuilder/zfs"
	"obuilder.org/obuilder/zfs/fake"
	"obuilder.org/obuilder/zfs/zfstest/session"
)

// No command of a comparison takes longer than this, not even emulated.
const commandTimeout = 2 * time.Minute

// newReal gives a player for the OpenZFS of this machine. It refuses a machine
// on which something could be lost.
func newReal(ctx context.Context) (*player, error) {
	if os.Geteuid() != 0 || os.Getenv("OBUILDER_TEST_DISPOSABLE") == "" {
		return nil, errors.New("all file systems are mounted and unmounted on this machine: it needs root and OBUILDER_TEST_DISPOSABLE=1, or OPENZFS_VM, see the head of scripts/openzfs")
	}
	for _, path := range append(slices.Clone(roots), disk) {
		if _, err := os.Lstat(path); err == nil {
			return nil, fmt.Errorf("%s is there already", path)
		}
	}
	p := &player{mounts: realMounts}
	p.Player = session.Player{Files: obzfs.OSFiles{}, Run: runReal, Enter: enter}
	s, err := p.PlayUnmasked(ctx, "zpool list -Ho name")
	switch {
	case err != nil:
		return nil, err
	case s.Status != 0 || s.Out != "":
		return nil, fmt.Errorf("there are pools here, or there is no ZFS:\n%s", s)
	}
	p.reset = func(ctx context.Context) error {
		p.Close()
		p.Player = session.Player{Files: obzfs.OSFiles{}, Run: runReal, Enter: enter}
		if err := p.clear(ctx); err != nil {
			return err
		}
		return p.must(ctx, beginning...)
	}
	return p, nil
}

func runReal(ctx context.Context, argv []string, in io.Reader, out, errs io.Writer) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC")
	cmd.Dir = "/"
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, errs
	ownGroup(cmd)
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	if ctx.Err() != nil {
		return 0, fmt.Errorf("%q did not end: %w", argv, ctx.Err())
	}
	if cmd.ProcessState == nil {
		return 0, err
	}
	return cmd.ProcessState.ExitCode(), nil
}

// enter starts a process whose working directory is dir.
func enter(dir string) (leave func(), err error) {
	cmd := exec.Command("sleep", "86400")
	cmd.Dir = dir
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}, nil
}

var mountEscapes = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// realMounts gives the file systems that are mounted, those of snapshots not.
func realMounts() ([]fake.Mounted, error) {
	all, err := allMounts()
	return slices.DeleteFunc(all, func(m fake.Mounted) bool { return strings.Contains(m.Name, "@") }), err
}

func allMounts() ([]fake.Mounted, error) {
	data, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	var mounts []fake.Mounted
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "zfs" {
			mounts = append(mounts, fake.Mounted{Name: mountEscapes.Replace(f[0]), Path: mountEscapes.Replace(f[1])})
		}
	}
	return mounts, nil
}

// clear removes what a sequence has left: its pool, mount points and disk.
func (p *player) clear(ctx context.Context) error {
	if s, err := p.PlayUnmasked(ctx, "zpool list -Ho name"); err != nil {
		return err
	} else if s.Out != "" && p.must(ctx, "zpool destroy -f "+pool) != nil {
		if err := detachAll(); err != nil { // zfs does not unmount what is hidden
			return err
		}
		if err := p.must(ctx, "zpool destroy -f "+pool); err != nil {
			return err
		}
	}
	if mounts, err := allMounts(); err != nil || len(mounts) > 0 {
		return errors.Join(err, fmt.Errorf("still mounted: %v", mounts))
	}
	for _, path := range append(slices.Clone(roots), disk) {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return nil
}

func detachAll() error {
	mounts, err := allMounts()
	for _, m := range slices.Backward(mounts) {
		if e := unix.Unmount(m.Path, unix.MNT_DETACH); e != nil && e != unix.EINVAL && e != unix.ENOENT {
			err = errors.Join(err, fmt.Errorf("unmount %s: %w", m.Path, e))
		}
	}
	return err
}
