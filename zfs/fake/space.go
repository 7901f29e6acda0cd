package fake

import "slices"

// Space is accounted for as ZFS does it (dsl_dataset.c, dsl_deadlist.c): a
// block carries the transaction in which it was born. When a dataset drops a
// block that is older than its last snapshot, the block goes to the dataset's
// dead list instead of being free. From these lists follows, without looking
// at any file, what a snapshot holds alone and what its destruction frees.

// Sizes of what is not contents of a file, as seen on a real pool.
const (
	emptyFS    = 24 << 10 // a new file system
	objectSize = 1 << 10  // an object and its name
	sectorSize = 512      // contents are rounded up to it
)

// What a command needs to find free before it begins: the blocks that it may
// modify, of 16 KiB, three copies of each (dsl_synctask.c).
const (
	createNeeds   = 6 * 16 << 10 * 3
	cloneNeeds    = 6 * 16 << 10 * 3
	snapshotNeeds = 3 * 16 << 10 * 3 // each
)

// dead is blocks of one birth that are not in a dataset any more but are in
// its previous snapshot.
type dead struct{ birth, bytes uint64 }

// A deadList is sorted by birth.
type deadList []dead

func (l *deadList) add(birth, bytes uint64) {
	i, ok := slices.BinarySearchFunc(*l, birth, func(d dead, b uint64) int {
		if d.birth < b {
			return -1
		} else if d.birth > b {
			return 1
		}
		return 0
	})
	if ok {
		(*l)[i].bytes += bytes
		return
	}
	*l = slices.Insert(*l, i, dead{birth, bytes})
}

// after sums up what was born after txg.
func (l deadList) after(txg uint64) (sum uint64) {
	for i := len(l) - 1; i >= 0 && l[i].birth > txg; i-- {
		sum += l[i].bytes
	}
	return sum
}

func (l deadList) until(txg uint64) (sum uint64) {
	for i := 0; i < len(l) && l[i].birth <= txg; i++ {
		sum += l[i].bytes
	}
	return sum
}

// used is what d and all below it take up.
func (d *dataset) used() uint64 { return d.usedHead + d.usedSnap + d.usedChildren }

// charge changes what d uses itself, and with it what all above it use.
func (d *dataset) charge(head, snap int64) {
	d.usedHead += uint64(head)
	d.usedSnap += uint64(snap)
	if sum := head + snap; sum != 0 {
		for p := d.parent; p != nil; p = p.parent {
			p.usedChildren += uint64(sum)
		}
	}
}

// originTxg is the transaction up to which blocks belong to the origin.
func (d *dataset) originTxg() uint64 {
	if d.origin == nil {
		return 0
	}
	return d.origin.txg
}

// prev is the snapshot that d was changed since: its last one, or its origin.
func (d *dataset) prev() *snapshot {
	if n := len(d.snaps); n > 0 {
		return d.snaps[n-1]
	}
	return d.origin
}

func (d *dataset) prevTxg() uint64 {
	if p := d.prev(); p != nil {
		return p.txg
	}
	return 0
}

// born accounts for a new block in the head of d.
func (d *dataset) born(bytes uint64) {
	if d == nil || bytes == 0 {
		return
	}
	d.refd += bytes
	d.charge(int64(bytes), 0)
}

// killed accounts for a block that is not in the head of d any more.
func (d *dataset) killed(birth, bytes uint64) {
	if d == nil || bytes == 0 {
		return
	}
	d.refd -= bytes
	switch {
	case birth > d.frozen:
		d.charge(-int64(bytes), 0)
	case birth > d.originTxg():
		d.dead.add(birth, bytes)
		d.charge(-int64(bytes), int64(bytes))
	default:
		d.dead.add(birth, bytes)
	}
}

// deadAfter is the dead list of what comes after snapshot i of d: the next
// snapshot or the head.
func (d *dataset) deadAfter(i int) *deadList {
	if i+1 < len(d.snaps) {
		return &d.snaps[i+1].dead
	}
	return &d.dead
}

// unique is what snapshot i of d holds alone.
func (d *dataset) unique(i int) uint64 {
	before := d.originTxg()
	if i > 0 {
		before = d.snaps[i-1].txg
	}
	return d.deadAfter(i).after(before)
}

// recount computes anew what d uses itself, after its snapshots or its origin
// have changed.
func (d *dataset) recount() {
	origin := d.originTxg()
	var snap, gone uint64
	for _, s := range d.snaps {
		snap += s.dead.after(origin)
		gone += s.dead.until(origin)
	}
	snap += d.dead.after(origin)
	gone += d.dead.until(origin)
	head := d.refd
	if d.origin != nil {
		head -= d.origin.refd - gone
	}
	d.charge(int64(head)-int64(d.usedHead), int64(snap)-int64(d.usedSnap))
}

// dropDead accounts for the destruction of snapshot i of d, which is still in d.snaps.
func (d *dataset) dropDead(i int) {
	before := d.originTxg()
	if i > 0 {
		before = d.snaps[i-1].txg
	}
	next := d.deadAfter(i)
	freed := next.after(before)
	kept := make(deadList, 0, len(*next))
	for _, e := range *next {
		if e.birth <= before {
			kept = append(kept, e)
		}
	}
	for _, e := range d.snaps[i].dead {
		kept.add(e.birth, e.bytes)
	}
	if len(kept) == 0 {
		kept = nil
	}
	*next = kept
	d.charge(0, -int64(freed))
}

// written is what of c was written since the snapshot before it.
func (m *Machine) written(c *contents, prev *snapshot) uint64 {
	switch {
	case prev == nil, m.dir != nil && c.data != prev.data:
		return c.refd
	case m.dir != nil:
		return 0
	}
	var sum uint64
	for _, e := range c.dead {
		sum += e.bytes
	}
	return c.refd + sum - prev.refd
}

// slop is what ZFS keeps back for itself (spa_get_slop_space).
func slop(size uint64) uint64 {
	const most, least = 128 << 30, 128 << 20
	return max(min(size>>5, most), min(size>>1, least))
}

// poolFree is what is left in the pool of d for files.
func (d *dataset) poolFree() uint64 {
	root := d.pool
	if root.free != nil {
		return root.free()
	}
	total := root.size - slop(root.size)
	return total - min(total, root.root.used())
}

// available is how much can be written to d, but for its refquota. quota says
// whether a quota is what limits it.
func (d *dataset) available() (bytes uint64, quota bool) {
	bytes = d.poolFree()
	for p := d; p != nil; p = p.parent {
		if p.quota == 0 {
			continue
		}
		if left := p.quota - min(p.quota, p.used()); left < bytes {
			bytes, quota = left, true
		}
	}
	return bytes, quota
}

func roundUp(n, to uint64) uint64 { return (n + to - 1) / to * to }
