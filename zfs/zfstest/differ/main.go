// Differ compares the fake with OpenZFS: it makes up sequences of commands,
// runs each on both, compares exit status and output after every one and all
// that can be seen every few, and shrinks what differs.
//
//	OPENZFS_VM=PROGRAM go run ./zfs/zfstest/differ -ops 600 [-seed S]
//
// PROGRAM boots a machine with OpenZFS and runs there what it is given, see
// scripts/openzfs. Without it, as root and with OBUILDER_TEST_DISPOSABLE=1,
// this machine's OpenZFS is used, which must not have a pool yet.
//
// Each divergence is left as a script with both answers in
// testdata/divergences of this package, or below -out, and go test plays it on
// the fake from then on. With -record the answers of OpenZFS go to
// testdata/corpus, and go test compares the fake with them wherever it runs.
// What differs on purpose is in the table differences, of which
// docs/fidelity.md is made.
//
// It exits with 0 if there is no divergence, or no more than -tolerate allows,
// 1 if there are more, and 2 if it could not compare.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"syscall"
	"time"
)

const (
	exitDiverges = 1
	exitFailed   = 2
)

type settings struct {
	ops, length int
	tolerate    int
	seed        uint64
	limit       time.Duration
	shrink      time.Duration
	record      bool
	inside      bool
	out         string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var s settings
	flags := flag.NewFlagSet("differ", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.IntVar(&s.ops, "ops", 600, "how many `operations` to compare")
	flags.IntVar(&s.length, "length", 40, "how many `operations` a sequence has")
	flags.Uint64Var(&s.seed, "seed", 0, "the `number` that the operations follow from; 0 for a new one")
	flags.DurationVar(&s.limit, "limit", 0, "begin no sequence after this `time`; 0 for no limit")
	flags.DurationVar(&s.shrink, "shrink", 40*time.Second, "the `time` to make one divergence smaller in")
	flags.IntVar(&s.tolerate, "tolerate", 0, "how many `divergences` are shown but are no failure: a new seed may find what is not known yet")
	flags.BoolVar(&s.record, "record", false, "record the answers of OpenZFS for go test")
	flags.BoolVar(&s.inside, "inside", false, "use the OpenZFS of this machine and print the files that are made")
	flags.StringVar(&s.out, "out", "", "the `directory` for the files that are made, instead of testdata of this package")
	if err := flags.Parse(args); err != nil {
		return exitFailed
	}
	if flags.NArg() > 0 || s.ops < 1 || s.length < 1 || s.tolerate < 0 {
		fmt.Fprintln(stderr, "differ: there are no arguments, -ops and -length are at least 1, and -tolerate is at least 0")
		return exitFailed
	}
	if s.seed == 0 {
		s.seed = uint64(rand.Uint32()) + 1
	}
	diverges, err := s.compare(ctx, stdout)
	if err != nil {
		fmt.Fprintln(stderr, "differ:", err)
		return exitFailed
	}
	if diverges {
		return exitDiverges
	}
	return 0
}

// compare compares in a machine or here.
func (s *settings) compare(ctx context.Context, stdout io.Writer) (diverges bool, err error) {
	keep := func(name string, data []byte) { printFile(stdout, name, data) }
	if !s.inside {
		dir, e := s.testdata(ctx)
		if e != nil {
			return false, e
		}
		keep = func(name string, data []byte) { err = errors.Join(err, save(stdout, dir, name, data)) }
		if vm := os.Getenv("OPENZFS_VM"); vm != "" {
			diverges, e := s.inMachine(ctx, vm, stdout, keep)
			return diverges, errors.Join(e, err)
		}
	}
	real, e := newReal(ctx)
	if e != nil {
		return false, e
	}
	c := comparison{real: real, fake: newFake(), log: stdout, keep: keep, length: s.length, shrink: s.shrink, record: s.record}
	if s.limit > 0 {
		c.deadline = time.Now().Add(s.limit)
	}
	e = c.run(ctx, s.ops, s.seed)
	return len(c.found) > s.tolerate, errors.Join(e, err)
}
