package engine

import (
	"bytes"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// replaced is what a masker should make of text, all at once: at every place
// the longest secret that begins there.
func replaced(text []byte, secrets [][]byte) []byte {
	var out []byte
	for len(text) > 0 {
		longest := 0
		for _, s := range secrets {
			if bytes.HasPrefix(text, s) {
				longest = max(longest, len(s))
			}
		}
		if longest > 0 {
			out = append(out, maskedText...)
			text = text[longest:]
			continue
		}
		out = append(out, text[0])
		text = text[1:]
	}
	return out
}

// However output comes, every secret in it is masked, nothing else is, and
// no more is held back than what may become a secret.
func TestMasker(t *testing.T) {
	// Few letters: secrets overlap, repeat and are parts of one another.
	letter := rapid.SampledFrom([]byte("ab\n"))
	secret := rapid.OneOf(
		rapid.SliceOfN(letter, 0, 6),
		rapid.SliceOfN(rapid.SampledFrom([]byte("abcdefgh\r\n")), 8, 30),
	)
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(secret, 0, 4).Draw(t, "secrets")
		piece := rapid.SliceOfN(letter, 0, 8)
		if len(values) > 0 {
			piece = rapid.OneOf(piece, rapid.SampledFrom(values))
		}
		text := slices.Concat(rapid.SliceOf(piece).Draw(t, "output")...)
		var out bytes.Buffer
		m := newMasker(&out, values)
		for rest := text; len(rest) > 0; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "chunk")
			if written, err := m.Write(rest[:n]); written != n || err != nil {
				t.Fatalf("wrote %d of %d, %v", written, n, err)
			}
			rest = rest[n:]
			if len(m.pending) > 0 && !slices.ContainsFunc(m.secrets, func(s []byte) bool {
				return len(m.pending) < len(s) && bytes.HasPrefix(s, m.pending)
			}) {
				t.Fatalf("%q is held back", m.pending)
			}
		}
		if err := m.Flush(); err != nil {
			t.Fatal(err)
		}
		if want := replaced(text, m.secrets); !bytes.Equal(out.Bytes(), want) {
			t.Fatalf("%q became %q, want %q", text, out.Bytes(), want)
		}
		for _, v := range values {
			if v = bytes.TrimRight(v, "\r\n"); len(v) > 0 && bytes.Contains(out.Bytes(), v) {
				t.Fatalf("secret %q is in %q", v, out.Bytes())
			}
		}
	})
}

// Output with many secrets, and output with a long one that never comes.
func BenchmarkMasker(b *testing.B) {
	for name, secrets := range map[string][][]byte{
		"many": {[]byte("ab"), []byte("never")},
		"long": {bytes.Repeat([]byte("x"), 1<<20)},
	} {
		b.Run(name, func(b *testing.B) {
			chunk := bytes.Repeat([]byte("ab abcdefg\n"), 3000)
			b.SetBytes(int64(len(chunk)))
			var out bytes.Buffer
			m := newMasker(&out, secrets)
			for b.Loop() {
				out.Reset()
				if _, err := m.Write(chunk); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
