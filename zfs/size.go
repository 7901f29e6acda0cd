package zfs

import "fmt"

// FormatSize gives a number of bytes as zfs prints it for people: "96K",
// "1.50M", "24.5K". The rule is that of zfs_nicenum_format in OpenZFS
// (lib/libzutil/zutil_nicenum.c): as many of two decimals as fit in five
// characters, none when the number is a whole one.
func FormatSize(n uint64) string {
	const units = " KMGTPE"
	index := 0
	for m := n; m >= 1024; m /= 1024 {
		index++
	}
	if index == 0 {
		return fmt.Sprintf("%dB", n)
	}
	unit := uint64(1) << (10 * index)
	if n%unit == 0 {
		return fmt.Sprintf("%d%c", n/unit, units[index])
	}
	for precision := 2; ; precision-- {
		s := fmt.Sprintf("%.*f%c", precision, float64(n)/float64(unit), units[index])
		if len(s) <= 5 || precision == 0 {
			return s
		}
	}
}
