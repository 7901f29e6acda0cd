package fault_test

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"obuilder.org/obuilder/zfs"
	"obuilder.org/obuilder/zfs/fake"
	"obuilder.org/obuilder/zfs/fault"
	"obuilder.org/obuilder/zfs/fault/faulttest"
	"pgregory.net/rapid"
)

var _ fault.Mac = (*fake.Machine)(nil)

// virtual is a clock that passes when someone sleeps.
type virtual struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *virtual { return &virtual{now: time.Unix(1_700_000_000, 0)} }

func (c *virtual) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *virtual) Sleep(ctx context.Context, d time.Duration) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	return nil
}

// A lab is a fake Mac with a plan in front of it.
type lab struct {
	*testing.T
	machine *fake.Machine
	clock   *virtual
	begin   time.Time
	armed   *fault.Armed
	saw     fault.Transcript
	ran     fault.Transcript
	fs      zfs.FS
}

func arm(t *testing.T, plan string, clock fault.Clock) *fault.Armed {
	t.Helper()
	p, err := fault.Parse("", []byte(plan))
	if err != nil {
		t.Fatal(err)
	}
	a, err := p.Arm(clock)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// newLab has tank/r/a, with children brew and home and a snapshot of all,
// home on /Users/m.
func newLab(t *testing.T, plan string) *lab {
	t.Helper()
	l := &lab{T: t, clock: newClock()}
	l.begin = l.clock.Now()
	l.machine = fake.New(fake.Pool("tank", 1<<36, "/Volumes/tank"), fake.SnapshotMounts(true), fake.Clock(l.clock.Now))
	for _, name := range []string{"tank/r/a/brew", "tank/r/a/home"} {
		l.must(l.machine.Create(t.Context(), zfs.MustDataset(name), zfs.CreateOptions{Parents: true, Properties: []zfs.Property{{Name: "mountpoint", Value: "none"}}}))
	}
	l.write("/Volumes/tank/r/a/log", "a log")
	l.must(l.machine.Snapshot(t.Context(), true, zfs.MustSnapshot("tank/r/a@snap")))
	l.must(l.machine.Set(t.Context(), zfs.MustDataset("tank/r/a/home"), zfs.Property{Name: "mountpoint", Value: "/Users/m"}))
	l.armed = arm(t, plan, l.clock)
	l.fs = fault.Wrap(l.machine, &l.saw, l.armed, &l.ran)
	return l
}

func (l *lab) must(err error) {
	l.Helper()
	if err != nil {
		l.Fatal(err)
	}
}

func (l *lab) write(name, text string) {
	l.Helper()
	f, err := l.machine.Files().OpenFile(name, os.O_CREATE|os.O_WRONLY, 0o644)
	l.must(err)
	_, err = io.WriteString(f, text)
	l.must(err)
	l.must(f.Close())
}

// do runs a command line of zfs and gives what is seen of it: "ok" or how it failed.
func (l *lab) do(line string) string {
	l.Helper()
	return outcome(run(l.Context(), l.fs, line))
}

func outcome(err error) string {
	var failed *zfs.Error
	switch {
	case err == nil:
		return "ok"
	case !errors.As(err, &failed):
		return "untyped: " + err.Error()
	case failed.Err != nil:
		return failed.Kind.String() + ": " + failed.Err.Error()
	}
	return failed.Kind.String() + ": " + failed.Stderr
}

// run runs the few forms of command lines that the tests need.
func run(ctx context.Context, fs zfs.FS, line string) error {
	words := strings.Fields(line)
	flags := map[string]bool{}
	args := slices.DeleteFunc(words[1:], func(w string) bool {
		if strings.HasPrefix(w, "-") {
			flags[w] = true
		}
		return strings.HasPrefix(w, "-")
	})
	target, err := zfs.Parse(args[len(args)-1])
	if err != nil {
		return err
	}
	ds, _ := target.(zfs.Dataset)
	snap, _ := target.(zfs.Snapshot)
	switch words[0] {
	case "create":
		return fs.Create(ctx, ds, zfs.CreateOptions{})
	case "snapshot":
		return fs.Snapshot(ctx, flags["-r"], snap)
	case "destroy":
		return fs.Destroy(ctx, target, zfs.DestroyMode{Recursive: flags["-r"], Force: flags["-f"]})
	case "mount":
		return fs.Mount(ctx, target)
	case "unmount":
		return fs.Unmount(ctx, target, flags["-f"])
	case "set":
		name, value, _ := strings.Cut(args[0], "=")
		return fs.Set(ctx, ds, zfs.Property{Name: name, Value: value})
	case "rename":
		return fs.Rename(ctx, zfs.MustDataset(args[0]), ds, zfs.RenameOptions{NoRemount: flags["-u"]})
	case "clone":
		return fs.Clone(ctx, zfs.MustSnapshot(args[0]), ds)
	case "list":
		_, err := fs.List(ctx, zfs.ListOptions{Roots: []zfs.Name{target}, Recursive: flags["-r"]})
		return err
	case "zpool":
		_, err := fs.Pool(ctx, args[0])
		return err
	}
	panic(line)
}

// steps runs command lines, each followed by what is to be seen of it.
func (l *lab) steps(list ...string) {
	l.Helper()
	for i := 0; i < len(list); i += 2 {
		if got := l.do(list[i]); got != list[i+1] {
			l.Errorf("%s:\n got %q\nwant %q", list[i], got, list[i+1])
		}
	}
}

// tree lists what is there, with mount points where it is mounted.
func (l *lab) tree() string {
	l.Helper()
	rows, err := l.machine.List(l.Context(), zfs.ListOptions{Roots: []zfs.Name{zfs.MustDataset("tank")}, Recursive: true,
		Types: []zfs.Type{zfs.Filesystems, zfs.Snapshots}, Properties: []string{"mounted", "mountpoint"}})
	l.must(err)
	var b strings.Builder
	for _, row := range rows[2:] {
		b.WriteString(strings.TrimPrefix(row.Name, "tank/r/"))
		if row.Values[0] == "yes" {
			b.WriteString(" on " + row.Values[1])
		} else if row.Values[1] != "-" && row.Values[1] != "none" {
			b.WriteString(" for " + row.Values[1])
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func (l *lab) took() time.Duration { return l.clock.Now().Sub(l.begin) }

func (l *lab) allFired() {
	l.Helper()
	if left := l.armed.Unfired(); len(left) > 0 {
		l.Errorf("never fired: %v", left)
	}
}

const (
	whole = `a on /Volumes/tank/r/a
a@snap
a/brew
a/brew@snap
a/home on /Users/m
a/home@snap
`
	homeBusy = "busy: Unmount failed for /Users/m\numount(/Users/m): Resource busy -- try 'diskutil unmount'\ncannot unmount '/Users/m': unmount failed"
)

// Each fault of a Mac, with what it does to the fake one. A fault without a
// case here fails the test.
var effects = map[string]func(*testing.T){
	"busy": func(t *testing.T) {
		l := newLab(t, "(busy (dataset tank/r/**) (tries 3))")
		l.steps(
			"mount tank/r/a@snap", "ok", // what unmounts nothing is never busy
			"set atime=off tank/r/a/home", "ok",
			"set mountpoint=none tank/r/a/brew", "ok", // not mounted
			"rename -u tank/r/a/brew tank/r/a/b", "ok",
			"rename -u tank/r/a/b tank/r/a/brew", "ok",
			"set mountpoint=none tank/r/a/home", homeBusy,
			"destroy -r -f tank/r/a", homeBusy, // the innermost
			"unmount -f tank/r/a/home", homeBusy,
			"set mountpoint=none tank/r/a/home", "ok")
		l.allFired()
	},
	"diskutil": func(t *testing.T) {
		l := newLab(t, "(diskutil)")
		release, err := l.machine.Hold(zfs.MustDataset("tank/r/a/home"))
		l.must(err)
		l.steps("set mountpoint=none tank/r/a/brew", "ok")
		if len(l.armed.Unfired()) != 1 {
			t.Error("it claims to have done something")
		}
		l.steps("set mountpoint=none tank/r/a/home", homeBusy, "rename tank/r tank/q", homeBusy)
		l.allFired()
		release()
		l.steps("set mountpoint=none tank/r/a/home", "ok")
		release, err = l.machine.Hold(zfs.MustDataset("tank"))
		l.must(err)
		defer release()
		l.steps("set mountpoint=/elsewhere tank", "busy: Volume tank on disk3s1 failed to unmount: dissented by PID 123 (/usr/libexec/mds)\n"+
			"umount(/Volumes/tank): Resource busy -- try 'diskutil unmount'\ncannot unmount '/Volumes/tank': unmount failed",
			"destroy tank/no", "not found: cannot open 'tank/no': dataset does not exist")
	},
	"mountpoint-changed": func(t *testing.T) {
		l := newLab(t, "(mountpoint-changed)")
		l.steps("set mountpoint=none tank/r/a/brew", "ok", "set mountpoint=none tank/r/a/home", homeBusy)
		value, err := l.machine.Get(t.Context(), zfs.MustDataset("tank/r/a/home"), "mountpoint", "mounted")
		l.must(err)
		if value[0].Value != "none" || value[1].Value != "yes" {
			t.Errorf("after it: %v", value)
		}
		l.steps("set mountpoint=none tank/r/a/home", "ok")
		if got := l.tree(); got != strings.Replace(whole, " on /Users/m", "", 1) {
			t.Errorf("after the next try:\n%s", got)
		}
	},
	"snapshot-mounted": func(t *testing.T) {
		l := newLab(t, "(snapshot-mounted)")
		l.steps("mount tank/r/a@no", "not found: cannot open 'tank/r/a@no': dataset does not exist")
		l = newLab(t, "(snapshot-mounted)")
		err := run(t.Context(), l.fs, "mount tank/r/a@snap")
		if e := (*zfs.Error)(nil); !errors.As(err, &e) || e.Kind != zfs.Mounted || e.Status != 16 || e.Stderr != "" {
			t.Errorf("got %v", err)
		}
		l.steps("unmount tank/r/a@snap", "ok") // so it was
	},
	"parent-unmounted": func(t *testing.T) {
		l := newLab(t, "(parent-unmounted)")
		l.steps("mount tank/r/a@no", "not found: cannot open 'tank/r/a@no': dataset does not exist")
		err := run(t.Context(), l.fs, "mount tank/r/a@snap")
		if e := (*zfs.Error)(nil); !errors.As(err, &e) || e.Kind != zfs.NotMounted || e.Status != 22 || e.Stderr != "parent dataset 'tank/r/a' must be mounted" {
			t.Errorf("got %v", err)
		}
		if got := l.tree(); !strings.HasPrefix(got, "a for /Volumes/tank/r/a\n") {
			t.Errorf("still mounted:\n%s", got)
		}
		l.steps("mount tank/r/a@snap", "not mounted: parent dataset 'tank/r/a' must be mounted",
			"mount tank/r/a", "ok", "mount tank/r/a@snap", "ok")
	},
	"automount-dead": func(t *testing.T) {
		l := newLab(t, "(automount-dead (nth 2))")
		const log = "/Volumes/tank/r/a/.zfs/snapshot/snap/log"
		l.steps("mount tank/r/a@snap", "ok")
		if _, err := l.machine.Files().ReadFile(log, 100); err != nil {
			t.Error(err)
		}
		l.steps("unmount tank/r/a@snap", "ok", "mount tank/r/a@snap", "ok")
		if _, err := l.machine.Files().ReadFile(log, 100); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the snapshot is not empty: %v", err)
		}
		l.allFired()
	},
	"snapshot-unmount-hangs": func(t *testing.T) {
		l := newLab(t, "(snapshot-unmount-hangs (seconds 90))")
		l.steps("mount tank/r/a@snap", "ok",
			"unmount tank/r/a@snap", "unavailable: a process cannot be killed (zfs unmount tank/r/a@snap)",
			"list tank", "unavailable: a process cannot be killed (zfs unmount tank/r/a@snap)")
		if l.took() != 90*time.Second {
			t.Errorf("took %v", l.took())
		}
		if !errors.Is(run(t.Context(), l.fs, "list tank"), fault.ErrStuck) {
			t.Error("not ErrStuck")
		}
	},
	"slow-destroy": func(t *testing.T) {
		l := newLab(t, "(slow-destroy (seconds 2) (gigabytes-per-minute 0.001))")
		l.write("/Users/m/big", strings.Repeat("x", 1<<20))
		used, err := l.machine.Get(t.Context(), zfs.MustDataset("tank/r/a"), "used")
		l.must(err)
		l.steps("destroy tank/r/a@snap", "ok", "destroy -r tank/r/a", "ok")
		var n float64
		for _, c := range used[0].Value {
			n = 10*n + float64(c-'0')
		}
		want := 2*time.Second + 3*2*time.Second + time.Duration(n/1e6*float64(time.Minute))
		if diff := (l.took() - want).Abs(); n < 1<<20 || diff > time.Second {
			t.Errorf("took %v, want about %v for %v bytes", l.took(), want, n)
		}
	},
	"destroy-sleeps": func(t *testing.T) {
		l := newLab(t, "(destroy-sleeps)")
		l.steps("destroy -r tank/r/a/brew", "ok") // not mounted
		if l.took() != 0 {
			t.Errorf("took %v", l.took())
		}
		l.steps("destroy -r tank/r/a/home", "ok")
		if l.took() != time.Second {
			t.Errorf("took %v", l.took())
		}
	},
	"half-destroyed": func(t *testing.T) {
		l := newLab(t, "(half-destroyed)")
		l.steps("destroy -r tank/r/no", "not found: cannot open 'tank/r/no': dataset does not exist",
			"destroy tank/r/a@snap", "ok",
			"destroy -r -f tank/r/a", homeBusy+"\ncannot destroy 'tank/r/a': dataset already exists")
		if got := l.tree(); got != "a on /Volumes/tank/r/a\na/home on /Users/m\n" {
			t.Errorf("left:\n%s", got)
		}
		l.steps("destroy -r -f tank/r/a", "ok")
		if got := l.tree(); got != "" {
			t.Errorf("left:\n%s", got)
		}
	},
	"held-snapshot": func(t *testing.T) {
		l := newLab(t, "(held-snapshot)")
		l.steps("destroy tank/r/a@no", "not found: could not find any snapshots to destroy; check snapshot names.",
			"destroy tank/r/a@snap", "busy: cannot destroy snapshot tank/r/a@snap: it's being held. Run 'zfs holds -r tank/r/a@snap' to see holders.",
			"destroy tank/r/a@snap", "ok")
	},
	"pool-missing": func(t *testing.T) {
		l := newLab(t, "(pool-missing (seconds 60))")
		l.steps("list tank", "not found: cannot open 'tank': dataset does not exist",
			"create tank/state", "not found: cannot create 'tank/state': no such pool 'tank'",
			"zpool tank", "not found: cannot open 'tank': no such pool")
		l.must(l.clock.Sleep(t.Context(), 59*time.Second))
		l.steps("list tank", "not found: cannot open 'tank': dataset does not exist")
		rows, err := l.fs.List(t.Context(), zfs.ListOptions{})
		if err != nil || len(rows) > 0 {
			t.Errorf("a list of everything: %v, %v", rows, err)
		}
		l.must(l.clock.Sleep(t.Context(), time.Second))
		l.steps("list tank", "ok")
	},
}

func TestMac(t *testing.T) {
	for _, f := range fault.Faults() {
		if !f.Mac {
			continue
		}
		t.Run(f.Name, func(t *testing.T) {
			if effects[f.Name] == nil {
				t.Fatal("no test shows what it does")
			}
			effects[f.Name](t)
		})
	}
}

// The actions that are for any system.
func TestActions(t *testing.T) {
	t.Run("fail", func(t *testing.T) {
		l := newLab(t, `(fail (verb snapshot) (dataset tank/r/*@new) (nth 2) (kind no-space) (status 3) (stderr "full"))
			(fail (verb set) (kind timeout)) (fail (verb list) (kind not-found))`)
		l.steps("snapshot tank/r/a@new", "ok", "snapshot tank/r/a@old", "ok",
			"snapshot tank/r/a@new", "no space: full",
			"set atime=off tank", "timeout: context deadline exceeded",
			"list tank", "not found: cannot open 'tank': dataset does not exist")
		err := l.saw.Entries()[2].Err
		if e := (*zfs.Error)(nil); !errors.As(err, &e) || e.Status != 3 || zfs.CommandLine(e.Argv) != "zfs snapshot tank/r/a@new" {
			t.Errorf("%#v", err)
		}
		if got := len(l.ran.Commands()); got != 2 {
			t.Errorf("%d commands were run", got)
		}
	})
	t.Run("delay", func(t *testing.T) {
		l := newLab(t, "(delay (verb list) (seconds 2.5) (tries 2)) (delay (seconds 1))")
		l.steps("list tank", "ok", "list tank", "ok", "list tank", "ok")
		if l.took() != 8*time.Second {
			t.Errorf("took %v", l.took())
		}
	})
	t.Run("hang", func(t *testing.T) {
		l := newLab(t, "(hang (verb mount))")
		l.steps("mount tank/r/a@snap", "timeout: no result within 5m0s: context deadline exceeded")
		if len(l.ran.Commands()) != 0 {
			t.Error("it was run")
		}
	})
	t.Run("hang-after", func(t *testing.T) {
		l := newLab(t, "(hang-after (verb snapshot) (seconds 2)) (delay (seconds 7))")
		l.steps("snapshot tank/r/a@new", "timeout: no result within 2s: context deadline exceeded")
		if l.took() != 9*time.Second || !strings.Contains(l.tree(), "a@new") {
			t.Errorf("took %v, left:\n%s", l.took(), l.tree())
		}
	})
	for name, want := range map[string]string{"crash-before": whole, "crash-after": strings.ReplaceAll(whole, "a@snap\n", "a@new\na@snap\n")} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, "("+name+" (verb snapshot))")
			l.steps("list tank", "ok", "snapshot tank/r/a@new", "unavailable: crashed", "list tank", "unavailable: crashed")
			if got := l.tree(); got != want && !(name == "crash-after" && strings.Contains(got, "a@new")) {
				t.Errorf("left:\n%s", got)
			}
		})
	}
	t.Run("partial", func(t *testing.T) {
		const refused = "has clones: cannot destroy 'tank/r/a': filesystem has dependent clones\nuse '-R' to destroy the following datasets:\ntank/r/c"
		l := newLab(t, "(partial (tries 2))")
		l.steps("clone tank/r/a@snap tank/r/c", "ok", "destroy tank/r/a/home", "has children: cannot destroy 'tank/r/a/home': filesystem has children\nuse '-r' to destroy the following datasets:\ntank/r/a/home@snap",
			"destroy -r tank/r/a", refused)
		if got := l.tree(); got != whole+"c on /Volumes/tank/r/c\n" {
			t.Errorf("what zfs refuses leaves:\n%s", got)
		}
		l.steps("destroy tank/r/c", "ok",
			"destroy -r tank/r/a", "busy: cannot unmount '/Users/m': pool or dataset is busy\ncannot destroy 'tank/r/a': dataset already exists")
		if got := l.tree(); got != "a on /Volumes/tank/r/a\na/home on /Users/m\n" {
			t.Errorf("left:\n%s", got)
		}
		l.allFired()
	})
}

func TestInterrupted(t *testing.T) {
	l := newLab(t, "(interrupted (seconds 5))")
	const timeout = "timeout: no result within 5s: context deadline exceeded"
	l.steps("destroy -r tank/r/a", timeout)
	if got := l.tree(); got != strings.Replace(whole, "a/home on /Users/m\na/home@snap\n", "", 1) {
		t.Errorf("left:\n%s", got)
	}
	l.steps("destroy -r tank/r/a", timeout, "destroy -r tank/r/a", timeout)
	if got := l.tree(); got != "a on /Volumes/tank/r/a\na@snap\n" || l.took() != 15*time.Second {
		t.Errorf("took %v, left:\n%s", l.took(), got)
	}
}

// A hang ends with its context, and takes the time of a bubble.
func TestSystemClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := fault.Wrap(&record{}, arm(t, "(hang (verb mount)) (delay (verb promote) (seconds 3))", nil))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		begin := time.Now()
		if got := outcome(fs.Mount(ctx, zfs.MustDataset("p/a"))); got != "timeout: context deadline exceeded" {
			t.Error(got)
		}
		if took := time.Since(begin); took != time.Minute {
			t.Errorf("took %v", took)
		}
		if got := outcome(fs.Promote(t.Context(), zfs.MustDataset("p/a"))); got != "ok" {
			t.Error(got)
		}
		if took := time.Since(begin); took != time.Minute+3*time.Second {
			t.Errorf("took %v", took)
		}
		if got := outcome(fs.Promote(ctx, zfs.MustDataset("p/a"))); got != "timeout: context deadline exceeded" {
			t.Error(got)
		}
	})
}

func TestMatching(t *testing.T) {
	for _, c := range []struct {
		rule string
		want string // which of ten commands fail: mount p/0 to p/9
	}{
		{"(fail)", "0123456789"},
		{"(fail (tries 3))", "012"},
		{"(fail (nth 4))", "3"},
		{"(fail (nth 4) (tries 2))", "34"},
		{"(fail (nth 11))", ""},
		{"(fail (verb unmount))", ""},
		{"(fail (verb unmount mount) (dataset p/[2-4] p/8))", "2348"},
		{"(fail (dataset p/[2-4]) (nth 2))", "3"},
		{"(fail (dataset p))", ""},
		{"(fail (dataset p/*@*))", ""},
		{"(seed 1) (fail (probability 0.3))", "45789"},
		{"(seed 2) (fail (probability 0.3))", "012"},
		{"(seed 1) (fail (probability 0.3) (tries 2))", "45"},
		{"(seed 1) (fail (probability 0.3) (nth 7))", "7"},
	} {
		armed := arm(t, c.rule, newClock())
		fs := fault.Wrap(&record{}, armed)
		got := ""
		for _, n := range "0123456789" {
			if fs.Mount(t.Context(), zfs.MustDataset("p/"+string(n))) != nil {
				got += string(n)
			}
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.rule, got, c.want)
		}
		if unfired := len(armed.Unfired()) > 0; unfired != (c.want == "") {
			t.Errorf("%s: unfired is %v", c.rule, unfired)
		}
	}
}

// A rule acts on as many commands as it says, from the one that it says on.
func TestCounts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := fault.Rule{Fault: "fail", Kind: zfs.Busy, Nth: rapid.IntRange(0, 12).Draw(t, "nth"), Tries: rapid.IntRange(0, 12).Draw(t, "tries")}
		n := rapid.IntRange(0, 12).Draw(t, "commands")
		armed, err := fault.Plan{Rules: []fault.Rule{r}}.Arm(newClock())
		if err != nil {
			t.Fatal(err)
		}
		first, last := max(r.Nth, 1), n
		switch {
		case r.Tries > 0:
			last = min(n, first+r.Tries-1)
		case r.Nth > 0:
			last = min(n, first)
		}
		fs := fault.Wrap(&record{}, armed)
		for i := 1; i <= n; i++ {
			if failed := fs.Mount(context.Background(), zfs.MustDataset("p/a")) != nil; failed != (i >= first && i <= last) {
				t.Fatalf("%s: command %d: failed is %v", r, i, failed)
			}
		}
	})
}

// What a fault would have to look at or change is left out where there is no
// telling what is below it.
func TestWithoutWrap(t *testing.T) {
	for _, f := range fault.Faults() {
		rule := "(" + f.Name + ")"
		if f.Settings() != nil {
			rule = "(" + f.Name + " (tries 1000))"
		}
		armed := arm(t, rule, newClock())
		for line := range strings.Lines(lines + "zfs set mountpoint=none p/a\nzfs destroy p/a@snap\n") {
			argv := strings.Fields(line)
			err := armed.Intercept(t.Context(), argv, func() error { return nil })
			if got := outcome(err); strings.HasPrefix(got, "untyped") {
				t.Errorf("%s: %s: %s", f.Name, line, got)
			}
		}
		if left := armed.Unfired(); len(left) > 0 && f.Name != "diskutil" { // nothing is busy
			t.Errorf("%s never happened", f.Name)
		}
	}
}

func TestProbability(t *testing.T) {
	fs := fault.Wrap(&record{}, arm(t, "(seed 7) (fail (probability 0.25))", newClock()))
	failed := 0
	for range 10_000 {
		if fs.Mount(t.Context(), zfs.MustDataset("p/a")) != nil {
			failed++
		}
	}
	if failed < 2300 || failed > 2700 { // more than four times the standard deviation
		t.Errorf("%d of 10000 failed", failed)
	}
}

// A rule is for what a command is about, whichever command it is.
func TestTargets(t *testing.T) {
	for pattern, want := range map[string]int{
		"p/a": 7, "p/b": 1, "p/c": 1, "p/a@snap": 4, "p": 1, "none": 0,
	} {
		var seen fault.Transcript
		_ = everything(fault.Wrap(&record{}, arm(t, "(fail (dataset "+pattern+"))", newClock()), &seen), false)
		if got := strings.Count(lines, "\n") - len(seen.Commands()); got != want {
			t.Errorf("%s is what %d commands are about, want %d; left:\n%s", pattern, got, want, &seen)
		}
	}
}

// With the same seed, the same commands meet the same faults; and however
// often a command fails, it does so with a typed error, and no fault acts more
// often than it is to.
func TestDeterministic(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		plan := faulttest.Plan("tank").Draw(t, "plan")
		commands := rapid.SliceOfN(rapid.SampledFrom([]string{
			"create tank/r", "create tank/r/a", "create tank/r/a/home", "snapshot -r tank/r/a@snap", "mount tank/r/a@snap", "mount tank/r/a",
			"set mountpoint=/Users/m tank/r/a/home", "set mountpoint=none tank/r/a/home", "unmount -f tank/r/a/home",
			"clone tank/r/a@snap tank/r/b", "rename tank/r/b tank/r/c", "destroy -r -f tank/r/a", "destroy tank/r/a@snap",
			"list -r tank", "zpool tank",
		}), 1, 30).Draw(t, "commands")
		try := func() string {
			clock := newClock()
			armed, err := plan.Arm(clock)
			if err != nil {
				t.Fatal(err)
			}
			m := fake.New(fake.Pool("tank", 1<<36, "/Volumes/tank"), fake.SnapshotMounts(true), fake.Clock(clock.Now))
			var seen fault.Transcript
			fs := fault.Wrap(m, &seen, armed)
			for _, c := range commands {
				if got := outcome(run(context.Background(), fs, c)); strings.HasPrefix(got, "untyped") {
					t.Fatalf("%s: %s", c, got)
				}
			}
			return seen.String() + clock.Now().String()
		}
		if diff := cmp.Diff(try(), try()); diff != "" {
			t.Fatalf("two runs differ:\n%s", diff)
		}
	})
}

func TestConcurrent(t *testing.T) {
	armed := arm(t, "(fail (verb mount) (tries 10)) (delay (verb unmount) (probability 0.5)) (crash-after (verb promote) (nth 800))", newClock()) // the last one: no mount is on its way then
	m := fake.New(fake.Pool("tank", 1<<36, "/Volumes/tank"))
	fs := fault.Wrap(m, armed)
	ds := zfs.MustDataset("tank")
	var wg sync.WaitGroup
	var mu sync.Mutex
	failed := 0
	for range 8 {
		wg.Go(func() {
			for range 100 {
				err := fs.Mount(t.Context(), ds)
				_ = fs.Unmount(t.Context(), ds, true)
				_ = fs.Promote(t.Context(), ds)
				if zfs.IsKind(err, zfs.Unknown) {
					mu.Lock()
					failed++
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	if failed != 10 {
		t.Errorf("%d failed, want 10", failed)
	}
	if err := fs.Promote(t.Context(), ds); !errors.Is(err, fault.ErrCrashed) {
		t.Errorf("after the crash: %v", err)
	}
	if left := armed.Unfired(); len(left) > 0 {
		t.Errorf("never fired: %v", left)
	}
}
