package main

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"obuilder.org/obuilder/console"
	"obuilder.org/obuilder/engine"
)

func (a *app) logCommand() *cobra.Command {
	var f jobFlags
	var all bool
	cmd := &cobra.Command{
		Use:   "log ID | log SPEC [SRC_DIR]",
		Short: "Print what the steps of a job have printed",
		Long: `Log prints what a step printed when it was built: the step whose id begins
with ID or, with --all, all the steps that it was built on as well. Given a
spec, it prints the logs of all its steps that are in the store.`,
		Example: `  obuilder log 645c2ef2
  obuilder log --all 645c2ef2
  obuilder log examples/hello.spec examples/hello`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := os.Stat(args[0]); err == nil {
				return a.logSpec(cmd.Context(), &f, args)
			}
			return a.with(cmd.Context(), func(s *session) error {
				return a.logID(cmd.Context(), s, args[0], all)
			})
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "print the logs of the steps that it was built on as well")
	cmd.Flags().StringArrayVar(&f.secrets, "secret", nil, "`ID:FILE`: the value of the secret ID, as the job was built with")
	return cmd
}

func (a *app) logID(ctx context.Context, s *session, prefix string, all bool) error {
	id, err := s.Find(ctx, prefix)
	if err != nil {
		return err
	}
	ids := []string{id}
	if all {
		if ids, err = s.Ancestors(ctx, id); err != nil {
			return err
		}
	}
	for _, id := range ids {
		if err := s.Log(ctx, id, a.console.Out()); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) logSpec(ctx context.Context, f *jobFlags, args []string) error {
	f.file = args[0]
	j, close, err := a.job(f, args[1:])
	if err != nil {
		return err
	}
	err = a.with(ctx, func(s *session) error {
		var steps []engine.PlannedStep
		if err := s.Plan(ctx, j, func(p engine.PlannedStep) { steps = append(steps, p) }); err != nil {
			return err
		}
		for _, p := range steps {
			a.console.Event(engine.Event{Kind: engine.EventHeading, Text: p.Heading})
			if !p.Cached {
				a.console.Event(engine.Event{Kind: engine.EventWaiting, Text: "not built yet"})
				continue
			}
			if err := s.Log(ctx, p.ID, a.console.Out()); err != nil {
				return err
			}
		}
		return nil
	})
	return errors.Join(err, close())
}

// A resultJSON is a result as list --json and show --json print it.
type resultJSON struct {
	ID         string     `json:"id"`
	Parent     string     `json:"parent,omitempty"`
	Created    *time.Time `json:"created,omitempty"`
	Used       *time.Time `json:"used,omitempty"`
	Children   int        `json:"children"`
	Dataset    string     `json:"dataset,omitempty"`
	Log        string     `json:"log,omitempty"`
	UsedBytes  *uint64    `json:"used_bytes,omitempty"`
	Referenced *uint64    `json:"referenced_bytes,omitempty"`
}

func optionalTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func (a *app) listCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List the results in the store, oldest first",
		Example: "  obuilder list\n  obuilder list --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), func(s *session) error {
				results, err := s.Results(cmd.Context())
				if err != nil {
					return err
				}
				if !asJSON {
					a.console.Printf("%-64s  %-19s  %-19s  %s\n", "ID", "CREATED", "USED", "CHILDREN")
				}
				for _, r := range results {
					if !asJSON {
						a.console.Printf("%s  %-19s  %-19s  %d\n", r.ID, console.Time(r.Created), console.Time(r.Used), r.Children)
						continue
					}
					if err := a.console.JSON(resultJSON{ID: r.ID, Parent: r.Parent, Created: optionalTime(r.Created),
						Used: optionalTime(r.Used), Children: r.Children}); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a result")
	return cmd
}

func (a *app) showCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "show ID",
		Short:   "Show what the store knows of a result",
		Example: "  obuilder show 645c2ef2",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), func(s *session) error {
				id, err := s.Find(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				r, err := s.Show(cmd.Context(), id)
				if err != nil {
					return err
				}
				if asJSON {
					return a.console.JSON(resultJSON{ID: r.ID, Parent: r.Parent, Created: optionalTime(r.Created), Used: optionalTime(r.Used),
						Children: r.Children, Dataset: r.Dataset, Log: r.LogPath, UsedBytes: &r.UsedBytes, Referenced: &r.ReferencedBytes})
				}
				parent := r.Parent
				if parent == "" {
					parent = "- (a base image)"
				}
				a.console.Printf("id:          %s\nparent:      %s\ncreated:     %s\nused:        %s\nchildren:    %d\ndataset:     %s\nlog:         %s\nsize:        %s of its own, %s in all\n",
					r.ID, parent, console.Time(r.Created), console.Time(r.Used), r.Children, r.Dataset, r.LogPath,
					humanize.IBytes(r.UsedBytes), humanize.IBytes(r.ReferencedBytes))
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON object")
	return cmd
}

func (a *app) deleteCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "delete ID...",
		Short:   "Delete results and all that was built on them",
		Example: "  obuilder delete 645c2ef2",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), func(s *session) error {
				// All are looked up before one is deleted.
				ids := make([]string, len(args))
				for i, arg := range args {
					id, err := s.Find(cmd.Context(), arg)
					if err != nil {
						return err
					}
					ids[i] = id
				}
				gone := map[string]bool{}
				for _, id := range ids {
					if gone[id] {
						continue
					}
					if err := s.Delete(cmd.Context(), id, func(id string) {
						gone[id] = true
						a.console.Printf("deleted %s\n", id)
					}); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
}

func (a *app) cleanCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "clean",
		Short:   "Delete all results; base images and caches stay",
		Example: "  obuilder clean",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), func(s *session) error {
				n := 0
				err := s.Clean(cmd.Context(), func(id string) {
					n++
					a.console.Printf("deleted %s\n", id)
				})
				a.console.Notice("%d results deleted", n)
				return err
			})
		},
	}
}

func (a *app) healthcheckCommand() *cobra.Command {
	var asJSON bool
	var limit time.Duration
	cmd := &cobra.Command{
		Use:   "healthcheck",
		Short: "Build one small step on the base image " + engine.HealthcheckBase + " and remove it again",
		Long: `Healthcheck builds one small step, which prints a line, on the base image
` + engine.HealthcheckBase + `, and removes it again. It succeeds when the store and the machine work.`,
		Example: "  obuilder healthcheck --store=zfs:/Volumes/obuilder",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			err := a.with(cmd.Context(), func(s *session) error {
				events := a.console.Event
				if asJSON {
					events = a.console.JSONEvent
					if err := a.console.JSONStart(s.store.Name.String()); err != nil {
						return err
					}
				}
				return s.Healthcheck(cmd.Context(), limit, events)
			})
			if asJSON {
				return errors.Join(err, a.console.JSONEnd("", err))
			}
			if err == nil {
				a.console.Printf("healthy\n")
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print an event stream, one JSON object a line (docs/events.md)")
	cmd.Flags().DurationVar(&limit, "timeout", time.Minute, "how long it may take")
	return cmd
}
