package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"obuilder.org/obuilder/console"
	"obuilder.org/obuilder/engine"
	"obuilder.org/obuilder/source"
	"obuilder.org/obuilder/spec"
)

// The jobFlags are those that name a job.
type jobFlags struct {
	file    string
	secrets []string
}

func (f *jobFlags) add(cmd *cobra.Command) {
	addSpecFlag(cmd, &f.file)
	f.addSecrets(cmd)
}

func (f *jobFlags) addSecrets(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&f.secrets, "secret", nil, "give the secret ID the value that FILE holds, as `ID:FILE`")
}

func addSpecFlag(cmd *cobra.Command, file *string) {
	cmd.Flags().StringVarP(file, "file", "f", "", "the `SPEC`; - for standard input")
	if err := cmd.MarkFlagFilename("file", "spec"); err != nil {
		panic(err) // the flag was added above
	}
}

// readSpec reads and parses a spec.
func readSpec(file string) (*spec.Spec, error) {
	if file == "" {
		return nil, usage("no spec given", "name one with -f FILE")
	}
	data, name, err := readInput(file)
	if err != nil {
		return nil, err
	}
	return spec.Parse(name, data)
}

// readInput reads a spec, which - has on standard input.
func readInput(file string) (data []byte, name string, err error) {
	if file == "-" {
		name = "<stdin>"
		data, err = io.ReadAll(os.Stdin)
	} else {
		name = file
		data, err = os.ReadFile(file)
	}
	if err != nil {
		return nil, "", &console.UsageError{Err: fmt.Errorf("cannot read the spec: %w", err)}
	}
	return data, name, nil
}

// job reads what a job is made of. close ends the use of its source tree.
func (a *app) job(f *jobFlags, sourceDir []string) (j engine.Job, close func() error, err error) {
	if j.Spec, err = readSpec(f.file); err != nil {
		return j, nil, err
	}
	if j.Secrets, err = readSecrets(f.secrets); err != nil {
		return j, nil, err
	}
	asked := map[string]bool{}
	noteSecrets(j.Spec, asked)
	for _, id := range slices.Sorted(maps.Keys(j.Secrets)) {
		if !asked[id] {
			a.console.Notice("no step asks for the secret %s", id)
		}
	}
	if len(sourceDir) == 0 {
		return j, func() error { return nil }, nil
	}
	tree, err := source.OpenDir(sourceDir[0])
	if err != nil {
		return j, nil, err
	}
	j.Source = tree
	return j, tree.Close, nil
}

func readSecrets(flags []string) (map[string][]byte, error) {
	secrets := map[string][]byte{}
	for _, flag := range flags {
		id, file, _ := strings.Cut(flag, ":")
		if id == "" || file == "" {
			return nil, usage(fmt.Sprintf("--secret %q is not of the form ID:FILE", flag), "")
		}
		if _, twice := secrets[id]; twice {
			return nil, usage(fmt.Sprintf("--secret %s is given twice", id), "")
		}
		value, err := os.ReadFile(file)
		if err != nil {
			return nil, &console.UsageError{Err: fmt.Errorf("cannot read secret %s: %w", id, err)}
		}
		secrets[id] = value
	}
	return secrets, nil
}

// noteSecrets notes the ids of the secrets that the steps of s ask for.
func noteSecrets(s *spec.Spec, asked map[string]bool) {
	for _, b := range s.Builds {
		noteSecrets(b.Spec, asked)
	}
	for _, op := range s.Ops {
		if run, ok := op.(spec.Run); ok {
			for _, secret := range run.Secrets {
				asked[secret.ID] = true
			}
		}
	}
}

func (a *app) buildCommand() *cobra.Command {
	var f jobFlags
	var asJSON bool
	var keepFree engine.Space
	var limits engine.Limits
	cmd := &cobra.Command{
		Use:   "build -f SPEC [SRC_DIR]",
		Short: "Build a spec, taking from the store every step that was built before",
		Long: `Build runs the steps of a spec, each on a clone of the one before, and takes
from the store every step that was built before. Copy steps copy from SRC_DIR.
The last line names the result.`,
		Example: `  obuilder build -f examples/hello.spec examples/hello
  obuilder build --store=zfs:/Volumes/obuilder -f my.spec --secret token:token.txt .
  obuilder build --json -f my.spec . | jq .`,
		Args:              console.Args(0, 1, "source directory"),
		ValidArgsFunction: directories,
		RunE: func(cmd *cobra.Command, args []string) error {
			if asJSON {
				if err := a.startStream(); err != nil {
					return err
				}
			}
			if err := limits.Check(); err != nil {
				return usage(err.Error(), "0 is for none")
			}
			j, close, err := a.job(&f, args)
			if err != nil {
				return err
			}
			j.Limits = limits
			return errors.Join(a.build(cmd.Context(), j, keepFree, asJSON), close())
		},
	}
	f.add(cmd)
	flags := cmd.Flags()
	flags.DurationVar(&limits.Job, "job-timeout", 0, "how long all of it may take, such as 2h (default no limit)")
	flags.DurationVar(&limits.Step, "step-timeout", 0, "how long the command of a step may run (default no limit)")
	flags.DurationVar(&limits.Silence, "silence-timeout", 0, "how long a run step may print nothing (default no limit)")
	flags.Var(spaceFlag{&keepFree}, "prune-threshold",
		"prune in the background while less than that is free (default never)")
	console.StreamFlag(cmd, &asJSON)
	a.store.add(cmd)
	return cmd
}

// startStream begins an event stream, with the store that it is about.
func (a *app) startStream() error {
	name := a.store.requested()
	if parsed, err := a.store.parse(); err == nil {
		name = parsed.String()
	}
	return a.console.JSONStart(name)
}

func (a *app) build(ctx context.Context, j engine.Job, keepFree engine.Space, asJSON bool) error {
	return a.withSteps(ctx, func(s *session) error {
		j.Events = a.console.Event
		if asJSON {
			j.Events = a.console.JSONEvent
		}
		defer a.console.Progress("reading the sources")()
		defer a.keepRoom(ctx, s, keepFree, &j)()
		id, err := s.Build(ctx, j)
		switch {
		case err != nil:
			return err
		case asJSON:
			a.console.JSONResult(id)
		default:
			a.console.Printf("Got: %q\n", id)
		}
		return nil
	})
}

// A plannedJSON is a line of plan --json.
type plannedJSON struct {
	Op      string   `json:"op"`
	Heading string   `json:"heading"`
	Input   string   `json:"input"`
	ID      string   `json:"id"`
	Base    string   `json:"base,omitempty"`
	Cached  bool     `json:"cached"`
	Build   []string `json:"build,omitempty"`
	Unknown string   `json:"unknown,omitempty"`
}

func (a *app) planCommand() *cobra.Command {
	var f jobFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "plan -f SPEC [SRC_DIR]",
		Short: "Show the id of each step and whether it is in the store, without building",
		Long: `Plan reads a spec, hashes the sources that it copies, and shows for each step
the id of its result and whether the store has it. Nothing is built.

With --json a line has "input", of which the id is the hash. That of a step with
secrets has their values in it: do not show it around.`,
		Example: `  obuilder plan -f examples/hello.spec examples/hello
  obuilder plan --json -f my.spec .`,
		Args:              console.Args(0, 1, "source directory"),
		ValidArgsFunction: directories,
		RunE: func(cmd *cobra.Command, args []string) error {
			j, close, err := a.job(&f, args)
			if err != nil {
				return err
			}
			err = a.with(cmd.Context(), func(s *session) error {
				defer a.console.Progress("reading the sources")()
				var printErr error
				err := s.Plan(cmd.Context(), j, func(p engine.PlannedStep) {
					if asJSON {
						printErr = errors.Join(printErr, a.console.JSON(plannedFields(p)))
						return
					}
					a.printPlanned(p)
				})
				return errors.Join(err, printErr)
			})
			return errors.Join(err, close())
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a step")
	a.store.add(cmd)
	return cmd
}

func plannedFields(p engine.PlannedStep) plannedJSON {
	return plannedJSON{
		Op: p.Op, Heading: p.Heading, Input: p.Input, ID: p.ID, Base: p.Base, Cached: p.Cached, Build: p.Build, Unknown: p.Unknown,
	}
}

func (a *app) printPlanned(p engine.PlannedStep) {
	state, id := "miss", p.ID
	switch {
	case p.Unknown != "":
		state, id = "?   ", p.Unknown
	case p.Cached:
		state = "hit "
	}
	in := ""
	if len(p.Build) > 0 {
		in = strings.Join(p.Build, "/") + " "
	}
	a.console.Printf("%s  %s%s\n      %s\n", state, in, strings.ReplaceAll(p.Heading, "\n", "\n      "), id)
}

// directories has a shell complete one directory.
func directories(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return nil, cobra.ShellCompDirectiveFilterDirs
}
