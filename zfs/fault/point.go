package fault

import (
	"context"
	"errors"
	"sync/atomic"

	"obuilder.org/obuilder/zfs"
)

// ErrCrashed is in the chain of every error after a crash.
var ErrCrashed = errors.New("crashed")

// An Action is what happens at a [Point].
type Action struct {
	fail   *zfs.Error
	before bool
}

// Fail is an action: the command is not run and gives err, with the command's
// own Argv when err has none.
func Fail(err zfs.Error) Action { return Action{fail: &err} }

// The actions that end the program as a crash of the machine would: every
// command from there on gives [ErrCrashed] without being run, and so do
// those that are running at the time.
var (
	CrashBefore = Action{before: true} // the command is not run
	CrashAfter  = Action{}             // the command is run, and nobody learns how it ended
)

// A Point is an [Interceptor] that acts on one command.
type Point struct {
	at     int64
	action Action

	seen  atomic.Int64
	fired atomic.Bool
	end   end
}

// At gives a point that does action at the command of the number n, the first
// being 0.
func At(n int, action Action) *Point { return &Point{at: int64(n), action: action} }

// Fired reports whether the program came as far as the point.
func (p *Point) Fired() bool { return p.fired.Load() }

// Intercept implements [Interceptor].
func (p *Point) Intercept(_ context.Context, argv []string, run func() error) error {
	return p.end.guard(argv, func() error {
		if p.seen.Add(1)-1 != p.at {
			return run()
		}
		p.fired.Store(true)
		if p.action.fail != nil {
			err := *p.action.fail
			if err.Argv == nil {
				err.Argv = argv
			}
			return &err
		}
		if !p.action.before {
			_ = run() // nobody is left to read how it ended
		}
		p.end.come(ErrCrashed)
		return nil // guard knows
	})
}
