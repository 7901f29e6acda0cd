package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/dustin/go-humanize/english"
	"github.com/spf13/cobra"

	"obuilder.org/obuilder/console"
	"obuilder.org/obuilder/engine"
	"obuilder.org/obuilder/index"
)

func (a *app) logCommand() *cobra.Command {
	var f jobFlags
	var all bool
	cmd := &cobra.Command{
		Use:   "log (ID | SPEC [SRC_DIR])",
		Short: "Print what the steps of a job have printed",
		Long: `Log prints what a step printed when it was built: the step whose id begins
with ID or, with --all, all the steps that it was built on as well. Given a
spec, it prints the logs of all its steps that are in the store.`,
		Example: `  obuilder log 645c2ef2
  obuilder log --all 645c2ef2
  obuilder log examples/hello.spec examples/hello`,
		Args: console.Args(1, 2, "id or spec"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := os.Stat(args[0]); err == nil || !isHex(args[0]) {
				return a.logSpec(cmd.Context(), &f, args)
			}
			if len(args) > 1 {
				return usage(fmt.Sprintf("%s is an id, and an id has no source directory", args[0]), "obuilder log --help shows how it is used")
			}
			return a.with(cmd.Context(), func(s *session) error {
				return a.logID(cmd.Context(), s, args[0], all)
			})
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "print the logs of the steps that it was built on as well")
	f.addSecrets(cmd)
	a.store.add(cmd)
	return cmd
}

// isHex reports whether s is made of hexadecimal digits, as an id is.
func isHex(s string) bool { return strings.Trim(s, "0123456789abcdefABCDEF") == "" }

func (a *app) logID(ctx context.Context, s *session, prefix string, all bool) error {
	id, err := s.find(ctx, prefix)
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
		a.console.EndLine()
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
			a.console.EndLine()
		}
		return nil
	})
	return errors.Join(err, close())
}

// A resultJSON is a result as list --json and show --json print it.
type resultJSON struct {
	ID         string    `json:"id"`
	Parent     string    `json:"parent,omitempty"`
	Created    time.Time `json:"created,omitzero"`
	Used       time.Time `json:"used,omitzero"`
	Children   int       `json:"children"`
	Dataset    string    `json:"dataset,omitempty"`
	Log        string    `json:"log,omitempty"`
	UsedBytes  *uint64   `json:"used_bytes,omitempty"`
	Referenced *uint64   `json:"referenced_bytes,omitempty"`
}

func resultFields(r index.Result) resultJSON {
	return resultJSON{ID: r.ID, Parent: r.Parent, Created: r.Created, Used: r.Used, Children: r.Children}
}

func (a *app) listCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:               "list",
		Short:             "List the results in the store, oldest first",
		Example:           "  obuilder list\n  obuilder list --json",
		Args:              console.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), func(s *session) error {
				results, err := s.Results(cmd.Context())
				if err != nil {
					return err
				}
				return a.printResults(results, asJSON)
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a result")
	a.store.add(cmd)
	return cmd
}

func (a *app) printResults(results []index.Result, asJSON bool) error {
	if !asJSON {
		const line = "%-64s  %-19s  %-19s  %v\n"
		a.console.Printf(line, "ID", "CREATED (UTC)", "USED (UTC)", "CHILDREN")
		for _, r := range results {
			a.console.Printf(line, r.ID, console.Time(r.Created), console.Time(r.Used), r.Children)
		}
		return nil
	}
	for _, r := range results {
		if err := a.console.JSON(resultFields(r)); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) showCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:               "show ID",
		Short:             "Show what the store knows of a result",
		Example:           "  obuilder show 645c2ef2\n  obuilder show --json 645c2ef2",
		Args:              console.Args(1, 1, "id"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), func(s *session) error {
				id, err := s.find(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				r, err := s.Show(cmd.Context(), id)
				if err != nil {
					return err
				}
				if asJSON {
					fields := resultFields(r.Result)
					fields.Dataset, fields.Log, fields.UsedBytes, fields.Referenced = r.Dataset, r.LogPath, &r.UsedBytes, &r.ReferencedBytes
					return a.console.JSON(fields)
				}
				a.printShown(r)
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON object")
	a.store.add(cmd)
	return cmd
}

func (a *app) printShown(r engine.Shown) {
	parent := r.Parent
	if parent == "" {
		parent = "- (a base image)"
	}
	for _, field := range [][2]string{
		{"id", r.ID},
		{"parent", parent},
		{"created", console.Time(r.Created) + " UTC"},
		{"used", console.Time(r.Used) + " UTC"},
		{"children", strconv.Itoa(r.Children)},
		{"dataset", r.Dataset},
		{"log", r.LogPath},
		{"size", humanize.IBytes(r.UsedBytes) + " of its own, " + humanize.IBytes(r.ReferencedBytes) + " in all"},
	} {
		a.console.Printf("%-12s %s\n", field[0]+":", field[1])
	}
}
func (a *app) deleteCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "delete ID...",
		Short:             "Delete results and all that was built on them",
		Example:           "  obuilder delete 645c2ef2",
		Args:              console.Args(1, math.MaxInt, "id"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), func(s *session) error {
				return a.delete(cmd.Context(), s, args)
			})
		},
	}
	a.store.add(cmd)
	return cmd
}

func (a *app) delete(ctx context.Context, s *session, prefixes []string) error {
	// All are looked up before one is deleted.
	ids := make([]string, len(prefixes))
	for i, prefix := range prefixes {
		id, err := s.find(ctx, prefix)
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
		if err := s.Delete(ctx, id, func(id string) {
			gone[id] = true
			a.console.Printf("deleted %s\n", id)
		}); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) cleanCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "clean",
		Short:             "Delete all results; base images and caches stay",
		Example:           "  obuilder clean",
		Args:              console.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), func(s *session) error {
				n := 0
				err := s.Clean(cmd.Context(), func(id string) {
					n++
					a.console.Printf("deleted %s\n", id)
				})
				a.console.Notice("%s deleted", english.Plural(n, "result", ""))
				return err
			})
		},
	}
	a.store.add(cmd)
	return cmd
}
