package session

import (
	"regexp"
	"slices"
	"strings"
)

var (
	dates    = regexp.MustCompile(`(Mon|Tue|Wed|Thu|Fri|Sat|Sun) [A-Z][a-z]{2} [ \d]\d +\d?\d:\d\d \d{4}`)
	numbers  = regexp.MustCompile(` *\b\d{4,}\b *`)
	anyOne   = regexp.MustCompile(` *\b\d+\b *`)
	given    = regexp.MustCompile(`quota|reservation|recordsize|volblocksize|special_small_blocks|bad numeric|power of 2|version|--|PROPERTY|<|PROPERTY`)
	sizeOnly = regexp.MustCompile(` *\b\d+(\.\d+)?[BKMGTP]\b *`)
	txgs     = regexp.MustCompile(`((?:createtxg|objsetid)\s+)\d+( ?) *`)
	received = regexp.MustCompile(`^received \S+ stream in \d+ seconds \(\S+/sec\)$`)
	example  = regexp.MustCompile(`\(eg\. [^ ]*\)`) // the first of a hash table
	sent     = regexp.MustCompile(`(estimated size is |^(?:full|incremental|size)\t(?:.*\t)?)\S+$`)
	txgHeads = regexp.MustCompile(`\b(CREATETXG|OBJSETID)\b`) // of a table with such numbers
)

// Lines that ZFS gives in no particular order: mostly that of hash tables, whose
// salt is random. Those of one kind that follow each other are sorted.
var unordered = []*regexp.Regexp{
	regexp.MustCompile(`^would destroy `),
	regexp.MustCompile(`^will destroy `),
	regexp.MustCompile(`^destroy\t`),
	regexp.MustCompile(`^cannot destroy snapshot `),
	regexp.MustCompile(`^cannot create snapshot '`),
	regexp.MustCompile(`^cannot open '.*@.*': snapshot delimiter '@' is not expected here\n$`), // of snapshots that are mounted
	regexp.MustCompile(`^[^@]+@.*\S(  +|\t)\S.*(  +|\t)` + dates.String() + `\n$`),             // of holds
	regexp.MustCompile(`^[\w.:/ -]{30,}  /`),                                                   // the threads of mount -a race
}

var (
	heads  = regexp.MustCompile(` the following (datasets|snapshots and bookmarks|clones and dependents):\n$`)
	name   = regexp.MustCompile(`^[a-zA-Z][\w.:-]*[/@][^']*\n$`) // below such a head
	frees  = regexp.MustCompile(`^(would|will) reclaim \S+$`)
	clones = regexp.MustCompile(`[\w.:-]+/[\w.:/-]+(,[\w.:-]+/[\w.:/-]+)+`)
)

// sorted gives the lines of text, those that come in no order sorted.
func sorted(text string) []string {
	lines := slices.Collect(strings.Lines(text))
	afterHead := false
	for i := 0; i < len(lines); {
		kind := name
		if !afterHead {
			k := slices.IndexFunc(unordered, func(re *regexp.Regexp) bool { return re.MatchString(lines[i]) })
			if k < 0 {
				afterHead = heads.MatchString(lines[i])
				i++
				continue
			}
			kind = unordered[k]
		}
		start := i
		for i < len(lines) && kind.MatchString(lines[i]) {
			i++
		}
		slices.Sort(lines[start:i])
		afterHead = false
	}
	return lines
}

func sortClones(list string) string {
	names := strings.Split(list, ",")
	slices.Sort(names)
	return strings.Join(names, ",")
}

// hideNumber gives what is in place of a number and the spaces around it, of
// which there are more or less by its length.
func hideNumber(s string) string {
	hidden := "#"
	if s[0] == ' ' {
		hidden = " " + hidden
	}
	if s[len(s)-1] == ' ' {
		hidden += " "
	}
	return hidden
}

// Mask puts # in place of what depends on more than the commands: sizes, dates,
// guids and transaction numbers. Sizes that a command has set stay. What ZFS
// lists in no particular order is sorted.
func Mask(text string) string {
	var b strings.Builder
	numbers := numbers
	for _, line := range sorted(text) {
		line, end := strings.CutSuffix(line, "\n")
		hashes := func(s string) string { return strings.Repeat("#", len(s)) }
		line = dates.ReplaceAllStringFunc(line, hashes)
		line = clones.ReplaceAllStringFunc(line, sortClones)
		line = txgs.ReplaceAllString(line, "${1}#${2}")
		// A stream is as long as who writes it makes it.
		line = received.ReplaceAllString(line, "received # stream in # seconds (#/sec)")
		line = frees.ReplaceAllString(line, "$1 reclaim #")
		line = sent.ReplaceAllString(line, "${1}#")
		line = example.ReplaceAllString(line, "(eg. #)")
		if !given.MatchString(line) {
			line = sizeOnly.ReplaceAllStringFunc(line, func(s string) string {
				if strings.Trim(s, " ") == s {
					return "#"
				}
				return hashes(s)
			})
			line = numbers.ReplaceAllStringFunc(line, hideNumber)
		}
		if txgHeads.MatchString(line) {
			numbers = anyOne
		}
		b.WriteString(line)
		if end {
			b.WriteByte('\n')
		}
	}
	return b.String()
}
