package engine

import (
	"context"
	"fmt"
	"io"
	"time"
)

// Limits bound how long a job may take. What is 0 is not bounded.
type Limits struct {
	Job     time.Duration // all of it, with what it waits for
	Step    time.Duration // the command of each step, once it runs
	Silence time.Duration // the command of a run step, without printing anything
}

// Check gives an error for limits that nothing can keep.
func (l Limits) Check() error {
	for what, limit := range map[string]time.Duration{"job": l.Job, "step": l.Step, "silence": l.Silence} {
		if limit < 0 {
			return fmt.Errorf("the %s timeout %v is negative", what, limit)
		}
	}
	return nil
}

// A TimeoutError is a job or a step that took longer than it may. When several
// builds share a step, the limits are those of the build that began it.
type TimeoutError struct {
	What  string // "job", "step" or "silence"
	Limit time.Duration
	Err   error // how what it was doing ended
}

func (e *TimeoutError) Error() string {
	if e.What == "silence" {
		return fmt.Sprintf("the step printed nothing for %v", e.Limit)
	}
	return fmt.Sprintf("the %s took longer than %v", e.What, e.Limit)
}

// Unwrap gives Err.
func (e *TimeoutError) Unwrap() error { return e.Err }

// start starts the limits of a command: active says that it has printed
// something, stop that it has ended.
func (l Limits) start(ctx context.Context) (limited context.Context, active, stop func()) {
	limited, cancel := context.WithCancelCause(ctx)
	timer := func(what string, limit time.Duration) *time.Timer {
		return time.AfterFunc(limit, func() { cancel(&TimeoutError{What: what, Limit: limit}) })
	}
	active, stops := func() {}, []*time.Timer{}
	if l.Step > 0 {
		stops = append(stops, timer("step", l.Step))
	}
	if l.Silence > 0 {
		silence := timer("silence", l.Silence)
		stops = append(stops, silence)
		active = func() { silence.Reset(l.Silence) }
	}
	return limited, active, func() {
		for _, t := range stops {
			t.Stop()
		}
		cancel(nil)
	}
}

// noting notes when something is written.
type noting struct {
	io.Writer
	active func()
}

func (n noting) Write(p []byte) (int, error) {
	n.active()
	return n.Writer.Write(p)
}
