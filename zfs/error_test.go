package zfs_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"obuilder.org/obuilder/zfs"
)

func TestErrorText(t *testing.T) {
	argv := []string{"zfs", "destroy", "p/a b"}
	for _, c := range []struct {
		err  zfs.Error
		want string
	}{
		{zfs.Error{Argv: argv, Status: 1, Stderr: "cannot destroy 'p/a b': filesystem has children\nuse '-r' to destroy the following datasets:\np/a b/c"},
			"zfs destroy 'p/a b': exit status 1: cannot destroy 'p/a b': filesystem has children; use '-r' to destroy the following datasets:; p/a b/c"},
		{zfs.Error{Argv: argv, Status: 2, Stderr: "cannot open 'p/a b': no\nusage:\n\tdestroy ..."},
			"zfs destroy 'p/a b': exit status 2: cannot open 'p/a b': no"},
		{zfs.Error{Argv: argv, Status: 2, Stderr: "usage:\n\tdestroy ..."}, "zfs destroy 'p/a b': exit status 2"},
		{zfs.Error{Argv: argv, Status: 16}, "zfs destroy 'p/a b': exit status 16"},
		{zfs.Error{Argv: argv, Status: -1, Err: context.DeadlineExceeded}, "zfs destroy 'p/a b': context deadline exceeded"},
	} {
		if got := c.err.Error(); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}

func TestKindOf(t *testing.T) {
	err := fmt.Errorf("step: %w", &zfs.Error{Kind: zfs.Busy, Err: context.Canceled})
	if zfs.KindOf(err) != zfs.Busy || !zfs.IsKind(err, zfs.Busy) || zfs.IsKind(err, zfs.Unknown) || !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	for _, other := range []error{nil, errors.New("x")} {
		if zfs.KindOf(other) != zfs.Unknown || zfs.IsKind(other, zfs.Unknown) {
			t.Errorf("%v is a failed command", other)
		}
	}
	if zfs.Unavailable.String() != "unavailable" || zfs.Kind(99).String() != "Kind(99)" {
		t.Error(zfs.Unavailable, zfs.Kind(99))
	}
}
