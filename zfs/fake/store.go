package fake

import "obuilder.org/obuilder/zfs"

// A store is where a machine keeps its state besides memory: nowhere, or in a
// directory. It is told of every change, with the machine locked.
type store interface {
	created(*dataset)
	cloned(*dataset, *snapshot)
	freeze([]newSnapshot) *failure // these are about to be taken
	snapped(*snapshot)
	rolledBack(*snapshot) *failure // this is about to be done
	changed(*dataset)              // its name, its properties, its place or its origin
	moved(*snapshot)               // its name, its dataset, its being deferred, its holds or its settings
	destroyed(*dataset)
	dropped(*snapshot)
	ready() *failure     // why no command can be run
	commit() *failure    // the end of a command
	takeTrash() []string // what is to be removed then
	status(*pool) (zfs.PoolStatus, error)
}

// memory is the store of a machine that is in memory only.
type memory struct{}

func (memory) created(*dataset)              {}
func (memory) cloned(*dataset, *snapshot)    {}
func (memory) freeze([]newSnapshot) *failure { return nil }
func (memory) snapped(*snapshot)             {}
func (memory) rolledBack(*snapshot) *failure { return nil }
func (memory) changed(*dataset)              {}
func (memory) moved(*snapshot)               {}
func (memory) destroyed(*dataset)            {}
func (memory) dropped(*snapshot)             {}
func (memory) ready() *failure               { return nil }
func (memory) commit() *failure              { return nil }
func (memory) takeTrash() []string           { return nil }

func (memory) status(p *pool) (zfs.PoolStatus, error) {
	used := min(p.allocated()+poolOverhead, p.size)
	return zfs.PoolStatus{Size: p.size, Allocated: used, Free: p.size - used,
		Capacity: int(used * 100 / max(p.size, 1)), Health: "ONLINE"}, nil
}

// end ends a command that may have changed something.
func (m *Machine) end(f *failure) *failure {
	m.txg++
	if g := m.store.commit(); g != nil && f == nil {
		f = g
	}
	trash := m.store.takeTrash()
	m.mu.Unlock()
	for _, path := range trash {
		_ = removeTree(path) // what remains is swept when the store is opened
	}
	return f
}
