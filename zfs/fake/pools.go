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
// for people to see. Its root file system has properties, of which mountpoint
// says where it is.
func (m *Machine) CreatePool(ctx context.Context, name string, size uint64, devices []string, props ...zfs.Property) error {
	argv := append([]string{"zpool", "create", name}, devices...)
	return m.change(ctx, argv, func() *failure {
		settings, f := m.parseAll("cannot create '"+name+"'", props, nil)
		if f != nil {
			return f
		}
		if m.lookup(name) != nil {
			return failf(zfs.Exists, "cannot create '%s': pool already exists", name)
		}
		p := &pool{size: size, devices: slices.Clone(devices)}
		if m.dir != nil {
			p.free = m.dir.free
		}
		root := m.newDataset(nil, name)
		root.pool, p.root = p, root
		for _, s := range settings {
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

// SetPool is zpool set property=value name. In a directory it is not kept.
func (m *Machine) SetPool(ctx context.Context, name, property, value string) error {
	return m.change(ctx, []string{"zpool", "set", property + "=" + value, name}, func() *failure {
		i := slices.IndexFunc(m.pools, func(p *pool) bool { return p.root.name == name })
		if i < 0 {
			return failf(zfs.NotFound, "cannot open '%s': no such pool", name)
		}
		if f := checkPoolSetting(property, value); f != nil {
			if f.Kind != zfs.Unsupported {
				f.Stderr = "cannot set property for '" + name + "': " + f.Stderr
			}
			return f
		}
		if m.dir != nil {
			return failf(zfs.Unsupported, notModelled+"properties of pools in a directory")
		}
		p := m.pools[i]
		if p.settings == nil {
			p.settings = make(map[string]string)
		}
		p.settings[property] = value
		return nil
	})
}

// checkPoolSetting says what is wrong with the value of a property of a pool.
func checkPoolSetting(property, value string) *failure {
	choices, ok := poolChoices[property]
	switch {
	case !ok:
		return failf(zfs.Usage, "invalid property '%s'", property)
	case property == "comment" && len(value) > 32:
		return failf(zfs.Usage, "comment must not exceed 32 characters")
	case property == "comment", oneOf(value, choices):
		return nil
	case strings.Contains(choices, " | "):
		list := strings.Split(choices, " | ")
		if !slices.Contains(list, "panic") {
			list = []string{"on", "off"}
		}
		return failf(zfs.Usage, "'%s' must be one of '%s'", property, strings.Join(list, " | "))
	}
	return failf(zfs.Unsupported, "%s%s=%s", notModelled, property, value)
}

// PoolSetting gives the value that a property of a pool was set to; ok is false
// when it was not.
func (m *Machine) PoolSetting(name, property string) (value string, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.pools {
		if p.root.name == name {
			value, ok = p.settings[property]
			return value, ok && value != ""
		}
	}
	return "", false
}
