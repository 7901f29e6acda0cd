package engine_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"obuilder.org/obuilder/engine"
	"obuilder.org/obuilder/index"
	"obuilder.org/obuilder/sandbox"
	"obuilder.org/obuilder/sandbox/scripted"
	"obuilder.org/obuilder/zfs/fake"
)

func steps(n int, label string) string {
	var b strings.Builder
	b.WriteString("((from busybox)")
	for i := range n {
		fmt.Fprintf(&b, ` (run (shell "%s step %d"))`, label, i)
	}
	b.WriteString(")")
	return b.String()
}

func silent(context.Context, sandbox.Config, io.Reader, io.Writer) error { return nil }

// What the engine itself takes for a new step, zfs commands on a fake included.
// Each job has a store of its own: BenchmarkResults is about those that grow.
func BenchmarkNewStep(b *testing.B) {
	const n = 100
	text := steps(n, "new")
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		w := newWorld(b, engine.ListSnapshots, "busybox")
		w.script = silent
		e := w.open()
		s := parse(b, text)
		b.StartTimer()
		if _, err := e.Build(b.Context(), engine.Job{Spec: s}); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		w.must(e.Close())
		b.StartTimer()
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*n), "us/step")
}

// A build of which every step is in the store.
func BenchmarkCached100(b *testing.B) {
	w := newWorld(b, engine.ListSnapshots, "busybox")
	w.script = silent
	e := w.open()
	text := steps(100, "x")
	for b.Loop() {
		if _, err := e.Build(b.Context(), engine.Job{Spec: parse(b, text)}); err != nil {
			b.Fatal(err)
		}
	}
}

// The same in a directory, as a second "obuilder build" does it: the store is
// opened, a hundred results are found and their logs read, and it is closed.
func BenchmarkCached100Dir(b *testing.B) {
	dir := b.TempDir()
	s := parse(b, steps(100, "x"))
	build := func() {
		m, err := fake.OpenDir(b.Context(), dir)
		if err != nil {
			b.Fatal(err)
		}
		sb, err := scripted.New(scripted.Options{Files: m.Files(), Script: silent})
		if err != nil {
			b.Fatal(err)
		}
		e, err := engine.Open(b.Context(), engine.Options{FS: m, Files: m.Files(), Root: root, Sandbox: sb,
			OpenIndex: index.Open, Images: []string{"busybox"}})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := e.Build(b.Context(), engine.Job{Spec: s}); err != nil {
			b.Fatal(err)
		}
		if err := errors.Join(e.Close(), m.Close()); err != nil {
			b.Fatal(err)
		}
	}
	build()
	for b.Loop() {
		build()
	}
}

// Opening a store, and a new step in it, with few and with many results.
func BenchmarkResults(b *testing.B) {
	for _, results := range []int{100, 10_000} {
		w := newWorld(b, engine.ListSnapshots, "busybox")
		w.script = silent
		e := w.open()
		for made := 0; made < results; made += 100 {
			if _, err := e.Build(b.Context(), engine.Job{Spec: parse(b, steps(100, fmt.Sprint("many ", made)))}); err != nil {
				b.Fatal(err)
			}
		}
		w.must(e.Close())
		b.Run(fmt.Sprintf("open-%d", results), func(b *testing.B) {
			b.ReportAllocs()
			dir := b.TempDir()
			for b.Loop() {
				o := w.options()
				// With the index in a file, as a real store has it.
				o.OpenIndex = func(ctx context.Context, _ string) (index.Index, error) { return index.Open(ctx, dir+"/db.sqlite") }
				e, err := engine.Open(b.Context(), o)
				if err != nil {
					b.Fatal(err)
				}
				if err := e.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("step-%d", results), func(b *testing.B) {
			e := w.open()
			i := 0
			for b.Loop() {
				i++
				if _, err := e.Build(b.Context(), engine.Job{Spec: parse(b, steps(1, fmt.Sprint("new ", results, i)))}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
