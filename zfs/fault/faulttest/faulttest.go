// Package faulttest makes plans of faults for property tests:
//
//	rapid.Check(t, func(t *rapid.T) {
//		plan := faulttest.Plan("tank").Draw(t, "faults")
//		armed, err := plan.Arm(clock)
//		...
//	})
//
// A plan that fails is printed by rapid as Go, and by plan.String() as it is
// written for obsim.
package faulttest

import (
	"math"
	"slices"
	"strings"
	"time"

	"obuilder.org/obuilder/zfs"
	"obuilder.org/obuilder/zfs/fault"
	"pgregory.net/rapid"
)

// Plan generates plans of up to four rules for the datasets below roots, of
// all faults.
func Plan(roots ...string) *rapid.Generator[fault.Plan] {
	return PlanOf(func(fault.Fault) bool { return true }, roots...)
}

// PlanOf is [Plan] of the faults for which keep gives true.
func PlanOf(keep func(fault.Fault) bool, roots ...string) *rapid.Generator[fault.Plan] {
	faults := slices.DeleteFunc(fault.Faults(), func(f fault.Fault) bool { return !keep(f) })
	return rapid.Custom(func(t *rapid.T) fault.Plan {
		return fault.Plan{
			Seed:  rapid.Uint64().Draw(t, "seed"),
			Rules: rapid.SliceOfN(rule(faults, roots), 1, 4).Draw(t, "rules"),
		}
	})
}

func rule(faults []fault.Fault, roots []string) *rapid.Generator[fault.Rule] {
	return rapid.Custom(func(t *rapid.T) fault.Rule {
		f := rapid.SampledFrom(faults).Draw(t, "fault")
		r := fault.Rule{Fault: f.Name}
		settings := f.Settings()
		// maybe reports whether a setting is given: most are not, so that rules
		// are for something.
		maybe := func(name string) bool {
			return slices.Contains(settings, name) && rapid.IntRange(0, 3).Draw(t, "give "+name) == 0
		}
		if maybe("verb") {
			r.Verbs = rapid.SliceOfNDistinct(rapid.SampledFrom(fault.Verbs()), 1, 3, rapid.ID).Draw(t, "verb")
		}
		if maybe("dataset") {
			r.Datasets = rapid.SliceOfN(pattern(roots), 1, 2).Draw(t, "dataset")
		}
		if maybe("nth") {
			r.Nth = rapid.IntRange(1, 10).Draw(t, "nth")
		}
		if maybe("tries") {
			r.Tries = rapid.IntRange(1, 6).Draw(t, "tries")
		}
		if maybe("probability") {
			r.Probability = math.Round(rapid.Float64Range(0.01, 1).Draw(t, "probability")*100) / 100
		}
		if maybe("kind") {
			r.Kind = zfs.Kind(rapid.IntRange(int(zfs.Unknown), int(zfs.Unavailable)).Draw(t, "kind"))
		}
		if maybe("status") {
			r.Status = rapid.IntRange(1, 255).Draw(t, "status")
		}
		if maybe("stderr") {
			r.Stderr = rapid.StringN(1, 40, -1).Draw(t, "stderr")
		}
		if maybe("seconds") {
			r.Duration = time.Duration(rapid.Int64Range(1, int64(10*time.Minute)).Draw(t, "seconds"))
		}
		if maybe("gigabytes-per-minute") {
			r.GigabytesPerMinute = rapid.Float64Range(0.1, 100).Draw(t, "gigabytes-per-minute")
		}
		return r
	})
}

// pattern generates patterns for datasets below roots, and their snapshots.
func pattern(roots []string) *rapid.Generator[fault.Pattern] {
	return rapid.Custom(func(t *rapid.T) fault.Pattern {
		components := []string{rapid.SampledFrom(append(slices.Clone(roots), "**")).Draw(t, "root")}
		rest := rapid.SampledFrom([]string{"*", "**", "?*", "home", "brew", "result", "cache*", "[a-z0-9]*"})
		components = append(components, rapid.SliceOfN(rest, 0, 3).Draw(t, "below")...)
		p := strings.Join(components, "/")
		if rapid.Bool().Draw(t, "snapshot") {
			p += rapid.SampledFrom([]string{"@*", "@snap", "@[!o]*"}).Draw(t, "tag")
		}
		return fault.Pattern(p)
	})
}
