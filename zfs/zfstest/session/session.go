// Package session is a notation for commands and what they answered, and plays
// it on any ZFS:
//
//	$ zfs create tank/a
//	2|cannot create 'tank/a': dataset already exists
//	=1
//
// 1| is standard output, 2| standard error, = the exit status unless it is 0;
// \ in place of | says that the line has no end. Empty lines mean nothing.
// Commands are read as a shell does that knows single quotes only. Besides zfs
// and zpool, with >NAME and <NAME for a stream that the [Player] keeps, there
// are, each with exit status 1 and "failed" if it does not succeed:
//
//	mkdir DIR          makes a directory and its parents
//	write FILE TEXT    writes a line
//	fill FILE BYTES    writes as many bytes, which do not compress; if there is no
//	                   room for them, the file is gone
//	truncate FILE BYTES
//	rm FILE            removes a file or an empty directory
//	cat FILE
//	ls DIR
//	tree DIR           prints all that is below, with .zfs/snapshot of what is mounted
//	open FILE          opens a file or directory and keeps it open
//	cd DIR             starts a process that works in a directory
//	close              closes what open and cd have opened
//	cut NAME           leaves the first half of a stream
//	damage NAME        changes the byte in the middle of a stream
//
// To compare with what is recorded:
//
//	steps, err := session.Parse(data)
//	p := session.Player{Files: m.Files(), Run: run}
//	defer p.Close()
//	for _, want := range steps {
//		got, err := p.Play(ctx, want.Command)
//		...
//	}
package session

import (
	"fmt"
	"strconv"
	"strings"
)

// A Step is a command and what it answered.
type Step struct {
	Command  string
	Out, Err string
	Status   int
}

// String gives the step as it is written in a session.
func (s Step) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "$ %s\n", s.Command)
	for i, stream := range []string{s.Out, s.Err} {
		for line := range strings.Lines(stream) {
			text, whole := strings.CutSuffix(line, "\n")
			mark := `\`
			if whole {
				mark = "|"
			}
			fmt.Fprintf(&b, "%d%s%s\n", i+1, mark, text)
		}
	}
	if s.Status != 0 {
		fmt.Fprintf(&b, "=%d\n", s.Status)
	}
	return b.String()
}

// Print gives the session of steps. Parse reads it back.
func Print(steps []Step) string {
	var b strings.Builder
	for _, s := range steps {
		b.WriteString(s.String())
	}
	return b.String()
}

// Parse reads a session. An error names the line.
func Parse(data string) ([]Step, error) {
	var steps []Step
	number := 0
	for line := range strings.Lines(data) {
		number++
		line = strings.TrimSuffix(line, "\n")
		if command, ok := strings.CutPrefix(line, "$ "); ok {
			if _, err := Split(command); err != nil {
				return nil, fmt.Errorf("line %d: %w", number, err)
			}
			steps = append(steps, Step{Command: command})
			continue
		}
		if line == "" {
			continue
		}
		if len(steps) == 0 {
			return nil, fmt.Errorf("line %d: no command before %q", number, line)
		}
		if err := steps[len(steps)-1].add(line); err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
	}
	return steps, nil
}

// add takes a line of the answer.
func (s *Step) add(line string) error {
	if rest, ok := strings.CutPrefix(line, "="); ok {
		n, err := strconv.Atoi(rest)
		if err != nil {
			return fmt.Errorf("not an exit status: %q", rest)
		}
		s.Status = n
		return nil
	}
	stream := &s.Out
	if line[0] == '2' {
		stream = &s.Err
	}
	if len(line) < 2 || line[0] != '1' && line[0] != '2' || line[1] != '|' && line[1] != '\\' {
		return fmt.Errorf("neither a command nor an answer: %q", line)
	}
	*stream += line[2:]
	if line[1] == '|' {
		*stream += "\n"
	}
	return nil
}

// Split gives the arguments of a command.
func Split(command string) ([]string, error) {
	var argv []string
	var arg []byte
	inArg, quoted := false, false
	for i := 0; i < len(command); i++ {
		switch c := command[i]; {
		case c == '\'':
			quoted, inArg = !quoted, true
		case c == ' ' && !quoted:
			if inArg {
				argv = append(argv, string(arg))
			}
			arg, inArg = nil, false
		default:
			arg, inArg = append(arg, c), true
		}
	}
	if quoted {
		return nil, fmt.Errorf("a quote without end in %q", command)
	}
	if inArg {
		argv = append(argv, string(arg))
	}
	if len(argv) == 0 {
		return nil, fmt.Errorf("an empty command")
	}
	return argv, nil
}

// Join gives the command that has these arguments; none may hold a single
// quote or a new line.
func Join(argv ...string) string {
	var b strings.Builder
	for i, arg := range argv {
		if i > 0 {
			b.WriteByte(' ')
		}
		if arg == "" || strings.Contains(arg, " ") {
			arg = "'" + arg + "'"
		}
		b.WriteString(arg)
	}
	return b.String()
}
