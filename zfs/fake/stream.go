package fake

import (
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"io/fs"

	"obuilder.org/obuilder/zfs"
)

// A stream is what one machine sends and another receives. It is read as it
// comes and never held as a whole. It begins with a header, of streamHeader
// bytes and little-endian:
//
//	0  "obzfs", two zeros, the version of the format
//	8  what follows, one of the stream constants
//	9  flags
//	10 length of the name of the snapshot
//	12 its guid
//	20 that of the snapshot that it is the difference to, 0 for none
//	28 when it was taken, in seconds as Unix has them
//	36 how many objects have been made in it
//	44 the length of the list of a package
//	48 the name
//	308 CRC-32C of the bytes before
//
// After the header of a snapshot come its records: a byte that says what it
// is, the length of what follows in four bytes, that, and the CRC-32C of all of
// the snapshot until there. A package is a header, a list of what is in it with
// its CRC-32C, any number of snapshots, and a header that says that this is all.
const (
	streamHeader  = 312
	streamVersion = 1

	maxRecord = chunkSize + 1<<10
	maxList   = 64 << 20 // of a package
	maxChunks = 1 << 20  // of a file
)

const (
	streamPackage  = 'P'
	streamSnapshot = 'S'
	streamEnd      = 'E'
)

const flagClone = 1 // to the snapshot of another file system

const (
	recObject   = 'O' // number, mode, owner, group, links, time, size, chunks, target
	recChunk    = 'C' // which of the object before, its data
	recName     = 'N' // directory, object, kind, the name
	recNoObject = 'o' // number
	recNoName   = 'n' // directory, the name
	recEnd      = 'e'
)

type streamHead struct {
	kind           byte
	flags          byte
	name           string
	guid, fromGUID uint64
	created        int64
	next           uint64
	list           uint32
}

var streamMagic = [8]byte{'o', 'b', 'z', 'f', 's', 0, 0, streamVersion}

func (h *streamHead) encode() []byte {
	b := make([]byte, streamHeader)
	copy(b, streamMagic[:])
	b[8], b[9] = h.kind, h.flags
	le := binary.LittleEndian
	le.PutUint16(b[10:], uint16(len(h.name)))
	le.PutUint64(b[12:], h.guid)
	le.PutUint64(b[20:], h.fromGUID)
	le.PutUint64(b[28:], uint64(h.created))
	le.PutUint64(b[36:], h.next)
	le.PutUint32(b[44:], h.list)
	copy(b[48:308], h.name)
	le.PutUint32(b[308:], crc32.Checksum(b[:308], castagnoli))
	return b
}

var (
	errMagic     = errors.New("invalid stream (bad magic number)")
	errHeader    = errors.New("incorrect header checksum")
	errVersion   = errors.New("stream has unsupported feature")
	errMalformed = errors.New("invalid backup stream")
	errCut       = errors.New("incomplete stream")
	errSum       = errors.New("checksum mismatch")
	errRead      = errors.New("failed to read from stream")
)

// readHead reads a header. The errors are those above.
func readHead(r io.Reader) (*streamHead, error) {
	var b [streamHeader]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return nil, errRead
	}
	le := binary.LittleEndian
	switch {
	case [7]byte(b[:]) != [7]byte(streamMagic[:]):
		return nil, errMagic
	case b[7] != streamVersion:
		return nil, errVersion
	case le.Uint32(b[308:]) != crc32.Checksum(b[:308], castagnoli):
		return nil, errHeader
	}
	n := le.Uint16(b[10:])
	if n > 308-48 {
		return nil, errMalformed
	}
	return &streamHead{kind: b[8], flags: b[9], name: string(b[48 : 48+n]), guid: le.Uint64(b[12:]), fromGUID: le.Uint64(b[20:]),
		created: int64(le.Uint64(b[28:])), next: le.Uint64(b[36:]), list: le.Uint32(b[44:])}, nil
}

// A recordWriter writes the records of a snapshot.
type recordWriter struct {
	ctx context.Context
	w   io.Writer
	sum uint32
	buf []byte
	err error
}

func (r *recordWriter) head(h *streamHead) {
	b := h.encode()
	r.sum = crc32.Checksum(b, castagnoli)
	r.write(b)
}

func (r *recordWriter) write(b []byte) {
	if r.err == nil {
		r.err = r.ctx.Err()
	}
	if r.err == nil {
		_, r.err = r.w.Write(b)
	}
}

// begin gives the buffer for the fields of a record, which end writes.
func (r *recordWriter) begin(kind byte) []byte { return append(r.buf[:0], kind, 0, 0, 0, 0) }

func (r *recordWriter) end(b []byte) {
	binary.LittleEndian.PutUint32(b[1:], uint32(len(b)-5))
	r.sum = crc32.Update(r.sum, castagnoli, b)
	b = binary.LittleEndian.AppendUint32(b, r.sum)
	r.buf = b
	r.write(b)
}

// A recordReader reads them.
type recordReader struct {
	ctx context.Context
	r   io.Reader
	sum uint32
	buf []byte
}

func newRecordReader(ctx context.Context, r io.Reader, h *streamHead) *recordReader {
	return &recordReader{ctx: ctx, r: r, sum: crc32.Checksum(h.encode(), castagnoli), buf: make([]byte, maxRecord+4)}
}

// next gives a record, which is good until the next one is read.
func (r *recordReader) next() (kind byte, fields []byte, err error) {
	if err := r.ctx.Err(); err != nil {
		return 0, nil, err
	}
	var head [5]byte
	if _, err := io.ReadFull(r.r, head[:]); err != nil {
		return 0, nil, errCut
	}
	n := binary.LittleEndian.Uint32(head[1:])
	if n > maxRecord { // none is; the sum would say so
		return 0, nil, errSum
	}
	b := r.buf[:n+4]
	if _, err := io.ReadFull(r.r, b); err != nil {
		return 0, nil, errCut
	}
	r.sum = crc32.Update(crc32.Update(r.sum, castagnoli, head[:]), castagnoli, b[:n])
	if binary.LittleEndian.Uint32(b[n:]) != r.sum {
		return 0, nil, errSum
	}
	return head[0], b[:n], nil
}

// skip reads the records of a snapshot without looking at them, as a dry run
// does: failed is how often there was nothing to be read where there had to be.
func (r *recordReader) skip() (failed int) {
	for {
		var head [5]byte
		if _, err := io.ReadFull(r.r, head[:]); err != nil {
			return failed + 1
		}
		n := int64(binary.LittleEndian.Uint32(head[1:])) + 4
		if got, _ := io.CopyN(io.Discard, r.r, n); got < n {
			failed++
		} else if head[0] == recEnd {
			return failed
		}
	}
}

// skipRead is skip of what is there already. As the kernel has then read one
// record, which is the last one where nothing was changed, what comes next is
// skipped as well.
func (r *recordReader) skipRead() (failed int) {
	switch kind, _, err := r.next(); {
	case err != nil:
		return 1
	case kind != recEnd:
		return r.skip()
	}
	h, err := readHead(r.r)
	switch {
	case err != nil:
		return 1
	case h.kind == streamSnapshot:
		return r.skip()
	}
	return 0
}

// A sentSnap is a snapshot that is to be sent, and what it is the difference to.
type sentSnap struct {
	name    string
	guid    uint64
	created int64
	root    int64 // the time of the top directory as long as nothing is in it
	c       contents

	from     *node
	fromTxg  uint64
	fromGUID uint64
	clone    bool
}

// write writes the records of s.
func (s *sentSnap) write(ctx context.Context, w io.Writer) error {
	h := streamHead{kind: streamSnapshot, name: s.name, guid: s.guid, fromGUID: s.fromGUID, created: s.created, next: s.c.next}
	if s.clone {
		h.flags = flagClone
	}
	r := &recordWriter{ctx: ctx, w: w}
	r.head(&h)
	if s.fromGUID == 0 && s.c.tree.get(key{obj: rootObj}) == nil {
		root := freshRoot
		root.mtime = s.root
		r.object(rootObj, &root, 0)
	}
	shared := make(map[*node]bool)
	s.c.tree.since(s.fromTxg, shared, func(it *item) {
		old := s.from.get(it.key)
		switch {
		case it.ino == nil:
			if old == nil || old.obj != it.obj || old.kind != it.kind {
				r.name(it)
			}
		case old == nil:
			r.object(it.key.obj, it.ino, 0)
		case old.ino != it.ino:
			r.object(it.key.obj, it.ino, s.fromTxg)
		}
	})
	s.from.gone(shared, func(it *item) {
		if s.c.tree.get(it.key) != nil {
			return
		}
		if it.ino != nil {
			r.end(binary.AppendUvarint(r.begin(recNoObject), it.key.obj))
			return
		}
		r.end(append(binary.AppendUvarint(r.begin(recNoName), it.key.obj), it.key.name...))
	})
	r.end(r.begin(recEnd))
	return r.err
}

// since calls f for what is in nodes that were made after txg, and adds the
// first of those that were not to shared.
func (n *node) since(txg uint64, shared map[*node]bool, f func(*item)) {
	switch {
	case n == nil:
	case n.born <= txg:
		shared[n] = true
	case n.kids == nil:
		for i := range n.items {
			f(&n.items[i])
		}
	default:
		for _, kid := range n.kids {
			kid.since(txg, shared, f)
		}
	}
}

// gone calls f for what is in nodes that are not shared.
func (n *node) gone(shared map[*node]bool, f func(*item)) {
	switch {
	case n == nil, shared[n]:
	case n.kids == nil:
		for i := range n.items {
			f(&n.items[i])
		}
	default:
		for _, kid := range n.kids {
			kid.gone(shared, f)
		}
	}
}

func (r *recordWriter) object(obj uint64, ino *inode, since uint64) {
	if len(ino.data) > maxChunks && r.err == nil {
		r.err = as(failf(zfs.Unsupported, notModelled+"sending a file of more than %d GiB", maxChunks*chunkSize>>30), []string{"zfs", "send"})
	}
	b := binary.AppendUvarint(r.begin(recObject), obj)
	b = binary.AppendUvarint(b, uint64(ino.mode))
	b = binary.AppendVarint(b, int64(ino.uid))
	b = binary.AppendVarint(b, int64(ino.gid))
	b = binary.AppendVarint(b, int64(ino.nlink))
	b = binary.AppendVarint(b, ino.mtime)
	b = binary.AppendVarint(b, ino.size)
	b = binary.AppendUvarint(b, uint64(len(ino.data)))
	r.end(append(b, ino.target...))
	for i := range ino.data {
		c := &ino.data[i]
		if c.born > since && (since > 0 || len(c.data) > 0) && r.err == nil {
			r.end(append(binary.AppendUvarint(r.begin(recChunk), uint64(i)), c.data...))
		}
	}
}

func (r *recordWriter) name(it *item) {
	b := binary.AppendUvarint(r.begin(recName), it.key.obj)
	b = binary.AppendUvarint(b, it.obj)
	b = binary.AppendUvarint(b, uint64(it.kind))
	r.end(append(b, it.key.name...))
}

// A receiver makes the contents of a snapshot from its records. It works on
// what it is the difference to without changing that.
type receiver struct {
	volume
	births  func() (from, until uint64) // numbers of transactions in which nothing else is born
	birth   uint64
	until   uint64
	base    uint64   // of the transaction of what it is the difference to
	grown   uint64   // bytes that are new
	lost    deadList // bytes that are in that and not in this
	limit   uint64   // what there is room for
	quota   bool     // which a quota says
	first   uint64   // birth
	current uint64   // the object whose chunks follow, 0 for none
	chunks  uint64   // how many it has
}

var errFull = errors.New("no more room")

func newReceiver(base contents, txg uint64, births func() (from, until uint64)) *receiver {
	r := &receiver{births: births, base: txg}
	r.volume = volume{contents: contents{tree: base.tree, next: base.next}, now: &r.birth, frozen: txg}
	r.bear()
	r.first = r.birth
	return r
}

// bear goes on to the next birth: no two objects are of one.
func (r *receiver) bear() {
	if r.birth++; r.birth >= r.until {
		r.birth, r.until = r.births()
	}
}

func (r *receiver) born(bytes uint64) { r.grown += bytes }

func (r *receiver) killed(birth, bytes uint64) {
	switch {
	case bytes == 0:
	case birth > r.base:
		r.grown -= bytes
	default:
		r.lost.add(birth, bytes)
	}
}

// take reads all records.
func (r *receiver) take(in *recordReader) error {
	for {
		kind, fields, err := in.next()
		switch {
		case err != nil:
			return err
		case kind == recEnd:
			return nil
		case !r.apply(kind, fields):
			return errMalformed
		case r.grown > r.limit:
			return errFull
		}
	}
}

func (r *receiver) apply(kind byte, fields []byte) bool {
	in := reader{data: string(fields)}
	if kind == recChunk {
		in.data = string(fields[:min(len(fields), binary.MaxVarintLen64)])
	}
	obj := in.uvarint() // or a directory, or a chunk
	if in.bad {
		return false
	}
	switch kind {
	case recObject:
		return r.object(obj, &in)
	case recChunk:
		_, n := binary.Uvarint(fields)
		return r.chunk(obj, fields[n:])
	case recName:
		it := item{key: key{obj: obj}, obj: in.uvarint(), kind: fs.FileMode(in.uvarint())}
		it.key.name = in.data
		if in.bad || !validEntry(it.key.name) || it.obj <= rootObj {
			return false
		}
		r.tree = r.cow().put(r.tree, it)
	case recNoObject:
		ino := r.inode(obj)
		if obj == rootObj || ino == nil {
			return false
		}
		for i := range ino.data {
			r.killed(ino.data[i].born, ino.data[i].charge())
		}
		r.killed(ino.made, objectSize)
		r.tree = r.cow().del(r.tree, key{obj: obj})
		r.current = 0
	case recNoName:
		k := key{obj, in.data}
		if k.name == "" || r.tree.get(k) == nil {
			return false
		}
		r.tree = r.cow().del(r.tree, k)
	default:
		return false
	}
	return true
}

func validEntry(name string) bool {
	for i := range len(name) {
		if name[i] == '/' || name[i] == 0 {
			return false
		}
	}
	return name != "" && name != "." && name != ".." && len(name) <= 255
}

func (r *receiver) object(obj uint64, in *reader) bool {
	n := inode{mode: fs.FileMode(in.uvarint()), uid: int32(in.varint()), gid: int32(in.varint()), nlink: int32(in.varint()), mtime: in.varint(), size: in.varint()}
	chunks := in.uvarint()
	if in.bad || obj < rootObj || n.size < 0 || chunks > maxChunks || chunks > (uint64(n.size)+chunkSize-1)/chunkSize {
		return false
	}
	if obj == rootObj && !n.mode.IsDir() || obj > r.next+rootObj && obj != rootObj {
		return false
	}
	n.target = in.data
	r.bear()
	n.born, n.made = r.birth, r.birth
	if it := r.tree.get(key{obj: obj}); it != nil {
		n.made = it.ino.made
		keep := min(int(chunks), len(it.ino.data))
		for _, c := range it.ino.data[keep:] {
			r.killed(c.born, c.charge())
		}
		n.data = append(make([]chunk, 0, keep), it.ino.data[:keep]...)
	} else if obj != rootObj {
		r.born(objectSize)
	}
	r.tree = r.cow().put(r.tree, item{key: key{obj: obj}, ino: &n})
	r.current, r.chunks = obj, chunks
	return true
}

func (r *receiver) chunk(i uint64, data []byte) bool {
	if r.current == 0 || len(data) > chunkSize {
		return false
	}
	ino := r.inode(r.current)
	if i >= r.chunks {
		return false
	}
	for uint64(len(ino.data)) <= i {
		ino.data = append(ino.data, chunk{born: r.birth})
	}
	c := &ino.data[i]
	r.killed(c.born, c.charge())
	*c = chunk{born: r.birth}
	if len(data) > 0 {
		c.data = append(make([]byte, 0, len(data)), data...)
	}
	r.born(c.charge())
	return true
}
