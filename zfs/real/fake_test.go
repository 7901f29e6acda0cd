package real

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"obuilder.org/obuilder/zfs"
	"obuilder.org/obuilder/zfs/fake"
	"obuilder.org/obuilder/zfs/fake/command"
	"obuilder.org/obuilder/zfs/fake/remote"
	"obuilder.org/obuilder/zfs/zfstest"
)

// programsOf gives an FS whose programs are answered by a machine in memory.
func programsOf(t testing.TB, m *fake.Machine) *FS {
	t.Helper()
	s, err := remote.Start(func(ctx context.Context, argv []string, stdin io.Reader, stdout, stderr io.Writer) int {
		return command.Run(ctx, m, argv, stdin, stdout, stderr)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Setenv(remote.Socket, s.Path)
	f, err := New(Options{ZFS: s.ZFS})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// racing says that the race detector is on, with which a process takes fifty
// times as long to start.
var racing bool

// notBesidesARealPool skips what says nothing about a real pool, and takes
// minutes where the machine that has one is emulated.
func notBesidesARealPool(t *testing.T) {
	t.Helper()
	if os.Getenv("OBUILDER_TEST_POOL") != "" {
		t.Skip("OBUILDER_TEST_POOL is set: this run is about that pool, and this test about programs that a fake answers")
	}
}

// The suite, through real processes, on any system.
func TestFake(t *testing.T) {
	notBesidesARealPool(t)
	if racing {
		t.Skip("it starts thousands of processes, too many with the race detector")
	}
	for name, snapshotMounts := range map[string]bool{"linux": false, "macos": true} {
		t.Run(name, func(t *testing.T) {
			zfstest.Run(t, func(t *testing.T) zfstest.Env {
				m := fake.New(fake.Pool("tank", 1<<30, "/Volumes/tank"), fake.SnapshotMounts(snapshotMounts))
				if err := m.Files().MkdirAll("/mnt", 0o755); err != nil {
					t.Fatal(err)
				}
				return zfstest.Env{FS: programsOf(t, m), Files: m.Files(), Root: zfs.MustDataset("tank"), Dir: "/mnt", SnapshotMounts: snapshotMounts}
			})
		})
	}
}

// answer is what a caller can see of what a method gave, but for the usage of a
// program.
func answer(value any, err error) string {
	text := fmt.Sprintf("%v", value)
	if e := new(zfs.Error); errors.As(err, &e) {
		said, _, _ := strings.Cut(e.Stderr, "\nusage:\n")
		text += fmt.Sprintf(" %s, %d: %s", e.Kind, e.Status, said)
	} else if err != nil {
		text += " " + err.Error()
	}
	return text
}

// What a machine answers through its programs, and how that is understood, is
// what it answers without them.
func TestFakeAgrees(t *testing.T) {
	notBesidesARealPool(t)
	ctx := t.Context()
	seeds, moves := 3, 150
	if racing {
		seeds, moves = 1, 20
	}
	for seed := range uint64(seeds) {
		direct := fake.New(fake.Pool("tank", 1<<30, "/Volumes/tank"), fake.Seed(seed))
		played := fake.New(fake.Pool("tank", 1<<30, "/Volumes/tank"), fake.Seed(seed))
		files := []zfs.Files{direct.Files(), played.Files()}
		machines := []zfs.FS{direct, programsOf(t, played)}
		r := rand.New(rand.NewPCG(seed, 0))
		pick := func(list ...string) string { return list[r.IntN(len(list))] }
		var did []string
		for range moves {
			d := zfs.MustDataset("tank/" + pick("a", "b", "a/x", "b/x", "b/x/y", "c"))
			e := zfs.MustDataset("tank/" + pick("a", "b", "a/x", "b/x", "b/x/y", "c"))
			s := d.MustSnapshot(pick("1", "2"))
			yes, n := r.IntN(2) == 0, r.IntN(13)
			at := zfs.Property{Name: "mountpoint", Value: pick("none", "/m", "/m/in", "/Volumes/tank/at")}
			var answers []string
			for i, m := range machines {
				var err error
				var value any
				switch n {
				case 0, 1:
					err = m.Create(ctx, d, zfs.CreateOptions{Parents: yes})
				case 2:
					err = m.Clone(ctx, s, e, at)
				case 3, 4:
					err = m.Snapshot(ctx, yes, s)
				case 5:
					err = m.Destroy(ctx, d, zfs.DestroyMode{Recursive: yes})
				case 6:
					err = m.Destroy(ctx, s, zfs.DestroyMode{Recursive: yes, Defer: at.Value == "none"})
				case 7:
					err = m.Set(ctx, d, at, zfs.Property{Name: "a:b", Value: "x y"})
				case 8:
					if err = m.Mount(ctx, d); yes {
						err = m.Unmount(ctx, d, false)
					}
				case 9:
					if err = m.Promote(ctx, d); yes {
						err = m.Rename(ctx, d, e, zfs.RenameOptions{Parents: at.Value == "none"})
					}
				case 10:
					if err = m.Inherit(ctx, d, "mountpoint", yes); yes {
						err = m.Rollback(ctx, s, at.Value == "none")
					}
				case 11:
					value, err = m.Get(ctx, d, "origin", "mountpoint", "mounted", "a:b", "used", "guid")
				case 12:
					f, ferr := files[i].OpenFile("/Volumes/tank/a/f", os.O_CREATE|os.O_WRONLY, 0o644)
					if ferr == nil {
						err = f.Close()
					}
				}
				answers = append(answers, answer(value, err))
			}
			did = append(did, fmt.Sprint(n, " ", d, " ", e, " ", s, " ", yes, " ", at, ": ", answers[0]))
			var lists []string
			for _, m := range machines {
				rows, err := m.List(ctx, zfs.ListOptions{Roots: []zfs.Name{zfs.MustDataset("tank"), d, s}, Recursive: true,
					Types: []zfs.Type{zfs.Filesystems, zfs.Snapshots}, Properties: []string{"guid", "origin", "mountpoint", "mounted", "used", "a:b"}})
				lists = append(lists, answer(rows, err))
			}
			if diff := cmp.Diff(answers[0]+lists[0], answers[1]+lists[1]); diff != "" {
				t.Fatalf("seed %d, after:\n%s\ndirectly (-), through programs (+):\n%s", seed, strings.Join(did, "\n"), diff)
			}
		}
	}
}
