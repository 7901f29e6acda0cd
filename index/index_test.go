package index_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"obuilder.org/obuilder/index"
	"obuilder.org/obuilder/index/indextest"
)

func TestMemory(t *testing.T) {
	indextest.Run(t, func(testing.TB) index.Index { return index.Memory() })
}

func TestFile(t *testing.T) {
	dir, n := t.TempDir(), 0
	indextest.Run(t, func(t testing.TB) index.Index {
		n++
		return open(t, filepath.Join(dir, fmt.Sprint(n, ".sqlite")))
	})
}

func open(t testing.TB, path string) index.Index {
	t.Helper()
	ix, err := index.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ix.Close() })
	return ix
}

// exec runs statements on a file as a plain SQLite program does, in which
// foreign keys are off.
func exec(t testing.TB, path string, statements ...string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, s := range statements {
		if _, err := db.Exec(s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

// upstream is the schema as ocurrent/obuilder creates it.
var upstream = []string{
	`PRAGMA journal_mode=WAL`,
	`CREATE TABLE IF NOT EXISTS builds (id TEXT PRIMARY KEY, created DATETIME NOT NULL, used DATETIME NOT NULL,
		rc INTEGER NOT NULL, parent TEXT, FOREIGN KEY (parent) REFERENCES builds (id) ON DELETE RESTRICT)`,
	`CREATE INDEX IF NOT EXISTS lru ON builds (rc, used)`,
}

func TestUpstreamFile(t *testing.T) {
	ctx := t.Context()
	path := filepath.Join(t.TempDir(), "db.sqlite")
	exec(t, path, append(upstream,
		`INSERT INTO builds VALUES ('base', '2023-01-02 03:04:05', '2023-02-02 03:04:05', 2, NULL)`,
		`INSERT INTO builds VALUES ('one', '2023-01-02 03:04:06', '2023-02-02 03:04:06', 1, 'base')`,
		`INSERT INTO builds VALUES ('two', '2023-01-02 03:04:07', '2023-02-02 03:04:07', 0, 'one')`,
		// Not there any more, and no foreign keys to mind it.
		`INSERT INTO builds VALUES ('orphan', '2023-01-02 03:04:08', '2023-02-02 03:04:08', 0, 'gone')`,
		// Counts that drifted: "three" was added twice, "base" replaced in between.
		`INSERT INTO builds VALUES ('three', '2023-01-02 03:04:09', '2023-02-02 03:04:09', 5, 'base')`,
	)...)
	ix := open(t, path)
	all, err := ix.All(ctx)
	if err != nil {
		t.Fatal(err)
	}
	at := func(month time.Month, sec int) time.Time { return time.Date(2023, month, 2, 3, 4, sec, 0, time.UTC) }
	want := []index.Result{
		{ID: "base", Created: at(1, 5), Used: at(2, 5), Children: 2},
		{ID: "one", Parent: "base", Created: at(1, 6), Used: at(2, 6), Children: 1},
		{ID: "two", Parent: "one", Created: at(1, 7), Used: at(2, 7)},
		{ID: "orphan", Parent: "gone", Created: at(1, 8), Used: at(2, 8)},
		{ID: "three", Parent: "base", Created: at(1, 9), Used: at(2, 9), Children: 5},
	}
	if diff := cmp.Diff(want, all); diff != "" {
		t.Errorf("All: (-want +got)\n%s", diff)
	}
	ids, err := ix.LRU(ctx, at(3, 0), 10)
	if err != nil || strings.Join(ids, " ") != "two orphan three" {
		t.Errorf("LRU: got %q, %v", ids, err)
	}
	// A count that drifted can be set right.
	if err := ix.Recount(ctx, "three"); err != nil {
		t.Error(err)
	}
	if r, err := ix.Get(ctx, "three"); err != nil || r.Children != 0 {
		t.Errorf("counted anew: %+v, %v", r, err)
	}
	if err := ix.Recount(ctx, "none"); !errors.Is(err, index.ErrNotFound) {
		t.Errorf("counting none: %v", err)
	}
	exec(t, path, `UPDATE builds SET rc = 5 WHERE id = 'three'`)
	// Everything can be deleted, children first, however rc drifted.
	if err := ix.SetUsed(ctx, at(4, 0), "orphan", "base"); err != nil {
		t.Error(err)
	}
	if err := ix.Add(ctx, index.Result{ID: "four", Parent: "three", Created: at(1, 0), Used: at(1, 0)}); err != nil {
		t.Error(err)
	}
	if err := ix.Delete(ctx, "base"); !errors.Is(err, index.ErrHasChildren) {
		t.Errorf("got %v", err)
	}
	for _, id := range []string{"orphan", "two", "four", "one", "three", "base"} {
		if err := ix.Delete(ctx, id); err != nil {
			t.Error(err)
		}
		if id == "four" {
			if r, err := ix.Get(ctx, "three"); err != nil || r.Children != 0 {
				t.Errorf("the count that drifted is not set right: %+v, %v", r, err)
			}
		}
	}
}

// TestUpstreamReads shows the rows that ocurrent/obuilder finds after us: its
// schema, its form of times, NULL for a base.
func TestUpstreamReads(t *testing.T) {
	ctx := t.Context()
	path := filepath.Join(t.TempDir(), "new", "db", "db.sqlite")
	ix := open(t, path)
	at := time.Date(2023, 1, 2, 3, 4, 5, 0, time.FixedZone("", 3600))
	for _, r := range []index.Result{{ID: "b", Created: at, Used: at}, {ID: "r", Parent: "b", Created: at, Used: at}} {
		if err := ix.Add(ctx, r); err != nil {
			t.Fatal(err)
		}
	}
	ix.Close()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var got, mode, schema string
	for query, dst := range map[string]*string{
		`SELECT group_concat(id || '|' || created || '|' || used || '|' || rc || '|' || coalesce(parent, 'NULL'), ' ') FROM (SELECT * FROM builds ORDER BY id)`: &got,
		`PRAGMA journal_mode`: &mode,
		`SELECT group_concat(sql, ';') FROM (SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name)`: &schema,
	} {
		if err := db.QueryRow(query).Scan(dst); err != nil {
			t.Fatal(err)
		}
	}
	if want := "b|2023-01-02 02:04:05|2023-01-02 02:04:05|1|NULL r|2023-01-02 02:04:05|2023-01-02 02:04:05|0|b"; got != want {
		t.Errorf("got rows %s\nwant %s", got, want)
	}
	if mode != "wal" {
		t.Errorf("journal mode %q", mode)
	}
	squeeze := func(s string) string {
		s = strings.Join(strings.Fields(strings.ReplaceAll(s, "IF NOT EXISTS ", "")), " ")
		return strings.NewReplacer("( ", "(", " )", ")").Replace(s)
	}
	if want := squeeze(upstream[1] + ";" + upstream[2]); squeeze(schema) != want {
		t.Errorf("got schema %s\nwant %s", squeeze(schema), want)
	}
	if runtime.GOOS != "windows" {
		for dir := filepath.Dir(path); filepath.Base(dir) != "new"; dir = filepath.Dir(dir) {
			if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
				t.Errorf("%s: %v, %v", dir, info.Mode(), err)
			}
		}
	}
}

func TestReopen(t *testing.T) {
	ctx := t.Context()
	// A name with all that a URI could trip over.
	path := filepath.Join(t.TempDir(), "a b%20#é&=;")
	if runtime.GOOS != "windows" {
		path += "?mode=memory"
	}
	ix := open(t, path)
	if err := ix.Add(ctx, index.Result{ID: "x"}); err != nil {
		t.Fatal(err)
	}
	other := open(t, path) // as another process has it
	if _, err := other.Get(ctx, "x"); err != nil {
		t.Error(err)
	}
	if err := other.Add(ctx, index.Result{ID: "y", Parent: "x"}); err != nil {
		t.Error(err)
	}
	if r, err := ix.Get(ctx, "x"); err != nil || r.Children != 1 {
		t.Errorf("got %+v, %v", r, err)
	}
	ix.Close()
	other.Close()
	if n, err := open(t, path).Count(ctx); n != 2 || err != nil {
		t.Errorf("got %d, %v", n, err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
}

func TestNotAnIndex(t *testing.T) {
	for name, make := range map[string]func(t *testing.T, path string){
		"text":  func(t *testing.T, path string) { write(t, path, "not a database\n") },
		"long":  func(t *testing.T, path string) { write(t, path, strings.Repeat("not a database\n", 1000)) },
		"other": func(t *testing.T, path string) { exec(t, path, `CREATE TABLE other (x)`) },
		"older": func(t *testing.T, path string) { exec(t, path, `CREATE TABLE builds (id TEXT PRIMARY KEY)`) },
		"newer": func(t *testing.T, path string) {
			exec(t, path, append(upstream, `ALTER TABLE builds ADD COLUMN extra TEXT NOT NULL DEFAULT ''`)...)
		},
		"damaged": func(t *testing.T, path string) {
			exec(t, path, upstream[1])
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			write(t, path, string(data[:100])+strings.Repeat("x", len(data)-100))
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "db.sqlite")
			make(t, path)
			before, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			_, err = index.Open(t.Context(), path)
			if !errors.Is(err, index.ErrNotIndex) || !strings.Contains(err.Error(), path) {
				t.Errorf("got %v", err)
			}
			if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
				t.Errorf("the file was changed: %v", err)
			}
		})
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestOpenElsewhere(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "file"), "")
	if _, err := index.Open(t.Context(), filepath.Join(dir, "file", "db.sqlite")); !errors.As(err, new(*fs.PathError)) {
		t.Errorf("below a file: got %v", err)
	}
	if _, err := index.Open(t.Context(), dir); !errors.Is(err, index.ErrNotIndex) {
		t.Errorf("a directory: got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := index.Open(ctx, filepath.Join(dir, "db.sqlite")); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v", err)
	}
	// An empty file is how SQLite itself begins.
	open(t, filepath.Join(dir, "file"))
}

func TestReadOnly(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may write everywhere")
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "db.sqlite")
	open(t, path).Close()
	if err := os.Chmod(path, 0o400); err != nil {
		t.Fatal(err)
	}
	if _, err := index.Open(t.Context(), path); !errors.Is(err, index.ErrReadOnly) {
		t.Errorf("file: got %v", err)
	}
	if err := os.Chmod(dir, 0o500); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(dir, 0o700)
	if _, err := index.Open(t.Context(), filepath.Join(dir, "new.sqlite")); !errors.Is(err, index.ErrReadOnly) {
		t.Errorf("directory: got %v", err)
	}
}

// TestBusy shows that a file which another process keeps locked is an error
// that says so, and that a context ends the waiting.
func TestBusy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db.sqlite")
	ix := open(t, path)
	db, err := sql.Open("sqlite", path+"?_txlock=immediate")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	if testing.Short() {
		t.Log("-short: not waiting for the five seconds to pass")
	} else if err := ix.Add(t.Context(), index.Result{ID: "x"}); !errors.Is(err, index.ErrBusy) {
		t.Errorf("got %v", err)
	}
	if _, err := ix.Count(t.Context()); err != nil {
		t.Errorf("reading waits too: %v", err)
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	if err := ix.Add(t.Context(), index.Result{ID: "x"}); err != nil {
		t.Error(err)
	}
}

// The index does not get slower as it grows: compare the figures for each n.

func BenchmarkOpen(b *testing.B) {
	sizes(b, func(b *testing.B, _ index.Index, path string, n int) {
		for b.Loop() {
			ix, err := index.Open(b.Context(), path)
			if err != nil {
				b.Fatal(err)
			}
			ix.Close()
		}
	})
}

func BenchmarkAdd(b *testing.B) {
	sizes(b, func(b *testing.B, ix index.Index, _ string, n int) {
		for i := 0; b.Loop(); i++ {
			add(b, ix, n+i)
		}
	})
}

func BenchmarkSetUsed100(b *testing.B) {
	sizes(b, func(b *testing.B, ix index.Index, _ string, n int) {
		ids := make([]string, 100)
		for i := range ids {
			ids[i] = id(i * n / 100)
		}
		for i := 0; b.Loop(); i++ {
			if err := ix.SetUsed(b.Context(), time.Unix(int64(i), 0), ids...); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkLRU(b *testing.B) {
	sizes(b, func(b *testing.B, ix index.Index, _ string, n int) {
		for b.Loop() {
			if ids, err := ix.LRU(b.Context(), time.Unix(1<<30, 0), 100); err != nil {
				b.Fatal(ids, err)
			}
		}
	})
}

func sizes(b *testing.B, do func(b *testing.B, ix index.Index, path string, n int)) {
	for _, n := range []int{100, 10_000, 100_000} {
		b.Run(fmt.Sprint("File/", n), func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "db.sqlite")
			ix := open(b, path)
			// In one transaction, which Add cannot do.
			exec(b, path, fmt.Sprintf(`WITH RECURSIVE c(i) AS (SELECT 0 UNION ALL SELECT i+1 FROM c WHERE i < %d)
				INSERT INTO builds SELECT printf('%%064d', i), datetime(i, 'unixepoch'), datetime(i, 'unixepoch'),
				i %% 10 = 0, CASE WHEN i %% 10 THEN printf('%%064d', i-i%%10) END FROM c`, n-1))
			do(b, ix, path, n)
		})
		b.Run(fmt.Sprint("Memory/", n), func(b *testing.B) {
			if strings.HasPrefix(b.Name(), "BenchmarkOpen") {
				b.Skip("nothing to open")
			}
			ix := index.Memory()
			for i := range n {
				add(b, ix, i)
			}
			do(b, ix, "", n)
		})
	}
}

func id(i int) string { return fmt.Sprintf("%064d", i) }

func add(b *testing.B, ix index.Index, i int) {
	r := index.Result{ID: id(i), Created: time.Unix(int64(i), 0), Used: time.Unix(int64(i), 0)}
	if i%10 != 0 {
		r.Parent = id(i - i%10)
	}
	if err := ix.Add(b.Context(), r); err != nil {
		b.Fatal(err)
	}
}
