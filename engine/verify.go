package engine

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"obuilder.org/obuilder/zfs"
)

// A result is used only when it is what its id says: cloned, with all its
// children, from the snapshots of the result that it is built on, or of its
// base image as that is now. The property origin tells: it is the name that the
// snapshot has now (zfsprops(7)), and a snapshot that something was cloned from
// can be renamed, and can be destroyed together with its clones only. So a
// base image that was rebuilt under its old name, in whichever way, leaves
// results whose origins are other names, or whose children are gone, and a
// result that was replaced leaves such as were built on it. What every job
// needs to know of that comes with the one listing that tells it which of its
// steps are in the store. Only that listing is sure to see what is done to an
// image while the engine is open.

// lookProperties are what a look at datasets asks for.
var lookProperties = []string{"origin", "mountpoint", "mounted", "guid", "createtxg", "creation"}

// The columns of lookProperties.
const (
	colOrigin = iota
	colMountpoint
	colMounted
	colGUID
	colCreatetxg
	colCreation
)

// A look is what was listed of a store.
type look struct {
	rows     map[string][]string // by the names of datasets and snapshots
	children map[string][]string // names of the datasets below one, without its own
}

func newLook() *look { return &look{map[string][]string{}, map[string][]string{}} }

func (l *look) add(rows []zfs.Row) {
	for _, row := range rows {
		if _, twice := l.rows[row.Name]; twice {
			continue
		}
		l.rows[row.Name] = row.Values
		if i := strings.LastIndexByte(row.Name, '/'); i >= 0 && !strings.Contains(row.Name, "@") {
			l.children[row.Name[:i]] = append(l.children[row.Name[:i]], row.Name[i+1:])
		}
	}
}

func (l *look) has(name zfs.Name) bool { return l.rows[name.String()] != nil }

func (l *look) complete(ds zfs.Dataset) bool { return l.has(ds.MustSnapshot(Snap)) }

func (l *look) value(ds zfs.Dataset, column int) string {
	if row := l.rows[ds.String()]; row != nil {
		return row[column]
	}
	return ""
}

// number gives a value that is a number; 0 when it is none.
func (l *look) number(ds zfs.Dataset, column int) uint64 {
	n, err := strconv.ParseUint(l.value(ds, column), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// notFrom says why the children of ds are not clones of those of src, complete
// as ds is; "" when they are.
func (l *look) notFrom(ds, src zfs.Dataset, children []string) string {
	for _, child := range children {
		row := l.rows[ds.String()+"/"+child]
		switch {
		case row == nil:
			return fmt.Sprintf("its %s is gone", child)
		case row[colOrigin] != src.String()+"/"+child+"@"+Snap:
			return fmt.Sprintf("its %s is a clone of %s, not of %s", child, row[colOrigin], src.String()+"/"+child+"@"+Snap)
		case l.rows[ds.String()+"/"+child+"@"+Snap] == nil:
			return fmt.Sprintf("its %s has no snapshot", child)
		}
	}
	return ""
}

// staleBase says why the complete result of a base image is not to be used; ""
// when it is what the image is now.
func (e *Engine) staleBase(l *look, id, name string) string {
	ds := e.dataset(id)
	src, err := e.base.Child(name)
	if err != nil {
		return "" // no dataset has such a name: somebody has made the result by hand
	}
	if !l.has(src) {
		// Also of a result without children: they may have gone with the image.
		return fmt.Sprintf("the base image %s is gone", name)
	}
	children := l.children[src.String()]
	why := l.notFrom(ds, src, children)
	for _, child := range l.children[ds.String()] {
		if why == "" && !slices.Contains(children, child) {
			why = fmt.Sprintf("the image has no %s", child)
		}
	}
	// Of an image without children nothing was cloned: only when it was made
	// tells something.
	if why == "" && len(children) == 0 && l.number(src, colCreatetxg) > l.number(ds, colCreatetxg) {
		why = "it is older than the image"
	}
	if why != "" {
		return fmt.Sprintf("the base image %s was rebuilt: of its result, %s", name, why)
	}
	return ""
}

// staleStep says why the complete result of a step is not to be used; "" when it
// is a clone of base, which has these children.
func (e *Engine) staleStep(l *look, id, base string, children []string) string {
	ds, src := e.dataset(id), e.dataset(base)
	if origin := l.value(ds, colOrigin); origin != src.MustSnapshot(Snap).String() {
		return "it was built on a result that was replaced"
	}
	return l.notFrom(ds, src, children)
}

// A link is a result of a job with what it is to be a clone of.
type link struct {
	id       string
	base     string   // "" for a base
	image    string   // of a base
	children []string // that a step has
}

// links adds the links of a stage, and of those nested in it, whose ids are known:
// each after that of the result that it is built on.
func (st *stage) links(to []link) []link {
	for _, nested := range st.nested {
		to = nested.links(to)
	}
	to = append(to, link{id: st.id, image: st.from})
	for _, o := range st.ops {
		if o.id != "" {
			to = append(to, link{id: o.id, base: o.base, children: st.children})
		}
	}
	return to
}

// A verdict is what a look at the store says of the results of a job.
type verdict struct {
	valid   map[string]bool
	stale   map[string]string // why a result that is there is not to be used
	changed bool              // an image is not what it was when last listed
}

func newVerdict() *verdict {
	return &verdict{valid: map[string]bool{}, stale: map[string]string{}}
}

// verify finds out with one command which of the results of a job are there
// and may be used. What is known of steps already is not asked again, what is
// known of bases and their images always. A result whose base is not one of
// them must be built on one that may be used. The caller holds or claims them all.
func (e *Engine) verify(ctx context.Context, links []link) (*verdict, error) {
	v := newVerdict()
	var roots []zfs.Name
	asked := map[zfs.Dataset]bool{}
	ask := func(ds zfs.Dataset) {
		if !asked[ds] {
			asked[ds] = true
			roots = append(roots, ds)
		}
	}
	images := map[string]bool{}
	for _, l := range links {
		switch {
		case l.base != "" && e.isValid(l.id):
		case l.base == "":
			images[l.image] = true
			if src, err := e.base.Child(l.image); err == nil {
				ask(src)
			}
			fallthrough
		default:
			ask(e.dataset(l.id))
		}
	}
	seen := newLook()
	for batch := range slices.Chunk(roots, locateBatch) {
		rows, err := e.fs.List(ctx, zfs.ListOptions{Roots: batch, Recursive: true, Depth: 2,
			Types: []zfs.Type{zfs.Filesystems, zfs.Snapshots}, Properties: lookProperties})
		if err != nil && !zfs.IsKind(err, zfs.NotFound) {
			return nil, err
		}
		seen.add(rows)
	}
	v.changed = e.noteImages(seen, images)
	judged := map[string]bool{}
	for _, l := range links {
		e.judge(seen, l, v, !judged[l.base] && e.isValid(l.base))
		judged[l.id] = true
	}
	return v, nil
}

// judge adds to a verdict what is to be said of one result, of which the base
// may be known to be one that may be used.
func (e *Engine) judge(seen *look, l link, v *verdict, onValid bool) {
	ds := e.dataset(l.id)
	known := l.base != "" && e.isValid(l.id)
	if !known && !seen.complete(ds) {
		return
	}
	why := ""
	switch {
	case l.base == "":
		why = e.staleBase(seen, l.id, l.image)
	case !v.valid[l.base] && !onValid:
		why = "the result that it was built on is not there, or not to be used"
	case !known:
		why = e.staleStep(seen, l.id, l.base, l.children)
	}
	if why != "" {
		v.stale[l.id] = why
		return
	}
	v.valid[l.id] = true
	e.setValid(l.id, l.base)
	if l.base == "" {
		children := slices.Clone(seen.children[ds.String()])
		sortChildren(children)
		e.mu.Lock()
		defer e.mu.Unlock()
		e.children[l.id] = children
	}
}

// noteImages notes what was seen of images, and reports whether that is not
// what was known of them.
func (e *Engine) noteImages(seen *look, names map[string]bool) (changed bool) {
	now := e.imagesIn(seen)
	e.mu.Lock()
	defer e.mu.Unlock()
	for name := range names {
		was, is := e.images[name], now[name]
		switch {
		case is == nil:
			changed = changed || was != nil
			delete(e.images, name)
		case was == nil || was.identity != is.identity || was.mounted.Load() && !is.mounted.Load():
			changed = true
			e.images[name] = is
		}
	}
	return changed
}

// imagesIn gives the base images that were seen.
func (e *Engine) imagesIn(seen *look) map[string]*image {
	images := map[string]*image{}
	for _, name := range seen.children[e.base.String()] {
		ds := e.base.MustChild(name)
		im := &image{prepared: map[string]bool{}, children: slices.Clone(seen.children[ds.String()]), mountpoint: seen.value(ds, colMountpoint)}
		im.mounted.Store(seen.value(ds, colMounted) == "yes")
		sortChildren(im.children)
		identity := []string{im.mountpoint, seen.value(ds, colGUID)}
		for _, child := range im.children {
			snap := ds.MustChild(child).MustSnapshot(Snap)
			im.prepared[child] = seen.has(snap)
			guid := ""
			if im.prepared[child] {
				guid = seen.rows[snap.String()][colGUID]
			}
			identity = append(identity, child, guid)
		}
		im.identity = strings.Join(identity, " ")
		images[name] = im
	}
	return images
}

func (e *Engine) isValid(id string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	_, ok := e.valid[id]
	return ok
}

// setValid notes that a result is complete and was cloned from what it must
// have been: the result base, "" for a base image.
func (e *Engine) setValid(id, base string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.complete[id] = true
	e.valid[id] = base
}

// distrust forgets all that is known of a base and of what was built on it.
func (e *Engine) distrust(base string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	built := map[string][]string{}
	for id, parent := range e.valid {
		built[parent] = append(built[parent], id)
	}
	for gone := []string{base}; len(gone) > 0; {
		id := gone[len(gone)-1]
		gone = append(gone[:len(gone)-1], built[id]...)
		delete(e.complete, id)
		delete(e.valid, id)
	}
}
