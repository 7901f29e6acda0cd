package engine

import (
	"context"
	"time"
)

// A flight is a step that is being built, or looked up, for one or more builds.
type flight struct {
	id     string
	users  int // builds that wait for it; at 0 it is being cancelled. Guarded by Engine.mu
	cancel context.CancelFunc
	log    *stepLog
	done   chan struct{} // closed when the fields below are set
	cached bool
	took   time.Duration
	err    error
}

// A watcher is told what happens to a step that is shared.
type watcher struct {
	waiting func(why string)
	opened  func(cached bool) // the log is there
	output  func([]byte)      // the log, from its beginning
}

// share gets the result id, having lead make it unless another build is at it
// already; w is told what happens. When ctx ends
// and nobody else waits for the step, it is cancelled, and share returns once
// nothing of it is left.
func (e *Engine) share(ctx context.Context, id string, w watcher, lead func(context.Context, *flight) error) (*flight, error) {
	f, err := e.board(ctx, id, w.waiting, lead)
	if err != nil {
		return nil, err
	}
	logErr := f.log.tail(ctx, func() { w.opened(f.cached) }, w.output)
	select {
	case <-f.done:
	case <-ctx.Done():
	}
	if ctx.Err() != nil {
		e.mu.Lock()
		f.users--
		last := f.users == 0
		e.mu.Unlock()
		if last {
			f.cancel()
			<-f.done
		}
		return nil, context.Cause(ctx)
	}
	if f.err != nil {
		return f, f.err
	}
	return f, logErr
}

// board joins the flight of id, or starts it.
func (e *Engine) board(ctx context.Context, id string, waiting func(string), lead func(context.Context, *flight) error) (*flight, error) {
	for {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		e.mu.Lock()
		f := e.inFlight[id]
		if f != nil && f.users > 0 {
			f.users++
			f.log.join()
			e.mu.Unlock()
			return f, nil
		}
		if f == nil {
			fctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
			f = &flight{id: id, users: 1, cancel: cancel, log: newStepLog(), done: make(chan struct{})}
			f.log.join()
			e.inFlight[id] = f
			e.mu.Unlock()
			e.flights.Go(func() {
				defer cancel()
				begin := e.clock.Now()
				f.err = lead(fctx, f)
				f.took = e.clock.Now().Sub(begin)
				e.mu.Lock()
				delete(e.inFlight, id)
				e.mu.Unlock()
				f.log.finish()
				close(f.done)
			})
			return f, nil
		}
		e.mu.Unlock()
		waiting("waiting for an earlier build of this step to be cancelled")
		select {
		case <-f.done:
		case <-ctx.Done():
		}
	}
}
