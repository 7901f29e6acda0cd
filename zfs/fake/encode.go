package fake

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// The records of a state and of its journal, each a byte that says what it is
// and its fields, as varints, strings with their length, or eight bytes. A
// record replaces an earlier one of the same serial. Serials number datasets and
// snapshots together, from 1; a new state numbers them anew.
const (
	recMachine  = 'M' // transaction, mounts made, serials, data directories, random state
	recPool     = 'P' // serial of its dataset, size
	recDataset  = 'D' // see encodeDataset
	recSnapshot = 'S' // see encodeSnapshot
	recGone     = 'G' // serial
	recUnlink   = 'U' // a mount is taken away: where its link is, what it hides
	recTrash    = 'T' // a data directory is removed: its number
)

// saved is what a machine in a directory keeps of each dataset and snapshot.
type saved struct {
	serial uint32 // 0 until it is written
	dirty  bool   // it has to be written
	gone   bool   // destroyed
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// Flags of a mount.
const (
	mounted   = 1 << iota
	pathIsSet // the path is not what the mount point says; it follows
	relIsSet  // the link is not called as the dataset; its name follows
)

func (m *Machine) encodeDataset(b []byte, d *dataset) []byte {
	b = append(b, recDataset)
	b = binary.AppendUvarint(b, uint64(d.serial))
	parent, origin := uint32(0), uint32(0)
	if d.parent != nil {
		parent = d.parent.serial
	}
	if d.origin != nil {
		origin = d.origin.serial
	}
	b = binary.AppendUvarint(b, uint64(parent))
	b = binary.AppendUvarint(b, uint64(origin))
	b = appendString(b, d.name)
	b = binary.LittleEndian.AppendUint64(b, d.guid)
	b = binary.AppendUvarint(b, d.createtxg)
	b = binary.AppendVarint(b, d.created)
	b = binary.AppendUvarint(b, d.data.number())
	b = binary.AppendUvarint(b, uint64(len(d.props)))
	for _, p := range d.props {
		b = appendString(b, m.names.name(p.id))
		b = appendString(b, p.value)
	}
	if d.mnt == nil {
		return append(b, 0)
	}
	flags := byte(mounted)
	if at, _ := d.mountpoint(); at != d.mnt.path {
		flags |= pathIsSet
	}
	if d.mnt.rel != d.name {
		flags |= relIsSet
	}
	b = append(b, flags)
	b = binary.AppendUvarint(b, d.mnt.order)
	b = binary.AppendUvarint(b, uint64(d.mnt.on.serial()))
	b = binary.AppendUvarint(b, uint64(d.mnt.below.serial()))
	if flags&pathIsSet != 0 {
		b = appendString(b, d.mnt.path)
	}
	if flags&relIsSet != 0 {
		b = appendString(b, d.mnt.rel)
	}
	return b
}

// serial gives that of the dataset that is mounted, 0 for none.
func (m *mount) serial() uint32 {
	if m == nil || m.vol.ds == nil {
		return 0
	}
	return m.vol.ds.serial
}

func encodeSnapshot(b []byte, s *snapshot) []byte {
	b = append(b, recSnapshot)
	b = binary.AppendUvarint(b, uint64(s.serial))
	b = binary.AppendUvarint(b, uint64(s.ds.serial))
	b = appendString(b, s.name)
	b = binary.LittleEndian.AppendUint64(b, s.guid)
	b = binary.AppendUvarint(b, s.txg)
	b = binary.AppendVarint(b, s.created)
	b = binary.AppendUvarint(b, s.data.number())
	flags := byte(0)
	if s.deferred {
		flags = 1
	}
	return append(b, flags)
}

func (m *Machine) encodeMachine(b []byte, serials uint32, dataDirs uint64) []byte {
	b = append(b, recMachine)
	b = binary.AppendUvarint(b, m.txg)
	b = binary.AppendUvarint(b, m.moved)
	b = binary.AppendUvarint(b, uint64(serials))
	b = binary.AppendUvarint(b, dataDirs)
	state, _ := m.rand.MarshalBinary()
	return append(binary.AppendUvarint(b, uint64(len(state))), state...)
}

func encodePool(b []byte, p *pool) []byte {
	b = append(b, recPool)
	b = binary.AppendUvarint(b, uint64(p.root.serial))
	return binary.AppendUvarint(b, p.size)
}

// A reader takes fields off a payload.
type reader struct {
	data string
	bad  bool
}

func (r *reader) fail() { r.data, r.bad = "", true }

func (r *reader) byte() byte {
	if r.data == "" {
		r.fail()
		return 0
	}
	c := r.data[0]
	r.data = r.data[1:]
	return c
}

func (r *reader) uvarint() (v uint64) {
	for i := 0; i < len(r.data) && i < binary.MaxVarintLen64; i++ {
		c := r.data[i]
		v |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			r.data = r.data[i+1:]
			return v
		}
	}
	r.fail()
	return 0
}

func (r *reader) varint() int64 {
	v := r.uvarint()
	return int64(v>>1) ^ -int64(v&1)
}

func (r *reader) uint64() (v uint64) {
	if len(r.data) < 8 {
		r.fail()
		return 0
	}
	for i := range 8 {
		v |= uint64(r.data[i]) << (8 * i)
	}
	r.data = r.data[8:]
	return v
}

func (r *reader) string() string {
	n := r.uvarint()
	if n > uint64(len(r.data)) {
		r.fail()
		return ""
	}
	s := r.data[:n]
	r.data = r.data[n:]
	return s
}

// A loader puts a machine together out of records.
type loader struct {
	m        *Machine
	items    []loaded // by serial
	serials  uint32
	dataDirs map[uint64]*dataDir
	nextData uint64
	pools    []loadedPool

	// What the last frame has changed, which may not have been carried out.
	last    []uint32
	unlinks [][2]string
	trash   []uint64

	datasets  []dataset // to allocate from
	snapshots []snapshot
	dirs      []dataDir
	snapLists []*snapshot

	lastProps  string // settings as they were read last, and what they are
	lastParsed []setting
}

// loaded is what one serial stands for, with what it refers to by number.
type loaded struct {
	d              *dataset
	s              *snapshot
	mnt            *loadedMount
	data           uint64
	parent, origin uint32
	kids           int32
}

type loadedMount struct {
	on, below uint32
	order     uint64
	path, rel string
}

type loadedPool struct {
	serial uint32
	size   uint64
}

var errDamaged = errors.New("the state of the store is damaged")

// frame reads one payload.
func (l *loader) frame(payload string) error {
	l.last, l.unlinks, l.trash = l.last[:0], nil, nil
	r := reader{data: payload}
	for r.data != "" && !r.bad {
		switch kind := r.byte(); kind {
		case recMachine:
			l.m.txg, l.m.moved = r.uvarint(), r.uvarint()
			l.grow(r.uvarint())
			l.nextData = r.uvarint()
			if err := l.m.rand.UnmarshalBinary([]byte(r.string())); err != nil {
				return errDamaged
			}
		case recPool:
			p := loadedPool{uint32(r.uvarint()), r.uvarint()}
			if !slices.ContainsFunc(l.pools, func(q loadedPool) bool { return q.serial == p.serial }) {
				l.pools = append(l.pools, p)
			}
		case recDataset:
			l.dataset(&r)
		case recSnapshot:
			l.snapshot(&r)
		case recGone:
			if i := l.item(r.uvarint()); i != nil {
				*i = loaded{}
			}
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

// grow makes room for serials up to n. A state tells it first.
func (l *loader) grow(n uint64) {
	const most = 1 << 31
	if n >= most || n < uint64(l.serials) {
		return
	}
	l.serials = uint32(n)
	if int(n) >= len(l.items) {
		if l.items == nil { // there are about as many of the one as of the other
			l.datasets, l.snapshots, l.dirs = make([]dataset, n/2+1), make([]snapshot, n/2+1), make([]dataDir, n/2+1)
			l.snapLists = make([]*snapshot, n/2+1)
			l.dataDirs = make(map[uint64]*dataDir, n/2+1)
		}
		l.items = append(l.items, make([]loaded, int(n)+1-len(l.items)+256)...)
	}
}

func (l *loader) item(serial uint64) *loaded {
	if serial == 0 || serial >= uint64(len(l.items)) {
		return nil
	}
	return &l.items[serial]
}

func (l *loader) dataset(r *reader) {
	serial := r.uvarint()
	i := l.item(serial)
	if i == nil {
		r.fail()
		return
	}
	l.last = append(l.last, uint32(serial))
	i.parent, i.origin = uint32(r.uvarint()), uint32(r.uvarint())
	d := i.d
	if d == nil {
		if len(l.datasets) == 0 {
			l.datasets = make([]dataset, 256)
		}
		d, l.datasets = &l.datasets[0], l.datasets[1:]
		d.saved.serial = uint32(serial)
		d.volume.ds, d.volume.now = d, &l.m.txg
		i.d = d
	}
	d.name = r.string()
	d.guid, d.createtxg, d.created = r.uint64(), r.uvarint(), r.varint()
	i.data = r.uvarint()
	l.settings(r, d)
	flags := r.byte()
	i.mnt = nil
	if flags&mounted == 0 {
		return
	}
	i.mnt = &loadedMount{order: r.uvarint(), on: uint32(r.uvarint()), below: uint32(r.uvarint()), rel: d.name}
	if flags&pathIsSet != 0 {
		i.mnt.path = r.string()
	}
	if flags&relIsSet != 0 {
		i.mnt.rel = r.string()
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
	n := r.uvarint()
	if n == 0 || n >= 1<<16 {
		return
	}
	d.props = make([]setting, 0, n)
	for range n {
		name, value := r.string(), r.string()
		if id, ok := l.m.names.find(name, true); ok {
			d.setLocal(id, value)
		}
	}
	if d.quota == 0 && d.refquota == 0 {
		l.lastProps, l.lastParsed = before[:len(before)-len(r.data)], d.props
	}
}

func (l *loader) snapshot(r *reader) {
	serial := r.uvarint()
	i := l.item(serial)
	if i == nil {
		r.fail()
		return
	}
	i.parent = uint32(r.uvarint())
	s := i.s
	if s == nil {
		if len(l.snapshots) == 0 {
			l.snapshots = make([]snapshot, 256)
		}
		s, l.snapshots = &l.snapshots[0], l.snapshots[1:]
		s.saved.serial = uint32(serial)
		i.s = s
	}
	s.name = r.string()
	s.guid, s.txg, s.created = r.uint64(), r.uvarint(), r.varint()
	i.data = r.uvarint()
	s.deferred = r.byte() != 0
}

// dataDir gives the data directory of a number, counting who has it.
func (l *loader) dataDir(n uint64) *dataDir {
	if n == 0 {
		return nil
	}
	d := l.dataDirs[n]
	if d == nil {
		if len(l.dirs) == 0 {
			l.dirs = make([]dataDir, 256)
		}
		d, l.dirs = &l.dirs[0], l.dirs[1:]
		d.id = n
		l.dataDirs[n] = d
	}
	d.refs++
	return d
}

// link connects what has been read.
func (l *loader) link() error {
	for n := range l.items {
		i := &l.items[n]
		if i.d != nil && i.parent != 0 {
			if p := l.item(uint64(i.parent)); p == nil || p.d == nil {
				return fmt.Errorf("%w: dataset %q has no parent", errDamaged, i.d.name)
			}
			l.items[i.parent].kids++
		}
	}
	for n := range l.items {
		i := &l.items[n]
		switch {
		case i.d != nil:
			i.d.data = l.dataDir(i.data)
			if i.parent != 0 {
				p := l.items[i.parent].d
				if p.children.len() == 0 {
					p.children.expect(int(l.items[i.parent].kids))
				}
				i.d.parent = p
				p.children.add(i.d)
			}
			if i.origin != 0 {
				o := l.item(uint64(i.origin))
				if o == nil || o.s == nil {
					return fmt.Errorf("%w: dataset %q has no origin", errDamaged, i.d.name)
				}
				o.s.addClone(i.d)
			}
		case i.s != nil:
			i.s.data = l.dataDir(i.data)
			p := l.item(uint64(i.parent))
			if p == nil || p.d == nil {
				return fmt.Errorf("%w: snapshot %q has no dataset", errDamaged, i.s.name)
			}
			i.s.ds = p.d
			d := p.d
			if d.snaps == nil && len(l.snapLists) > 0 {
				d.snaps, l.snapLists = l.snapLists[:0:1], l.snapLists[1:]
			}
			d.snaps = append(d.snaps, i.s)
			for j := len(d.snaps) - 1; j > 0 && d.snaps[j-1].txg > d.snaps[j].txg; j-- { // promoted ones come later
				d.snaps[j-1], d.snaps[j] = d.snaps[j], d.snaps[j-1]
			}
		}
	}
	for _, p := range l.pools {
		i := l.item(uint64(p.serial))
		if i == nil || i.d == nil {
			return fmt.Errorf("%w: a pool has no dataset", errDamaged)
		}
		l.m.pools = append(l.m.pools, &pool{root: i.d, size: p.size, free: l.m.dir.free})
	}
	if len(l.m.pools) == 1 {
		for n := range l.items {
			if d := l.items[n].d; d != nil {
				d.pool = l.m.pools[0]
			}
		}
	} else {
		for _, p := range l.m.pools {
			p.root.setPool(p)
		}
	}
	return l.linkMounts()
}

func (d *dataset) setPool(p *pool) {
	d.pool = p
	d.children.all(func(c *dataset) { c.setPool(p) })
}

func (l *loader) linkMounts() error {
	for n := range l.items {
		if i := &l.items[n]; i.d != nil && i.mnt != nil {
			i.d.mnt = &mount{vol: &i.d.volume, path: i.mnt.path, rel: i.mnt.rel, order: i.mnt.order, on: l.m.root}
			if i.mnt.path == "" {
				i.d.mnt.path, _ = i.d.mountpoint()
			}
		}
	}
	for n := range l.items {
		i := &l.items[n]
		if i.d == nil || i.d.mnt == nil {
			continue
		}
		if i.mnt.on != 0 {
			on := l.item(uint64(i.mnt.on))
			if on == nil || on.d == nil || on.d.mnt == nil {
				return fmt.Errorf("%w: dataset %q is mounted on nothing", errDamaged, i.d.name)
			}
			i.d.mnt.on = on.d.mnt
		}
		i.d.mnt.on.open++
		if below := l.item(uint64(i.mnt.below)); below != nil && below.d != nil && below.d.mnt != nil {
			i.d.mnt.below, below.d.mnt.above = below.d.mnt, i.d.mnt
		}
	}
	return nil
}

// encodeAll encodes the whole machine, numbering everything anew.
// restore takes the numbering back.
func (m *Machine) encodeAll(b []byte, dataDirs uint64) (payload []byte, serials uint32, restore func()) {
	var list []*dataset
	for _, p := range m.pools {
		list = p.root.subtree(list)
	}
	var old []uint32
	renumber := func(s *saved) {
		serials++
		old = append(old, s.serial)
		s.serial = serials
	}
	for _, d := range list {
		renumber(&d.saved)
		for _, s := range d.snaps {
			renumber(&s.saved)
		}
	}
	restore = func() {
		for _, d := range list {
			d.serial, old = old[0], old[1:]
			for _, s := range d.snaps {
				s.serial, old = old[0], old[1:]
			}
		}
	}
	b = m.encodeMachine(b, serials, dataDirs)
	for _, p := range m.pools {
		b = encodePool(b, p)
	}
	for _, d := range list {
		b = m.encodeDataset(b, d)
		for _, s := range d.snaps {
			b = encodeSnapshot(b, s)
		}
	}
	return b, serials, restore
}
