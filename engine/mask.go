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
	secrets [][]byte // longest first does not matter: the earliest match wins, then the longest
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
	for len(m.pending) > 0 {
		at, length := m.find(last)
		if at > 0 {
			if _, err := m.w.Write(m.pending[:at]); err != nil {
				return err
			}
		}
		if length > 0 {
			if _, err := io.WriteString(m.w, maskedText); err != nil {
				return err
			}
		}
		m.pending = append(m.pending[:0], m.pending[at+length:]...)
		if length == 0 {
			return nil
		}
	}
	return nil
}

// find gives the place and length of the first secret, or length 0 and where
// the part to hold back begins. A match that a longer secret may still extend
// is held back too.
func (m *masker) find(last bool) (at, length int) {
	at = len(m.pending)
	for _, s := range m.secrets {
		if i := bytes.Index(m.pending, s); i >= 0 && (i < at || i == at && len(s) > length) {
			at, length = i, len(s)
		}
	}
	if last {
		return at, length
	}
	for _, s := range m.secrets {
		for n := min(len(s)-1, len(m.pending)); n > 0; n-- {
			start := len(m.pending) - n
			if start > at {
				continue
			}
			if start == at && length >= len(s) {
				continue
			}
			if bytes.HasSuffix(m.pending, s[:n]) {
				at, length = start, 0
				break
			}
		}
	}
	return at, length
}
