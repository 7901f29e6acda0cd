package fake

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"sort"
	"strings"
	"testing"

	"obuilder.org/obuilder/zfs"
)

// A move is something done to a machine, in a few names, so that much of it
// meets what earlier ones have made.
type move struct {
	text string
	run  func(m *Machine) error
}

func randomMoves(r *rand.Rand, n int) []move {
	pick := func(list ...string) string { return list[r.IntN(len(list))] }
	dataset := func() string {
		return "tank/" + pick("a", "b", "c", "a/x", "b/x", "c/x", "a/y", "b/x/z")
	}
	snapshot := func() string { return dataset() + "@" + pick("1", "2", "3") }
	var list []move
	add := func(run func(m *Machine) error, format string, args ...any) {
		list = append(list, move{fmt.Sprintf(format, args...), run})
	}
	for len(list) < n {
		d, e, s, yes, below := dataset(), dataset(), snapshot(), r.IntN(2) == 0, r.IntN(2) == 0
		switch r.IntN(18) {
		case 0, 1:
			add(func(m *Machine) error { return m.Create(ctx, ds(d), zfs.CreateOptions{Parents: yes}) }, "create %s", d)
		case 2, 3, 4:
			var props []zfs.Property
			if yes {
				props = append(props, mountNone)
			}
			add(func(m *Machine) error { return m.Clone(ctx, snap(s), ds(d), props...) }, "clone %v %s %s", props, s, d)
		case 5, 6, 7:
			add(func(m *Machine) error { return m.Snapshot(ctx, yes, snap(s)) }, "snapshot %v %s", yes, s)
		case 8:
			mode := zfs.DestroyMode{Recursive: yes, Dependents: r.IntN(4) == 0}
			add(func(m *Machine) error { return m.Destroy(ctx, ds(d), mode) }, "destroy %v %s", mode, d)
		case 9:
			mode := zfs.DestroyMode{Recursive: yes, Defer: r.IntN(2) == 0}
			add(func(m *Machine) error { return m.Destroy(ctx, snap(s), mode) }, "destroy %v %s", mode, s)
		case 10, 11:
			at := pick("none", "none", "/Users/1", "/Users/1/in", "/usr/local")
			add(func(m *Machine) error { return m.Set(ctx, ds(d), prop("mountpoint", at)) }, "set mountpoint=%s %s", at, d)
		case 12:
			add(func(m *Machine) error {
				if yes {
					return m.Mount(ctx, ds(d))
				}
				return m.Unmount(ctx, ds(d), false)
			}, "mount %v %s", yes, d)
		case 13:
			add(func(m *Machine) error {
				if yes {
					return m.Rename(ctx, ds(d), ds(e), zfs.RenameOptions{})
				}
				return m.Promote(ctx, ds(d))
			}, "rename or promote %v %s %s", yes, d, e)
		case 14:
			add(func(m *Machine) error {
				if yes {
					return m.Inherit(ctx, ds(d), "mountpoint", false)
				}
				if mountsInside(m, snap(s).Dataset().String()) { // in a directory they are reached as before
					return nil
				}
				return m.Rollback(ctx, snap(s), true)
			}, "inherit or rollback %v %s %s", yes, d, s)
		case 16:
			tag := pick("keep", "more")
			add(func(m *Machine) error {
				if yes {
					return m.HoldSnapshot(ctx, tag, snap(s), below)
				}
				return m.ReleaseSnapshot(ctx, tag, snap(s), below)
			}, "hold or release %v -r %v %s %s", yes, below, tag, s)
		case 17:
			add(func(m *Machine) error {
				if yes {
					return m.SetSnapshot(ctx, snap(s), prop("a:b", e))
				}
				return m.InheritSnapshot(ctx, snap(s), "a:b", false)
			}, "set or inherit a:b %v %s %s", yes, s, e)
		case 15:
			text := fmt.Sprint(r.Uint32())
			add(func(m *Machine) error {
				v, err := m.Get(ctx, ds(d), "mountpoint", "mounted")
				if err != nil || v[1].Value != "yes" {
					return err
				}
				f, err := m.Files().OpenFile(path.Join(v[0].Value, "f"), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
				if err != nil {
					return nil // a hidden mount
				}
				_, err = f.Write([]byte(text))
				return firstError(err, f.Close())
			}, "write %s", d)
		}
	}
	return list
}

// mountsInside reports whether something is mounted below where a dataset is.
func mountsInside(m *Machine, name string) bool {
	mounts := m.Mounts()
	i := slices.IndexFunc(mounts, func(at Mounted) bool { return at.Name == name })
	return i >= 0 && slices.ContainsFunc(mounts, func(at Mounted) bool { return strings.HasPrefix(at.Path, mounts[i].Path+"/") })
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// A view is what there is on a machine, by name, without what differs between
// one in memory and one in a directory.
type view map[string]string

func viewOf(t testing.TB, m *Machine, withMounts bool) view {
	t.Helper()
	rows, err := m.List(ctx, zfs.ListOptions{Recursive: true, Types: []zfs.Type{zfs.Filesystems, zfs.Snapshots},
		Properties: []string{"origin", "mountpoint", "defer_destroy", "userrefs", "a:b", "mounted", "clones"}})
	must(t, err)
	v := view{}
	for _, r := range rows {
		n := 5
		if withMounts {
			n = 7
		}
		clones := strings.Split(r.Values[6], ",")
		sort.Strings(clones)
		r.Values[6] = strings.Join(clones, ",")
		text := strings.Join(r.Values[:n], " ")
		if r.Values[3] != "-" {
			held, err := m.Holds(ctx, snap(r.Name), false)
			must(t, err)
			for _, h := range held {
				text += " " + h.Tag
			}
		}
		v[r.Name] = text
	}
	return v
}

// contentsOf gives what the file f holds in each snapshot of a mounted dataset.
func contentsOf(t testing.TB, m *Machine, heads bool) view {
	t.Helper()
	rows, err := m.List(ctx, zfs.ListOptions{Recursive: true, Types: []zfs.Type{zfs.Filesystems, zfs.Snapshots},
		Properties: []string{"mounted", "mountpoint"}})
	must(t, err)
	v := view{}
	at := ""
	for _, r := range rows {
		_, tag, isSnap := strings.Cut(r.Name, "@")
		if !isSnap {
			at = ""
			if r.Values[0] == "yes" {
				at = r.Values[1]
			}
		}
		if at == "" || !isSnap && !heads {
			continue
		}
		name := path.Join(at, "f")
		if isSnap {
			name = path.Join(at, ".zfs/snapshot", tag, "f")
		}
		data, err := m.Files().ReadFile(name, 100)
		if err != nil {
			data = []byte("none")
		}
		v[r.Name] = string(data)
	}
	return v
}

func (v view) String() string {
	var lines []string
	for name, text := range v {
		lines = append(lines, name+"\t"+text)
	}
	sort.Strings(lines)
	return strings.Join(lines, "\n")
}

var seeds = flag.Int("seeds", 20, "how many sequences TestDirAsMemory tries")

// TestDirAsMemory does the same to a machine in memory and to one in a
// directory, which is closed and opened again now and then.
func TestDirAsMemory(t *testing.T) {
	for seed := range uint64(*seeds) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			var moves []move
			for i, mv := range randomMoves(rand.New(rand.NewPCG(seed, 1)), 200) {
				moves = append(moves, mv)
				if i%20 == 10 {
					moves = append(moves, move{text: "reopen"})
				}
			}
			text := differ(t, moves)
			if text == "" {
				return
			}
			for n := len(moves) / 2; n > 0; { // leave out what is not needed for it
				shorter := false
				for i := 0; i+n <= len(moves); {
					if some := slices.Concat(moves[:i], moves[i+n:]); differ(t, some) != "" {
						moves, shorter = some, true
					} else {
						i += n
					}
				}
				if !shorter || n > len(moves) {
					n /= 2
				}
			}
			var did []string
			for _, mv := range moves {
				did = append(did, mv.text)
			}
			t.Errorf("%s\n%s", strings.Join(did, "\n"), differ(t, moves))
		})
	}
}

// small makes a store write a new state every few commands, and read any child
// only when it is asked for.
func small(c *config) { c.parkFrom, c.journalMax = 1, 1500 }

// differ gives how a machine in a directory differs from one in memory after moves.
func differ(t *testing.T, moves []move) string {
	mem, dir := newTank(t), openDir(t, t.TempDir(), small)
	for i, mv := range moves {
		if mv.run == nil {
			dir = reopen(t, dir)
			continue
		}
		a, b := mv.run(mem), mv.run(dir)
		if zfs.KindOf(a) != zfs.KindOf(b) || (a == nil) != (b == nil) {
			return fmt.Sprintf("in memory: %v\nin a directory: %v", a, b)
		}
		if i%20 > 0 && i%20 < 17 && i < len(moves)-1 {
			continue // looking reads all there is
		}
		if va, vb := viewOf(t, mem, true).String(), viewOf(t, dir, true).String(); va != vb {
			return fmt.Sprintf("in memory:\n%s\nin a directory:\n%s", va, vb)
		}
		if va, vb := contentsOf(t, mem, true).String(), contentsOf(t, dir, true).String(); va != vb {
			return fmt.Sprintf("files in memory:\n%s\nin a directory:\n%s", va, vb)
		}
	}
	checkDir(t, dir)
	must(t, dir.Close())
	return ""
}
