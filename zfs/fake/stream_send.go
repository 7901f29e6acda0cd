package fake

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
	"time"

	"obuilder.org/obuilder/zfs"
)

// SendOptions are those of zfs send.
type SendOptions struct {
	From        zfs.Snapshot // -i, what the stream is the difference to; the zero value for none
	All         bool         // -I, also what is between
	Replicate   bool         // -R, also all below, with properties
	SkipMissing bool         // -s, leave out what does not have the snapshot
	Properties  bool         // -p
	DryRun      bool         // -n
	Verbose     bool         // -v, but for the progress
	Parsable    bool         // -P

	Info io.Writer // for what is verbose; nil for nowhere
	Warn io.Writer // for what goes wrong and does not end it; nil for nowhere
}

// Send writes a stream of a snapshot, as zfs send does. It is in a format of
// this package. The snapshot may be destroyed meanwhile. Errors are of [zfs.FS],
// or those of the writer.
func (m *Machine) Send(ctx context.Context, to zfs.Snapshot, opts SendOptions, w io.Writer) error {
	argv := []string{"zfs", "send", to.String()}
	if opts.Info == nil {
		opts.Info = io.Discard
	}
	if opts.Warn == nil {
		opts.Warn = io.Discard
	}
	s := &sender{m: m, ctx: ctx, opts: opts, w: w}
	if f := m.look(ctx); f != nil {
		return as(f, argv)
	}
	var plan []sentSnap
	var f *failure
	switch {
	case m.dir != nil:
		f = failf(zfs.Unsupported, notModelled+"zfs send on a machine in a directory")
	case opts.All || opts.Replicate:
		plan, f = s.several(to)
	default:
		plan, f = s.one(to)
	}
	m.mu.Unlock()
	if f == nil || f == errSentWith {
		if err := s.run(plan); err != nil {
			return err
		}
	} else if s.list != nil {
		if err := s.head(); err != nil {
			return err
		}
	}
	if f != nil {
		return as(f, argv)
	}
	return nil
}

// errSentWith is the failure of what is sent as far as it can be.
var errSentWith = &failure{Kind: zfs.Unknown, Status: 1}

type sender struct {
	m    *Machine
	ctx  context.Context
	opts SendOptions
	w    io.Writer

	list *packageList // nil if it is not a package
	to   string
}

func (s *sender) warn(format string, args ...any) { fmt.Fprintf(s.opts.Warn, format+"\n", args...) }

func cannotOpen(name any) *failure {
	return failf(zfs.NotFound, "cannot open '%v': dataset does not exist", name)
}

// one is what zfs_send_one does (libzfs_sendrecv.c).
func (s *sender) one(to zfs.Snapshot) ([]sentSnap, *failure) {
	snap := s.m.lookupSnap(to)
	if snap == nil {
		return nil, cannotOpen(to)
	}
	sent := snap.sent()
	if from := s.opts.From; from != (zfs.Snapshot{}) {
		f := s.m.lookupSnap(from)
		switch {
		case f == nil:
			return nil, cannotOpen(from)
		case !f.before(snap):
			return nil, failf(zfs.Usage, "warning: cannot send '%s': not an earlier snapshot from the same fs", to)
		}
		sent.differ(f, snap.ds)
	}
	s.to = to.String()
	if s.opts.Properties {
		g := gathering{m: s.m, to: to.Tag(), props: true, warn: s.warn}
		s.list = &packageList{to: to.Tag(), fss: g.one(snap)}
	}
	if s.opts.Verbose {
		from := ""
		if s.opts.From != (zfs.Snapshot{}) {
			from = s.opts.From.String()
		}
		size := s.estimate(&sent, from)
		s.total(size)
	}
	return []sentSnap{sent}, nil
}

// sent gives s as it is sent in full.
func (s *snapshot) sent() sentSnap {
	return sentSnap{name: s.fullName(), guid: s.guid, created: s.created, root: s.ds.created * int64(time.Second), c: s.contents}
}

// differ makes it the difference to a snapshot.
func (s *sentSnap) differ(from *snapshot, of *dataset) {
	s.from, s.fromTxg, s.fromGUID, s.clone = from.tree, from.txg, from.guid, from.ds != of
}

// before reports whether s is earlier in the history of t: a snapshot before
// it, or its origin, or before that.
func (s *snapshot) before(t *snapshot) bool {
	for t != nil && s.txg < t.txg {
		if s.ds == t.ds || t.ds.origin == s {
			return true
		}
		t = t.ds.origin
	}
	return false
}

// several is what zfs_send does.
func (s *sender) several(to zfs.Snapshot) ([]sentSnap, *failure) {
	snap := s.m.lookupSnap(to)
	if s.m.lookup(to.Dataset().String()) == nil {
		return nil, cannotOpen(to.Dataset())
	}
	if snap == nil {
		return nil, cannotOpen(to)
	}
	d, from, fromOrigin := snap.ds, "", false
	if f := s.opts.From; f != (zfs.Snapshot{}) {
		if d.origin != nil && d.origin.fullName() == f.String() {
			fromOrigin = true
		} else if from = f.Tag(); s.m.lookupSnap(f) == nil {
			return nil, cannotOpen(f)
		}
	}
	all := s.opts.All || from == ""
	s.to = to.String()
	list := &packageList{from: from, to: to.Tag(), recursive: s.opts.Replicate}
	if s.opts.Replicate || s.opts.Properties {
		g := gathering{m: s.m, from: from, to: to.Tag(), recursive: s.opts.Replicate, all: all, replicate: s.opts.Replicate,
			skipMissing: s.opts.SkipMissing, props: true, verbose: s.opts.Verbose, warn: s.warn, top: d.fullName()}
		if !g.visit(d) {
			return nil, failf(zfs.NotFound, "warning: cannot send '%s': backup failed", to)
		}
		list.fss = g.fss
	}
	s.list = list
	dump := dumping{s: s, from: from, to: to.Tag(), all: all, fromOrigin: fromOrigin}
	if !s.opts.Replicate {
		dump.filesystem(d)
	} else {
		dump.tree(list)
	}
	if s.opts.Verbose {
		s.total(dump.size)
	}
	switch {
	case !dump.seenTo:
		return nil, &failure{Kind: zfs.NotFound, Status: 1}
	case dump.failed:
		return dump.plan, errSentWith
	}
	return dump.plan, nil
}

// dumping finds what is to be sent of several snapshots (dump_filesystems).
type dumping struct {
	s          *sender
	from, to   string // names of snapshots
	all        bool
	fromOrigin bool

	seenFrom, seenTo bool
	failed           bool
	plan             []sentSnap
	size             uint64
	find             map[uint64]found
}

func (d *dumping) tree(list *packageList) {
	d.find = list.index()
	for _, fs := range list.fss {
		if f, ok := d.find[fs.origin]; ok && fs.origin != 0 {
			f.snap.isOrigin = true
		}
	}
	sent := make(map[*packageFS]bool)
	for again := true; again; {
		again = false
		progress := false
		for _, fs := range list.fss {
			if sent[fs] {
				continue
			}
			if parent, ok := d.find[fs.parentFrom]; ok && fs.parentFrom != 0 && !sent[parent.fs] && parent.fs != fs {
				again = true
				continue
			}
			if origin, ok := d.find[fs.origin]; ok && fs.origin != 0 && !sent[origin.fs] {
				again = true
				continue
			}
			d.filesystem(fs.d)
			sent[fs], progress = true, true
		}
		again = again && progress
	}
}

func (d *dumping) filesystem(fs *dataset) {
	replicate := d.s.opts.Replicate
	name := fs.fullName()
	at := fs.snapIndex(d.to)
	if at < 0 {
		d.s.warn("WARNING: could not send %s@%s: does not exist", name, d.to)
		d.failed = true
		return
	}
	from := fs.snapIndex(d.from)
	d.seenFrom, d.seenTo = d.from == "" || replicate && from < 0, false
	low, high := 0, len(fs.snaps)-1
	if !replicate {
		low, high = max(from, 0), at
	}
	var prev *snapshot
	for i := low; i <= high; i++ {
		s := fs.snaps[i]
		isFrom := d.from != "" && s.name == d.from
		if !d.seenFrom && isFrom {
			d.seenFrom, prev = true, s
			continue
		}
		if d.seenTo || !d.seenFrom {
			continue
		}
		isTo := s.name == d.to
		d.seenTo = isTo
		if !d.all && !isFrom && !isTo && !d.find[s.guid].isOrigin() {
			continue
		}
		sent := s.sent()
		switch {
		case prev != nil:
			sent.differ(prev, fs)
		case (d.fromOrigin || replicate) && fs.origin != nil:
			sent.differ(fs.origin, fs)
		}
		if d.s.opts.Verbose {
			from := ""
			if prev != nil {
				from = prev.name
			}
			d.size += d.s.estimate(&sent, from)
		}
		d.plan = append(d.plan, sent)
		prev = s
	}
	switch {
	case !d.seenFrom:
		d.s.warn("WARNING: could not send %s@%s:\nincremental source (%s@%s) does not exist", name, d.to, name, d.from)
		d.failed = true
	case !d.seenTo:
		d.s.warn("WARNING: could not send %s@%s:\nincremental source (%s@%s) is not earlier than it", name, d.to, name, d.from)
		d.failed = true
	}
}

// estimate says how long the stream of a snapshot will be.
func (s *sender) estimate(sent *sentSnap, from string) uint64 {
	var n counter
	_ = sent.write(s.ctx, &n)
	at := ""
	if !strings.Contains(from, "@") {
		at = "@"
	}
	switch parsable := s.opts.Parsable; {
	case parsable && from != "":
		fmt.Fprintf(s.opts.Info, "incremental\t%s\t%s\t%d\n", from, sent.name, n)
	case parsable:
		fmt.Fprintf(s.opts.Info, "full\t%s\t%d\n", sent.name, n)
	case from != "":
		fmt.Fprintf(s.opts.Info, "send from %s%s to %s estimated size is %s\n", at, from, sent.name, zfs.FormatSize(uint64(n)))
	default:
		fmt.Fprintf(s.opts.Info, "full send of %s estimated size is %s\n", sent.name, zfs.FormatSize(uint64(n)))
	}
	return uint64(n)
}

func (s *sender) total(n uint64) {
	if s.opts.Parsable {
		fmt.Fprintf(s.opts.Info, "size\t%d\n", n)
		return
	}
	fmt.Fprintf(s.opts.Info, "total estimated size is %s\n", zfs.FormatSize(n))
}

// A counter counts what is written to it.
type counter uint64

func (n *counter) Write(p []byte) (int, error) { *n += counter(len(p)); return len(p), nil }

// head writes what a package begins with.
func (s *sender) head() error {
	if s.opts.DryRun {
		return nil
	}
	list := s.list.encode(nil)
	if len(list) > maxList {
		return as(failf(zfs.Usage, "warning: cannot send '%s': the size of the list of snapshots and properties is too large to be received successfully.\n"+
			"Select a smaller number of snapshots to send.", s.to), []string{"zfs", "send", s.to})
	}
	h := streamHead{kind: streamPackage, name: s.to, list: uint32(len(list))}
	b := append(h.encode(), list...)
	_, err := s.w.Write(binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli)))
	return err
}

// run writes what is to be sent.
func (s *sender) run(plan []sentSnap) error {
	if s.opts.DryRun {
		return nil
	}
	if s.list != nil {
		if err := s.head(); err != nil {
			return err
		}
	}
	for i := range plan {
		if err := plan[i].write(s.ctx, s.w); err != nil {
			return err
		}
	}
	if s.list == nil {
		return nil
	}
	end := streamHead{kind: streamEnd}
	_, err := s.w.Write(end.encode())
	return err
}

// A packageList is what a package says of the file systems that are in it.
type packageList struct {
	from, to  string
	recursive bool
	fss       []*packageFS
}

type packageFS struct {
	d          *dataset // here
	name       string
	parentFrom uint64 // guid of the parent's snapshot that this is the difference to, or of that which is sent
	origin     uint64 // guid
	hasProps   bool
	props      []zfs.Property
	snaps      []*packageSnap
}

type packageSnap struct {
	name     string
	guid     uint64
	props    []zfs.Property
	isOrigin bool // of a clone that is sent
}

type found struct {
	fs   *packageFS
	snap *packageSnap
}

func (f found) isOrigin() bool { return f.snap != nil && f.snap.isOrigin }

// index finds snapshots by their guids.
func (l *packageList) index() map[uint64]found { return indexOf(l.fss) }

func indexOf(fss []*packageFS) map[uint64]found {
	index := make(map[uint64]found)
	for _, fs := range fss {
		for _, s := range fs.snaps {
			if _, ok := index[s.guid]; !ok {
				index[s.guid] = found{fs, s}
			}
		}
	}
	return index
}

func appendProps(b []byte, props []zfs.Property) []byte {
	b = binary.AppendUvarint(b, uint64(len(props)))
	for _, p := range props {
		b = appendString(appendString(b, p.Name), p.Value)
	}
	return b
}

func (r *reader) props() []zfs.Property {
	var list []zfs.Property
	for range r.count() {
		name := r.string()
		list = append(list, zfs.Property{Name: name, Value: r.string()})
	}
	return list
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

func (l *packageList) encode(b []byte) []byte {
	b = appendBool(appendString(appendString(b, l.from), l.to), l.recursive)
	b = binary.AppendUvarint(b, uint64(len(l.fss)))
	for _, fs := range l.fss {
		b = appendString(b, fs.name)
		b = binary.LittleEndian.AppendUint64(b, fs.parentFrom)
		b = binary.LittleEndian.AppendUint64(b, fs.origin)
		b = appendProps(appendBool(b, fs.hasProps), fs.props)
		b = binary.AppendUvarint(b, uint64(len(fs.snaps)))
		for _, s := range fs.snaps {
			b = binary.LittleEndian.AppendUint64(appendString(b, s.name), s.guid)
			b = appendProps(b, s.props)
		}
	}
	return b
}

func decodeList(data []byte) (*packageList, bool) {
	r := reader{data: string(data)}
	l := &packageList{from: r.string(), to: r.string(), recursive: r.byte() == 1}
	for range r.count() {
		fs := &packageFS{name: r.string(), parentFrom: r.uint64(), origin: r.uint64(), hasProps: r.byte() == 1, props: r.props()}
		for range r.count() {
			fs.snaps = append(fs.snaps, &packageSnap{name: r.string(), guid: r.uint64(), props: r.props()})
		}
		l.fss = append(l.fss, fs)
	}
	return l, !r.bad
}

// gathering finds out about a file system and, when recursive, all below it
// (send_iterate_fs).
type gathering struct {
	m           *Machine
	from, to    string
	recursive   bool
	all         bool
	replicate   bool
	skipMissing bool
	props       bool
	verbose     bool
	warn        func(format string, args ...any)
	top         string

	parentFrom     uint64
	fromTxg, toTxg uint64
	fss            []*packageFS
}

// one is what is known about a snapshot that is sent alone.
func (g *gathering) one(s *snapshot) []*packageFS {
	fs := &packageFS{name: s.ds.fullName(), hasProps: true, props: g.m.sentProps(s.ds)}
	if s.ds.origin != nil {
		fs.origin = s.ds.origin.guid
	}
	fs.snaps = []*packageSnap{{name: s.name, guid: s.guid, props: g.m.sentSnapProps(s)}}
	return []*packageFS{fs}
}

func (g *gathering) visit(d *dataset) bool {
	parentFrom, fromTxg, toTxg := g.parentFrom, g.fromTxg, g.toTxg
	defer func() { g.parentFrom, g.fromTxg, g.toTxg = parentFrom, fromTxg, toTxg }()
	from, to := d.snapIndex(g.from), d.snapIndex(g.to)
	if from >= 0 {
		g.fromTxg = d.snaps[from].txg
	}
	if to >= 0 {
		g.toTxg = d.snaps[to].txg
	}
	if g.to != "" && to < 0 {
		switch {
		case g.toTxg != 0 && d.createtxg > g.toTxg:
			if g.verbose {
				g.warn("skipping dataset %s: snapshot %s does not exist", d.fullName(), g.to)
			}
		case g.skipMissing:
			g.warn("WARNING: skipping dataset %s and its children: snapshot %s does not exist", d.fullName(), g.to)
		default:
			recursively := ""
			if g.recursive {
				recursively = " recursively"
			}
			g.warn("cannot send %s@%s%s: snapshot %s@%s does not exist", g.top, g.to, recursively, d.fullName(), g.to)
			return false
		}
		return true
	}
	fs := &packageFS{d: d, name: d.fullName(), parentFrom: g.parentFrom}
	if d.origin != nil {
		fs.origin = d.origin.guid
	}
	if g.props {
		fs.hasProps, fs.props = true, g.m.sentProps(d)
	}
	g.parentFrom = 0
	for i, s := range d.snaps {
		if !g.replicate && (g.from != "" && i < from || to >= 0 && i > to) {
			continue
		}
		if g.toTxg != 0 && s.txg > g.toTxg {
			if g.verbose {
				g.warn("skipping snapshot %s because it was created after the destination snapshot (%s)", s.fullName(), g.to)
			}
			continue
		}
		known := &packageSnap{name: s.name, guid: s.guid}
		fs.snaps = append(fs.snaps, known)
		if g.from != "" && s.name == g.from || g.parentFrom == 0 && g.to != "" && s.name == g.to {
			g.parentFrom = s.guid
		}
		known.props = g.m.sentSnapProps(s)
	}
	g.fss = append(g.fss, fs)
	if g.recursive {
		for _, c := range d.sorted() {
			if !g.visit(c) {
				return false
			}
		}
	}
	return true
}
