// Package command is the command lines of zfs and zpool in front of a
// [fake.Machine]: the same arguments, output, messages and exit statuses as
// OpenZFS has. Whatever is not modelled is refused with a message that says so
// and [NotModelled], never answered with a guess.
//
//	m := fake.New(fake.Pool("tank", 1<<30, ""))
//	status := command.Run(ctx, m, []string{"zfs", "create", "tank/a"}, nil, os.Stdout, os.Stderr)
//
// testdata has sessions recorded on OpenZFS 2.1.11, and what is in front of the
// model answers as they do.
package command

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"path"
	"strings"

	"obuilder.org/obuilder/zfs/fake"
)

// NotModelled is the exit status for what OpenZFS has and this has not.
const NotModelled = 125

// Run runs one command line, of which argv[0] is zfs or zpool, or a path to
// one of them, and gives its exit status. The machine may be used concurrently.
// stdin is read by zfs receive only, and may be nil otherwise.
func Run(ctx context.Context, m *fake.Machine, argv []string, stdin io.Reader, stdout, stderr io.Writer) int {
	out, err := bufio.NewWriter(stdout), bufio.NewWriter(stderr)
	defer out.Flush()
	defer err.Flush()
	c := &call{Context: ctx, m: m, program: path.Base(argv[0]), in: stdin, out: out, err: err, terminal: isTerminal(stdout)}
	return c.run(argv[1:])
}

// A call is one command line that is being run.
type call struct {
	context.Context
	m        *fake.Machine
	program  string // zfs or zpool
	verb     string // as it was written
	in       io.Reader
	out      *bufio.Writer
	err      *bufio.Writer
	terminal bool // out is one
}

// A verb is a subcommand. It gives the exit status.
type verb func(c *call, args []string) int

// verbOf gives the function for a subcommand of a program, by any of its names.
func verbOf(program, name string) verb {
	if program == "zpool" {
		return zpoolVerb(name)
	}
	switch name {
	case "create":
		return (*call).create
	case "clone":
		return (*call).clone
	case "snapshot", "snap":
		return (*call).snapshot
	case "destroy":
		return (*call).destroy
	case "mount":
		return (*call).mount
	case "unmount", "umount":
		return (*call).unmount
	case "promote":
		return (*call).promote
	case "rename":
		return (*call).rename
	case "rollback":
		return (*call).rollback
	case "hold":
		return (*call).hold
	case "release":
		return (*call).release
	case "holds":
		return (*call).holds
	case "list":
		return (*call).list
	case "get":
		return (*call).get
	case "set":
		return (*call).set
	case "inherit":
		return (*call).inherit
	case "send":
		return (*call).send
	case "receive", "recv":
		return (*call).receive
	}
	return nil
}

func (c *call) run(args []string) int {
	if len(args) == 0 {
		fmt.Fprintf(c.err, "missing command\n%s", c.all())
		return 2
	}
	c.verb = args[0]
	v := verbOf(c.program, c.verb)
	if v == nil {
		return c.noVerb(c.verb)
	}
	return v(c, args[1:])
}

// errorf writes a line to standard error, and a new line after it.
func (c *call) errorf(format string, args ...any) {
	fmt.Fprintf(c.err, format, args...)
	_ = c.err.WriteByte('\n')
}

// notModelled refuses something that OpenZFS can do.
func (c *call) notModelled(what string) int {
	c.errorf("%s: not modelled: %s", c.program, what)
	return NotModelled
}

// An option is one that getopt has found.
type option struct {
	letter  byte
	arg     string
	unknown bool // letter is not an option
	missing bool // letter wants an argument and there is none
}

// getopt reads options as getopt(3) of glibc does: they may come after other
// arguments, and end at "--". In spec, as there, a letter with ':' has an argument.
func getopt(args []string, spec string) (options []option, rest []string) {
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if arg == "--" {
			rest = append(rest, args[i+1:]...)
			break
		}
		if len(arg) < 2 || arg[0] != '-' {
			rest = append(rest, arg)
			continue
		}
		for j := 1; j < len(arg); j++ {
			o := option{letter: arg[j]}
			at := strings.IndexByte(spec, o.letter)
			switch {
			case at < 0 || o.letter == ':':
				o.unknown = true
			case at+1 < len(spec) && spec[at+1] == ':':
				if o.arg = arg[j+1:]; o.arg == "" {
					if i++; i < len(args) {
						o.arg = args[i]
					} else {
						o.missing = true
					}
				}
				j = len(arg)
			}
			options = append(options, o)
		}
	}
	return options, rest
}
