package engine_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"obuilder.org/obuilder/engine"
	"obuilder.org/obuilder/index"
	"obuilder.org/obuilder/spec"
	"obuilder.org/obuilder/zfs"
	"obuilder.org/obuilder/zfs/fault"
)

// A damaged store is one in which everything is wrong that fsck knows of,
// beside results that are good.
type damaged struct {
	*world
	ids  []string          // the good ones
	want map[string]string // what is to be found, by kind and name
}

func result(id string) zfs.Dataset { return root.MustChild("result").MustChild(id) }

func damage(t *testing.T, mode engine.SnapshotMode) *damaged {
	t.Helper()
	ctx := context.Background()
	w := newWorld(t, mode, "busybox", "other", "old")
	w.script = failing
	d := &damaged{w, nil, map[string]string{}}
	e := w.open()
	d.ids = w.lineageOf(e, `((from busybox) (run (cache (c (target /var/cache))) (shell a)) (run (shell b)) (run (shell c)))`)
	broken := w.lineageOf(e, `((from busybox) (run (shell x)) (run (shell broken)) (run (shell on-broken)))`)
	rebuilt := w.lineageOf(e, `((from other) (run (shell a)) (run (shell b)))`)
	gone := w.lineageOf(e, `((from old) (run (shell a)))`)
	w.must(e.Close())
	found := func(kind engine.FindingKind, name string) { d.want[string(kind)+" "+name] = "" }
	none := zfs.Property{Name: "mountpoint", Value: "none"}
	fs, ix := w.machine, w.index

	// A step that another implementation was at when it was killed.
	input := spec.RunInput{Base: baseID, Workdir: "/", Cmd: "killed", Shell: []string{"/usr/bin/env", "bash", "-c"}}
	killed := result(input.ID())
	w.must(fs.Clone(ctx, result(baseID).MustSnapshot("snap"), killed))
	w.must(fs.Clone(ctx, result(baseID).MustChild("home").MustSnapshot("snap"), killed.MustChild("home"),
		zfs.Property{Name: "mountpoint", Value: "/Users/mac1000"}))
	found(engine.FoundUnfinished, killed.String())
	// A result without its brew, and one that was built on it.
	w.must(fs.Destroy(ctx, result(broken[2]).MustChild("brew"), zfs.DestroyMode{Dependents: true}))
	found(engine.FoundStale, result(broken[2]).String())
	found(engine.FoundStale, result(broken[3]).String())
	// An image that was rebuilt, and one that is gone.
	image := root.MustChild("base-image").MustChild("other")
	w.must(fs.Destroy(ctx, image, zfs.DestroyMode{Dependents: true, Force: true}))
	w.image("other")
	w.must(fs.Rename(ctx, root.MustChild("base-image").MustChild("old"), root.MustChild("base-image").MustChild("older"), zfs.RenameOptions{}))
	for _, id := range append(slices.Clone(rebuilt), gone...) {
		found(engine.FoundStale, result(id).String())
	}
	// What a prune and a replacement have left, the latter with a clone.
	pruned := root.MustChild("pruned-" + strings.Repeat("a", 64))
	w.must(fs.Create(ctx, pruned, zfs.CreateOptions{}))
	found(engine.FoundLeftover, pruned.String())
	aside := root.MustChild("stale-" + strings.Repeat("b", 64) + "-0")
	w.must(fs.Create(ctx, aside, zfs.CreateOptions{}))
	w.must(fs.Snapshot(ctx, true, aside.MustSnapshot("snap")))
	found(engine.FoundLeftover, aside.String())
	onAside := result(strings.Repeat("c", 64))
	w.must(fs.Clone(ctx, aside.MustSnapshot("snap"), onAside))
	w.must(fs.Snapshot(ctx, true, onAside.MustSnapshot("snap")))
	found(engine.FoundStale, onAside.String())
	// Mounts, caches.
	w.must(fs.Set(ctx, result(d.ids[1]).MustChild("brew"), zfs.Property{Name: "mountpoint", Value: "/usr/local"}))
	found(engine.FoundMounted, result(d.ids[1]).MustChild("brew").String())
	main := root.MustChild("cache").MustChild("c-c")
	tmp := root.MustChild("cache-tmp").MustChild("7-c-c")
	w.must(fs.Clone(ctx, main.MustSnapshot("snap"), tmp, none))
	found(engine.FoundLeftover, tmp.String())
	w.must(fs.Snapshot(ctx, false, main.MustSnapshot("old-1-2")))
	found(engine.FoundLeftover, main.String()+"@old-1-2")
	// The index: a row is missing, one has a wrong parent, one no result.
	c, err := ix.Get(ctx, d.ids[3])
	w.must(err)
	w.must(ix.Delete(ctx, c.ID))
	found(engine.FoundUnindexed, c.ID)
	b, err := ix.Get(ctx, d.ids[2])
	w.must(err)
	lost := index.Result{ID: strings.Repeat("d", 64), Parent: baseID, Created: b.Created, Used: b.Used}
	w.must(ix.Add(ctx, lost))
	found(engine.FoundRow, lost.ID)
	b.Parent = lost.ID
	w.must(ix.Add(ctx, b))
	found(engine.FoundParent, b.ID)
	// A process that was stopped.
	f, err := fs.Files().OpenFile(poolMount+"/state/running/step-"+killed.Base(), os.O_CREATE|os.O_WRONLY, 0o600)
	w.must(err)
	w.must(f.Close())
	found(engine.FoundStopped, "step-"+killed.Base())
	// What is somebody else's.
	for _, name := range []string{"mine", "result/notes", "cache/c-mine"} {
		ds := zfs.MustDataset(poolName + "/" + name)
		w.must(fs.Create(ctx, ds, zfs.CreateOptions{}))
		w.must(fs.Snapshot(ctx, true, ds.MustSnapshot("snap")))
	}
	return d
}

func (d *damaged) inspect(interceptors ...fault.Interceptor) (*engine.Engine, error) {
	o := d.options(interceptors...)
	o.Inspect = true
	return engine.Open(context.Background(), o)
}

// fsck opens the store, looks at it and closes it.
func (d *damaged) fsck(repair bool, interceptors ...fault.Interceptor) (found []engine.Finding, err error) {
	e, err := d.inspect(interceptors...)
	if err != nil {
		return nil, err
	}
	err = e.Fsck(context.Background(), repair, func(f engine.Finding) { found = append(found, f) })
	return found, errors.Join(err, e.Close())
}

// kept are what nothing may touch: images, caches, good results, and what is
// somebody else's, with their guids.
func (d *damaged) kept() []string {
	d.t.Helper()
	rows, err := d.machine.List(context.Background(), zfs.ListOptions{Roots: []zfs.Name{root}, Recursive: true,
		Types: []zfs.Type{zfs.Filesystems, zfs.Snapshots}, Properties: []string{"guid"}})
	d.must(err)
	var kept []string
	for _, row := range rows {
		name, _, _ := strings.Cut(strings.TrimPrefix(row.Name, poolName+"/"), "@old-")
		top, rest, _ := strings.Cut(name, "/")
		id, _, _ := strings.Cut(rest, "/")
		id, _, _ = strings.Cut(id, "@")
		if top == "base-image" || top == "cache" || strings.HasPrefix(top, "mine") || top == "result" && (id == "notes" || slices.Contains(d.ids, id)) {
			if name == strings.TrimPrefix(row.Name, poolName+"/") {
				kept = append(kept, name+" "+row.Values[0])
			}
		}
	}
	return kept
}

// All that is wrong is found with one listing of everything, and nothing is
// changed by that; repaired, nothing is wrong any more, and what is good is as
// it was.
func TestFsck(t *testing.T) {
	for _, mode := range modes {
		d := damage(t, mode)
		before, rows := d.datasets(), d.state()
		var transcript fault.Transcript
		found, err := d.fsck(false, &transcript)
		if bad := (*engine.InconsistentError)(nil); !errors.As(err, &bad) || len(bad.Findings) != len(found) {
			t.Errorf("got %v", err)
		}
		got := map[string]string{}
		for _, f := range found {
			got[string(f.Kind)+" "+f.Name] = ""
			if f.Repaired || f.Err != nil || f.Text == "" || f.Repair == "" {
				t.Errorf("finding %+v", f)
			}
		}
		if diff := cmp.Diff(d.want, got); diff != "" {
			t.Errorf("found (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(append(before, rows...), append(d.datasets(), d.state()...)); diff != "" {
			t.Errorf("looking has changed (-before +after):\n%s", diff)
		}
		for _, command := range transcript.Commands() {
			if !strings.HasPrefix(command, "zfs list ") {
				t.Errorf("looking does %q", command)
			}
		}
		if n := len(transcript.Commands()); n > 5 {
			t.Errorf("looking takes %d commands", n)
		}

		kept := d.kept()
		found, err = d.fsck(true)
		d.must(err)
		for _, f := range found {
			delete(got, string(f.Kind)+" "+f.Name)
			if !f.Repaired || f.Err != nil {
				t.Errorf("not repaired: %+v", f)
			}
		}
		if len(got) > 0 {
			t.Errorf("not reported as repaired: %v", got)
		}
		d.clean(t, kept)
	}
}

// clean checks that there is nothing to be found, and that all is there that
// was good.
func (d *damaged) clean(t *testing.T, kept []string) {
	t.Helper()
	found, err := d.fsck(true)
	if err != nil || len(found) > 0 {
		t.Errorf("found %+v, %v", found, err)
	}
	if diff := cmp.Diff(kept, d.kept()); diff != "" {
		t.Errorf("what is good (-before +after):\n%s", diff)
	}
	if left := append(d.leftovers(), d.aside()...); len(left) > 1 { // result/notes
		t.Errorf("left: %q", left)
	}
	parent := ""
	for i, id := range d.ids {
		r, err := d.index.Get(t.Context(), id)
		want := 1
		if i == len(d.ids)-1 {
			want = 0
		}
		if i == 0 {
			want = 2 // and x
		}
		if err != nil || r.Parent != parent || r.Children != want {
			t.Errorf("row %d: %+v, %v", i, r, err)
		}
		parent = id
	}
	e := d.open()
	r := &recording{}
	if _, err := e.Build(t.Context(), engine.Job{Spec: parse(t, `((from busybox) (run (cache (c (target /var/cache))) (shell a)) (run (shell b)) (run (shell c)))`), Events: r.event}); err != nil || strings.Count(r.String(), "from cache") != 4 {
		t.Errorf("building: %v\n%s", err, r)
	}
	d.must(e.Close())
}

// A repair that is stopped, or in which something fails, at any operation of
// any layer loses nothing, and the next one ends it; also when that one is
// stopped as well.
func TestInterruptedFsck(t *testing.T) {
	for _, on := range layers {
		for name, act := range actions[on] {
			t.Run(fmt.Sprintf("%s/%s", on, name), func(t *testing.T) {
				points := 0
				for n := 0; ; n++ {
					d := damage(t, engine.ListSnapshots)
					kept := d.kept()
					d.trap = &trap{on: on, at: n, action: act}
					_, err := d.fsck(true)
					first := d.trap
					if first.sprung() == "" {
						d.must(err)
						break
					}
					points++
					// A second one at some operation that is different each time.
					d.trap = &trap{on: onZFS, at: 3 + n%17, action: action{after: n%2 == 0}}
					_, _ = d.fsck(true)
					d.trap = nil
					if _, err := d.fsck(true); err != nil {
						t.Fatalf("operation %d, %s: the next repair: %v", n, first.sprung(), err)
					}
					d.clean(t, kept)
					if t.Failed() {
						t.Fatalf("operation %d, %s", n, first.sprung())
					}
				}
				t.Logf("%d operations", points)
			})
		}
	}
}

// What cannot be repaired is reported, and the rest is repaired.
func TestFsckBusy(t *testing.T) {
	d := damage(t, engine.ListSnapshots)
	stuck := root.MustChild("pruned-" + strings.Repeat("a", 64)).String()
	found, err := d.fsck(true, interceptor(func(_ context.Context, argv []string, run func() error) error {
		if argv[1] == "destroy" && argv[len(argv)-1] == stuck {
			return &zfs.Error{Kind: zfs.Busy, Argv: argv, Status: 1, Stderr: "dataset is busy"}
		}
		return run()
	}))
	bad := (*engine.InconsistentError)(nil)
	if !errors.As(err, &bad) || len(bad.Findings) != 1 || bad.Findings[0].Name != stuck || bad.Findings[0].Err == nil {
		t.Errorf("got %v", err)
	}
	for _, f := range found {
		if f.Repaired != (f.Name != stuck) {
			t.Errorf("finding %+v", f)
		}
	}
	if len(found) != len(d.want) {
		t.Errorf("%d findings, want %d", len(found), len(d.want))
	}
}
