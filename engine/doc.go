// Package engine builds specs: it runs each step on clones of the step
// before, snapshots what succeeds and never runs the same step twice. It alone
// knows the sequence of zfs commands that a job is; production, the simulator
// and the tests all run this code, on whichever [zfs.FS] they have.
//
//	e, err := engine.Open(ctx, engine.Options{FS: fs, Files: files, Root: pool, Sandbox: sb})
//	defer e.Close()
//	id, err := e.Build(ctx, engine.Job{Spec: s, Source: tree, Events: print})
//
// # The order of things
//
// A result is complete when POOL/result/ID@snap exists; it is taken last and
// recursively, and is the first that goes when a result is deleted. Before a
// dataset that is not yet complete is made, or a complete one is destroyed, a
// marker is written below POOL/state/running, and it is removed when the
// dataset is complete and in the index, or gone: what a killed process leaves
// is found by its markers, without a look at every dataset.
//
// A result is used only when it is what its id says: a clone, with all its
// children, of the snapshots of the result that it is built on, or of its base
// image as that is now. Each job looks at that, for all its steps, with the
// listing that tells which of them are there. Others are stale: they are built
// anew, what was built on them is stale with them, and all of it is destroyed,
// a few at a time. Those of images that are gone stay until [Engine.Fsck]
// clears them away, because nobody can use them, and the image may come back.
//
// Open does not look at every result, and so does not see what a program left
// that writes no markers, as ocurrent/obuilder, which may still be at it. A
// build uses none of that, and replaces what is in its way; Fsck finds the rest.
//
// # Concurrency
//
// Builds may run concurrently. A step that several of them need is run once:
// each sees its output from the start, and it is cancelled when the last of
// them is. Only a copy, which reads files of the build that began it, is
// cancelled with that build; the others then begin it again. Commands of steps
// run one at a time, because the mount points are there once. A build holds
// all the results that it is known to need, built or not, as long as it runs:
// what deletes results waits for the builds that hold them, and the builds
// that begin meanwhile and need them wait for it.
//
// # Room
//
// Prune destroys results that no build needs, the least recently used first.
// One that goes is renamed to POOL/pruned-ID, which frees its id with one
// command wherever the process ends after that, and then destroyed. A step
// that fails because no space was left has results pruned, and is made once
// more if that has helped.
package engine
