package real

import (
	"strings"
	"testing"

	"obuilder.org/obuilder/zfs"
)

// Texts that a pool on Linux does not give, and those of which one has to
// outweigh another. The rest is asked of a real pool.
func TestClassify(t *testing.T) {
	for _, c := range []struct {
		command string
		status  int
		stderr  string
		want    zfs.Kind
	}{
		// macOS, from the sources named beside the rules.
		{"zfs mount p/a@s", 16, "", zfs.Mounted},
		{"zfs mount p/a@s", 22, "parent dataset 'p/a' must be mounted", zfs.NotMounted},
		{"zfs mount p/a@s", 22, "", zfs.NotMounted},
		{"zfs mount p/a@s", 1, "cannot open 'p/a@s': dataset does not exist", zfs.NotFound},
		{"zfs unmount p/a", 1, "Volume zfs on disk3s1 failed to unmount: dissented by PID 123 (/usr/libexec/mds)\numount(/x): Resource busy -- try 'diskutil unmount'\ncannot unmount '/x': unmount failed", zfs.Busy},
		{"zfs set mountpoint=none p/a", 1, "umount(/Users/mac1000): Resource busy -- try 'diskutil unmount'", zfs.Busy},
		{"zfs unmount -f z51", 1, "Unmount failed for /Volumes/z51\nFallback umount called\r\numount: unmount(/Volumes/z51): Resource busy\ncannot unmount '/Volumes/z51': umount failed", zfs.Busy},
		{"zfs destroy p/a@s", 1, "cannot destroy snapshot p/a@s: it's being held. Run 'zfs holds -r p/a@s' to see holders.", zfs.Busy},
		// Noise beside what matters.
		{"zfs unmount p/a", 1, "cannot open 'p/a@1': snapshot delimiter '@' is not expected here\ncannot unmount '/x': pool or dataset is busy", zfs.Busy},
		{"zfs destroy -r p/a", 1, "cannot unmount '/x/b': no such pool or dataset\ncannot unmount '/x': pool or dataset is busy", zfs.Busy},
		{"zfs create p/a/b", 1, "cannot mount '/x/b': failed to create mountpoint: No space left on device\nfilesystem successfully created, but not mounted", zfs.NoSpace},
		// The same text for another command.
		{"zfs list p/a@s", 1, "cannot open 'p/a@s': snapshot delimiter '@' is not expected here", zfs.Usage},
		{"zfs snapshot p/a@s", 2, "cannot open 'p/a': dataset does not exist", zfs.NotFound},
		{"zfs list p/a@s", 16, "", zfs.Unknown},
		// Names that look like a text.
		{"zfs destroy p/a", 1, "cannot destroy 'p/dataset does not exist': filesystem has children", zfs.HasChildren},
		{"zfs set x=y p/a", 1, "cannot set property for 'p/a': 'x' must be one of 'cannot open 'x': dataset does not exist'", zfs.Usage},
		{"zfs mount p/a", 1, "cannot mount 'p/a': Not a directory", zfs.Unknown},
		{"zfs mount p/a", 2, "whatever", zfs.Usage},
		{"zfs mount p/a", 1, "sudo: a password is required", zfs.Permission},
	} {
		if got := classify(strings.Fields(c.command), c.status, c.stderr); got != c.want {
			t.Errorf("%s, exit %d, %q: %q, want %q", c.command, c.status, c.stderr, got, c.want)
		}
	}
}
