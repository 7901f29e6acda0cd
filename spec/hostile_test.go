package spec_test

import (
	"strings"
	"testing"
	"time"

	"obuilder.org/obuilder/spec"
)

// TestLargeSpecs checks that nothing takes more than linear time or the stack.
// The bound is far above what it takes and far below what quadratic time would.
func TestLargeSpecs(t *testing.T) {
	const n = 50_000
	nest := func(open, inner, end string, depth int) string {
		return strings.Repeat(open, depth) + inner + strings.Repeat(end, depth)
	}
	for name, src := range map[string]string{
		"builds":        "(" + strings.Repeat("(build a ((build b ((from c))) (from d)))", n/10) + "(from e))",
		"operations":    "((from a)" + strings.Repeat("(env a b);c\n", n) + ")",
		"arguments":     "((from a)(shell " + strings.Repeat("#;a b ", n) + "))",
		"one string":    "((from a)(run(shell\"" + strings.Repeat("a\\n\\\n  b", n) + "\")))",
		"nested builds": nest("((build a ", "((from b))", ") (from c))", 400),
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			s := parse(t, src)
			parse(t, s.Pretty())
			if _, err := spec.Format("s", []byte(src)); err != nil {
				t.Fatal(err)
			}
			if d := time.Since(start); d > 30*time.Second {
				t.Errorf("took %v", d)
			}
		})
	}
}
