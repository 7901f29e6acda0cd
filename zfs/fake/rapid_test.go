package fake

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"obuilder.org/obuilder/zfs"
)

// A modelFS is a file system as the manual pages describe it, in the simplest
// way: names, and what they refer to by name.
type modelFS struct {
	props  map[string]string
	origin *modelSnap
	snaps  []*modelSnap // oldest first
}

type modelSnap struct{ name string }

type model map[string]*modelFS

func (m model) ownerOf(s *modelSnap) string {
	for name, d := range m {
		if slices.Contains(d.snaps, s) {
			return name
		}
	}
	return ""
}

func (m model) snap(name string) *modelSnap {
	ds, tag, _ := strings.Cut(name, "@")
	if d := m[ds]; d != nil {
		for _, s := range d.snaps {
			if s.name == tag {
				return s
			}
		}
	}
	return nil
}

func (m model) clones(s *modelSnap) (list []string) {
	for name, d := range m {
		if d.origin == s {
			list = append(list, name)
		}
	}
	return list
}

func parentName(name string) string { return name[:max(strings.LastIndexByte(name, '/'), 0)] }

func (m model) below(name string) (list []string) {
	for other := range m {
		if other == name || strings.HasPrefix(other, name+"/") {
			list = append(list, other)
		}
	}
	return list
}

// dependents gives all that has to go when the file systems of list go.
func (m model) dependents(list []string) []string {
	all := map[string]bool{}
	for len(list) > 0 {
		name := list[0]
		list = list[1:]
		if all[name] {
			continue
		}
		all[name] = true
		list = append(list, m.below(name)...)
		for _, s := range m[name].snaps {
			list = append(list, m.clones(s)...)
		}
	}
	return slices.Collect(maps.Keys(all))
}

// cyclic reports whether something below or dependent on name depends on
// itself: a file system can be a clone of a snapshot of its own child.
func (m model) cyclic(name string) bool {
	done := map[string]bool{}
	var visit func(name string, above []string) bool
	visit = func(name string, above []string) bool {
		if slices.Contains(above, name) {
			return true
		}
		if done[name] {
			return false
		}
		above = append(slices.Clip(above), name)
		next := slices.DeleteFunc(m.below(name), func(x string) bool { return parentName(x) != name })
		for _, s := range m[name].snaps {
			next = append(next, m.clones(s)...)
		}
		for _, x := range next {
			if visit(x, above) {
				return true
			}
		}
		done[name] = true
		return false
	}
	return visit(name, nil)
}

func (m model) effective(name, prop string) (value, source string) {
	for at := name; at != ""; at = parentName(at) {
		if v, ok := m[at].props[prop]; ok {
			if at == name {
				return v, "local"
			}
			return v, "inherited from " + at
		}
	}
	if prop == "atime" {
		return "on", "default"
	}
	return "-", "-"
}

// TestModel compares the machine with the model: which names there are, what
// they are clones of, their properties, and what is refused.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		machine := New(Pool("tank", 64<<30, "none"))
		m := model{"tank": {props: map[string]string{}}}
		paths := []string{"tank", "tank/a", "tank/b", "tank/a/x", "tank/b/x", "tank/a/x/z", "tank/ab"}
		name := func(t *rapid.T) string { return rapid.SampledFrom(paths).Draw(t, "name") }
		snapName := func(t *rapid.T) string {
			return name(t) + "@" + rapid.SampledFrom([]string{"1", "2", "3"}).Draw(t, "tag")
		}
		check := func(t *rapid.T, what string, err error, want bool) {
			if (err == nil) != want {
				t.Fatalf("%s: %v; allowed by the model: %v", what, err, want)
			}
		}
		remove := func(list []string) {
			for _, n := range list {
				delete(m, n)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"create": func(t *rapid.T) {
				n := name(t)
				ok := m[n] == nil && m[parentName(n)] != nil
				check(t, "create "+n, machine.Create(ctx, ds(n), zfs.CreateOptions{}), ok)
				if ok {
					m[n] = &modelFS{props: map[string]string{}}
				}
			},
			"clone": func(t *rapid.T) {
				s, n := snapName(t), name(t)
				ok := m[n] == nil && m[parentName(n)] != nil && m.snap(s) != nil
				check(t, "clone "+s+" "+n, machine.Clone(ctx, snap(s), ds(n), prop("a:b", "clone")), ok)
				if ok {
					m[n] = &modelFS{props: map[string]string{"a:b": "clone"}, origin: m.snap(s)}
				}
			},
			"snapshot": func(t *rapid.T) {
				s, r := snapName(t), rapid.Bool().Draw(t, "-r")
				n, tag, _ := strings.Cut(s, "@")
				list := []string{n}
				if r {
					list = m.below(n)
				}
				ok := m[n] != nil
				for _, x := range list {
					ok = ok && m.snap(x+"@"+tag) == nil
				}
				check(t, "snapshot "+s, machine.Snapshot(ctx, r, snap(s)), ok)
				for _, x := range list {
					if ok {
						m[x].snaps = append(m[x].snaps, &modelSnap{tag})
					}
				}
			},
			"destroy": func(t *rapid.T) {
				n := name(t)
				mode := zfs.DestroyMode{Recursive: rapid.Bool().Draw(t, "-r"), Dependents: rapid.Bool().Draw(t, "-R")}
				if n == "tank" || m[n] != nil && m.cyclic(n) {
					t.Skip() // the latter is refused or stops half done
				}
				all := []string{}
				ok := m[n] != nil
				if ok {
					below := m.below(n)
					all = m.dependents([]string{n})
					ok = mode.Dependents || len(all) == 1 && len(m[n].snaps) == 0 || mode.Recursive && len(all) == len(below)
				}
				check(t, fmt.Sprint("destroy ", mode, n), machine.Destroy(ctx, ds(n), mode), ok)
				if ok {
					remove(all)
				}
			},
			"destroy snapshot": func(t *rapid.T) {
				s := snapName(t)
				mode := zfs.DestroyMode{Recursive: rapid.Bool().Draw(t, "-r"), Dependents: rapid.Bool().Draw(t, "-R")}
				n, tag, _ := strings.Cut(s, "@")
				list := []string{n}
				if mode.Recursive || mode.Dependents {
					list = m.below(n)
				}
				var snaps []*modelSnap
				var clones []string
				for _, x := range list {
					if found := m.snap(x + "@" + tag); found != nil {
						snaps = append(snaps, found)
						clones = append(clones, m.clones(found)...)
					}
				}
				for _, c := range clones {
					if m.cyclic(c) {
						t.Skip()
					}
				}
				ok := len(snaps) > 0 && (len(clones) == 0 || mode.Dependents)
				check(t, fmt.Sprint("destroy ", mode, s), machine.Destroy(ctx, snap(s), mode), ok)
				if ok {
					remove(m.dependents(clones))
					for _, d := range m {
						d.snaps = slices.DeleteFunc(d.snaps, func(s *modelSnap) bool { return slices.Contains(snaps, s) })
					}
				}
			},
			"set": func(t *rapid.T) {
				n, p, v := name(t), rapid.SampledFrom([]string{"a:b", "atime"}).Draw(t, "property"), rapid.SampledFrom([]string{"on", "off"}).Draw(t, "value")
				check(t, "set "+n, machine.Set(ctx, ds(n), prop(p, v)), m[n] != nil)
				if m[n] != nil {
					m[n].props[p] = v
				}
			},
			"inherit": func(t *rapid.T) {
				n, p, r := name(t), rapid.SampledFrom([]string{"a:b", "atime"}).Draw(t, "property"), rapid.Bool().Draw(t, "-r")
				check(t, "inherit "+n, machine.Inherit(ctx, ds(n), p, r), m[n] != nil)
				if m[n] != nil {
					delete(m[n].props, p)
					for _, x := range m.below(n) {
						if r {
							delete(m[x].props, p)
						}
					}
				}
			},
			"rename": func(t *rapid.T) {
				from, to := name(t), name(t)
				ok := m[from] != nil && (from == to || m[to] == nil && m[parentName(to)] != nil &&
					from != "tank" && to != "tank" && !strings.HasPrefix(to, from+"/"))
				if from == "tank" {
					t.Skip()
				}
				check(t, "rename "+from+" "+to, machine.Rename(ctx, ds(from), ds(to), zfs.RenameOptions{}), ok)
				if ok && from != to {
					for _, x := range m.below(from) {
						m[to+x[len(from):]] = m[x]
						delete(m, x)
					}
				}
			},
			"promote": func(t *rapid.T) {
				n := name(t)
				d := m[n]
				ok := d != nil && d.origin != nil
				var from *modelFS
				moving := 0
				if ok {
					from = m[m.ownerOf(d.origin)]
					moving = slices.Index(from.snaps, d.origin) + 1
					for _, s := range from.snaps[:moving] {
						ok = ok && m.snap(n+"@"+s.name) == nil
					}
				}
				check(t, "promote "+n, machine.Promote(ctx, ds(n)), ok)
				if ok {
					d.snaps = slices.Concat(from.snaps[:moving], d.snaps)
					from.snaps = slices.Clone(from.snaps[moving:])
					d.origin, from.origin = from.origin, d.origin
				}
			},
			"": func(t *rapid.T) {
				want := map[string]string{}
				for n, d := range m {
					origin := "-"
					if d.origin != nil {
						origin = m.ownerOf(d.origin) + "@" + d.origin.name
					}
					value, source := m.effective(n, "a:b")
					atime, atimeSource := m.effective(n, "atime")
					want[n] = strings.Join([]string{origin, value, source, atime, atimeSource}, " ")
					for _, s := range d.snaps {
						clones := m.clones(s)
						slices.Sort(clones)
						want[n+"@"+s.name] = strings.Join(clones, ",")
					}
				}
				got := map[string]string{}
				rows, err := machine.List(ctx, zfs.ListOptions{Recursive: true, Types: []zfs.Type{zfs.Filesystems, zfs.Snapshots}, Properties: []string{"origin", "clones"}})
				if err != nil {
					t.Fatal(err)
				}
				for _, row := range rows {
					if strings.Contains(row.Name, "@") {
						clones := strings.Split(strings.Trim(row.Values[1], "-"), ",")
						slices.Sort(clones)
						got[row.Name] = strings.Join(clones, ",")
						continue
					}
					v, err := machine.Get(ctx, ds(row.Name), "a:b", "atime")
					if err != nil {
						t.Fatal(err)
					}
					got[row.Name] = strings.Join([]string{row.Values[0], v[0].Value, v[0].Source, v[1].Value, v[1].Source}, " ")
				}
				if !maps.Equal(got, want) {
					t.Fatalf("got  %v\nwant %v", got, want)
				}
			},
		})
	})
}
