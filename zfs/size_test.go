package zfs

import "testing"

// Expected values are what zfs list printed for such sizes on OpenZFS 2.1.11.
func TestFormatSize(t *testing.T) {
	for n, want := range map[uint64]string{
		0: "0B", 1: "1B", 512: "512B", 1023: "1023B", 1024: "1K", 98304: "96K", 25088: "24.5K",
		1536 << 10: "1.50M", 1 << 30: "1G", 10<<30 + 1<<29: "10.5G", 1023<<20 + 1<<19: "1024M", 3865470566: "3.60G",
	} {
		if got := FormatSize(n); got != want {
			t.Errorf("FormatSize(%d) = %q, want %q", n, got, want)
		}
	}
}
