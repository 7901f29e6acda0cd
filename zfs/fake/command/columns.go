package command

import (
	"strconv"
	"strings"
	"time"

	"obuilder.org/obuilder/zfs"
)

// A format is how a value that is for programs is printed for people.
type format uint8

const (
	asIs     format = iota
	bytes           // 10B, 1.5K
	count           // 10, 1.5K
	sizeNone        // bytes, 0 is none
	limit           // count, the largest is none
	ratio           // 1.00x
	percent         // 1%
	date            // Tue Nov 24 11:16 2026
)

// A column is a property as zfs list and get print it (zfs_prop.c). width is
// that of its title or of its longest value; where fixed is not set, that of
// what is printed may be more.
type column struct {
	name, title  string
	width        int
	fixed, right bool
	number       bool // is sorted as one
	format       format
}

// onOff is how wide a column of on and off is.
const onOff = len("off")

func text(name, title string) column { return column{name: name, title: title, width: len(title)} }

func index(name, title string, longest int) column {
	return column{name: name, title: title, width: max(len(title), longest), fixed: true}
}

func number(name, title string, f format) column {
	return column{name: name, title: title, width: max(len(title), 5), fixed: true, right: true, number: true, format: f}
}

// columns are the properties of file systems and snapshots that zfs shows, in
// its order.
var columns = func() []column {
	referenced := number("referenced", "REFER", bytes)
	referenced.width = 8 // zprop_width takes it for the health of a pool, which has the same number
	creation := column{name: "creation", title: "CREATION", width: len("CREATION"), number: true, format: date}
	return []column{
		text("type", "TYPE"),
		creation,
		number("used", "USED", bytes),
		number("available", "AVAIL", bytes),
		referenced,
		number("compressratio", "RATIO", ratio),
		index("mounted", "MOUNTED", onOff),
		text("origin", "ORIGIN"),
		number("quota", "QUOTA", sizeNone),
		number("reservation", "RESERV", sizeNone),
		number("volsize", "VOLSIZE", bytes),
		number("volblocksize", "VOLBLOCK", count),
		number("recordsize", "RECSIZE", count),
		text("mountpoint", "MOUNTPOINT"),
		text("sharenfs", "SHARENFS"),
		index("checksum", "CHECKSUM", len("fletcher4")),
		index("compression", "COMPRESS", len("zstd-fast-1000")),
		index("atime", "ATIME", onOff),
		index("devices", "DEVICES", onOff),
		index("exec", "EXEC", onOff),
		index("setuid", "SETUID", onOff),
		index("readonly", "RDONLY", onOff),
		index("zoned", "ZONED", onOff),
		index("snapdir", "SNAPDIR", len("visible")),
		index("aclmode", "ACLMODE", len("passthrough")),
		index("aclinherit", "ACLINHERIT", len("passthrough-x")),
		number("createtxg", "CREATETXG", asIs),
		index("canmount", "CANMOUNT", len("noauto")),
		index("xattr", "XATTR", onOff),
		index("copies", "COPIES", 1),
		index("version", "VERSION", len("current")),
		index("utf8only", "UTF8ONLY", onOff),
		index("normalization", "NORMALIZATION", len("formKC")),
		index("casesensitivity", "CASE", len("insensitive")),
		index("vscan", "VSCAN", onOff),
		index("nbmand", "NBMAND", onOff),
		text("sharesmb", "SHARESMB"),
		number("refquota", "REFQUOTA", sizeNone),
		number("refreservation", "REFRESERV", sizeNone),
		number("guid", "GUID", asIs),
		index("primarycache", "PRIMARYCACHE", len("metadata")),
		index("secondarycache", "SECONDARYCACHE", len("metadata")),
		number("usedbysnapshots", "USEDSNAP", bytes),
		number("usedbydataset", "USEDDS", bytes),
		number("usedbychildren", "USEDCHILD", bytes),
		number("usedbyrefreservation", "USEDREFRESERV", bytes),
		index("defer_destroy", "DEFER_DESTROY", onOff),
		number("userrefs", "USERREFS", count),
		index("logbias", "LOGBIAS", len("throughput")),
		number("objsetid", "OBJSETID", asIs),
		index("dedup", "DEDUP", len("sha256,verify")),
		text("mlslabel", "MLSLABEL"),
		index("sync", "SYNC", len("standard")),
		index("dnodesize", "DNSIZE", len("legacy")),
		number("refcompressratio", "REFRATIO", ratio),
		number("written", "WRITTEN", count),
		text("clones", "CLONES"),
		number("logicalused", "LUSED", count),
		number("logicalreferenced", "LREFER", count),
		index("volmode", "VOLMODE", len("default")),
		number("filesystem_limit", "FSLIMIT", limit),
		number("snapshot_limit", "SSLIMIT", limit),
		number("filesystem_count", "FSCOUNT", limit),
		number("snapshot_count", "SSCOUNT", limit),
		index("snapdev", "SNAPDEV", len("visible")),
		index("acltype", "ACLTYPE", len("posixacl")),
		text("context", "CONTEXT"),
		text("fscontext", "FSCONTEXT"),
		text("defcontext", "DEFCONTEXT"),
		text("rootcontext", "ROOTCONTEXT"),
		index("relatime", "RELATIME", onOff),
		index("redundant_metadata", "REDUND_MD", len("most")),
		index("overlay", "OVERLAY", onOff),
		text("receive_resume_token", "RESUMETOK"),
		index("encryption", "ENCRYPTION", len("aes-256-ccm")),
		text("keylocation", "KEYLOCATION"),
		index("keyformat", "KEYFORMAT", len("passphrase")),
		number("pbkdf2iters", "PBKDF2ITERS", asIs),
		text("encryptionroot", "ENCROOT"),
		index("keystatus", "KEYSTATUS", len("unavailable")),
		number("special_small_blocks", "SPECIAL_SMALL_BLOCKS", count),
		text("redact_snaps", "RSNAPS"),
	}
}()

var nameColumn = column{name: "name", title: "NAME", width: len("NAME")}

// columnOf finds the column of a property by its name or, in lower case, its
// title. ok is false for what is no property; those of users have columns.
func columnOf(name string) (c column, ok bool) {
	if name == nameColumn.name {
		return nameColumn, true
	}
	for _, c := range columns {
		if name == c.name || name == strings.ToLower(c.title) {
			return c, true
		}
	}
	switch {
	case isWritten(name):
		return column{name: name, title: strings.ToUpper(name), width: len(name), right: true, format: bytes}, true
	case isUser(name):
		return column{name: name, title: strings.ToUpper(name), width: len(name)}, true
	}
	return column{}, false
}

// isWritten reports whether a name is that of what was written since a snapshot.
func isWritten(name string) bool {
	return strings.HasPrefix(name, "written@") || strings.HasPrefix(name, "written#")
}

// isUser reports whether a property is one that users have (zfs_prop_user).
func isUser(name string) bool {
	colon := false
	for _, c := range []byte(name) {
		switch {
		case c == ':':
			colon = true
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '_', c == '.':
		default:
			return false
		}
	}
	return colon
}

// ofSpace reports whether a property is about what users, groups or projects
// take up or may take up.
func ofSpace(name string) bool {
	for _, who := range []string{"user", "group", "project"} {
		rest, ok := strings.CutPrefix(name, who)
		if !ok {
			continue
		}
		rest = strings.TrimPrefix(rest, "obj")
		if strings.HasPrefix(rest, "used@") || strings.HasPrefix(rest, "quota@") {
			return true
		}
	}
	return false
}

// human gives a value of a column for people.
func (c *column) human(value string) string {
	if value == "-" {
		return value
	}
	switch c.format {
	case ratio:
		return value + "x"
	case percent:
		return value + "%"
	case asIs:
		return value
	}
	n, err := strconv.ParseUint(value, 10, 64)
	switch {
	case err != nil:
		return value
	case c.format == date:
		return time.Unix(int64(n), 0).Format("Mon Jan _2 ") + strings.TrimPrefix(time.Unix(int64(n), 0).Format("_15:04 2006"), "_")
	case c.format == sizeNone && n == 0, c.format == limit && value == maxUint64:
		return "none"
	case c.format == count || c.format == limit:
		return strings.TrimSuffix(zfs.FormatSize(n), "B")
	}
	return zfs.FormatSize(n)
}

const maxUint64 = "18446744073709551615"
