package command

import (
	_ "embed"
	"errors"
	"fmt"
	"strings"

	"obuilder.org/obuilder/zfs"
)

// The texts are those of OpenZFS 2.1.11.
var (
	//go:embed usage/zfs.txt
	zfsUsage string
	//go:embed usage/zpool.txt
	zpoolUsage string
	//go:embed usage/zfs-properties.txt
	zfsProperties string
	//go:embed usage/zpool-properties.txt
	zpoolProperties string
)

// synonyms are the other names of verbs.
var synonyms = map[string]string{"snap": "snapshot", "umount": "unmount", "recv": "receive"}

// all is what a program says about all of its verbs.
func (c *call) all() string {
	if c.program == "zpool" {
		return zpoolUsage
	}
	return zfsUsage
}

// usageOf gives the lines about one verb, "" for what is no verb.
func (c *call) usageOf(verb string) string {
	var b strings.Builder
	of := "" // the verb that a line is about
	for line := range strings.Lines(c.all()) {
		text, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "\t")
		if !ok {
			continue
		}
		if !strings.HasPrefix(text, " ") {
			of, _, _ = strings.Cut(text, " ")
		}
		if of == verb {
			b.WriteString(line)
		}
	}
	return b.String()
}

// usage prints how a verb, by any of its names, is used, after what is wrong,
// and gives the exit status for that.
func (c *call) usage(verb string) int {
	if name, ok := synonyms[verb]; ok {
		verb = name
	}
	_, _ = c.err.WriteString("usage:\n" + c.usageOf(verb))
	switch lists := verb == "list" || verb == "get" || verb == "set"; {
	case c.program == "zpool" && lists:
		_, _ = c.err.WriteString(zpoolProperties)
	case c.program == "zpool":
	case lists || verb == "inherit":
		_, _ = c.err.WriteString(zfsProperties)
	default:
		_, _ = c.err.WriteString("\nFor the property list, run: zfs set|get\n" +
			"\nFor the delegated permission list, run: zfs allow|unallow\n")
	}
	return 2
}

// usagef prints a line, and then how the verb of c is used.
func (c *call) usagef(format string, args ...any) int {
	c.errorf(format, args...)
	return c.usage(c.verb)
}

// arguments refuses a command line without just the arguments that are named.
func (c *call) arguments(given []string, names ...string) (status int, wrong bool) {
	switch {
	case len(given) < len(names):
		return c.usagef("missing %s argument", names[len(given)]), true
	case len(given) > len(names):
		return c.usagef("too many arguments"), true
	}
	return 0, false
}

// wrong refuses an option that getopt has found to be unknown.
func (c *call) wrong(o option) int { return c.usagef("invalid option '%c'", o.letter) }

// noVerb answers what is not a verb that is modelled.
func (c *call) noVerb(name string) int {
	switch name {
	case "-?", "--help":
		_, _ = c.out.WriteString(c.all())
		return 0
	case "-V", "--version":
		return c.notModelled(name)
	}
	if c.usageOf(name) != "" {
		return c.notModelled(c.program + " " + name)
	}
	fmt.Fprintf(c.err, "unrecognized command '%s'\n%s", name, c.all())
	return 2
}

// failed prints why a command failed, and gives its exit status.
func (c *call) failed(err error) int {
	var e *zfs.Error
	if !errors.As(err, &e) || e.Err != nil {
		c.errorf("%s: %v", c.program, err)
		return 255
	}
	if what, ok := strings.CutPrefix(e.Stderr, "not modelled: "); ok {
		return c.notModelled(what)
	}
	if e.Stderr != "" {
		c.errorf("%s", e.Stderr)
	}
	if e.Status == 2 {
		return c.usage(c.verb)
	}
	return e.Status
}
