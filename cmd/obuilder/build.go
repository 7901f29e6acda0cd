package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"obuilder.org/obuilder/console"
	"obuilder.org/obuilder/engine"
	"obuilder.org/obuilder/source"
	"obuilder.org/obuilder/spec"
	"obuilder.org/obuilder/store"
)

// A jobFlags are the flags and arguments that name a job.
type jobFlags struct {
	file    string
	secrets []string
	json    bool
}

func (f *jobFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVarP(&f.file, "file", "f", "", "the spec to build; - for standard input")
	flags.StringArrayVar(&f.secrets, "secret", nil, "`ID:FILE`: the value of the secret ID is what FILE holds")
	if err := cmd.MarkFlagFilename("file", "spec"); err != nil {
		panic(err) // the flag was added above
	}
}

// readSpec reads and parses a spec.
func (a *app) readSpec(file string) (*spec.Spec, error) {
	data, name, err := a.readInput(file)
	if err != nil {
		return nil, err
	}
	return spec.Parse(name, data)
}

func (a *app) readInput(file string) (data []byte, name string, err error) {
	switch file {
	case "":
		return nil, "", &console.UsageError{Err: errors.New("no spec given"), Advice: "name one with -f FILE"}
	case "-":
		data, err = io.ReadAll(a.stdin)
		return data, "<stdin>", err
	}
	data, err = os.ReadFile(file)
	if err != nil {
		return nil, "", &console.UsageError{Err: fmt.Errorf("cannot read the spec: %w", err)}
	}
	return data, file, nil
}

// job reads what a job is made of. close ends the use of its source tree.
func (a *app) job(f *jobFlags, args []string) (j engine.Job, close func() error, err error) {
	if j.Spec, err = a.readSpec(f.file); err != nil {
		return j, nil, err
	}
	if j.Secrets, err = readSecrets(f.secrets); err != nil {
		return j, nil, err
	}
	if len(args) == 0 {
		return j, func() error { return nil }, nil
	}
	tree, err := source.OpenDir(args[0])
	if err != nil {
		return j, nil, err
	}
	j.Source = tree
	return j, tree.Close, nil
}

func readSecrets(flags []string) (map[string][]byte, error) {
	secrets := map[string][]byte{}
	for _, flag := range flags {
		id, file, ok := strings.Cut(flag, ":")
		if !ok {
			return nil, &console.UsageError{Err: fmt.Errorf("--secret %q is not of the form ID:FILE", flag)}
		}
		if _, twice := secrets[id]; twice {
			return nil, &console.UsageError{Err: fmt.Errorf("--secret %s is given twice", id)}
		}
		value, err := os.ReadFile(file)
		if err != nil {
			return nil, &console.UsageError{Err: fmt.Errorf("cannot read secret %s: %w", id, err)}
		}
		secrets[id] = value
	}
	return secrets, nil
}

// with opens what a command needs, calls do and closes it again.
func (a *app) with(ctx context.Context, do func(*session) error) error {
	s, err := a.open(ctx)
	if err != nil {
		return err
	}
	return errors.Join(do(s), s.Close())
}

func (a *app) buildCommand() *cobra.Command {
	var f jobFlags
	cmd := &cobra.Command{
		Use:   "build -f SPEC [SRC_DIR]",
		Short: "Build a spec, taking from the store every step that was built before",
		Long: `Build runs the steps of a spec, each on a clone of the one before, and takes
from the store every step that was built before. Copy steps copy from SRC_DIR.
The last line names the result.`,
		Example: `  obuilder build -f examples/hello.spec examples/hello
  obuilder build --store=zfs:/Volumes/obuilder -f my.spec --secret token:token.txt .
  obuilder build --json -f my.spec . | jq .`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			j, close, err := a.job(&f, args)
			if err != nil {
				return err
			}
			return errors.Join(a.build(cmd.Context(), &f, j), close())
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&f.json, "json", false, "print an event stream, one JSON object a line (docs/events.md)")
	return cmd
}

func (a *app) build(ctx context.Context, f *jobFlags, j engine.Job) error {
	c := a.console
	id := ""
	err := a.with(ctx, func(s *session) (err error) {
		a.noticeIsolation(s)
		if f.json {
			j.Events = c.JSONEvent
			if err := c.JSONStart(s.store.Name.String()); err != nil {
				return err
			}
		} else {
			j.Events = a.personEvents("reading the sources")
		}
		id, err = s.Build(ctx, j)
		return err
	})
	if f.json {
		if jsonErr := c.JSONEnd(id, err); jsonErr != nil {
			return errors.Join(err, jsonErr)
		}
		return err
	}
	if err == nil {
		c.Printf("Got: %q\n", id)
	}
	return err
}

// personEvents prints events for a person, with progress until the first.
func (a *app) personEvents(label string) func(engine.Event) {
	done := a.console.Progress(label)
	return func(ev engine.Event) {
		if done != nil {
			done()
			done = nil
		}
		a.console.Event(ev)
	}
}

// noticeIsolation says that a store for trying out does not isolate.
func (a *app) noticeIsolation(s *session) {
	switch s.store.Name.Kind {
	case store.Dir:
		a.console.Notice("steps run as you, with nothing between them and this machine (%s)", s.store.Name)
	case store.Fake:
		a.console.Notice("the store is in memory: steps are not run, and their results are gone at the end")
	}
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
	cmd := &cobra.Command{
		Use:   "plan -f SPEC [SRC_DIR]",
		Short: "Show the id of each step and whether it is in the store, without building",
		Long: `Plan reads a spec, hashes the sources that it copies, and shows for each step
the id of its result and whether the store has it. Nothing is built.`,
		Example: `  obuilder plan -f examples/hello.spec examples/hello
  obuilder plan --json -f my.spec .`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			j, close, err := a.job(&f, args)
			if err != nil {
				return err
			}
			err = a.with(cmd.Context(), func(s *session) error {
				done := a.console.Progress("reading the sources")
				defer done()
				var printErr error
				err := s.Plan(cmd.Context(), j, func(p engine.PlannedStep) {
					if f.json {
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
	cmd.Flags().BoolVar(&f.json, "json", false, "print one JSON object a step")
	return cmd
}

func plannedFields(p engine.PlannedStep) plannedJSON {
	return plannedJSON{Op: p.Op, Heading: p.Heading, Input: p.Input, ID: p.ID, Base: p.Base, Cached: p.Cached, Build: p.Build, Unknown: p.Unknown}
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
