package fake

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"
)

// The state of a machine in a directory is the file state, followed by what
// the commands since then have changed, in the file journal.G, where G is the
// generation of the state. Both are sequences of frames:
//
//	length  4 bytes, little-endian, of the payload
//	crc     4 bytes, CRC-32C of the payload
//	payload records; see encode.go
//
// state begins with a line that names the format, and its generation. A
// journal is written to in place, in a part of it that is allocated already and
// holds zeros: a full disk does not keep a command from being recorded.
// Reading it ends at a frame of no length or with a wrong sum, which is what
// was being written when the process was killed.

const (
	frameHeader = 8
	reserve     = 256 << 10 // allocated for the frames of the next commands
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// appendFrame appends the frame of a payload.
func appendFrame(b, payload []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(len(payload)))
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(payload, castagnoli))
	return append(b, payload...)
}

// cutFrame takes the first frame off data; ok is false when there is none that is whole.
func cutFrame(data []byte) (payload, rest []byte, ok bool) {
	if len(data) < frameHeader {
		return nil, nil, false
	}
	n := int64(binary.LittleEndian.Uint32(data))
	sum := binary.LittleEndian.Uint32(data[4:])
	data = data[frameHeader:]
	if n == 0 || n > int64(len(data)) {
		return nil, nil, false
	}
	payload, rest = data[:n], data[n:]
	if crc32.Checksum(payload, castagnoli) != sum {
		return nil, nil, false
	}
	return payload, rest, true
}

// A journal is open for appending.
type journal struct {
	file  *os.File
	end   int64 // of the last frame
	alloc int64 // of the file
	dirty bool  // not yet synced
	frame []byte
}

// openJournal opens the journal at path, in which the frames end at end.
func openJournal(path string, end int64) (*journal, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	j := &journal{file: file, end: end, alloc: end}
	// What is behind the last whole frame goes, so that nothing of it is ever
	// taken for a frame.
	if err = file.Truncate(end); err == nil {
		err = j.grow(reserve)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return j, nil
}

// grow sees to it that n bytes more can be appended.
func (j *journal) grow(n int64) error {
	if j.alloc-j.end >= n+frameHeader {
		return nil
	}
	zeros := make([]byte, roundUp(uint64(n), reserve)+reserve)
	if _, err := j.file.WriteAt(zeros, j.alloc); err != nil {
		return errors.Join(err, j.file.Truncate(j.alloc))
	}
	j.alloc += int64(len(zeros))
	return nil
}

// append writes a frame. It is not safe from a power cut before sync.
func (j *journal) append(payload []byte) error {
	if err := j.grow(int64(len(payload)) + frameHeader); err != nil {
		return err
	}
	j.frame = appendFrame(j.frame[:0], payload)
	if _, err := j.file.WriteAt(j.frame, j.end); err != nil {
		return err
	}
	j.end += int64(len(j.frame))
	j.dirty = true
	return nil
}

func (j *journal) sync() error {
	if !j.dirty {
		return nil
	}
	j.dirty = false
	return j.file.Sync()
}

// format is that of the records which are written. Those of every earlier one
// are read: format 2 has added the holds and settings of snapshots, the
// devices of pools, and the names of properties.
const format = 2

// cutMagic takes off data the line that begins a state and names its format,
// "obuilder state 2".
func cutMagic(data []byte) (rest []byte, ok bool) {
	line, rest, ok := bytes.Cut(data, []byte{'\n'})
	text, named := strings.CutPrefix(string(line), stateMagic)
	n, err := strconv.Atoi(text)
	return rest, ok && named && err == nil && n >= 1 && n <= format
}

const stateMagic = "obuilder state "

// readState reads the state and what its journal has to add. files are the
// payloads in order, end is where the journal's frames end.
func readState(dir string) (generation uint64, payloads []string, end int64, err error) {
	path := filepath.Join(dir, "state")
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return 0, nil, 0, err
	default:
		damaged := fmt.Errorf("%s is damaged", path)
		data, ok := cutMagic(data)
		if !ok || len(data) < 8 {
			return 0, nil, 0, damaged
		}
		generation = binary.LittleEndian.Uint64(data)
		payload, rest, ok := cutFrame(data[8:])
		if !ok || len(rest) > 0 { // it was whole when it got this name
			return 0, nil, 0, damaged
		}
		payloads = append(payloads, asString(payload))
	}
	data, err = os.ReadFile(journalPath(dir, generation))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, nil, 0, err
	}
	text := asString(data)
	for {
		payload, rest, ok := cutFrame(data[end:])
		if !ok {
			if framesFollow(data[end:]) {
				return 0, nil, 0, fmt.Errorf("%s is damaged", journalPath(dir, generation))
			}
			return generation, payloads, end, nil
		}
		end = int64(len(data) - len(rest))
		payloads = append(payloads, text[end-int64(len(payload)):end])
	}
}

// framesFollow reports whether there is a whole frame behind a broken one. Then
// it is not the last, which was being written, but one that has been damaged.
func framesFollow(data []byte) bool {
	for n := range data {
		if _, _, ok := cutFrame(data[n:]); ok && n > 0 {
			return true
		}
	}
	return false
}

// asString gives the text of data, which is not changed any more, without a copy of it.
func asString(data []byte) string { return unsafe.String(unsafe.SliceData(data), len(data)) }

func journalPath(dir string, generation uint64) string {
	return filepath.Join(dir, fmt.Sprintf("journal.%d", generation))
}

// writeState writes a state of its own generation beside the old one and puts
// it in its place.
func writeState(dir string, generation uint64, payload []byte) error {
	b := fmt.Appendf(make([]byte, 0, len(payload)+64), "%s%d\n", stateMagic, format)
	b = binary.LittleEndian.AppendUint64(b, generation)
	return writeFile(dir, "state", appendFrame(b, payload))
}

// writeFile makes the file name in dir hold data, at once or not at all.
func writeFile(dir, name string, data []byte) error {
	path := filepath.Join(dir, name)
	file, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(path+".new"))
	}
	return syncDir(dir)
}

// syncDir makes names in dir last. Not every system can.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, fs.ErrInvalid) || errors.Is(err, fs.ErrPermission) {
		err = nil
	}
	return errors.Join(err, d.Close())
}
