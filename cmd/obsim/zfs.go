package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"obuilder.org/obuilder/console"
	"obuilder.org/obuilder/sim/state"
	"obuilder.org/obuilder/zfs/zfstest/session"
)

// kept says which machine the commands zfs, zpool and script are for.
type kept struct {
	c             *console.Console
	file, session string
	system        string
	seed          uint64 // 0 when it is not given
	status        int    // of the command of zfs
}

const defaultSession = "default"

// addTo adds the commands to root, and their flags, which come before them:
// what comes after zfs is for zfs.
func (k *kept) addTo(root *cobra.Command) {
	flags := root.Flags()
	flags.StringVar(&k.file, "state", "", "for zfs, zpool and script: the `FILE` that keeps the machine")
	flags.StringVar(&k.session, "session", "", "for zfs, zpool and script: the `NAME` of a machine that is kept among your caches")
	console.ChoiceFlag(root, &k.system, "system", "for zfs, zpool and script: the system of a machine that is begun (default macos)", "macos", "linux")
	flags.Uint64Var(&k.seed, "seed", 0, "for zfs, zpool and script: a `NUMBER` from which the guids of a machine that is begun follow (default 1)")
	root.TraverseChildren = true
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		switch cmd.Name() {
		case "zfs", "zpool", "script", root.Name():
			return nil
		}
		for _, name := range []string{"state", "session", "system", "seed"} {
			if flags.Changed(name) {
				return &console.UsageError{Err: fmt.Errorf("--%s is not for %s", name, cmd.Name()), Advice: "it is for zfs, zpool and script"}
			}
		}
		return nil
	}
	root.AddCommand(k.program("zfs"), k.program("zpool"), k.script())
}

func (k *kept) program(name string) *cobra.Command {
	return &cobra.Command{
		Use:   name + " [ARGUMENT]...",
		Short: "Run " + name + " on a machine in memory that is kept from command to command",
		Long: `Run ` + name + ` on a machine in memory. It answers as OpenZFS does, and says so where
it does not know what OpenZFS does. The machine begins with a pool obuilder on
/Volumes/obuilder, and is kept in the file that --state or $OBSIM_STATE names, or
as a session. To begin anew, remove the file; that of a session is below
your caches, obsim/NAME.state. Its files, and files to make pools on, are made
with obsim script.

What comes before ` + name + ` is for obsim, what comes after it for ` + name + `. The exit
status is that of ` + name + `: 0, 1 when it failed, 2 for a command line that is not
right, 125 for what is not modelled. When obsim itself fails, it says so in a
line that begins with "obsim:", and the exit status is 3, or 2 for its own flags.`,
		Example: map[string]string{
			"zfs":   "  obsim zfs create obuilder/a\n  obsim --state my.state zfs list -r -t all obuilder",
			"zpool": "  obsim zpool list\n  printf 'mkdir /disks\\ntruncate /disks/one 1073741824\\n' | obsim --session mine script\n  obsim --session mine zpool create tank /disks/one",
		}[name],
		DisableFlagParsing: true,
		ValidArgsFunction:  cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := k.open(cmd.Context(), true)
			if err != nil {
				return err
			}
			k.status, err = s.Run(cmd.Context(), append([]string{name}, args...), os.Stdin, k.c.Out(), k.c.Log())
			return errors.Join(err, s.Close())
		},
	}
}

func (k *kept) script() *cobra.Command {
	return &cobra.Command{
		Use:   "script [FILE]",
		Short: "Run a list of zfs and zpool commands, and print each with its answer",
		Long: `Run the commands in FILE, or in what is typed, one a line, on a machine in
memory: a fresh one, or that of --state, $OBSIM_STATE or --session. Each is printed
with its answer: what begins with 1| is standard output, with 2| standard error,
and =N is the exit status unless it is 0. A command of zfs that fails does not
end the script; a line that is not a command does.

Besides zfs and zpool, with >NAME and <NAME for streams, there are mkdir DIR,
write FILE TEXT, fill FILE BYTES, truncate FILE BYTES, rm FILE, cat FILE,
ls DIR, open FILE, which keeps it open, cd DIR, which works in it, and close, which
ends both. Arguments are as in a shell that knows single quotes only. Empty lines
and comments after # are left out, and so are the answers in what a script has
printed, which is a script again.`,
		Example: "  obsim script my.script\n  printf 'zfs create obuilder/a\\nzfs list\\n' | obsim script",
		Args:    console.Args(0, 1, "script"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			name, in := "standard input", io.ReadCloser(os.Stdin)
			if len(args) > 0 && args[0] != "-" {
				name = args[0]
				if in, err = os.Open(name); err != nil {
					return &console.UsageError{Err: fmt.Errorf("cannot read the script: %w", err)}
				}
				defer in.Close()
			}
			s, err := k.open(cmd.Context(), false)
			if err != nil {
				return err
			}
			err = s.Script(cmd.Context(), name, in, func(step session.Step) error {
				_, err := io.WriteString(k.c.Out(), step.String())
				return err
			})
			if format := new(state.FormatError); errors.As(err, &format) && format.Path == name {
				err = &console.UsageError{Err: err, Advice: "obsim script --help lists the commands"}
			}
			return errors.Join(err, s.Close())
		},
	}
}

// open opens the state that the flags name. When they name none it is the
// default session or, where that is not asked for, one that is not kept.
func (k *kept) open(ctx context.Context, keep bool) (*state.State, error) {
	o := state.Options{Seed: k.seed, System: state.System(k.system), Waiting: func(holder string) {
		k.c.Notice("waiting for %s", holder)
	}}
	path, name := k.file, k.session
	if path == "" && name == "" {
		path = os.Getenv("OBSIM_STATE")
	}
	switch {
	case path != "" && name != "":
		return nil, &console.UsageError{Err: errors.New("--state and --session name two machines")}
	case path != "", name == "" && !keep:
		return openState(ctx, path, o)
	case name == "":
		name = defaultSession
	}
	path, err := state.SessionPath(name)
	if err != nil {
		return nil, &console.UsageError{Err: err}
	}
	return openState(ctx, path, o)
}

func openState(ctx context.Context, path string, o state.Options) (*state.State, error) {
	s, err := state.Open(ctx, path, o)
	if other := new(state.SettingsError); errors.As(err, &other) {
		err = &console.UsageError{Err: err, Advice: "leave the flag out, or begin another machine"}
	}
	return s, err
}
