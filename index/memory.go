package index

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// Memory returns an empty index that lives as long as the process. All methods
// but All and LRU take a time that does not depend on the number of results.
func Memory() Index { return &memory{rows: make(map[string]*row)} }

type row struct {
	Result
	children map[string]struct{}
}

type memory struct {
	mu   sync.Mutex
	rows map[string]*row // nil once closed
}

var _ Index = (*memory)(nil)

// lock takes the index for one method, unless it may not run.
func (m *memory) lock(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	if m.rows == nil {
		m.mu.Unlock()
		return ErrClosed
	}
	return nil
}

func (m *memory) Add(ctx context.Context, r Result) error {
	if err := r.check(); err != nil {
		return err
	}
	if err := m.lock(ctx); err != nil {
		return err
	}
	defer m.mu.Unlock()
	parent := m.rows[r.Parent]
	if r.Parent != "" && parent == nil {
		return fmt.Errorf("parent %s of %s: %w", r.Parent, r.ID, ErrNotFound)
	}
	r.Created, r.Used, r.Children = second(r.Created), second(r.Used), 0
	old := m.rows[r.ID]
	if old == nil {
		old = new(row)
		m.rows[r.ID] = old
	} else if before := m.rows[old.Parent]; before != nil {
		delete(before.children, r.ID)
	}
	old.Result = r
	if parent != nil {
		if parent.children == nil {
			parent.children = make(map[string]struct{})
		}
		parent.children[r.ID] = struct{}{}
	}
	return nil
}

func (m *memory) SetUsed(ctx context.Context, used time.Time, ids ...string) error {
	if err := checkTime(used); err != nil {
		return err
	}
	if err := m.lock(ctx); err != nil {
		return err
	}
	defer m.mu.Unlock()
	used = second(used)
	for _, id := range ids {
		if r := m.rows[id]; r != nil {
			r.Used = used
		}
	}
	return nil
}

// result is the row as callers see it.
func (r *row) result() Result {
	res := r.Result
	res.Children = len(r.children)
	return res
}

func (m *memory) Get(ctx context.Context, id string) (Result, error) {
	if err := m.lock(ctx); err != nil {
		return Result{}, err
	}
	defer m.mu.Unlock()
	r := m.rows[id]
	if r == nil {
		return Result{}, fmt.Errorf("%s: %w", id, ErrNotFound)
	}
	return r.result(), nil
}

func (m *memory) Children(ctx context.Context, id string) ([]string, error) {
	if err := m.lock(ctx); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	r := m.rows[id]
	if r == nil {
		return nil, fmt.Errorf("%s: %w", id, ErrNotFound)
	}
	return slices.Sorted(maps.Keys(r.children)), nil
}

func (m *memory) Delete(ctx context.Context, id string) error {
	if err := m.lock(ctx); err != nil {
		return err
	}
	defer m.mu.Unlock()
	r := m.rows[id]
	if r == nil {
		return fmt.Errorf("%s: %w", id, ErrNotFound)
	}
	if len(r.children) > 0 {
		return fmt.Errorf("%s: %w", id, ErrHasChildren)
	}
	delete(m.rows, id)
	if p := m.rows[r.Parent]; p != nil {
		delete(p.children, id)
	}
	return nil
}

// Recount has nothing to set right: children are counted when they are asked for.
func (m *memory) Recount(ctx context.Context, id string) error {
	_, err := m.Get(ctx, id)
	return err
}

func (m *memory) LRU(ctx context.Context, before time.Time, limit int) ([]string, error) {
	if err := checkTime(before); err != nil {
		return nil, err
	}
	if err := m.lock(ctx); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	before = second(before)
	var rows []*row
	for _, r := range m.rows {
		if len(r.children) == 0 && r.Used.Before(before) {
			rows = append(rows, r)
		}
	}
	slices.SortFunc(rows, func(a, b *row) int {
		return cmp.Or(a.Used.Compare(b.Used), strings.Compare(a.ID, b.ID))
	})
	var ids []string
	for _, r := range rows[:min(len(rows), max(limit, 0))] {
		ids = append(ids, r.ID)
	}
	return ids, nil
}

func (m *memory) All(ctx context.Context) ([]Result, error) {
	if err := m.lock(ctx); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	all := make([]Result, 0, len(m.rows))
	for _, r := range m.rows {
		all = append(all, r.result())
	}
	slices.SortFunc(all, func(a, b Result) int {
		return cmp.Or(a.Created.Compare(b.Created), strings.Compare(a.ID, b.ID))
	})
	return all, nil
}

func (m *memory) Count(ctx context.Context) (int, error) {
	if err := m.lock(ctx); err != nil {
		return 0, err
	}
	defer m.mu.Unlock()
	return len(m.rows), nil
}

func (m *memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rows = nil
	return nil
}
