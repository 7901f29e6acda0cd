// Command obsim rehearses builds: it runs the engine of obuilder on a ZFS in
// memory, with steps that run nothing, and shows the zfs commands that it is. It
// also runs such commands by themselves, on a machine that is kept.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"obuilder.org/obuilder/console"
	"obuilder.org/obuilder/engine"
	"obuilder.org/obuilder/sim"
	"obuilder.org/obuilder/source"
	"obuilder.org/obuilder/spec"
	"obuilder.org/obuilder/zfs"
)

func main() {
	k := &kept{c: console.New("obsim", os.Stdout, os.Stderr)}
	os.Exit(cmp.Or(k.c.Execute(command(k), os.Args[1:]), k.status))
}

func command(k *kept) *cobra.Command {
	root := &cobra.Command{
		Use:     "obsim",
		Short:   "Rehearse builds on a ZFS in memory",
		Example: "  obsim run examples/hello.spec --src examples/hello",
	}
	root.AddCommand(runCommand(k.c), faultsCommand(k.c))
	k.addTo(root)
	return root
}

// imageRoot is something that base images can be below.
var imageRoot = zfs.MustDataset("base-image")

// brewPaths are where Homebrew is, by the architecture of a Mac.
var brewPaths = map[string]string{"intel": "/usr/local", "apple": "/opt/homebrew"}

// snapshotModes are how results can be found.
var snapshotModes = map[string]engine.SnapshotMode{"mount": engine.MountSnapshots, "list": engine.ListSnapshots}

func runCommand(c *console.Console) *cobra.Command {
	src, arch, snapshots := "", "intel", "mount"
	var quiet bool
	var faults faultFlags
	cmd := &cobra.Command{
		Use:   "run SPEC...",
		Short: "Build specs one after the other and print the zfs commands, then zfs list",
		Long: `Run builds specs one after the other with the engine of obuilder, on a pool
in memory that has the base images that they name. The steps run nothing: each
prints its command. Then come the zfs commands as one could type them, and what
zfs list would print.

With --fault, commands go wrong as they do on a Mac, or as one wants; docs/faults.md
and obsim faults say what there is. Faults that never happened are named.`,
		Example: "  obsim run examples/hello.spec --src examples/hello\n  obsim run --arch apple --snapshots list my.spec\n" +
			"  obsim run --fault '(busy (dataset obuilder/result/*/home) (tries 3))' my.spec",
		Args: console.Args(1, math.MaxInt, "spec"),
		RunE: func(cmd *cobra.Command, files []string) error {
			events := c.Event
			if quiet {
				events = nil
			}
			o := sim.Options{BrewPath: brewPaths[arch], Snapshots: snapshotModes[snapshots]}
			var err error
			if o.Faults, err = faults.plan(); err != nil {
				return err
			}
			return rehearse(cmd.Context(), c, files, src, o, events)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&src, "src", "", "the `DIRECTORY` that copy steps copy from")
	if err := cmd.MarkFlagDirname("src"); err != nil {
		panic(err) // the flag was added above
	}
	console.ChoiceFlag(cmd, &arch, "arch", "the Mac to play, which decides where Homebrew is", "intel", "apple")
	console.ChoiceFlag(cmd, &snapshots, "snapshots", "how results are found", "mount", "list")
	faults.add(cmd)
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
	if m == nil {
		return err
	}
	defer reportFaults(c, o.Faults, m)
	if err != nil {
		return errors.Join(err, m.Transcript(c.Out()), printList(ctx, c, m))
	}
	for _, j := range jobs {
		if _, err = m.Engine.Build(ctx, j); err != nil {
			break
		}
	}
	if console.Status(err) == console.BadInput {
		return errors.Join(err, m.Engine.Close())
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

// baseImages names the base images of a spec and of its nested builds, but for
// those that no store can have.
func baseImages(s *spec.Spec) []string {
	var images []string
	if _, err := imageRoot.Child(s.From); err == nil {
		images = append(images, s.From)
	}
	for _, b := range s.Builds {
		images = append(images, baseImages(b.Spec)...)
	}
	return images
}
