package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"obuilder.org/obuilder/index"
	"obuilder.org/obuilder/zfs"
)

// A marker is a file that says what a process was doing when it ended:
// POOL/state/running/KIND-NAME. That of a step holds the ids that it is built
// on, the base first.
type marker struct {
	kind markerKind
	name string
}

type markerKind string

const (
	markStep   markerKind = "step"   // a result that is not complete
	markRead   markerKind = "read"   // a result whose home is mounted to copy from it
	markCache  markerKind = "cache"  // a dataset of cache-tmp
	markDelete markerKind = "delete" // a result that is being destroyed
)

// maxMarker bounds what is read of a marker, in bytes.
const maxMarker = 1 << 20

func (e *Engine) markerDir() string { return e.statePath + "/running" }

// mark writes a marker; the function it returns removes it.
func (e *Engine) mark(m marker, lineage ...string) (unmark func() error, err error) {
	name := e.markerPath(m)
	file, err := e.files.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("noting what is about to be made: %w", err)
	}
	text := make([]byte, 0, len(lineage)*(idLen+1))
	for _, id := range lineage {
		text = append(append(text, id...), '\n')
	}
	_, err = file.Write(text)
	if err == nil {
		err = file.Sync()
	}
	if err := errors.Join(err, file.Close()); err != nil {
		return nil, errors.Join(fmt.Errorf("noting what is about to be made: %w", err), e.files.Remove(name))
	}
	return func() error {
		if err := e.files.Remove(name); err != nil {
			return fmt.Errorf("removing the note of what was being made: %w", err)
		}
		return nil
	}, nil
}

// markers lists what a killed process was doing.
func (e *Engine) markers() ([]marker, error) {
	tree, err := e.files.Tree(e.markerDir())
	if err != nil {
		return nil, err
	}
	entries, err := tree.ReadDir(".")
	if err := errors.Join(err, tree.Close()); err != nil {
		return nil, err
	}
	var left []marker
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), ".") {
			continue // a Mac's own
		}
		kind, name, _ := strings.Cut(entry.Name(), "-")
		left = append(left, marker{markerKind(kind), name})
	}
	return left, nil
}

func (e *Engine) markerPath(m marker) string {
	return e.markerDir() + "/" + string(m.kind) + "-" + m.name
}

// recover clears away what a killed process has left, by its markers. A
// result that was complete all the same is put into the index.
func (e *Engine) recover(ctx context.Context, left []marker) error {
	if len(left) == 0 {
		return nil
	}
	if err := e.sandbox.Recover(ctx); err != nil {
		return err
	}
	var caches []zfs.Dataset
	for _, m := range left {
		e.log.Info("an earlier process was stopped", "at", string(m.kind), "name", m.name)
		if err := e.recoverMarker(ctx, m, &caches); err != nil {
			return fmt.Errorf("clearing away what an earlier process has left (%s %s): %w", m.kind, m.name, err)
		}
	}
	for _, main := range caches {
		if err := e.settleCache(ctx, main); err != nil {
			return fmt.Errorf("clearing away what an earlier process has left (%s): %w", main, err)
		}
	}
	for _, m := range left {
		if err := e.files.Remove(e.markerPath(m)); err != nil {
			return err
		}
	}
	return nil
}

// recoverMarker clears away what one marker is about, and adds to caches those
// that are to be settled after that.
func (e *Engine) recoverMarker(ctx context.Context, m marker, caches *[]zfs.Dataset) error {
	switch m.kind {
	case markCache:
		main, err := e.recoverCache(ctx, m.name)
		if !slices.Contains(*caches, main) {
			*caches = append(*caches, main)
		}
		return err
	case markStep, markRead, markDelete:
		if !ValidID(m.name) {
			return fmt.Errorf("%q is not an id", m.name)
		}
	default:
		return fmt.Errorf("unknown kind of marker")
	}
	switch {
	case m.kind == markStep:
		return e.recoverStep(ctx, m)
	case m.kind == markDelete:
		return e.recoverDelete(ctx, m.name)
	case e.isComplete(m.name):
		return e.unmount(ctx, e.dataset(m.name).MustChild("home"), e.homePath(m.name), true)
	}
	return nil
}

func (e *Engine) recoverStep(ctx context.Context, m marker) error {
	id := m.name
	if !e.isComplete(id) {
		return e.destroy(ctx, e.dataset(id), true)
	}
	if _, err := e.index.Get(ctx, id); !errors.Is(err, index.ErrNotFound) {
		return err
	}
	text, err := e.files.ReadFile(e.markerPath(m), maxMarker)
	if err != nil {
		return err
	}
	lineage := strings.Fields(string(text))
	for _, ancestor := range lineage {
		if !ValidID(ancestor) {
			return fmt.Errorf("%q is not an id", ancestor)
		}
	}
	return e.addToIndex(ctx, lineage, id)
}

// recoverDelete ends the deletion of a result, unless it could not have begun.
func (e *Engine) recoverDelete(ctx context.Context, id string) error {
	err := e.destroyResult(ctx, id)
	if zfs.IsKind(err, zfs.HasClones) && e.isComplete(id) {
		return nil
	}
	return err
}
