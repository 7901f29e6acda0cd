package fault_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"obuilder.org/obuilder/spec/sexp"
	"obuilder.org/obuilder/zfs"
	"obuilder.org/obuilder/zfs/fault"
	"obuilder.org/obuilder/zfs/fault/faulttest"
	"pgregory.net/rapid"
)

func TestParse(t *testing.T) {
	got, err := fault.Parse("f", []byte(`
		; Spotlight
		(busy (dataset obuilder/result/*) (tries 3))
		(seed 42)
		(fail (verb unmount set) (dataset "a b/**" x@s) (nth 2) (kind busy) (status 1) (stderr "no\nway"))
		(delay (verb destroy) (seconds 2.5) (probability 0.25))
		(slow-destroy (gigabytes-per-minute 2))`))
	if err != nil {
		t.Fatal(err)
	}
	want := fault.Plan{Seed: 42, Rules: []fault.Rule{
		{Fault: "busy", Datasets: []fault.Pattern{"obuilder/result/*"}, Tries: 3},
		{Fault: "fail", Verbs: []string{"unmount", "set"}, Datasets: []fault.Pattern{"a b/**", "x@s"}, Nth: 2, Kind: zfs.Busy, Status: 1, Stderr: "no\nway"},
		{Fault: "delay", Verbs: []string{"destroy"}, Duration: 2500 * time.Millisecond, Probability: 0.25},
		{Fault: "slow-destroy", GigabytesPerMinute: 2},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("parsed (-want +got):\n%s", diff)
	}
	const printed = `(seed 42)
(busy (dataset obuilder/result/*) (tries 3))
(fail (verb unmount set) (dataset "a b/**" x@s) (nth 2) (kind busy) (status 1) (stderr "no\nway"))
(delay (verb destroy) (probability 0.25) (seconds 2.5))
(slow-destroy (gigabytes-per-minute 2))
`
	if diff := cmp.Diff(printed, got.String()); diff != "" {
		t.Errorf("printed (-want +got):\n%s", diff)
	}
}

func TestParseErrors(t *testing.T) {
	for _, c := range []struct{ src, want, hint string }{
		{"(bussy)", "f:1:2: there is no fault bussy", "did you mean busy?"},
		{"(busy\n  (datasets a))", "f:2:3: busy has no setting datasets", "did you mean dataset?"},
		{"(busy (seconds 1))", "f:1:7: busy has no setting seconds", "its settings are verb, dataset, nth, tries and probability"},
		{"(busy (tries 0))", "f:1:14: tries is a number from 1 to 1073741824, not 0", ""},
		{"(busy (tries 1 2))", "f:1:16: tries takes one word", ""},
		{"(busy (tries))", "f:1:7: nothing follows tries", ""},
		{"(busy (tries (1)))", "f:1:14: tries takes words, not lists", ""},
		{"(busy (tries 1) (tries 1))", "f:1:17: tries is given twice", ""},
		{"(busy tries)", "f:1:7: a setting of a fault is a list that begins with its name", "such as (dataset obuilder/result/**)"},
		{"busy", "f:1:1: a fault is a list that begins with its name", "such as (busy (dataset obuilder/result/**) (tries 3))"},
		{"()", "f:1:1: a fault is a list that begins with its name", "such as (busy (dataset obuilder/result/**) (tries 3))"},
		{"(delay (verb destory))", "f:1:14: there is no command destory", "did you mean destroy?"},
		{"(delay (seconds x))", "f:1:17: seconds is a number above 0 and up to 1000000, not x", ""},
		{"(delay (seconds -1))", "f:1:17: seconds is a number above 0 and up to 1000000, not -1", ""},
		{"(delay (seconds NaN))", "f:1:17: seconds is a number above 0 and up to 1000000, not NaN", ""},
		{"(delay (seconds 1e-12))", "f:1:17: seconds: less than a nanosecond", ""},
		{"(delay (probability 2))", "f:1:21: probability is a number above 0 and up to 1, not 2", ""},
		{"(fail (kind buzy))", "f:1:13: there is no kind of failure buzy", "did you mean busy?"},
		{"(fail (status 256))", "f:1:15: status is a number from 1 to 255, not 256", ""},
		{`(fail (stderr ""))`, "f:1:15: stderr is 1 to 16384 bytes", ""},
		{"(busy (dataset a//b))", "f:1:16: a//b: a component of the pattern is empty", ""},
		{"(busy (dataset a[))", "f:1:16: a[: the pattern is not well formed", ""},
		{"(busy (dataset a**))", "f:1:16: a**: ** is a whole component of a pattern", ""},
		{"(busy (dataset a@))", "f:1:16: a@: nothing follows the @ of the pattern", ""},
		{"(busy (dataset a@b@c))", "f:1:16: a@b@c: the pattern has more than one @", ""},
		{"(seed -1)", "f:1:7: seed is a number from 0 to 2^64-1, not -1", ""},
		{"(macos busy)", "f:1:8: a setting of a fault is a list that begins with its name", ""},
		{"(macos (tries 1))", "f:1:8: macos has no setting tries", ""},
		{"(busy", `f:1:1: this "(" is never closed`, ""},
		{strings.Repeat("(busy)\n", 1001), "f:1001:1: more than 1000 faults", ""},
		{strings.Repeat(" ", 1<<20+1), "f:1:1: more than 1048576 bytes of faults", ""},
	} {
		_, err := fault.Parse("f", []byte(c.src))
		var e *sexp.Error
		if !errors.As(err, &e) || e.Error() != c.want || c.hint != "" && e.Hint != c.hint {
			t.Errorf("%.40q: %v (hint %q), want %s (hint %q)", c.src, err, e.Hint, c.want, c.hint)
		}
	}
}

// What is printed is read back as it was, and can be armed.
func TestPrintIsReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := faulttest.Plan("tank", "obuilder/result/a b").Draw(t, "plan")
		got, err := fault.Parse("", []byte(p.String()))
		if err != nil {
			t.Fatalf("%s: %v", p, err)
		}
		if diff := cmp.Diff(p, got, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("%s (-want +got):\n%s", p, diff)
		}
		if got.String() != p.String() {
			t.Fatalf("printed as %s, then as %s", p, got)
		}
		if _, err := p.Arm(nil); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`(busy (dataset obuilder/result/*) (tries 3))(seed 1)(macos)`))
	f.Add([]byte(`(fail (verb set) (kind no-space) (status 3) (stderr "\000"))`))
	f.Fuzz(func(t *testing.T, src []byte) {
		p, err := fault.Parse("f", src)
		if err != nil {
			if e := (*sexp.Error)(nil); !errors.As(err, &e) || e.Pos.Line < 1 {
				t.Fatalf("%#v", err)
			}
			return
		}
		again, err := fault.Parse("f", []byte(p.String()))
		if err != nil {
			t.Fatalf("%s: %v", p, err)
		}
		if diff := cmp.Diff(p, again, cmpopts.EquateEmpty()); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestArmChecks(t *testing.T) {
	for _, r := range []fault.Rule{
		{},
		{Fault: "no-such"},
		{Fault: "busy", Tries: -1},
		{Fault: "busy", Kind: zfs.Busy},
		{Fault: "busy", Datasets: []fault.Pattern{"a//b"}},
		{Fault: "delay", Verbs: []string{"destory"}},
		{Fault: "delay", Probability: 2},
	} {
		if _, err := (fault.Plan{Rules: []fault.Rule{r}}).Arm(nil); err == nil {
			t.Errorf("%+v was armed", r)
		}
	}
}

func TestPatterns(t *testing.T) {
	for _, c := range []struct {
		pattern, names, not string
	}{
		{"tank", "tank", "tan tank/a tank@s"},
		{"tank/*", "tank/a tank/bc", "tank tank/a/b tank/a@s"},
		{"tank/**", "tank tank/a tank/a/b", "tan tank@s"},
		{"**/home", "home tank/home tank/a/home", "tank/home/x tank/homes"},
		{"**", "tank tank/a/b", "tank@s"},
		{"**@*", "tank@s tank/a@t", "tank tank/a"},
		{"tank/**/x/**", "tank/x tank/a/x tank/x/x/b", "tank tank/a/b"},
		{"tank/a?c", "tank/abc", "tank/ac"},
		{"tank/[a-c]@snap", "tank/b@snap", "tank/d@snap tank/b@snapshot tank/b"},
	} {
		for _, name := range strings.Fields(c.names) {
			if !fault.Pattern(c.pattern).Matches(name) {
				t.Errorf("%s does not match %s", c.pattern, name)
			}
		}
		for _, name := range strings.Fields(c.not) {
			if fault.Pattern(c.pattern).Matches(name) {
				t.Errorf("%s matches %s", c.pattern, name)
			}
		}
	}
	// What takes long if it is done by trying.
	long := strings.Repeat("**/", 300) + "b"
	begin := time.Now()
	if fault.Pattern(long).Matches(strings.Repeat("a/", 49) + "a") {
		t.Error("a pattern matches what it should not")
	}
	if took := time.Since(begin); took > time.Second {
		t.Errorf("that took %v", took)
	}
}
