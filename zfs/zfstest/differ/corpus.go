package main

import (
	"bytes"
	"compress/gzip"
	"io"

	"golang.org/x/tools/txtar"
)

func compress(data []byte) ([]byte, error) {
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

const maxCorpus = 256 << 20

// decompress gives the sessions of a corpus.
func decompress(data []byte) (*txtar.Archive, error) {
	r, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(r, maxCorpus))
	if err != nil {
		return nil, err
	}
	return txtar.Parse(text), nil
}
