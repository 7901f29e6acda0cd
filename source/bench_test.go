package source_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"obuilder.org/obuilder/source"
)

const smallFiles = 100_000

// smallTree makes many small files, some hundred bytes to four kilobytes, a
// hundred in a directory, as source code has them.
func smallTree(b *testing.B, files int) string {
	dir := b.TempDir()
	data := bytes.Repeat([]byte("let () = print_endline 42\n"), 160)
	for i := range files {
		sub := filepath.Join(dir, fmt.Sprintf("d%02d", i/1000%100), fmt.Sprintf("e%d", i/100%10))
		if i%100 == 0 {
			if err := os.MkdirAll(sub, 0o755); err != nil {
				b.Fatal(err)
			}
		}
		content := fmt.Appendf(nil, "%d %s", i, data[:200+i*37%3900])
		if err := os.WriteFile(filepath.Join(sub, fmt.Sprintf("file%d.ml", i)), content, 0o644); err != nil {
			b.Fatal(err)
		}
	}
	return dir
}

// BenchmarkScan compares the manifest of 100,000 small files with sha256sum on
// the same files with as many processes as there are processors. One round of
// each is an iteration, in turn, so that whatever else the machine does meets
// both; the figure that counts is x-sha256sum, the rate as a multiple of that of
// sha256sum, which is to be at least 0.8.
func BenchmarkScan(b *testing.B) {
	dir := smallTree(b, smallFiles)
	tree := openDir(b, dir)
	var list bytes.Buffer
	if err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			list.WriteString(path + "\x00")
		}
		return err
	}); err != nil {
		b.Fatal(err)
	}
	_, err := exec.LookPath("sha256sum")
	if _, e := exec.LookPath("xargs"); e != nil {
		err = e
	}
	if err != nil {
		b.Logf("no comparison: %v", err)
	}
	var ours, theirs time.Duration
	for b.Loop() {
		start := time.Now()
		m, e := source.Scan(b.Context(), tree, []string{"."}, source.Options{})
		if e != nil {
			b.Fatal(e)
		}
		ours += time.Since(start)
		if len(m.Items) != 1 {
			b.Fatal(len(m.Items))
		}
		if err == nil {
			cmd := exec.Command("xargs", "-0", "-n", "500", "-P", fmt.Sprint(runtime.GOMAXPROCS(0)), "sha256sum")
			cmd.Stdin = bytes.NewReader(list.Bytes())
			out := new(lines)
			cmd.Stdout = out
			start := time.Now()
			if e := cmd.Run(); e != nil {
				b.Fatal(e)
			}
			theirs += time.Since(start)
			if *out != smallFiles {
				b.Fatalf("sha256sum printed %d lines", *out)
			}
		}
	}
	b.ReportMetric(float64(smallFiles)*float64(b.N)/ours.Seconds(), "files/s")
	if err == nil {
		b.ReportMetric(float64(theirs)/float64(ours), "x-sha256sum")
	}
}

type lines int

func (l *lines) Write(p []byte) (int, error) {
	*l += lines(bytes.Count(p, []byte("\n")))
	return len(p), nil
}

// BenchmarkWriteTar sends the same 100,000 files to nowhere.
func BenchmarkWriteTar(b *testing.B) {
	m, err := source.Scan(b.Context(), openDir(b, smallTree(b, smallFiles)), []string{"."}, source.Options{})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := m.WriteTar(b.Context(), io.Discard, source.TarOptions{Dst: "/x/"}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(smallFiles)*float64(b.N)/b.Elapsed().Seconds(), "files/s")
}

// Benchmark5GB scans and sends a file of 5 GB; B/op is all that it allocates.
func Benchmark5GB(b *testing.B) {
	const size = 5 << 30
	tree := sparse(b, size)
	b.SetBytes(2 * size)
	b.ReportAllocs()
	for b.Loop() {
		m, err := source.Scan(b.Context(), tree, []string{"."}, source.Options{})
		if err != nil {
			b.Fatal(err)
		}
		r, w := io.Pipe()
		go func() { w.CloseWithError(m.WriteTar(b.Context(), w, source.TarOptions{Dst: "/x/"})) }()
		tr, sent := tar.NewReader(r), int64(0)
		for {
			_, err := tr.Next()
			if err == io.EOF {
				break
			} else if err != nil {
				b.Fatal(err)
			}
			n, err := io.Copy(io.Discard, tr)
			if err != nil {
				b.Fatal(err)
			}
			sent += n
		}
		if sent != size {
			b.Fatalf("sent %d bytes", sent)
		}
	}
}

// sparse is a directory with one file of zeros, which takes no space where the
// file system has holes.
func sparse(tb testing.TB, size int64) source.Tree {
	dir := tb.TempDir()
	f, err := os.Create(filepath.Join(dir, "big"))
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		tb.Skipf("no file of %d bytes here: %v", size, err)
	}
	return openDir(tb, dir)
}
