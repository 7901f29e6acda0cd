package fake

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"strings"
	"testing"
)

// fileMove does something to a file of a mounted dataset.
func fileMove(r *rand.Rand, m *Machine) string {
	var mounts []string
	for _, p := range m.pools {
		visitMounted(p.root, func(d *dataset) bool { mounts = append(mounts, d.mnt.path); return true })
	}
	name := path.Join(mounts[r.IntN(len(mounts))], fmt.Sprint("file", r.IntN(3)))
	f := &Files{m}
	size := r.IntN(300_000)
	switch r.IntN(6) {
	case 0:
		_ = f.Remove(name)
		return "remove " + name
	case 1:
		_ = f.RemoveAll(path.Dir(name))
		return "remove all in " + path.Dir(name)
	case 2:
		to := name + "-link"
		_ = f.Link(name, to)
		return "link " + name
	}
	flag := []int{os.O_APPEND, os.O_TRUNC, 0}[r.IntN(3)]
	if h, err := f.OpenFile(name, os.O_CREATE|os.O_WRONLY|flag, 0o600); err == nil {
		_, _ = h.Write(make([]byte, size))
		if r.IntN(4) == 0 {
			_ = f.Remove(name) // while it is open
		}
		_ = h.Close()
	}
	return fmt.Sprintf("write %d %#x %s", size, flag, name)
}

// A block is something that takes up space.
type block struct {
	data  *byte  // of a chunk
	birth uint64 // of an object
}

// blocksOf gives all that a tree holds, with sizes.
func blocksOf(c *contents) map[block]uint64 {
	blocks := make(map[block]uint64)
	c.tree.ascend(key{}, func(it *item) bool {
		if it.ino == nil {
			return true
		}
		if it.key.obj != rootObj {
			blocks[block{birth: it.ino.made}] = objectSize
		}
		for i := range it.ino.data {
			if ch := &it.ino.data[i]; len(ch.data) > 0 {
				blocks[block{data: &ch.data[0]}] = ch.charge()
			}
		}
		return true
	})
	return blocks
}

// checkSpace counts every block there is and compares with what the machine says.
func checkSpace(t *testing.T, m *Machine) {
	t.Helper()
	holders := make(map[block]int)
	sizes := make(map[block]uint64)
	count := func(c *contents) (sum uint64) {
		for b, size := range blocksOf(c) {
			holders[b]++
			sizes[b] = size
			sum += size
		}
		return sum
	}
	total := uint64(0)
	list := m.pools[0].root.subtree(nil)
	for _, d := range list {
		if d.origin == nil {
			total += emptyFS
		}
		if got := count(&d.contents) + emptyFS; got != d.refd {
			t.Errorf("%s refers to %d, counted %d", d.fullName(), d.refd, got)
		}
		for _, s := range d.snaps {
			if got := count(&s.contents) + emptyFS; got != s.refd {
				t.Errorf("%s refers to %d, counted %d", s.fullName(), s.refd, got)
			}
		}
	}
	for _, size := range sizes {
		total += size
	}
	if used := m.pools[0].root.used(); used != total {
		t.Errorf("the pool uses %d, counted %d", used, total)
	}
	for _, d := range list {
		children := uint64(0)
		d.children.all(func(c *dataset) { children += c.used() })
		if children != d.usedChildren {
			t.Errorf("children of %s use %d, say %d", d.fullName(), d.usedChildren, children)
		}
		for i, s := range d.snaps {
			if s.firstClone != nil {
				continue // what only its clones have too counts as its own
			}
			alone := uint64(0)
			for b, size := range blocksOf(&s.contents) {
				if holders[b] == 1 {
					alone += size
				}
			}
			if got := d.unique(i); got != alone {
				t.Errorf("%s uses %d alone, counted %d", s.fullName(), got, alone)
			}
		}
		head, snap := d.usedHead, d.usedSnap
		if d.recount(); head != d.usedHead || snap != d.usedSnap {
			t.Errorf("%s uses %d and %d in snapshots, a recount says %d and %d", d.fullName(), head, snap, d.usedHead, d.usedSnap)
		}
	}
}

func TestSpace(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 5))
		m := newTank(t)
		var did []string
		for _, mv := range randomMoves(r, 150) {
			_ = mv.run(m)
			did = append(did, mv.text)
			for range r.IntN(3) {
				did = append(did, fileMove(r, m))
			}
			checkSpace(t, m)
			if t.Failed() {
				t.Fatalf("seed %d:\n%s", seed, strings.Join(did, "\n"))
			}
		}
	}
}
