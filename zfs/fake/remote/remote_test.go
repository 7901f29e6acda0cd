package remote_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"obuilder.org/obuilder/zfs/fake/remote"
)

func TestMain(m *testing.M) {
	remote.Main()
	os.Exit(m.Run())
}

func start(t *testing.T, run remote.Program) *remote.Server {
	t.Helper()
	s, err := remote.Start(run)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(s.Bin()); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the programs are left: %v", err)
		}
	})
	t.Setenv(remote.Socket, s.Path)
	return s
}

// Arguments, both streams, standard input and the exit status go through.
func TestThrough(t *testing.T) {
	s := start(t, func(_ context.Context, argv []string, stdin io.Reader, stdout, stderr io.Writer) int {
		fmt.Fprintf(stdout, "%q\n", argv)
		n, err := io.Copy(stderr, stdin)
		fmt.Fprintln(stdout, n, err)
		return len(argv)
	})
	zpool := filepath.Join(s.Bin(), "zpool"+filepath.Ext(s.ZFS))
	long := strings.Repeat("a line\n", 100_000)
	for _, c := range []struct {
		program string
		args    []string
		in, out string
	}{
		{s.ZFS, nil, "", "[\"zfs\"]\n0 <nil>\n"},
		{zpool, []string{"list", "", "a b", "-x\n'"}, "in", "[\"zpool\" \"list\" \"\" \"a b\" \"-x\\n'\"]\n2 <nil>\n"},
		{s.ZFS, []string{"receive"}, long, "[\"zfs\" \"receive\"]\n700000 <nil>\n"},
	} {
		cmd := exec.Command(c.program, c.args...)
		cmd.Stdin = iotest.HalfReader(strings.NewReader(c.in))
		var out, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errs
		err := cmd.Run()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != len(c.args)+1 || out.String() != c.out || errs.String() != c.in {
			t.Errorf("%q: %v, %q, %d bytes of standard error", c.args, err, &out, errs.Len())
		}
	}
}

// Processes are answered at once, and one that is killed ends its answer.
func TestAtOnce(t *testing.T) {
	var both sync.WaitGroup
	both.Add(2)
	ended := make(chan error, 1)
	s := start(t, func(ctx context.Context, argv []string, _ io.Reader, stdout, _ io.Writer) int {
		if argv[1] == "hang" {
			fmt.Fprintln(stdout, "begun")
			<-ctx.Done()
			ended <- ctx.Err()
			return 0
		}
		both.Done()
		both.Wait()
		return 0
	})
	var group sync.WaitGroup
	for range 2 {
		group.Go(func() {
			if out, err := exec.Command(s.ZFS, "x").CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	group.Wait()

	cmd := exec.Command(s.ZFS, "hang")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Error("the answer goes on")
	}
}

// Where nobody answers, the programs say so.
func TestNobody(t *testing.T) {
	s := start(t, func(context.Context, []string, io.Reader, io.Writer, io.Writer) int { return 0 })
	t.Setenv(remote.Socket, filepath.Join(t.TempDir(), "x"))
	out, err := exec.Command(s.ZFS, "list").CombinedOutput()
	if err == nil || !strings.HasPrefix(string(out), "zfs: nobody answers: ") {
		t.Errorf("%v: %s", err, out)
	}
}
