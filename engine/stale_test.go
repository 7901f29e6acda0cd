package engine_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"obuilder.org/obuilder/engine"
	"obuilder.org/obuilder/sandbox"
	"obuilder.org/obuilder/spec"
	"obuilder.org/obuilder/zfs"
)

var busybox = root.MustChild("base-image").MustChild("busybox")

// rebuilds are the ways in which an image is rebuilt under its old name.
var rebuilds = map[string]func(w *world){
	"destroyed with its clones": func(w *world) {
		w.must(w.machine.Destroy(context.Background(), busybox, zfs.DestroyMode{Dependents: true, Force: true}))
		w.image("busybox")
	},
	"renamed": func(w *world) {
		to := root.MustChild("base-image").MustChild("busybox-old")
		w.must(w.machine.Rename(context.Background(), busybox, to, zfs.RenameOptions{}))
		w.image("busybox")
	},
	"new snapshot": func(w *world) {
		for _, child := range []string{"home", "brew"} {
			ds := busybox.MustChild(child)
			w.must(w.machine.Rename(context.Background(), ds.MustSnapshot("snap"), ds.MustSnapshot("old"), zfs.RenameOptions{}))
			w.must(w.machine.Snapshot(context.Background(), false, ds.MustSnapshot("snap")))
		}
	},
	"brew only": func(w *world) {
		brew := busybox.MustChild("brew")
		w.must(w.machine.Rename(context.Background(), brew.MustSnapshot("snap"), brew.MustSnapshot("old"), zfs.RenameOptions{}))
		w.must(w.machine.Snapshot(context.Background(), false, brew.MustSnapshot("snap")))
	},
	"another child": func(w *world) {
		opt := busybox.MustChild("opt")
		w.must(w.machine.Create(context.Background(), opt, zfs.CreateOptions{Properties: []zfs.Property{{Name: "mountpoint", Value: "none"}}}))
		w.must(w.machine.Snapshot(context.Background(), false, opt.MustSnapshot("snap")))
	},
}

// fresh tells of each complete result whether it was made, with all that it is
// built on, from the images that there are.
func (w *world) fresh() map[string]bool {
	w.t.Helper()
	rows, err := w.machine.List(context.Background(), zfs.ListOptions{Roots: []zfs.Name{root}, Recursive: true,
		Types: []zfs.Type{zfs.Filesystems, zfs.Snapshots}, Properties: []string{"origin"}})
	w.must(err)
	origin := map[string]string{}
	children := map[string][]string{}
	for _, row := range rows {
		origin[row.Name] = row.Values[0]
		if i := strings.LastIndexByte(row.Name, '/'); !strings.Contains(row.Name, "@") && i > 0 {
			children[row.Name[:i]] = append(children[row.Name[:i]], row.Name[i+1:])
		}
	}
	fresh := map[string]bool{}
	var isFresh func(name string) bool
	isFresh = func(name string) bool {
		if !strings.HasPrefix(name, poolName+"/result/") || origin[name+"@snap"] == "" {
			return false
		}
		src, _, _ := strings.Cut(origin[name], "@")
		if src == "-" {
			i := slices.IndexFunc(children[poolName+"/base-image"], func(image string) bool { return strings.HasSuffix(name, "/"+spec.BaseID(image)) })
			if i < 0 {
				return false
			}
			src = poolName + "/base-image/" + children[poolName+"/base-image"][i]
		} else if !isFresh(src) {
			return false
		}
		if len(children[src]) != len(children[name]) {
			return false
		}
		for _, child := range children[src] {
			if origin[name+"/"+child] != src+"/"+child+"@snap" || origin[name+"/"+child+"@snap"] == "" {
				return false
			}
		}
		return true
	}
	for name := range origin {
		if id := strings.TrimPrefix(name, poolName+"/result/"); engine.ValidID(id) {
			fresh[id] = isFresh(name)
		}
	}
	return fresh
}

// aside lists what was set aside.
func (w *world) aside() []string {
	return slices.DeleteFunc(w.datasets(), func(line string) bool { return !strings.HasPrefix(line, "stale-") })
}

const staleJob = `((from busybox) (run (shell a)) (run (shell b)))`

// What was built on an image that was rebuilt since is not used, whether the
// store was open meanwhile or not; the log says why, the same ids are built
// anew, and all that was built before goes.
func TestRebuiltImage(t *testing.T) {
	for _, mode := range modes {
		for name, rebuild := range rebuilds {
			for _, reopened := range []bool{false, true} {
				t.Run(fmt.Sprintf("%d/%s/%v", mode, name, reopened), func(t *testing.T) {
					w := freshWorld(t, mode)
					var ran []string
					w.script = func(_ context.Context, cfg sandbox.Config, _ io.Reader, out io.Writer) error {
						ran = append(ran, cfg.Argv[len(cfg.Argv)-1])
						fmt.Fprintf(out, "run %d\n", len(ran))
						return nil
					}
					e := w.open()
					ids := w.lineageOf(e, staleJob)
					other := w.lineageOf(e, `((from busybox) (run (shell a)) (run (shell c)))`)
					rebuild(w)
					images := w.images()
					if reopened {
						w.must(e.Close())
						e = w.open()
					}
					var planned []string
					w.must(e.Plan(t.Context(), engine.Job{Spec: parse(t, staleJob)}, func(p engine.PlannedStep) {
						planned = append(planned, fmt.Sprintf("%s %v", p.ID, p.Cached))
					}))
					if diff := cmp.Diff([]string{ids[0] + " false", ids[1] + " false", ids[2] + " false"}, planned); diff != "" {
						t.Errorf("planned (-want +got):\n%s", diff)
					}
					r := &recording{}
					ran = nil
					id, err := e.Build(t.Context(), engine.Job{Spec: parse(t, staleJob), Events: r.event})
					w.must(err)
					if id != ids[2] || !slices.Equal(ran, []string{"a", "b"}) {
						t.Errorf("built %s with %q", id, ran)
					}
					if !strings.Contains(r.String(), "(from busybox)\n[stale] the stored result is stale: the base image busybox was rebuilt: ") ||
						strings.Count(r.String(), "[stale]") != 3 || strings.Contains(r.String(), "from cache") {
						t.Errorf("log:\n%s", r)
					}
					fresh := w.fresh()
					for _, id := range ids {
						if !fresh[id] {
							t.Errorf("%s is stale", id)
						}
					}
					if _, ok := fresh[other[2]]; ok {
						t.Errorf("%s is there", other[2])
					}
					if left := w.aside(); len(left) > 0 {
						t.Errorf("set aside: %q", left)
					}
					if diff := cmp.Diff(images, w.images()); diff != "" {
						t.Errorf("images (-before +after):\n%s", diff)
					}
					ran = nil
					if again := w.lineageOf(e, staleJob); !slices.Equal(again, ids) || ran != nil {
						t.Errorf("again: %q ran %q", again, ran)
					}
					w.must(e.Close())
				})
			}
		}
	}
}

// images lists the base images with the guids of their snapshots.
func (w *world) images() []string {
	w.t.Helper()
	rows, err := w.machine.List(context.Background(), zfs.ListOptions{Roots: []zfs.Name{root.MustChild("base-image")}, Recursive: true,
		Types: []zfs.Type{zfs.Filesystems, zfs.Snapshots}, Properties: []string{"guid"}})
	w.must(err)
	var lines []string
	for _, row := range rows {
		lines = append(lines, row.Name+" "+row.Values[0])
	}
	return lines
}

// A job that is interrupted while it replaces what is stale, and one that
// recovers from that, loses nothing that is good and uses nothing that is not.
func TestInterruptedReplacement(t *testing.T) {
	for _, mode := range modes {
		for _, name := range []string{"renamed", "destroyed with its clones"} {
			rebuild := rebuilds[name]
			for _, on := range layers {
				for act, action := range actions[on] {
					t.Run(fmt.Sprintf("%d/%s/%s/%s", mode, name, on, act), func(t *testing.T) {
						explore(t, func() *world {
							w := freshWorld(t, mode)
							e := w.open()
							w.lineageOf(e, staleJob)
							w.lineageOf(e, `((from busybox) (run (shell a)) (run (shell c)))`)
							w.must(e.Close())
							rebuild(w)
							return w
						}, true, staleJob, on, action)
					})
				}
			}
		}
	}
}

// An image that is gone cannot be built on; what was built on it stays until
// somebody asks for it to be cleared away.
func TestImageGone(t *testing.T) {
	for _, mode := range modes {
		w := freshWorld(t, mode)
		e := w.open()
		w.lineageOf(e, staleJob)
		to := root.MustChild("base-image").MustChild("elsewhere")
		w.must(w.machine.Rename(t.Context(), busybox, to, zfs.RenameOptions{}))
		before := w.datasets()
		for range 2 {
			_, err := w.build(e, staleJob)
			if missing := (*engine.BaseImageError)(nil); !errors.As(err, &missing) || !slices.Equal(missing.Available, []string{"elsewhere"}) {
				t.Errorf("built with %v, there are %q", err, missing.Available)
			}
			w.must(e.Close())
			e = w.open()
		}
		if diff := cmp.Diff(before, w.datasets()); diff != "" {
			t.Errorf("before and after (-before +after):\n%s", diff)
		}
		// It comes back as it was.
		w.must(w.machine.Rename(t.Context(), to, busybox, zfs.RenameOptions{}))
		r := &recording{}
		if _, err := e.Build(t.Context(), engine.Job{Spec: parse(t, staleJob), Events: r.event}); err != nil || strings.Count(r.String(), "from cache") != 3 {
			t.Errorf("%v\n%s", err, r)
		}
		w.must(e.Close())
	}
}

// A prune, and a deletion of all, take what is stale first, however much it is.
func TestSweepAll(t *testing.T) {
	for name, do := range map[string]func(e *engine.Engine) error{
		"prune": func(e *engine.Engine) error {
			_, err := e.Prune(context.Background(), engine.PrunePolicy{KeepResults: 2}, nil)
			return err
		},
		"clean":  func(e *engine.Engine) error { return e.Clean(context.Background(), func(string) {}) },
		"delete": func(e *engine.Engine) error { return e.Delete(context.Background(), baseID, func(string) {}) },
	} {
		w := freshWorld(t, engine.ListSnapshots)
		e := w.open()
		for n := range 40 {
			w.lineageOf(e, fmt.Sprintf(`((from busybox) (run (shell a)) (run (shell "%d")))`, n))
		}
		rebuilds["renamed"](w)
		w.lineageOf(e, `((from busybox) (run (shell z)))`)
		if stale := len(w.fresh()) - 2; stale < 20 {
			t.Errorf("%d results are stale after one job", stale)
		}
		w.must(do(e))
		want := 0
		if name == "prune" {
			want = 2
		}
		if left := w.fresh(); len(left) != want || len(w.aside()) > 0 {
			t.Errorf("%s: left %v and %q", name, left, w.aside())
		}
		w.must(e.Close())
	}
}

// What an image has taken with it when it was destroyed is not done without:
// its results are hollow, and look like those of an image without children.
func TestImageGoneWithClones(t *testing.T) {
	for _, mode := range modes {
		for _, reopened := range []bool{false, true} {
			w := freshWorld(t, mode)
			e := w.open()
			ids := w.lineageOf(e, staleJob)
			w.must(w.machine.Destroy(t.Context(), busybox, zfs.DestroyMode{Dependents: true, Force: true}))
			if reopened {
				w.must(e.Close())
				e = w.open()
			}
			if _, err := w.build(e, staleJob); !errors.As(err, new(*engine.BaseImageError)) {
				t.Errorf("built with %v", err)
			}
			var found []string
			err := e.Fsck(t.Context(), false, func(f engine.Finding) { found = append(found, fmt.Sprintf("%s %s", f.Kind, f.Name)) })
			want := []string{"stale " + result(ids[0]).String(), "stale " + result(ids[1]).String(), "stale " + result(ids[2]).String()}
			slices.Sort(want)
			slices.Sort(found)
			if diff := cmp.Diff(want, found); diff != "" || err == nil {
				t.Errorf("%v, found (-want +got):\n%s", err, diff)
			}
			w.must(e.Close())
		}
	}
}

// An image that is being rebuilt, and has no snapshots yet, is no reason to
// destroy what was built on it before.
func TestImageNotReady(t *testing.T) {
	w := freshWorld(t, engine.ListSnapshots)
	e := w.open()
	w.lineageOf(e, staleJob)
	home := busybox.MustChild("home")
	w.must(w.machine.Rename(t.Context(), home.MustSnapshot("snap"), home.MustSnapshot("old"), zfs.RenameOptions{}))
	before := w.datasets()
	if _, err := w.build(e, staleJob); !errors.As(err, new(*engine.BaseImageError)) {
		t.Errorf("built with %v", err)
	}
	if diff := cmp.Diff(before, w.datasets()); diff != "" {
		t.Errorf("before and after (-before +after):\n%s", diff)
	}
	w.must(e.Close())
}

// Of an image without home and brew nothing is cloned: a result that is older
// than the image is stale, with what was built on it, of which there is more
// than one job clears away.
func TestImageWithoutChildren(t *testing.T) {
	for _, mode := range modes {
		w := newWorld(t, mode)
		w.script = failing
		w.must(w.machine.Create(t.Context(), busybox, zfs.CreateOptions{Parents: true}))
		e := w.open()
		var texts []string
		for n := range 100 {
			texts = append(texts, fmt.Sprintf(`((from busybox) (run (shell "%d")))`, n))
			w.lineageOf(e, texts[n])
		}
		w.must(w.machine.Destroy(t.Context(), busybox, zfs.DestroyMode{}))
		w.must(w.machine.Create(t.Context(), busybox, zfs.CreateOptions{Parents: true}))
		stale := 0
		for _, text := range append([]string{`((from busybox))`}, texts...) {
			r := &recording{}
			id, err := e.Build(t.Context(), engine.Job{Spec: parse(t, text), Events: r.event})
			if err != nil || !w.fresh()[id] {
				t.Errorf("%s, %v\n%s", id, err, r)
			}
			stale += strings.Count(r.String(), "[stale]")
		}
		if stale < 3 {
			t.Errorf("%d times stale", stale)
		}
		w.must(e.Close())
	}
}

// A result of which something is gone, or that was poisoned by a process of
// another implementation that was killed, is never used, and is built anew.
func TestPoisoned(t *testing.T) {
	for _, mode := range modes {
		for name, poison := range map[string]func(w *world, id string){
			"no snapshot": func(w *world, id string) {
				w.must(w.machine.Destroy(context.Background(), root.MustChild("result").MustChild(id).MustSnapshot("snap"), zfs.DestroyMode{Recursive: true}))
			},
			"home is gone": func(w *world, id string) {
				w.must(w.machine.Destroy(context.Background(), root.MustChild("result").MustChild(id).MustChild("home"), zfs.DestroyMode{Recursive: true}))
			},
			"home has no snapshot": func(w *world, id string) {
				w.must(w.machine.Destroy(context.Background(), root.MustChild("result").MustChild(id).MustChild("home").MustSnapshot("snap"), zfs.DestroyMode{}))
			},
			"of something else": func(w *world, id string) {
				ds := root.MustChild("result").MustChild(id)
				w.must(w.machine.Destroy(context.Background(), ds, zfs.DestroyMode{Recursive: true}))
				w.must(w.machine.Create(context.Background(), ds, zfs.CreateOptions{}))
				w.must(w.machine.Snapshot(context.Background(), true, ds.MustSnapshot("snap")))
			},
		} {
			t.Run(fmt.Sprintf("%d/%s", mode, name), func(t *testing.T) {
				w := freshWorld(t, mode)
				e := w.open()
				ids := w.lineageOf(e, staleJob)
				w.must(e.Close())
				poison(w, ids[2])
				e = w.open()
				r := &recording{}
				id, err := e.Build(t.Context(), engine.Job{Spec: parse(t, staleJob), Events: r.event})
				if err != nil || id != ids[2] || strings.Count(r.String(), "from cache") != 2 || strings.Count(r.String(), "saved as") != 1 {
					t.Errorf("%s, %v\n%s", id, err, r)
				}
				if fresh := w.fresh(); !fresh[ids[2]] {
					t.Error("it is as it was")
				}
				w.must(e.Close())
			})
		}
	}
}

// Any jobs, rebuilds and ends of processes in any order: what a job ends with
// is what the images are now, what is good is not built twice, and in the end
// all that is stale has gone.
func TestRandomRebuilds(t *testing.T) {
	texts := []string{staleJob, `((from busybox) (run (shell a)) (run (shell c)) (run (shell d)))`,
		`((build x ((from busybox) (run (shell a)))) (from busybox) (copy (from (build x)) (src .ran) (dst /got)) (run (shell b)))`}
	names := slices.Sorted(maps.Keys(rebuilds))
	rapid.Check(t, func(rt *rapid.T) {
		w := freshWorld(t, rapid.SampledFrom(modes).Draw(rt, "mode"))
		done := map[string]bool{}
		e := w.open()
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			switch rapid.IntRange(0, 4).Draw(rt, "what") {
			case 0:
				name := rapid.SampledFrom(names).Draw(rt, "rebuild")
				if done[name] && name != "destroyed with its clones" {
					continue
				}
				done[name] = true
				if name == "destroyed with its clones" {
					done["another child"], done["new snapshot"], done["brew only"] = false, false, false
				}
				if done["new snapshot"] && name == "brew only" || done["brew only"] && name == "new snapshot" {
					continue // there is an old one
				}
				rebuilds[name](w)
				w.must(w.clock.Sleep(t.Context(), time.Minute))
			case 1:
				w.must(e.Close())
				e = w.open()
			case 2:
				crash := &trap{on: onZFS, at: rapid.IntRange(0, 30).Draw(rt, "command"), action: action{after: rapid.Bool().Draw(rt, "after")}}
				w.must(e.Close())
				w.trap = crash
				if e, err := engine.Open(t.Context(), w.options()); err == nil {
					_, _ = w.build(e, rapid.SampledFrom(texts).Draw(rt, "crashing job"))
					_ = e.Close()
				}
				w.trap = nil
				e = w.open()
			default:
				text := rapid.SampledFrom(texts).Draw(rt, "job")
				id, err := w.build(e, text)
				if err != nil {
					rt.Fatalf("%s: %v", text, err)
				}
				if !w.fresh()[id] {
					rt.Fatalf("%s is not fresh", id)
				}
				guids := w.stored()
				if again, err := w.build(e, text); err != nil || again != id || w.stored()[id] != guids[id] {
					rt.Fatalf("again: %s, %v", again, err)
				}
			}
		}
		for range 20 {
			for _, text := range texts {
				if _, err := w.build(e, text); err != nil {
					rt.Fatal(err)
				}
			}
		}
		for id, fresh := range w.fresh() {
			if !fresh {
				rt.Errorf("%s is stale", id)
			}
		}
		if left := append(w.aside(), w.leftovers()...); len(left) > 0 {
			rt.Errorf("left: %q", left)
		}
		w.must(e.Close())
	})
}

// An image that is rebuilt while a build on it runs: that one ends on what it
// began with, builds that begin after it wait for that, once, and build anew.
func TestRebuiltMeanwhile(t *testing.T) {
	for _, mode := range modes {
		for name, rebuild := range rebuilds {
			if name == "destroyed with its clones" {
				continue // nothing can be mounted then
			}
			synctest.Test(t, func(t *testing.T) {
				w := freshWorld(t, mode)
				w.script = sleeping
				o := w.options()
				o.Clock = engine.SystemClock{}
				e, err := engine.Open(t.Context(), o)
				w.must(err)
				old := start(t.Context(), e, engine.Job{Spec: parse(t, `((from busybox) (run (shell 1m)) (run (shell 2m)))`)})
				time.Sleep(30 * time.Second)
				synctest.Wait()
				rebuild(w)
				begin := time.Now()
				var logs []*recording
				var ended []<-chan error
				for range 3 {
					r := &recording{}
					logs = append(logs, r)
					ended = append(ended, start(t.Context(), e, engine.Job{Spec: parse(t, `((from busybox) (run (shell 1m)) (run (shell 3m)))`), Events: r.event}))
				}
				w.must(<-old)
				if took := time.Since(begin); took != 150*time.Second {
					t.Errorf("%s: the build that runs took %v", name, took)
				}
				waiting, stale := 0, 0
				for i, err := range ended {
					if err := <-err; err != nil {
						t.Errorf("%s: build %d: %v", name, i, err)
					}
					text := logs[i].String()
					if strings.HasPrefix(text, "[waiting] the base image busybox was rebuilt: waiting for builds on what it was before\n") {
						waiting++ // and those who come after it wait for it
					}
					stale += strings.Count(text, "[stale] ")
					if !strings.Contains(text, "\n1m\n") {
						t.Errorf("%s: build %d:\n%s", name, i, text)
					}
				}
				if waiting == 0 || stale == 0 {
					t.Errorf("%s: nobody says what is waited for, or why it is built", name)
				}
				if took := time.Since(begin); took != (150+60+180)*time.Second {
					t.Errorf("%s: all took %v", name, took)
				}
				for id, fresh := range w.fresh() {
					if !fresh {
						t.Errorf("%s: %s is stale", name, id)
					}
				}
				if left := append(w.aside(), w.leftovers()...); len(left) > 0 {
					t.Errorf("%s: left %q", name, left)
				}
				w.must(e.Close())
			})
		}
	}
}
