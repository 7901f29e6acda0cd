//go:build !linux

package main

import (
	"context"
	"errors"
)

func newReal(context.Context) (*player, error) {
	return nil, errors.New("OpenZFS is compared with on Linux: set OPENZFS_VM, see the head of scripts/openzfs")
}
