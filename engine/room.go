package engine

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"syscall"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/dustin/go-humanize/english"

	"obuilder.org/obuilder/index"
	"obuilder.org/obuilder/sandbox"
	"obuilder.org/obuilder/zfs"
)

const (
	// roomPercent is how much of a store is made free when a step has filled
	// it, besides twice what was free for the step.
	roomPercent = 5
	// roomWait bounds how long what was destroyed may take to become free:
	// ZFS frees in the background, and a block can be written again some
	// transactions after that (TXG_DEFER_SIZE in OpenZFS, of up to 5 s each).
	roomWait = time.Minute
	roomPoll = time.Second
)

// room tells how much the store can use and how much of that is free. It takes
// one command.
func (e *Engine) room(ctx context.Context) (size, free uint64, err error) {
	rows, err := e.fs.List(ctx, zfs.ListOptions{Roots: []zfs.Name{e.root}, Properties: []string{"used", "available"}})
	if err != nil {
		return 0, 0, err
	}
	for _, row := range rows {
		used, err1 := strconv.ParseUint(row.Values[0], 10, 64)
		free, err2 := strconv.ParseUint(row.Values[1], 10, 64)
		return used + free, free, errors.Join(err1, err2)
	}
	return 0, 0, fmt.Errorf("%s was not listed", e.root)
}

// full reports whether so little is free that a command which failed may have
// failed for that. What it wrote last, and could not write whole, it may have
// removed.
func full(size, free uint64) bool {
	return free < max(64<<20, min(size/100, 2<<30))
}

// noSpace gives a *NoSpaceError for an error that says that no space was left,
// and every other error as it is.
func (e *Engine) noSpace(err error) error {
	switch {
	case errors.As(err, new(*NoSpaceError)):
	case zfs.IsKind(err, zfs.NoSpace), errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, index.ErrFull):
		return &NoSpaceError{Store: e.root.String(), Err: err}
	}
	return err
}

// whyFailed looks whether a command has failed because no space was left: it
// says itself only that it has failed. What was made of its step is still there.
func (e *Engine) whyFailed(ctx context.Context, err error) error {
	if ctx.Err() != nil || !errors.As(err, new(*sandbox.ExitError)) {
		return err
	}
	size, free, lookErr := e.room(ctx)
	if lookErr != nil {
		e.log.Warn("cannot find out how much is free", "err", lookErr)
		return err
	}
	if !full(size, free) {
		return err
	}
	return &NoSpaceError{Store: e.root.String(), Err: err}
}

// makeRoom prunes because a step has filled the store, and reports whether the
// step may work now. What is free without that was not enough for it.
func (e *Engine) makeRoom(ctx context.Context) (made bool, why string, err error) {
	_, before, err := e.room(ctx)
	if err != nil {
		return false, "no room could be made", err
	}
	report, err := e.Prune(ctx, PrunePolicy{KeepFree: Space{Bytes: 2 * before, Percent: roomPercent}}, nil)
	if report.Results == 0 {
		return false, "nothing to prune", err
	}
	if err != nil {
		e.log.Warn("cannot prune all that was to go", "err", err)
	}
	why = fmt.Sprintf("%s pruned (%s)", english.Plural(report.Results, "result", ""), humanize.IBytes(report.Bytes))
	for begin := e.clock.Now(); ; {
		size, free, err := e.room(ctx)
		if err != nil {
			return false, why, err
		}
		switch {
		case free > before && !full(size, free):
			return true, why, nil
		case e.clock.Now().Sub(begin) > roomWait:
			return false, why, nil
		}
		if err := e.clock.Sleep(ctx, roomPoll); err != nil {
			return false, why, err
		}
	}
}

const (
	// lookEvery is how often KeepRoom looks how much is free.
	lookEvery = time.Minute
	// lookSeldom is how often at least.
	lookSeldom = time.Hour
)

// KeepRoom prunes as p says whenever less than p.KeepFree is free, until ctx
// ends, and tells report of each prune and of what has failed. A prune that
// has freed nothing is followed by the next after a longer time, up to an hour.
// Looking takes one command a minute. Close the engine after it has returned.
func (e *Engine) KeepRoom(ctx context.Context, p PrunePolicy, report func(PruneReport, error)) {
	for wait := lookEvery; ; {
		size, free, err := e.room(ctx)
		if err == nil && free >= p.KeepFree.of(size) {
			wait = lookEvery
		} else {
			var done PruneReport
			if err == nil {
				done, err = e.Prune(ctx, p, nil)
			}
			if done.Results > 0 {
				wait = lookEvery
			} else {
				wait = min(2*wait, lookSeldom)
			}
			if ctx.Err() == nil || done.Results > 0 {
				report(done, err)
			}
		}
		if e.clock.Sleep(ctx, wait) != nil {
			return
		}
	}
}
