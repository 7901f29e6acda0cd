package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"obuilder.org/obuilder/console"
	"obuilder.org/obuilder/sim"
	"obuilder.org/obuilder/zfs/fault"
)

// faultFlags are the flags that say what goes wrong.
type faultFlags struct {
	rules []string
	file  string
}

func (f *faultFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&f.rules, "fault", nil, "a `FAULT` that happens, such as '(busy (tries 3))'; may be given again")
	cmd.Flags().StringVar(&f.file, "faults", "", "a `FILE` of faults that happen")
}

// plan reads the faults, those of the file first.
func (f *faultFlags) plan() (fault.Plan, error) {
	var plan fault.Plan
	read := func(name string, src []byte) error {
		p, err := fault.Parse(name, src)
		if err != nil {
			return err
		}
		plan.Rules = append(plan.Rules, p.Rules...)
		if p.Seed != 0 {
			plan.Seed = p.Seed
		}
		return nil
	}
	if f.file != "" {
		src, err := os.ReadFile(f.file)
		if err != nil {
			return plan, &console.UsageError{Err: fmt.Errorf("cannot read the faults: %w", err)}
		}
		if err := read(f.file, src); err != nil {
			return plan, err
		}
	}
	for _, rule := range f.rules {
		if err := read("--fault", []byte(rule)); err != nil {
			return plan, err
		}
	}
	return plan, nil
}

// reportFaults says what a rehearsal with faults does not show by itself.
func reportFaults(c *console.Console, plan fault.Plan, m *sim.Sim) {
	if len(plan.Rules) == 0 {
		return
	}
	if took := m.Took().Round(time.Millisecond); took > 0 {
		c.Notice("%v would have gone by", took)
	}
	for _, rule := range m.Unfired() {
		c.Notice("warning: this fault never happened: %s", rule)
	}
}

func faultsCommand(c *console.Console) *cobra.Command {
	return &cobra.Command{
		Use:   "faults",
		Short: "List the faults that there are",
		Long: `Faults lists the faults that run --fault takes, each as it is without settings,
and what it does. docs/faults.md has their settings, and where those of a Mac
are known from.`,
		Args: console.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			for _, f := range fault.Faults() {
				c.Printf("%s\n    %s\n", f.Defaults(), strings.ReplaceAll(f.What, "`", ""))
			}
			return nil
		},
	}
}
