package fake

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"obuilder.org/obuilder/zfs"
)

func sendAll(t testing.TB, m *Machine, to string, opts SendOptions) []byte {
	t.Helper()
	var b bytes.Buffer
	must(t, m.Send(ctx, snap(to), opts, &b))
	return b.Bytes()
}

func receive(m *Machine, dest string, opts ReceiveOptions, stream []byte) error {
	return m.Receive(ctx, dest, opts, bytes.NewReader(stream))
}

// filesIn gives all that can be seen of contents, by path: kinds, permissions,
// owners, times, links, targets and data.
func filesIn(c *contents) map[string]string {
	files := map[string]string{}
	first := map[uint64]string{}
	var visit func(dir uint64, at string)
	visit = func(dir uint64, at string) {
		c.names(dir, func(name string, obj uint64) bool {
			name = path.Join(at, name)
			ino := c.inode(obj)
			if first[obj] == "" {
				first[obj] = name
			}
			data := make([]byte, ino.size)
			data = data[:ino.read(data, 0)]
			files[name] = fmt.Sprintf("%v %d:%d %d links to %s, %d, %s, %x", ino.mode, ino.uid, ino.gid, ino.nlink, first[obj], ino.mtime, ino.target, sha256.Sum256(data))
			if ino.mode.IsDir() {
				visit(obj, name)
			}
			return true
		})
	}
	visit(rootObj, "/")
	root := c.inode(rootObj)
	files["/"] = fmt.Sprintf("%v %d:%d", root.mode, root.uid, root.gid)
	if root.born != 0 {
		files["/"] += fmt.Sprint(root.mtime)
	}
	return files
}

// sameSnap compares a snapshot with one that was received.
func sameSnap(t *testing.T, what string, sent, got *snapshot) {
	t.Helper()
	if got == nil {
		t.Fatalf("%s: %s did not come", what, sent.fullName())
	}
	if sent.guid != got.guid || sent.created != got.created {
		t.Errorf("%s: %s came as another", what, sent.fullName())
	}
	want, have := filesIn(&sent.contents), filesIn(&got.contents)
	if sent.inode(rootObj).born == 0 { // its time is that of the dataset
		have["/"] = want["/"]
	}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("%s: %s (-) and what came (+):\n%s", what, sent.fullName(), diff)
	}
}

// history makes datasets with files, snapshots and clones.
func history(r *rand.Rand, m *Machine, n int) (did []string) {
	for _, mv := range randomMoves(r, n) {
		_ = mv.run(m)
		did = append(did, mv.text)
		for range r.IntN(3) {
			did = append(did, fileMove(r, m))
		}
	}
	return did
}

func newPond(t testing.TB) *Machine {
	return New(Pool("pond", 64<<30, "/pond"), Seed(2))
}

// Each snapshot of a random history comes as it is: in full, and as the
// difference to the one before, or to all before.
func TestSendRandom(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 7))
		m, pond := newTank(t), newPond(t)
		did := history(r, m, 80)
		n := 0
		for _, d := range m.pools[0].root.subtree(nil) {
			for i, s := range d.snaps {
				n++
				name := fmt.Sprintf("pond/full%d", n)
				must(t, receive(pond, name, ReceiveOptions{}, sendAll(t, m, s.fullName(), SendOptions{})))
				sameSnap(t, "full", s, pond.lookupSnap(snap(name+"@"+s.name)))
				if i == 0 {
					continue
				}
				from := d.snaps[r.IntN(i)]
				name = fmt.Sprintf("pond/inc%d", n)
				must(t, receive(pond, name, ReceiveOptions{}, sendAll(t, m, from.fullName(), SendOptions{})))
				opts := SendOptions{From: snap(from.fullName()), All: r.IntN(2) == 0}
				must(t, receive(pond, name, ReceiveOptions{}, sendAll(t, m, s.fullName(), opts)))
				sameSnap(t, "difference", s, pond.lookupSnap(snap(name+"@"+s.name)))
				if opts.All {
					for _, between := range d.snaps[slices.Index(d.snaps, from):i] {
						sameSnap(t, "between", between, pond.lookupSnap(snap(name+"@"+between.name)))
					}
				}
			}
			if o := d.origin; o != nil && len(d.snaps) > 0 {
				s := d.snaps[len(d.snaps)-1]
				name := fmt.Sprintf("pond/clone%d", n)
				must(t, receive(pond, name+"-origin", ReceiveOptions{}, sendAll(t, m, o.fullName(), SendOptions{})))
				must(t, receive(pond, name, ReceiveOptions{}, sendAll(t, m, s.fullName(), SendOptions{From: snap(o.fullName())})))
				got := pond.lookupSnap(snap(name + "@" + s.name))
				sameSnap(t, "clone", s, got)
				if got.ds.origin == nil || got.ds.origin.guid != o.guid {
					t.Errorf("%s has another origin", name)
				}
			}
		}
		checkSpace(t, pond)
		checkSpace(t, m)
		if t.Failed() {
			t.Fatalf("seed %d:\n%s", seed, strings.Join(did, "\n"))
		}
	}
}

// A random history is replicated, and then what is done to it afterwards, which
// includes renames, promotions and destruction.
func TestReplicateRandom(t *testing.T) {
	whole, sent := 0, 0
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 8))
		m, pond := newTank(t), newPond(t)
		did := history(r, m, 40)
		previous := ""
		for round := range 4 {
			tag := fmt.Sprint("round", round)
			must(t, m.Snapshot(ctx, true, snap("tank@"+tag)))
			opts := SendOptions{Replicate: true}
			since := uint64(0)
			if previous != "" {
				opts.From = snap("tank@" + previous)
				opts.All = r.IntN(2) == 0
				since = m.lookupSnap(opts.From).txg
			}
			var stream bytes.Buffer
			err := m.Send(ctx, snap("tank@"+tag), opts, &stream)
			if err == nil {
				err = receive(pond, "pond/all", ReceiveOptions{Force: true, NoMount: r.IntN(2) == 0}, stream.Bytes())
			}
			did = append(did, fmt.Sprintf("-- %s: %v", tag, err))
			checkSpace(t, pond)
			checkSpace(t, m)
			if sent++; err == nil {
				whole++
				for _, d := range m.pools[0].root.subtree(nil) {
					name := "pond/all" + strings.TrimPrefix(d.fullName(), "tank")
					got := pond.lookup(name)
					if got == nil {
						t.Errorf("%s: %s did not come", tag, name)
						continue
					}
					for _, s := range d.snaps {
						if i := got.snapIndex(s.name); i >= 0 {
							sameSnap(t, tag, s, got.snaps[i])
						} else if s.name == tag || previous == "" || opts.All && s.txg > since {
							t.Errorf("%s: %s@%s did not come", tag, name, s.name)
						}
					}
					if (d.origin == nil) != (got.origin == nil) || d.origin != nil && d.origin.guid != got.origin.guid {
						t.Errorf("%s: %s has another origin", tag, name)
					}
				}
			}
			if t.Failed() {
				t.Fatalf("seed %d:\n%s", seed, strings.Join(did, "\n"))
			}
			if err != nil {
				break // as with zfs, it does not go on from there
			}
			previous = tag
			did = append(did, history(r, m, 15)...)
			if m.lookupSnap(snap("tank@"+previous)) == nil {
				break
			}
		}
	}
	t.Logf("%d of %d came whole", whole, sent)
	if whole < sent*2/3 {
		t.Errorf("%d of %d came whole", whole, sent)
	}
}

// smallHistory makes a dataset whose stream has records of every kind.
func smallHistory(t testing.TB) (m *Machine, full, difference []byte) {
	m = newTank(t)
	create(t, m, "tank/a", prop("a:b", "1"))
	f := m.Files().(*Files)
	at := tank + "/a/"
	must(t, f.MkdirAll(at+"dir/empty", 0o700))
	write(t, f, at+"dir/file", strings.Repeat("data", 50_000))
	write(t, f, at+"gone", "x")
	must(t, f.Link(at+"dir/file", at+"link"))
	must(t, f.Symlink("dir/file", at+"symlink"))
	must(t, m.Snapshot(ctx, true, snap("tank/a@1")))
	must(t, f.Remove(at+"gone"))
	write(t, f, at+"new", "y")
	h, err := f.OpenFile(at+"dir/file", os.O_WRONLY, 0)
	must(t, err)
	must(t, h.(interface{ Truncate(int64) error }).Truncate(100))
	must(t, h.(interface{ Truncate(int64) error }).Truncate(150_000))
	must(t, h.Close())
	must(t, m.Snapshot(ctx, true, snap("tank/a@2")))
	return m, sendAll(t, m, "tank/a@1", SendOptions{}), sendAll(t, m, "tank/a@2", SendOptions{Replicate: true, From: snap("tank/a@1")})
}

// What does not come whole, or not as it was sent, leaves nothing behind.
func TestDamagedStreams(t *testing.T) {
	_, full, difference := smallHistory(t)
	r := rand.New(rand.NewPCG(1, 1))
	step := func(n int) int { return 1 + r.IntN(max(n/150, 1)) }
	for _, s := range []struct {
		name   string
		stream []byte
		before []byte
	}{{"full", full, nil}, {"difference", difference, full}} {
		t.Run(s.name, func(t *testing.T) {
			fresh := func() (*Machine, view) {
				pond := newPond(t)
				if s.before != nil {
					must(t, receive(pond, "pond/a", ReceiveOptions{}, s.before))
				}
				return pond, viewOf(t, pond, true)
			}
			tried := func(stream []byte, what string) {
				t.Helper()
				pond, before := fresh()
				err := receive(pond, "pond/a", ReceiveOptions{}, stream)
				if err == nil {
					t.Errorf("%s: it was received", what)
				}
				if diff := cmp.Diff(before, viewOf(t, pond, true)); diff != "" {
					if pond.lookupSnap(snap("pond/a@2")) == nil || len(stream) < len(s.stream)-streamHeader { // else only the end of the package is missing
						t.Errorf("%s: %v: %s", what, err, diff)
					}
				}
				checkSpace(t, pond)
			}
			for n := 0; n < len(s.stream); n += step(len(s.stream)) {
				tried(s.stream[:n], fmt.Sprint("cut at ", n))
				b := slices.Clone(s.stream)
				b[n] ^= 1 << r.IntN(8)
				if n < len(s.stream)-streamHeader || s.before == nil {
					tried(b, fmt.Sprint("changed at ", n))
				}
			}
			pond, _ := fresh()
			must(t, receive(pond, "pond/a", ReceiveOptions{}, s.stream))
		})
	}
}

// Streams are read and written in pieces, and one machine can do both at once.
func TestStreamsInPieces(t *testing.T) {
	m := newTank(t)
	create(t, m, "tank/a")
	write(t, m.Files(), tank+"/a/f", strings.Repeat("0123456789abcdef", 1<<18))
	must(t, m.Snapshot(ctx, false, snap("tank/a@1")))
	r, w := io.Pipe()
	failed := make(chan error)
	go func() {
		largest := &largestWrite{w: w}
		err := m.Send(ctx, snap("tank/a@1"), SendOptions{}, largest)
		if largest.n > maxRecord+16 {
			err = fmt.Errorf("%d bytes at once", largest.n)
		}
		_ = w.CloseWithError(err)
		failed <- err
	}()
	must(t, m.Receive(ctx, "tank/b", ReceiveOptions{}, r))
	must(t, <-failed)
	sameSnap(t, "piped", m.lookupSnap(snap("tank/a@1")), m.lookupSnap(snap("tank/b@1")))
	checkSpace(t, m)
}

type largestWrite struct {
	w io.Writer
	n int
}

func (l *largestWrite) Write(p []byte) (int, error) { l.n = max(l.n, len(p)); return l.w.Write(p) }

// A header that promises much takes up no more than what comes.
func TestStreamPromises(t *testing.T) {
	h := streamHead{kind: streamPackage, name: "tank/a@1", list: maxList}
	if n := testing.AllocsPerRun(5, func() {
		if receive(newPond(t), "pond/a", ReceiveOptions{}, h.encode()) == nil {
			t.Error("it was received")
		}
	}); n > 5000 {
		t.Error(n)
	}
	h.list++
	if err := receive(newPond(t), "pond/a", ReceiveOptions{}, h.encode()); err == nil || !strings.Contains(err.Error(), "nvlist too large") {
		t.Error(err)
	}
}

// What is written to files is what comes, through the files of the machine.
func TestReceivedFiles(t *testing.T) {
	m, full, difference := smallHistory(t)
	pond := newPond(t)
	must(t, receive(pond, "pond/a", ReceiveOptions{}, full))
	must(t, receive(pond, "pond/a", ReceiveOptions{}, difference))
	list := func(m *Machine, at string) map[string]string {
		tree, err := m.Files().Tree(at)
		must(t, err)
		defer tree.Close()
		files := map[string]string{}
		must(t, fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			data := []byte{}
			if d.Type().IsRegular() {
				if data, err = fs.ReadFile(tree, name); err != nil {
					return err
				}
			}
			files[name] = fmt.Sprintf("%v %v %v %x", info.Mode(), info.ModTime(), info.Sys(), sha256.Sum256(data))
			return nil
		}))
		return files
	}
	for _, at := range []string{"", "/.zfs/snapshot/1"} {
		if diff := cmp.Diff(list(m, tank+"/a"+at), list(pond, "/pond/a"+at)); diff != "" {
			t.Errorf("sent (-) and received (+):\n%s", diff)
		}
	}
	if v, err := pond.Get(ctx, ds("pond/a"), "a:b"); err != nil || v[0].Value != "1" || v[0].Source != "received" {
		t.Error(v, err)
	}
}

// A machine in a directory says that it does neither.
func TestStreamsInDirectory(t *testing.T) {
	m := openDir(t, t.TempDir())
	defer m.Close()
	create(t, m, "tank/a")
	must(t, m.Snapshot(ctx, false, snap("tank/a@1")))
	for what, err := range map[string]error{
		"send":    m.Send(ctx, snap("tank/a@1"), SendOptions{}, io.Discard),
		"receive": receive(m, "tank/b", ReceiveOptions{}, nil),
	} {
		if !zfs.IsKind(err, zfs.Unsupported) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// Records that no machine writes are refused, or do no harm to what is there.
func FuzzRecords(f *testing.F) {
	m, full, _ := smallHistory(f)
	base := m.lookupSnap(snap("tank/a@1"))
	before := filesIn(&base.contents)
	var seed []byte
	h, err := readHead(bytes.NewReader(full))
	must(f, err)
	in := newRecordReader(ctx, bytes.NewReader(full[streamHeader:]), h)
	for {
		kind, fields, err := in.next()
		must(f, err)
		if kind == recEnd {
			break
		}
		n := min(len(fields), 100)
		seed = append(append(seed, kind, byte(n)), fields[:n]...)
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, data []byte) {
		birth := uint64(1000)
		r := newReceiver(base.contents, base.txg, func() (uint64, uint64) { birth += 10; return birth, birth + 10 })
		r.next += 3
		for len(data) >= 2 {
			n := min(int(data[1]), len(data)-2)
			if i, w := binary.Uvarint(data[2 : 2+n]); data[0] == recChunk && (w <= 0 || i > 1000) {
				break // takes long
			}
			if !r.apply(data[0], data[2:2+n]) {
				break
			}
			data = data[2+n:]
		}
		if diff := cmp.Diff(before, filesIn(&base.contents)); diff != "" {
			t.Fatal(diff)
		}
	})
}

// benchmarkStream makes a snapshot of 64 MiB.
func benchmarkStream(b *testing.B) *Machine {
	m := newTank(b)
	create(b, m, "tank/a")
	write(b, m.Files(), tank+"/a/f", strings.Repeat("0123456789abcdef", 1<<22))
	must(b, m.Snapshot(ctx, true, snap("tank/a@1")))
	b.SetBytes(64 << 20)
	b.ReportAllocs()
	return m
}

func BenchmarkSend(b *testing.B) {
	m := benchmarkStream(b)
	for b.Loop() {
		must(b, m.Send(ctx, snap("tank/a@1"), SendOptions{}, io.Discard))
	}
}

func BenchmarkReceive(b *testing.B) {
	stream := sendAll(b, benchmarkStream(b), "tank/a@1", SendOptions{})
	for b.Loop() {
		must(b, receive(newPond(b), "pond/a", ReceiveOptions{}, stream))
	}
}
