package fake

import (
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"

	"obuilder.org/obuilder/zfs"
)

// A propID is a property: an index into props, or above those a user property
// in propNames.
type propID uint16

// A setting is a local value of a property.
type setting struct {
	id    propID
	value string
}

type propKind uint8

const (
	readOnly  propKind = iota
	choice             // one of values
	size               // bytes or none
	blockSize          // a power of two
	mountPath
	once    // what a new file system is given; only the default is modelled
	onlyDef // can be set in ZFS; only the default is modelled
)

// A propDef is a property as OpenZFS 2.1.11 has it.
type propDef struct {
	name     string
	kind     propKind
	inherits bool
	ofSnap   bool // snapshots have it
	notFS    bool // file systems do not have it
	plain    bool // its source is "-" although it is not read-only
	def      string
	values   string // as in the message about others
}

const (
	propType propID = iota
	propCreation
	propUsed
	propAvailable
	propReferenced
	propMounted
	propOrigin
	propCreatetxg
	propGUID
	propUsedbysnapshots
	propUsedbydataset
	propUsedbychildren
	propWritten
	propLogicalused
	propLogicalreferenced
	propDeferDestroy
	propUserrefs
	propClones
	propName
	propCompressratio
	propMountpoint
	propCanmount
	propReadonly
	propQuota
	propRefquota
	propOverlay
	propReservation
	propRefreservation
	propUsedbyrefreservation
	propObjsetid
	propFilesystemCount
	propSnapshotCount
	propRecordsize
	propCompression
	propRest
)

const onOff = "on | off"

var props = [...]propDef{
	propType:              {name: "type", ofSnap: true},
	propCreation:          {name: "creation", ofSnap: true},
	propUsed:              {name: "used", ofSnap: true},
	propAvailable:         {name: "available"},
	propReferenced:        {name: "referenced", ofSnap: true},
	propMounted:           {name: "mounted"},
	propOrigin:            {name: "origin"},
	propCreatetxg:         {name: "createtxg", ofSnap: true},
	propGUID:              {name: "guid", ofSnap: true},
	propUsedbysnapshots:   {name: "usedbysnapshots"},
	propUsedbydataset:     {name: "usedbydataset"},
	propUsedbychildren:    {name: "usedbychildren"},
	propWritten:           {name: "written", ofSnap: true},
	propLogicalused:       {name: "logicalused"},
	propLogicalreferenced: {name: "logicalreferenced", ofSnap: true},
	propDeferDestroy:      {name: "defer_destroy", ofSnap: true, notFS: true},
	propUserrefs:          {name: "userrefs", ofSnap: true, notFS: true},
	propClones:            {name: "clones", ofSnap: true, notFS: true},
	propName:              {name: "name", ofSnap: true},
	propCompressratio:     {name: "compressratio", ofSnap: true},

	propUsedbyrefreservation: {name: "usedbyrefreservation"},
	propObjsetid:             {name: "objsetid", ofSnap: true},
	propFilesystemCount:      {name: "filesystem_count", def: noLimit},
	propSnapshotCount:        {name: "snapshot_count", def: noLimit},

	propMountpoint:  {name: "mountpoint", kind: mountPath, inherits: true},
	propCanmount:    {name: "canmount", kind: choice, def: "on", values: "on | off | noauto"},
	propReadonly:    {name: "readonly", kind: choice, inherits: true, def: "off", values: onOff},
	propQuota:       {name: "quota", kind: size, def: "0"},
	propRefquota:    {name: "refquota", kind: size, def: "0"},
	propOverlay:     {name: "overlay", kind: choice, inherits: true, def: "on", values: onOff},
	propRecordsize:  {name: "recordsize", kind: blockSize, inherits: true, def: "131072"},
	propCompression: {name: "compression", kind: choice, inherits: true, def: "off", values: "on | off | lzjb | gzip | gzip-[1-9] | zle | lz4 | zstd | zstd-[1-19] | zstd-fast | zstd-fast-[1-10,20,30,40,50,60,70,80,90,100,500,1000]"},

	propReservation:    {name: "reservation", kind: size, def: "0"},
	propRefreservation: {name: "refreservation", kind: size, def: "0"},

	// Those that only have values here.
	propRest + 0:  {name: "atime", kind: choice, inherits: true, def: "on", values: onOff},
	propRest + 1:  {name: "relatime", kind: choice, inherits: true, def: "off", values: onOff},
	propRest + 2:  {name: "devices", kind: choice, inherits: true, ofSnap: true, def: "on", values: onOff},
	propRest + 3:  {name: "exec", kind: choice, inherits: true, ofSnap: true, def: "on", values: onOff},
	propRest + 4:  {name: "setuid", kind: choice, inherits: true, ofSnap: true, def: "on", values: onOff},
	propRest + 5:  {name: "checksum", kind: choice, inherits: true, def: "on", values: "on | off | fletcher2 | fletcher4 | sha256 | sha512 | skein | edonr"},
	propRest + 6:  {name: "sync", kind: choice, inherits: true, def: "standard", values: "standard | always | disabled"},
	propRest + 7:  {name: "logbias", kind: choice, inherits: true, def: "latency", values: "latency | throughput"},
	propRest + 8:  {name: "xattr", kind: choice, inherits: true, ofSnap: true, def: "on", values: "on | off | dir | sa"},
	propRest + 9:  {name: "primarycache", kind: choice, inherits: true, ofSnap: true, def: "all", values: "all | none | metadata"},
	propRest + 10: {name: "secondarycache", kind: choice, inherits: true, ofSnap: true, def: "all", values: "all | none | metadata"},
	propRest + 11: {name: "snapdir", kind: choice, inherits: true, def: "hidden", values: "hidden | visible"},
	propRest + 12: {name: "copies", kind: choice, inherits: true, def: "1", values: "1 | 2 | 3"},
	propRest + 13: {name: "dnodesize", kind: choice, inherits: true, def: "legacy", values: "legacy | auto | 1k | 2k | 4k | 8k | 16k"},
	propRest + 14: {name: "dedup", kind: choice, inherits: true, def: "off", values: "on | off | verify | sha256[,verify] | sha512[,verify] | skein[,verify] | edonr,verify"},
	propRest + 15: {name: "aclmode", kind: choice, inherits: true, def: "discard", values: "discard | groupmask | passthrough | restricted"},
	propRest + 16: {name: "aclinherit", kind: choice, inherits: true, def: "restricted", values: "discard | noallow | restricted | passthrough | passthrough-x"},
	propRest + 17: {name: "acltype", kind: choice, inherits: true, ofSnap: true, def: "off", values: "off | nfsv4 | posix"},
	propRest + 18: {name: "vscan", kind: choice, inherits: true, def: "off", values: onOff},
	propRest + 19: {name: "nbmand", kind: choice, inherits: true, ofSnap: true, def: "off", values: onOff},
	propRest + 20: {name: "volmode", kind: choice, inherits: true, def: "default", values: "default | full | geom | dev | none"},
	propRest + 21: {name: "snapdev", kind: choice, inherits: true, def: "hidden", values: "hidden | visible"},
	propRest + 22: {name: "redundant_metadata", kind: choice, inherits: true, def: "all", values: "all | most | some | none"},

	// Those that are always the same here.
	propRest + 23: {name: "refcompressratio", ofSnap: true, def: "1.00"},
	propRest + 24: {name: "version", kind: onlyDef, ofSnap: true, plain: true, def: "5"},
	propRest + 25: {name: "utf8only", kind: once, inherits: true, ofSnap: true, plain: true, def: "off"},
	propRest + 26: {name: "normalization", kind: once, inherits: true, ofSnap: true, plain: true, def: "none"},
	propRest + 27: {name: "casesensitivity", kind: once, inherits: true, ofSnap: true, plain: true, def: "sensitive"},
	propRest + 28: {name: "encryption", kind: once, inherits: true, ofSnap: true, def: "off"},
	propRest + 29: {name: "keyformat", kind: once, def: "none"},
	propRest + 30: {name: "pbkdf2iters", kind: once, def: "0"},
	propRest + 31: {name: "keylocation", kind: onlyDef, def: "none"},
	propRest + 32: {name: "sharenfs", kind: onlyDef, inherits: true, def: "off"},
	propRest + 33: {name: "sharesmb", kind: onlyDef, inherits: true, def: "off"},
	propRest + 34: {name: "zoned", kind: onlyDef, inherits: true, def: "off"},
	propRest + 35: {name: "mlslabel", kind: onlyDef, inherits: true, ofSnap: true, def: "none"},
	propRest + 36: {name: "context", kind: onlyDef, ofSnap: true, def: "none"},
	propRest + 37: {name: "fscontext", kind: onlyDef, ofSnap: true, def: "none"},
	propRest + 38: {name: "defcontext", kind: onlyDef, ofSnap: true, def: "none"},
	propRest + 39: {name: "rootcontext", kind: onlyDef, ofSnap: true, def: "none"},
	propRest + 40: {name: "special_small_blocks", kind: onlyDef, inherits: true, def: "0"},
	propRest + 41: {name: "filesystem_limit", kind: onlyDef, def: noLimit},
	propRest + 42: {name: "snapshot_limit", kind: onlyDef, def: noLimit},
	propRest + 43: {name: "volsize", kind: onlyDef, notFS: true, def: "-"},
	propRest + 44: {name: "volblocksize", kind: once, notFS: true, inherits: true, def: "-"},
	propRest + 45: {name: "receive_resume_token"},
	propRest + 46: {name: "encryptionroot"},
	propRest + 47: {name: "keystatus"},
	propRest + 48: {name: "redact_snaps"},
}

// noLimit is the value of a limit that there is not.
const noLimit = "18446744073709551615"

// aliases are the other names of properties: the titles of their columns.
var aliases = map[string]string{
	"avail": "available", "refer": "referenced", "ratio": "compressratio", "reserv": "reservation",
	"volblock": "volblocksize", "recsize": "recordsize", "compress": "compression", "rdonly": "readonly",
	"case": "casesensitivity", "refreserv": "refreservation", "usedsnap": "usedbysnapshots",
	"usedds": "usedbydataset", "usedchild": "usedbychildren", "usedrefreserv": "usedbyrefreservation",
	"dnsize": "dnodesize", "refratio": "refcompressratio", "lused": "logicalused", "lrefer": "logicalreferenced",
	"fslimit": "filesystem_limit", "sslimit": "snapshot_limit", "fscount": "filesystem_count",
	"sscount": "snapshot_count", "redund_md": "redundant_metadata", "resumetok": "receive_resume_token",
	"encroot": "encryptionroot", "rsnaps": "redact_snaps",
}

var propIDs = func() map[string]propID {
	ids := make(map[string]propID, len(props)+len(aliases))
	for i, p := range props {
		ids[p.name] = propID(i)
	}
	for alias, name := range aliases {
		ids[alias] = ids[name]
	}
	return ids
}()

// propNames numbers user properties.
type propNames struct {
	ids   map[string]propID
	names []string
}

// notSet is the number of every user property that no dataset has.
const notSet propID = 1<<16 - 1

// find gives the number of a property: of one that zfs has or, when it has a
// colon, one that users have. A new one gets a number when it is to be set.
func (n *propNames) find(name string, toSet bool) (propID, bool) {
	switch name { // those that are asked for most
	case "mountpoint":
		return propMountpoint, true
	case "name":
		return propName, true
	}
	if id, ok := propIDs[name]; ok {
		return id, true
	}
	if id, ok := n.ids[name]; ok {
		return id, true
	}
	if !validUserProp(name) || len(n.names) >= 1<<15 {
		return 0, false
	}
	if !toSet {
		return notSet, true
	}
	if n.ids == nil {
		n.ids = make(map[string]propID)
	}
	id := propID(len(props) + len(n.names))
	name = strings.Clone(name)
	n.ids[name] = id
	n.names = append(n.names, name)
	return id, true
}

func (n *propNames) name(id propID) string {
	if int(id) < len(props) {
		return props[id].name
	}
	return n.names[int(id)-len(props)]
}

// zfs_prop_user in zfs_prop.c: lower case, digits and "-_.:", with a colon.
func validUserProp(name string) bool { return userPropBytes(name) && len(name) <= maxUserProp }

const maxUserProp = 255

func userPropBytes(name string) bool {
	colon := false
	for i := 0; i < len(name); i++ {
		c := name[i]
		switch {
		case c == ':':
			colon = true
		case c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.':
		default:
			return false
		}
	}
	return colon
}

func isUser(id propID) bool { return int(id) >= len(props) }

func inherits(id propID) bool { return isUser(id) || props[id].inherits }

func (d *dataset) local(id propID) (string, bool) {
	for i := range d.props {
		if d.props[i].id == id {
			return d.props[i].value, true
		}
	}
	return "", false
}

func (d *dataset) setLocal(id propID, value string) {
	d.limit(id, value)
	for i := range d.props {
		if d.props[i].id == id {
			if d.props[i].value != value { // they may be shared
				d.props = slices.Clone(d.props)
				d.props[i].value = value
			}
			return
		}
	}
	d.props = append(slices.Clip(d.props), setting{id, value})
}

// limit keeps what a property limits at hand.
func (d *dataset) limit(id propID, value string) {
	if id != propQuota && id != propRefquota && id != propReservation && id != propRefreservation {
		return
	}
	n, _ := strconv.ParseUint(value, 10, 64)
	switch id {
	case propQuota:
		d.quota = n
	case propRefquota:
		d.refquota = n
	case propReservation:
		d.reserve(n, d.refreserved)
	case propRefreservation:
		d.reserve(d.reserved, n)
	}
}

// unsetLocal makes d inherit a property or, with received set, have what it was
// received with.
func (d *dataset) unsetLocal(id propID, received bool) {
	for i := range d.props {
		if d.props[i].id == id {
			d.props = slices.Concat(d.props[:i], d.props[i+1:])
			break
		}
	}
	d.received.hide(id, !received)
	d.keepLimit(id)
}

// value gives what an editable property is for d, and the dataset it is set
// on, nil for a default. ok is false for a user property that nobody set.
func (d *dataset) value(id propID) (value string, from *dataset, ok bool) {
	for p := d; p != nil; p = p.parent {
		if v, ok := p.own(id); ok {
			return v, p, true
		}
		if !inherits(id) {
			break
		}
	}
	if isUser(id) {
		return "", nil, false
	}
	return props[id].def, nil, true
}

func (d *dataset) is(id propID, value string) bool {
	v, _, _ := d.value(id)
	return v == value
}

// mountpoint gives where d would be mounted, "none" or "legacy", and the
// dataset on which that is set, nil for the default.
func (d *dataset) mountpoint() (at string, from *dataset) {
	v, from, _ := d.value(propMountpoint)
	if from == d || v == "none" || v == "legacy" {
		return v, from
	}
	below := make([]byte, 0, 128)
	below = d.nameBelow(from, below)
	if from == nil {
		return "/" + string(below), nil
	}
	if v == "/" {
		v = ""
	}
	return v + "/" + string(below), from
}

// nameBelow appends the components of d below top.
func (d *dataset) nameBelow(top *dataset, b []byte) []byte {
	if d.parent != top {
		b = append(d.parent.nameBelow(top, b), '/')
	}
	return append(b, d.name...)
}

// notModelled begins the text about what ZFS has and this has not.
const notModelled = "not modelled: "

// parse checks the value of a property and brings it into the form in which
// it is kept. The text is what is wrong with it.
func parse(id propID, name, value string) (kept, text string) {
	if isUser(id) {
		if len(value) >= 8192 {
			return "", fmt.Sprintf("property '%s' is too long", name)
		}
		return value, ""
	}
	def := &props[id]
	if def.notFS {
		return "", fmt.Sprintf("'%s' does not apply to datasets of this type", def.name)
	}
	switch def.kind {
	case readOnly, once:
		return "", fmt.Sprintf("'%s' is readonly", def.name)
	case onlyDef:
		if value == "none" && def.def == noLimit {
			value = noLimit
		}
		if value != def.def {
			return "", notModelled + def.name + "=" + value
		}
		return value, ""
	case mountPath:
		for component := range strings.SplitSeq(value, "/") {
			if strings.HasPrefix(value, "/") && len(component) > maxFileName {
				return "", "component of 'mountpoint' is too long"
			}
		}
		if value == "none" || value == "legacy" || strings.HasPrefix(value, "/") {
			return value, ""
		}
		return "", "'mountpoint' must be an absolute path, 'none', or 'legacy'"
	case size:
		if value == "none" {
			return "0", ""
		}
		n, ok := parseSize(value)
		switch quota := id == propQuota || id == propRefquota; {
		case value == "auto" && quota:
		case value == "auto" && id == propRefreservation:
			return "", "'refreservation=auto' only allowed on volumes"
		case value == "auto":
			return "", "'auto' is invalid value for '" + def.name + "'"
		case !ok:
			return "", badSize(value)
		}
		if n == 0 && (id == propQuota || id == propRefquota) {
			return "", "use 'none' to disable quota/refquota"
		}
		return strconv.FormatUint(n, 10), ""
	case blockSize:
		n, ok := parseSize(value)
		if !ok && value != "none" {
			return "", badSize(value)
		}
		if n < 512 || n > 1<<20 || bits.OnesCount64(n) != 1 {
			return "", fmt.Sprintf("'%s' must be power of 2 from 512B to 1M", def.name)
		}
		return strconv.FormatUint(n, 10), ""
	default:
		if kept, ok := canonical[def.name+"="+value]; ok {
			return kept, ""
		}
		if !oneOf(value, def.values) && !(def.name == "checksum" && value == "noparity") {
			return "", fmt.Sprintf("'%s' must be one of '%s'", def.name, def.values)
		}
		return value, ""
	}
}

// canonical is what some values of properties are kept as.
var canonical = map[string]string{
	"compression=gzip-6": "gzip", "compression=zstd-fast-1": "zstd-fast", "xattr=dir": "on",
	"acltype=posixacl": "posix", "acltype=noacl": "off", "aclinherit=secure": "restricted",
}

// oneOf reports whether value is in a list such as "on | gzip-[1-9]".
func oneOf(value, list string) bool {
	for alt := range strings.SplitSeq(list, " | ") {
		alt, verify := strings.CutSuffix(alt, "[,verify]")
		if verify && value == alt+",verify" {
			return true
		}
		prefix, ranges, ok := strings.Cut(alt, "[")
		if !ok {
			if value == alt {
				return true
			}
			continue
		}
		digits, ok := strings.CutPrefix(value, prefix)
		n, err := strconv.Atoi(digits)
		if !ok || err != nil || strconv.Itoa(n) != digits {
			continue
		}
		for r := range strings.SplitSeq(strings.TrimSuffix(ranges, "]"), ",") {
			lo, hi, ok := strings.Cut(r, "-")
			if !ok {
				hi = lo
			}
			from, _ := strconv.Atoi(lo)
			to, _ := strconv.Atoi(hi)
			if n >= from && n <= to {
				return true
			}
		}
	}
	return false
}

// parseSize reads a size as zfs_nicestrtonum does: 10, 10k, 1.5G, 10MiB.
func parseSize(s string) (uint64, bool) {
	i := 0
	for i < len(s) && (s[i] >= '0' && s[i] <= '9' || s[i] == '.') {
		i++
	}
	shift := 0
	switch unit := s[i:]; {
	case !validUnit(unit):
		return 0, false
	case unit != "" && unit != "B" && unit != "b":
		if shift = strings.IndexByte(units, unit[0]&^0x20)*10 + 10; shift > 60 {
			return 0, false
		}
	}
	if strings.Contains(s[:i], ".") {
		f, err := strconv.ParseFloat(s[:i], 64)
		f *= float64(uint64(1) << shift)
		return uint64(f), err == nil && f < 1<<63
	}
	n, err := strconv.ParseUint(s[:i], 10, 64)
	return n << shift, err == nil && n<<shift>>shift == n
}

const units = "KMGTPEZ"

func validUnit(s string) bool {
	unit := strings.ToUpper(s)
	if unit == "" || unit == "B" {
		return true
	}
	return strings.IndexByte(units, unit[0]) >= 0 && (unit[1:] == "" || unit[1:] == "B" || unit[1:] == "IB")
}

// badSize says what is wrong with a size.
func badSize(s string) string {
	suffix := strings.TrimLeft(s, "0123456789.")
	if suffix != s && (suffix == "" || validUnit(suffix)) {
		return "numeric value is too large"
	}
	if suffix == s || suffix == "" {
		return "bad numeric value '" + s + "'"
	}
	return "invalid numeric suffix '" + suffix + "'"
}

// parseAll checks the properties of a command.
func (m *Machine) parseAll(what, target string, list []zfs.Property, into []setting) ([]setting, *failure) {
	for i, p := range list {
		id, ok := m.names.find(p.Name, true)
		switch {
		case ok:
		case strings.HasPrefix(p.Name, "written@"), strings.HasPrefix(p.Name, "written#"):
			return nil, failf(zfs.Permission, "%s '%s': '%s' is readonly", what, target, p.Name)
		default:
			if userPropBytes(p.Name) && len(p.Name) > maxUserProp {
				return nil, failf(zfs.Usage, "%s '%s': property name '%s' is too long", what, target, p.Name)
			}
			return nil, failf(zfs.Usage, "%s '%s': invalid property '%s'", what, target, p.Name)
		}
		if f := twice(p.Name, list[:i]); f != nil {
			return nil, f
		}
		value, text := parse(id, p.Name, p.Value)
		if text != "" {
			kind := zfs.Usage
			switch {
			case strings.HasPrefix(text, notModelled):
				return nil, failf(zfs.Unsupported, "%s", text)
			case isUser(id):
			case props[id].kind == readOnly, props[id].kind == once:
				kind = zfs.Permission
			}
			return nil, failf(kind, "%s '%s': %s", what, target, text)
		}
		at := slices.IndexFunc(into, func(s setting) bool { return s.id == id })
		if at < 0 {
			into = append(into, setting{id, value})
		} else { // by another of its names
			into[at].value = value
		}
	}
	return into, nil
}

// get gives a property of d as zfs get -p prints it.
func (m *Machine) get(d *dataset, id propID) (value, source string) {
	if isUser(id) || props[id].kind != readOnly {
		v, from, ok := d.value(id)
		if !ok {
			return "-", "-"
		}
		if id == propMountpoint {
			v, from = d.mountpoint()
		}
		switch {
		case from == d:
			return v, d.ownSource(id)
		case from != nil:
			return v, "inherited from " + from.fullName()
		case !isUser(id) && (props[id].plain || props[id].notFS):
			return v, "-"
		}
		return v, "default"
	}
	switch id {
	case propFilesystemCount, propSnapshotCount:
		return noLimit, "default"
	}
	return m.derived(d, id), "-"
}

func utoa(n uint64) string { return strconv.FormatUint(n, 10) }

func (m *Machine) derived(d *dataset, id propID) string {
	switch id {
	case propType:
		return string(zfs.Filesystems)
	case propName:
		return d.fullName()
	case propCreation:
		return strconv.FormatInt(d.created, 10)
	case propCreatetxg:
		return utoa(d.createtxg)
	case propGUID:
		return utoa(d.guid)
	case propMounted:
		if d.mnt != nil {
			return "yes"
		}
		return "no"
	case propOrigin:
		if d.origin != nil {
			return d.origin.fullName()
		}
	case propCompressratio:
		return "1.00"
	case propUsed, propLogicalused:
		return utoa(m.space(d).used())
	case propUsedbydataset:
		return utoa(m.space(d).usedHead)
	case propUsedbysnapshots:
		return utoa(m.space(d).usedSnap)
	case propUsedbychildren:
		return utoa(m.space(d).usedChildren)
	case propReferenced, propLogicalreferenced:
		return utoa(m.space(d).refd)
	case propWritten:
		return utoa(m.written(&m.space(d).contents, d.prev()))
	case propUsedbyrefreservation:
		return utoa(d.usedRef)
	case propObjsetid:
		return objsetid(d.guid)
	case propAvailable:
		n, _ := m.space(d).left()
		if d.refquota > 0 {
			n = min(n, d.refquota-min(d.refquota, d.refd))
		}
		return utoa(n)
	}
	if def := props[id].def; def != "" {
		return def
	}
	return "-"
}

// objsetid makes up the number of the object in which ZFS keeps a dataset.
func objsetid(guid uint64) string { return utoa(guid % 1e8) }

// getSnap gives a property of snapshot i of d as zfs get -p prints it.
func (m *Machine) getSnap(d *dataset, i int, id propID) (value, source string) {
	s := d.snaps[i]
	if isUser(id) || props[id].kind != readOnly {
		if !isUser(id) && !props[id].ofSnap {
			return "-", "-"
		}
		v, from, ok := d.value(id)
		own, source, has := s.own(id)
		switch {
		case has:
			return own, source
		case !ok:
			return "-", "-"
		case from == nil && !isUser(id) && props[id].plain:
			return v, "-"
		case from == nil:
			return v, "default"
		}
		return v, "inherited from " + from.fullName()
	}
	switch id {
	case propObjsetid:
		return objsetid(s.guid), "-"
	case propType:
		return string(zfs.Snapshots), "-"
	case propName:
		return s.fullName(), "-"
	case propCreation:
		return strconv.FormatInt(s.created, 10), "-"
	case propCreatetxg:
		return utoa(s.txg), "-"
	case propGUID:
		return utoa(s.guid), "-"
	case propUsed:
		m.space(d)
		if m.dir != nil {
			if s.data != nil && s.data.refs == 1 {
				return utoa(s.refd), "-"
			}
			return "0", "-"
		}
		return utoa(d.unique(i)), "-"
	case propReferenced, propLogicalreferenced:
		m.space(d)
		return utoa(s.refd), "-"
	case propWritten:
		m.space(d)
		before := d.origin
		if i > 0 {
			before = d.snaps[i-1]
		}
		return utoa(m.written(&s.contents, before)), "-"
	case propCompressratio:
		return "1.00", "-"
	case propDeferDestroy:
		if s.deferred {
			return "on", "-"
		}
		return "off", "-"
	case propUserrefs:
		return strconv.Itoa(s.holds()), "-"
	case propClones:
		m.readAll()
		if s.firstClone == nil {
			return "-", "-"
		}
		var b strings.Builder
		for c := s.firstClone; c != nil; c = c.nextClone {
			if b.Len() > 0 {
				b.WriteByte(',')
			}
			b.WriteString(c.fullName())
		}
		return b.String(), "-"
	}
	if def := &props[id]; def.ofSnap && def.def != "" {
		return def.def, "-"
	}
	return "-", "-"
}

// space gives d with what it uses brought up to date.
func (m *Machine) space(d *dataset) *dataset {
	if m.dir != nil {
		m.dir.measure(d)
	}
	return d
}
