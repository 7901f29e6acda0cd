package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// A use is what one of several goroutines does with results.
type use struct {
	Kind  string // "share", "claim", "try", "own"
	First []int  // results
	Later []int  // shared while the first are held, or claimed after them; above First
	Start time.Duration
	Each  time.Duration
}

// Whatever is shared, claimed and owned at once, no result is shared and
// claimed at the same time, nothing is when the store is owned, and everybody
// comes to its turn.
func TestUses(t *testing.T) {
	const results = 6
	tenths := func(label string, t *rapid.T) time.Duration {
		return time.Duration(rapid.IntRange(0, 20).Draw(t, label)) * 100 * time.Millisecond
	}
	anyUse := rapid.Custom(func(t *rapid.T) use {
		u := use{Kind: rapid.SampledFrom([]string{"share", "share", "share", "claim", "try", "own"}).Draw(t, "kind"),
			Start: tenths("start", t), Each: tenths("each", t) + time.Millisecond}
		// As results are: who needs one needs all that it is built on, and gets
		// those first.
		deepest := rapid.IntRange(0, results-1).Draw(t, "deepest")
		known := rapid.IntRange(0, deepest).Draw(t, "known")
		for i := range deepest + 1 {
			switch {
			case u.Kind == "claim" || u.Kind == "try":
				if i == known {
					u.First = append(u.First, i)
				} else if i > known {
					u.Later = append(u.Later, i)
				}
			case i <= known:
				u.First = append(u.First, i)
			default:
				u.Later = append(u.Later, i)
			}
		}
		return u
	})
	rapid.Check(t, func(rt *rapid.T) {
		list := rapid.SliceOfN(anyUse, 1, 10).Draw(rt, "uses")
		var problems []string
		synctest.Test(t, func(t *testing.T) {
			var u uses
			var mu sync.Mutex
			holders, claimers, owners := map[int]int{}, map[int]int{}, 0
			note := func(n int, m map[int]int, by int) {
				mu.Lock()
				defer mu.Unlock()
				if m == nil {
					owners += by
				} else {
					m[n] += by
				}
				for r := range results {
					if claimers[r] > 1 || claimers[r] > 0 && holders[r] > 0 || owners > 0 && claimers[r]+holders[r] > 0 || owners > 1 {
						problems = append(problems, fmt.Sprintf("result %d: %d holders, %d claimers, %d owners", r, holders[r], claimers[r], owners))
					}
				}
			}
			name := func(ids []int) (names []string) {
				for _, id := range ids {
					names = append(names, fmt.Sprint(id))
				}
				return names
			}
			// All of them together take a quarter of that.
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Second)
			defer cancel()
			var wg sync.WaitGroup
			for _, d := range list {
				wg.Go(func() {
					time.Sleep(d.Start)
					var err error
					switch d.Kind {
					case "share":
						var s *share
						if s, err = u.share(ctx, name(d.First)...); err != nil {
							break
						}
						for _, id := range d.First {
							note(id, holders, 1)
						}
						got := slices.Clone(d.First)
						for _, id := range d.Later {
							time.Sleep(d.Each)
							if err = s.add(ctx, fmt.Sprint(id)); err != nil {
								break
							}
							note(id, holders, 1)
							got = append(got, id)
						}
						time.Sleep(d.Each)
						for _, id := range got {
							note(id, holders, -1)
						}
						s.release()
					case "claim":
						for _, id := range append(slices.Clone(d.First), d.Later...) {
							var release func()
							if release, err = u.claim(ctx, fmt.Sprint(id)); err != nil {
								break
							}
							note(id, claimers, 1)
							defer release()
							defer note(id, claimers, -1)
						}
						time.Sleep(d.Each)
					case "try":
						if release, ok := u.tryClaim(fmt.Sprint(d.First[0])); ok {
							note(d.First[0], claimers, 1)
							time.Sleep(d.Each)
							note(d.First[0], claimers, -1)
							release()
						}
					case "own":
						var release func()
						if release, err = u.own(ctx); err == nil {
							note(0, nil, 1)
							time.Sleep(d.Each)
							note(0, nil, -1)
							release()
						}
					}
					if err != nil {
						mu.Lock()
						defer mu.Unlock()
						problems = append(problems, fmt.Sprintf("%+v: %v", d, err))
					}
				})
			}
			wg.Wait()
			if u.shares != 0 || len(u.held) != 0 || len(u.going) != 0 || len(u.wanted) != 0 || u.owners != 0 || u.owned {
				problems = append(problems, fmt.Sprintf("left: %+v", &u))
			}
		})
		if len(problems) > 0 {
			rt.Fatal(problems)
		}
	})
}

// Shares that follow one another without a gap do not keep a claim, or an
// owner, from its turn.
func TestUsesDoNotStarve(t *testing.T) {
	for _, kind := range []string{"claim", "own"} {
		synctest.Test(t, func(t *testing.T) {
			var u uses
			stop := make(chan struct{})
			var wg sync.WaitGroup
			for range 2 {
				wg.Go(func() {
					for {
						s, err := u.share(t.Context(), "x")
						if err != nil {
							t.Error(err)
							return
						}
						time.Sleep(time.Second)
						s.release()
						select {
						case <-stop:
							return
						default:
						}
						time.Sleep(300 * time.Millisecond)
					}
				})
				time.Sleep(650 * time.Millisecond)
			}
			ctx, cancel := context.WithTimeoutCause(t.Context(), 3*time.Second, errors.New("starved"))
			defer cancel()
			var release func()
			var err error
			if kind == "own" {
				release, err = u.own(ctx)
			} else {
				release, err = u.claim(ctx, "x")
			}
			if err != nil {
				t.Errorf("%s: %v", kind, err)
			} else {
				release()
			}
			close(stop)
			wg.Wait()
		})
	}
}

// What was used since a watch began, or was in use as it began, cannot be
// claimed without waiting.
func TestWatch(t *testing.T) {
	var u uses
	during, err := u.share(t.Context(), "during")
	if err != nil {
		t.Fatal(err)
	}
	touched, done := u.watch()
	during.release()
	since, err := u.share(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := since.add(t.Context(), "since"); err != nil {
		t.Fatal(err)
	}
	since.release()
	for id, want := range map[string]bool{"during": false, "since": false, "idle": true} {
		if touched(id) == want {
			t.Errorf("%s: touched %v", id, !want)
		}
		release, ok := u.tryClaim(id)
		if ok != want {
			t.Errorf("%s: claimed %v, want %v", id, ok, want)
		}
		if ok {
			release()
		}
	}
	if _, again := u.tryClaim("idle"); again {
		t.Error("claimed once more: it may have been built anew")
	}
	done()
}
