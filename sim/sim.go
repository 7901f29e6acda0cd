// Package sim rehearses: it runs the production engine on a ZFS in memory,
// with a sandbox that runs nothing and a clock that takes no time, and shows
// what it did to the pool.
//
//	s, err := sim.New(ctx, sim.Options{Images: []string{"busybox"}})
//	id, err := s.Engine.Build(ctx, engine.Job{Spec: spec})
//	err = s.Transcript(os.Stdout)
//	err = s.List(ctx, os.Stdout)
package sim

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"obuilder.org/obuilder/engine"
	"obuilder.org/obuilder/sandbox/scripted"
	"obuilder.org/obuilder/zfs"
	"obuilder.org/obuilder/zfs/fake"
	"obuilder.org/obuilder/zfs/fault"
)

// A Clock is virtual time: it passes only when someone sleeps.
type Clock struct {
	mu  sync.Mutex
	now time.Time
}

// NewClock makes a clock that begins at a time.
func NewClock(begin time.Time) *Clock { return &Clock{now: begin} }

// Now implements engine.Clock.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Sleep implements engine.Clock: d has passed when it returns, at once.
func (c *Clock) Sleep(ctx context.Context, d time.Duration) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	return nil
}

// Begin is when a rehearsal begins unless it says otherwise.
var Begin = time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC)

// Options are what [New] makes a Sim of.
type Options struct {
	Images    []string // base images that the pool has, each with home and brew
	BrewPath  string   // "/usr/local" when ""
	Snapshots engine.SnapshotMode
	PoolSize  uint64 // bytes; 500 GB when 0
	Rules     []scripted.Rule
	// Faults are at work from the opening of the store on, which is then part
	// of the rehearsal. The base images are there before.
	Faults fault.Plan
}

// A Sim is a machine to rehearse on.
type Sim struct {
	Engine  *engine.Engine
	Machine *fake.Machine
	Sandbox *scripted.Sandbox
	Clock   *Clock
	root    zfs.Dataset
	record  fault.Transcript
	begin   int // of the transcript that is shown
	armed   *fault.Armed
}

// Pool is the name of the pool, and Mountpoint where it is: what the operators
// of macOS workers have.
const (
	Pool       = "obuilder"
	Mountpoint = "/Volumes/obuilder"
)

// poolWait is how long the engine waits for the pool.
const poolWait = 2 * time.Minute

// New makes a pool with base images and opens an engine on it. The transcript
// begins after that, but with faults before the opening: then, when that is
// what fails, the Sim comes with the error and has no Engine.
func New(ctx context.Context, o Options) (*Sim, error) {
	if o.PoolSize == 0 {
		o.PoolSize = 500e9
	}
	s := &Sim{Clock: NewClock(Begin), root: zfs.MustDataset(Pool)}
	s.Machine = fake.New(fake.Pool(Pool, o.PoolSize, Mountpoint), fake.Clock(s.Clock.Now), fake.SnapshotMounts(o.Snapshots == engine.MountSnapshots))
	var err error
	s.Sandbox, err = scripted.New(scripted.Options{Files: s.Machine.Files(), Clock: s.Clock, BrewPath: o.BrewPath, Rules: o.Rules})
	if err != nil {
		return nil, err
	}
	open := func(fs zfs.FS) (*engine.Engine, error) {
		return engine.Open(ctx, engine.Options{FS: fs, Files: s.Machine.Files(), Root: s.root, Images: o.Images,
			Sandbox: s.Sandbox, Snapshots: o.Snapshots, PoolWait: poolWait, Clock: s.Clock})
	}
	if s.armed, err = o.Faults.Arm(s.Clock); err != nil {
		return nil, err
	}
	if len(o.Faults.Rules) > 0 {
		e, err := open(s.Machine)
		if err == nil {
			err = e.Close()
		}
		if err != nil {
			return nil, err
		}
		s.Engine, err = open(fault.Wrap(s.Machine, &s.record, s.armed))
		return s, err
	}
	if s.Engine, err = open(fault.Wrap(s.Machine, &s.record)); err != nil {
		return nil, err
	}
	s.begin = len(s.record.Entries())
	return s, nil
}

// Unfired gives the faults that have not happened.
func (s *Sim) Unfired() []fault.Rule { return s.armed.Unfired() }

// Took is how much time has passed since the beginning.
func (s *Sim) Took() time.Duration { return s.Clock.Now().Sub(Begin) }

// Transcript writes the commands since New, one a line, as one could type
// them, those that failed with how.
func (s *Sim) Transcript(w io.Writer) error {
	for _, command := range s.record.Entries()[s.begin:] {
		if _, err := fmt.Fprintln(w, command); err != nil {
			return err
		}
	}
	return nil
}

// List writes what zfs list prints.
func (s *Sim) List(ctx context.Context, w io.Writer) error {
	columns := []string{"used", "available", "referenced", "mountpoint"}
	rows, err := s.Machine.List(ctx, zfs.ListOptions{Recursive: true, Properties: columns})
	if err != nil {
		return err
	}
	table := [][]string{{"NAME", "USED", "AVAIL", "REFER", "MOUNTPOINT"}}
	for _, row := range rows {
		line := []string{row.Name}
		for i, value := range row.Values {
			if n, err := strconv.ParseUint(value, 10, 64); err == nil && columns[i] != "mountpoint" {
				value = zfs.FormatSize(n)
			}
			line = append(line, value)
		}
		table = append(table, line)
	}
	return printTable(w, table)
}

// printTable lays columns out as zfs list does: the first and the last to the
// left, the others to the right, two spaces between them.
func printTable(w io.Writer, table [][]string) error {
	widths := make([]int, len(table[0]))
	for _, line := range table {
		for i, cell := range line {
			widths[i] = max(widths[i], len(cell))
		}
	}
	for _, line := range table {
		var b strings.Builder
		for i, cell := range line {
			switch {
			case i == len(line)-1:
				b.WriteString("  " + cell)
			case i == 0:
				fmt.Fprintf(&b, "%-*s", widths[i], cell)
			default:
				fmt.Fprintf(&b, "  %*s", widths[i], cell)
			}
		}
		if _, err := fmt.Fprintln(w, b.String()); err != nil {
			return err
		}
	}
	return nil
}
