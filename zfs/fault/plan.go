package fault

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"obuilder.org/obuilder/spec/sexp"
	"obuilder.org/obuilder/zfs"
)

// A Plan says which commands go wrong, and how. It is data: [Plan.Arm] makes
// the interceptor that does it.
//
//	plan, err := fault.Parse("my.faults", []byte(`(busy (dataset tank/**) (tries 3))`))
//	armed, err := plan.Arm(clock)
//	err = work(ctx, fault.Wrap(fs, armed))
//	for _, r := range armed.Unfired() { ... }
type Plan struct {
	// Seed decides what is left to chance; 0 is a seed as any other.
	Seed uint64
	// Rules are asked in this order. One that delays a command, or changes how
	// it is run, hands it on to the next; any other ends it.
	Rules []Rule
}

// A Rule is one fault and the commands that it is for. What is zero is as the
// fault has it; [Faults] says what that is.
type Rule struct {
	Fault string // the name of one of [Faults]

	// Which commands it is for: those that have one of the verbs and are about
	// something that one of the patterns matches.
	Verbs    []string
	Datasets []Pattern
	// Of these, it acts from the Nth on, the first being 1, on Tries of them;
	// on one when Nth is given and Tries is not.
	Nth, Tries int
	// Of these, it acts on each with a probability, 0 to 1; 0 stands for 1.
	Probability float64

	// How the command fails, for the fault "fail".
	Kind   zfs.Kind
	Status int
	Stderr string

	// For faults that take time.
	Duration time.Duration
	// For slow-destroy: what a destroy frees, in 10^9 bytes a minute.
	GigabytesPerMinute float64
}

const (
	maxRules   = 1000
	maxSource  = 1 << 20
	maxStderr  = 16 << 10
	maxCount   = 1 << 30
	maxSeconds = 1e6
)

// Parse reads the rules of a plan, one after the other, as [Plan.String]
// prints them; (seed N) may be among them. Errors are *sexp.Error, with the
// place and a hint. file is what they call the source.
func Parse(file string, src []byte) (Plan, error) {
	if len(src) > maxSource {
		return Plan{}, sexp.Errorf(sexp.Pos{File: file, Line: 1, Col: 1}, "more than %d bytes of faults", maxSource)
	}
	nodes, err := sexp.ParseAll(file, src)
	if err != nil {
		return Plan{}, err
	}
	var p Plan
	for _, n := range nodes {
		switch n.Head() {
		case "seed":
			if err := number(n, func(s string) (err error) {
				p.Seed, err = strconv.ParseUint(s, 10, 64)
				return err
			}, "a number from 0 to 2^64-1"); err != nil {
				return Plan{}, err
			}
		default:
			r, err := parseRule(n)
			if err != nil {
				return Plan{}, err
			}
			p.Rules = append(p.Rules, r)
		}
		if len(p.Rules) > maxRules {
			return Plan{}, sexp.Errorf(n.Pos, "more than %d faults", maxRules)
		}
	}
	return p, nil
}

// A field is a setting of a rule: (name argument...).
type field struct {
	name string
	// set reads the arguments, of which there is at least one.
	set func(r *Rule, n sexp.Node) error
	// get gives the arguments to print, none when the setting is not given.
	get func(r *Rule) []string
	// for which faults; all when nil.
	of func(f *Fault) bool
}

// isFor reports whether rules of f may have the setting.
func (fd field) isFor(f *Fault) bool { return f.Group == nil && (fd.of == nil || fd.of(f)) }

// fields are the settings of rules in the order in which they are printed.
var fields = []field{
	{"verb", func(r *Rule, n sexp.Node) error {
		return each(n, func(arg sexp.Node) error {
			if !slices.Contains(verbs, arg.Atom) {
				return &sexp.Error{Pos: arg.Pos, Msg: fmt.Sprintf("there is no command %s", sexp.AtomText(arg.Atom)),
					Hint: sexp.DidYouMean(arg.Atom, "the commands are", verbs)}
			}
			r.Verbs = append(r.Verbs, arg.Atom)
			return nil
		})
	}, func(r *Rule) []string { return r.Verbs }, nil},
	{"dataset", func(r *Rule, n sexp.Node) error {
		return each(n, func(arg sexp.Node) error {
			if reason := Pattern(arg.Atom).check(); reason != "" {
				return sexp.Errorf(arg.Pos, "%s: %s", sexp.AtomText(arg.Atom), reason)
			}
			r.Datasets = append(r.Datasets, Pattern(arg.Atom))
			return nil
		})
	}, func(r *Rule) (list []string) {
		for _, p := range r.Datasets {
			list = append(list, string(p))
		}
		return list
	}, nil},
	count("nth", func(r *Rule) *int { return &r.Nth }, maxCount, nil),
	count("tries", func(r *Rule) *int { return &r.Tries }, maxCount, nil),
	decimal("probability", func(r *Rule) *float64 { return &r.Probability }, 1, nil),
	{"kind", func(r *Rule, n sexp.Node) error {
		return one(n, func(arg sexp.Node) error {
			for k := zfs.Unknown; k <= zfs.Unavailable; k++ {
				if kindName(k) == arg.Atom {
					r.Kind = k
					return nil
				}
			}
			var known []string
			for k := zfs.Unknown; k <= zfs.Unavailable; k++ {
				known = append(known, kindName(k))
			}
			return &sexp.Error{Pos: arg.Pos, Msg: fmt.Sprintf("there is no kind of failure %s", sexp.AtomText(arg.Atom)),
				Hint: sexp.DidYouMean(arg.Atom, "the kinds are", known)}
		})
	}, func(r *Rule) []string {
		if r.Kind == zfs.Unknown {
			return nil
		}
		return []string{kindName(r.Kind)}
	}, (*Fault).fails},
	count("status", func(r *Rule) *int { return &r.Status }, 255, (*Fault).fails),
	{"stderr", func(r *Rule, n sexp.Node) error {
		return one(n, func(arg sexp.Node) error {
			if arg.Atom == "" || len(arg.Atom) > maxStderr {
				return sexp.Errorf(arg.Pos, "stderr is 1 to %d bytes", maxStderr)
			}
			r.Stderr = arg.Atom
			return nil
		})
	}, func(r *Rule) []string {
		if r.Stderr == "" {
			return nil
		}
		return []string{r.Stderr}
	}, (*Fault).fails},
	{"seconds", func(r *Rule, n sexp.Node) error {
		var seconds float64
		err := floating(n, &seconds, maxSeconds)
		r.Duration = time.Duration(math.Round(seconds * float64(time.Second)))
		if err == nil && r.Duration == 0 {
			return sexp.Errorf(n.List[1].Pos, "seconds: less than a nanosecond")
		}
		return err
	}, func(r *Rule) []string {
		if r.Duration == 0 {
			return nil
		}
		return []string{strconv.FormatFloat(r.Duration.Seconds(), 'f', -1, 64)}
	}, func(f *Fault) bool { return f.seconds > 0 }},
	decimal("gigabytes-per-minute", func(r *Rule) *float64 { return &r.GigabytesPerMinute }, 1e6,
		func(f *Fault) bool { return f.perMinute > 0 }),
}

// count is a field with a whole number from 1 to most.
func count(name string, p func(*Rule) *int, most int, of func(*Fault) bool) field {
	return field{name, func(r *Rule, n sexp.Node) error {
		return number(n, func(s string) error {
			v, err := strconv.Atoi(s)
			if err == nil && (v < 1 || v > most) {
				err = strconv.ErrRange
			}
			*p(r) = v
			return err
		}, fmt.Sprintf("a number from 1 to %d", most))
	}, func(r *Rule) []string {
		if *p(r) == 0 {
			return nil
		}
		return []string{strconv.Itoa(*p(r))}
	}, of}
}

// decimal is a field with a number above 0, and at most most.
func decimal(name string, p func(*Rule) *float64, most float64, of func(*Fault) bool) field {
	return field{name, func(r *Rule, n sexp.Node) error {
		return floating(n, p(r), most)
	}, func(r *Rule) []string {
		if *p(r) == 0 {
			return nil
		}
		return []string{strconv.FormatFloat(*p(r), 'f', -1, 64)}
	}, of}
}

func floating(n sexp.Node, to *float64, most float64) error {
	return number(n, func(s string) error {
		v, err := strconv.ParseFloat(s, 64)
		if err == nil && !(v > 0 && v <= most) { // NaN is neither
			err = strconv.ErrRange
		}
		*to = v
		return err
	}, fmt.Sprintf("a number above 0 and up to %s", strconv.FormatFloat(most, 'f', -1, 64)))
}

// each calls f for each argument of a field.
func each(n sexp.Node, f func(sexp.Node) error) error {
	if len(n.List) < 2 {
		return sexp.Errorf(n.Pos, "nothing follows %s", n.Head())
	}
	for _, arg := range n.List[1:] {
		if arg.IsList {
			return sexp.Errorf(arg.Pos, "%s takes words, not lists", n.Head())
		}
		if err := f(arg); err != nil {
			return err
		}
	}
	return nil
}

func one(n sexp.Node, f func(sexp.Node) error) error {
	if len(n.List) > 2 {
		return sexp.Errorf(n.List[2].Pos, "%s takes one word", n.Head())
	}
	return each(n, f)
}

func number(n sexp.Node, f func(string) error, what string) error {
	return one(n, func(arg sexp.Node) error {
		if f(arg.Atom) != nil {
			return sexp.Errorf(arg.Pos, "%s is %s, not %s", n.Head(), what, sexp.AtomText(arg.Atom))
		}
		return nil
	})
}

// kindName is how rules name a kind.
func kindName(k zfs.Kind) string { return strings.ReplaceAll(k.String(), " ", "-") }

func parseRule(n sexp.Node) (Rule, error) {
	r := Rule{Fault: n.Head()}
	if r.Fault == "" {
		return r, &sexp.Error{Pos: n.Pos, Msg: "a fault is a list that begins with its name",
			Hint: "such as (busy (dataset obuilder/result/**) (tries 3))"}
	}
	f := find(r.Fault)
	if f == nil {
		return r, &sexp.Error{Pos: n.List[0].Pos, Msg: fmt.Sprintf("there is no fault %s", sexp.AtomText(r.Fault)),
			Hint: sexp.DidYouMean(r.Fault, "the faults are", append(names(), "seed"))}
	}
	given := map[string]bool{}
	for _, item := range n.List[1:] {
		name := item.Head()
		i := slices.IndexFunc(fields, func(fd field) bool { return fd.name == name && fd.isFor(f) })
		if i < 0 {
			pos := item.Pos
			if name == "" {
				return r, &sexp.Error{Pos: pos, Msg: "a setting of a fault is a list that begins with its name",
					Hint: "such as (dataset obuilder/result/**)"}
			}
			return r, &sexp.Error{Pos: pos, Msg: fmt.Sprintf("%s has no setting %s", r.Fault, sexp.AtomText(name)),
				Hint: sexp.DidYouMean(name, "its settings are", f.Settings())}
		}
		if given[name] {
			return r, sexp.Errorf(item.Pos, "%s is given twice", name)
		}
		given[name] = true
		if err := fields[i].set(&r, item); err != nil {
			return r, err
		}
	}
	return r, nil
}

// node gives the rule as it is printed.
func (r Rule) node() sexp.Node {
	n := sexp.List(sexp.Atom(r.Fault))
	for _, f := range fields {
		args := f.get(&r)
		if len(args) == 0 {
			continue
		}
		item := sexp.List(sexp.Atom(f.name))
		for _, a := range args {
			item.List = append(item.List, sexp.Atom(a))
		}
		n.List = append(n.List, item)
	}
	return n
}

// String prints the rule as [Parse] reads it, with a space between any two
// things: (busy (dataset obuilder/result/*) (tries 3)).
func (r Rule) String() string { return spaced(r.node()) }

func spaced(n sexp.Node) string {
	if !n.IsList {
		return sexp.AtomText(n.Atom)
	}
	items := make([]string, len(n.List))
	for i, item := range n.List {
		items[i] = spaced(item)
	}
	return "(" + strings.Join(items, " ") + ")"
}

// String prints the plan as [Parse] reads it, a rule a line.
func (p Plan) String() string {
	var b strings.Builder
	if p.Seed != 0 {
		fmt.Fprintf(&b, "(seed %d)\n", p.Seed)
	}
	for _, r := range p.Rules {
		b.WriteString(r.String())
		b.WriteByte('\n')
	}
	return b.String()
}
