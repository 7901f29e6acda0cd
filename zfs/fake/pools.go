package fake

import (
	"context"
	"slices"
	"strings"

	"obuilder.org/obuilder/zfs"
)

// Pools gives the names of the pools.
func (m *Machine) Pools() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var names []string
	for _, p := range m.pools {
		names = append(names, p.root.name)
	}
	slices.Sort(names)
	return names
}

// Devices gives the paths of what a pool is made of. A pool that was not made
// with [Machine.CreatePool] is on a device of its name.
func (m *Machine) Devices(pool string) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.pools {
		if p.root.name == pool {
			if p.devices == nil {
				return []string{"/dev/" + pool}
			}
			return slices.Clone(p.devices)
		}
	}
	return nil
}

// CreatePool is zpool create: a pool of so many bytes on devices, which are
// for people to see, with settings of its own. Its root file system has
// properties, of which mountpoint says where it is.
func (m *Machine) CreatePool(ctx context.Context, name string, size uint64, devices []string, settings []zfs.Property, props ...zfs.Property) error {
	argv := append([]string{"zpool", "create", name}, devices...)
	return m.change(ctx, argv, func() *failure {
		what := "cannot create '" + name + "'"
		p := &pool{size: size, devices: slices.Clone(devices)}
		for _, s := range settings {
			if f := m.setPool(p, what, s); f != nil {
				return f
			}
		}
		local, f := m.parseAll("cannot create", name, props, nil)
		if f != nil {
			return f
		}
		for _, s := range local {
			if n := s.number(); n > 0 && n < emptyFS {
				return failf(zfs.NoSpace, "%s: one or more devices is out of space", what)
			}
		}
		if m.lookup(name) != nil {
			return failf(zfs.Exists, "cannot create '%s': pool already exists", name)
		}
		if m.dir != nil {
			p.free = m.dir.free
		}
		root := m.newDataset(nil, name)
		root.pool, p.root = p, root
		for _, s := range local {
			root.setLocal(s.id, s.value)
		}
		m.pools = append(m.pools, p)
		root.refd, root.usedHead = emptyFS, emptyFS
		m.store.created(root)
		return m.mountNew(root)
	})
}

// DestroyPool is zpool destroy: everything in the pool is unmounted and gone.
func (m *Machine) DestroyPool(ctx context.Context, name string, force bool) error {
	return m.change(ctx, []string{"zpool", "destroy", name}, func() *failure {
		i := slices.IndexFunc(m.pools, func(p *pool) bool { return p.root.name == name })
		if i < 0 {
			return failf(zfs.NotFound, "cannot open '%s': no such pool", name)
		}
		list := affectedBy(m.pools[i].root, true, nil)
		if f := m.unmountAll(list, force); f != nil {
			f.Stderr += "\ncould not destroy '" + name + "': could not unmount datasets"
			return f
		}
		slices.SortFunc(list, func(a, b affected) int { return strings.Compare(b.path, a.path) })
		for _, a := range list {
			m.removeMountpoint(a.d)
		}
		for _, a := range list {
			for _, s := range a.d.snaps {
				m.store.dropped(s)
			}
			m.store.destroyed(a.d)
		}
		m.pools = slices.Delete(m.pools, i, i+1)
		return nil
	})
}

// poolChoices are the properties of pools that are modelled, with the values
// they have; the first is the default.
var poolChoices = map[string]string{
	"autoexpand": "off | on", "autoreplace": "off | on", "autotrim": "off | on", "delegation": "on | off",
	"listsnapshots": "off | on", "multihost": "off", "failmode": "wait | continue | panic", "comment": "",
	"altroot": "", "ashift": "0", "bootfs": "", "cachefile": "", "compatibility": "off", "version": "",
}

var poolReadOnly = []string{"size", "capacity", "health", "guid", "dedupratio", "free", "allocated",
	"expandsize", "freeing", "fragmentation", "leaked", "checkpoint", "load_guid"}

// SetPool is zpool set property=value name. In a directory it is not kept.
func (m *Machine) SetPool(ctx context.Context, name, property, value string) error {
	return m.change(ctx, []string{"zpool", "set", property + "=" + value, name}, func() *failure {
		i := slices.IndexFunc(m.pools, func(p *pool) bool { return p.root.name == name })
		if i < 0 {
			return failf(zfs.NotFound, "cannot open '%s': no such pool", name)
		}
		return m.setPool(m.pools[i], "cannot set property for '"+name+"'", zfs.Property{Name: property, Value: value})
	})
}

func (m *Machine) setPool(p *pool, what string, s zfs.Property) *failure {
	choices, ok := poolChoices[s.Name]
	values := strings.Split(choices, " | ")
	switch {
	case slices.Contains(poolReadOnly, s.Name):
		return failf(zfs.Permission, "%s: '%s' is readonly", what, s.Name)
	case !ok:
		return failf(zfs.Usage, "%s: invalid property '%s'", what, s.Name)
	case s.Name == "comment" && len(s.Value) > 32:
		return failf(zfs.Usage, "%s: comment must not exceed 32 characters", what)
	case s.Name == "comment", slices.Contains(values, s.Value):
	case len(values) == 2:
		return failf(zfs.Usage, "%s: '%s' must be one of 'on | off'", what, s.Name)
	case len(values) > 2:
		return failf(zfs.Usage, "%s: '%s' must be one of '%s'", what, s.Name, choices)
	default:
		return failf(zfs.Unsupported, "%s%s=%s", notModelled, s.Name, s.Value)
	}
	if p.settings == nil {
		p.settings = make(map[string]string)
	}
	if p.settings[s.Name] = s.Value; s.Name != "comment" && s.Value == values[0] {
		delete(p.settings, s.Name)
	}
	if p.root != nil {
		m.store.changed(p.root)
	}
	return nil
}

// PoolSetting gives the value that a property of a pool was set to; ok is false
// when it has its default.
func (m *Machine) PoolSetting(name, property string) (value string, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.pools {
		if p.root.name == name {
			value, ok = p.settings[property]
			return value, ok
		}
	}
	return "", false
}
