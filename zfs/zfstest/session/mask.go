package session

import (
	"regexp"
	"strings"
)

var (
	dates    = regexp.MustCompile(`(Mon|Tue|Wed|Thu|Fri|Sat|Sun) [A-Z][a-z]{2} [ \d]\d +\d?\d:\d\d \d{4}`)
	numbers  = regexp.MustCompile(`\b\d{4,}\b`)
	given    = regexp.MustCompile(`quota|reservation|recordsize|volblocksize|special_small_blocks|bad numeric|power of 2|version|--|PROPERTY|<|PROPERTY`)
	sizeOnly = regexp.MustCompile(` *\b\d+(\.\d+)?[BKMGTP]\b *`)
	txgs     = regexp.MustCompile(`((?:createtxg|objsetid)\s+)\d+`)
)

// Mask puts # in place of what depends on more than the commands: sizes, dates,
// guids and transaction numbers. Sizes that a command has set stay.
func Mask(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		line, end := strings.CutSuffix(line, "\n")
		hashes := func(s string) string { return strings.Repeat("#", len(s)) }
		line = dates.ReplaceAllStringFunc(line, hashes)
		line = txgs.ReplaceAllString(line, "${1}#")
		if !given.MatchString(line) {
			line = sizeOnly.ReplaceAllStringFunc(line, func(s string) string {
				if strings.Trim(s, " ") == s {
					return "#"
				}
				return hashes(s)
			})
			line = numbers.ReplaceAllString(line, "#")
		}
		b.WriteString(line)
		if end {
			b.WriteByte('\n')
		}
	}
	return b.String()
}
