package scripted_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"obuilder.org/obuilder/sandbox"
	"obuilder.org/obuilder/sandbox/scripted"
	"obuilder.org/obuilder/zfs"
)

// files has links, which zfs.OSFiles alone does not.
type files struct{ zfs.OSFiles }

func (f files) Symlink(target, name string) error {
	host, _ := f.HostPath(name)
	return os.Symlink(target, host)
}

func newSandbox(t *testing.T, opts scripted.Options) (*scripted.Sandbox, string) {
	t.Helper()
	root := t.TempDir()
	if opts.Files == nil {
		opts.Files = files{zfs.OSFiles{Root: root}}
	}
	sb, err := scripted.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	return sb, root + sb.Home()
}

func command(argv ...string) sandbox.Config { return sandbox.Config{Workdir: "/src", Argv: argv} }

func run(t *testing.T, sb *scripted.Sandbox, cfg sandbox.Config, stdin io.Reader) (string, error) {
	t.Helper()
	var out bytes.Buffer
	err := sb.Run(t.Context(), cfg, stdin, &out)
	return out.String(), err
}

func checkFile(t *testing.T, name, want string) {
	t.Helper()
	got, err := os.ReadFile(name)
	if err != nil || string(got) != want {
		t.Errorf("%s = %q, %v, want %q", name, got, err, want)
	}
}

func TestDefault(t *testing.T) {
	sb, home := newSandbox(t, scripted.Options{})
	for _, c := range []string{"make", "make test"} {
		if out, err := run(t, sb, command("bash", "-c", c), nil); err != nil || out != "+ "+c+"\n" {
			t.Errorf("%s printed %q, %v", c, out, err)
		}
	}
	checkFile(t, home+"/.ran", "+ make\n+ make test\n")
	if sb.Runs() != 2 {
		t.Errorf("ran %d commands", sb.Runs())
	}
}

func TestRules(t *testing.T) {
	broken := errors.New("no such machine")
	sb, home := newSandbox(t, scripted.Options{Rules: []scripted.Rule{
		{Command: regexp.MustCompile(`^bash -c make$`), Output: "built\n", Writes: []scripted.Write{
			{Path: "bin/a", Contents: "x"}, {Path: "/big", Contents: "y", Size: 100_000},
		}},
		{Command: regexp.MustCompile("test"), Output: "no\n", Status: 2},
		{Command: regexp.MustCompile("crash"), Signal: "killed"},
		{Err: broken},
	}})
	if out, err := run(t, sb, command("bash", "-c", "make"), nil); err != nil || out != "built\n" {
		t.Errorf("make printed %q, %v", out, err)
	}
	checkFile(t, home+"/src/bin/a", "x")
	checkFile(t, home+"/big", "y"+strings.Repeat("\x00", 99_999))

	out, err := run(t, sb, command("bash", "-c", "make test"), nil)
	want := &sandbox.ExitError{Argv: []string{"bash", "-c", "make test"}, Status: 2}
	if diff := cmp.Diff(error(want), err); diff != "" || out != "no\n" {
		t.Errorf("make test printed %q: %s", out, diff)
	}
	_, err = run(t, sb, command("crash"), nil)
	if diff := cmp.Diff(error(&sandbox.ExitError{Argv: []string{"crash"}, Status: -1, Signal: "killed"}), err); diff != "" {
		t.Error(diff)
	}
	if _, err := run(t, sb, command("other"), nil); err != broken {
		t.Errorf("got %v", err)
	}
}

func TestScript(t *testing.T) {
	sb, home := newSandbox(t, scripted.Options{
		Script: func(_ context.Context, cfg sandbox.Config, stdin io.Reader, out io.Writer) error {
			if cfg.Argv[0] != "cat" {
				return scripted.ErrUnscripted
			}
			_, err := io.Copy(out, stdin)
			return err
		},
	})
	if out, err := run(t, sb, command("cat"), strings.NewReader("hello")); err != nil || out != "hello" {
		t.Errorf("cat printed %q, %v", out, err)
	}
	if _, err := run(t, sb, command("dog"), nil); err != nil {
		t.Error(err)
	}
	checkFile(t, home+"/.ran", "+ dog\n")
}

func archive(t *testing.T, headers ...tar.Header) *bytes.Buffer {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range headers {
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(h.Name))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := io.WriteString(w, h.Name); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &buf
}

var untar = sandbox.Config{Workdir: "/", Argv: []string{"tar", "-xf", "-"}}

func TestUntar(t *testing.T) {
	sb, home := newSandbox(t, scripted.Options{})
	for range 2 { // over what is there
		out, err := run(t, sb, untar, archive(t,
			tar.Header{Typeflag: tar.TypeDir, Name: "src/d/", Mode: 0o755},
			tar.Header{Typeflag: tar.TypeReg, Name: "src/d/b", Mode: 0o644},
			tar.Header{Typeflag: tar.TypeReg, Name: "x/a", Mode: 0o755},
			tar.Header{Typeflag: tar.TypeSymlink, Name: "src/l", Linkname: "../x/a"},
		))
		if err != nil || out != "" {
			t.Fatalf("tar printed %q, %v", out, err)
		}
	}
	checkFile(t, home+"/src/d/b", "src/d/b")
	checkFile(t, home+"/x/a", "x/a")
	if target, err := os.Readlink(home + "/src/l"); err != nil || target != "../x/a" {
		t.Errorf("link to %q, %v", target, err)
	}
	if fi, err := os.Lstat(home + "/x/a"); err != nil || fi.Mode().Perm()&0o100 == 0 && os.PathSeparator == '/' {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
}

func TestUntarFails(t *testing.T) {
	for name, h := range map[string]tar.Header{
		"outside": {Typeflag: tar.TypeReg, Name: "../x", Mode: 0o644},
		"device":  {Typeflag: tar.TypeFifo, Name: "fifo"},
	} {
		sb, _ := newSandbox(t, scripted.Options{})
		out, err := run(t, sb, untar, archive(t, h))
		if exit := (*sandbox.ExitError)(nil); !errors.As(err, &exit) || out == "" {
			t.Errorf("%s: printed %q, %v", name, out, err)
		}
	}
	sb, _ := newSandbox(t, scripted.Options{Files: zfs.OSFiles{Root: t.TempDir()}})
	_, err := run(t, sb, untar, archive(t, tar.Header{Typeflag: tar.TypeSymlink, Name: "l", Linkname: "a"}))
	if exit := (*sandbox.ExitError)(nil); !errors.As(err, &exit) {
		t.Errorf("link without links: %v", err)
	}
	// A stream that breaks off is not the command's fault.
	_, err = run(t, sb, untar, io.MultiReader(strings.NewReader("x"), errReader{}))
	if !errors.Is(err, errBroken) {
		t.Errorf("broken stream: %v", err)
	}
}

var errBroken = errors.New("broken")

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, errBroken }

func TestFileInTheWay(t *testing.T) {
	sb, home := newSandbox(t, scripted.Options{Rules: []scripted.Rule{{Writes: []scripted.Write{{Path: "/a/b"}}}}})
	if err := os.MkdirAll(home, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(home+"/a", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := run(t, sb, command("x"), nil)
	if exit := (*sandbox.ExitError)(nil); !errors.As(err, &exit) || !strings.HasPrefix(out, "x: ") {
		t.Errorf("printed %q, %v", out, err)
	}
}

func TestRefused(t *testing.T) {
	sb, _ := newSandbox(t, scripted.Options{})
	cfg := command("x")
	cfg.User = sandbox.User{UID: 501}
	for _, err := range []error{sb.Check(cfg), func() error { _, err := run(t, sb, cfg, nil); return err }()} {
		if refused := (*sandbox.RefusedError)(nil); !errors.As(err, &refused) {
			t.Errorf("got %v", err)
		}
	}
	if sb.Runs() != 0 {
		t.Error("it ran")
	}
}

func TestCancel(t *testing.T) {
	for name, rule := range map[string]func() scripted.Rule{
		"waiting":  func() scripted.Rule { return scripted.Rule{Wait: make(chan struct{})} },
		"sleeping": func() scripted.Rule { return scripted.Rule{Duration: time.Hour} },
	} {
		synctest.Test(t, func(t *testing.T) {
			sb, home := newSandbox(t, scripted.Options{Rules: []scripted.Rule{rule()}})
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			err := sb.Run(ctx, command("x"), nil, io.Discard)
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v", name, err)
			}
			if _, err := os.Lstat(home); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: wrote something", name)
			}
		})
	}
}

func TestDuration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sb, _ := newSandbox(t, scripted.Options{Rules: []scripted.Rule{{Duration: time.Hour}}})
		begin := time.Now()
		if _, err := run(t, sb, command("x"), nil); err != nil || time.Since(begin) != time.Hour {
			t.Errorf("took %v, %v", time.Since(begin), err)
		}
	})
}
