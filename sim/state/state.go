// Package state keeps a [fake.Machine] between processes, as the commands that
// made it: opening one runs them again, more than a hundred thousand a second. The
// machine is a function of its seed, of these commands and of when they were
// given, so that what failed half done is half done again.
//
//	s, err := state.Open(ctx, "my.state", state.Options{})
//	defer s.Close()
//	status, err := s.Run(ctx, []string{"zfs", "list"}, os.Stdin, os.Stdout, os.Stderr)
//
// The file has a line for each command that may have changed something, behind
// one that says what it is:
//
//	obsim state 1 {"seed":1,"system":"macos"}
//	5f01a2c9 {"time":"2026-01-31T10:00:00Z","argv":["zfs","create","obuilder/a"]}
//
// The first word is a checksum of the line and of all before it. A line is on
// disk before its command has answered. What a process that was killed was
// writing has no end of line, and is left out.
package state

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"obuilder.org/obuilder/lockfile"
	"obuilder.org/obuilder/zfs/fake"
	"obuilder.org/obuilder/zfs/fake/command"
	"obuilder.org/obuilder/zfs/zfstest/session"
)

// Options are how [Open] opens a state.
type Options struct {
	// What a state that is begun is: the seed of its guids, 1 when it is 0, and
	// the system whose ways it has, MacOS when it is empty. Where they are
	// given, a state that was begun otherwise is not opened.
	Seed   uint64
	System System
	// Now gives the time of commands; nil is time.Now.
	Now func() time.Time
	// Waiting, unless nil, is called once when another process has the state
	// and this one begins to wait for it.
	Waiting func(holder string)
}

// A System is what OpenZFS runs on.
type System string

// The systems.
const (
	MacOS System = "macos"
	Linux System = "linux"
)

// settings are what a state was begun with.
type settings struct {
	Seed   uint64 `json:"seed"`
	System System `json:"system"`
}

// A SettingsError is a state that was begun otherwise than it is asked for.
type SettingsError struct{ Path, Has, Wants string }

func (e *SettingsError) Error() string {
	return fmt.Sprintf("%s was begun with the %s, not %s", e.Path, e.Has, e.Wants)
}

// check compares what a state at path was begun with to what is asked for.
func (b settings) check(path string, o Options) error {
	switch {
	case o.System != "" && o.System != b.System:
		return &SettingsError{path, "system " + string(b.System), string(o.System)}
	case o.Seed != 0 && o.Seed != b.Seed:
		return &SettingsError{path, fmt.Sprint("seed ", b.Seed), fmt.Sprint(o.Seed)}
	}
	return nil
}

// An entry is a command: of zfs or zpool, or a line of a script.
type entry struct {
	Time  time.Time `json:"time"`
	Argv  []string  `json:"argv,omitempty"`
	Stdin []byte    `json:"stdin,omitempty"` // as much as the command has read
	Line  string    `json:"line,omitempty"`
}

// A State is a machine, and where it is kept. One goroutine uses it at a time.
type State struct {
	m       *fake.Machine
	player  *session.Player
	now     func() time.Time
	time    time.Time // of the command that is run
	opened  bool      // by lines of a script
	log     *os.File  // nil in memory
	sum     uint32
	release func() error
}

const magic = "obsim state 1 "

const maxStdin = 64 << 20 // of one command, that is kept

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A FormatError is a file that is not a state, or one that is damaged.
type FormatError struct {
	Path string
	Line int // from 1; 0 for the whole file
	Err  error
}

func (e *FormatError) Error() string {
	if e.Line > 0 {
		return fmt.Sprintf("%s:%d: %v", e.Path, e.Line, e.Err)
	}
	return fmt.Sprintf("%s: %v", e.Path, e.Err)
}

// Unwrap gives Err.
func (e *FormatError) Unwrap() error { return e.Err }

// Open opens the state in the file path, and begins one where there is none:
// a machine with the pool obuilder that [fake.New] has. A path of "" is a state
// that is not kept. One process uses a state at a time; Open waits for it until
// ctx ends, which gives a *[lockfile.HeldError]. It is a *[FormatError] when the
// file is something else, is damaged, or was made by another version, and a
// *[SettingsError] when it was begun otherwise.
func Open(ctx context.Context, path string, o Options) (*State, error) {
	s := &State{now: o.Now}
	if s.now == nil {
		s.now = time.Now
	}
	begin := settings{max(o.Seed, 1), cmp.Or(o.System, MacOS)}
	if path == "" {
		s.build(begin)
		return s, nil
	}
	release, err := lockfile.Acquire(ctx, path+".lock", o.Waiting)
	if err != nil {
		return nil, err
	}
	s.release = release
	if err := s.open(ctx, path, o, begin); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *State) build(b settings) {
	s.m = fake.New(fake.Seed(b.Seed), fake.SnapshotMounts(b.System == MacOS), fake.Clock(func() time.Time { return s.time }))
	s.player = &session.Player{Files: s.m.Files(), Run: func(ctx context.Context, argv []string, stdin io.Reader, stdout, stderr io.Writer) (int, error) {
		return command.Run(ctx, s.m, argv, stdin, stdout, stderr), nil
	}}
	s.time = s.now()
}

// open reads the file, which is not open in any other process.
func (s *State) open(ctx context.Context, path string, o Options, begin settings) error {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		data, err = create(path, begin)
	}
	if err != nil {
		return err
	}
	end, err := s.read(ctx, path, data, o)
	if err != nil {
		return err
	}
	if s.log, err = os.OpenFile(path, os.O_WRONLY, 0o600); err != nil {
		return err
	}
	if err := s.log.Truncate(end); err != nil {
		return err
	}
	if _, err := s.log.Seek(end, io.SeekStart); err != nil {
		return err
	}
	return s.closeFiles(ctx) // that a script had open when it was killed
}

// create begins a state, at once or not at all.
func create(path string, begin settings) ([]byte, error) {
	header, err := json.Marshal(begin)
	if err != nil {
		return nil, err
	}
	data := append(append([]byte(magic), header...), '\n')
	file, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	_, err = file.Write(data)
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err == nil {
		err = os.Rename(path+".new", path)
	}
	if err == nil {
		if dir, derr := os.Open(filepath.Dir(path)); derr == nil {
			_ = dir.Sync() // not every system can
			_ = dir.Close()
		}
	}
	return data, err
}

// read runs the commands in data, and gives how much of it they are.
func (s *State) read(ctx context.Context, path string, data []byte, o Options) (end int64, err error) {
	bad := func(line int, format string, args ...any) (int64, error) {
		return 0, &FormatError{Path: path, Line: line, Err: fmt.Errorf(format, args...)}
	}
	text, rest, ok := bytes.Cut(data, []byte{'\n'})
	var begin settings
	switch header, found := bytes.CutPrefix(text, []byte(magic)); {
	case ok && found:
		if err := decode(header, &begin); err != nil {
			return bad(1, "damaged: %w", err)
		}
	case bytes.HasPrefix(text, []byte(magic[:len(magic)-2])):
		return bad(1, "made by another version of obsim: %q", text)
	default:
		return bad(0, "not a state of obsim")
	}
	if begin.System != MacOS && begin.System != Linux {
		return bad(1, "damaged: system %q", begin.System)
	}
	if err := begin.check(path, o); err != nil {
		return 0, err
	}
	s.sum = crc32.Checksum(text, castagnoli)
	s.build(begin)
	for number := 2; ; number++ {
		text, after, ok := bytes.Cut(rest, []byte{'\n'})
		if !ok {
			return int64(len(data) - len(rest)), nil
		}
		rest = after
		var e entry
		sum, written, _ := bytes.Cut(text, []byte{' '})
		next := crc32.Update(s.sum, castagnoli, written)
		if string(sum) != fmt.Sprintf("%08x", next) {
			return bad(number, "damaged: the checksum is wrong")
		}
		if err := decode(written, &e); err != nil {
			return bad(number, "damaged: %w", err)
		}
		s.sum = next
		s.time = e.Time
		if _, err := s.do(ctx, e, bytes.NewReader(e.Stdin), io.Discard, io.Discard); err != nil {
			return bad(number, "%w", err)
		}
		if err := ctx.Err(); err != nil {
			return 0, err
		}
	}
}

func decode(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("there is more behind it")
	}
	return nil
}

// do runs a command, at s.time.
func (s *State) do(ctx context.Context, e entry, stdin io.Reader, stdout, stderr io.Writer) (session.Step, error) {
	if e.Line == "" {
		if len(e.Argv) == 0 || e.Argv[0] != "zfs" && e.Argv[0] != "zpool" {
			return session.Step{}, fmt.Errorf("not a command of zfs or zpool: %q", e.Argv)
		}
		return session.Step{Status: command.Run(ctx, s.m, e.Argv, stdin, stdout, stderr)}, nil
	}
	argv, err := session.Split(e.Line)
	if err != nil {
		return session.Step{}, err
	}
	if len(argv) > 0 {
		switch argv[0] {
		case "open", "cd":
			s.opened = true
		case "close":
			s.opened = false
		}
	}
	return s.player.PlayUnmasked(ctx, e.Line)
}

// append makes a command last.
func (s *State) append(e entry) error {
	if s.log == nil {
		return nil
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(e); err != nil {
		return err
	}
	written := bytes.TrimSuffix(b.Bytes(), []byte{'\n'})
	s.sum = crc32.Update(s.sum, castagnoli, written)
	_, err := fmt.Fprintf(s.log, "%08x %s\n", s.sum, written)
	if err == nil {
		err = s.log.Sync()
	}
	if err != nil {
		return fmt.Errorf("the command has not been kept: %w", err)
	}
	return nil
}

// Run runs a command line, of which argv[0] is zfs or zpool, and gives its exit
// status. It has an error when the command could not be kept; then it has
// printed nothing.
func (s *State) Run(ctx context.Context, argv []string, stdin io.Reader, stdout, stderr io.Writer) (int, error) {
	s.time = s.now().UTC()
	e := entry{Time: s.time, Argv: slices.Clone(argv)}
	for _, arg := range argv {
		if strings.ToValidUTF8(arg, "") != arg {
			return 0, fmt.Errorf("not UTF-8: %q", arg)
		}
	}
	before := s.m.Transaction()
	read := &keep{from: stdin}
	var out, errs bytes.Buffer
	step, err := s.do(ctx, e, read, &out, &errs)
	if err == nil {
		err = read.err
	}
	if err == nil && s.m.Transaction() != before {
		e.Stdin = read.data.Bytes()
		err = s.append(e)
	}
	if err != nil {
		return 0, err
	}
	_, err = stdout.Write(out.Bytes())
	if _, err2 := stderr.Write(errs.Bytes()); err == nil {
		err = err2
	}
	return step.Status, err
}

// A keep keeps what is read.
type keep struct {
	from io.Reader
	data bytes.Buffer
	err  error
}

func (k *keep) Read(p []byte) (int, error) {
	if k.from == nil {
		return 0, io.EOF
	}
	n, err := k.from.Read(p)
	if k.data.Write(p[:n]); k.data.Len() > maxStdin {
		k.err = fmt.Errorf("standard input is more than %d MiB, which is not kept", maxStdin>>20)
		return 0, k.err
	}
	return n, err
}

// Play runs a line as package session has them. An error says that it is not
// one, or that it could not be kept.
func (s *State) Play(ctx context.Context, line string) (session.Step, error) {
	s.time = s.now().UTC()
	if strings.ToValidUTF8(line, "") != line {
		return session.Step{}, fmt.Errorf("not UTF-8: %q", line)
	}
	e := entry{Time: s.time, Line: line}
	before := s.m.Transaction()
	step, err := s.do(ctx, e, nil, nil, nil)
	if err != nil {
		return step, err
	}
	argv, _ := session.Split(line)
	changes := s.m.Transaction() != before
	switch argv[0] {
	case "cat", "ls":
	case "zfs", "zpool":
		changes = changes || strings.HasPrefix(argv[len(argv)-1], ">") // for a later one to read
	default:
		changes = true
	}
	if changes {
		err = s.append(e)
	}
	return step, err
}

// Script plays the lines of r and calls played after each. Empty lines, what
// follows a # that begins a word, and the answers in what is a session already
// are left out; so is a "$ " before a command. It ends at the first line that
// is not a command, with a *[FormatError].
func (s *State) Script(ctx context.Context, name string, r io.Reader, played func(session.Step) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for number := 1; lines.Scan(); number++ {
		line := commandOf(lines.Text())
		if line == "" {
			continue
		}
		step, err := s.Play(ctx, line)
		if err != nil {
			return &FormatError{Path: name, Line: number, Err: err}
		}
		if err := played(step); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return errors.Join(lines.Err(), s.closeFiles(ctx))
}

// commandOf gives the command in a line of a script, "" for none.
func commandOf(line string) string {
	quoted := false
	for i, c := range line {
		if c == '\'' {
			quoted = !quoted
		}
		if c == '#' && !quoted && (i == 0 || line[i-1] == ' ' || line[i-1] == '\t') {
			line = line[:i]
			break
		}
	}
	line = strings.TrimSpace(line)
	if command, ok := strings.CutPrefix(line, "$ "); ok {
		return strings.TrimSpace(command)
	}
	answer := len(line) > 1 && (line[0] == '1' || line[0] == '2') && (line[1] == '|' || line[1] == '\\')
	if answer || strings.HasPrefix(line, "=") {
		return ""
	}
	return line
}

// closeFiles closes what lines of a script have opened: a process that has
// ended has nothing open.
func (s *State) closeFiles(ctx context.Context) error {
	if !s.opened {
		return nil
	}
	_, err := s.Play(ctx, "close")
	return err
}

// Close ends the use of a state.
func (s *State) Close() error {
	var err error
	if s.log != nil {
		err = s.log.Close()
	}
	if s.release != nil {
		err = errors.Join(err, s.release())
	}
	return err
}

// SessionPath gives the file of the state called name in a directory of this
// user's, which it makes.
func SessionPath(name string) (string, error) {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_'
	}
	if name == "" || len(name) > 100 || strings.ContainsFunc(name, func(r rune) bool { return !plain(r) }) {
		return "", fmt.Errorf("session %q: a name is of letters, digits, - and _", name)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir = filepath.Join(dir, "obsim")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	return filepath.Join(dir, name+".state"), nil
}
