package fake

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	"obuilder.org/obuilder/zfs"
)

// A Machine is a computer with ZFS. It implements [zfs.FS]; its commands and
// its files may be used concurrently.
type Machine struct {
	mu    sync.Mutex
	clock func() time.Time
	rand  *rand.PCG
	macOS bool

	txg   uint64 // of the transaction under way: above that of every snapshot
	pools []*pool
	names propNames

	store store
	dir   *directory // the store, when it is one
	host  volume     // what is there where nothing is mounted
	root  *mount
	moved uint64 // counts mounts, for their order

	// To be used again by the next command.
	walker walker
	moving []affected
	fresh  []newSnapshot
}

var _ zfs.FS = (*Machine)(nil)

// An Option is how a machine is to be.
type Option func(*config)

type config struct {
	pools   []poolConfig
	clock   func() time.Time
	seed    uint64
	macOS   bool
	waiting func(holder string)

	standard bool // no pool was asked for

	parkFrom   int // see directory
	journalMax int64
}

type poolConfig struct {
	name       string
	size       uint64
	mountpoint string
}

// Pool gives the machine a pool: its name, its size in bytes, of which ZFS
// keeps some for itself, and the mount point of its root file system, "none"
// for none and "" for /NAME. It panics where the name is not that of a pool.
func Pool(name string, size uint64, mountpoint string) Option {
	if ds := zfs.MustDataset(name); ds.Pool() != name {
		panic("fake: " + name + " is not the name of a pool")
	}
	return func(c *config) { c.pools = append(c.pools, poolConfig{name, size, mountpoint}) }
}

// The pool of a machine for which none is asked: on a Mac, OpenZFS mounts
// pools there.
const (
	defaultPool       = "obuilder"
	defaultSize       = 1 << 40
	defaultMountpoint = "/Volumes/obuilder"
)

// Clock sets what the machine takes the time from; time.Now otherwise.
func Clock(now func() time.Time) Option { return func(c *config) { c.clock = now } }

// Seed sets what guids follow from, 1 otherwise: with the same seed, the same
// commands give the same guids.
func Seed(seed uint64) Option { return func(c *config) { c.seed = seed } }

// SnapshotMounts makes the machine behave as OpenZFS on macOS does where that
// differs from Linux: zfs mount takes a snapshot, with exit status 16 when it
// is mounted and 22 when its dataset is not, and forced unmounts succeed on
// datasets with open files.
func SnapshotMounts(on bool) Option { return func(c *config) { c.macOS = on } }

// New gives a machine in memory. Without a [Pool], it has one called
// obuilder, of 1 TiB, mounted on /Volumes/obuilder.
func New(opts ...Option) *Machine {
	m, c := newMachine(1, opts)
	m.store = memory{}
	for _, p := range c.pools {
		m.addPool(p)
	}
	return m
}

func newMachine(seed uint64, opts []Option) (*Machine, *config) {
	c := config{clock: time.Now, seed: seed, parkFrom: 64, journalMax: 256 << 10}
	for _, o := range opts {
		o(&c)
	}
	if c.standard = len(c.pools) == 0; c.standard {
		c.pools = []poolConfig{{defaultPool, defaultSize, defaultMountpoint}}
	}
	m := &Machine{clock: c.clock, rand: rand.NewPCG(c.seed, 0), macOS: c.macOS, txg: 4}
	m.host.now = &m.txg
	m.root = &mount{vol: &m.host, path: "/"}
	return m, &c
}

func (m *Machine) addPool(c poolConfig) *failure {
	p := &pool{size: c.size}
	if m.dir != nil {
		p.free = m.dir.free
	}
	root := m.newDataset(nil, c.name)
	root.pool, p.root = p, root
	if c.mountpoint != "" {
		root.setLocal(propMountpoint, c.mountpoint)
	}
	m.pools = append(m.pools, p)
	root.refd, root.usedHead = emptyFS, emptyFS
	m.store.created(root)
	return m.mountNew(root)
}

type pool struct {
	root *dataset
	size uint64
	free func() uint64 // when it is not for us to say

	noAutomount bool // its snapshots look empty

	devices  []string // for people to see
	settings map[string]string
	reserved bool // something has been
}

// A dataset is a file system: its place in the tree of names, its settings,
// its snapshots oldest first, and its head, which is what is mounted.
type dataset struct {
	volume
	name     string // last component
	parent   *dataset
	pool     *pool
	children children
	props    []setting // local ones
	received receivedProps
	quota    uint64
	refquota uint64

	snaps                []*snapshot
	origin               *snapshot
	nextClone, prevClone *dataset // the clones of origin, a list

	guid, createtxg uint64
	created         int64

	reserved, refreserved                     uint64 // for all below it, for its head
	usedHead, usedSnap, usedChildren, usedRef uint64

	mnt *mount // where it is mounted

	saved // on a machine in a directory
}

// A snapshot is what the head of ds was in transaction txg.
type snapshot struct {
	contents
	ds      *dataset
	name    string
	guid    uint64
	txg     uint64
	created int64

	firstClone, lastClone *dataset

	open     int  // files of it that are open
	mounted  bool // by name on macOS, elsewhere because somebody has been in it
	deferred bool // to be destroyed with its last clone or hold
	extra    *extra

	saved // on a machine in a directory
}

// contents is what is in a file system.
type contents struct {
	tree *node
	next uint64   // how many objects have been made
	refd uint64   // bytes
	dead deadList // bytes of the previous snapshot that are not here any more
	data *dataDir // where it is, on a machine in a directory
}

// number is the value of a setting of bytes, and 0 that of any other.
func (s setting) number() uint64 {
	if isUser(s.id) || props[s.id].kind != size {
		return 0
	}
	n, _ := strconv.ParseUint(s.value, 10, 64)
	return n
}

// children are few, mostly, or very many.
type children struct {
	few    []*dataset
	many   map[string]*dataset
	parked *group // those that are not read yet
}

const fewChildren = 8

func (c *children) get(name string) *dataset {
	if c.many != nil {
		if d := c.many[name]; d != nil || c.parked == nil {
			return d
		}
	}
	for _, d := range c.few {
		if d.name == name {
			return d
		}
	}
	if c.parked != nil {
		return c.parked.get(name)
	}
	return nil
}

func (c *children) add(d *dataset) {
	if c.many == nil && len(c.few) < fewChildren {
		c.few = append(c.few, d)
		return
	}
	if c.many == nil {
		c.many = make(map[string]*dataset, 2*fewChildren)
		for _, d := range c.few {
			c.many[d.name] = d
		}
		c.few = nil
	}
	c.many[d.name] = d
}

func (c *children) remove(name string) {
	if c.many != nil {
		delete(c.many, name)
		return
	}
	for i, d := range c.few {
		if d.name == name {
			last := len(c.few) - 1
			c.few[i] = c.few[last]
			c.few[last] = nil
			c.few = c.few[:last]
			return
		}
	}
}

func (c *children) len() int {
	n := max(len(c.few), len(c.many))
	if c.parked != nil {
		n += c.parked.left
	}
	return n
}

func (c *children) all(f func(*dataset)) {
	if c.parked != nil {
		c.parked.all()
		c.parked = nil
	}
	for _, d := range c.few {
		f(d)
	}
	for _, d := range c.many {
		f(d)
	}
}

// fullName gives the whole name of d.
func (d *dataset) fullName() string {
	if d.parent == nil {
		return d.name
	}
	return string(d.appendName(make([]byte, 0, 96)))
}

func (d *dataset) nameLen() int {
	n := len(d.name)
	for p := d.parent; p != nil; p = p.parent {
		n += len(p.name) + 1
	}
	return n
}

func (d *dataset) appendName(b []byte) []byte {
	if d.parent != nil {
		b = append(d.parent.appendName(b), '/')
	}
	return append(b, d.name...)
}

func (s *snapshot) fullName() string {
	return string(append(append(s.ds.appendName(make([]byte, 0, 96)), '@'), s.name...))
}

// below reports whether d is top or below it.
func (d *dataset) below(top *dataset) bool {
	for p := d; p != nil; p = p.parent {
		if p == top {
			return true
		}
	}
	return false
}

func (m *Machine) newDataset(parent *dataset, name string) *dataset {
	d := &dataset{name: name, parent: parent, guid: m.rand.Uint64(), createtxg: m.txg, created: m.clock().Unix()}
	d.volume.ds, d.volume.now = d, &m.txg
	if parent != nil {
		d.pool = parent.pool
		parent.children.add(d)
	}
	return d
}

// lookup finds a dataset by name.
func (m *Machine) lookup(name string) *dataset {
	first, rest, more := strings.Cut(name, "/")
	var d *dataset
	for _, p := range m.pools {
		if p.root.name == first {
			d = p.root
		}
	}
	for more && d != nil {
		first, rest, more = strings.Cut(rest, "/")
		d = d.children.get(first)
	}
	return d
}

func (d *dataset) snapIndex(name string) int {
	for i := len(d.snaps) - 1; i >= 0; i-- {
		if d.snaps[i].name == name {
			return i
		}
	}
	return -1
}

func (m *Machine) lookupSnap(name zfs.Snapshot) *snapshot {
	d := m.lookup(name.Dataset().String())
	if d == nil {
		return nil
	}
	if i := d.snapIndex(name.Tag()); i >= 0 {
		return d.snaps[i]
	}
	return nil
}

// addClone puts d among the clones of s, in the order in which they were made,
// whatever the order in which they are read.
func (s *snapshot) addClone(d *dataset) {
	before, after := s.lastClone, (*dataset)(nil)
	for before != nil && before.createtxg > d.createtxg {
		before, after = before.prevClone, before
	}
	d.origin, d.prevClone, d.nextClone = s, before, after
	if before != nil {
		before.nextClone = d
	} else {
		s.firstClone = d
	}
	if after != nil {
		after.prevClone = d
	} else {
		s.lastClone = d
	}
}

func (s *snapshot) removeClone(d *dataset) {
	if d.prevClone != nil {
		d.prevClone.nextClone = d.nextClone
	} else {
		s.firstClone = d.nextClone
	}
	if d.nextClone != nil {
		d.nextClone.prevClone = d.prevClone
	} else {
		s.lastClone = d.prevClone
	}
	d.origin, d.prevClone, d.nextClone = nil, nil, nil
}

// Hold makes a dataset busy, as a process whose working directory is in it
// does, until release is called. It fails when the dataset is not mounted.
func (m *Machine) Hold(ds zfs.Dataset) (release func(), err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d := m.lookup(ds.String())
	if d == nil || d.mnt == nil {
		return nil, fmt.Errorf("hold %s: not mounted", ds)
	}
	mnt := d.mnt
	mnt.open++
	return sync.OnceFunc(func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		mnt.open--
	}), nil
}

// Transaction gives the number of the transaction under way. Every command that
// may change something, also one that fails, ends it.
func (m *Machine) Transaction() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.txg
}

// A failure is an error whose command line is yet to be put in.
type failure = zfs.Error

func failf(k zfs.Kind, format string, args ...any) *failure {
	return &failure{Kind: k, Status: 1, Stderr: fmt.Sprintf(format, args...)}
}

// as completes a failure.
func as(f *failure, argv []string) error {
	f.Argv = argv
	return f
}

// begin starts a command that changes something; see end.
func (m *Machine) begin(ctx context.Context) *failure {
	if f := m.look(ctx); f != nil {
		return f
	}
	if f := m.store.ready(); f != nil {
		m.mu.Unlock()
		return f
	}
	return nil
}

// look starts a command that changes nothing.
func (m *Machine) look(ctx context.Context) *failure {
	if err := ctx.Err(); err != nil {
		return &failure{Kind: zfs.Timeout, Status: -1, Err: err}
	}
	m.mu.Lock()
	return nil
}
