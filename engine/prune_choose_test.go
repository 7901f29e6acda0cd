package engine

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// drawSurvey draws a store and which of its results are needed. A needed
// result needs what it was built on.
func drawSurvey(t *rapid.T, now time.Time) (*survey, map[string]bool) {
	s := &survey{results: map[string]Prunable{}, size: 1000}
	var ids []string
	for i := range rapid.IntRange(0, 12).Draw(t, "results") {
		r := Prunable{ID: fmt.Sprintf("%c", 'a'+i), Bytes: uint64(rapid.IntRange(0, 50).Draw(t, "bytes")),
			Used: now.Add(-time.Duration(rapid.IntRange(0, 10).Draw(t, "age")) * time.Hour)}
		if n := rapid.IntRange(-1, len(ids)-1).Draw(t, "parent"); n >= 0 {
			r.Parent = ids[n]
		}
		ids = append(ids, r.ID)
		s.results[r.ID] = r
	}
	needed := map[string]bool{}
	for _, id := range ids {
		if rapid.IntRange(0, 4).Draw(t, "needed") == 0 {
			for ; id != ""; id = s.results[id].Parent {
				needed[id] = true
			}
		}
	}
	s.free = uint64(rapid.IntRange(0, 1000).Draw(t, "free"))
	return s, needed
}

func drawPolicy(t *rapid.T) PrunePolicy {
	p := PrunePolicy{}
	if rapid.Bool().Draw(t, "by free") {
		p.KeepFree = Space{Bytes: uint64(rapid.IntRange(0, 1200).Draw(t, "free bytes")), Percent: float64(rapid.IntRange(0, 100).Draw(t, "percent"))}
	}
	if rapid.Bool().Draw(t, "by bytes") {
		p.KeepBytes = uint64(rapid.IntRange(1, 400).Draw(t, "keep bytes"))
	}
	if rapid.Bool().Draw(t, "by age") {
		p.KeepAge = time.Duration(rapid.IntRange(1, 11).Draw(t, "keep age")) * time.Hour
	}
	if rapid.Bool().Draw(t, "by number") {
		p.KeepResults = rapid.IntRange(1, 12).Draw(t, "keep results")
	}
	if rapid.Bool().Draw(t, "limited") {
		p.Limit = rapid.IntRange(1, 5).Draw(t, "limit")
	}
	return p
}

// satisfied reports whether what is left is as a policy asks, its ages apart.
func satisfied(p PrunePolicy, s *survey, left map[string]Prunable, freed uint64) bool {
	if p.KeepFree == (Space{}) && p.KeepBytes == 0 {
		return false
	}
	used := uint64(0)
	for _, r := range left {
		used += r.Bytes
	}
	target := float64(p.KeepFree.Bytes) + p.KeepFree.Percent/100*float64(s.size)
	return s.free+freed >= uint64(math.Floor(target)) && (p.KeepBytes == 0 || used <= p.KeepBytes)
}

// One result after the other goes, the least recently used of those that
// nothing was built on any more and that nobody needs, until the policy is
// satisfied or does not allow more.
func TestChoose(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	rapid.Check(t, func(t *rapid.T) {
		s, needed := drawSurvey(t, now)
		p := drawPolicy(t)
		if p.Check() != nil {
			return
		}
		left, freed := maps.Clone(s.results), uint64(0)
		var want []string
		for !satisfied(p, s, left, freed) && len(left) > p.KeepResults && (p.Limit == 0 || len(want) < p.Limit) {
			var leaves []Prunable
			for _, r := range left {
				parent := func(other Prunable) bool { return other.Parent == r.ID }
				if !needed[r.ID] && !slices.ContainsFunc(slices.Collect(maps.Values(left)), parent) {
					leaves = append(leaves, r)
				}
			}
			if len(leaves) == 0 {
				break
			}
			oldest := slices.MinFunc(leaves, func(a, b Prunable) int { return cmp.Or(a.Used.Compare(b.Used), strings.Compare(a.ID, b.ID)) })
			if p.KeepAge > 0 && oldest.Used.After(now.Add(-p.KeepAge)) {
				break
			}
			delete(left, oldest.ID)
			freed += oldest.Bytes
			want = append(want, oldest.ID)
		}
		plan := s.choose(p, now, func(id string) bool { return needed[id] })
		var got []string
		for _, r := range plan.Results {
			got = append(got, r.ID)
		}
		if diff := gocmp.Diff(want, got); diff != "" {
			t.Fatalf("%+v (-want +got):\n%s", p, diff)
		}
		if plan.Bytes != freed || plan.Total != len(s.results) {
			t.Fatalf("plan %+v, want %d bytes", plan, freed)
		}
		if short := plan.Short > 0; short != (!satisfied(p, s, left, freed) && (p.KeepFree != Space{} || p.KeepBytes > 0)) {
			t.Fatalf("short by %d", plan.Short)
		}
	})
}

func TestPolicyCheck(t *testing.T) {
	for _, test := range []struct {
		policy PrunePolicy
		want   string
	}{
		{PrunePolicy{}, "nothing says"},
		{PrunePolicy{Limit: 3}, "nothing says"},
		{PrunePolicy{KeepFree: Space{Percent: 101}}, "cannot be kept free"},
		{PrunePolicy{KeepFree: Space{Percent: -1}}, "cannot be kept free"},
		{PrunePolicy{KeepFree: Space{Percent: math.NaN()}}, "cannot be kept free"},
		{PrunePolicy{KeepAge: -time.Hour}, "negative"},
		{PrunePolicy{KeepResults: -1}, "negative"},
		{PrunePolicy{KeepResults: 1, Limit: -1}, "negative"},
		{PrunePolicy{KeepFree: Space{Percent: 100}}, ""},
		{PrunePolicy{KeepBytes: 1, KeepAge: time.Hour, KeepResults: 1, Limit: 1}, ""},
	} {
		err := test.policy.Check()
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%+v: %v, want %q", test.policy, err, test.want)
		}
	}
}
