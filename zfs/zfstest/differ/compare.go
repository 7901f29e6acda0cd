package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"obuilder.org/obuilder/zfs/fake/command"
	"obuilder.org/obuilder/zfs/zfstest/session"
)

// An outcome is what comparing two answers comes to.
type outcome int

const (
	same outcome = iota
	notModelled
	deliberate
	different
)

var (
	hashes = regexp.MustCompile(` *#+ *`)
	sizes  = regexp.MustCompile(`\b\d+(\.\d+)?[BKMG]?\b`)
	blanks = regexp.MustCompile(`  +`)
)

// sorted are lines of errors that come in the order of a hash table.
var sorted = regexp.MustCompile(`^cannot (create|hold) snapshot |^cannot release hold from snapshot `)

func sortErrors(text string) string {
	lines := slices.Collect(strings.Lines(text))
	for i := 0; i < len(lines); i++ {
		start := i
		for i < len(lines) && sorted.MatchString(lines[i]) {
			i++
		}
		slices.Sort(lines[start:i])
	}
	return strings.Join(lines, "")
}

// comparable gives an answer without what depends on more than the commands.
// Columns are as wide as the sizes in them, so where there is one, what is
// between columns does not count.
func comparable(s session.Step) session.Step {
	s.Out, s.Err = session.Mask(s.Out), sortErrors(session.Mask(s.Err))
	if strings.Contains(s.Command, "written") { // which may be 0 on one side only
		s.Out = sizes.ReplaceAllString(s.Out, "#")
	}
	if strings.Contains(s.Out, "#") {
		s.Out = blanks.ReplaceAllString(hashes.ReplaceAllString(s.Out, " # "), " ")
	}
	return s
}

// compare compares what OpenZFS and the fake answer.
func compare(real, fake session.Step) (outcome, *difference) {
	if fake.Status == command.NotModelled {
		return notModelled, nil
	}
	real, fake = comparable(real), comparable(fake)
	if real == fake {
		return same, nil
	}
	for i, d := range differences {
		if d.matches(real, fake) {
			return deliberate, &differences[i]
		}
	}
	return different, nil
}

var names = regexp.MustCompile(`'[^']*'|\b(tank|nope)[^\s':]*|/m[^\s':]*|\b[a-z]@[a-z]\b|\d+`)

// shape gives what a difference has in common with others of its kind: the
// verb, and the first line in which the answers differ, without names.
func shape(real, fake session.Step) string {
	real, fake = comparable(real), comparable(fake)
	argv, _ := session.Split(real.Command)
	verb := argv[0]
	if len(argv) > 1 && (verb == "zfs" || verb == "zpool") {
		verb += " " + argv[1]
	}
	r, f := firstDifference(real.Err, fake.Err)
	if r == f {
		r, f = firstDifference(real.Out, fake.Out)
	}
	if verb == "state" { // what kind of line, and which columns of it, is what matters
		r, f = kindOfLine(r, f), kindOfLine(f, r)
	}
	return strings.Join([]string{verb, names.ReplaceAllString(r, "N"), names.ReplaceAllString(f, "N")}, " | ")
}

func kindOfLine(line, other string) string {
	columns, others := strings.Split(line, "\t"), strings.Split(other, "\t")
	if len(columns) < 2 {
		word, _, _ := strings.Cut(line, " ")
		return word
	}
	kind := columns[1]
	for i, c := range columns {
		if i >= len(others) || c != others[i] {
			kind += fmt.Sprintf(" %d=%s", i, c)
			if i == 0 {
				break
			}
		}
	}
	return kind
}

func firstDifference(a, b string) (string, string) {
	for a != b {
		l, restA, _ := strings.Cut(a, "\n")
		k, restB, _ := strings.Cut(b, "\n")
		if l != k {
			return l, k
		}
		a, b = restA, restB
	}
	return "", ""
}
