package main

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"strings"

	"obuilder.org/obuilder/zfs/zfstest/session"
)

// A generator makes up commands, looking at the state that those before have
// left behind: what is there is named more often than what is not.
type generator struct {
	*rand.Rand
	look func(line string) string // what a command prints, on the fake

	ahead []string // commands that follow from those before

	sets  []set
	snaps []string
}

// A set is a file system.
type set struct {
	name, at string // "" where it is not mounted
}

func (g *generator) observe() {
	g.sets, g.snaps = nil, nil
	for line := range strings.Lines(g.look("zfs list -t all -Ho type,name,mounted,mountpoint")) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		switch {
		case len(f) != 4:
		case f[0] == "snapshot":
			g.snaps = append(g.snaps, f[1])
		case f[2] == "yes":
			g.sets = append(g.sets, set{f[1], f[3]})
		default:
			g.sets = append(g.sets, set{name: f[1]})
		}
	}
}

// next gives the next command.
func (g *generator) next() string {
	if len(g.ahead) == 0 {
		g.observe()
		n := g.IntN(weights)
		for _, k := range kinds {
			if n -= k.weight; n < 0 {
				g.ahead = k.make(g)
				break
			}
		}
	}
	line := g.ahead[0]
	g.ahead = g.ahead[1:]
	return line
}

// begin has the sequence begin with what an engine, or somebody, left behind.
func (g *generator) begin() {
	switch g.IntN(6) {
	case 0: // a base and a result
		g.ahead = lines(
			"zfs create -o canmount=noauto tank/base-image", "zfs create tank/result", "zfs create -o mountpoint=none tank/base-image/x",
			"zfs create -o mountpoint=/m/home tank/base-image/x/home", "write /m/home/f base", "zfs snapshot -r tank/base-image/x@snap",
			"zfs set mountpoint=none tank/base-image/x/home", "zfs create tank/result/h",
			"zfs clone -o mountpoint=none tank/base-image/x/home@snap tank/result/h/home", "zfs snapshot -r tank/result/h@snap",
			"zfs clone tank/result/h@snap tank/result/n", "zfs clone -o mountpoint=none tank/result/h/home@snap tank/result/n/home",
			"zfs set mountpoint=/m/home tank/result/n/home", "write /m/home/g step", "write /tank/result/n/log done")
	case 1: // clones of clones
		g.ahead = lines("zfs create tank/a", "write /tank/a/f one", "zfs snapshot tank/a@s", "zfs clone tank/a@s tank/b", "zfs snapshot tank/b@s",
			"zfs clone tank/b@s tank/c", "zfs snapshot tank/c@t", "write /tank/a/f two", "zfs snapshot tank/a@t")
	case 2: // a tree
		g.ahead = lines("zfs create -p tank/a/b/c", "zfs create tank/a/d", "write /tank/a/b/f x", "zfs snapshot -r tank/a@s", "zfs clone tank/a/b@s tank/c")
	}
}

func lines(l ...string) []string { return l }

func pick[T any](g *generator, list ...T) T { return list[g.IntN(len(list))] }

// one in n times.
func (g *generator) one(n int) bool { return g.IntN(n) == 0 }

func (g *generator) component() string {
	return pick(g, "a", "b", "c", "d", "home", "a.b", "x-y_1:2")
}

// odd gives a name that is at the edge of what ZFS takes.
func (g *generator) odd() string {
	deep := func(n int) string { // of n bytes, beginning with tank/
		name := "tank/" + strings.Repeat("n", n-5)
		if g.one(2) {
			name = "tank/" + strings.Repeat("p", 99) + "/" + strings.Repeat("q", n-5-100)
		}
		return name
	}
	return pick(g, "tank/a b", "tank/a%b", "tank//a", "tank/a/", "/tank/a", "tank/@", "tank/a@s@t", "tank/-x", "tank/a#b", "tank/.", "tank/..", "nope", "nope/a",
		"tank/a,b", "tank/'", "tank/a=b", "@", "tank/ä", "tank/a+b", "tank/_", "tank/..a", "", deep(255), deep(256), deep(250), deep(254), deep(300))
}

// fresh gives the name of a file system that need not exist.
func (g *generator) fresh() string {
	switch {
	case g.one(25):
		return g.odd()
	case g.one(12):
		return g.dataset() + "/" + g.component() + "/" + g.component()
	}
	return g.dataset() + "/" + g.component()
}

// dataset gives the name of a file system, rarely of one that is not there.
func (g *generator) dataset() string {
	switch {
	case len(g.sets) == 0 || g.one(40):
		return "tank/" + g.component()
	case g.one(100):
		return g.odd()
	}
	return pick(g, g.sets...).name
}

// inner is dataset, but rarely that of the pool.
func (g *generator) inner() string {
	name := g.dataset()
	if name == "tank" && !g.one(10) {
		name = g.dataset()
	}
	return name
}

func (g *generator) tag() string {
	if g.one(40) {
		return pick(g, "", "a b", "a%b", "a/b", strings.Repeat("t", 250), "s@t", "-")
	}
	return pick(g, "s", "t", "u", "snap")
}

// snapshot gives the name of a snapshot, rarely of one that is not there.
func (g *generator) snapshot() string {
	if len(g.snaps) == 0 || g.one(20) {
		return g.dataset() + "@" + g.tag()
	}
	return pick(g, g.snaps...)
}

// place gives a mount point.
func (g *generator) place() string {
	switch g.IntN(12) {
	case 0:
		return "none"
	case 1:
		return "legacy"
	case 2:
		return pick(g, "m/x", "", ".", "/m/x/", "/m//x", "/m/a%b", "/m/sp ace", "none/x")
	case 3, 4:
		if at := g.mounted().at; at != "" { // in another file system, or on it
			return at + pick(g, "", "/in", "/d")
		}
	}
	return "/m/" + pick(g, "x", "y", "x/z", "home")
}

func (g *generator) mounted() set {
	for range 8 {
		if len(g.sets) > 0 {
			if s := pick(g, g.sets...); s.at != "" {
				return s
			}
		}
	}
	return set{}
}

// at gives the path of something in a file system that is mounted.
func (g *generator) at() string {
	s := g.mounted()
	if s.at == "" {
		return "/m/f"
	}
	dir := strings.TrimSuffix(s.at, "/")
	if g.one(6) {
		for _, name := range g.snaps {
			if of, tag, _ := strings.Cut(name, "@"); of == s.name && g.one(2) {
				return dir + "/.zfs/snapshot/" + tag + pick(g, "", "/f", "/g", "/d")
			}
		}
	}
	return dir + pick(g, "/f", "/f", "/g", "/d/f", "/d", "")
}

func (g *generator) flags(of ...string) (argv []string) {
	for _, f := range of {
		if g.one(4) {
			argv = append(argv, f)
		}
	}
	return argv
}

func (g *generator) property() string {
	return pick(g, "mountpoint="+g.place(), "mountpoint="+g.place(), "mountpoint="+g.place(), "canmount="+pick(g, "on", "off", "noauto", "maybe"),
		"readonly="+pick(g, "on", "off"), "atime="+pick(g, "on", "off", "yes"), "org.obuilder:x="+pick(g, "1", "a b", ""), "org.obuilder:y=2", "nope=1",
		"compression="+pick(g, "on", "off", "lz4", "zstd", "bad"), "recordsize="+pick(g, "4K", "128K", "3K", "1M"), "quota="+pick(g, "4M", "none", "10K", "-1", "x", "1T"),
		"refquota="+pick(g, "4M", "none", "10K"), "reservation="+pick(g, "1M", "none", "900M", "0"), "refreservation="+pick(g, "1M", "none", "900M"),
		"name=x", "used=1", "snapdir="+pick(g, "visible", "hidden"), "copies="+pick(g, "1", "2", "4"), "sync="+pick(g, "standard", "disabled"), "checksum=on", "org.obuilder:"+strings.Repeat("k", 250)+"=v", "Org:x=1", "mountpoint", "devices=off", "exec=off", "setuid=off")
}

func (g *generator) options() (argv []string) {
	for g.one(3) {
		argv = append(argv, "-o", g.property())
	}
	return argv
}

func join(argv ...[]string) []string {
	var all []string
	for _, a := range argv {
		all = append(all, a...)
	}
	for _, arg := range all {
		if strings.Contains(arg, "'") {
			return lines("zfs create tank/%") // what sessions cannot write
		}
	}
	return lines(session.Join(all...))
}

func zfs(verb string) []string { return []string{"zfs", verb} }

// A kind is of commands, more of those with a greater weight.
type kind struct {
	weight int
	make   func(*generator) []string
}

var weights = func() (sum int) {
	for _, k := range kinds {
		sum += k.weight
	}
	return sum
}()

var kinds = []kind{
	{12, func(g *generator) []string {
		return join(zfs("create"), g.flags("-p"), g.options(), []string{g.fresh()})
	}},
	{8, func(g *generator) []string {
		name := g.dataset() + "@" + g.tag()
		if g.one(6) {
			return join(zfs("snapshot"), g.flags("-r"), []string{name, g.dataset() + "@" + g.tag()})
		}
		return join(zfs("snapshot"), g.flags("-r"), []string{name})
	}},
	{3, func(g *generator) []string { return join(zfs("snapshot"), []string{"-r", g.inner() + "@" + g.tag()}) }},
	{11, func(g *generator) []string {
		return join(zfs("clone"), g.flags("-p"), g.options(), []string{g.snapshot(), g.fresh()})
	}},
	{7, func(g *generator) []string {
		return join(zfs("set"), []string{"mountpoint=" + g.place(), g.inner()})
	}},
	{6, func(g *generator) []string {
		argv := g.flags("-u")[:0]
		for {
			argv = append(argv, g.property())
			if !g.one(3) {
				break
			}
		}
		name := g.dataset()
		if g.one(8) {
			name = g.snapshot()
		}
		return join(zfs("set"), argv, []string{name})
	}},
	{6, func(g *generator) []string {
		name := g.inner()
		if g.one(8) {
			name = g.snapshot()
		}
		return join(zfs("inherit"), g.flags("-r", "-S"), []string{pick(g, "mountpoint", "mountpoint", "mountpoint", "canmount", "org.obuilder:x", "readonly", "atime", "quota", "nope", "origin", "compression"), name})
	}},
	{9, func(g *generator) []string {
		return join(zfs("destroy"), g.flags("-r", "-r", "-R", "-f", "-n", "-v"), []string{g.inner()})
	}},
	{8, func(g *generator) []string {
		name := g.snapshot()
		switch g.IntN(12) {
		case 0:
			name += "," + g.tag()
		case 1:
			name += "%" + g.tag()
		case 2:
			name += "%"
		case 3:
			name = g.dataset() + "@%" + g.tag()
		}
		return join(zfs("destroy"), g.flags("-r", "-R", "-d", "-d", "-n", "-v"), []string{name})
	}},
	{6, func(g *generator) []string { return join(zfs("promote"), []string{g.inner()}) }},
	{8, func(g *generator) []string {
		if g.one(3) {
			to := g.snapshot()
			if g.one(2) {
				to = "@" + g.tag()
			}
			from := g.snapshot()
			if g.one(2) {
				of, _, _ := strings.Cut(from, "@")
				to = of + "@" + g.tag()
			}
			return join(zfs("rename"), g.flags("-r"), []string{from, to})
		}
		return join(zfs("rename"), g.flags("-p", "-u", "-f"), []string{g.inner(), g.fresh()})
	}},
	{6, func(g *generator) []string {
		return join(zfs("rollback"), g.flags("-r", "-r", "-R", "-f"), []string{g.snapshot()})
	}},
	{5, func(g *generator) []string {
		name := g.dataset()
		if g.one(8) {
			return lines("zfs mount -a")
		}
		return join(zfs("mount"), []string{name})
	}},
	{7, func(g *generator) []string {
		name := g.dataset()
		if g.one(6) {
			name = g.at()
		} else if g.one(6) {
			name = g.mounted().at
		} else if g.one(12) {
			return join(zfs("unmount"), g.flags("-f"), []string{"-a"})
		}
		return join(zfs("unmount"), g.flags("-f"), []string{name})
	}},
	{5, func(g *generator) []string {
		return join(zfs("hold"), g.flags("-r"), []string{pick(g, "h", "k"), g.snapshot()})
	}},
	{4, func(g *generator) []string {
		return join(zfs("release"), g.flags("-r"), []string{pick(g, "h", "h", "k"), g.snapshot()})
	}},
	{1, func(g *generator) []string { return join(zfs("holds"), g.flags("-r", "-H"), []string{g.snapshot()}) }},
	{4, func(g *generator) []string {
		argv := g.flags("-r", "-H", "-p")
		if g.one(3) {
			argv = append(argv, "-t", pick(g, "all", "snapshot", "filesystem", "snap", "nope", "filesystem,snapshot"))
		}
		if g.one(4) {
			argv = append(argv, "-d", pick(g, "0", "1", "2", "x"))
		}
		if g.one(4) {
			argv = append(argv, pick(g, "-s", "-S"), pick(g, "name", "mountpoint", "origin", "createtxg", "canmount"))
		}
		argv = append(argv, "-o", pick(g, "name", "name,mountpoint", "name,origin,mounted", "name,canmount,clones", "name,userrefs,defer_destroy", "name,org.obuilder:x", "name,quota,readonly", "nope", "name,type"))
		if g.one(3) {
			return join(zfs("list"), argv)
		}
		return join(zfs("list"), argv, []string{pick(g, g.dataset(), g.snapshot())})
	}},
	{4, func(g *generator) []string {
		argv := g.flags("-r", "-H", "-p")
		if g.one(4) {
			argv = append(argv, "-s", pick(g, "local", "inherited", "default", "none", "local,inherited", "received", "temporary", "x"))
		}
		if g.one(4) {
			argv = append(argv, "-o", pick(g, "name,value", "value", "all", "property,source", "name,property,value,source,received"))
		}
		argv = append(argv, pick(g, "mountpoint", "mountpoint,mounted", "origin,clones", "canmount,readonly", "org.obuilder:x", "type,name", "quota,refquota,reservation,refreservation", "nope", "userrefs,defer_destroy", "recordsize,compression,atime", "written@s"))
		return join(zfs("get"), argv, []string{pick(g, g.dataset(), g.snapshot())})
	}},
	{1, func(g *generator) []string { return lines("zfs mount") }},
	{1, func(g *generator) []string {
		return lines(pick(g, "zpool list -Ho name,health", "zpool get -H comment tank", "zpool set comment=x tank", "zpool status tank", "zpool list nope", "zpool get nope tank", "zpool status", "zpool destroy nope"))
	}},
	{7, func(g *generator) []string {
		return join([]string{"write", g.at(), pick(g, "one", "two", "three")})
	}},
	{3, func(g *generator) []string { return join([]string{"mkdir", g.at()}) }},
	{3, func(g *generator) []string { return join([]string{pick(g, "cat", "ls"), g.at()}) }},
	{2, func(g *generator) []string { return join([]string{"rm", g.at()}) }},
	{4, func(g *generator) []string { return join([]string{pick(g, "open", "cd"), g.at()}) }},
	{4, func(g *generator) []string { return lines("close") }},
	{2, func(g *generator) []string { // far below or far above any quota
		file := cmp.Or(g.mounted().at, "/m") + "/big"
		return append(join([]string{"fill", file, pick(g, "3000", "70000", "12000000")}), join([]string{"rm", file})...)
	}},
	{4, func(g *generator) []string {
		to := g.snapshot()
		argv := g.flags("-R", "-p")
		if of, _, _ := strings.Cut(to, "@"); g.one(2) { // from another snapshot, mostly of the same
			from := "@" + g.tag()
			for _, name := range g.snaps {
				if strings.HasPrefix(name, of+"@") && g.one(2) {
					from = name
				}
			}
			argv = append(argv, pick(g, "-i", "-i", "-I"), from)
		}
		to = join(zfs("send"), argv, []string{to, ">one"})[0]
		target := g.fresh()
		if g.one(2) {
			target = g.dataset()
		}
		if g.one(6) {
			target += "@" + g.tag()
		}
		all := append(lines(to), join(zfs("receive"), g.flags("-F", "-F", "-u", "-d", "-e"), []string{target, "<one"})...)
		if g.one(10) {
			all = slices.Insert(all, 1, pick(g, "cut one", "damage one"))
		}
		return all
	}},
}
