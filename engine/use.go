package engine

import (
	"context"
	"sync"
)

// The uses of a store say which results are needed, and which are about to go:
// who needs results shares them, who destroys some claims them, who destroys
// all owns the store. A result is never shared and claimed at once. Unlike a
// sync.RWMutex it can be waited for with a context. The zero value is free.
//
// Nobody waits for ever: who shares a result has it for a while only; new
// shares wait for a claim that waits, so that it comes to its turn; and a
// claim that is held waits for none who waits for it, because whoever shares a
// result shares those as well that it is built on.
type uses struct {
	mu      sync.Mutex
	shares  int
	held    map[string]int  // how many shares hold a result
	wanted  map[string]int  // how many claims of a result are waited for
	going   map[string]bool // results that are claimed
	owned   bool
	owners  int             // how many own the store or wait to
	touched map[string]bool // results that were held or claimed since watch; nil while nobody watches
	all     bool            // the store was owned since
	changed chan struct{}   // closed when something becomes free; nil when nobody waits
}

// A share holds results for someone who needs them.
type share struct {
	uses *uses
	ids  []string
}

// share waits until none of ids is about to go and holds them: they stay, and
// stay as they are, there or not, but for what the builds do that hold them.
func (u *uses) share(ctx context.Context, ids ...string) (*share, error) {
	s := &share{uses: u}
	err := u.wait(ctx, func() bool {
		if u.owners > 0 {
			return false
		}
		for _, id := range ids {
			if u.wanted[id] > 0 || u.going[id] {
				return false
			}
		}
		u.shares++
		s.hold(ids)
		return true
	})
	return s, err
}

// add holds more results. A claim of them that is still waited for waits longer:
// it may wait for this share.
func (s *share) add(ctx context.Context, ids ...string) error {
	u := s.uses
	return u.wait(ctx, func() bool {
		for _, id := range ids {
			if u.going[id] {
				return false
			}
		}
		s.hold(ids)
		return true
	})
}

// hold notes that ids are held. The caller holds uses.mu.
func (s *share) hold(ids []string) {
	if s.uses.held == nil {
		s.uses.held = map[string]int{}
	}
	for _, id := range ids {
		s.uses.held[id]++
		s.uses.touch(id)
	}
	s.ids = append(s.ids, ids...)
}

// release ends a share.
func (s *share) release() {
	u := s.uses
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, id := range s.ids {
		if u.held[id]--; u.held[id] == 0 {
			delete(u.held, id)
		}
	}
	s.ids = nil
	u.shares--
	u.wake()
}

// claim waits until nobody holds or claims a result, and keeps everybody from
// it until the function that it returns is called.
func (u *uses) claim(ctx context.Context, id string) (release func(), err error) {
	u.mu.Lock()
	if u.wanted == nil {
		u.wanted = map[string]int{}
	}
	u.wanted[id]++
	u.mu.Unlock()
	err = u.wait(ctx, func() bool {
		if u.owned || u.held[id] > 0 || u.going[id] {
			return false
		}
		u.take(id)
		return true
	})
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.wanted[id]--; u.wanted[id] == 0 {
		delete(u.wanted, id)
	}
	u.wake()
	if err != nil {
		return nil, err
	}
	return func() { u.yield(id) }, nil
}

// tryClaim claims a result that nobody holds, claims, or has held or claimed
// since watch was called; ok says whether that is so.
func (u *uses) tryClaim(id string) (release func(), ok bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.owners > 0 || u.all || u.held[id] > 0 || u.going[id] || u.wanted[id] > 0 || u.touched[id] {
		return nil, false
	}
	u.take(id)
	return func() { u.yield(id) }, true
}

// take claims a result. The caller holds mu.
func (u *uses) take(id string) {
	if u.going == nil {
		u.going = map[string]bool{}
	}
	u.going[id] = true
	u.touch(id)
}

func (u *uses) yield(id string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.going, id)
	u.wake()
}

// own waits until nobody shares or claims anything, and owns all.
func (u *uses) own(ctx context.Context) (release func(), err error) {
	u.mu.Lock()
	u.owners++
	u.mu.Unlock()
	leave := func(owned bool) {
		u.mu.Lock()
		defer u.mu.Unlock()
		u.owners--
		u.owned = u.owned && !owned
		u.wake()
	}
	err = u.wait(ctx, func() bool {
		if u.owned || u.shares > 0 || len(u.going) > 0 {
			return false
		}
		u.owned, u.all = true, true
		return true
	})
	if err != nil {
		leave(false)
		return nil, err
	}
	return func() { leave(true) }, nil
}

// watch begins to note which results are used, those that are held now among
// them, and gives what tells so of one. There is one watch at a time, until
// done is called.
func (u *uses) watch() (touched func(id string) bool, done func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.touched, u.all = map[string]bool{}, u.owners > 0
	for id := range u.held {
		u.touched[id] = true
	}
	for id := range u.going {
		u.touched[id] = true
	}
	touched = func(id string) bool {
		u.mu.Lock()
		defer u.mu.Unlock()
		return u.all || u.touched[id] || u.wanted[id] > 0
	}
	return touched, func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		u.touched = nil
	}
}

// touch notes a use for who watches. The caller holds mu.
func (u *uses) touch(id string) {
	if u.touched != nil {
		u.touched[id] = true
	}
}

// wake has everybody who waits look again. The caller holds mu.
func (u *uses) wake() {
	if u.changed != nil {
		close(u.changed)
		u.changed = nil
	}
}

// wait waits until take, called with mu held, has taken what it is for.
func (u *uses) wait(ctx context.Context, take func() bool) error {
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		u.mu.Lock()
		if take() {
			u.mu.Unlock()
			return nil
		}
		if u.changed == nil {
			u.changed = make(chan struct{})
		}
		changed := u.changed
		u.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}
