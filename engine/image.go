package engine

import (
	"context"
	"slices"

	"obuilder.org/obuilder/zfs"
)

// imageChildren are the children of a base image that is made empty.
var imageChildren = []string{"home", "brew"}

// makeImages makes those of the base images that the store does not have
// whole, and reports whether there were any.
func (e *Engine) makeImages(ctx context.Context, names []string) (made bool, err error) {
	for _, name := range names {
		im := e.images[name]
		if im != nil && !slices.ContainsFunc(imageChildren, func(child string) bool { return !im.prepared[child] }) {
			continue
		}
		if err := e.makeImage(ctx, name); err != nil {
			return made, err
		}
		made = true
	}
	return made, nil
}

// makeImage makes an empty base image, or ends the making of one.
func (e *Engine) makeImage(ctx context.Context, name string) error {
	image, err := e.base.Child(name)
	if err != nil {
		return err
	}
	if err := e.fs.Create(ctx, image, zfs.CreateOptions{Parents: true}); err != nil {
		return err
	}
	for _, child := range imageChildren {
		ds, err := image.Child(child)
		if err != nil {
			return err
		}
		if err := e.fs.Create(ctx, ds, zfs.CreateOptions{Parents: true, Properties: []zfs.Property{mountpoint("none")}}); err != nil {
			return err
		}
		if err := e.fs.Snapshot(ctx, false, ds.MustSnapshot(Snap)); err != nil && !zfs.IsKind(err, zfs.Exists) {
			return err
		}
	}
	return nil
}
