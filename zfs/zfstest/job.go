package zfstest

import (
	"slices"

	"obuilder.org/obuilder/zfs"
)

// The sequence that the whole of obuilder is for.
var jobCases = []testCase{
	{name: "a job", run: testJob},
	{name: "a job's results are destroyed", run: testPrune},
}

// base makes a base image with a home and a brew prefix.
func (w *world) base() {
	w.create("base-image", "mountpoint=none")
	w.create("base-image/img", "mountpoint=none")
	for _, part := range []string{"home", "brew"} {
		at := w.outside("prepare", part)
		w.create("base-image/img/"+part, "mountpoint="+at)
		w.write(at+"/f", part+" of base")
		w.set("base-image/img/"+part, "mountpoint=none")
	}
	w.must(w.FS.Snapshot(w.ctx, true, w.snap("base-image/img@snap")))
	w.create("result")
	w.create("result/H")
	w.clone("base-image/img/home@snap", "result/H/home", "mountpoint=none")
	w.clone("base-image/img/brew@snap", "result/H/brew", "mountpoint=none")
	w.must(w.FS.Snapshot(w.ctx, true, w.snap("result/H@snap")))
}

// step builds the result to on from. Both exist when it returns.
func (w *world) step(from, to string) {
	w.clone(from+"@snap", to)
	w.clone(from+"/home@snap", to+"/home", "mountpoint=none")
	w.clone(from+"/brew@snap", to+"/brew", "mountpoint=none")
	w.set(to+"/home", "mountpoint="+w.outside("Users", "mac1000"))
	w.set(to+"/brew", "mountpoint="+w.outside("usr", "local"))
	w.reads(w.outside("usr", "local", "f"), "brew of base")
	w.write(w.at(to, "log"), "log of "+to)
	w.write(w.outside("Users", "mac1000", "f"), "home of "+to)
	w.set(to+"/home", "mountpoint=none")
	w.set(to+"/brew", "mountpoint=none")
	w.must(w.FS.Snapshot(w.ctx, true, w.snap(to+"@snap")))
}

func testJob(w *world) {
	w.base()
	w.step("result/H", "result/1")
	w.step("result/1", "result/2")
	w.is("result/2/home", "origin", w.snap("result/1/home@snap").String(), "-")
	w.reads(w.at("result", "1", ".zfs", "snapshot", "snap", "log"), "log of result/1")
	w.reads(w.at("result", "2", "log"), "log of result/2")
	w.reads(w.outside("Users", "mac1000", "f"), "")
	w.set("result/1/home", "mountpoint="+w.outside("look"))
	w.reads(w.outside("look", "f"), "home of result/1")
	w.set("result/1/home", "mountpoint=none")

	// A step that fails leaves nothing.
	w.clone("result/2@snap", "result/3")
	w.clone("result/2/home@snap", "result/3/home", "mountpoint=none")
	w.fails(w.destroy("result/3"), zfs.HasChildren)
	w.must(w.FS.Destroy(w.ctx, w.ds("result/3"), zfs.DestroyMode{Recursive: true, Force: true}))
	var results []string
	for _, name := range w.all() {
		if len(name) > 7 && name[:7] == "result/" {
			results = append(results, name)
		}
	}
	var want []string
	for _, r := range []string{"result/1", "result/2", "result/H"} {
		want = append(want, r, r+"@snap", r+"/brew", r+"/brew@snap", r+"/home", r+"/home@snap")
	}
	if !slices.Equal(results, want) {
		w.Errorf("results: %q", results)
	}
}

// Results go leaf first: a parent with descendants cannot be destroyed.
func testPrune(w *world) {
	w.base()
	w.step("result/H", "result/1")
	w.step("result/1", "result/2")
	whole := zfs.DestroyMode{Recursive: true, Force: true}
	w.fails(w.FS.Destroy(w.ctx, w.ds("result/1"), whole), zfs.HasClones)
	w.fails(w.FS.Destroy(w.ctx, w.ds("base-image/img"), whole), zfs.HasClones)
	w.must(w.FS.Destroy(w.ctx, w.ds("result/2"), whole))
	w.must(w.FS.Destroy(w.ctx, w.ds("result/1"), whole))
	w.must(w.FS.Destroy(w.ctx, w.ds("result/H"), whole))
	w.must(w.FS.Destroy(w.ctx, w.ds("base-image/img"), whole))
	w.exist("base-image", "result")
}
