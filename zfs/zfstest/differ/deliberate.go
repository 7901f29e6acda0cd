package main

import (
	"regexp"
	"strings"

	"obuilder.org/obuilder/zfs/zfstest/session"
)

// A difference is one between OpenZFS and the fake that is meant to be.
type difference struct {
	name   string
	reason string

	command    *regexp.Regexp // nil is any
	real, fake *regexp.Regexp // what the answers look like, both streams; nil is anything
	drop       *regexp.Regexp // lines of errors that only OpenZFS has; the rest is the same
}

// matches reports whether two answers, as comparable gives them, differ so.
func (d difference) matches(real, fake session.Step) bool {
	fits := func(re *regexp.Regexp, text string) bool { return re == nil || re.MatchString(text) }
	if d.drop != nil {
		var left strings.Builder
		for line := range strings.Lines(real.Err) {
			if !d.drop.MatchString(line) {
				left.WriteString(line)
			}
		}
		if real.Err = left.String(); real != fake {
			return false
		}
	}
	return fits(d.command, real.Command) && fits(d.real, real.Out+real.Err) && fits(d.fake, fake.Out+fake.Err)
}

// The differences that are deliberate.
var differences = []difference{
	{
		name: "a snapshot that a program has looked into",
		reason: "OpenZFS mounts a snapshot when a program looks into `.zfs/snapshot`, and for some minutes after that " +
			"`rename`, `set mountpoint` and others that move mounts say of it `snapshot delimiter '@' is not expected here`, " +
			"on standard error, and do what they are to do. The fake does not say it.",
		command: regexp.MustCompile(`^zfs `),
		drop:    regexp.MustCompile(`^cannot open '[^']*@[^']*': snapshot delimiter '@' is not expected here\n`),
	},
}
