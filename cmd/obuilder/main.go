// Command obuilder builds specs step by step on ZFS clones, snapshots what
// succeeds and never runs the same step twice. "obuilder --help" lists what it
// does, and "obuilder COMMAND --help" shows examples.
package main

import (
	"errors"
	"os"

	"github.com/spf13/cobra"

	"obuilder.org/obuilder/console"
)

func main() {
	a := &app{console: console.New("obuilder", os.Stdout, os.Stderr)}
	os.Exit(a.console.Execute(a.command(), os.Args[1:]))
}

// An app is what the commands share.
type app struct {
	console *console.Console
	store   storeFlags
}

func (a *app) command() *cobra.Command {
	root := &cobra.Command{
		Use:   "obuilder",
		Short: "Build specs step by step on ZFS clones, never the same step twice",
		Long: `Obuilder builds specs step by step on ZFS clones, snapshots what succeeds and
never runs the same step twice. Without --store or $OBUILDER_STORE it plays ZFS
in a directory of yours, to try it out.

The exit status is 0 when all went well, 1 when a build failed, 2 when the input
was not right, 3 when the machine or the store failed, and 130 when it was
cancelled.`,
		Example: `  obuilder build -f examples/hello.spec examples/hello
  obuilder list
  obuilder log 645c2ef2`,
	}
	root.AddCommand(a.buildCommand(), a.planCommand(), a.logCommand(), a.listCommand(), a.showCommand(), a.pruneCommand(),
		a.deleteCommand(), a.cleanCommand(), a.fsckCommand(), a.healthcheckCommand(), a.dockerfileCommand(), a.fmtCommand(), a.versionCommand())
	return root
}

// usage is a command line that is not right.
func usage(text, advice string) error {
	return &console.UsageError{Err: errors.New(text), Advice: advice}
}
