package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"obuilder.org/obuilder/console"
	"obuilder.org/obuilder/engine"
)

// A healthcheck is the flags of the command of that name, and what it has found.
type healthcheck struct {
	*app
	asJSON  bool
	limit   time.Duration
	minFree uint64
	holder  string // who uses the store
}

func (a *app) healthcheckCommand() *cobra.Command {
	h := &healthcheck{app: a}
	cmd := &cobra.Command{
		Use:   "healthcheck [STORE]",
		Short: "Look whether the store and the machine work, and build one small step",
		Long: `Healthcheck looks whether the pool is there, online and not full, and whether
something was noted that needs a reboot; then it builds one small step, which
prints a line, on the base image ` + engine.HealthcheckBase + `, and removes it again.

A store that another process uses is not waited for: who uses it is said, and
nothing is built.

The exit status is 0 when all is well, and 3 with the reason when it is not:
after a process that could not be killed, until the machine is rebooted.`,
		Example: `  obuilder healthcheck zfs:/Volumes/obuilder
  obuilder healthcheck --json --min-free=20GB zfs:/Volumes/obuilder`,
		Args:              console.Args(0, 1, "store"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				if a.store.name != "" {
					return usage("the store is given twice", "give it as an argument or with --store")
				}
				a.store.name = args[0]
			}
			if h.asJSON {
				if err := a.startStream(); err != nil {
					return err
				}
			}
			if h.limit <= 0 {
				return usage(fmt.Sprintf("--timeout=%s: it leaves no time", h.limit), "")
			}
			return h.run(cmd.Context())
		},
	}
	console.StreamFlag(cmd, &h.asJSON)
	cmd.Flags().DurationVar(&h.limit, "timeout", time.Minute, "how long it may take")
	cmd.Flags().Var(sizeFlag{&h.minFree}, "min-free", "how much must be free in the store")
	a.store.add(cmd)
	return cmd
}

// errInUse ends a wait for who uses the store.
var errInUse = errors.New("the store is in use")

func (h *healthcheck) run(parent context.Context) error {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	st, o, err := h.openStore(ctx, func(holder string) {
		h.holder = holder
		cancel(errInUse)
	})
	if err != nil {
		if h.holder != "" {
			return h.tell(engine.PoolHealth{}, nil)
		}
		return err
	}
	looked, done := context.WithTimeoutCause(ctx, h.limit, fmt.Errorf("the healthcheck took longer than %v", h.limit))
	seen, err := engine.CheckPool(looked, o, h.minFree)
	done()
	if err != nil {
		return errors.Join(h.tell(seen, err), st.Close())
	}
	s, err := openSession(ctx, st, o)
	if err != nil {
		if h.holder != "" {
			return h.tell(seen, nil)
		}
		return err
	}
	if err := h.tell(seen, s.Health()); err != nil {
		return errors.Join(err, s.Close())
	}
	h.aboutSteps(st.Name)
	events := h.console.Event
	if h.asJSON {
		events = h.console.JSONEvent
	}
	err = errors.Join(s.Healthcheck(ctx, h.limit, events), s.Close())
	if err == nil && !h.asJSON {
		h.console.Printf("healthy\n")
	}
	return err
}

// tell says what was found before something is built, and gives err back.
func (h *healthcheck) tell(seen engine.PoolHealth, err error) error {
	if h.asJSON {
		return errors.Join(err, h.console.JSONHealth(seen, h.holder, err))
	}
	if seen.State != "" {
		h.console.Printf("pool %s: %s, %s of %s free\n", seen.Pool, seen.State, humanize.IBytes(seen.Free), humanize.IBytes(seen.Total))
	}
	if err == nil && h.holder != "" {
		h.console.Printf("in use by %s: nothing was built\nhealthy\n", h.holder)
	}
	return err
}
