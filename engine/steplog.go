package engine

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"obuilder.org/obuilder/zfs"
)

// tailSize is how much of a log a reader holds in memory.
const tailSize = 32 << 10

// A stepLog is the log of one step in flight: written once, read from the
// beginning by everyone who waits for the step, each at its own pace.
type stepLog struct {
	mu      sync.Mutex
	changed chan struct{} // closed, and made anew, whenever something below changes
	file    zfs.File      // nil until the step has one
	size    int64         // bytes written so far
	done    bool          // nothing more will be written
	readers int
}

func newStepLog() *stepLog { return &stepLog{changed: make(chan struct{})} }

// wake tells all readers to look again. The caller holds mu.
func (l *stepLog) wake() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// open gives the log its file, which holds size bytes already.
func (l *stepLog) open(file zfs.File, size int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.file, l.size = file, size
	l.wake()
}

// Write implements io.Writer. It is not called concurrently.
func (l *stepLog) Write(p []byte) (int, error) {
	n, err := l.file.Write(p)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.size += int64(n)
	l.wake()
	return n, err
}

// finish says that the log is whole. The last reader closes the file.
func (l *stepLog) finish() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.done = true
	l.wake()
	l.closeIfIdle()
}

// closeIfIdle closes the file when nobody will read it. The caller holds mu.
func (l *stepLog) closeIfIdle() {
	if l.done && l.readers == 0 {
		l.close()
	}
}

// close closes the file, if it is open. The caller holds mu.
func (l *stepLog) close() {
	if l.file != nil {
		l.file.Close()
		l.file = nil
	}
}

// drain finishes the log, waits until everyone has read it or d has passed,
// and closes the file in either case: its dataset is about to go. The readers
// are of this process, so the time is real, whatever clock the engine has.
func (l *stepLog) drain(d time.Duration) {
	l.finish()
	late := time.NewTimer(d)
	defer late.Stop()
	for {
		l.mu.Lock()
		file, changed := l.file, l.changed
		l.mu.Unlock()
		if file == nil {
			return
		}
		select {
		case <-changed:
		case <-late.C:
			l.mu.Lock()
			defer l.mu.Unlock()
			l.close()
			l.wake()
			return
		}
	}
}

// errLogCut is what a reader gets that was too slow for a log that had to go.
var errLogCut = errors.New("the end of the log was not read in time")

// join counts one who will call tail, once: the log is not closed before that.
func (l *stepLog) join() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.readers++
}

// tail calls opened when the log has a file, and passes it to emit from its
// beginning, until it is whole or ctx ends.
func (l *stepLog) tail(ctx context.Context, opened func(), emit func([]byte)) error {
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.readers--
		l.closeIfIdle()
		l.wake()
	}()
	var buf []byte
	var off int64
	for {
		l.mu.Lock()
		file, size, done, changed := l.file, l.size, l.done, l.changed
		l.mu.Unlock()
		if done && file == nil && off < size {
			return errLogCut
		}
		if file != nil && opened != nil {
			opened()
			opened = nil
		}
		for file != nil && off < size {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			want := min(tailSize, size-off)
			if int64(len(buf)) < want {
				buf = make([]byte, want)
			}
			n, err := file.ReadAt(buf[:want], off)
			off += int64(n)
			if n > 0 {
				emit(buf[:n])
			}
			if err != nil && !errors.Is(err, io.EOF) {
				if errors.Is(err, os.ErrClosed) {
					err = errLogCut
				}
				return err
			}
			if n == 0 {
				return io.ErrUnexpectedEOF
			}
		}
		if done {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
