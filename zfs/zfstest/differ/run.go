package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/tools/txtar"

	"obuilder.org/obuilder/zfs/fake/command"
	"obuilder.org/obuilder/zfs/zfstest/session"
)

// A comparison compares two players and keeps count.
type comparison struct {
	real, fake *player
	log        io.Writer                      // for people
	keep       func(name string, data []byte) // takes the files that are made

	length   int           // commands in a sequence
	shrink   time.Duration // at most, for each divergence
	deadline time.Time     // no sequence is begun after it
	record   bool

	compared, skipped int
	states            int
	meant             map[string]int // deliberate differences by name
	unmodelled        map[string]int // by what the fake said
	found             map[string]int // divergences by shape
	recorded          []txtar.File
}

// run compares as many commands as ops, in sequences that follow from seed.
func (c *comparison) run(ctx context.Context, ops int, seed uint64) error {
	c.meant, c.unmodelled, c.found = map[string]int{}, map[string]int{}, map[string]int{}
	start := time.Now()
	for n := uint64(0); c.compared < ops && (c.deadline.IsZero() || time.Now().Before(c.deadline)); n++ {
		if err := c.sequence(ctx, seed, n, ops-c.compared); err != nil {
			return fmt.Errorf("sequence %d of seed %d: %w", n, seed, err)
		}
		fmt.Fprintf(c.log, "%d of %d operations after %.0f s, sequence %d\n", c.compared, ops, time.Since(start).Seconds(), n)
	}
	if c.record {
		data, err := compress(txtar.Format(&txtar.Archive{Files: c.recorded}))
		if err != nil {
			return err
		}
		c.keep(fmt.Sprintf("corpus/%d.txtar.gz", seed), data)
	}
	for _, text := range slices.Sorted(maps.Keys(c.unmodelled)) {
		fmt.Fprintf(c.log, "not modelled, %d times: %s\n", c.unmodelled[text], text)
	}
	for _, name := range slices.Sorted(maps.Keys(c.meant)) {
		fmt.Fprintf(c.log, "deliberately different, %d times: %s\n", c.meant[name], name)
	}
	total := 0
	for _, key := range slices.Sorted(maps.Keys(c.found)) {
		fmt.Fprintf(c.log, "diverges, %d times: %s\n", c.found[key], key)
		total += c.found[key]
	}
	fmt.Fprintf(c.log, "compared %d operations, %d divergences, seed %d (%d states, %d not modelled, %.0f s)\n",
		c.compared, total, seed, c.states, c.skipped, time.Since(start).Seconds())
	return nil
}

// sequence compares one sequence of commands on new pools, up to the first
// divergence.
func (c *comparison) sequence(ctx context.Context, seed, number uint64, most int) error {
	if err := c.reset(ctx); err != nil {
		return err
	}
	defer c.real.Close()
	defer c.fake.Close()
	g := &generator{Rand: rand.New(rand.NewPCG(seed, number)), look: func(line string) string {
		s, _ := c.fake.PlayUnmasked(ctx, line)
		return s.Out
	}}
	g.begin()
	var played []string
	var answers []session.Step
	defer func() {
		if c.record {
			c.recorded = append(c.recorded, txtar.File{Name: fmt.Sprint(number), Data: []byte(session.Print(answers))})
		}
	}()
	length, every := min(c.length, most), 8+g.IntN(8)
	for i := 1; i <= length; i++ {
		line := g.next()
		ended, err := c.both(ctx, line, &played, &answers, seed, number)
		if err != nil || ended {
			return err
		}
		look := ""
		switch {
		case i == length:
			look = wholeCommand
		case i%every == 0:
			look = stateCommand
		}
		if look != "" {
			c.states++
			if ended, err := c.both(ctx, look, &played, &answers, seed, number); err != nil || ended {
				return err
			}
		}
	}
	return nil
}

func (c *comparison) reset(ctx context.Context) error {
	if err := c.fake.reset(ctx); err != nil {
		return fmt.Errorf("the fake: %w", err)
	}
	return c.real.reset(ctx)
}

// both plays a command on both sides. It reports whether the sequence is to end.
func (c *comparison) both(ctx context.Context, line string, played *[]string, answers *[]session.Step, seed, number uint64) (bool, error) {
	fake, err := c.fake.play(ctx, line)
	if err != nil {
		return true, err
	}
	if fake.Status == command.NotModelled { // nor is it done on the other side
		c.skipped++
		c.unmodelled[strings.TrimSpace(fake.Err)]++
		return false, nil
	}
	real, err := c.real.play(ctx, line)
	if err != nil {
		return true, err
	}
	*played, *answers = append(*played, line), append(*answers, real)
	if line != stateCommand && line != wholeCommand {
		c.compared++
	}
	result, d := compare(real, fake)
	switch result {
	case deliberate:
		c.meant[d.name]++
		return d.drop == nil, nil // otherwise both have done the same
	case different:
		key := shape(real, fake)
		c.found[key]++
		if c.found[key] > 1 {
			return true, nil
		}
		fmt.Fprintf(c.log, "DIVERGES: %s\n", key)
		return true, c.report(ctx, *played, key, seed, number)
	}
	return false, nil
}

// again plays commands on new pools and reports whether they end in a
// divergence of this shape, and only there.
func (c *comparison) again(ctx context.Context, lines []string, key string) (real, fake []session.Step, diverges bool, err error) {
	if err := c.reset(ctx); err != nil {
		return nil, nil, false, err
	}
	for _, line := range lines {
		f, err := c.fake.play(ctx, line)
		if err != nil {
			return nil, nil, false, err
		}
		r, err := c.real.play(ctx, line)
		if err != nil {
			return nil, nil, false, err
		}
		real, fake = append(real, r), append(fake, f)
		if result, _ := compare(r, f); result == different {
			return real, fake, len(real) == len(lines) && shape(r, f) == key, nil
		}
	}
	return real, fake, false, nil
}

// report shrinks a divergence and hands it over.
func (c *comparison) report(ctx context.Context, lines []string, key string, seed, number uint64) error {
	if len(lines) > 1 {
		var err error
		if lines, err = c.shrunk(ctx, lines, key); err != nil {
			return err
		}
	}
	real, fake, again, err := c.again(ctx, lines, key)
	if err != nil {
		return err
	}
	comment := fmt.Sprintf("%s\nsequence %d of seed %d\n", key, number, seed)
	if !again {
		comment += "it did not happen a second time\n"
	}
	argv, _ := session.Split(lines[len(lines)-1])
	verb := argv[0]
	if len(argv) > 1 && argv[0] != "state" {
		verb = argv[0] + "-" + argv[1]
	}
	name := fmt.Sprintf("%s-%.4x", unsafe.ReplaceAllString(verb, "_"), sha256.Sum256([]byte(key)))
	data := txtar.Format(&txtar.Archive{Comment: []byte(comment), Files: []txtar.File{
		{Name: "openzfs", Data: []byte(session.Print(masked(real)))},
		{Name: "fake", Data: []byte(session.Print(masked(fake[len(fake)-1:])))},
	}})
	c.keep("divergences/"+name+".txtar", data)
	return nil
}

var unsafe = regexp.MustCompile(`[^a-z_-]`)

func masked(steps []session.Step) []session.Step {
	for i := range steps {
		steps[i].Out, steps[i].Err = session.Mask(steps[i].Out), session.Mask(steps[i].Err)
	}
	return steps
}

// shrunk gives fewer commands with the same divergence at their end: first
// those that make the fake answer as it did, which costs next to nothing, then
// what can be left out on both sides within the time for it.
func (c *comparison) shrunk(ctx context.Context, lines []string, key string) ([]string, error) {
	end := time.Now().Add(c.shrink)
	var wrong error
	holds := func(candidate []string) bool {
		if wrong != nil || time.Now().After(end) {
			return false
		}
		_, _, diverges, err := c.again(ctx, candidate, key)
		wrong = err
		return diverges
	}
	if plain := c.plain(ctx, lines); len(plain) < len(lines) && holds(plain) {
		lines = plain
	}
	want, err := c.lastOfFake(ctx, lines)
	if err != nil {
		return nil, err
	}
	quick := minimal(lines, func(candidate []string) bool {
		got, err := c.lastOfFake(ctx, candidate)
		return err == nil && got == want
	})
	if holds(quick) {
		lines = quick
	}
	lines = minimal(lines, holds)
	return lines, wrong
}

// reads are commands that change nothing.
var reads = regexp.MustCompile(`^(zfs (list|get|holds)|zpool (list|get|status)|cat|ls|state)\b`)

// plain leaves out, but for the last command, what changes nothing: what only
// looks and what fails on the fake.
func (c *comparison) plain(ctx context.Context, lines []string) (plain []string) {
	if c.fake.reset(ctx) != nil {
		return lines
	}
	for i, line := range lines {
		if i == len(lines)-1 {
			plain = append(plain, line)
		} else if s, err := c.fake.play(ctx, line); err == nil && s.Status == 0 && !reads.MatchString(line) {
			plain = append(plain, line)
		}
	}
	return plain
}

// lastOfFake gives what the fake answers to the last command.
func (c *comparison) lastOfFake(ctx context.Context, lines []string) (last session.Step, err error) {
	if err := c.fake.reset(ctx); err != nil {
		return last, err
	}
	for _, line := range lines {
		if last, err = c.fake.play(ctx, line); err != nil {
			return last, err
		}
	}
	return comparable(last), nil
}

// minimal leaves out commands but the last as long as holds says so: halves
// first, then quarters and so on (delta debugging).
func minimal(lines []string, holds func([]string) bool) []string {
	for size := len(lines) / 2; size >= 1; {
		removed := false
		for at := len(lines) - 1 - size; at > -size; at -= size {
			from, to := max(at, 0), min(at+size, len(lines)-1)
			if from >= to {
				continue
			}
			candidate := slices.Concat(lines[:from], lines[to:])
			if holds(candidate) {
				lines, removed = candidate, true
			}
		}
		if !removed || size > 1 {
			size /= 2
		}
	}
	return lines
}
