package session

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"obuilder.org/obuilder/zfs"
)

// A Program runs a command line, of which argv[0] is zfs or zpool, and gives
// its exit status. An error says that it could not be run.
type Program func(ctx context.Context, argv []string, stdin io.Reader, stdout, stderr io.Writer) (int, error)

// A Player plays commands, one at a time.
type Player struct {
	Files zfs.Files
	Run   Program
	// Enter starts what works in a directory until it is left. Without it, cd
	// opens the directory, which keeps it as busy.
	Enter func(dir string) (leave func(), err error)

	opened  []func()
	streams map[string][]byte
}

const maxFile = 16 << 20

// Play runs one command and masks what it answers. An error says that this is
// not a command, or that its program could not be run; what a command answers
// is never one.
func (p *Player) Play(ctx context.Context, command string) (Step, error) {
	done, err := p.PlayUnmasked(ctx, command)
	done.Out, done.Err = Mask(done.Out), Mask(done.Err)
	return done, err
}

// PlayUnmasked is Play with what was answered as it is.
func (p *Player) PlayUnmasked(ctx context.Context, command string) (Step, error) {
	done := Step{Command: command}
	argv, err := Split(command)
	if err != nil {
		return done, err
	}
	if argv[0] == "zfs" || argv[0] == "zpool" {
		return done, p.program(ctx, argv, &done)
	}
	count, known := arguments[argv[0]]
	if !known {
		return done, fmt.Errorf("not a command: %q", argv[0])
	}
	if len(argv)-1 != count {
		return done, fmt.Errorf("%s needs %d arguments: %q", argv[0], count, command)
	}
	if err := p.file(argv, &done); errors.Is(err, errUsage) {
		return done, fmt.Errorf("%q: %w", command, err)
	} else if err != nil {
		done.Err, done.Status = "failed\n", 1
	}
	return done, nil
}

var arguments = map[string]int{
	"mkdir": 1, "write": 2, "fill": 2, "truncate": 2, "rm": 1, "cat": 1, "ls": 1, "tree": 1, "open": 1, "cd": 1, "close": 0, "cut": 1, "damage": 1,
}

var errUsage = errors.New("not a number of bytes")

func (p *Player) program(ctx context.Context, argv []string, done *Step) error {
	var stdin io.Reader = strings.NewReader("")
	to := ""
	if last := argv[len(argv)-1]; len(last) > 1 && (last[0] == '>' || last[0] == '<') {
		if argv = argv[:len(argv)-1]; last[0] == '>' {
			to = last[1:]
		} else {
			stdin = bytes.NewReader(p.streams[last[1:]])
		}
	}
	var out, err bytes.Buffer
	status, failure := p.Run(ctx, argv, stdin, &out, &err)
	if failure != nil {
		return failure
	}
	if done.Status, done.Err = status, err.String(); to == "" {
		done.Out = out.String()
		return nil
	}
	if p.streams == nil {
		p.streams = map[string][]byte{}
	}
	p.streams[to] = out.Bytes()
	return nil
}

func (p *Player) file(argv []string, done *Step) error {
	switch argv[0] {
	case "mkdir":
		return p.Files.MkdirAll(argv[1], 0o755)
	case "write":
		return p.write(argv[1], []byte(argv[2]+"\n"))
	case "fill":
		n, err := strconv.ParseUint(argv[2], 10, 32)
		if err != nil {
			return errUsage
		}
		data := make([]byte, n)
		_, _ = rand.NewChaCha8([32]byte{}).Read(data)
		if err := p.write(argv[1], data); err != nil {
			// How much there was room for is nobody's business.
			return errors.Join(err, p.Files.Remove(argv[1]))
		}
		return nil
	case "truncate":
		n, err := strconv.ParseUint(argv[2], 10, 62)
		if err != nil {
			return errUsage
		}
		f, err := p.Files.OpenFile(argv[1], os.O_WRONLY|os.O_CREATE, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		t, ok := f.(interface{ Truncate(int64) error })
		if !ok {
			return errors.ErrUnsupported
		}
		return t.Truncate(int64(n))
	case "rm":
		return p.Files.Remove(argv[1])
	case "cut", "damage":
		stream := p.streams[argv[1]]
		if len(stream) == 0 {
			return os.ErrNotExist
		}
		if half := len(stream) / 2; argv[0] == "cut" {
			p.streams[argv[1]] = stream[:half]
		} else {
			stream[half] ^= 1
		}
		return nil
	case "cat":
		data, err := p.Files.ReadFile(argv[1], maxFile)
		done.Out = string(data)
		return err
	case "ls":
		tree, err := p.Files.Tree(argv[1])
		if err != nil {
			return err
		}
		defer tree.Close()
		entries, err := tree.ReadDir(".")
		for _, e := range entries {
			done.Out += e.Name() + "\n"
		}
		return err
	case "tree":
		tree, err := p.Files.Tree(argv[1])
		if err != nil {
			return err
		}
		defer tree.Close()
		var b strings.Builder
		err = printTree(&b, tree, ".")
		done.Out = b.String()
		return err
	case "cd":
		if p.Enter != nil {
			leave, err := p.Enter(argv[1])
			if err == nil {
				p.opened = append(p.opened, leave)
			}
			return err
		}
		fallthrough
	case "open":
		f, err := p.Files.OpenFile(argv[1], os.O_RDONLY, 0)
		if err == nil {
			p.opened = append(p.opened, func() { _ = f.Close() })
		}
		return err
	default: // close
		p.Close()
		return nil
	}
}

func (p *Player) write(name string, data []byte) error {
	f, err := p.Files.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

// printTree prints what is below a directory, and below its snapshots if it is
// the root of a file system.
func printTree(b *strings.Builder, tree zfs.Tree, dir string) error {
	entries, err := tree.ReadDir(dir)
	if err != nil {
		return err
	}
	snapshots := path.Join(dir, ".zfs", "snapshot")
	if _, err := tree.Lstat(snapshots); err == nil {
		names, err := tree.ReadDir(snapshots)
		if err != nil {
			return err
		}
		slices.SortFunc(names, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
		for _, e := range names {
			at := path.Join(snapshots, e.Name())
			fmt.Fprintf(b, "%s/\n", at)
			if err := printTree(b, tree, at); err != nil {
				return err
			}
		}
	}
	for _, e := range entries {
		at := path.Join(dir, e.Name())
		switch {
		case e.IsDir():
			fmt.Fprintf(b, "%s/\n", at)
			if err := printTree(b, tree, at); err != nil {
				return err
			}
		case e.Type().IsRegular():
			data, err := readAll(tree, at)
			if err != nil {
				return err
			}
			if len(data) > 100 {
				fmt.Fprintf(b, "%s %d bytes, sum %x\n", at, len(data), crc32.ChecksumIEEE(data))
				break
			}
			fmt.Fprintf(b, "%s %q\n", at, data)
		default:
			fmt.Fprintf(b, "%s %v\n", at, e.Type())
		}
	}
	return nil
}

func readAll(tree zfs.Tree, name string) ([]byte, error) {
	f, err := tree.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxFile))
}

// Close closes what the commands have opened.
func (p *Player) Close() {
	for _, f := range p.opened {
		f()
	}
	p.opened = nil
}
