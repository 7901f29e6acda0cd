package command

import (
	"fmt"
	"strings"

	"obuilder.org/obuilder/zfs"
	"obuilder.org/obuilder/zfs/fake"
)

func (c *call) destroy(args []string) int {
	var opts fake.DestroyOptions
	verbose, parsable := false, false
	options, rest := getopt(args, "vpndfrR")
	for _, o := range options {
		if o.unknown {
			return c.wrong(o)
		}
		switch o.letter {
		case 'v':
			verbose = true
		case 'p':
			verbose, parsable = true, true
		case 'n':
			opts.DryRun = true
		case 'd':
			opts.Defer = true
		case 'f':
			opts.Force = true
		case 'r':
			opts.Recursive = true
		case 'R':
			opts.Recursive, opts.Dependents = true, true
		}
	}
	if status, wrong := c.arguments(rest, "dataset"); wrong {
		return status
	}
	if verbose {
		c.announce(&opts, parsable)
	}
	name := rest[0]
	if of, spec, ok := strings.Cut(name, "@"); ok {
		ds, ok := c.find(of, filesystem|volume).(zfs.Dataset)
		if !ok {
			return 1
		}
		opts.Warns = func(text string) { c.errorf("%s", text) }
		return c.ended(c.m.DestroySnapshots(c, ds, spec, opts))
	}
	if strings.Contains(name, "#") {
		return c.destroyBookmark(name, opts)
	}
	kinds := filesystem | volume
	if opts.Defer {
		kinds = snapshot
	}
	ds, ok := c.find(name, kinds).(zfs.Dataset)
	if !ok {
		return 1
	}
	return c.ended(c.m.DestroyDataset(c, ds, opts))
}

// announce has what is going to be destroyed printed.
func (c *call) announce(opts *fake.DestroyOptions, parsable bool) {
	word := map[bool]string{true: "would", false: "will"}
	dry := opts.DryRun
	opts.Goes = func(name string, would bool) {
		if parsable {
			fmt.Fprintf(c.out, "destroy\t%s\n", name)
		} else {
			fmt.Fprintf(c.out, "%s destroy %s\n", word[would], name)
		}
	}
	opts.Frees = func(bytes uint64) {
		if parsable {
			fmt.Fprintf(c.out, "reclaim\t%d\n", bytes)
		} else {
			fmt.Fprintf(c.out, "%s reclaim %s\n", word[dry], zfs.FormatSize(bytes))
		}
	}
}

// destroyBookmark answers for bookmarks, of which there are none here.
func (c *call) destroyBookmark(name string, opts fake.DestroyOptions) int {
	switch {
	case opts.DryRun:
		c.errorf("dryrun is not supported with bookmark")
	case opts.Defer:
		c.errorf("defer destroy is not supported with bookmark")
	case opts.Recursive:
		c.errorf("recursive is not supported with bookmark")
	default:
		c.errorf("bookmark '%s' does not exist.", name)
		return 1
	}
	return 255
}
