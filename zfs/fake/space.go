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
	// What a pool holds besides its file systems, which is no file system's.
	poolOverhead = 96 << 10
	sectorSize   = 512 // contents are rounded up to it
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

// used is what d and all below it take up, and what is kept free for its head.
func (d *dataset) used() uint64 { return d.usedHead + d.usedSnap + d.usedChildren + d.usedRef }

// counted is what d counts for above it.
func (d *dataset) counted() uint64 { return max(d.used(), d.reserved) }

// charge changes what d uses itself, and with it what all above it use.
func (d *dataset) charge(head, snap int64) {
	before := d.counted()
	d.usedHead += uint64(head)
	d.usedSnap += uint64(snap)
	if d.refreserved > 0 {
		d.usedRef = d.refreserved - min(d.refreserved, d.written())
	}
	d.passOn(before)
}

// reserve sets how much is kept free for d and all below it, and for its head.
func (d *dataset) reserve(all, head uint64) {
	before := d.counted()
	d.reserved, d.refreserved, d.usedRef = all, head, 0
	d.pool.reserved = d.pool.reserved || all > 0 || head > 0
	if head > 0 {
		d.usedRef = head - min(head, d.written())
	}
	d.passOn(before)
}

// refresh brings up to date what is kept free for the head of d, after its
// last snapshot or its origin has become another.
func (d *dataset) refresh() {
	if d.refreserved > 0 {
		d.charge(0, 0)
	}
}

// passOn changes what all above d use, after what d counts for has changed.
func (d *dataset) passOn(before uint64) {
	for p := d.parent; p != nil; d, p = p, p.parent {
		change := d.counted() - before
		if change == 0 {
			return
		}
		before = p.counted()
		p.usedChildren += change
	}
}

// moveTo takes d, with what it counts for, from its parent to another, nil for
// none. Neither knows d as a child then.
func (d *dataset) moveTo(parent *dataset) {
	for _, side := range [...]*dataset{d.parent, parent} {
		if side == nil {
			continue
		}
		before := side.counted()
		if side == d.parent {
			side.usedChildren -= d.counted()
		} else {
			side.usedChildren += d.counted()
		}
		side.passOn(before)
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
	return c.since(prev)
}

// since is written, in memory.
func (c *contents) since(prev *snapshot) uint64 {
	if prev == nil {
		return c.refd
	}
	var sum uint64
	for _, e := range c.dead {
		sum += e.bytes
	}
	return c.refd + sum - prev.refd
}

// written is what the head of d has alone.
func (d *dataset) written() uint64 { return d.since(d.prev()) }

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

// available is how much more d and all below it can use. quota says whether a
// quota is what limits it. The rules are those of dsl_dir_space_available.
func (d *dataset) available() (bytes uint64, quota bool) {
	used := d.used()
	if d.parent == nil {
		bytes = d.poolFree()
	} else if bytes, quota = d.parent.available(); d.reserved > used {
		bytes += d.reserved - used
	}
	if d.quota > 0 {
		if left := d.quota - min(d.quota, used); left < bytes {
			return left, true
		}
	}
	return bytes, quota
}

// left is how much can be written to d, but for its refquota.
func (d *dataset) left() (bytes uint64, quota bool) {
	bytes, quota = d.available()
	return bytes + d.usedRef, quota
}

// allocated is what p holds, without what is reserved in it.
func (p *pool) allocated() uint64 {
	if !p.reserved {
		return p.root.used()
	}
	var sum uint64
	for _, d := range p.root.subtree(nil) {
		sum += d.usedHead + d.usedSnap
	}
	return sum
}

// fits reports whether d can be given a limit. The rules are those of the
// checks in dsl_dir.c and dsl_dataset.c.
func (m *Machine) fits(d *dataset, id propID, n uint64) bool {
	switch m.space(d); id {
	case propQuota:
		return n == 0 || n >= max(d.used(), d.reserved)
	case propRefquota:
		return n == 0 || n >= max(d.refd, d.refreserved)
	case propReservation:
		before, after := d.counted(), max(d.used(), n)
		if after <= before {
			return true
		}
		left := d.poolFree()
		if d.parent != nil {
			left, _ = d.parent.available()
		}
		return after-before <= left && (d.quota == 0 || n <= d.quota)
	case propRefreservation:
		own := d.written()
		before, after := max(own, d.refreserved), max(own, n)
		left, _ := d.available()
		return after <= before || after-before <= left && (d.refquota == 0 || n <= d.refquota)
	}
	return true
}

func roundUp(n, to uint64) uint64 { return (n + to - 1) / to * to }
