package fake

import (
	"fmt"
	"slices"
	"strings"

	"obuilder.org/obuilder/zfs"
)

// replicate does here what was done to what a package with -R is of since the
// snapshot that it is the difference to: it renames and promotes and, with -F,
// destroys. It adds to renamed what it has renamed, and reports whether
// something could not be done. It is recv_incremental_replication, with names
// as they were when it began, as there.
func (x *reception) replicate(to string, renamed *[]string) (soft bool) {
	for passes := 0; ; passes++ {
		top := x.m.lookup(to)
		if top == nil {
			x.warn("cannot open '%s': dataset does not exist", to)
			return true
		}
		p := replication{x: x, to: to, renamed: renamed, deleted: make(map[uint64]bool)}
		g := gathering{m: x.m, from: x.list.from, recursive: true, replicate: true, props: true, warn: x.warn}
		g.visit(top)
		p.local = indexOf(g.fss)
		for _, fs := range g.fss {
			if !p.filesystem(fs) {
				break
			}
		}
		if p.fatal || !p.again || !p.progress || passes > 2*len(g.fss)+8 {
			return p.fatal || p.again || p.failed
		}
		x.say("another pass:")
	}
}

type replication struct {
	x       *reception
	to      string
	renamed *[]string
	local   map[uint64]found
	deleted map[uint64]bool // guids of snapshots that are gone with what they were of

	again, progress, failed, fatal bool
}

// tried notes how something went.
func (p *replication) tried(ok bool) {
	p.failed = !ok
	if ok {
		p.progress = true
	} else {
		p.again = true
	}
}

// filesystem does it for one. It gives false when the pass is over.
func (p *replication) filesystem(fs *packageFS) bool {
	x := p.x
	var sent *packageFS
	for _, s := range fs.snaps {
		if f, ok := x.index[s.guid]; ok {
			sent = f.fs
			break
		}
	}
	if sent != nil && fs.origin != sent.origin {
		switch p.createdBefore(sent.origin, fs.origin) {
		case 1:
			p.tried(p.promote(fs))
		case -1:
			p.fatal = true
			return false
		}
		p.again = true // its snapshots are others now
		return true
	}
	fromGUID := uint64(0)
	for _, s := range fs.snaps {
		f, ok := x.index[s.guid]
		if !ok {
			if x.Force {
				p.tried(p.destroy(fs.name+"@"+s.name, len(fs.name)+1))
				p.deleted[s.guid] = true
			}
			continue
		}
		sent = f.fs
		if here := x.m.lookup(fs.name); here != nil && len(f.snap.props) > 0 {
			if i := here.snapIndex(s.name); i >= 0 {
				x.m.receiveSnapProps(here.snaps[i], f.snap.props)
			}
		}
		if s.name != f.snap.name {
			p.tried(p.rename(fs.name+"@"+s.name, fs.name+"@"+f.snap.name, len(fs.name)+1, nil))
		}
		if f.snap.name == x.list.from {
			fromGUID = s.guid
		}
	}
	if sent == nil {
		if x.Force {
			p.tried(p.destroy(fs.name, len(p.to)+1))
			p.deleted[fs.parentFrom] = true
		}
		return true
	}
	if fromGUID == 0 {
		x.say("local fs %s does not have fromsnap (%s in stream); must have been deleted locally; ignoring", fs.name, x.list.from)
		return true
	}
	parents := sent.parentFrom != 0 && fs.parentFrom != 0 && sent.parentFrom != fs.parentFrom
	if parents && p.deleted[fs.parentFrom] {
		p.progress, p.again = true, true
		return false
	}
	a, b := strings.LastIndexByte(fs.name, '/'), strings.LastIndexByte(sent.name, '/')
	if !parents && (!x.Prefix && p.to == fs.name || a < 0 || b < 0 || fs.name[a:] == sent.name[b:]) {
		return true
	}
	try := ""
	if parent, ok := p.local[sent.parentFrom]; ok && sent.parentFrom != 0 && b >= 0 {
		try = parent.fs.name + sent.name[b:]
	} else {
		x.say("local fs %s new parent not found", fs.name)
	}
	p.tried(p.rename(fs.name, try, len(p.to)+1, p.renamed))
	return true
}

// createdBefore compares two snapshots that are here: 1 if the second one is
// older or there is no first one, 0 if there is no second one, -1 otherwise.
func (p *replication) createdBefore(a, b uint64) int {
	switch {
	case b == 0:
		return 0
	case a == 0:
		return 1
	}
	s, t := p.snap(a), p.snap(b)
	switch {
	case s == nil || t == nil || s.txg < t.txg:
		return -1
	case s.txg > t.txg:
		return 1
	}
	return 0
}

func (p *replication) snap(guid uint64) *snapshot {
	f, ok := p.local[guid]
	if !ok {
		return nil
	}
	d := p.x.m.lookup(f.fs.name)
	if d == nil || d.snapIndex(f.snap.name) < 0 {
		return nil
	}
	return d.snaps[d.snapIndex(f.snap.name)]
}

func (p *replication) promote(fs *packageFS) bool {
	p.x.say("promoting %s", fs.name)
	name, err := zfs.ParseDataset(fs.name)
	return err == nil && p.x.m.promote(name) == nil
}

// unmounted unmounts d with all below it, does something and mounts what is
// still there.
func (p *replication) unmounted(d *dataset, do func() bool) bool {
	moved := affectedBy(d, true, nil)
	if f := p.x.m.unmountAll(moved, p.x.Force); f != nil {
		p.x.warn("%s", f.Stderr)
		return false
	}
	ok := do()
	moved = slices.DeleteFunc(moved, func(a affected) bool { return p.x.m.lookup(a.d.fullName()) != a.d })
	if f := p.x.m.mountAll(moved, false); f != nil {
		p.x.warn("%s", f.Stderr)
	}
	return ok
}

// open finds a dataset, or the snapshot of one, or says that it is not there.
func (p *replication) open(name string) (*dataset, *snapshot, bool) {
	ds, tag, snap := strings.Cut(name, "@")
	d := p.x.m.lookup(ds)
	if d == nil || snap && d.snapIndex(tag) < 0 {
		p.x.warn("cannot open '%s': dataset does not exist", name)
		return nil, nil, false
	}
	if snap {
		return d, d.snaps[d.snapIndex(tag)], true
	}
	return d, nil, true
}

// madeUpPID is in names that are made up, where zfs has its process id.
const madeUpPID = 1000

// rename is recv_rename: what cannot have the name that it is to have, which is
// empty if there is none yet, gets one that is made up.
func (p *replication) rename(name, to string, base int, renamed *[]string) bool {
	x := p.x
	d, s, ok := p.open(name)
	if !ok {
		return false
	}
	do := func() bool {
		if to != "" {
			x.say("attempting rename %s to %s", name, to)
			if p.move(d, s, name, to) {
				x.say("success")
				if renamed != nil {
					*renamed = append(*renamed, to)
				}
				return true
			}
		}
		if strings.HasPrefix(name[min(base, len(name)):], "recv-") {
			x.say("failed (0)")
			return false
		}
		x.seq++
		made := fmt.Sprintf("%srecv-%d-%d", name[:base], madeUpPID, x.seq)
		x.say("failed - trying rename %s to %s", name, made)
		if !p.move(d, s, name, made) {
			x.say("failed (0) - will try again on next pass")
		} else if renamed != nil {
			*renamed = append(*renamed, made)
		}
		return false
	}
	if s != nil {
		return do()
	}
	return p.unmounted(d, do)
}

func (p *replication) move(d *dataset, s *snapshot, name, to string) bool {
	if s != nil {
		from, err := zfs.ParseSnapshot(name)
		target, err2 := zfs.ParseSnapshot(to)
		return err == nil && err2 == nil && p.x.m.renameSnap(from, target, false) == nil
	}
	from, err := zfs.ParseDataset(name)
	target, err2 := zfs.ParseDataset(to)
	if err != nil || err2 != nil {
		return false
	}
	_, f := p.x.m.rename(from, target, zfs.RenameOptions{NoRemount: true})
	return f == nil
}

// destroy is recv_destroy: what cannot be destroyed is renamed. A snapshot that
// is held, or has clones, goes later.
func (p *replication) destroy(name string, base int) bool {
	x := p.x
	d, s, ok := p.open(name)
	if !ok {
		return false
	}
	if s != nil {
		x.say("attempting destroy %s", name)
		if s.holds() > 0 || s.firstClone != nil {
			s.deferred = true
			x.say("success")
			return p.rename(name, "", base, nil)
		}
		if s.inUse(false) != nil {
			return p.rename(name, "", base, nil)
		}
		x.m.dropSnap(s)
		x.say("success")
		return true
	}
	tried := false
	return p.unmounted(d, func() bool {
		x.say("attempting destroy %s", name)
		tried = true
		if d.children.len() > 0 || len(d.snaps) > 0 || d.parent == nil {
			return false
		}
		x.m.dropDataset(d)
		x.say("success")
		return true
	}) || tried && p.rename(name, "", base, nil)
}
