package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"obuilder.org/obuilder/zfs/fake"
	"obuilder.org/obuilder/zfs/fake/command"
	"obuilder.org/obuilder/zfs/zfstest/session"
)

const (
	disk     = "/tmp/disk"
	diskSize = 128 << 20
	pool     = "tank"
)

// Commands of this program, besides those of sessions: all that can be seen,
// without and with what is in snapshots.
const (
	stateCommand = "state"
	wholeCommand = "state snapshots"
)

// beginning is what every sequence begins with.
var beginning = []string{
	fmt.Sprintf("truncate %s %d", disk, diskSize),
	"zpool create " + pool + " " + disk,
}

// roots are the directories below which everything is mounted.
var roots = []string{"/m", "/tank"}

// A player plays sessions and this program's own commands, unmasked.
type player struct {
	session.Player
	mounts func() ([]fake.Mounted, error)
	reset  func(context.Context) error
}

// play plays a command, on a pool that reset has made.
func (p *player) play(ctx context.Context, line string) (session.Step, error) {
	switch line {
	case stateCommand, wholeCommand:
		return p.state(ctx, line)
	}
	return p.PlayUnmasked(ctx, line)
}

const stateProperties = "zfs list -t all -Hp -o name,type,origin,mountpoint,mounted,canmount,clones,userrefs,defer_destroy"

// state gives all that can be seen: the properties of everything, what is
// mounted, and what is in every file.
func (p *player) state(ctx context.Context, line string) (session.Step, error) {
	s, err := p.PlayUnmasked(ctx, stateProperties)
	if err != nil {
		return s, err
	}
	s.Command = line
	mounts, err := p.mounts()
	if err != nil {
		return s, err
	}
	slices.SortFunc(mounts, func(a, b fake.Mounted) int { return strings.Compare(a.Name, b.Name) })
	var b strings.Builder
	b.WriteString(s.Out)
	for _, m := range mounts {
		fmt.Fprintf(&b, "mount %s on %s\n", m.Name, m.Path)
	}
	for _, dir := range roots {
		p.walk(&b, dir)
	}
	if line == wholeCommand {
		for _, m := range mounts {
			p.walk(&b, strings.TrimSuffix(m.Path, "/")+"/.zfs/snapshot")
		}
	}
	s.Out = b.String()
	return s, nil
}

// walk prints what is below a directory.
func (p *player) walk(b *strings.Builder, dir string) {
	tree, err := p.Files.Tree(dir)
	if err != nil {
		return
	}
	defer tree.Close()
	_ = fs.WalkDir(tree, ".", func(name string, e fs.DirEntry, err error) error {
		at := dir + strings.TrimPrefix("/"+name, "/.")
		switch {
		case err != nil:
			fmt.Fprintf(b, "failed %s\n", at)
		case e.IsDir():
			fmt.Fprintf(b, "dir %s\n", at)
		default:
			data, err := fs.ReadFile(tree, name)
			if err != nil {
				fmt.Fprintf(b, "failed %s\n", at)
			} else if len(data) > 80 {
				fmt.Fprintf(b, "file %s is %d bytes %.8x\n", at, len(data), sha256.Sum256(data))
			} else {
				fmt.Fprintf(b, "file %s is %q\n", at, data)
			}
		}
		return nil
	})
}

// newFake gives a player for a machine in memory.
func newFake() *player {
	p := &player{}
	p.reset = func(ctx context.Context) error {
		p.Close()
		m := fake.New(fake.Pool("none", 1, "none"))
		p.Player = session.Player{Files: m.Files(), Run: func(ctx context.Context, argv []string, in io.Reader, out, err io.Writer) (int, error) {
			return command.Run(ctx, m, argv, in, out, err), nil
		}}
		p.mounts = func() ([]fake.Mounted, error) { return m.Mounts(), nil }
		return p.must(ctx, append([]string{"zpool destroy none", "mkdir /tmp"}, beginning...)...)
	}
	return p
}

// must plays what has to succeed.
func (p *player) must(ctx context.Context, lines ...string) error {
	for _, line := range lines {
		s, err := p.PlayUnmasked(ctx, line)
		if err == nil && s.Status != 0 {
			err = fmt.Errorf("%s", strings.TrimSpace(s.String()))
		}
		if err != nil {
			return err
		}
	}
	return nil
}
