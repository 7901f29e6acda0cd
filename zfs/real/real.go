package real

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"obuilder.org/obuilder/zfs"
)

// Options are the options of [New]. The zero value looks zfs up.
type Options struct {
	// ZFS is the path of the program zfs; zpool is beside it. When empty it
	// is looked up, once: in PATH, then where OpenZFS is usually installed.
	ZFS string

	// Forbidden are directories that zfs must not be in, links resolved,
	// because something else is mounted there while zfs is needed: the
	// prefix of Homebrew.
	Forbidden []string

	// Sudo is put before each command line, such as "sudo", "-n", unless this
	// process is root's. Empty, commands run as the current user.
	Sudo []string

	// Deadline bounds each command but those that destroy; 0 means 5 minutes.
	Deadline time.Duration

	// DestroyDeadline bounds Destroy and Rollback; 0 means 2 hours. A Mac
	// frees 2 to 3 GB a minute.
	DestroyDeadline time.Duration

	// Log gets a line for each command, of the level Debug, and one of the
	// level Error for a process that cannot be killed. Nil logs nothing.
	Log *slog.Logger
}

// FS runs the programs zfs and zpool. Everything may be called concurrently;
// commands that can mount or unmount run one at a time in this process,
// whichever FS they come from, List, Get, Pool and Snapshot beside them.
type FS struct {
	programs        map[string]string // absolute paths of "zfs" and "zpool"
	sudo            []string
	deadline        time.Duration
	destroyDeadline time.Duration
	log             *slog.Logger

	gate      *gate
	wait      func(cmd *exec.Cmd) error
	killGrace time.Duration
	maxOutput int
}

var _ zfs.FS = (*FS)(nil)

// usual is where packages put zfs: OpenZFS on macOS, Linux distributions, and
// what is built from source.
var usual = []string{"/usr/local/zfs/bin", "/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin", "/bin"}

// New looks zfs up and runs nothing. It fails when there is no zfs, when
// there is no zpool beside it, or when either is in a forbidden directory.
func New(opts Options) (*FS, error) {
	programs, err := find(opts)
	if err != nil {
		return nil, err
	}
	f := &FS{
		programs:        programs,
		deadline:        opts.Deadline,
		destroyDeadline: opts.DestroyDeadline,
		log:             opts.Log,
		gate:            &process,
		wait:            (*exec.Cmd).Wait,
		killGrace:       5 * time.Second,
		maxOutput:       256 << 20,
	}
	if os.Geteuid() != 0 {
		f.sudo = opts.Sudo
	}
	if f.deadline == 0 {
		f.deadline = 5 * time.Minute
	}
	if f.destroyDeadline == 0 {
		f.destroyDeadline = 2 * time.Hour
	}
	if f.log == nil {
		f.log = slog.New(slog.DiscardHandler)
	}
	return f, nil
}

// Path gives the absolute path of the program zfs that is run.
func (f *FS) Path() string { return f.programs["zfs"] }

func find(opts Options) (map[string]string, error) {
	if opts.ZFS != "" {
		if !filepath.IsAbs(opts.ZFS) {
			return nil, fmt.Errorf("the path of zfs is not absolute: %q", opts.ZFS)
		}
		return beside(opts.ZFS, opts.Forbidden)
	}
	var candidates []string
	if path, err := exec.LookPath("zfs"); err == nil {
		if path, err = filepath.Abs(path); err == nil {
			candidates = append(candidates, path)
		}
	}
	for _, dir := range usual {
		candidates = append(candidates, filepath.Join(dir, "zfs"))
	}
	var failed []error
	for _, path := range candidates {
		programs, err := beside(path, opts.Forbidden)
		if err == nil {
			return programs, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			failed = append(failed, err)
		}
	}
	if len(failed) > 0 {
		return nil, failed[0]
	}
	return nil, fmt.Errorf("zfs is neither in PATH nor in %s: is OpenZFS installed?", strings.Join(usual, ", "))
}

// beside gives the programs zfs, at path, and zpool, in the same directory.
// What is run later is the file that links lead to now.
func beside(path string, forbidden []string) (map[string]string, error) {
	programs := make(map[string]string)
	for _, name := range []string{"zfs", "zpool"} {
		if name == "zpool" {
			path = filepath.Join(filepath.Dir(path), name+filepath.Ext(path))
		}
		resolved, err := filepath.EvalSymlinks(path)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		info, err := os.Stat(resolved)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if !info.Mode().IsRegular() || runtime.GOOS != "windows" && info.Mode().Perm()&0o111 == 0 {
			return nil, fmt.Errorf("%s: %s is not a program", name, path)
		}
		for _, dir := range forbidden {
			for _, p := range []string{path, resolved} {
				if inside(dir, p) {
					return nil, fmt.Errorf("%s: %s is below %s, which is replaced by a clone while a step runs: install OpenZFS elsewhere and give the path of its zfs", name, p, dir)
				}
			}
		}
		programs[name] = resolved
	}
	return programs, nil
}

// inside reports whether path is dir or below it, as dir is spelt or as links
// lead.
func inside(dir, path string) bool {
	dirs := []string{dir}
	if resolved, err := filepath.EvalSymlinks(dir); err == nil {
		dirs = append(dirs, resolved)
	}
	for _, dir := range dirs {
		rel, err := filepath.Rel(dir, path)
		if err == nil && filepath.IsLocal(rel) {
			return true
		}
	}
	return false
}

// Create implements [zfs.FS].
func (f *FS) Create(ctx context.Context, ds zfs.Dataset, opts zfs.CreateOptions) error {
	return f.mounting(ctx, zfs.ArgvCreate(ds, opts), f.deadline)
}

// Clone implements [zfs.FS].
func (f *FS) Clone(ctx context.Context, origin zfs.Snapshot, ds zfs.Dataset, props ...zfs.Property) error {
	return f.mounting(ctx, zfs.ArgvClone(origin, ds, props...), f.deadline)
}

// Snapshot implements [zfs.FS].
func (f *FS) Snapshot(ctx context.Context, recursive bool, snaps ...zfs.Snapshot) error {
	_, err := f.run(ctx, zfs.ArgvSnapshot(recursive, snaps...), f.deadline)
	return err
}

// Destroy implements [zfs.FS].
func (f *FS) Destroy(ctx context.Context, target zfs.Name, mode zfs.DestroyMode) error {
	return f.mounting(ctx, zfs.ArgvDestroy(target, mode), f.destroyDeadline)
}

// Set implements [zfs.FS].
func (f *FS) Set(ctx context.Context, ds zfs.Dataset, props ...zfs.Property) error {
	return f.mounting(ctx, zfs.ArgvSet(ds, props...), f.deadline)
}

// Inherit implements [zfs.FS].
func (f *FS) Inherit(ctx context.Context, ds zfs.Dataset, property string, recursive bool) error {
	return f.mounting(ctx, zfs.ArgvInherit(ds, property, recursive), f.deadline)
}

// Mount implements [zfs.FS].
func (f *FS) Mount(ctx context.Context, target zfs.Name) error {
	return f.mounting(ctx, zfs.ArgvMount(target), f.deadline)
}

// Unmount implements [zfs.FS].
func (f *FS) Unmount(ctx context.Context, target zfs.Name, force bool) error {
	return f.mounting(ctx, zfs.ArgvUnmount(target, force), f.deadline)
}

// Promote implements [zfs.FS].
func (f *FS) Promote(ctx context.Context, ds zfs.Dataset) error {
	return f.mounting(ctx, zfs.ArgvPromote(ds), f.deadline)
}

// Rename implements [zfs.FS].
func (f *FS) Rename(ctx context.Context, from, to zfs.Name, opts zfs.RenameOptions) error {
	return f.mounting(ctx, zfs.ArgvRename(from, to, opts), f.deadline)
}

// Rollback implements [zfs.FS].
func (f *FS) Rollback(ctx context.Context, to zfs.Snapshot, recursive bool) error {
	return f.mounting(ctx, zfs.ArgvRollback(to, recursive), f.destroyDeadline)
}

// List implements [zfs.FS]. It gives no rows with an error, although zfs
// prints those that it found when some of the roots are missing.
func (f *FS) List(ctx context.Context, opts zfs.ListOptions) ([]zfs.Row, error) {
	argv := zfs.ArgvList(opts)
	out, err := f.run(ctx, argv, f.deadline)
	if err != nil && !zfs.IsKind(err, zfs.NotFound) {
		return nil, err
	}
	rows, parseErr := parseList(out, len(opts.Properties))
	if parseErr != nil {
		return nil, &zfs.Error{Argv: argv, Err: errors.Join(parseErr, err)}
	}
	return rows, err
}

// Get implements [zfs.FS].
func (f *FS) Get(ctx context.Context, target zfs.Name, properties ...string) ([]zfs.Value, error) {
	argv := zfs.ArgvGet(target, properties...)
	out, err := f.run(ctx, argv, f.deadline)
	if err != nil {
		return nil, err
	}
	values, err := parseGet(out, target.String())
	if err != nil {
		return nil, &zfs.Error{Argv: argv, Err: err}
	}
	return values, nil
}

// Pool implements [zfs.FS].
func (f *FS) Pool(ctx context.Context, pool string) (zfs.PoolStatus, error) {
	argv := zfs.ArgvPool(pool)
	out, err := f.run(ctx, argv, f.deadline)
	if err != nil {
		return zfs.PoolStatus{}, err
	}
	status, err := parsePool(out)
	if err != nil {
		return zfs.PoolStatus{}, &zfs.Error{Argv: argv, Err: err}
	}
	return status, nil
}
