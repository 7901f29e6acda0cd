package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/dustin/go-humanize/english"
	"github.com/spf13/cobra"

	"obuilder.org/obuilder/console"
	"obuilder.org/obuilder/engine"
)

// A spaceFlag is a flag that is an amount of space: 50GB, 1.5TiB or 10%.
type spaceFlag struct{ *engine.Space }

func (f spaceFlag) Type() string { return "SIZE|PERCENT%" }

func (f spaceFlag) String() string {
	switch {
	case f.Space == nil || *f.Space == engine.Space{}:
		return ""
	case f.Percent > 0:
		return strconv.FormatFloat(f.Percent, 'g', -1, 64) + "%"
	}
	return humanize.IBytes(f.Bytes)
}

func (f spaceFlag) Set(text string) error {
	if number, ok := strings.CutSuffix(text, "%"); ok {
		percent, err := strconv.ParseFloat(number, 64)
		if err != nil || !(percent > 0 && percent <= 100) {
			return usage(fmt.Sprintf("%s is not a percentage", text), "write 10% for a tenth")
		}
		*f.Space = engine.Space{Percent: percent}
		return nil
	}
	bytes, err := parseSize(text)
	*f.Space = engine.Space{Bytes: bytes}
	return err
}

// A sizeFlag is a flag that is a number of bytes: 50GB or 1.5TiB.
type sizeFlag struct{ bytes *uint64 }

func (f sizeFlag) Type() string { return "SIZE" }

func (f sizeFlag) String() string {
	if f.bytes == nil || *f.bytes == 0 {
		return ""
	}
	return humanize.IBytes(*f.bytes)
}

func (f sizeFlag) Set(text string) (err error) {
	*f.bytes, err = parseSize(text)
	return err
}

func parseSize(text string) (uint64, error) {
	bytes, err := humanize.ParseBytes(text)
	if err != nil || bytes == 0 || strings.HasPrefix(text, "-") {
		return 0, usage(fmt.Sprintf("%s is not a size", text), "write 500MB, 20GB or 1.5TiB")
	}
	return bytes, nil
}

// pruneFlags are those that make a policy.
type pruneFlags struct {
	policy    engine.PrunePolicy
	threshold float64
}

func (f *pruneFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.Var(spaceFlag{&f.policy.KeepFree}, "keep-free", "prune until so much of the store is free")
	flags.Float64Var(&f.threshold, "threshold", 0, "the same as --keep-free=`PERCENT`%")
	flags.Var(sizeFlag{&f.policy.KeepBytes}, "keep-bytes", "prune until the results take up no more than that")
	flags.DurationVar(&f.policy.KeepAge, "keep-age", 0, "keep what was used within that time, such as 48h")
	flags.IntVar(&f.policy.KeepResults, "keep-results", 0, "keep at least `N` results")
	flags.IntVar(&f.policy.Limit, "limit", 0, "prune at most `N` results")
}

// check gives the policy that the flags make.
func (f *pruneFlags) check(cmd *cobra.Command) (engine.PrunePolicy, error) {
	p := f.policy
	if cmd.Flags().Changed("threshold") {
		if cmd.Flags().Changed("keep-free") {
			return p, usage("--threshold and --keep-free say the same", "give one of them")
		}
		if !(f.threshold > 0 && f.threshold <= 100) {
			return p, usage(fmt.Sprintf("--threshold=%v: it is a percentage", f.threshold), "")
		}
		p.KeepFree.Percent = f.threshold
	}
	if err := p.Check(); err != nil {
		return p, usage(err.Error(), "obuilder prune --help shows what can; obuilder clean deletes all results")
	}
	return p, nil
}

func (a *app) pruneCommand() *cobra.Command {
	var f pruneFlags
	var dryRun, asJSON bool
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Destroy the results that were not used for longest, to make room",
		Long: `Prune destroys results, the least recently used first, each after those that
were built on it, until there is as much room as --keep-free and --keep-bytes
ask for, and as far as --keep-age, --keep-results and --limit allow. Without
--keep-free and --keep-bytes it destroys all that these allow.

What is free is what can still be written: what df and zfs list show, and less
than what zpool list does.`,
		Example: `  obuilder prune --keep-free=20%
  obuilder prune --keep-bytes=200GB --keep-age=48h --dry-run
  obuilder prune --keep-results=1000`,
		Args:              console.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := f.check(cmd)
			if err != nil {
				return err
			}
			return a.with(cmd.Context(), func(s *session) error {
				if dryRun {
					return a.planPrune(cmd.Context(), s, p, asJSON)
				}
				return a.prune(cmd.Context(), s, p, asJSON)
			})
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "show what would go, and how much that frees")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a result")
	a.store.add(cmd)
	return cmd
}

// A prunedJSON is a line of prune --json.
type prunedJSON struct {
	ID     string    `json:"id"`
	Parent string    `json:"parent,omitempty"`
	Used   time.Time `json:"used"`
	Bytes  uint64    `json:"bytes"`
}

func (a *app) planPrune(ctx context.Context, s *session, p engine.PrunePolicy, asJSON bool) error {
	plan, err := s.PlanPrune(ctx, p)
	if err != nil {
		return err
	}
	for _, r := range plan.Results {
		if err := a.printPruned(r, "would prune", asJSON); err != nil {
			return err
		}
	}
	a.console.Notice("%s of %d would free %s of %s", english.Plural(len(plan.Results), "result", ""), plan.Total,
		humanize.IBytes(plan.Bytes), humanize.IBytes(plan.TotalBytes))
	a.noticeShort(plan.Short)
	return nil
}

func (a *app) prune(ctx context.Context, s *session, p engine.PrunePolicy, asJSON bool) error {
	done := a.console.Progress("looking at the results")
	defer func() { done() }()
	var printErr error
	report, err := s.Prune(ctx, p, func(r engine.Prunable) {
		done()
		if printErr == nil {
			printErr = a.printPruned(r, "pruned", asJSON)
		}
		done = a.console.Progress("pruning")
	})
	if err == nil {
		err = printErr
	}
	a.noticePruned(report)
	return err
}

func (a *app) printPruned(r engine.Prunable, what string, asJSON bool) error {
	if asJSON {
		return a.console.JSON(prunedJSON(r))
	}
	a.console.Printf("%s %s  last used %s  %s\n", what, r.ID, console.Time(r.Used), humanize.IBytes(r.Bytes))
	return nil
}

func (a *app) noticePruned(r engine.PruneReport) {
	a.console.Notice("%s pruned: %s", english.Plural(r.Results, "result", ""), humanize.IBytes(r.Bytes))
	a.noticeShort(r.Short)
}

func (a *app) noticeShort(short uint64) {
	if short > 0 {
		a.console.Notice("that is %s less than asked for: the other results are in use or to be kept", humanize.IBytes(short))
	}
}

// keepRoom has the store pruned in the background while less is free than keep
// says, from the first event of a job on: before that nobody knows what it
// needs. stop ends that.
func (a *app) keepRoom(ctx context.Context, s *session, keep engine.Space, j *engine.Job) (stop func()) {
	if keep == (engine.Space{}) {
		return func() {}
	}
	begun := make(chan struct{})
	begin := sync.OnceFunc(func() { close(begun) })
	events := j.Events
	j.Events = func(ev engine.Event) {
		begin()
		events(ev)
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-begun:
		case <-ctx.Done():
			return
		}
		s.KeepRoom(ctx, engine.PrunePolicy{KeepFree: keep}, func(r engine.PruneReport, err error) {
			a.noticePruned(r)
			if err != nil {
				a.console.Notice("cannot prune: %v", err)
			}
		})
	}()
	return func() {
		cancel()
		<-ended
	}
}
