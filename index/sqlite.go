package index

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// Errors of an index kept in a file, beside those of every index; they come wrapped.
var (
	// ErrNotIndex is returned for a file that is something else: no SQLite
	// database, a damaged one, or one whose tables are not those of an index.
	ErrNotIndex = errors.New("not an index of build results")
	// ErrReadOnly is returned where the file or its directory cannot be written.
	ErrReadOnly = errors.New("not writable")
	// ErrFull is returned where the file system has no space left.
	ErrFull = errors.New("no space left")
	// ErrBusy is returned when another process kept the file locked for longer
	// than we wait, which is five seconds.
	ErrBusy = errors.New("locked by another process")
)

// The schema, the times' form and WAL mode are those of lib/dao.ml and
// lib/db.ml of ocurrent/obuilder, which must go on working on the same file:
// so there is no index on parent, although Children and Delete would like one.
const (
	table = `CREATE TABLE IF NOT EXISTS builds (
		id       TEXT PRIMARY KEY,
		created  DATETIME NOT NULL,
		used     DATETIME NOT NULL,
		rc       INTEGER NOT NULL,
		parent   TEXT,
		FOREIGN KEY (parent) REFERENCES builds (id) ON DELETE RESTRICT
	)`
	lru = `CREATE INDEX IF NOT EXISTS lru ON builds (rc, used)`

	timeForm = "2006-01-02 15:04:05"
)

// The driver turns columns declared as DATETIME into times by rules of its
// own; an expression has no declared type.
const columns = `id, coalesce(parent, ''), created || '', used || '', rc`

// file is the index in a SQLite file. It has one connection: within the
// process, methods wait for each other in Go; only other processes can make
// SQLite itself wait.
type file struct {
	path   string
	db     *sql.DB
	closed atomic.Bool

	exists, upsert, count, recount, setUsed, get, children, remove *sql.Stmt
}

var _ Index = (*file)(nil)

// Open opens the index in the file at path, creating it, and directories above
// it with mode 0700, if missing. What is there and is not an index is left as
// it is. Other processes, ocurrent/obuilder among them, may use the file at the
// same time.
//
// A transaction is safe from a crash of the process at once, and from a crash
// of the machine at the next checkpoint (synchronous=NORMAL in WAL mode, as
// ocurrent/obuilder has it): a power failure can take away the last rows and
// never leaves a damaged file. Waiting for the disk at every use of a result
// would buy nothing, because the snapshots are what is true: a result that
// is complete and not in the index is added again when it is next found.
func Open(ctx context.Context, path string) (Index, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("index: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("index %s: %w", path, err)
	}
	u := url.URL{Scheme: "file", Path: filepath.ToSlash(path), RawQuery: url.Values{
		"_pragma": {"busy_timeout(5000)", "foreign_keys(1)", "synchronous(normal)"},
		"_txlock": {"immediate"},
	}.Encode()}
	if !strings.HasPrefix(u.Path, "/") { // a Windows volume
		u.Path = "/" + u.Path
	}
	db, err := sql.Open("sqlite", u.String())
	if err != nil {
		return nil, fmt.Errorf("index %s: %w", path, err)
	}
	db.SetMaxOpenConns(1)
	f := &file{path: path, db: db}
	if err := f.prepare(ctx); err != nil {
		db.Close()
		return nil, f.wrap(err)
	}
	return f, nil
}

func (f *file) prepare(ctx context.Context) error {
	if err := f.inspect(ctx); err != nil {
		return err
	}
	if _, err := f.db.ExecContext(ctx, `PRAGMA journal_mode=WAL`); err != nil {
		return err
	}
	err := f.transact(ctx, func(tx *sql.Tx) error {
		// SQLite opens a file that it may not write for reading, and says so at
		// the first statement that would write: the last one here always would.
		for _, s := range []string{table, lru, `DELETE FROM builds WHERE false`} {
			if _, err := tx.ExecContext(ctx, s); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, s := range []struct {
		stmt **sql.Stmt
		text string
	}{
		{&f.exists, `SELECT EXISTS (SELECT 1 FROM builds WHERE id = ?)`},
		// Not INSERT OR REPLACE: that deletes the row first, which a row with
		// children does not allow, and its count with it.
		{&f.upsert, `INSERT INTO builds (id, created, used, rc, parent) VALUES (?, ?, ?, 0, nullif(?, ''))
			ON CONFLICT (id) DO UPDATE SET created = excluded.created, used = excluded.used, parent = excluded.parent`},
		{&f.count, `UPDATE builds SET rc = rc + ? WHERE id = ?`},
		{&f.recount, `UPDATE builds SET rc = (SELECT count(*) FROM builds WHERE parent = ?1) WHERE id = ?1`},
		{&f.setUsed, `UPDATE builds SET used = ? WHERE id = ?`},
		{&f.get, `SELECT ` + columns + ` FROM builds WHERE id = ?`},
		{&f.children, `SELECT id FROM builds WHERE parent = ? ORDER BY id`},
		{&f.remove, `DELETE FROM builds WHERE id = ?`},
	} {
		if *s.stmt, err = f.db.PrepareContext(ctx, s.text); err != nil {
			return err
		}
	}
	return nil
}

// inspect looks whether the file is new or an index, and writes nothing.
func (f *file) inspect(ctx context.Context) error {
	var tables, builds int
	err := f.db.QueryRowContext(ctx, `SELECT count(*), count(nullif(name <> 'builds', 1)) FROM sqlite_schema WHERE type = 'table'`).Scan(&tables, &builds)
	if err != nil || tables == 0 {
		return err
	}
	if builds == 0 {
		return fmt.Errorf("%w: a database without the table builds", ErrNotIndex)
	}
	got, err := scan[string](f.db.QueryContext(ctx, `SELECT name FROM pragma_table_info('builds')`))
	if err != nil {
		return err
	}
	if want := []string{"id", "created", "used", "rc", "parent"}; !slices.Equal(got, want) {
		return fmt.Errorf("%w: the table builds has columns %s instead of %s",
			ErrNotIndex, strings.Join(got, ", "), strings.Join(want, ", "))
	}
	return nil
}

// transact runs one transaction.
func (f *file) transact(ctx context.Context, do func(*sql.Tx) error) error {
	tx, err := f.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if err := do(tx); err != nil {
		return err
	}
	return tx.Commit()
}

// wrap adds the file's name to an error, and to what comes from SQLite the
// class that it belongs to.
func (f *file) wrap(err error) error {
	if err == nil {
		return nil
	}
	if f.closed.Load() {
		return fmt.Errorf("index %s: %w", f.path, ErrClosed)
	}
	var e *sqlite.Error
	if errors.As(err, &e) {
		switch e.Code() & 0xff {
		case sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT:
			return fmt.Errorf("index %s: %w: %w", f.path, ErrNotIndex, err)
		case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM:
			return fmt.Errorf("index %s: %w: %w", f.path, ErrReadOnly, err)
		case sqlite3.SQLITE_CANTOPEN:
			if info, e := os.Stat(f.path); e == nil && info.IsDir() {
				return fmt.Errorf("index %s: %w: a directory", f.path, ErrNotIndex)
			}
			return fmt.Errorf("index %s: %w: %w", f.path, ErrReadOnly, err)
		case sqlite3.SQLITE_FULL:
			return fmt.Errorf("index %s: %w: %w", f.path, ErrFull, err)
		case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
			return fmt.Errorf("index %s: %w: %w", f.path, ErrBusy, err)
		}
	}
	return fmt.Errorf("index %s: %w", f.path, err)
}

func (f *file) Add(ctx context.Context, r Result) error {
	if err := r.check(); err != nil {
		return err
	}
	return f.wrap(f.transact(ctx, func(tx *sql.Tx) error {
		if r.Parent != "" {
			var ok bool
			if err := tx.StmtContext(ctx, f.exists).QueryRowContext(ctx, r.Parent).Scan(&ok); err != nil {
				return err
			}
			if !ok {
				return fmt.Errorf("parent %s of %s: %w", r.Parent, r.ID, ErrNotFound)
			}
		}
		old, err := scanResult(tx.StmtContext(ctx, f.get).QueryRowContext(ctx, r.ID))
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if _, err := tx.StmtContext(ctx, f.upsert).ExecContext(ctx, r.ID, text(r.Created), text(r.Used), r.Parent); err != nil {
			return err
		}
		// No row has the id "", that of the parent of what is new or a base.
		count := tx.StmtContext(ctx, f.count)
		if _, err := count.ExecContext(ctx, 1, r.Parent); err != nil {
			return err
		}
		_, err = count.ExecContext(ctx, -1, old.Parent)
		return err
	}))
}

func (f *file) SetUsed(ctx context.Context, used time.Time, ids ...string) error {
	if err := checkTime(used); err != nil {
		return err
	}
	return f.wrap(f.transact(ctx, func(tx *sql.Tx) error {
		stmt := tx.StmtContext(ctx, f.setUsed)
		for _, id := range ids {
			if _, err := stmt.ExecContext(ctx, text(used), id); err != nil {
				return err
			}
		}
		return nil
	}))
}

func (f *file) Get(ctx context.Context, id string) (Result, error) {
	r, err := scanResult(f.get.QueryRowContext(ctx, id))
	if errors.Is(err, sql.ErrNoRows) {
		err = fmt.Errorf("%s: %w", id, ErrNotFound)
	}
	return r, f.wrap(err)
}

func (f *file) Children(ctx context.Context, id string) ([]string, error) {
	var ids []string
	err := f.transact(ctx, func(tx *sql.Tx) error {
		var ok bool
		if err := tx.StmtContext(ctx, f.exists).QueryRowContext(ctx, id).Scan(&ok); err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("%s: %w", id, ErrNotFound)
		}
		var err error
		ids, err = scan[string](tx.StmtContext(ctx, f.children).QueryContext(ctx, id))
		return err
	})
	return ids, f.wrap(err)
}

// Delete goes by the rows and not by rc, which drifts in ocurrent/obuilder
// (its insertion of an existing row sets the count to nothing, and counts the
// row with its parent once more), and sets the parent's right.
func (f *file) Delete(ctx context.Context, id string) error {
	return f.wrap(f.transact(ctx, func(tx *sql.Tx) error {
		r, err := scanResult(tx.StmtContext(ctx, f.get).QueryRowContext(ctx, id))
		if errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("%s: %w", id, ErrNotFound)
		} else if err != nil {
			return err
		}
		kids, err := scan[string](tx.StmtContext(ctx, f.children).QueryContext(ctx, id))
		if err != nil {
			return err
		}
		if len(kids) > 0 {
			return fmt.Errorf("%s: %w", id, ErrHasChildren)
		}
		if _, err := tx.StmtContext(ctx, f.remove).ExecContext(ctx, id); err != nil {
			return err
		}
		_, err = tx.StmtContext(ctx, f.recount).ExecContext(ctx, r.Parent)
		return err
	}))
}

func (f *file) Recount(ctx context.Context, id string) error {
	return f.wrap(f.transact(ctx, func(tx *sql.Tx) error {
		done, err := tx.StmtContext(ctx, f.recount).ExecContext(ctx, id)
		if err != nil {
			return err
		}
		if n, err := done.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, fmt.Errorf("%s: %w", id, ErrNotFound))
		}
		return nil
	}))
}

// LRU goes by the rows like Delete, so what it gives can be deleted, and what
// rc alone keeps is found as well.
func (f *file) LRU(ctx context.Context, before time.Time, limit int) ([]string, error) {
	if err := checkTime(before); err != nil {
		return nil, err
	}
	ids, err := scan[string](f.db.QueryContext(ctx, `SELECT id FROM builds
		WHERE used < ? AND id NOT IN (SELECT parent FROM builds WHERE parent IS NOT NULL)
		ORDER BY used, id LIMIT ?`, text(before), max(limit, 0)))
	return ids, f.wrap(err)
}

func (f *file) All(ctx context.Context) ([]Result, error) {
	rows, err := f.db.QueryContext(ctx, `SELECT `+columns+` FROM builds ORDER BY created, id`)
	if err != nil {
		return nil, f.wrap(err)
	}
	defer rows.Close()
	var all []Result
	for rows.Next() {
		r, err := scanResult(rows)
		if err != nil {
			return nil, f.wrap(err)
		}
		all = append(all, r)
	}
	return all, f.wrap(rows.Err())
}

func (f *file) Count(ctx context.Context) (int, error) {
	var n int
	err := f.db.QueryRowContext(ctx, `SELECT count(*) FROM builds`).Scan(&n)
	return n, f.wrap(err)
}

func (f *file) Close() error {
	if f.closed.Swap(true) {
		return nil
	}
	if err := f.db.Close(); err != nil {
		return fmt.Errorf("index %s: %w", f.path, err)
	}
	return nil
}

func text(t time.Time) string { return t.UTC().Format(timeForm) }

// scanResult reads the columns of a row.
func scanResult(row interface{ Scan(...any) error }) (Result, error) {
	var r Result
	var created, used string
	if err := row.Scan(&r.ID, &r.Parent, &created, &used, &r.Children); err != nil {
		return Result{}, err
	}
	var err1, err2 error
	r.Created, err1 = time.Parse(timeForm, created)
	r.Used, err2 = time.Parse(timeForm, used)
	if err := errors.Join(err1, err2); err != nil {
		return Result{}, fmt.Errorf("%s: %w: %w", r.ID, ErrNotIndex, err)
	}
	return r, nil
}

// scan reads the rows of a query that has one column.
func scan[T any](rows *sql.Rows, err error) ([]T, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []T
	for rows.Next() {
		var v T
		if err := rows.Scan(&v); err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, rows.Err()
}
