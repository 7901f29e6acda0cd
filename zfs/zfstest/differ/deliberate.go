package main

import (
	"regexp"

	"obuilder.org/obuilder/zfs/zfstest/session"
)

// A difference is one between OpenZFS and the fake that is meant to be.
type difference struct {
	name   string
	reason string
	// What the command and the answers have to look like; nil is anything.
	command, real, fake *regexp.Regexp
}

func (d difference) matches(real, fake session.Step) bool {
	fits := func(re *regexp.Regexp, text string) bool { return re == nil || re.MatchString(text) }
	return fits(d.command, real.Command) && fits(d.real, real.Out+real.Err) && fits(d.fake, fake.Out+fake.Err)
}

// The differences that are deliberate.
var differences = []difference{}
