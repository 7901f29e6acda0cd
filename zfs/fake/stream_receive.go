package fake

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"obuilder.org/obuilder/zfs"
)

// ReceiveOptions are those of zfs receive.
type ReceiveOptions struct {
	Force        bool           // -F, take back what was changed, and with -R what was made or is gone
	Prefix       bool           // -d, below the file system, with the name but for its pool
	Tail         bool           // -e, below the file system, with the last part of the name
	NoMount      bool           // -u
	ForceUnmount bool           // -M
	DryRun       bool           // -n
	Verbose      bool           // -v
	Set          []zfs.Property // -o, but for origin
	Exclude      []string       // -x
	Origin       string         // -o origin=

	Info io.Writer // for what is verbose; nil for nowhere
	Warn io.Writer // for what goes wrong and does not end it; nil for nowhere
}

// Receive makes what a stream of [Machine.Send] is of, as zfs receive does, in
// a file system, or as a snapshot, of a name. The stream is read as it comes;
// what has not come in full leaves nothing behind. Errors are of [zfs.FS].
func (m *Machine) Receive(ctx context.Context, dest string, opts ReceiveOptions, r io.Reader) error {
	if opts.Info == nil || !opts.Verbose {
		opts.Info = io.Discard
	}
	if opts.Warn == nil {
		opts.Warn = io.Discard
	}
	opts.Prefix = opts.Prefix || opts.Tail
	x := &reception{m: m, ctx: ctx, ReceiveOptions: opts, r: r, dest: dest}
	f := x.next("")
	if f == nil && !opts.NoMount && x.mounts && x.top != "" {
		f = x.locked(func() *failure {
			d := m.lookup(x.top)
			if d == nil {
				return cannotOpen(x.top)
			}
			list := affectedBy(d, false, nil)
			for i := range list {
				list[i].mounted, list[i].noauto = true, false
			}
			return m.mountAll(list, false)
		})
	}
	if f == nil && x.soft {
		f = &failure{Kind: zfs.Unknown, Status: 1}
	}
	if f == nil || f == errStreamEnds {
		return nil
	}
	return as(f, []string{"zfs", "receive", dest})
}

// errStreamEnds is what next gives at the end of a package.
var errStreamEnds = &failure{}

type reception struct {
	ReceiveOptions
	m    *Machine
	ctx  context.Context
	r    io.Reader
	dest string

	list   *packageList
	index  map[uint64]found
	top    string // name of the first file system that was received
	mounts bool   // something is to be mounted
	soft   bool   // something could not be renamed, destroyed or promoted
	seq    int    // of names that are made up
}

// locked does one step of it, with the machine locked.
func (x *reception) locked(do func() *failure) *failure {
	if f := x.m.begin(x.ctx); f != nil {
		return f
	}
	return x.m.end(do())
}

func (x *reception) say(format string, args ...any)  { fmt.Fprintf(x.Info, format+"\n", args...) }
func (x *reception) warn(format string, args ...any) { fmt.Fprintf(x.Warn, format+"\n", args...) }

func refused(what, why string) *failure { return failf(zfs.Usage, "%s: %s", what, why) }

func (x *reception) exists(name string) bool {
	x.m.mu.Lock()
	defer x.m.mu.Unlock()
	return x.m.lookupAny(name)
}

// lookupAny reports whether there is a dataset or a snapshot of a name.
func (m *Machine) lookupAny(name string) bool {
	ds, tag, snap := strings.Cut(name, "@")
	d := m.lookup(ds)
	return d != nil && (!snap || d.snapIndex(tag) >= 0)
}

// next receives what comes next: a snapshot or a package (zfs_receive_impl in
// libzfs_sendrecv.c). sendfs is the file system that was sent, "" if that is not
// known yet.
func (x *reception) next(sendfs string) *failure {
	const what = "cannot receive"
	switch {
	case x.m.dir != nil:
		return failf(zfs.Unsupported, notModelled+"zfs receive on a machine in a directory")
	case sendfs != "":
	default:
		if f := x.checkProperties(what); f != nil {
			return f
		}
	}
	if x.Prefix && !x.exists(x.dest) {
		return failf(zfs.NotFound, "%s: specified fs (%s) does not exist", what, x.dest)
	}
	if x.Origin != "" && !x.exists(x.Origin) {
		return failf(zfs.NotFound, "%s: specified origin fs (%s) does not exist", what, x.Origin)
	}
	h, err := readHead(x.r)
	switch {
	case err == errVersion:
		return refused(what, err.Error()+", feature flags = 0")
	case err != nil:
		return refused(what, err.Error())
	case h.kind == streamEnd && sendfs != "":
		return errStreamEnds
	case !strings.Contains(h.name, "@"):
		return refused(what, "invalid stream (bad snapshot name)")
	}
	from, _, _ := strings.Cut(h.name, "@")
	switch {
	case h.kind == streamSnapshot && sendfs == "":
		return x.one(h, from)
	case h.kind == streamSnapshot && (from == sendfs || strings.HasPrefix(from, sendfs+"/")):
		return x.one(h, sendfs)
	case h.kind == streamPackage && sendfs == "":
		return x.pack(h, from)
	}
	return refused(what, errMalformed.Error())
}

// checkProperties refuses what cannot be given with -o or -x.
func (x *reception) checkProperties(what string) *failure {
	names := slices.Clone(x.Exclude)
	for _, p := range x.Set {
		names = append(names, p.Name)
	}
	for _, name := range names {
		id, ok := propIDs[name]
		switch {
		case !ok && validUserProp(name):
		case !ok, props[id].kind == readOnly, name == "version", name == "volsize":
			return refused(what, "invalid property '"+name+"'")
		case props[id].kind == once:
			if !strings.HasPrefix(name, "encryption") && name != "keyformat" && name != "pbkdf2iters" {
				return refused(what, "invalid property '"+name+"'")
			}
			return failf(zfs.Unsupported, notModelled+"%s of zfs receive", name)
		}
	}
	return nil
}

// pack receives a package (zfs_receive_package).
func (x *reception) pack(h *streamHead, sendfs string) *failure {
	const what = "cannot receive"
	if h.list > maxList {
		return refused(what, "nvlist too large")
	}
	data, err := io.ReadAll(io.LimitReader(x.r, int64(h.list)+4))
	switch n := len(data) - 4; {
	case err != nil, n != int(h.list):
		return refused(what, errRead.Error())
	case binary.LittleEndian.Uint32(data[n:]) != crc32.Update(crc32.Checksum(h.encode(), castagnoli), castagnoli, data[:n]):
		return refused(what, errHeader.Error())
	default:
		list, ok := decodeList(data[:n])
		if !ok {
			return refused(what, "invalid stream (malformed nvlist)")
		}
		x.list = list
	}
	if x.list.recursive && strings.Contains(x.dest, "@") {
		return refused(what, "cannot specify snapshot name for multi-snapshot stream")
	}
	if len(x.list.fss) > 0 {
		x.index = x.list.index()
	}
	replicates := len(x.list.fss) > 0 && x.list.recursive && x.list.from != "" && !x.DryRun
	to := x.dest
	if x.Prefix {
		below := sendfs[len(firstComponent(sendfs)):]
		if x.Tail {
			below = "/" + sendfs[strings.LastIndexByte(sendfs, '/')+1:]
		}
		to += below
	}
	if replicates {
		var renamed []string
		f := x.locked(func() *failure {
			x.soft = x.replicate(to, &renamed)
			for _, name := range renamed { // they are mounted again when all has come
				d := x.m.lookup(name)
				switch {
				case x.NoMount:
					continue
				case d == nil: // it got a name that was made up, and has gone since
					x.warn("cannot open '%s': dataset does not exist", name)
					continue
				}
				if f := x.m.unmountAll(affectedBy(d, false, nil), x.ForceUnmount); f != nil {
					x.warn("%s", f.Stderr)
					x.soft = true
				}
			}
			return nil
		})
		if f != nil {
			return f
		}
	}
	var f *failure
	for f == nil {
		f = x.next(sendfs)
	}
	if f == errStreamEnds {
		f = nil
	}
	if replicates {
		var said strings.Builder // after what f says
		warn := x.Warn
		x.Warn = &said
		g := x.locked(func() *failure { x.soft = x.replicate(to, nil); return nil })
		switch x.Warn = warn; {
		case f == nil:
			_, _ = io.WriteString(x.Warn, said.String())
			f = g
		case said.Len() > 0:
			f.Stderr += "\n" + strings.TrimSuffix(said.String(), "\n")
		}
	}
	return f
}

func firstComponent(name string) string {
	first, _, _ := strings.Cut(name, "/")
	return first
}

// byGUID finds what has a guid: in the file system of a name and below it, or
// below what is above that, and so on (guid_to_name).
func (m *Machine) byGUID(near string, guid uint64) (string, bool) {
	name, _, _ := strings.Cut(near, "@")
	skip := ""
	for {
		if d := m.lookup(name); d != nil {
			if found := d.withGUID(guid, skip); found != "" {
				return found, true
			}
		}
		i := strings.LastIndexByte(name, '/')
		if i < 0 {
			return "", false
		}
		name, skip = name[:i], name[i+1:]
	}
}

func (d *dataset) withGUID(guid uint64, skip string) string {
	if d.guid == guid {
		return d.fullName()
	}
	for _, c := range d.sorted() {
		if c.name == skip {
			continue
		}
		if found := c.withGUID(guid, skip); found != "" {
			return found
		}
	}
	for _, s := range d.snaps {
		if s.guid == guid {
			return s.fullName()
		}
	}
	return ""
}

// target is where a snapshot goes.
type target struct {
	name, tag string
	origin    string
	what      string // it is that cannot be done
	creates   bool   // the stream makes a file system
	isNew     bool   // there is none of that name
	top       bool
	moved     []affected // what was unmounted for it
	local     []setting
	hidden    []propID
	received  []setting
	withProps bool
	snapProps []zfs.Property
	before    receivedProps // what came earlier
}

func (t *target) snap() string { return t.name + "@" + t.tag }

// place finds out where the snapshot of h goes, and makes room for it
// (the first part of zfs_receive_one).
func (x *reception) place(h *streamHead, sendfs string) (*target, *failure) {
	t := &target{what: "cannot receive"}
	var parentFrom uint64
	var fs *packageFS
	if f, ok := x.index[h.guid]; ok {
		fs, parentFrom, t.snapProps = f.fs, f.fs.parentFrom, f.snap.props
	}
	chopped := h.name[len(sendfs):]
	switch {
	case x.Tail:
		if strings.Contains(x.dest, "@") {
			return nil, refused(t.what, "invalid argument - snapshot not allowed with -e")
		}
		chopped = "/" + h.name[strings.LastIndexByte(sendfs, '/')+1:]
	case x.Prefix:
		if strings.Contains(x.dest, "@") {
			return nil, refused(t.what, "invalid argument - snapshot not allowed with -d")
		}
		chopped = h.name[strings.IndexAny(h.name, "/@"):]
	case strings.Contains(x.dest, "@"):
		if x.list != nil && x.list.recursive {
			return nil, refused(t.what, "cannot specify snapshot name for multi-snapshot stream")
		}
		chopped = ""
	}
	to, err := zfs.ParseSnapshot(x.dest + chopped)
	if err != nil {
		return nil, refused(t.what, "invalid name")
	}
	t.name, t.tag = to.Dataset().String(), to.Tag()
	clone := h.flags&flagClone != 0
	switch {
	case x.Origin != "":
		t.origin = x.Origin
		x.say("using provided clone origin %s", t.origin)
	case clone:
		origin, ok := x.m.byGUID(t.snap(), h.fromGUID)
		if !ok {
			return nil, failf(zfs.NotFound, "%s: local origin for clone %s does not exist", t.what, t.snap())
		}
		t.origin = origin
		x.say("found clone origin %s", t.origin)
	}
	t.creates = h.fromGUID == 0 || clone || x.Origin != ""
	i := strings.LastIndexByte(t.name, '/')
	if t.creates {
		t.what += " new filesystem stream"
		if i >= 0 && x.m.lookup(t.name[:i]) == nil {
			if found, ok := x.m.byGUID(t.name[:i], parentFrom); ok {
				parent, _, _ := strings.Cut(found, "@")
				t.name = parent + t.name[i:]
			}
		}
	} else {
		t.what += " incremental stream"
		within := h.name[len(sendfs):]
		if (x.Prefix || within[0] != '@') && x.m.lookup(t.name) == nil {
			if found, ok := x.m.byGUID(t.name, h.fromGUID); ok {
				t.name, _, _ = strings.Cut(found, "@")
			}
		}
	}
	d := x.m.lookup(t.name)
	if d != nil {
		if f := x.overwrite(t, d); f != nil {
			return nil, f
		}
	} else if f := x.parent(t); f != nil {
		return nil, f
	}
	full := "full"
	if h.fromGUID != 0 {
		full = "incremental"
	}
	doing := "receiving"
	if x.DryRun {
		doing = "would receive"
	}
	x.say("%s %s stream of %s into %s", doing, full, h.name, t.snap())
	if x.top == "" {
		x.top = t.name
	}
	t.top = x.top == t.name
	return t, x.properties(t, d, fs)
}

// overwrite makes sure that d can be received into.
func (x *reception) overwrite(t *target, d *dataset) *failure {
	if !t.creates {
		return nil
	}
	text := ""
	switch {
	case !x.Force:
		text = "destination '" + t.name + "' exists\nmust specify -F to overwrite it"
	case len(d.snaps) > 0:
		text = "destination has snapshots (eg. " + d.snaps[0].fullName() + ")\nmust destroy them to overwrite it"
	case d.origin != nil:
		text = "destination '" + t.name + "' is a clone\nmust destroy it to overwrite it"
	}
	if text != "" {
		return failf(zfs.Exists, "%s: %s", t.what, text)
	}
	if x.DryRun {
		return nil
	}
	t.moved = affectedBy(d, true, nil)
	return x.m.unmountAll(t.moved, x.ForceUnmount)
}

// parent makes sure that there is a file system below which t can be.
func (x *reception) parent(t *target) *failure {
	i := strings.LastIndexByte(t.name, '/')
	if !t.creates || i < 0 {
		return failf(zfs.NotFound, "%s: destination '%s' does not exist", t.what, t.name)
	}
	t.isNew = true
	name := t.name[:i]
	var f *failure
	if x.Prefix && !x.Tail && !x.DryRun && len(name) > len(x.dest) {
		if above, err := zfs.ParseDataset(name); err == nil && x.m.lookup(name) == nil {
			f = x.m.create(above, zfs.CreateOptions{Parents: true}, true)
		}
	}
	if f == nil && x.m.lookup(name) == nil {
		f = cannotOpen(name)
	}
	if f != nil {
		f.Stderr += "\n" + t.what + ": unable to restore to destination"
	}
	return f
}

// properties finds out which properties are set (zfs_setup_cmdline_props).
func (x *reception) properties(t *target, d *dataset, fs *packageFS) *failure {
	var come []zfs.Property
	if fs != nil && fs.hasProps {
		t.withProps = true
		come = slices.Clone(fs.props)
	}
	for _, name := range x.Exclude {
		id, _ := x.m.names.find(name, true)
		if d != nil {
			if _, local := d.local(id); local {
				continue
			}
		}
		if !inherits(id) {
			come = slices.DeleteFunc(come, func(p zfs.Property) bool { return p.Name == name })
		} else {
			t.hidden = append(t.hidden, id)
		}
	}
	set, f := x.m.parseAll("", "", x.Set, nil)
	if f != nil {
		if text, ok := strings.CutPrefix(f.Stderr, " '': "); ok {
			f.Stderr = t.what + ": " + text + "\n" + t.what + ": invalid property value"
		}
		return f
	}
	if t.top {
		t.local = set
	} else {
		for _, s := range set {
			t.hidden = append(t.hidden, s.id)
		}
	}
	for _, p := range come {
		s, ok := x.m.receivable(p)
		if !ok { // of another version of this
			x.warn("cannot receive %s property on %s: invalid property value", p.Name, t.name)
			continue
		}
		t.received = append(t.received, s)
	}
	return nil
}

// receivable reads a property as it is sent, which is as it is kept.
func (m *Machine) receivable(p zfs.Property) (setting, bool) {
	id, ok := m.names.find(p.Name, true)
	if !ok {
		return setting{}, false
	}
	value, text := p.Value, ""
	if isUser(id) || props[id].kind != size {
		value, text = parse(id, p.Name, p.Value)
	} else if _, err := strconv.ParseUint(p.Value, 10, 64); err != nil {
		text = err.Error()
	}
	return setting{id, value}, text == ""
}

// Errors of the kernel that zfs receive has texts for.
var (
	errNoMatch  = errors.New("ENODEV")
	errModified = errors.New("ETXTBSY")
)

// one receives a snapshot.
func (x *reception) one(h *streamHead, sendfs string) *failure {
	began := x.m.clock().Unix()
	var t *target
	f := x.locked(func() (f *failure) { t, f = x.place(h, sendfs); return f })
	if f != nil {
		return f
	}
	count := &countingReader{r: x.r}
	in := newRecordReader(x.ctx, count, h)
	if x.DryRun {
		if n := in.skip(); n > 0 {
			return refused(strings.TrimSuffix(strings.Repeat("cannot receive: failed to read from stream\n", n), ": failed to read from stream\n"), errRead.Error())
		}
		return nil
	}
	err := x.contents(t, h, in)
	if err == syscall.EEXIST && x.holds(t.name, h.guid) {
		x.say("snap %s already exists; ignoring", t.snap())
		if in.skipRead() > 0 {
			f := x.text(t, err)
			f.Stderr = "cannot receive: " + errRead.Error() + "\n" + f.Stderr
			return f
		}
		err = nil
	}
	f = x.text(t, err)
	if t.moved != nil && !x.NoMount {
		if g := x.locked(func() *failure { return x.m.mountAll(t.moved, false) }); f == nil {
			f = g
		}
	}
	x.mounts = x.mounts || t.isNew || x.index != nil
	if f != nil {
		return f
	}
	took := max(uint64(x.m.clock().Unix()-began), 1)
	x.say("received %s stream in %d seconds (%s/sec)", zfs.FormatSize(count.n), took, zfs.FormatSize(count.n/took))
	return nil
}

type countingReader struct {
	r io.Reader
	n uint64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += uint64(n)
	return n, err
}

// holds reports whether a file system has a snapshot of a guid.
func (x *reception) holds(name string, guid uint64) bool {
	x.m.mu.Lock()
	defer x.m.mu.Unlock()
	d := x.m.lookup(name)
	return d != nil && slices.ContainsFunc(d.snaps, func(s *snapshot) bool { return s.guid == guid })
}

// text is what zfs receive says of an error.
func (x *reception) text(t *target, err error) *failure {
	var f *failure
	switch {
	case err == nil:
		return nil
	case errors.As(err, &f):
		return f
	case x.ctx.Err() != nil:
		return &failure{Kind: zfs.Timeout, Status: -1, Err: x.ctx.Err()}
	}
	switch err {
	case errNoMatch:
		return failf(zfs.Usage, "%s: most recent snapshot of %s does not\nmatch incremental source", t.what, t.name)
	case errModified:
		return failf(zfs.Busy, "%s: destination %s has been modified\nsince most recent snapshot", t.what, t.name)
	case syscall.EEXIST:
		name := t.snap()
		if t.isNew {
			name = t.name
		}
		return failf(zfs.Exists, "cannot restore to %s: destination already exists", name)
	case syscall.EDQUOT:
		return failf(zfs.NoSpace, "%s: destination %s space quota exceeded.", t.what, t.name)
	case syscall.ENOSPC:
		return failf(zfs.NoSpace, "%s: out of space", t.what)
	case syscall.EBUSY:
		return failf(zfs.Busy, "%s: dataset is busy", t.what)
	case syscall.ENOENT:
		return failf(zfs.NotFound, "%s: dataset does not exist", t.what)
	case syscall.EXDEV:
		return refused(t.what, "operation crosses datasets or pools")
	case syscall.EINVAL:
		err = errMalformed
	}
	return refused(t.what, err.Error())
}

// contents receives the records of a snapshot and makes it. The errors are
// those that text knows.
func (x *reception) contents(t *target, h *streamHead, in *recordReader) error {
	var base *snapshot
	r := &receiver{}
	failed := error(nil)
	f := x.locked(func() *failure {
		if base, failed = x.begin(t, h); failed != nil {
			return nil
		}
		if d := x.m.lookup(t.name); d != nil { // what is set stays set, what came does not
			t.before = slices.Clone(d.received)
			x.setProperties(t, d, false)
		}
		x.room(t, r)
		return nil
	})
	switch {
	case f != nil:
		return f
	case failed != nil:
		return failed
	}
	limit, quota := r.limit, r.quota
	c := contents{}
	txg := uint64(0)
	if base != nil {
		c, txg = base.contents, base.txg
	}
	r = newReceiver(c, txg, x.births)
	r.limit, r.next = limit, h.next
	err := r.take(in)
	if f := x.m.begin(context.WithoutCancel(x.ctx)); f != nil { // what was begun is ended, one way or the other
		return f
	}
	f = x.m.end(func() *failure {
		if err == nil {
			err = x.commit(t, h, base, r)
		}
		if d := x.m.lookup(t.name); d != nil && err != nil && !t.isNew {
			changed := d.received
			d.received = t.before
			for _, p := range slices.Concat(changed, t.before) {
				d.keepLimit(p.id)
			}
		}
		return nil
	}())
	switch {
	case err == errFull && quota:
		return syscall.EDQUOT
	case err == errFull:
		return syscall.ENOSPC
	case err == nil && f != nil:
		return f
	}
	return err
}

// births gives transactions to what is received in which nothing else is born.
func (x *reception) births() (from, until uint64) {
	x.m.mu.Lock()
	defer x.m.mu.Unlock()
	from = x.m.txg
	x.m.txg += 1 << 10
	return from, x.m.txg
}

// begin finds the snapshot that a stream is the difference to, nil for none, as
// the checks of dmu_recv_begin do.
func (x *reception) begin(t *target, h *streamHead) (*snapshot, error) {
	d := x.m.lookup(t.name)
	if d == nil {
		switch {
		case t.origin == "":
			return nil, nil
		case h.fromGUID == 0:
			return nil, failf(zfs.Unsupported, notModelled+"a full stream that is received as a clone")
		}
		name, err := zfs.ParseSnapshot(t.origin)
		if err != nil {
			return nil, syscall.EINVAL
		}
		s := x.m.lookupSnap(name)
		switch {
		case s == nil:
			return nil, syscall.ENOENT
		case s.guid != h.fromGUID:
			return nil, errNoMatch
		case firstComponent(t.name) != firstComponent(t.origin):
			return nil, syscall.EXDEV
		}
		return s, nil
	}
	switch {
	case t.origin != "":
		return nil, syscall.EINVAL
	case d.snapIndex(t.tag) >= 0:
		return nil, syscall.EEXIST
	case h.fromGUID == 0 && !x.Force:
		return nil, syscall.EEXIST
	case h.fromGUID == 0:
		return nil, nil
	}
	i := slices.IndexFunc(d.snaps, func(s *snapshot) bool { return s.guid == h.fromGUID })
	switch {
	case i < 0:
		return nil, errNoMatch
	case !x.Force && d.tree != d.snaps[i].tree:
		return nil, errModified
	}
	return d.snaps[i], nil
}

// room finds out how much can be received.
func (x *reception) room(t *target, r *receiver) {
	if d := x.m.lookup(t.name); d != nil {
		r.limit, r.quota = d.left()
		return
	}
	parent := x.m.lookup(t.name[:strings.LastIndexByte(t.name, '/')])
	r.limit, r.quota = parent.left()
	if !t.isNew || t.origin == "" {
		r.limit -= min(r.limit, emptyFS)
	}
	for _, s := range slices.Concat(t.received, t.local) {
		if n := s.number(); s.id == propQuota && n > 0 && n <= r.limit+emptyFS {
			r.limit, r.quota = n-min(n, emptyFS), true
		}
	}
}

// commit makes the snapshot, as dmu_recv_end does.
func (x *reception) commit(t *target, h *streamHead, base *snapshot, r *receiver) error {
	m := x.m
	d := m.lookup(t.name)
	if (d == nil) != t.isNew {
		return syscall.EEXIST
	}
	if d != nil {
		again, err := x.begin(t, h)
		if err != nil {
			return err
		}
		last := d.prevTxg()
		switch {
		case again != base:
			return errNoMatch
		case base == nil && len(d.snaps) > 0:
			return syscall.EEXIST
		case !x.Force && last > r.first: // a snapshot was taken meanwhile
			return errModified
		}
		later := d.snaps[slices.Index(d.snaps, base)+1:]
		if !x.Force && len(d.snaps) > 0 && d.tree != d.snaps[len(d.snaps)-1].tree {
			return errModified
		}
		if x.Force {
			for _, s := range slices.Backward(later) {
				switch {
				case s.firstClone != nil:
					return syscall.EEXIST
				case s.inUse(false) != nil:
					return syscall.EBUSY
				}
			}
		}
		if x.Force {
			for _, s := range slices.Backward(slices.Clone(later)) {
				m.dropSnap(s)
			}
		}
	} else {
		i := strings.LastIndexByte(t.name, '/')
		parent := m.lookup(t.name[:i])
		switch {
		case parent == nil:
			return syscall.ENOENT
		case base != nil && !m.lookupAny(base.fullName()):
			return syscall.ENOENT
		case parent.poolFree() < createNeeds:
			return syscall.ENOSPC
		}
		d = m.newDataset(parent, t.name[i+1:])
		if base != nil {
			base.addClone(d)
		}
	}
	if t.isNew {
		x.setProperties(t, d, false)
	}
	ways := m.waysToMounts(d)
	x.swap(d, base, r)
	s := &snapshot{ds: d, name: t.tag, guid: h.guid, txg: m.txg, created: h.created, contents: d.contents}
	d.dead = nil
	d.snaps = append(d.snaps, s)
	d.frozen = m.txg
	d.recount()
	x.setProperties(t, d, true)
	m.keepMounts(d, ways)
	if len(t.snapProps) > 0 {
		m.receiveSnapProps(s, t.snapProps)
	}
	return nil
}

// swap makes what was received the contents of d.
func (x *reception) swap(d *dataset, base *snapshot, r *receiver) {
	refd := uint64(emptyFS)
	before := d.prevTxg()
	var dead deadList
	if base != nil {
		refd, before = base.refd, max(before, base.txg)
	}
	// What base has and the head has not: of a snapshot that is not the last,
	// because nothing was changed since, the dead list of the head is the same.
	gone := uint64(0)
	for _, e := range r.lost {
		gone += e.bytes
		dead.add(e.birth, e.bytes)
	}
	d.contents = contents{tree: r.tree, next: r.next, refd: refd + r.grown - gone, dead: dead}
	d.frozen = before
	d.recount()
}

// setProperties sets what came and what was asked for. What does not fit is
// left out; of refquota that is known when all has come.
func (x *reception) setProperties(t *target, d *dataset, late bool) {
	unfit := func(s setting) bool {
		n := s.number()
		if late != (s.id == propRefquota) || n == 0 || x.m.fits(d, s.id, n) {
			return false
		}
		text := "size is less than current used or reserved space"
		if s.id == propReservation || s.id == propRefreservation {
			text = "size is greater than available space"
		}
		x.warn("cannot receive %s property on %s: %s", x.m.names.name(s.id), t.name, text)
		return true
	}
	t.received, t.local = slices.DeleteFunc(t.received, unfit), slices.DeleteFunc(t.local, unfit)
	if t.withProps {
		d.receive(t.received)
	}
	for _, id := range t.hidden {
		d.unsetLocal(id, false)
	}
	for _, s := range t.local {
		if !late && s.id == propRefquota {
			continue
		}
		d.setLocal(s.id, s.value)
	}
}

func (m *Machine) receiveSnapProps(s *snapshot, list []zfs.Property) {
	var settings []setting
	for _, p := range list {
		if setting, ok := m.receivable(p); ok {
			settings = append(settings, setting)
		}
	}
	s.more().received.replace(settings)
}
