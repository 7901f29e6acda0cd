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
	{
		name: "OpenZFS crashes",
		reason: "`zfs send -R -i ds@s ds@s`, a stream from a snapshot to itself, ends in a failed assertion of libzfs. " +
			"The fake says what is wrong, as without `-R`.",
		command: regexp.MustCompile(`^zfs send `),
		real:    regexp.MustCompile(`(?m)^ASSERT at `),
	},
	{
		name: "half a stream, or one with another bit",
		reason: "The streams of the fake are its own, so what is in the middle of one is not what is there on OpenZFS. " +
			"Both refuse it, and nothing is received, but for another reason.",
		command: regexp.MustCompile(`^zfs receive `),
		real:    brokenStream,
		fake:    brokenStream,
	},
}

var brokenStream = regexp.MustCompile(`^cannot receive[^:]*: (incomplete stream|failed to read from stream|checksum mismatch|invalid stream.*|invalid backup stream|incorrect header checksum)\n$`)
