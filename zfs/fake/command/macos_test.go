package command_test

import (
	"context"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"

	"obuilder.org/obuilder/zfs/fake"
	"obuilder.org/obuilder/zfs/fake/command"
	"obuilder.org/obuilder/zfs/zfstest/session"
)

// What is different on a Mac. It is not recorded: the statuses are from
// zfs_snapshot_mount in lib/libzfs/os/macos/libzfs_mount_os.c.
func TestMacOS(t *testing.T) {
	const want = `$ zfs create tank/a
$ zfs mount tank/a@s
2|cannot open 'tank/a@s': dataset does not exist
=1
$ zfs snapshot tank/a@s
$ zfs mount tank/a@s
$ zfs mount tank/a@s
=16
$ zfs unmount tank/a@s
$ zfs umount tank/a@s
2|cannot unmount 'tank/a@s': not currently mounted
=1
$ zfs mount tank/a@s
$ zfs unmount tank/a
$ zfs mount tank/a@s
2|parent dataset 'tank/a' must be mounted
=22
$ zfs mount tank/b@s
2|cannot open 'tank/b@s': dataset does not exist
=1
$ zfs mount 'tank/a@s!'
2|cannot open 'tank/a@s!': invalid character '!' in name
=1
$ zfs mount -a
$ open /tank/a
$ zfs unmount tank/a
2|cannot unmount '/tank/a': pool or dataset is busy
=1
$ zfs unmount -f tank/a
$ zfs mount
1|tank                            /tank
`
	m := fake.New(fake.Pool("tank", 1<<30, ""), fake.SnapshotMounts(true))
	p := session.Player{Files: m.Files(), Run: func(ctx context.Context, argv []string, in io.Reader, out, err io.Writer) (int, error) {
		return command.Run(ctx, m, argv, in, out, err), nil
	}}
	defer p.Close()
	var got []session.Step
	for _, s := range parse(t, []byte(want)) {
		done, err := p.Play(t.Context(), s.Command)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, done)
	}
	if diff := cmp.Diff(want, session.Print(got)); diff != "" {
		t.Error(diff)
	}
}
