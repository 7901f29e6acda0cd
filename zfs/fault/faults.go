package fault

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"obuilder.org/obuilder/zfs"
)

// A Fault is something that can go wrong. Those of a Mac are written down here
// and nowhere else, each with where it is known from; none was reproduced on a
// Mac by us.
type Fault struct {
	Name string
	// What is what happens, in a sentence.
	What string
	// Mac is set for what OpenZFS on macOS does.
	Mac bool
	// Group are the faults that this one stands for, in this order, each with
	// what it has by itself. A rule of it has no settings.
	Group []string
	// Example is a rule as it is printed.
	Example string
	// Sources are where it is known from: addresses, or files of a repository.
	Sources []string
	// Texts are failures as zfs reports them, which those who run zfs have to
	// recognise.
	Texts []Text

	verbs    []string  // that it is for, unless the rule says otherwise; all when nil
	datasets []Pattern // likewise
	tries    int       // likewise; 0 for all
	seconds  time.Duration
	// perMinute is what a destroy frees, in 10^9 bytes.
	perMinute float64

	// applies reports whether a command that the rule is for can fail so;
	// always when nil.
	applies func(x *execution) bool
	act     func(x *execution) error
	// looks is set when act may do nothing, and notes itself when it has.
	looks bool
}

// A Text is how a command failed.
type Text struct {
	Command string
	Status  int
	Stderr  string
	Kind    zfs.Kind
}

func (f *Fault) fails() bool { return f.Name == "fail" }

// Settings names the settings that a rule of this fault may have.
func (f *Fault) Settings() []string {
	var names []string
	for _, fd := range fields {
		if fd.isFor(f) {
			names = append(names, fd.name)
		}
	}
	return names
}

// Defaults prints the rule that a rule without settings stands for.
func (f *Fault) Defaults() string {
	r := Rule{Fault: f.Name, Verbs: f.verbs, Datasets: f.datasets, Tries: f.tries, Duration: f.seconds, GigabytesPerMinute: f.perMinute}
	return r.String()
}

// Faults gives all faults: those that are for any system, then those of a Mac.
func Faults() []Fault { return slices.Clone(table) }

func find(name string) *Fault {
	for i := range table {
		if table[i].Name == name {
			return &table[i]
		}
	}
	return nil
}

func names() []string {
	list := make([]string, len(table))
	for i, f := range table {
		list[i] = f.Name
	}
	return list
}

// hangTime is how long a command that hangs is waited for: the deadline that
// zfs/real has for each command but those that destroy.
const hangTime = 5 * time.Minute

// moving are the commands that can unmount something.
var moving = []string{"destroy", "inherit", "rename", "set", "unmount"}

const (
	macMount   = "openzfsonosx/openzfs lib/libzfs/os/macos/libzfs_mount_os.c"
	macDataset = "openzfsonosx/openzfs lib/libzfs/os/macos/libzfs_dataset_os.c"
	macZFS     = "https://github.com/openzfsonosx/zfs/issues/"
	macOpenZFS = "https://github.com/openzfsonosx/openzfs/issues/"
)

var table = []Fault{
	{
		Name:    "fail",
		What:    "The command is not run and fails, with a kind, an exit status and a text.",
		Example: `(fail (verb snapshot) (dataset obuilder/result/*@snap) (nth 2) (kind no-space) (status 1) (stderr "out of space"))`,
		act:     func(x *execution) error { return x.fail(x.rule.Kind, x.rule.Status, x.rule.Stderr) },
	},
	{
		Name:    "delay",
		What:    "The command takes longer.",
		Example: "(delay (verb destroy) (seconds 2.5))",
		seconds: time.Second,
		act: func(x *execution) error {
			if err := x.sleep(x.rule.Duration); err != nil {
				return err
			}
			return x.next()
		},
	},
	{
		Name:    "hang",
		What:    "The command does nothing until it is cancelled or killed, which after `seconds` it is.",
		Example: "(hang (verb mount) (tries 1) (seconds 300))",
		seconds: hangTime,
		act:     (*execution).hang,
	},
	{
		Name:    "hang-after",
		What:    "The command takes effect and then does not end until it is cancelled or killed: nobody learns how it ended.",
		Example: "(hang-after (verb snapshot) (nth 2))",
		seconds: hangTime,
		act: func(x *execution) error {
			_ = x.next()
			return x.hang()
		},
	},
	{
		Name:    "crash-before",
		What:    "The machine crashes: the command is not run, and neither is any later one.",
		Example: "(crash-before (verb snapshot) (nth 2))",
		tries:   1,
		act:     func(x *execution) error { return x.crash() },
	},
	{
		Name:    "crash-after",
		What:    "The machine crashes when the command was run: nobody learns how it ended, and no later one is run.",
		Example: "(crash-after (verb snapshot) (nth 2))",
		tries:   1,
		act: func(x *execution) error {
			_ = x.next() // nobody is left to read how it ended
			return x.crash()
		},
	},
	{
		Name:    "partial",
		What:    "`zfs destroy -r` destroys all but one of the datasets below its target, which is busy, and so not what that is in.",
		Example: "(partial (dataset obuilder/result/*) (tries 1))",
		Sources: []string{"openzfs/zfs cmd/zfs/zfs_main.c (destroy_callback)"},
		verbs:   []string{"destroy"},
		applies: (*execution).destroysBelow,
		act:     func(x *execution) error { return x.partial(busyText) },
	},
	{
		Name: "interrupted",
		What: "`zfs destroy -r` is killed, or cancelled, when it has destroyed the first of the datasets below its target: " +
			"the others, and all their snapshots, are still there.",
		Example: "(interrupted (dataset obuilder/result/*) (tries 1))",
		verbs:   []string{"destroy"},
		seconds: hangTime,
		applies: (*execution).destroysBelow,
		act:     (*execution).interrupted,
	},

	{
		Name: "busy", Mac: true,
		What: "An unmount fails because something holds the file system: Spotlight, fseventsd, or what the build has left. " +
			"It passes. Forced unmounts fail as well. For commands that would unmount something.",
		Example: "(busy (dataset obuilder/result/*) (tries 3))",
		Sources: []string{macMount + " (do_unmount_impl)", macOpenZFS + "50", macZFS + "35", macZFS + "107", macZFS + "259", macZFS + "692", macZFS + "773"},
		Texts: []Text{
			{"zfs unmount obuilder", 1, macBusyText("obuilder", "/Volumes/obuilder"), zfs.Busy},
			{"zfs unmount obuilder/result", 1, macBusyText("obuilder/result", "/Volumes/obuilder/result"), zfs.Busy},
			{"zfs set mountpoint=none obuilder/result/a/home", 1, macBusyText("obuilder/result/a/home", "/Users/mac1000"), zfs.Busy},
			{"zfs destroy -r -f obuilder/result/a", 1, macBusyText("obuilder/result/a", "/Volumes/obuilder/result/a"), zfs.Busy},
			{"zfs unmount mypool", 1, "Volume mypool on disk6s1 failed to unmount: dissented by PID 0 (kernel_task)\nFallback umount called\r\n" +
				"umount(/Volumes/mypool): Resource busy -- try 'diskutil unmount'\ncannot unmount '/Volumes/mypool': unmount failed", zfs.Busy},
			// 1.9, which some Macs still have.
			{"zfs unmount -f z51", 1, "Unmount failed for /Volumes/z51\nFallback umount called\r\n" +
				"umount: unmount(/Volumes/z51): Resource busy\ncannot unmount '/Volumes/z51': umount failed", zfs.Busy},
			{"zfs unmount z51", 1, "Unmount failed for /Volumes/z51\ncannot unmount '/Volumes/z51': umount failed", zfs.Busy},
		},
		verbs:    moving,
		datasets: []Pattern{"**"},
		tries:    3,
		applies:  (*execution).unmounts,
		act: func(x *execution) error {
			return x.fail(zfs.Busy, 1, macBusyText(x.mounted.name, x.mounted.path))
		},
	},
	{
		Name: "diskutil", Mac: true,
		What:     "What cannot be unmounted is reported as diskutil and umount do, whose errno is lost: only the text remains.",
		Example:  "(diskutil)",
		Sources:  []string{macMount + " (do_unmount_impl)", macOpenZFS + "50"},
		verbs:    moving,
		datasets: []Pattern{"**"},
		act:      (*execution).diskutil,
		looks:    true,
	},
	{
		Name: "mountpoint-changed", Mac: true,
		What: "`zfs set mountpoint=` changes the property and fails to unmount: what is mounted stays where it is. " +
			"For commands that would unmount something.",
		Example:  "(mountpoint-changed (dataset obuilder/result/*/home))",
		Sources:  []string{"ocurrent/obuilder lib/macos.ml (sudo_fallback)", "https://github.com/openzfs/zfs/pull/15240"},
		Texts:    []Text{{"zfs set mountpoint=none obuilder/result/a/home", 1, macBusyText("obuilder/result/a/home", "/Users/mac1000"), zfs.Busy}},
		verbs:    []string{"set"},
		datasets: []Pattern{"**"},
		tries:    1,
		applies:  (*execution).unmounts,
		act:      (*execution).unmoved,
	},
	{
		Name: "snapshot-mounted", Mac: true,
		What:     "`zfs mount` of a snapshot exits with status 16 and says nothing: zed has mounted it before.",
		Example:  "(snapshot-mounted (dataset obuilder/result/*@snap))",
		Sources:  []string{macMount + " (zfs_snapshot_mount)", "ocurrent/obuilder lib/zfs_store.ml (mount)"},
		Texts:    []Text{{"zfs mount obuilder/result/a@snap", 16, "", zfs.Mounted}},
		verbs:    []string{"mount"},
		datasets: []Pattern{"**@*"},
		tries:    1,
		act: func(x *execution) error {
			if err := x.next(); err != nil {
				return err
			}
			return x.fail(zfs.Mounted, 16, "")
		},
	},
	{
		Name: "parent-unmounted", Mac: true,
		What:     "`zfs mount` of a snapshot exits with status 22: its dataset is not mounted, as after a reboot.",
		Example:  "(parent-unmounted (dataset obuilder/result/*@snap))",
		Sources:  []string{macMount + " (zfs_snapshot_mountpoint)"},
		Texts:    []Text{{"zfs mount obuilder/result/a@snap", 22, parentText("obuilder/result/a"), zfs.NotMounted}},
		verbs:    []string{"mount"},
		datasets: []Pattern{"**@*"},
		tries:    1,
		applies:  (*execution).snapshotExists,
		act:      (*execution).parentUnmounted,
	},
	{
		Name: "automount-dead", Mac: true,
		What: "Automounting of snapshots goes off for good, as when zed is down: every snapshot directory looks empty, " +
			"and nothing reports an error.",
		Example: "(automount-dead)",
		Sources: []string{macMount + " (zfs_snapshot_mount: the setting is not restored on every path)",
			"https://github.com/ocurrent/obuilder/issues/60", "https://github.com/cbreak-black/ZetaWatch/issues/26", macOpenZFS + "46"},
		verbs:    []string{"mount"},
		datasets: []Pattern{"**@*"},
		tries:    1,
		act: func(x *execution) error {
			if m := mac(x.fs); m != nil {
				m.SetAutomount(false)
			}
			return x.next()
		},
	},
	{
		Name: "snapshot-unmount-hangs", Mac: true,
		What: "The unmount of a snapshot never returns, and its process cannot be killed: after `seconds` it is given up, " +
			"and no later command is run until a reboot.",
		Example:  "(snapshot-unmount-hangs (dataset obuilder/result/*@snap))",
		Sources:  []string{macDataset + " (zfs_destroy_snaps_nvl_os)", macZFS + "69", macZFS + "52", "ocurrent/macos-infra roles/monitor/templates/monitor.sh"},
		verbs:    []string{"destroy", "unmount"},
		datasets: []Pattern{"**@*"},
		tries:    1,
		seconds:  hangTime,
		act:      (*execution).stuck,
	},
	{
		Name: "slow-destroy", Mac: true,
		What:      "`zfs destroy` takes `seconds` for each dataset, and the time to free what they use, 2 to 3 GB a minute.",
		Example:   "(slow-destroy (seconds 1) (gigabytes-per-minute 2.5))",
		Sources:   []string{"what operators of macOS workers say; no public source"},
		verbs:     []string{"destroy"},
		seconds:   time.Second,
		perMinute: 2.5,
		act:       (*execution).slowDestroy,
	},
	{
		Name: "destroy-sleeps", Mac: true,
		What:     "`zfs destroy` of what is mounted sleeps for a second before it tries again.",
		Example:  "(destroy-sleeps (seconds 1))",
		Sources:  []string{macOpenZFS + "43"},
		verbs:    []string{"destroy"},
		datasets: []Pattern{"**"},
		seconds:  time.Second,
		applies:  (*execution).unmounts,
		act: func(x *execution) error {
			if err := x.sleep(x.rule.Duration); err != nil {
				return err
			}
			return x.next()
		},
	},
	{
		Name: "half-destroyed", Mac: true,
		What:    "`zfs destroy -r` stops half done: as partial, with the texts of a Mac.",
		Example: "(half-destroyed (dataset obuilder/result/*))",
		Sources: []string{"openzfs/zfs cmd/zfs/zfs_main.c (destroy_callback)", macMount + " (do_unmount_impl)"},
		Texts: []Text{{"zfs destroy -r -f obuilder/result/a", 1,
			macBusyText("obuilder/result/a/home", "/Users/mac1000") + "\n" + existsText("obuilder/result/a"), zfs.Busy}},
		verbs:    []string{"destroy"},
		datasets: []Pattern{"**"},
		tries:    1,
		applies:  (*execution).destroysBelow,
		act:      func(x *execution) error { return x.partial(macBusyText) },
	},
	{
		Name: "held-snapshot", Mac: true,
		What:    "A snapshot cannot be destroyed because it is held, in the words of OpenZFS 2.4.",
		Example: "(held-snapshot (dataset obuilder/result/*@snap) (tries 1))",
		Sources: []string{"https://github.com/openzfs/zfs/pull/17234 (the wording is that of logs)", "https://github.com/openzfs/zfs/issues/17295"},
		Texts: []Text{
			{"zfs destroy obuilder/result/a@snap", 1, heldText("obuilder/result/a@snap"), zfs.Busy},
			{"zfs destroy -r obuilder/result/a", 1, heldText("obuilder/result/a@snap"), zfs.Busy},
		},
		verbs:    []string{"destroy"},
		datasets: []Pattern{"**@*"},
		tries:    1,
		applies:  (*execution).snapshotExists,
		act:      func(x *execution) error { return x.fail(zfs.Busy, 1, heldText(x.command.name())) },
	},
	{
		Name: "pool-missing", Mac: true,
		What:    "After a reboot the pool appears late: for the first `seconds` from the first command on nothing is there.",
		Example: "(pool-missing (seconds 60))",
		Sources: []string{"https://github.com/ocurrent/ocluster/issues/248", macZFS + "682"},
		Texts: []Text{
			{"zfs list -Hp -t filesystem -o name obuilder", 1, openText("obuilder"), zfs.NotFound},
			{"zfs create obuilder/state", 1, noPoolText("obuilder/state"), zfs.NotFound},
			{"zpool list -Hp -o size,allocated,free,capacity,health obuilder", 1, "cannot open 'obuilder': no such pool", zfs.NotFound},
		},
		seconds: time.Minute,
		applies: func(x *execution) bool { return x.clock.Now().Sub(x.began) < x.rule.Duration },
		act:     (*execution).missing,
	},
	{
		Name: "macos",
		What: "What a Mac does now and then, and what passes by itself: a build gets over it and nobody notices. " +
			"It has no settings, and has happened when any of its faults has.",
		Example: "(macos)",
		Group: []string{"diskutil", "pool-missing", "destroy-sleeps", "slow-destroy", "busy", "mountpoint-changed",
			"half-destroyed", "snapshot-mounted", "parent-unmounted", "automount-dead"},
	},
}

// macBusyText is what zfs prints on macOS when it cannot unmount a file system:
// what diskutil says, which knows only pools as volumes, then umount, then zfs.
func macBusyText(name, path string) string {
	first := fmt.Sprintf("Unmount failed for %s", path)
	if !strings.Contains(name, "/") {
		first = fmt.Sprintf("Volume %s on disk3s1 failed to unmount: dissented by PID 123 (/usr/libexec/mds)", name)
	}
	return fmt.Sprintf("%s\numount(%s): Resource busy -- try 'diskutil unmount'\ncannot unmount '%[2]s': unmount failed", first, path)
}

// busyText is what it prints elsewhere.
func busyText(_, path string) string {
	return fmt.Sprintf("cannot unmount '%s': pool or dataset is busy", path)
}

// existsText is what zfs prints when it cannot destroy a dataset because one
// below it is still there (sic).
func existsText(name string) string {
	return fmt.Sprintf("cannot destroy '%s': dataset already exists", name)
}

func heldText(name string) string {
	return fmt.Sprintf("cannot destroy snapshot %s: it's being held. Run 'zfs holds -r %[1]s' to see holders.", name)
}

func parentText(name string) string { return fmt.Sprintf("parent dataset '%s' must be mounted", name) }

func openText(name string) string {
	return fmt.Sprintf("cannot open '%s': dataset does not exist", name)
}

func noPoolText(name string) string {
	pool, _, _ := strings.Cut(name, "/")
	return fmt.Sprintf("cannot create '%s': no such pool '%s'", name, pool)
}

// Mac is a zfs.FS that can do by halves what zfs on a Mac sometimes does, as
// the fake one can. Without it, a fault does nothing where it would need it.
type Mac interface {
	zfs.FS
	// SetUnmoved is zfs set when what it would unmount stays mounted: the
	// properties change, and where ds is mounted the command fails as Busy.
	SetUnmoved(ctx context.Context, ds zfs.Dataset, props ...zfs.Property) error
	// SetAutomount turns automounting of snapshots on, as it is at first, or
	// off: then every snapshot directory is empty.
	SetAutomount(on bool)
}
