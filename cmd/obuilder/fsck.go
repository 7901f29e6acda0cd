package main

import (
	"errors"

	"github.com/spf13/cobra"

	"obuilder.org/obuilder/console"
	"obuilder.org/obuilder/engine"
)

// A findingJSON is a line of fsck --json.
type findingJSON struct {
	Kind     string `json:"kind"`
	Name     string `json:"name"`
	Text     string `json:"text"`
	Repair   string `json:"repair"`
	Repaired bool   `json:"repaired"`
	Error    string `json:"error,omitempty"`
}

func (a *app) fsckCommand() *cobra.Command {
	var repair, asJSON bool
	cmd := &cobra.Command{
		Use:   "fsck",
		Short: "Find what is not as it should be in a store, and repair it",
		Long: `Fsck looks at everything that a store holds and prints a line for each thing that
is not as it should be, with what --repair does about it: results that were
never complete, that lack a part, or whose base image was rebuilt or is gone,
with all that was built on them; what prunes, caches and killed processes have
left; homes that are mounted although no step runs; and where the index is not
what the store is. Builds never use any of that, and replace it where it is in
their way.

Without --repair nothing is changed. Base images, caches, results that are good
and what obuilder has not made are never touched. A repair can be interrupted
at any time and run again.

Fsck cannot know a step of ocurrent/obuilder that is running from one that was
killed: end it before you use --repair.

The exit status is 0 when there is nothing, or all was repaired, and 3 when
something stays.`,
		Example: `  obuilder fsck --store=zfs:/Volumes/obuilder
  obuilder fsck --store=zfs:/Volumes/obuilder --repair`,
		Args:              console.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a.store.inspect = true
			return a.with(cmd.Context(), func(s *session) error {
				label := "looking at the store"
				if repair {
					label = "repairing the store"
				}
				done := a.console.Progress(label)
				n := 0
				var printErr error
				err := s.Fsck(cmd.Context(), repair, func(f engine.Finding) {
					n++
					if asJSON {
						printErr = errors.Join(printErr, a.console.JSON(findingFields(f)))
						return
					}
					a.printFinding(f, repair)
				})
				done()
				if err == nil && n == 0 && !asJSON {
					a.console.Printf("clean\n")
				}
				return errors.Join(err, printErr)
			})
		},
	}
	cmd.Flags().BoolVar(&repair, "repair", false, "repair what is found")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object for each thing that is found")
	a.store.add(cmd)
	return cmd
}

func findingFields(f engine.Finding) findingJSON {
	fields := findingJSON{Kind: string(f.Kind), Name: f.Name, Text: f.Text, Repair: f.Repair, Repaired: f.Repaired}
	if f.Err != nil {
		fields.Error = f.Err.Error()
	}
	return fields
}

func (a *app) printFinding(f engine.Finding, repair bool) {
	end := "to repair: " + f.Repair
	switch {
	case f.Repaired:
		end = "repaired"
	case repair:
		end = "not repaired: " + f.Err.Error()
	}
	a.console.Printf("%s: %s: %s; %s\n", f.Kind, f.Name, f.Text, end)
}
