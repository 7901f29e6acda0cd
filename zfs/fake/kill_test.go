//go:build unix

package fake

import (
	"bufio"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"obuilder.org/obuilder/zfs"
)

var kills = flag.Int("kills", 100, "how many processes TestKilled kills")

// TestMain makes the test program the process that TestKilled kills.
func TestMain(m *testing.M) {
	dir := os.Getenv("FAKE_TEST_DIR")
	if dir == "" {
		os.Exit(m.Run())
	}
	if os.Getenv("FAKE_TEST_SEED") == "none" { // it just opens the store
		m, err := OpenDir(ctx, dir, Pool("tank", 0, tank), small)
		if err == nil {
			err = m.Close()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	seed, err := strconv.ParseUint(os.Getenv("FAKE_TEST_SEED"), 10, 64)
	if err == nil {
		err = runMoves(dir, seed)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// runMoves does the moves of a seed and says after each that it is done.
func runMoves(dir string, seed uint64) error {
	m, err := OpenDir(ctx, dir, Pool("tank", 0, tank), small)
	if err != nil {
		return err
	}
	for i, mv := range movesOf(seed) {
		err := mv.run(m)
		fmt.Println(i, int(zfs.KindOf(err)), err != nil)
	}
	return m.Close()
}

func movesOf(seed uint64) []move { return randomMoves(rand.New(rand.NewPCG(seed, 2)), 120) }

// runKilled runs a process on dir and kills it some time after it said that
// enough moves are done. It gives how many it said to be.
func runKilled(t *testing.T, dir string, seed uint64, enough int, after time.Duration) (done int) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "FAKE_TEST_DIR="+dir, "FAKE_TEST_SEED="+fmt.Sprint(seed))
	out, err := cmd.StdoutPipe()
	must(t, err)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	must(t, cmd.Start())
	kill := func() { _ = cmd.Process.Kill() }
	if enough == 0 {
		defer time.AfterFunc(after, kill).Stop()
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if done++; done == enough {
			defer time.AfterFunc(after, kill).Stop()
		}
	}
	if err := cmd.Wait(); err != nil && cmd.ProcessState.Exited() {
		t.Fatalf("the process failed by itself: %v: %s", err, &stderr)
	}
	return done
}

// TestKilled kills processes in the middle of what they do to a store, some of
// them while they open it after another was killed. Then every dataset is
// there as before or after the command that was under way, and nothing else is.
func TestKilled(t *testing.T) {
	r := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 3))
	count := *kills
	if testing.Short() {
		count = 5
	}
	interrupted := 0
	for n := range count {
		seed := r.Uint64()
		dir := filepath.Join(t.TempDir(), "store")
		done := runKilled(t, dir, seed, r.IntN(100), time.Duration(r.IntN(3000))*time.Microsecond)
		moves := movesOf(seed)
		for range r.IntN(3) {
			// A seed without moves to come: these processes just open it.
			openKilled(t, dir, time.Duration(r.IntN(20))*time.Millisecond)
		}
		if done < len(moves) {
			interrupted++
		}
		before, after := newTank(t), newTank(t)
		for i, mv := range moves[:min(done+1, len(moves))] {
			if i < done {
				_ = mv.run(before)
			}
			_ = mv.run(after)
		}
		m := openDir(t, dir)
		checkDir(t, m)
		text := ""
		if done < len(moves) {
			text = moves[done].text
		}
		checkBetween(t, viewOf(t, before, false), viewOf(t, after, false), viewOf(t, m, false))
		if !strings.HasPrefix(text, "write") {
			checkFrozen(t, before, after, m)
		}
		// It works, and what it now does is what a machine in memory does.
		must(t, m.Create(ctx, ds("tank/after"), zfs.CreateOptions{}))
		must(t, m.Destroy(ctx, ds("tank/after"), zfs.DestroyMode{}))
		checkDir(t, m)
		if t.Failed() {
			t.Fatalf("kill %d, seed %d, after %d moves, in: %s", n, seed, done, text)
		}
		must(t, m.Close())
	}
	t.Logf("killed %d processes, %d in the middle", count, interrupted)
}

func openKilled(t *testing.T, dir string, after time.Duration) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "FAKE_TEST_DIR="+dir, "FAKE_TEST_SEED=none")
	must(t, cmd.Start())
	timer := time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	_ = cmd.Wait()
}

// checkBetween checks that what there is was there before or after, and that
// what was there before and after is there.
func checkBetween(t *testing.T, before, after, now view) {
	t.Helper()
	for name, text := range now {
		if before[name] != text && after[name] != text {
			t.Errorf("%s is %q, was %q before and is %q after the command", name, text, before[name], after[name])
		}
	}
	for name, text := range before {
		if after[name] == text && now[name] != text {
			t.Errorf("%s is %q, was %q before and after the command", name, now[name], text)
		}
	}
}

// checkFrozen compares the files of all snapshots. All are made reachable by
// cloning them.
func checkFrozen(t *testing.T, before, after, m *Machine) {
	t.Helper()
	files := func(m *Machine) view {
		v := view{}
		rows, err := m.List(ctx, zfs.ListOptions{Recursive: true, Types: []zfs.Type{zfs.Snapshots}})
		must(t, err)
		for _, row := range rows {
			must(t, m.Clone(ctx, snap(row.Name), ds("tank/clone"), prop("mountpoint", "/clone")))
			data, err := m.Files().ReadFile("/clone/f", 100)
			if err != nil {
				data = []byte("none")
			}
			v[row.Name] = string(data)
			must(t, m.Destroy(ctx, ds("tank/clone"), zfs.DestroyMode{}))
		}
		return v
	}
	checkBetween(t, files(before), files(after), files(m))
}
