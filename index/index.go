// Package index remembers which results exist, when each was last used and
// which was built on which. [Open] keeps it in ocurrent/obuilder's SQLite
// file, [Memory] in memory; package indextest holds what both must do.
//
//	ix, err := index.Open(ctx, "/Volumes/obuilder/state/db/db.sqlite")
//	err = ix.Add(ctx, index.Result{ID: id, Parent: base, Created: now, Used: now})
package index

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Errors that callers decide on; they come wrapped.
var (
	// ErrNotFound is returned for an id that the index does not have.
	ErrNotFound = errors.New("not in the index")
	// ErrHasChildren is returned for the deletion of a result that others were built on.
	ErrHasChildren = errors.New("other results were built on it")
	// ErrInvalid is returned for a result that no index can hold.
	ErrInvalid = errors.New("invalid result")
	// ErrClosed is returned by every method after Close.
	ErrClosed = errors.New("the index is closed")
)

// A Result is a row of the index. Times are kept to the second, in UTC.
type Result struct {
	ID       string
	Parent   string // "" for a base
	Created  time.Time
	Used     time.Time
	Children int // rc: how many results have this one as their parent
}

// An Index is a set of results. Every method is one transaction and may be
// called concurrently.
type Index interface {
	// Add inserts a result with no children, or replaces the row of the same
	// id keeping the count of its children, and counts it with its parent. A
	// parent that is not there is an error wrapping ErrNotFound; an empty id, a
	// result that is its own parent, or a year that does not have four digits
	// one wrapping ErrInvalid. r.Children is ignored.
	Add(ctx context.Context, r Result) error
	// SetUsed notes that ids, those that are there, were used at a time.
	SetUsed(ctx context.Context, used time.Time, ids ...string) error
	// Get finds one result; ErrNotFound, wrapped.
	Get(ctx context.Context, id string) (Result, error)
	// Children lists the ids built on id, sorted.
	Children(ctx context.Context, id string) ([]string, error)
	// Delete removes one result, which must have no children, and uncounts it
	// with its parent; ErrNotFound or ErrHasChildren, wrapped.
	Delete(ctx context.Context, id string) error
	// Recount sets the count of a result's children right, which others may have
	// let drift; ErrNotFound, wrapped.
	Recount(ctx context.Context, id string) error
	// LRU lists at most limit ids without children last used before a time,
	// oldest first, ties by id.
	LRU(ctx context.Context, before time.Time, limit int) ([]string, error)
	// All lists every result, oldest creation first, ties by id.
	All(ctx context.Context) ([]Result, error)
	// Count gives the number of results.
	Count(ctx context.Context) (int, error)
	// Close ends the use of the index. Closing twice is not an error.
	Close() error
}

// check refuses what neither index can hold.
func (r Result) check() error {
	switch {
	case r.ID == "":
		return fmt.Errorf("%w: empty id", ErrInvalid)
	case r.ID == r.Parent:
		return fmt.Errorf("%w: %s is its own parent", ErrInvalid, r.ID)
	}
	if err := checkTime(r.Created); err != nil {
		return err
	}
	return checkTime(r.Used)
}

// checkTime refuses years that would not sort as text.
func checkTime(t time.Time) error {
	if y := t.UTC().Year(); y < 0 || y > 9999 {
		return fmt.Errorf("%w: the year %d does not have four digits", ErrInvalid, y)
	}
	return nil
}

func second(t time.Time) time.Time { return time.Unix(t.Unix(), 0).UTC() }
