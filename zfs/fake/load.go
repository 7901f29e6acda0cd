package fake

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
)

// A loader puts a machine together out of records. Where a dataset has many
// children, as the results of a store are, it reads each of them, with what is
// below it, when it is first asked for: opening a store and working in it then
// do not depend on how many there are. Until then it is said to be parked.
//
// What refers to something parked reads it, so a clone never misses its
// origin. What is not known is which clones a snapshot has among those parked:
// who has to know calls [Machine.readAll].
type loader struct {
	m        *Machine
	items    []loaded // by serial
	groups   []*group // in order of their serials
	fresh    []uint32 // read and not yet linked
	inState  bool     // a state is read: counts are for all there is
	serials  uint32
	dataDirs map[uint64]*dataDir
	nextData uint64
	pools    []loadedPool
	random   string

	// What the last frame has changed, which may not have been carried out.
	last     []uint32
	replaced [][2]uint64
	links    []uint32
	unlinks  [][2]string
	trash    []uint64

	datasets  []dataset // to allocate from
	snapshots []snapshot

	lastProps  string // settings as they were read last, and what they are
	lastParsed []setting
}

// loaded is what one serial stands for, with what it refers to by number.
type loaded struct {
	d              *dataset
	s              *snapshot
	mnt            *loadedMount
	data           *dataDir
	parent, origin uint32
	nested         int32 // mounts on directories of it
}

type loadedMount struct {
	on, below uint32
	order     uint64
	path, rel string
}

type loadedPool struct {
	serial   uint32
	size     uint64
	devices  []string
	settings []string // names and values
}

// A group is the children of a dataset that are parked.
type group struct {
	l     *loader
	of    *dataset
	end   uint32 // serial behind the last
	table string // see encodeKids
	blob  string
	taken []bool
	left  int // not taken
}

var errDamaged = errors.New("the state of the store is damaged")

func (g *group) number(i int) uint32 {
	b := g.table[4*i:]
	return uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24
}

func (g *group) serial(i int) uint32 { return g.number(2*i + 1) }

// text gives the records of child i.
func (g *group) text(i int) string {
	end := uint32(len(g.blob))
	if i+1 < len(g.taken) {
		end = g.number(2 * (i + 1))
	}
	return g.blob[g.number(2*i):end]
}

func (g *group) name(i int) string {
	r := reader{data: g.text(i)}
	r.byte()
	r.uvarint()
	r.uvarint()
	r.uvarint()
	return r.string()
}

// get reads the child of a name, nil if there is none that is parked.
func (g *group) get(name string) *dataset {
	i := sort.Search(len(g.taken), func(i int) bool { return g.name(i) >= name })
	if i == len(g.taken) || g.taken[i] || g.name(i) != name {
		return nil
	}
	g.take(i)
	if g.l.link() != nil {
		return nil
	}
	return g.l.items[g.serial(i)].d
}

// all reads all children that are parked.
func (g *group) all() {
	for i := range g.taken {
		g.take(i)
	}
	_ = g.l.link() // a failure stays in m.dir.failed
}

func (g *group) take(i int) {
	if g.taken[i] {
		return
	}
	g.taken[i] = true
	g.left--
	inState := g.l.inState
	g.l.inState = true
	if err := g.l.records(g.text(i)); err != nil {
		g.l.fail(err)
	}
	g.l.inState = inState
}

// fail makes the machine of no further use: what was checked when it was opened is wrong.
func (l *loader) fail(err error) error {
	if l.m.dir.failed == nil {
		l.m.dir.failed = err
	}
	return err
}

// readAll reads all that is parked.
func (m *Machine) readAll() {
	if m.dir == nil || m.dir.loader == nil {
		return
	}
	l := m.dir.loader
	for _, g := range l.groups {
		g.all()
		g.of.children.parked = nil
	}
	if m.dir.failed == nil {
		m.dir.loader = nil
	}
}

// frame reads one frame: that of the state, or one of its journal.
func (l *loader) frame(payload string, state bool) error {
	l.last, l.links, l.replaced, l.unlinks, l.trash, l.inState = l.last[:0], nil, nil, nil, nil, state
	err := l.records(payload)
	if state {
		l.last = nil // what it says has been carried out
	}
	return err
}

func (l *loader) records(text string) error {
	r := reader{data: text}
	for r.data != "" && !r.bad {
		switch kind := r.byte(); kind {
		case recMachine:
			l.m.txg, l.m.moved = r.uvarint(), r.uvarint()
			l.grow(r.uvarint())
			l.nextData = r.uvarint()
			l.random = r.string()
		case recPool:
			p := loadedPool{serial: uint32(r.uvarint()), size: r.uvarint()}
			if l.pool(p.serial) == nil {
				l.pools = append(l.pools, p)
			}
		case recDevices:
			p := l.pool(uint32(r.uvarint()))
			devices, settings := r.strings(), r.strings()
			if p != nil {
				p.devices, p.settings = devices, settings
			}
		case recDataset:
			l.dataset(&r)
		case recSnapshot:
			l.snapshot(&r)
		case recNames:
			for _, name := range r.strings() {
				l.m.names.find(name, true)
			}
		case recKids:
			l.kids(&r)
		case recGone:
			serial := uint32(r.uvarint())
			if i := l.item(serial); i != nil {
				l.forget(i)
				*i = loaded{}
			}
			l.pools = slices.DeleteFunc(l.pools, func(p loadedPool) bool { return p.serial == serial })
		case recReplace:
			l.replaced = append(l.replaced, [2]uint64{r.uvarint(), r.uvarint()})
		case recLink:
			l.links = append(l.links, uint32(r.uvarint()))
		case recUnlink:
			l.unlinks = append(l.unlinks, [2]string{r.string(), r.string()})
		case recTrash:
			l.trash = append(l.trash, r.uvarint())
		default:
			return fmt.Errorf("%w: record %q", errDamaged, kind)
		}
	}
	if r.bad {
		return errDamaged
	}
	return nil
}

// pool gives the pool whose dataset has a serial, nil for none.
func (l *loader) pool(serial uint32) *loadedPool {
	for i := range l.pools {
		if l.pools[i].serial == serial {
			return &l.pools[i]
		}
	}
	return nil
}

// grow makes room for serials up to n. A frame tells it first.
func (l *loader) grow(n uint64) {
	const most = 1 << 31
	if n >= most || n < uint64(l.serials) {
		return
	}
	l.serials = uint32(n)
	if int(n) >= len(l.items) {
		l.items = slices.Grow(l.items, int(n)+256-len(l.items))
		l.items = l.items[:cap(l.items)]
	}
}

// at gives the place of a serial, nil for one that cannot be.
func (l *loader) at(serial uint32) *loaded {
	if serial == 0 || int64(serial) >= int64(len(l.items)) {
		return nil
	}
	return &l.items[serial]
}

// item gives what a serial stands for, and reads it if it is parked.
func (l *loader) item(serial uint32) *loaded {
	i := l.at(serial)
	if i == nil || i.d != nil || i.s != nil {
		return i
	}
	n := sort.Search(len(l.groups), func(n int) bool { return l.groups[n].serial(0) > serial }) - 1
	if n < 0 || serial >= l.groups[n].end {
		return i
	}
	g := l.groups[n]
	g.take(sort.Search(len(g.taken), func(i int) bool { return g.serial(i) > serial }) - 1)
	return i
}

func (l *loader) kids(r *reader) {
	serial := uint32(r.uvarint())
	end := uint32(r.uvarint())
	table, blob := r.string(), r.string()
	i := l.at(serial)
	if r.bad || !l.inState || i == nil || i.d == nil || len(table) == 0 || len(table)%8 != 0 {
		r.fail()
		return
	}
	n := len(table) / 8
	g := &group{l: l, of: i.d, end: end, table: table, blob: blob, taken: make([]bool, n), left: n}
	i.d.children.parked = g
	l.groups = append(l.groups, g)
}

// forget takes back what an earlier record of i has counted.
func (l *loader) forget(i *loaded) {
	if i.data != nil {
		i.data.refs--
	}
	if i.mnt != nil {
		if on := l.item(i.mnt.on); on != nil {
			on.nested--
		}
	}
}

// data reads which data directory a head or a snapshot has.
func (l *loader) data(r *reader, i *loaded) {
	id := r.uvarint()
	i.data = nil
	if id == 0 {
		return
	}
	refs := int(r.uvarint())
	data := l.dataDirs[id]
	switch {
	case data == nil && l.inState:
		data = &dataDir{id: id, refs: refs}
	case data == nil:
		data = &dataDir{id: id, refs: 1}
	case !l.inState:
		data.refs++
	}
	l.dataDirs[id], i.data = data, data
}

func (l *loader) dataset(r *reader) {
	serial := uint32(r.uvarint())
	parent, origin := uint32(r.uvarint()), uint32(r.uvarint())
	i := l.at(serial)
	if i == nil {
		r.fail()
		return
	}
	if !l.inState { // what it counts from has to be known
		l.item(serial)
		l.item(parent)
		l.item(origin)
		l.forget(i)
	}
	i.parent, i.origin = parent, origin
	l.last = append(l.last, serial)
	d := i.d
	if d == nil {
		if len(l.datasets) == 0 {
			l.datasets = make([]dataset, 64)
		}
		d, l.datasets = &l.datasets[0], l.datasets[1:]
		d.saved.serial = serial
		d.volume.ds, d.volume.now = d, &l.m.txg
		i.d = d
		l.fresh = append(l.fresh, serial)
	}
	d.name = r.string()
	d.guid, d.createtxg, d.created = r.uint64(), r.uvarint(), r.varint()
	l.data(r, i)
	l.settings(r, d)
	flags := r.byte()
	i.mnt = nil
	if flags&mounted == 0 {
		return
	}
	i.mnt = &loadedMount{order: r.uvarint(), on: uint32(r.uvarint()), below: uint32(r.uvarint()), rel: d.name}
	nested := r.uvarint()
	if flags&pathIsSet != 0 {
		i.mnt.path = r.string()
	}
	if flags&relIsSet != 0 {
		i.mnt.rel = r.string()
	}
	if l.inState {
		i.nested = int32(nested)
	} else if on := l.item(i.mnt.on); on != nil {
		on.nested++
	}
}

// settings reads the properties of d. Many datasets have the same, which they
// then share.
func (l *loader) settings(r *reader, d *dataset) {
	d.props, d.quota, d.refquota = nil, 0, 0
	if len(l.lastParsed) > 0 && strings.HasPrefix(r.data, l.lastProps) {
		r.data = r.data[len(l.lastProps):]
		d.props = l.lastParsed
		return
	}
	before := r.data
	l.eachSetting(r, d.setLocal)
	if d.quota == 0 && d.refquota == 0 {
		l.lastProps, l.lastParsed = before[:len(before)-len(r.data)], d.props
	}
}

// eachSetting reads settings.
func (l *loader) eachSetting(r *reader, f func(id propID, value string)) {
	for range r.count() {
		name, value := r.string(), r.string()
		if id, ok := l.m.names.find(name, true); ok {
			f(id, value)
		}
	}
}

func (l *loader) snapshot(r *reader) {
	serial := uint32(r.uvarint())
	parent := uint32(r.uvarint())
	i := l.at(serial)
	if i == nil {
		r.fail()
		return
	}
	if !l.inState {
		l.item(serial)
		l.item(parent)
		l.forget(i)
	}
	i.parent = parent
	l.last = append(l.last, serial)
	s := i.s
	if s == nil {
		if len(l.snapshots) == 0 {
			l.snapshots = make([]snapshot, 64)
		}
		s, l.snapshots = &l.snapshots[0], l.snapshots[1:]
		s.saved.serial = serial
		i.s = s
		l.fresh = append(l.fresh, serial)
	}
	s.name = r.string()
	s.guid, s.txg, s.created = r.uint64(), r.uvarint(), r.varint()
	l.data(r, i)
	flags := r.byte()
	s.deferred, s.extra = flags&isDeferred != 0, nil
	if flags&hasExtra == 0 {
		return
	}
	e := &extra{}
	for range r.count() {
		e.held = append(e.held, hold{r.string(), r.varint()})
	}
	l.eachSetting(r, func(id propID, value string) { e.props = append(e.props, setting{id, value}) })
	s.extra = e
}

// link connects what has been read since the last time, and what that refers to.
func (l *loader) link() error {
	for n := 0; n < len(l.fresh); n++ { // it grows
		i := l.items[l.fresh[n]]
		l.item(i.parent)
		l.item(i.origin)
		if i.mnt != nil {
			l.item(i.mnt.on)
			l.item(i.mnt.below)
		}
	}
	fresh := l.fresh
	l.fresh = nil
	var clones []uint32
	for _, serial := range fresh {
		i := &l.items[serial]
		var parent *dataset
		if p := l.at(i.parent); p != nil {
			parent = p.d
		}
		if i.s != nil {
			if parent == nil {
				return l.fail(fmt.Errorf("%w: snapshot %q has no dataset", errDamaged, i.s.name))
			}
			i.s.ds, i.s.data = parent, i.data
			parent.snaps = append(parent.snaps, i.s)
			for j := len(parent.snaps) - 1; j > 0 && parent.snaps[j-1].txg > parent.snaps[j].txg; j-- { // promoted ones come later
				parent.snaps[j-1], parent.snaps[j] = parent.snaps[j], parent.snaps[j-1]
			}
		}
		if i.d == nil {
			continue
		}
		i.d.data = i.data
		if i.parent != 0 {
			if parent == nil {
				return l.fail(fmt.Errorf("%w: dataset %q has no parent", errDamaged, i.d.name))
			}
			i.d.parent = parent
			parent.children.add(i.d)
		}
		if i.origin != 0 {
			clones = append(clones, serial)
		}
	}
	slices.SortFunc(clones, func(a, b uint32) int { // they are quickly added in this order
		return cmp.Compare(l.items[a].d.createtxg, l.items[b].d.createtxg)
	})
	for _, serial := range clones {
		i := &l.items[serial]
		o := l.at(i.origin)
		if o == nil || o.s == nil {
			return l.fail(fmt.Errorf("%w: dataset %q has no origin", errDamaged, i.d.name))
		}
		o.s.addClone(i.d)
	}
	for _, p := range l.pools {
		i := l.at(p.serial)
		if i == nil || i.d == nil {
			return l.fail(fmt.Errorf("%w: a pool has no dataset", errDamaged))
		}
		if i.d.pool == nil {
			i.d.pool = &pool{root: i.d, size: p.size, free: l.m.dir.free, devices: p.devices, settings: make(map[string]string)}
			for pair := range slices.Chunk(p.settings, 2) {
				if len(pair) == 2 {
					i.d.pool.settings[pair[0]] = pair[1]
				}
			}
			l.m.pools = append(l.m.pools, i.d.pool)
		}
	}
	return l.linkMounts(fresh)
}

// path gives where something is mounted.
func (l *loader) path(mnt *loadedMount) string {
	if mnt.path == "" {
		on := "/"
		if i := l.at(mnt.on); i != nil && i.mnt != nil {
			on = l.path(i.mnt)
		}
		mnt.path = pathBelow(on, mnt.rel)
	}
	return mnt.path
}

func (l *loader) linkMounts(fresh []uint32) error {
	for _, serial := range fresh {
		i := &l.items[serial]
		if i.d == nil {
			continue
		}
		for p := i.d; i.d.pool == nil && p != nil; p = p.parent {
			i.d.pool = p.pool
		}
		if i.mnt != nil {
			i.d.mnt = &mount{vol: &i.d.volume, path: l.path(i.mnt), rel: i.mnt.rel, order: i.mnt.order, on: l.m.root, nested: int(i.nested)}
		}
	}
	for _, serial := range fresh {
		i := &l.items[serial]
		if i.d == nil || i.mnt == nil {
			continue
		}
		if i.mnt.on != 0 {
			on := l.at(i.mnt.on)
			if on == nil || on.d == nil || on.d.mnt == nil {
				return l.fail(fmt.Errorf("%w: dataset %q is mounted on nothing", errDamaged, i.d.name))
			}
			i.d.mnt.on = on.d.mnt
		}
		if below := l.at(i.mnt.below); below != nil && below.d != nil && below.d.mnt != nil {
			i.d.mnt.below, below.d.mnt.above = below.d.mnt, i.d.mnt
		}
	}
	return nil
}
