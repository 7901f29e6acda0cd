package engine

import (
	"bytes"
	"io"
)

// maskedText stands in a log where a secret was.
const maskedText = "***"

// A masker passes on what is written to it with every secret replaced. It
// holds back the end of a write that may be the beginning of a secret, and
// nothing else, so that output stays live.
type masker struct {
	w       io.Writer
	secrets [][]byte // in any order: the earliest match wins, of those the longest
	pending []byte
}

// newMasker hides values, each also without its trailing newlines, and the
// longer lines of those that have several.
func newMasker(w io.Writer, values [][]byte) *masker {
	const longLine = 8
	m := &masker{w: w}
	for _, v := range values {
		trimmed := bytes.TrimRight(v, "\r\n")
		if len(trimmed) == 0 {
			continue
		}
		m.secrets = append(m.secrets, trimmed)
		if lines := bytes.Split(trimmed, []byte("\n")); len(lines) > 1 {
			for _, line := range lines {
				if line = bytes.TrimSpace(line); len(line) >= longLine {
					m.secrets = append(m.secrets, line)
				}
			}
		}
	}
	return m
}

// Write implements io.Writer.
func (m *masker) Write(p []byte) (int, error) {
	if len(m.secrets) == 0 {
		return m.w.Write(p)
	}
	m.pending = append(m.pending, p...)
	if err := m.pass(false); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Flush passes on what is held back: nothing follows it.
func (m *masker) Flush() error { return m.pass(true) }

func (m *masker) pass(last bool) error {
	var out []byte
	rest := m.pending
	next := make([]int, len(m.secrets)) // where each is found in rest, -1 when it is not
	for i, s := range m.secrets {
		next[i] = bytes.Index(rest, s)
	}
	for {
		at, length := m.find(rest, next, last)
		out = append(out, rest[:at]...)
		if length > 0 {
			out = append(out, maskedText...)
		}
		rest = rest[at+length:]
		if length == 0 {
			break
		}
		for i, s := range m.secrets {
			if next[i] < 0 {
				continue
			}
			if next[i] -= at + length; next[i] < 0 {
				next[i] = bytes.Index(rest, s)
			}
		}
	}
	m.pending = append(m.pending[:0], rest...)
	if len(out) == 0 {
		return nil
	}
	_, err := m.w.Write(out)
	return err
}

// find gives the place and length of the first secret in rest, or length 0 and
// where the part to hold back begins. A match that a longer secret may still
// extend is held back too.
func (m *masker) find(rest []byte, next []int, last bool) (at, length int) {
	at = len(rest)
	for i, s := range m.secrets {
		if n := next[i]; n >= 0 && (n < at || n == at && len(s) > length) {
			at, length = n, len(s)
		}
	}
	if last {
		return at, length
	}
	for _, s := range m.secrets {
		for start := max(0, len(rest)-len(s)+1); ; start++ {
			i := bytes.IndexByte(rest[start:], s[0])
			if i < 0 {
				break
			}
			if start += i; start > at || start == at && length >= len(s) {
				break
			}
			if bytes.HasPrefix(s, rest[start:]) {
				at, length = start, 0
				break
			}
		}
	}
	return at, length
}
