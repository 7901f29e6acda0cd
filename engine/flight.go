package engine

import (
	"context"
	"errors"
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
	left   error // what it could not undo; part of err
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
func (e *Engine) share(ctx context.Context, id string, w watcher, l lead) (*flight, error) {
	for {
		f, leads, err := e.board(ctx, id, w.waiting, l)
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
		if !abandoned {
			return f, errors.Join(f.err, logErr)
		}
		w.waiting("the build that made this step was cancelled: making it again")
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

// board joins the flight of id, or starts it.
func (e *Engine) board(ctx context.Context, id string, waiting func(string), l lead) (f *flight, leads bool, err error) {
	for {
		if ctx.Err() != nil {
			return nil, false, context.Cause(ctx)
		}
		e.mu.Lock()
		f := e.inFlight[id]
		switch {
		case f == nil:
			f = e.launch(ctx, id, l)
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
func (e *Engine) launch(ctx context.Context, id string, l lead) *flight {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	f := &flight{id: id, users: 1, cancel: cancel, log: newStepLog(), done: make(chan struct{})}
	f.log.join()
	e.inFlight[id] = f
	e.flights.Go(func() {
		defer cancel()
		begin := e.clock.Now()
		f.err = l.do(ctx, f)
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
