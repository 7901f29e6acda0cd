package macos

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"obuilder.org/obuilder/sandbox/scratch"
)

// A Linux is the accounts and processes of a Linux machine, so that the
// sandbox of a Mac runs there too. It is for root.
type Linux struct {
	Commands Commands
	Sudo     bool   // for what only root may do
	Tmp      string // where directories for temporary files are: "/tmp"
	Proc     string // where proc(5) is mounted: "/proc"
}

var (
	_ Accounts  = Linux{}
	_ Processes = Linux{}
)

// Lookup implements [Accounts].
func (l Linux) Lookup(_ context.Context, name string) (Account, error) {
	u, err := user.Lookup(name)
	if err != nil {
		if unknown := user.UnknownUserError(""); errors.As(err, &unknown) {
			return Account{}, ErrNoAccount
		}
		return Account{}, err
	}
	uid, uidErr := strconv.Atoi(u.Uid)
	gid, gidErr := strconv.Atoi(u.Gid)
	// The shell is not told, and does not matter: Su names one.
	return Account{Name: name, UID: uid, GID: gid, Home: u.HomeDir, Shell: "/bin/bash"}, errors.Join(uidErr, gidErr)
}

// Names implements [Accounts]. It gives the first one only.
func (l Linux) Names(_ context.Context, uid int) ([]string, error) {
	u, err := user.LookupId(strconv.Itoa(uid))
	if err != nil {
		if unknown := user.UnknownUserIdError(0); errors.As(err, &unknown) {
			return nil, nil
		}
		return nil, err
	}
	return []string{u.Username}, nil
}

// Create implements [Accounts].
func (l Linux) Create(ctx context.Context, a Account) error {
	gid := strconv.Itoa(a.GID)
	if _, err := user.LookupGroupId(gid); err != nil {
		if unknown := user.UnknownGroupIdError(""); !errors.As(err, &unknown) {
			return err
		}
		if _, err := l.Commands.Output(ctx, asRoot(l.Sudo, "groupadd", "-g", gid, a.Name)...); err != nil {
			return err
		}
	}
	_, err := l.Commands.Output(ctx, asRoot(l.Sudo, "useradd", "-M",
		"-u", strconv.Itoa(a.UID), "-g", gid, "-d", a.Home, "-s", a.Shell, a.Name)...)
	return err
}

// Su implements [Accounts]. The su of util-linux looks for its own options
// among what follows the user, so that the order is another one than on a Mac;
// that of busybox takes this one too.
func (l Linux) Su(user, script string, args []string) []string {
	return asRoot(l.Sudo, append([]string{"su", "-l", "-s", "/bin/bash", "-c", script, "--", user}, args...)...)
}

// TempDir implements [Accounts].
func (l Linux) TempDir(ctx context.Context, a Account) (string, error) {
	dir := filepath.Join(l.Tmp, "obuilder-"+a.Name)
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	// Anybody can have made it before us, in /tmp.
	fi, err := os.Lstat(dir)
	if err != nil {
		return "", err
	}
	if !fi.IsDir() {
		return "", &fs.PathError{Op: "mkdir", Path: dir, Err: errors.New("there is something else")}
	}
	return dir, l.Own(ctx, a, dir)
}

// ClearTempDir implements [Accounts]. Nothing of the user runs any more that
// could turn the directory into something else meanwhile.
func (l Linux) ClearTempDir(_ context.Context, _ Account, dir string) error {
	if fi, err := os.Lstat(dir); err != nil || !fi.IsDir() {
		return os.RemoveAll(dir)
	}
	return scratch.Clear(dir)
}

// Own implements [Accounts].
func (l Linux) Own(ctx context.Context, a Account, path string) error {
	return own(ctx, l.Commands, l.Sudo, a, path)
}

// each calls f for every process until that gives false.
func (l Linux) each(ctx context.Context, f func(pid int, dir string) bool) error {
	entries, err := os.ReadDir(l.Proc)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		if pid, err := strconv.Atoi(e.Name()); err == nil && !f(pid, filepath.Join(l.Proc, e.Name())) {
			return nil
		}
	}
	return nil
}

// status reads the process in dir; ok is false when it is gone.
func (l Linux) status(pid int, dir string) (p Process, uid int, ok bool) {
	text, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return p, 0, false
	}
	p.PID, uid = pid, -1
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(line, ":")
		fields := strings.Fields(value)
		if len(fields) == 0 {
			continue
		}
		switch key {
		case "Name":
			p.Command = strings.TrimSpace(value)
		case "State":
			p.State = fields[0]
		case "Uid": // real, effective, saved, file system (proc_pid_status(5))
			uid, err = strconv.Atoi(fields[0])
		}
	}
	return p, uid, err == nil
}

// List implements [Processes].
func (l Linux) List(ctx context.Context, uid int) ([]Process, error) {
	var list []Process
	err := l.each(ctx, func(pid int, dir string) bool {
		if p, of, ok := l.status(pid, dir); ok && of == uid {
			list = append(list, p)
		}
		return true
	})
	return list, err
}

// Kill implements [Processes]. Hard makes no difference.
func (l Linux) Kill(ctx context.Context, uid int, _ bool) (found bool, err error) {
	if l.Sudo {
		_, err := l.Commands.Output(ctx, "sudo", "-n", "pkill", "-9", "-U", strconv.Itoa(uid))
		status, ok := exitStatus(err)
		if ok && status <= 1 {
			return status == 0, nil
		}
		return false, err
	}
	err = l.each(ctx, func(pid int, dir string) bool {
		// The handle is to the process that is there now: look whose that is
		// only then, lest another one gets its number.
		handle, err := os.FindProcess(pid)
		if err != nil {
			return true
		}
		defer handle.Release()
		if p, of, ok := l.status(pid, dir); ok && of == uid && !p.zombie() {
			found = true
			_ = handle.Kill() // it may be gone already; who calls looks again
		}
		return true
	})
	return found, err
}

// Holders implements [Processes].
func (l Linux) Holders(ctx context.Context, path string) []Process {
	ctx, cancel := context.WithTimeout(ctx, holdersTime)
	defer cancel()
	var list []Process
	_ = l.each(ctx, func(pid int, dir string) bool {
		links := []string{filepath.Join(dir, "cwd"), filepath.Join(dir, "root"), filepath.Join(dir, "exe")}
		fds, _ := os.ReadDir(filepath.Join(dir, "fd"))
		for _, fd := range fds {
			links = append(links, filepath.Join(dir, "fd", fd.Name()))
		}
		for _, link := range links {
			if target, err := os.Readlink(link); err == nil && strings.HasPrefix(target+"/", path+"/") {
				p, _, ok := l.status(pid, dir)
				if ok {
					list = append(list, p)
				}
				break
			}
		}
		return len(list) < maxNamed
	})
	return list
}

// forThisMachine gives the accounts and processes of goos.
func forThisMachine(goos string, c Commands, sudo bool) (Accounts, Processes, error) {
	switch goos {
	case "darwin":
		d := Darwin{c, sudo}
		return d, d, nil
	case "linux":
		l := Linux{Commands: c, Sudo: sudo, Tmp: "/tmp", Proc: "/proc"}
		return l, l, nil
	}
	return nil, nil, fmt.Errorf("sandbox with a user account: not on %s", goos)
}
