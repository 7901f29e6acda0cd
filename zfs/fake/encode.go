package fake

import (
	"encoding/binary"
	"maps"
	"path/filepath"
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
	recDevices  = 'V' // serial of the dataset of a pool, its devices, its settings: names and values
	recDataset  = 'D' // see encodeDataset
	recSnapshot = 'S' // see encodeSnapshot
	recGone     = 'G' // serial
	recLink     = 'L' // the link of a mount is put in its place: serial
	recUnlink   = 'U' // a mount is taken away: where its link is, what it hides
	recReplace  = 'R' // a data directory gets other contents: its number, that of them in tmp
	recTrash    = 'T' // a data directory is removed: its number
	recNames    = 'N' // the properties of users that there are, also of what is read later: how many, names
	recKids     = 'K' // many children, which are read when they are asked for; see encodeKids
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

// appendStrings appends how many strings there are, and each.
func appendStrings(b []byte, list []string) []byte {
	b = binary.AppendUvarint(b, uint64(len(list)))
	for _, s := range list {
		b = appendString(b, s)
	}
	return b
}

// Flags of a mount.
const (
	mounted   = 1 << iota
	pathIsSet // the path is not where the link is; it follows
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
	b = d.data.encode(b)
	b = m.encodeSettings(b, d.props)
	if d.mnt == nil {
		return append(b, 0)
	}
	flags := byte(mounted)
	if d.mnt.path != pathBelow(d.mnt.on.path, d.mnt.rel) {
		flags |= pathIsSet
	}
	if d.mnt.rel != d.name {
		flags |= relIsSet
	}
	b = append(b, flags)
	b = binary.AppendUvarint(b, d.mnt.order)
	b = binary.AppendUvarint(b, uint64(d.mnt.on.serial()))
	b = binary.AppendUvarint(b, uint64(d.mnt.below.serial()))
	b = binary.AppendUvarint(b, uint64(d.mnt.nested))
	if flags&pathIsSet != 0 {
		b = appendString(b, d.mnt.path)
	}
	if flags&relIsSet != 0 {
		b = appendString(b, d.mnt.rel)
	}
	return b
}

// encodeSettings appends how many settings there are, and the name and the
// value of each.
func (m *Machine) encodeSettings(b []byte, list []setting) []byte {
	b = binary.AppendUvarint(b, uint64(len(list)))
	for _, p := range list {
		b = appendString(appendString(b, m.names.name(p.id)), p.value)
	}
	return b
}

// pathBelow is the path of a link called rel in what is mounted at on.
func pathBelow(on, rel string) string {
	return strings.TrimSuffix(on, "/") + "/" + filepath.ToSlash(rel)
}

// encode appends the number of a data directory and how many have it.
func (d *dataDir) encode(b []byte) []byte {
	if d == nil {
		return append(b, 0)
	}
	return binary.AppendUvarint(binary.AppendUvarint(b, d.id), uint64(d.refs))
}

// serial gives that of the dataset that is mounted, 0 for none.
func (m *mount) serial() uint32 {
	if m == nil || m.vol.ds == nil {
		return 0
	}
	return m.vol.ds.serial
}

// Flags of a snapshot. In format 1 there is only the first.
const (
	isDeferred = 1 << iota
	hasExtra   // its holds and its settings follow
)

func (m *Machine) encodeSnapshot(b []byte, s *snapshot) []byte {
	b = append(b, recSnapshot)
	b = binary.AppendUvarint(b, uint64(s.serial))
	b = binary.AppendUvarint(b, uint64(s.ds.serial))
	b = appendString(b, s.name)
	b = binary.LittleEndian.AppendUint64(b, s.guid)
	b = binary.AppendUvarint(b, s.txg)
	b = binary.AppendVarint(b, s.created)
	b = s.data.encode(b)
	flags := byte(0)
	if s.deferred {
		flags |= isDeferred
	}
	e := s.extra
	if e == nil || len(e.held)+len(e.props) == 0 {
		return append(b, flags)
	}
	b = append(b, flags|hasExtra)
	b = binary.AppendUvarint(b, uint64(len(e.held)))
	for _, h := range e.held {
		b = binary.AppendVarint(appendString(b, h.tag), h.since)
	}
	return m.encodeSettings(b, e.props)
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
	b = binary.AppendUvarint(b, p.size)
	b = binary.AppendUvarint(append(b, recDevices), uint64(p.root.serial))
	var settings []string
	for _, name := range slices.Sorted(maps.Keys(p.settings)) {
		settings = append(settings, name, p.settings[name])
	}
	return appendStrings(appendStrings(b, p.devices), settings)
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

// count reads how many things follow, each of a byte or more.
func (r *reader) count() uint64 {
	n := r.uvarint()
	if n > uint64(len(r.data)) {
		r.fail()
		return 0
	}
	return n
}

func (r *reader) strings() []string {
	var list []string
	for range r.count() {
		list = append(list, r.string())
	}
	return list
}

// encodeAll encodes the whole machine, numbering everything anew.
// restore takes the numbering back.
func (m *Machine) encodeAll(b []byte, dataDirs uint64) (payload []byte, serials uint32, restore func()) {
	var list []*dataset
	for _, p := range m.pools {
		list = sortedTree(p.root, list)
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
	b = appendStrings(append(b, recNames), m.names.names)
	for _, p := range m.pools {
		b = encodePool(b, p)
	}
	for _, p := range m.pools {
		b = m.encodeTree(b, p.root, true)
	}
	return b, serials, restore
}

// sortedTree appends d and all below it in the order in which they are written.
func sortedTree(d *dataset, list []*dataset) []*dataset {
	list = append(list, d)
	if d.children.len() == 0 {
		return list
	}
	for _, c := range d.sorted() {
		list = sortedTree(c, list)
	}
	return list
}

// encodeTree encodes d and all below it. Where there are many children, they
// are put aside, to be read one by one.
func (m *Machine) encodeTree(b []byte, d *dataset, top bool) []byte {
	b = m.encodeDataset(b, d)
	for _, s := range d.snaps {
		b = m.encodeSnapshot(b, s)
	}
	if d.children.len() == 0 {
		return b
	}
	kids := d.sorted()
	if !top || len(kids) < m.dir.parkFrom {
		for _, c := range kids {
			b = m.encodeTree(b, c, top)
		}
		return b
	}
	return m.encodeKids(b, d, kids)
}

// encodeKids appends the children of d: the serial of d, that behind the last
// of theirs, a table of where each begins and what its serial is, four bytes
// each, and the records of each and what is below it, in order of their names.
func (m *Machine) encodeKids(b []byte, d *dataset, kids []*dataset) []byte {
	var table, blob []byte
	end := d.serial
	for _, c := range kids {
		table = binary.LittleEndian.AppendUint32(table, uint32(len(blob)))
		table = binary.LittleEndian.AppendUint32(table, c.serial)
		blob = m.encodeTree(blob, c, false)
		end = max(end, c.lastSerial())
	}
	b = append(b, recKids)
	b = binary.AppendUvarint(b, uint64(d.serial))
	b = binary.AppendUvarint(b, uint64(end)+1)
	b = binary.AppendUvarint(b, uint64(len(table)))
	b = append(b, table...)
	b = binary.AppendUvarint(b, uint64(len(blob)))
	return append(b, blob...)
}

// lastSerial gives the greatest serial of d and what is below it.
func (d *dataset) lastSerial() uint32 {
	last := d.serial
	for _, s := range d.snaps {
		last = max(last, s.serial)
	}
	d.children.all(func(c *dataset) { last = max(last, c.lastSerial()) })
	return last
}
