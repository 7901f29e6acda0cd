// Package indextest is the conformance suite of package index: what every
// implementation must do.
//
//	func TestMemory(t *testing.T) {
//		indextest.Run(t, func(testing.TB) index.Index { return index.Memory() })
//	}
package indextest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"obuilder.org/obuilder/index"
)

// Run tests an implementation; open gives an empty index each time.
func Run(t *testing.T, open func(testing.TB) index.Index) {
	t.Run("Machine", func(t *testing.T) { rapid.Check(t, func(rt *rapid.T) { machine(rt, open(t)) }) })
	t.Run("Replace", func(t *testing.T) { replace(t, open(t)) })
	t.Run("Times", func(t *testing.T) { times(t, open(t)) })
	t.Run("Invalid", func(t *testing.T) { invalid(t, open(t)) })
	t.Run("Concurrent", func(t *testing.T) { concurrent(t, open(t)) })
	t.Run("Cancelled", func(t *testing.T) { cancelled(t, open(t)) })
	t.Run("Closed", func(t *testing.T) { closed(t, open(t)) })
}

// machine takes random steps on an index and on a list of results, and
// compares all that can be seen of the two after each.
func machine(t *rapid.T, ix index.Index) {
	defer ix.Close()
	ctx := t.Context()
	var model []index.Result
	find := func(id string) int { return slices.IndexFunc(model, func(r index.Result) bool { return r.ID == id }) }
	children := func(id string) []string {
		var ids []string
		for _, r := range model {
			if r.Parent == id {
				ids = append(ids, r.ID)
			}
		}
		slices.Sort(ids)
		return ids
	}
	// Few ids and times, so that they meet; the ids sort differently from how
	// they were made, and one is not plain text.
	anyID := rapid.SampledFrom([]string{"a", "B", "c", "d'\"%?", "é", "f"})
	anyTime := rapid.Custom(func(t *rapid.T) time.Time {
		return time.Unix(1_700_000_000+rapid.Int64Range(0, 4).Draw(t, "second"), rapid.Int64Range(0, 999_999_999).Draw(t, "ns"))
	})
	kept := func(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }

	t.Repeat(map[string]func(*rapid.T){
		"add": func(t *rapid.T) {
			r := index.Result{
				ID:       anyID.Draw(t, "id"),
				Created:  anyTime.Draw(t, "created"),
				Used:     anyTime.Draw(t, "used"),
				Children: rapid.IntRange(0, 3).Draw(t, "children"),
			}
			// The parent is always an id that sorts before, so no ancestor of itself.
			if p := anyID.Draw(t, "parent"); p < r.ID {
				r.Parent = p
			}
			err := ix.Add(ctx, r)
			if r.Parent != "" && find(r.Parent) < 0 {
				wantError(t, "Add", err, index.ErrNotFound)
				return
			}
			wantError(t, "Add", err, nil)
			r.Created, r.Used = kept(r.Created), kept(r.Used)
			if i := find(r.ID); i >= 0 {
				model[i] = r
			} else {
				model = append(model, r)
			}
		},
		"setUsed": func(t *rapid.T) {
			used, ids := anyTime.Draw(t, "used"), rapid.SliceOf(anyID).Draw(t, "ids")
			wantError(t, "SetUsed", ix.SetUsed(ctx, used, ids...), nil)
			for _, id := range ids {
				if i := find(id); i >= 0 {
					model[i].Used = kept(used)
				}
			}
		},
		"delete": func(t *rapid.T) {
			id := anyID.Draw(t, "id")
			err := ix.Delete(ctx, id)
			switch i := find(id); {
			case i < 0:
				wantError(t, "Delete", err, index.ErrNotFound)
			case len(children(id)) > 0:
				wantError(t, "Delete", err, index.ErrHasChildren)
			default:
				wantError(t, "Delete", err, nil)
				model = slices.Delete(model, i, i+1)
			}
		},
		"lru": func(t *rapid.T) {
			before, limit := anyTime.Draw(t, "before"), rapid.IntRange(-1, 4).Draw(t, "limit")
			old := slices.DeleteFunc(slices.Clone(model), func(r index.Result) bool {
				return len(children(r.ID)) > 0 || !r.Used.Before(kept(before))
			})
			slices.SortFunc(old, func(a, b index.Result) int {
				return cmp.Or(a.Used.Compare(b.Used), strings.Compare(a.ID, b.ID))
			})
			var want []string
			for _, r := range old[:min(len(old), max(limit, 0))] {
				want = append(want, r.ID)
			}
			got, err := ix.LRU(ctx, before, limit)
			wantError(t, "LRU", err, nil)
			same(t, "LRU", want, got)
		},
		"": func(t *rapid.T) {
			want := slices.Clone(model)
			for i := range want {
				want[i].Children = len(children(want[i].ID))
			}
			slices.SortFunc(want, func(a, b index.Result) int {
				return cmp.Or(a.Created.Compare(b.Created), strings.Compare(a.ID, b.ID))
			})
			all, err := ix.All(ctx)
			wantError(t, "All", err, nil)
			same(t, "All", want, all)
			n, err := ix.Count(ctx)
			wantError(t, "Count", err, nil)
			same(t, "Count", len(want), n)
			for _, r := range want {
				got, err := ix.Get(ctx, r.ID)
				wantError(t, "Get", err, nil)
				same(t, "Get", r, got)
				ids, err := ix.Children(ctx, r.ID)
				wantError(t, "Children", err, nil)
				same(t, "Children", children(r.ID), ids)
			}
			_, err = ix.Get(ctx, "none")
			wantError(t, "Get", err, index.ErrNotFound)
			_, err = ix.Children(ctx, "none")
			wantError(t, "Children", err, index.ErrNotFound)
		},
	})
}

// replace shows that adding a result again moves it from one parent to another,
// counts it once, and keeps its own children.
func replace(t *testing.T, ix index.Index) {
	defer ix.Close()
	ctx := t.Context()
	for _, step := range []struct{ id, parent, want string }{
		{"a", "", "a0"},
		{"b", "", "a0 b0"},
		{"x", "a", "a1 b0 x0"},
		{"y", "x", "a1 b0 x1 y0"},
		{"x", "a", "a1 b0 x1 y0"},
		{"x", "b", "a0 b1 x1 y0"},
		{"x", "", "a0 b0 x1 y0"},
		{"x", "a", "a1 b0 x1 y0"},
		{"a", "", "a1 b0 x1 y0"},
	} {
		wantError(t, "Add", ix.Add(ctx, index.Result{ID: step.id, Parent: step.parent}), nil)
		all, err := ix.All(ctx)
		wantError(t, "All", err, nil)
		var got []string
		for _, r := range all {
			got = append(got, fmt.Sprint(r.ID, r.Children))
		}
		same(t, fmt.Sprintf("after adding %+v", step), step.want, strings.Join(got, " "))
	}
}

type errorer interface {
	Helper()
	Fatalf(string, ...any)
}

func wantError(t errorer, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Fatalf("%s: got error %v, want %v", what, got, want)
	}
}

func same(t errorer, what string, want, got any) {
	t.Helper()
	if diff := gocmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("%s: (-want +got)\n%s", what, diff)
	}
}

// times shows that times are kept in UTC, to the second, and compare as times
// whatever zone and fraction they are given in.
func times(t *testing.T, ix index.Index) {
	defer ix.Close()
	ctx := t.Context()
	zone := time.FixedZone("", 5*3600+1800)
	at := time.Date(2024, 2, 29, 23, 59, 59, 999_999_999, zone)
	want := time.Date(2024, 2, 29, 18, 29, 59, 0, time.UTC)
	wantError(t, "Add", ix.Add(ctx, index.Result{ID: "x", Created: at, Used: at}), nil)
	got, err := ix.Get(ctx, "x")
	wantError(t, "Get", err, nil)
	if got.Created != want || got.Used != want {
		t.Errorf("got %v and %v, want %v", got.Created, got.Used, want)
	}
	for before, ids := range map[time.Time][]string{at: nil, at.Add(1): {"x"}} {
		got, err := ix.LRU(ctx, before, 9)
		wantError(t, "LRU", err, nil)
		same(t, "LRU", ids, got)
	}
	zero := index.Result{ID: "zero"}
	wantError(t, "Add", ix.Add(ctx, zero), nil)
	got, err = ix.Get(ctx, "zero")
	wantError(t, "Get", err, nil)
	same(t, "zero time", zero, got)
}

// invalid shows that what cannot be held is refused and leaves nothing.
func invalid(t *testing.T, ix index.Index) {
	defer ix.Close()
	ctx := t.Context()
	now, far := time.Unix(1_700_000_000, 0), time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, r := range []index.Result{
		{Created: now, Used: now},
		{ID: "x", Parent: "x", Created: now, Used: now},
		{ID: "x", Created: far, Used: now},
		{ID: "x", Created: now, Used: far},
	} {
		wantError(t, fmt.Sprintf("Add %+v", r), ix.Add(ctx, r), index.ErrInvalid)
	}
	wantError(t, "SetUsed", ix.SetUsed(ctx, far, "x"), index.ErrInvalid)
	_, err := ix.LRU(ctx, far, 1)
	wantError(t, "LRU", err, index.ErrInvalid)
	n, err := ix.Count(ctx)
	wantError(t, "Count", err, nil)
	same(t, "Count", 0, n)
}

// concurrent shows that no child is lost or counted twice when many add at once.
func concurrent(t *testing.T, ix index.Index) {
	defer ix.Close()
	ctx := t.Context()
	now := time.Unix(1_700_000_000, 0)
	wantError(t, "Add", ix.Add(ctx, index.Result{ID: "base", Created: now, Used: now}), nil)
	const writers, each = 8, 10
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				id := fmt.Sprint(w, ".", i)
				// Each twice: the second replaces, and must not count again.
				for range 2 {
					if err := ix.Add(ctx, index.Result{ID: id, Parent: "base", Created: now, Used: now}); err != nil {
						t.Errorf("Add: %v", err)
					}
				}
				if err := ix.SetUsed(ctx, now.Add(time.Second), "base", id); err != nil {
					t.Errorf("SetUsed: %v", err)
				}
				if _, err := ix.LRU(ctx, now, 10); err != nil {
					t.Errorf("LRU: %v", err)
				}
				if i == 0 {
					if err := ix.Delete(ctx, id); err != nil {
						t.Errorf("Delete: %v", err)
					}
				}
			}
		})
	}
	wg.Wait()
	got, err := ix.Get(ctx, "base")
	wantError(t, "Get", err, nil)
	same(t, "Children", writers*(each-1), got.Children)
}

// every calls each method once.
func every(ctx context.Context, ix index.Index) map[string]error {
	errs := map[string]error{
		"Add":     ix.Add(ctx, index.Result{ID: "x"}),
		"SetUsed": ix.SetUsed(ctx, time.Time{}, "x"),
		"Delete":  ix.Delete(ctx, "x"),
		"Recount": ix.Recount(ctx, "x"),
	}
	_, errs["Get"] = ix.Get(ctx, "x")
	_, errs["Children"] = ix.Children(ctx, "x")
	_, errs["LRU"] = ix.LRU(ctx, time.Time{}, 1)
	_, errs["All"] = ix.All(ctx)
	_, errs["Count"] = ix.Count(ctx)
	return errs
}

// cancelled shows that a cancelled context stops every method, and changes nothing.
func cancelled(t *testing.T, ix index.Index) {
	defer ix.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, err := range every(ctx, ix) {
		wantError(t, name, err, context.Canceled)
	}
	n, err := ix.Count(t.Context())
	wantError(t, "Count", err, nil)
	same(t, "Count", 0, n)
}

// closed shows that a closed index says so.
func closed(t *testing.T, ix index.Index) {
	for range 2 {
		wantError(t, "Close", ix.Close(), nil)
	}
	for name, err := range every(t.Context(), ix) {
		wantError(t, name, err, index.ErrClosed)
	}
}
