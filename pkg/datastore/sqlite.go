package datastore

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/k3s-io/kine/pkg/drivers"
	"github.com/k3s-io/kine/pkg/drivers/sqlite"
)

// sqliteFile is one SQLite database.
type sqliteFile struct {
	path        string
	synchronous string // FULL syncs the log at each commit, OFF leaves it to the kernel
}

// params say how a database is used: by all connections, those that kine opens to make the tables included.
func (f sqliteFile) params() string {
	return "_txlock=immediate&_pragma=busy_timeout(30000)&_pragma=journal_mode(WAL)&_pragma=synchronous(" + f.synchronous +
		")&_pragma=journal_size_limit(8388608)&_pragma=cache_size(-1000)" // KiB; what else is read the kernel has
}

// dsn is for modernc.org/sqlite.
func (f sqliteFile) dsn() string { return sqliteURI(f.path) + "?" + f.params() }

// kineDSN is for kine, which makes a URI of it.
func (f sqliteFile) kineDSN() string {
	return strings.TrimPrefix(sqliteURI(f.path), "file:") + "?" + f.params() + "&_kine_disable_startup_vacuum=true"
}

// sqliteURI names a file whatever characters are in its path. Source: sqlite.org/uri.html.
func sqliteURI(path string) string { return "file:" + (&url.URL{Path: path}).EscapedPath() }

// vacuumAbove is how many bytes of a file may lie idle, when they are more than half of it, before it is rewritten.
const vacuumAbove = 16 << 20

// damagedError is about a database file that only a backup can replace.
type damagedError struct{ path, how string }

func (e *damagedError) Error() string { return "database " + e.path + " " + e.how }

// advise says what to do about a damaged file.
func advise(err error) error {
	if damaged := new(damagedError); errors.As(err, &damaged) {
		return fmt.Errorf("%w: restore it from a backup, or move it away, with its -wal, to start with an empty cluster", err)
	}
	return err
}

// checkSQLite reports a file that SQLite cannot use: not a database, cut short, damaged inside; these are
// damagedErrors, and nothing is changed then. A missing file is fine. It rewrites a file that consists mostly of free
// pages.
//
// It reads the whole file at each start, which the API server does a moment later anyway: 3 ms per MB, and most clusters
// have 10. Damage that is found later is found after new writes went on top of it.
func checkSQLite(path string) error {
	log, err := os.Stat(path + "-wal")
	unclean := err == nil && log.Size() > 0
	size, err := headerSize(path)
	if errors.Is(err, os.ErrNotExist) {
		if unclean { // which SQLite would delete, or worse, take for the log of a new file
			return &damagedError{path, "is missing, but its log " + path + "-wal is there"}
		}
		return nil
	}
	if err != nil {
		return err
	}
	fi, err := os.Stat(path)
	if err != nil {
		return err
	}
	if fi.Size() < size && !unclean {
		return &damagedError{path, fmt.Sprintf("is cut short: %d bytes of %d are there", fi.Size(), size)}
	}
	mode := "?immutable=1" // takes no locks and makes no files, and knows of no log
	if unclean {
		mode = "?mode=ro" // reads the log, but does not write it into the file
	}
	free, pages, pageSize, err := inspect(path, mode)
	if err != nil {
		return err
	}
	if free*pageSize > vacuumAbove && free > pages/2 {
		if err := vacuum(path); err != nil { // which needs room for a copy
			slog.Warn("the database was not shrunk", "path", path, "free", free*pageSize, "err", err)
		}
	}
	return nil
}

// inspect reads every page.
func inspect(path, mode string) (free, pages, pageSize int64, err error) {
	db, err := sql.Open("sqlite", sqliteURI(path)+mode)
	if err != nil {
		return 0, 0, 0, err
	}
	defer db.Close()
	var verdict string
	if err := db.QueryRow("PRAGMA quick_check(1)").Scan(&verdict); err != nil {
		return 0, 0, 0, failure(path, err)
	}
	if verdict != "ok" {
		return 0, 0, 0, &damagedError{path, "is damaged: " + verdict}
	}
	err = db.QueryRow("SELECT * FROM pragma_freelist_count(), pragma_page_count(), pragma_page_size()").Scan(&free, &pages, &pageSize)
	if err != nil {
		err = failure(path, err)
	}
	return free, pages, pageSize, err
}

func vacuum(path string) error {
	db, err := sql.Open("sqlite", sqliteURI(path)+"?_pragma=busy_timeout(10000)")
	if err != nil {
		return err
	}
	defer db.Close()
	_, err = db.Exec("VACUUM")
	return err
}

// createSQLite makes a database with kine's tables, unless there is one. It gets its name when it is complete, so that
// an empty file is always one that has lost its content.
func createSQLite(path string) error {
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	made := sqliteFile{path + ".new", "OFF"}        // synced once, at the end
	if err := removeSQLite(made.path); err != nil { // what an earlier start was killed over
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	_, _, err := sqlite.NewVariant(ctx, &wg, "sqlite3", &drivers.Config{DataSourceName: made.kineDSN()})
	cancel()
	wg.Wait() // closes it, with which the log goes into the file
	if err != nil {
		return fmt.Errorf("create database %s: %w", path, err)
	}
	if err := fsync(made.path); err != nil {
		return err
	}
	if err := removeSQLite(path); err != nil { // an old log must not meet the new file
		return err
	}
	if err := os.Rename(made.path, path); err != nil {
		return err
	}
	return fsync(filepath.Dir(path))
}

func fsync(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// failure tells damage from what may pass, such as a full disk. Source: sqlite.org/rescode.html.
func failure(path string, err error) error {
	const corrupt, notADatabase = 11, 26
	var coded interface{ Code() int }
	if errors.As(err, &coded) && (coded.Code()&0xff == corrupt || coded.Code()&0xff == notADatabase) {
		return &damagedError{path, "is damaged: " + err.Error()}
	}
	return fmt.Errorf("open database %s: %w", path, err)
}

// headerSize is the size in bytes that the file's own header states.
// Source: sqlite.org/fileformat2.html, "The Database Header".
func headerSize(path string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	h := make([]byte, 100)
	n, err := io.ReadFull(f, h)
	if n == 0 && errors.Is(err, io.EOF) {
		return 0, &damagedError{path, "is empty"}
	}
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return 0, err
	}
	if n < len(h) || string(h[:16]) != "SQLite format 3\x00" {
		return 0, &damagedError{path, "is not a SQLite database"}
	}
	page := int64(binary.BigEndian.Uint16(h[16:]))
	if page == 1 {
		page = 65536
	}
	return page * int64(binary.BigEndian.Uint32(h[28:])), nil
}

// removeSQLite deletes a database with its log and shared memory.
func removeSQLite(path string) error {
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := os.Remove(path + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}
