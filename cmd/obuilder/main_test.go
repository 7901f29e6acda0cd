package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"obuilder.org/obuilder/zfs/fake"
	"obuilder.org/obuilder/zfs/fake/command"
	"obuilder.org/obuilder/zfs/fake/remote"
)

func TestMain(m *testing.M) {
	remote.Main()
	testscript.Main(m, map[string]func(){"obuilder": main})
}

// The scripts run where bash is: the steps of their specs need it.
func TestScripts(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("steps run with bash, which windows does not have")
	}
	examples, err := filepath.Abs("../../examples")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "../../testdata/scripts/obuilder",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       os.Getenv("UPDATE_SCRIPTS") != "",
		Setup: func(env *testscript.Env) error {
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("XDG_CACHE_HOME", filepath.Join(env.WorkDir, ".cache"))
			env.Setenv("EXAMPLES", examples)
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){"pool": poolCommand},
		Condition: func(cond string) (bool, error) {
			if cond == "root" {
				return os.Getuid() == 0, nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
	})
}

// poolCommand is the command pool NAME of scripts: a pool of that name, mounted
// on $WORK/volumes/NAME, and programs zfs and zpool in PATH that know it. Its
// machine is in a directory, so the files in what is mounted there are files
// of this machine; what is mounted elsewhere is not seen.
func poolCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: pool NAME")
	}
	volumes := ts.MkAbs("volumes")
	m, err := fake.OpenDir(context.Background(), ts.MkAbs("machine"), fake.Pool(args[0], 0, filepath.ToSlash(filepath.Join(volumes, args[0]))))
	ts.Check(err)
	ts.Defer(func() { ts.Check(m.Close()) })
	inside, ok := m.Files().HostPath(filepath.ToSlash(volumes))
	if !ok {
		ts.Fatalf("the files of the pool are not of this machine")
	}
	ts.Check(os.Symlink(inside, volumes))
	s, err := remote.Start(func(ctx context.Context, argv []string, stdin io.Reader, stdout, stderr io.Writer) int {
		return command.Run(ctx, m, argv, stdin, stdout, stderr)
	})
	ts.Check(err)
	ts.Defer(func() { ts.Check(s.Close()) })
	ts.Setenv(remote.Socket, s.Path)
	ts.Setenv("PATH", s.Bin()+string(os.PathListSeparator)+ts.Getenv("PATH"))
}
