package command

import (
	"errors"
	"os"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/term"

	"obuilder.org/obuilder/zfs"
	"obuilder.org/obuilder/zfs/fake"
)

// A longOption is another name of an option, as getopt_long(3) has it.
type longOption struct {
	name   string
	letter byte
	arg    bool // it has an argument
}

var sendOptions = []longOption{
	{"replicate", 'R', false}, {"skip-missing", 's', false}, {"redact", 'd', true}, {"props", 'p', false}, {"parsable", 'P', false},
	{"dedup", 'D', false}, {"proctitle", 'V', false}, {"verbose", 'v', false}, {"dryrun", 'n', false}, {"large-block", 'L', false},
	{"embed", 'e', false}, {"resume", 't', true}, {"compressed", 'c', false}, {"raw", 'w', false}, {"backup", 'b', false},
	{"holds", 'h', false}, {"saved", 'S', false},
}

// short puts short options in place of long ones. If one is wrong it says so
// and gives false.
func (c *call) short(args []string, long []longOption, spec string) ([]string, bool) {
	var list []string
	for i := 0; i < len(args); i++ {
		name, ok := strings.CutPrefix(args[i], "--")
		switch {
		case args[i] == "--":
			return append(list, args[i:]...), true
		case !ok:
			list = append(list, args[i])
			if n := len(args[i]); n >= 2 && args[i][0] == '-' && i+1 < len(args) { // its argument may look like one
				if at := strings.IndexByte(spec, args[i][n-1]); n == 2 && at >= 0 && at+1 < len(spec) && spec[at+1] == ':' {
					i++
					list = append(list, args[i])
				}
			}
			continue
		}
		name, value, given := strings.Cut(name, "=")
		found := slices.IndexFunc(long, func(o longOption) bool { return o.name == name })
		if found < 0 {
			var all []longOption
			for j, o := range long {
				if strings.HasPrefix(o.name, name) {
					all, found = append(all, o), j
				}
			}
			if len(all) != 1 {
				found = -1
			}
		}
		if found < 0 || given && !long[found].arg {
			c.errorf("invalid option '%s'", args[i])
			return nil, false
		}
		list = append(list, "-"+string(long[found].letter))
		switch {
		case !long[found].arg:
		case given:
			list = append(list, value)
		case i+1 < len(args):
			i++
			list = append(list, args[i])
		}
	}
	return list, true
}

// isTerminal reports whether a stream is a terminal.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

func (c *call) send(args []string) int {
	const spec = "i:I:RsDpVvnPLeht:cwbd:S"
	var opts fake.SendOptions
	var from, token, redact string
	var fromGiven, title, backup, holds, saved, raw, other bool
	args, ok := c.short(args, sendOptions, spec)
	if !ok {
		return c.usage(c.verb)
	}
	options, rest := getopt(args, spec)
	for _, o := range options {
		switch {
		case o.unknown:
			return c.wrong(o)
		case o.missing:
			return c.usagef("missing argument for '%c' option", o.letter)
		}
		switch o.letter {
		case 'i', 'I':
			if fromGiven {
				return c.usage(c.verb)
			}
			from, fromGiven = o.arg, true
			opts.All = o.letter == 'I'
		case 'R':
			opts.Replicate = true
		case 's':
			opts.SkipMissing = true
		case 'p':
			opts.Properties = true
		case 'V':
			title = true
		case 'v':
			opts.Verbose = true
		case 'n':
			opts.DryRun = true
		case 'P':
			opts.Parsable = true
		case 'D':
			c.errorf("WARNING: deduplicated send is no longer supported.  A regular,\nnon-deduplicated stream will be generated.\n")
		case 'd':
			redact = o.arg
		case 't':
			token = o.arg
		case 'b':
			backup = true
		case 'h':
			holds = true
		case 'S':
			saved = true
		case 'w':
			raw = true
		default: // L, e and c are about blocks
			other = true
		}
	}
	opts.Verbose = opts.Verbose || opts.Parsable || title
	switch {
	case token != "" && (fromGiven || opts.Replicate || opts.Properties || backup || holds || saved || redact != ""):
		return c.usagef("invalid flags combined with -t")
	case token == "" && len(rest) == 0:
		return c.usagef("missing snapshot argument")
	case token != "" && len(rest) > 0, len(rest) > 1:
		return c.usagef("too many arguments")
	case saved && (fromGiven || opts.Replicate || opts.Properties || backup || holds || raw || other || redact != ""):
		return c.usagef("incompatible flags combined with saved send flag")
	case saved && strings.Contains(rest[0], "@"):
		return c.usagef("saved send must specify the dataset with partially-received state")
	case raw && redact != "":
		c.errorf("Error: raw sends may not be redacted.")
		return 1
	case !opts.DryRun && c.terminal:
		c.errorf("Error: Stream can not be written to a terminal.\nYou must redirect standard output.")
		return 1
	case saved, token != "":
		return c.notModelled("what zfs receive -s leaves behind")
	case opts.SkipMissing && !opts.Replicate:
		return c.usagef("skip-missing flag can only be used in conjunction with replicate")
	}
	var to zfs.Snapshot
	var status int
	if opts.All || opts.Replicate {
		to, status = c.sendSeveral(rest[0], from, fromGiven, redact, &opts)
	} else {
		to, status = c.sendOne(rest[0], from, fromGiven, &opts)
	}
	switch {
	case status != 0:
		return status
	case redact != "":
		return c.notModelled("-d of zfs send")
	case backup:
		return c.notModelled("-b of zfs send")
	case holds:
		return c.notModelled("-h of zfs send")
	}
	opts.Warn, opts.Info = c.err, c.err
	if opts.DryRun {
		opts.Info = c.out
	}
	err := c.m.Send(c, to, opts, c.out)
	if err == nil {
		err = c.out.Flush()
	}
	var known *zfs.Error
	switch {
	case err == nil:
		return 0
	case errors.As(err, &known), c.Err() != nil:
		return c.failed(err)
	}
	var cause syscall.Errno
	text := err.Error()
	if errors.As(err, &cause) {
		text = cause.Error()
	}
	c.errorf("warning: cannot send '%s': %s", to, strings.ToUpper(text[:1])+text[1:]) // as strerror(3) begins
	return 1
}

// sendOne reads the names of what is sent alone.
func (c *call) sendOne(name, from string, given bool, opts *fake.SendOptions) (to zfs.Snapshot, status int) {
	if given && !strings.ContainsAny(from, "@#") {
		c.errorf("Warning: incremental source didn't specify type, assuming snapshot. Use '@' or '#' prefix to avoid ambiguity.")
		from = "@" + from
	}
	if given && (from[0] == '@' || from[0] == '#') {
		of, _, _ := strings.Cut(name, "@")
		from = of + from
	}
	target := c.find(name, anyDataset)
	if target == nil {
		return to, 1
	}
	if strings.Contains(from, "#") {
		return to, c.notModelled("bookmarks")
	}
	if given {
		source := c.find(from, anyDataset)
		if source == nil {
			return to, 1
		}
		opts.From, _ = source.(zfs.Snapshot)
	}
	to, ok := target.(zfs.Snapshot)
	if ok {
		return to, 0
	}
	ds := target.(zfs.Dataset)
	values, err := c.m.Get(c, ds, "mounted")
	switch {
	case err != nil:
		return to, c.failed(err)
	case values[0].Value == "yes":
		c.errorf("warning: cannot send '%s': target is busy; if a filesystem, it must not be mounted", ds)
		return to, 1
	}
	return to, c.notModelled("sending a file system that is not a snapshot")
}

// sendSeveral reads the names of a package.
func (c *call) sendSeveral(name, from string, given bool, redact string, opts *fake.SendOptions) (to zfs.Snapshot, status int) {
	switch {
	case given && strings.Contains(from, "#"):
		c.errorf("Error: multiple snapshots cannot be sent from a bookmark.")
		return to, 1
	case redact != "":
		c.errorf("Error: multiple snapshots cannot be sent redacted.")
		return to, 1
	}
	of, tag, ok := strings.Cut(name, "@")
	if !ok {
		c.errorf("Error: Unsupported flag with filesystem or bookmark.")
		return to, 1
	}
	target := c.find(of, filesystem|volume)
	if target == nil {
		return to, 1
	}
	ds := target.(zfs.Dataset)
	origin := ""
	if values, err := c.m.Get(c, ds, "origin"); err == nil {
		origin = values[0].Value
	}
	if dir, short, ok := strings.Cut(from, "@"); given && ok && from != origin {
		switch {
		case dir != "" && dir != of:
			return to, c.usagef("incremental source must be in same filesystem")
		case strings.ContainsAny(short, "@/"):
			return to, c.usagef("invalid incremental source")
		}
		from = short
	}
	if given && from == "" {
		c.errorf("cannot send '%s': zero-length incremental source", ds)
		return to, 1
	}
	if given {
		if from != origin {
			from = of + "@" + from
		}
		source := c.find(from, snapshot)
		if source == nil {
			return to, 1
		}
		opts.From = source.(zfs.Snapshot)
	}
	found := c.find(of+"@"+tag, snapshot)
	if found == nil {
		return to, 1
	}
	return found.(zfs.Snapshot), 0
}

func (c *call) receive(args []string) int {
	var opts fake.ReceiveOptions
	var abort, resumable bool
	var seen []string
	options, rest := getopt(args, "o:x:dehMnuvFsA")
	for _, o := range options {
		switch {
		case o.unknown:
			return c.wrong(o)
		case o.missing:
			return c.usagef("missing argument for '%c' option", o.letter)
		}
		switch o.letter {
		case 'o', 'x':
			name, value, ok := strings.Cut(o.arg, "=")
			switch {
			case o.letter == 'o' && !ok:
				return c.usagef("missing '=' for property=value argument")
			case o.letter == 'x' && ok:
				return c.usagef("invalid character '=' in property argument")
			case slices.Contains(seen, name):
				return c.usagef("property '%s' specified multiple times", name)
			}
			seen = append(seen, name)
			switch {
			case o.letter == 'x':
				opts.Exclude = append(opts.Exclude, name)
			case name == "origin":
				opts.Origin = value
			default:
				opts.Set = append(opts.Set, zfs.Property{Name: name, Value: value})
			}
		case 'd':
			if opts.Tail {
				return c.usagef("invalid option combination: -d and -e are mutually exclusive")
			}
			opts.Prefix = true
		case 'e':
			if opts.Prefix {
				return c.usagef("invalid option combination: -d and -e are mutually exclusive")
			}
			opts.Tail = true
		case 'M':
			opts.ForceUnmount = true
		case 'n':
			opts.DryRun = true
		case 'u':
			opts.NoMount = true
		case 'v':
			opts.Verbose = true
		case 'F':
			opts.Force = true
		case 's':
			resumable = true
		case 'A':
			abort = true
		}
	}
	switch {
	case len(rest) == 0:
		return c.usagef("missing snapshot argument")
	case len(rest) > 1:
		return c.usagef("too many arguments")
	case abort && (opts.Prefix || opts.Tail || opts.DryRun || resumable || opts.NoMount):
		return c.usagef("invalid option")
	case abort:
		return c.notModelled("-A of zfs receive")
	case isTerminal(c.in):
		c.errorf("Error: Backup stream can not be read from a terminal.\nYou must redirect standard input.")
		return 1
	case resumable:
		return c.notModelled("-s of zfs receive")
	}
	in := c.in
	if in == nil {
		in = strings.NewReader("")
	}
	opts.Info, opts.Warn = c.out, c.err
	if err := c.m.Receive(c, rest[0], opts, in); err != nil {
		return c.failed(err)
	}
	return 0
}
