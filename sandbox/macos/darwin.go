package macos

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"
)

// A Darwin is the accounts and processes of a Mac. The programs it runs are
// those of ocurrent/obuilder's lib/macos.ml, where that has them.
type Darwin struct {
	Commands Commands
	Sudo     bool // for what only root may do
}

var (
	_ Accounts  = Darwin{}
	_ Processes = Darwin{}
)

// asRoot gives the command that does as root what argv does.
func asRoot(sudo bool, argv ...string) []string {
	if sudo {
		// Without -n it would ask for a password that nobody can give.
		return append([]string{"sudo", "-n"}, argv...)
	}
	return argv
}

func (d Darwin) root(ctx context.Context, argv ...string) (string, error) {
	return d.Commands.Output(ctx, asRoot(d.Sudo, argv...)...)
}

// as runs a program as another user, without that user's shell or profile.
func (d Darwin) as(ctx context.Context, user string, argv ...string) (string, error) {
	return d.Commands.Output(ctx, append([]string{"sudo", "-n", "-u", user, "--"}, argv...)...)
}

// Lookup implements [Accounts].
func (d Darwin) Lookup(ctx context.Context, name string) (Account, error) {
	out, err := d.Commands.Output(ctx, "dscl", ".", "-read", "/Users/"+name,
		"UniqueID", "PrimaryGroupID", "UserShell", "NFSHomeDirectory")
	if err != nil {
		if c := (*CommandError)(nil); errors.As(err, &c) && strings.Contains(c.Stderr+out, "eDSRecordNotFound") {
			return Account{}, ErrNoAccount
		}
		return Account{}, err
	}
	a := Account{Name: name}
	for line := range strings.Lines(out) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		var err error
		switch key {
		case "UniqueID":
			a.UID, err = strconv.Atoi(value)
		case "PrimaryGroupID":
			a.GID, err = strconv.Atoi(value)
		case "UserShell":
			a.Shell = value
		case "NFSHomeDirectory":
			a.Home = value
		}
		if err != nil {
			return Account{}, fmt.Errorf("dscl: %s of user %s: %w", key, name, err)
		}
	}
	return a, nil
}

// Names implements [Accounts].
func (d Darwin) Names(ctx context.Context, uid int) ([]string, error) {
	out, err := d.Commands.Output(ctx, "dscl", ".", "-search", "/Users", "UniqueID", strconv.Itoa(uid))
	if err != nil {
		return nil, err
	}
	// A match is: name, tabs, "UniqueID = (", then lines with the value.
	var names []string
	for line := range strings.Lines(out) {
		if name, _, ok := strings.Cut(line, "\t"); ok && name != "" && strings.Contains(line, "UniqueID = ") {
			names = append(names, name)
		}
	}
	return names, nil
}

// Create implements [Accounts].
func (d Darwin) Create(ctx context.Context, a Account) error {
	for _, p := range [][2]string{
		{"UniqueID", strconv.Itoa(a.UID)},
		{"PrimaryGroupID", strconv.Itoa(a.GID)},
		{"UserShell", a.Shell},
		{"NFSHomeDirectory", a.Home},
	} {
		if _, err := d.root(ctx, "dscl", ".", "-create", "/Users/"+a.Name, p[0], p[1]); err != nil {
			return err
		}
	}
	return nil
}

// Su implements [Accounts]. What follows the user goes to the shell, for which
// "--" ends its options (su(1) of macOS).
func (d Darwin) Su(user, script string, args []string) []string {
	return asRoot(d.Sudo, append([]string{"su", "-l", user, "-c", "--", script}, args...)...)
}

// TempDir implements [Accounts]. The system makes it when it is asked for
// (confstr(3)).
func (d Darwin) TempDir(ctx context.Context, a Account) (string, error) {
	out, err := d.as(ctx, a.Name, "getconf", "DARWIN_USER_TEMP_DIR")
	if err != nil {
		return "", err
	}
	dir, _, _ := strings.Cut(out, "\n")
	if !path.IsAbs(dir) {
		return "", fmt.Errorf("getconf DARWIN_USER_TEMP_DIR gave %q", dir)
	}
	return dir, nil
}

// ClearTempDir implements [Accounts]. It is done as the user: the directory
// and those above belong to it, and may have become links to anywhere.
func (d Darwin) ClearTempDir(ctx context.Context, a Account, dir string) error {
	_, err := d.as(ctx, a.Name, "/bin/sh", "-c",
		`cd "$0" && { chmod -R u+rwX . 2>/dev/null; find . ! -name . -prune -exec rm -rf {} +; }`, dir)
	return err
}

// Own implements [Accounts].
func (d Darwin) Own(ctx context.Context, a Account, path string) error {
	return own(ctx, d.Commands, d.Sudo, a, path)
}

func own(ctx context.Context, c Commands, sudo bool, a Account, path string) error {
	_, err := c.Output(ctx, asRoot(sudo, "chown", "-h", fmt.Sprintf("%d:%d", a.UID, a.GID), path)...)
	return err
}

// List implements [Processes].
func (d Darwin) List(ctx context.Context, uid int) ([]Process, error) {
	out, err := d.Commands.Output(ctx, "ps", "-U", strconv.Itoa(uid), "-o", "pid=,state=,comm=")
	if status, ok := exitStatus(err); !ok || status > 1 { // 1: there are none
		return nil, err
	}
	var list []Process
	for line := range strings.Lines(out) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		pid, err := strconv.Atoi(fields[0])
		if err != nil {
			return nil, fmt.Errorf("ps: process id %q", fields[0])
		}
		list = append(list, Process{PID: pid, State: fields[1], Command: path.Base(strings.Join(fields[2:], " "))})
	}
	return list, nil
}

// Kill implements [Processes]. Hard is to end the user's part of launchd,
// which would start its agents again.
func (d Darwin) Kill(ctx context.Context, uid int, hard bool) (found bool, err error) {
	if hard {
		// It fails when there is none.
		_, _ = d.root(ctx, "launchctl", "bootout", "user/"+strconv.Itoa(uid))
	}
	_, err = d.root(ctx, "pkill", "-9", "-U", strconv.Itoa(uid))
	switch status, ok := exitStatus(err); {
	case ok && status == 0:
		return true, nil
	case ok && status == 1: // pkill(1): no process matched
		return false, nil
	}
	return false, err
}

// holdersTime bounds Holders: lsof itself may hang on what is stuck.
const holdersTime = 5 * time.Second

// Holders implements [Processes]. For a mount point, lsof lists what is open
// in the whole file system.
func (d Darwin) Holders(ctx context.Context, path string) []Process {
	ctx, cancel := context.WithTimeout(ctx, holdersTime)
	defer cancel()
	// Its status is 1 also when it found something; what it printed counts.
	out, _ := d.root(ctx, "lsof", "-w", "-n", "-P", "-F", "pc", path)
	var list []Process
	for line := range strings.Lines(out) {
		line = strings.TrimSuffix(line, "\n")
		if line == "" {
			continue
		}
		switch value := line[1:]; line[0] {
		case 'p':
			pid, _ := strconv.Atoi(value)
			list = append(list, Process{PID: pid})
		case 'c':
			if len(list) > 0 {
				list[len(list)-1].Command = value
			}
		}
	}
	return list
}
