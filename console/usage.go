package console

import "github.com/spf13/cobra"

// UsageErrors makes whatever a command line of root or of its commands is not right
// in a [UsageError].
func UsageErrors(root *cobra.Command) {
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &UsageError{Err: err, Advice: cmd.CommandPath() + " --help shows its options"}
	})
	checkArguments(root)
}

func checkArguments(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return &UsageError{Err: err, Advice: cmd.CommandPath() + " --help shows how it is used"}
			}
			return nil
		}
	}
	for _, sub := range cmd.Commands() {
		checkArguments(sub)
	}
}
