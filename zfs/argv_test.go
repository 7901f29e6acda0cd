package zfs_test

import (
	"os/exec"
	"strings"
	"testing"

	"obuilder.org/obuilder/zfs"
	"pgregory.net/rapid"
)

func TestArgv(t *testing.T) {
	d := zfs.MustDataset
	s := zfs.MustSnapshot
	none := zfs.Property{Name: "mountpoint", Value: "none"}
	for _, c := range []struct {
		argv []string
		want string
	}{
		{zfs.ArgvCreate(d("p/result/H"), zfs.CreateOptions{}), "zfs create p/result/H"},
		{zfs.ArgvCreate(d("p/a b"), zfs.CreateOptions{Parents: true, Properties: []zfs.Property{none, {Name: "canmount", Value: "off"}}}), "zfs create -p -o mountpoint=none -o canmount=off 'p/a b'"},
		{zfs.ArgvClone(s("p/A@snap"), d("p/B")), "zfs clone p/A@snap p/B"},
		{zfs.ArgvClone(s("p/A@snap"), d("p/B"), none), "zfs clone -o mountpoint=none p/A@snap p/B"},
		{zfs.ArgvSnapshot(true, s("p/X@snap")), "zfs snapshot -r p/X@snap"},
		{zfs.ArgvSnapshot(false, s("p/X@a"), s("p/Y@b")), "zfs snapshot p/X@a p/Y@b"},
		{zfs.ArgvDestroy(d("p/X"), zfs.DestroyMode{}), "zfs destroy p/X"},
		{zfs.ArgvDestroy(d("p/X"), zfs.DestroyMode{Recursive: true, Force: true}), "zfs destroy -r -f p/X"},
		{zfs.ArgvDestroy(d("p/X"), zfs.DestroyMode{Recursive: true, Dependents: true}), "zfs destroy -R p/X"},
		{zfs.ArgvDestroy(s("p/X@snap"), zfs.DestroyMode{Defer: true}), "zfs destroy -d p/X@snap"},
		{zfs.ArgvSet(d("p/X"), zfs.Property{Name: "mountpoint", Value: "/Users/mac1000"}), "zfs set mountpoint=/Users/mac1000 p/X"},
		{zfs.ArgvSet(d("p/X"), none, zfs.Property{Name: "org.obuilder:note", Value: "it's"}), `zfs set mountpoint=none 'org.obuilder:note=it'\''s' p/X`},
		{zfs.ArgvInherit(d("p/X"), "mountpoint", false), "zfs inherit mountpoint p/X"},
		{zfs.ArgvInherit(d("p/X"), "mountpoint", true), "zfs inherit -r mountpoint p/X"},
		{zfs.ArgvMount(s("p/result/H@snap")), "zfs mount p/result/H@snap"},
		{zfs.ArgvUnmount(d("p/X"), false), "zfs unmount p/X"},
		{zfs.ArgvUnmount(s("p/X@s"), true), "zfs unmount -f p/X@s"},
		{zfs.ArgvPromote(d("p/X")), "zfs promote p/X"},
		{zfs.ArgvRename(d("p/X"), d("p/Y"), zfs.RenameOptions{}), "zfs rename p/X p/Y"},
		{zfs.ArgvRename(d("p/X"), d("p/Y"), zfs.RenameOptions{Parents: true, Force: true, NoRemount: true}), "zfs rename -p -f -u p/X p/Y"},
		{zfs.ArgvRename(s("p/X@a"), s("p/X@b"), zfs.RenameOptions{Recursive: true}), "zfs rename -r p/X@a p/X@b"},
		{zfs.ArgvRollback(s("p/X@a"), false), "zfs rollback p/X@a"},
		{zfs.ArgvRollback(s("p/X@a"), true), "zfs rollback -r p/X@a"},
		{zfs.ArgvList(zfs.ListOptions{}), "zfs list -Hp -d 0 -t filesystem -o name"},
		{zfs.ArgvList(zfs.ListOptions{Roots: []zfs.Name{d("p"), d("q/r")}}), "zfs list -Hp -t filesystem -o name p q/r"},
		{zfs.ArgvList(zfs.ListOptions{Recursive: true, Depth: 2, Types: []zfs.Type{zfs.Filesystems, zfs.Snapshots}, Properties: []string{"origin", "used"}, Roots: []zfs.Name{d("p")}}),
			"zfs list -Hp -d 2 -t filesystem,snapshot -o name,origin,used p"},
		{zfs.ArgvList(zfs.ListOptions{Recursive: true}), "zfs list -Hp -r -t filesystem -o name"},
		{zfs.ArgvGet(s("p@s"), "used", "guid"), "zfs get -Hp -o name,property,value,source used,guid p@s"},
		{zfs.ArgvPool("p"), "zpool list -Hp -o size,allocated,free,capacity,health p"},
	} {
		if got := zfs.CommandLine(c.argv); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}

// A shell reads back what CommandLine wrote.
func TestCommandLineIsReadBack(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("needs a POSIX shell to compare with")
	}
	arg := rapid.StringMatching(`[ -~\n\tÀ-ÿ]{0,8}`)
	rapid.Check(t, func(t *rapid.T) {
		args := rapid.SliceOfN(arg, 1, 5).Draw(t, "args")
		out, err := exec.Command(sh, "-c", `printf '%s\0' `+zfs.CommandLine(args)).Output()
		if err != nil {
			t.Fatal(err)
		}
		if want := strings.Join(args, "\x00") + "\x00"; string(out) != want {
			t.Fatalf("the shell read %q from %s", out, zfs.CommandLine(args))
		}
	})
}
