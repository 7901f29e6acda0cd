package engine

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// A flight is a step that is being built, or looked up, for one or more builds.
type flight struct {
	id     string
	cancel context.CancelFunc
	log    *stepLog

	// Guarded by Engine.mu.
	users     int  // builds that wait for it
	closed    bool // it is about to end without a result: nobody may join it any more
	abandoned bool // the build that led it was cancelled: whoever else waits for it begins anew

	done   chan struct{} // closed when the fields below are set
	cached bool
	took   time.Duration
	err    error
	room   string // what was done to make room for the step; "" when it makes no sense to begin anew
	left   error  // what it could not undo; part of err
}

// A lead makes a result, or finds it.
type lead struct {
	do func(context.Context, *flight) error
	// own says that do uses what its build has only while it runs, as the
	// files that it copies: the flight cannot outlive the build.
	own bool
}

// A watcher is told what happens to a step that is shared.
type watcher struct {
	waiting func(why string)
	opened  func(cached bool) // the log is there
	output  func([]byte)      // the log, from its beginning
}

// share gets the result id, having l make it unless another build is at it
// already; w is told what happens. When ctx ends and nobody else waits for the
// step, it is cancelled, and share returns once nothing of it is left: the
// flight is given then too, with what could not be undone.
//
// When the step has filled the store, room is made, and it is made once more.
func (e *Engine) share(ctx context.Context, id string, w watcher, l lead) (*flight, error) {
	for again := false; ; {
		f, leads, err := e.board(ctx, id, w.waiting, l, again)
		if err != nil {
			return nil, err
		}
		logErr := f.log.tail(ctx, func() { w.opened(f.cached) }, w.output)
		select {
		case <-f.done:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			return e.leave(ctx, f, leads && l.own)
		}
		if f.err == nil {
			return f, logErr
		}
		e.mu.Lock()
		abandoned := f.abandoned
		e.mu.Unlock()
		switch {
		case abandoned:
			w.waiting("the build that made this step was cancelled: making it again")
		case f.room != "" && !again:
			again = true
			w.waiting("no space was left: " + f.room + "; making this step again")
		default:
			return f, errors.Join(f.err, logErr)
		}
	}
}

// leave ends the part in a flight of a build that is cancelled. must says that
// the flight cannot go on without it.
func (e *Engine) leave(ctx context.Context, f *flight, must bool) (*flight, error) {
	e.mu.Lock()
	f.users--
	ends := must || f.users == 0
	if ends {
		f.closed, f.abandoned = true, true
	}
	e.mu.Unlock()
	if !ends {
		return nil, context.Cause(ctx)
	}
	f.cancel()
	<-f.done
	return f, errors.Join(context.Cause(ctx), f.left)
}

// board joins the flight of id, or starts it; again says that room was made for it.
func (e *Engine) board(ctx context.Context, id string, waiting func(string), l lead, again bool) (f *flight, leads bool, err error) {
	for {
		if ctx.Err() != nil {
			return nil, false, context.Cause(ctx)
		}
		e.mu.Lock()
		f := e.inFlight[id]
		switch {
		case f == nil:
			f = e.launch(ctx, id, l, again)
			e.mu.Unlock()
			return f, true, nil
		case !f.closed:
			f.users++
			f.log.join()
			e.mu.Unlock()
			return f, false, nil
		}
		e.mu.Unlock()
		waiting("waiting for an earlier build of this step to be gone")
		select {
		case <-f.done:
		case <-ctx.Done():
		}
	}
}

// launch starts a flight. The caller holds e.mu.
func (e *Engine) launch(ctx context.Context, id string, l lead, again bool) *flight {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	f := &flight{id: id, users: 1, cancel: cancel, log: newStepLog(), done: make(chan struct{})}
	f.log.join()
	e.inFlight[id] = f
	e.flights.Go(func() {
		defer cancel()
		begin := e.clock.Now()
		f.err = e.noSpace(l.do(ctx, f))
		if noSpace := (*NoSpaceError)(nil); !again && f.left == nil && errors.As(f.err, &noSpace) {
			e.seal(f)
			made, why, err := e.makeRoom(ctx)
			if made {
				f.room = why
			} else {
				f.err = errors.Join(&NoSpaceError{noSpace.Store, fmt.Errorf("%s; %w", why, noSpace.Err)}, err)
			}
		}
		e.noteHealth(f.err, e.dataset(f.id).String())
		f.took = e.clock.Now().Sub(begin)
		e.mu.Lock()
		delete(e.inFlight, id)
		e.mu.Unlock()
		f.log.finish()
		close(f.done)
	})
	return f
}

// seal keeps builds from joining a flight that is about to end without a result.
func (e *Engine) seal(f *flight) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f.closed = true
}
