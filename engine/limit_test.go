package engine_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"obuilder.org/obuilder/engine"
	"obuilder.org/obuilder/sandbox"
)

// sleeping has a step print each of its pauses, such as 3s, after it was one.
func sleeping(ctx context.Context, cfg sandbox.Config, _ io.Reader, out io.Writer) error {
	for pause := range strings.FieldsSeq(cfg.Argv[len(cfg.Argv)-1]) {
		d, err := time.ParseDuration(pause)
		if err != nil {
			return err
		}
		if err := (engine.SystemClock{}).Sleep(ctx, d); err != nil {
			return fmt.Errorf("stopped: %w", err)
		}
		if _, err := fmt.Fprintln(out, pause); err != nil {
			return err
		}
	}
	return nil
}

// A job, a step and a silence that are longer than they may be end with an
// error that says which, as soon as that is so; nothing of the step is left,
// and what was built before stays.
func TestLimits(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		seconds := rapid.IntRange(0, 20)
		// No two at the same time.
		draw := func(name string, fraction time.Duration) time.Duration {
			return time.Duration(seconds.Draw(rt, name))*time.Second + fraction
		}
		var limits engine.Limits
		if rapid.Bool().Draw(rt, "limit of the job") {
			limits.Job = draw("job", 100*time.Millisecond)
		}
		if rapid.Bool().Draw(rt, "limit of a step") {
			limits.Step = draw("step", 200*time.Millisecond)
		}
		if rapid.Bool().Draw(rt, "limit of a silence") {
			limits.Silence = draw("silence", 300*time.Millisecond)
		}
		steps := rapid.SliceOfN(rapid.SliceOfN(rapid.IntRange(1, 8), 0, 4), 1, 3).Draw(rt, "steps")

		// What comes first, by a clock that only the steps move.
		want, saved, now := "", 1, time.Duration(0)
		var text strings.Builder
		text.WriteString("((from busybox)")
		for n, pauses := range steps {
			var words []string
			begin := now
			for _, pause := range pauses {
				d := time.Duration(pause) * time.Second
				words = append(words, d.String())
				if want != "" {
					continue
				}
				for _, l := range []struct {
					what  string
					limit time.Duration
					since time.Duration
				}{{"job", limits.Job, 0}, {"step", limits.Step, begin}, {"silence", limits.Silence, now}} {
					at := l.since + l.limit
					if l.limit > 0 && at < now+d {
						d, want = at-now, l.what
					}
				}
				now += d
			}
			if want == "" {
				saved++
			}
			fmt.Fprintf(&text, ` (run (shell "%s")) (comment "%d")`, strings.Join(words, " "), n)
		}
		text.WriteString(")")

		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, engine.ListSnapshots, "busybox")
			w.script = sleeping
			e := w.open()
			begin := time.Now()
			_, err := e.Build(t.Context(), engine.Job{Spec: parse(t, text.String()), Limits: limits})
			took := time.Since(begin)
			got := ""
			if late := (*engine.TimeoutError)(nil); errors.As(err, &late) {
				got = late.What
			} else if err != nil {
				rt.Fatalf("ended with %v", err)
			}
			if got != want || took != now {
				rt.Errorf("%q after %v, want %q after %v: %v", got, took, want, now, err)
			}
			if n := len(w.stored()); n != saved {
				rt.Errorf("%d results, want %d", n, saved)
			}
			if left := w.leftovers(); len(left) > 0 {
				rt.Errorf("left: %q", left)
			}
			w.must(e.Close())
		})
	})
}

// What the log says of a step that took too long; a copy may be silent.
func TestLimitText(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, engine.ListSnapshots, "busybox")
		w.script = sleeping
		e := w.open()
		for _, test := range []struct {
			limits engine.Limits
			want   string
		}{
			{engine.Limits{Step: 90 * time.Second}, "the step took longer than 1m30s"},
			{engine.Limits{Silence: time.Minute}, "the step printed nothing for 1m0s"},
			{engine.Limits{Job: time.Hour}, "the job took longer than 1h0m0s"},
		} {
			r := &recording{}
			_, err := e.Build(t.Context(), engine.Job{Spec: parse(t, `((from busybox) (run (shell "1s 2h")))`), Limits: test.limits, Events: r.event})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("ended with %v", err)
			}
			if diff := cmp.Diff("[failed] "+test.want, r.String()[strings.LastIndex(strings.TrimSpace(r.String()), "\n")+1:len(r.String())-1]); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		}
		if _, err := e.Build(t.Context(), engine.Job{Spec: parse(t, `((from busybox))`), Limits: engine.Limits{Step: -1}}); err == nil {
			t.Error("a negative limit")
		}
		w.must(e.Close())
	})
}
