package fake

import (
	"io/fs"
	"slices"
)

// The contents of a file system are one ordered map, as in btrfs: under
// (object, "") the inode of an object, under (directory, name) the number of
// the object of that name. It is a B+ tree whose nodes say in which
// transaction they were made. Nodes made before the last snapshot are shared
// with it and never changed again: a writer copies them on its way down. So
// taking a snapshot, or a clone of one, is copying one pointer.

type key struct {
	obj  uint64
	name string
}

func (a *key) less(b *key) bool {
	if a.obj != b.obj {
		return a.obj < b.obj
	}
	return a.name < b.name
}

type item struct {
	key
	ino  *inode      // of an object
	obj  uint64      // of a name
	kind fs.FileMode // of what has the name: its type bits
}

const maxItems = 32 // in a node

// A node is a leaf, with items, or an inner node: kids[i] holds what is below
// keys[i], and kids[len(keys)] the rest.
type node struct {
	born  uint64
	items []item
	keys  []key
	kids  []*node
}

// A cow says which nodes a writer owns: those born after the transaction
// frozen. New ones are born in now.
type cow struct{ frozen, now uint64 }

func (c cow) own(n *node) *node {
	if n.born > c.frozen {
		return n
	}
	m := &node{born: c.now}
	if n.kids == nil {
		m.items = append(make([]item, 0, len(n.items)+2), n.items...)
	} else {
		m.keys = append(make([]key, 0, len(n.keys)+1), n.keys...)
		m.kids = append(make([]*node, 0, len(n.kids)+1), n.kids...)
	}
	return m
}

func (n *node) kid(k *key) int {
	lo, hi := 0, len(n.keys)
	for lo < hi {
		mid := (lo + hi) / 2
		if k.less(&n.keys[mid]) {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	return lo
}

func (n *node) find(k *key) (int, bool) {
	lo, hi := 0, len(n.items)
	for lo < hi {
		mid := (lo + hi) / 2
		if n.items[mid].less(k) {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo, lo < len(n.items) && n.items[lo].key == *k
}

// get gives the item of k, nil when there is none. n may be nil.
func (n *node) get(k key) *item {
	if n == nil {
		return nil
	}
	for n.kids != nil {
		n = n.kids[n.kid(&k)]
	}
	if i, ok := n.find(&k); ok {
		return &n.items[i]
	}
	return nil
}

// ascend calls f for every item from k on, in order, until it gives false.
func (n *node) ascend(k key, f func(*item) bool) bool {
	if n == nil {
		return true
	}
	if n.kids == nil {
		i, _ := n.find(&k)
		for ; i < len(n.items); i++ {
			if !f(&n.items[i]) {
				return false
			}
		}
		return true
	}
	for i := n.kid(&k); i < len(n.kids); i++ {
		if !n.kids[i].ascend(k, f) {
			return false
		}
	}
	return true
}

// put gives the tree n (which may be nil) with it added, or replaced.
func (c cow) put(n *node, it item) *node {
	if n == nil {
		return &node{born: c.now, items: append(make([]item, 0, 2), it)}
	}
	n, right, at := c.insert(n, it)
	if right == nil {
		return n
	}
	return &node{born: c.now, keys: []key{at}, kids: []*node{n, right}}
}

func (c cow) insert(n *node, it item) (left, right *node, at key) {
	n = c.own(n)
	if n.kids == nil {
		i, ok := n.find(&it.key)
		if ok {
			n.items[i] = it
			return n, nil, key{}
		}
		n.items = slices.Insert(n.items, i, it)
		if len(n.items) <= maxItems {
			return n, nil, key{}
		}
		half := len(n.items) / 2
		if i == len(n.items)-1 { // names often come in order: leave full nodes behind
			half = len(n.items) - 1
		}
		right = &node{born: c.now, items: slices.Clone(n.items[half:])}
		clear(n.items[half:])
		n.items = n.items[:half]
		return n, right, right.items[0].key
	}
	i := n.kid(&it.key)
	kid, split, at := c.insert(n.kids[i], it)
	n.kids[i] = kid
	if split == nil {
		return n, nil, key{}
	}
	n.keys = slices.Insert(n.keys, i, at)
	n.kids = slices.Insert(n.kids, i+1, split)
	if len(n.kids) <= maxItems {
		return n, nil, key{}
	}
	half := len(n.kids) / 2
	right = &node{born: c.now, keys: slices.Clone(n.keys[half:]), kids: slices.Clone(n.kids[half:])}
	at = n.keys[half-1]
	clear(n.kids[half:])
	n.keys, n.kids = n.keys[:half-1], n.kids[:half]
	return n, right, at
}

// del gives the tree without k, which is in it. Nodes are not merged, only
// dropped when they are empty.
func (c cow) del(n *node, k key) *node {
	n = c.own(n)
	if n.kids == nil {
		if i, ok := n.find(&k); ok {
			n.items = slices.Delete(n.items, i, i+1)
		}
		if len(n.items) == 0 {
			return nil
		}
		return n
	}
	i := n.kid(&k)
	if kid := c.del(n.kids[i], k); kid != nil {
		n.kids[i] = kid
		return n
	}
	n.kids = slices.Delete(n.kids, i, i+1)
	if len(n.kids) == 1 {
		return n.kids[0]
	}
	n.keys = slices.Delete(n.keys, max(i-1, 0), max(i-1, 0)+1)
	return n
}
