package index

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"
)

// TestFull shows that a lack of space is an error that says so, that what was
// there stays, and that the index works again once there is space.
func TestFull(t *testing.T) {
	ctx := t.Context()
	ix, err := Open(ctx, filepath.Join(t.TempDir(), "db.sqlite"))
	if err != nil {
		t.Fatal(err)
	}
	defer ix.Close()
	limit := func(pages int) {
		// SQLite's own limit gives the same error as a full file system.
		if _, err := ix.(*file).db.Exec(fmt.Sprint("PRAGMA max_page_count=", pages)); err != nil {
			t.Fatal(err)
		}
	}
	limit(10)
	n := 0
	for ; n < 10_000 && err == nil; n++ {
		err = ix.Add(ctx, Result{ID: fmt.Sprintf("%064d", n)})
	}
	if !errors.Is(err, ErrFull) {
		t.Fatalf("got %v", err)
	}
	if got, err := ix.Count(ctx); got != n-1 || err != nil {
		t.Errorf("got %d results, want %d; %v", got, n-1, err)
	}
	limit(1000)
	if err := ix.Add(ctx, Result{ID: "x"}); err != nil {
		t.Error(err)
	}
}

// TestForeignKeys shows that SQLite itself would refuse what Add and Delete
// should never let through.
func TestForeignKeys(t *testing.T) {
	ix, err := Open(t.Context(), filepath.Join(t.TempDir(), "db.sqlite"))
	if err != nil {
		t.Fatal(err)
	}
	defer ix.Close()
	const now = "'2024-01-01 00:00:00'"
	if _, err := ix.(*file).db.Exec("INSERT INTO builds VALUES ('x', " + now + ", " + now + ", 0, 'none')"); err == nil {
		t.Error("a parent that is not there is accepted")
	}
}
