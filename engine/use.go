package engine

import (
	"context"
	"sync"
)

// A useLock is held by many users or by one owner. Unlike a sync.RWMutex it
// can be waited for with a context. The zero value is free.
type useLock struct {
	mu      sync.Mutex
	users   int
	owned   bool
	changed chan struct{} // closed at the next release; nil when nobody waits
}

// share waits until nobody owns the lock, and uses it until the function that
// it returns is called.
func (l *useLock) share(ctx context.Context) (release func(), err error) {
	return l.acquire(ctx, func() bool {
		if l.owned {
			return false
		}
		l.users++
		return true
	}, func() { l.users-- })
}

// own waits until nobody uses or owns the lock.
func (l *useLock) own(ctx context.Context) (release func(), err error) {
	return l.acquire(ctx, func() bool {
		if l.owned || l.users > 0 {
			return false
		}
		l.owned = true
		return true
	}, func() { l.owned = false })
}

func (l *useLock) acquire(ctx context.Context, take func() bool, give func()) (func(), error) {
	for {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		l.mu.Lock()
		if take() {
			l.mu.Unlock()
			return func() {
				l.mu.Lock()
				defer l.mu.Unlock()
				give()
				if l.changed != nil {
					close(l.changed)
					l.changed = nil
				}
			}, nil
		}
		if l.changed == nil {
			l.changed = make(chan struct{})
		}
		changed := l.changed
		l.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}
