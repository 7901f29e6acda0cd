package console

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// noticeAfter is how long a command that was interrupted may take to end
// before it says that it is at it.
const noticeAfter = time.Second

// Execute runs the command line args of root and gives the exit status.
//
// A signal cancels the context of the command, so that it ends in good order;
// a second one ends the program at once.
func (c *Console) Execute(root *cobra.Command, args []string) int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c.cancel = cancel
	defer c.handleSignals()()

	prepare(root)
	root.SetArgs(args)
	root.SetOut(c.Out())
	root.SetErr(c.Log())
	cmd, err := root.ExecuteContextC(ctx)
	if streams(cmd, args) {
		err = errors.Join(err, c.jsonEnd(err))
	}
	return c.Fail(err)
}

func (c *Console) handleSignals() (stop func()) {
	ending := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // as nohup has it
		ending = append(ending, syscall.SIGHUP)
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, ending...)
	// Else the first write to a reader that is gone would end the program, in
	// the middle of a step. Ignored, the commands of steps would inherit it.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	done := make(chan struct{})
	go func() {
		select {
		case <-signals:
		case <-done:
			return
		}
		c.cancel()
		slow := time.After(noticeAfter)
		for {
			select {
			case <-slow:
				c.Notice("ending what goes on; a second interrupt leaves that to the next command")
			case <-signals:
				os.Exit(Cancelled)
			case <-done:
				return
			}
		}
	}()
	return func() { close(done) }
}

// jsonStream marks the commands whose --json prints an event stream.
const jsonStream = "json-stream"

// StreamFlag adds the flag --json to a command that prints an event stream.
func StreamFlag(cmd *cobra.Command, p *bool) {
	cmd.Flags().BoolVar(p, "json", false, "print an event stream, one JSON object a line (docs/events.md)")
	cmd.Annotations = map[string]string{jsonStream: ""}
}

// streams reports whether cmd was asked for an event stream, also when its
// flags are not right.
func streams(cmd *cobra.Command, args []string) bool {
	if _, ok := cmd.Annotations[jsonStream]; !ok {
		return false
	}
	on, err := cmd.Flags().GetBool("json")
	return err == nil && on || slices.Contains(args, "--json")
}

// prepare gives root and its commands what they have in common.
func prepare(root *cobra.Command) {
	root.SilenceErrors, root.SilenceUsage = true, true
	root.Version = Version(root.Name())
	root.SetVersionTemplate("{{.Version}}\n")
	root.SuggestionsMinimumDistance = 2
	root.SetFlagErrorFunc(flagError)
	root.SetHelpCommand(&cobra.Command{
		Use:               "help [COMMAND]",
		Short:             "Show what a command does",
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(_ *cobra.Command, args []string) error {
			cmd, rest, err := root.Find(args)
			switch {
			case err != nil || cmd == root && len(rest) > 0:
				return chooseCommand(root, args)
			case cmd.HasSubCommands() && len(rest) > 0:
				return chooseCommand(cmd, rest)
			}
			return cmd.Help()
		},
	})
	root.InitDefaultCompletionCmd()
	root.RunE = chooseCommand
	root.Args = cobra.ArbitraryArgs
	for _, cmd := range root.Commands() {
		if cmd.Name() == "completion" {
			cmd.Short = "Print what a shell needs to complete commands and flags"
			cmd.Example = fmt.Sprintf("  source <(%s completion bash)", root.Name())
			cmd.SuggestionsMinimumDistance = root.SuggestionsMinimumDistance
			cmd.RunE = chooseCommand
			cmd.Args = cobra.ArbitraryArgs
		}
	}
}

// Version is the version of program, on one line.
func Version(program string) string {
	version := "(devel)"
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		version = info.Main.Version
	}
	return fmt.Sprintf("%s %s %s %s/%s", program, version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// chooseCommand is a command that is nothing without one of its commands.
func chooseCommand(cmd *cobra.Command, args []string) error {
	all := cmd.CommandPath() + " --help lists the commands"
	if len(args) == 0 {
		return &UsageError{Err: errors.New("no command given"), Advice: all}
	}
	if close := cmd.SuggestionsFor(args[0]); len(close) > 0 {
		all = fmt.Sprintf("did you mean %s?", strings.Join(close, " or "))
	}
	return &UsageError{Err: fmt.Errorf("unknown command %q", args[0]), Advice: all}
}

// flagError words an error in the flags of a command.
func flagError(cmd *cobra.Command, err error) error {
	if usage := new(UsageError); errors.As(err, &usage) {
		return usage
	}
	text := err.Error()
	if cause := errors.Unwrap(err); cause != nil {
		text = strings.TrimSuffix(text, cause.Error()) + flagCause(cause)
	}
	return &UsageError{Err: errors.New(text), Advice: cmd.CommandPath() + " --help shows its options"}
}

// flagCause says what is wrong with the value of a flag.
func flagCause(err error) string {
	var number *strconv.NumError
	switch {
	case errors.As(err, &number) && number.Func == "ParseBool":
		return "it is true or false"
	case errors.As(err, &number):
		return "it is a whole number"
	case strings.HasPrefix(err.Error(), "time: "):
		return "it is a time such as 90s or 2m"
	}
	return err.Error()
}

// Args has a command take from least to most arguments, which what names.
func Args(least, most int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		advice := cmd.CommandPath() + " --help shows how it is used"
		switch {
		case len(args) < least:
			return &UsageError{Err: fmt.Errorf("no %s given", what), Advice: advice}
		case len(args) > most:
			return &UsageError{Err: fmt.Errorf("unexpected argument %q", args[most]), Advice: advice}
		}
		return nil
	}
}

// NoArgs has a command take no arguments.
var NoArgs = Args(0, 0, "")

// ChoiceFlag adds to cmd a flag that is one of choices; *p is the default.
func ChoiceFlag(cmd *cobra.Command, p *string, name, usage string, choices ...string) {
	cmd.Flags().Var(&choice{p, name, choices}, name, usage)
	if err := cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(choices, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // two flags of one name
	}
}

type choice struct {
	value   *string
	name    string
	choices []string
}

func (c *choice) String() string { return *c.value }

func (c *choice) Type() string { return strings.Join(c.choices, "|") }

func (c *choice) Set(value string) error {
	if !slices.Contains(c.choices, value) {
		last := len(c.choices) - 1
		return &UsageError{Err: fmt.Errorf("--%s=%s: it is %s or %s", c.name, value, strings.Join(c.choices[:last], ", "), c.choices[last])}
	}
	*c.value = value
	return nil
}
