// Command obsim rehearses builds: it runs the engine of obuilder on a ZFS in
// memory, with steps that run nothing, and shows the zfs commands that it is.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"github.com/spf13/cobra"

	"obuilder.org/obuilder/console"
	"obuilder.org/obuilder/engine"
	"obuilder.org/obuilder/sim"
	"obuilder.org/obuilder/source"
	"obuilder.org/obuilder/spec"
)

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// run is the program: it gives the exit status.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	c := console.New("obsim", stdout, stderr)
	root := &cobra.Command{
		Use:           "obsim",
		Short:         "Rehearse builds on a ZFS in memory",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return &console.UsageError{Err: errors.New("no command given"), Advice: "obsim --help lists the commands"}
		},
	}
	root.AddCommand(runCommand(c))
	console.UsageErrors(root)
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	return c.Fail(root.ExecuteContext(ctx))
}

// brewPaths are where Homebrew is, by the architecture of a Mac.
var brewPaths = map[string]string{"intel": "/usr/local", "apple": "/opt/homebrew"}

func runCommand(c *console.Console) *cobra.Command {
	var src, arch, snapshots string
	var quiet bool
	cmd := &cobra.Command{
		Use:   "run SPEC...",
		Short: "Build specs one after the other and print the zfs commands, then zfs list",
		Long: `Run builds specs one after the other with the engine of obuilder, on a pool
in memory that has the base images that they name. The steps run nothing: each
prints its command. Then come the zfs commands as one could type them, and what
zfs list would print.`,
		Example: "  obsim run examples/hello.spec --src examples/hello\n  obsim run --arch apple --snapshots list my.spec",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, files []string) error {
			brew, ok := brewPaths[arch]
			if !ok {
				return &console.UsageError{Err: fmt.Errorf("--arch=%s: it is intel or apple", arch)}
			}
			mode := engine.MountSnapshots
			switch snapshots {
			case "mount":
			case "list":
				mode = engine.ListSnapshots
			default:
				return &console.UsageError{Err: fmt.Errorf("--snapshots=%s: it is list or mount", snapshots)}
			}
			events := c.Event
			if quiet {
				events = nil
			}
			return rehearse(cmd.Context(), c, files, src, sim.Options{BrewPath: brew, Snapshots: mode}, events)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&src, "src", "", "the directory that copy steps copy from")
	flags.StringVar(&arch, "arch", "intel", "the Mac to play, which decides where Homebrew is: intel or apple")
	flags.StringVar(&snapshots, "snapshots", "mount", "how results are found: list or mount")
	flags.BoolVarP(&quiet, "quiet", "q", false, "print only the zfs commands and the list")
	return cmd
}

func rehearse(ctx context.Context, c *console.Console, files []string, src string, o sim.Options, events func(engine.Event)) error {
	var jobs []engine.Job
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return &console.UsageError{Err: fmt.Errorf("cannot read the spec: %w", err)}
		}
		s, err := spec.Parse(file, data)
		if err != nil {
			return err
		}
		o.Images = append(o.Images, baseImages(s)...)
		jobs = append(jobs, engine.Job{Spec: s, Events: events})
	}
	slices.Sort(o.Images)
	o.Images = slices.Compact(o.Images)
	if src != "" {
		tree, err := source.OpenDir(src)
		if err != nil {
			return err
		}
		defer tree.Close()
		for i := range jobs {
			jobs[i].Source = tree
		}
	}
	m, err := sim.New(ctx, o)
	if err != nil {
		return err
	}
	for _, j := range jobs {
		if _, err = m.Engine.Build(ctx, j); err != nil {
			break
		}
	}
	if events != nil {
		c.Printf("\n")
	}
	// The commands of a job that failed are what one wants to see.
	return errors.Join(err, m.Transcript(c.Out()), printList(ctx, c, m), m.Engine.Close())
}

func printList(ctx context.Context, c *console.Console, m *sim.Sim) error {
	c.Printf("\n")
	return m.List(context.WithoutCancel(ctx), c.Out())
}

// baseImages names the base images of a spec and of its nested builds.
func baseImages(s *spec.Spec) []string {
	images := []string{s.From}
	for _, b := range s.Builds {
		images = append(images, baseImages(b.Spec)...)
	}
	return images
}
