package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
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
	at := map[string]bool{}
	for _, dir := range roots {
		at[dir] = true
	}
	for _, m := range mounts {
		at[path.Clean(m.Path)] = true
	}
	for _, dir := range slices.Sorted(maps.Keys(at)) {
		p.walk(&b, dir, at)
	}
	if line == wholeCommand {
		for _, m := range mounts {
			p.walk(&b, path.Join(m.Path, ".zfs/snapshot"), nil)
		}
	}
	s.Out = b.String()
	return s, nil
}

// walk prints what is below a directory, but for what is walked on its own, by
// name: in .zfs/snapshot names come in no order.
func (p *player) walk(b *strings.Builder, dir string, alone map[string]bool) {
	tree, err := p.Files.Tree(dir)
	if err != nil {
		return
	}
	defer tree.Close()
	var visit func(name string)
	visit = func(name string) {
		at := path.Join(dir, name)
		if name != "." && alone[at] {
			return
		}
		entries, err := tree.ReadDir(name)
		if err != nil {
			fmt.Fprintf(b, "failed %s\n", at)
			return
		}
		fmt.Fprintf(b, "dir %s\n", at)
		slices.SortFunc(entries, func(x, y fs.DirEntry) int { return strings.Compare(x.Name(), y.Name()) })
		for _, e := range entries {
			if e.IsDir() {
				visit(path.Join(name, e.Name()))
				continue
			}
			at := path.Join(at, e.Name())
			switch data, err := fs.ReadFile(tree, path.Join(name, e.Name())); {
			case err != nil:
				fmt.Fprintf(b, "failed %s\n", at)
			case len(data) > 80:
				fmt.Fprintf(b, "file %s is %d bytes %.8x\n", at, len(data), sha256.Sum256(data))
			default:
				fmt.Fprintf(b, "file %s is %q\n", at, data)
			}
		}
	}
	visit(".")
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
		p.Enter = func(dir string) (func(), error) {
			if info, err := p.Files.Lstat(dir); err == nil && !info.IsDir() {
				return nil, errors.New("not a directory") // which opening it would not notice
			}
			f, err := p.Files.OpenFile(dir, os.O_RDONLY, 0)
			return func() { _ = f.Close() }, err
		}
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
