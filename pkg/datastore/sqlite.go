package datastore

import (
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"strings"
)

// sqliteFile is one SQLite database.
type sqliteFile struct {
	path        string
	synchronous string // FULL syncs the log at each commit, OFF leaves it to the kernel
}

// params say how a database is used: by all connections, those that kine opens to make the tables included.
func (f sqliteFile) params() string {
	return "_txlock=immediate&_pragma=busy_timeout(30000)&_pragma=journal_mode(WAL)&_pragma=synchronous(" + f.synchronous +
		")&_pragma=journal_size_limit(8388608)"
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

// checkSQLite reports a file that SQLite cannot use: not a database, cut short, or, when the last run ended without
// closing it, damaged inside; these are damagedErrors. A missing file is fine. It rewrites a file that consists mostly
// of free pages.
func checkSQLite(path string) error {
	size, err := headerSize(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	fi, err := os.Stat(path)
	if err != nil {
		return err
	}
	log, err := os.Stat(path + "-wal")
	unclean := err == nil && log.Size() > 0
	if fi.Size() < size && !unclean {
		return &damagedError{path, fmt.Sprintf("is cut short: %d bytes of %d are there", fi.Size(), size)}
	}
	db, err := sql.Open("sqlite", sqliteURI(path)+"?_pragma=busy_timeout(10000)")
	if err != nil {
		return err
	}
	defer db.Close()
	if unclean {
		var verdict string
		if err := db.QueryRow("PRAGMA quick_check(1)").Scan(&verdict); err != nil {
			return failure(path, err)
		}
		if verdict != "ok" {
			return &damagedError{path, "is damaged: " + verdict}
		}
	}
	var free, pages, pageSize int64
	err = db.QueryRow("SELECT * FROM pragma_freelist_count(), pragma_page_count(), pragma_page_size()").Scan(&free, &pages, &pageSize)
	if err != nil {
		return failure(path, err)
	}
	if free*pageSize > vacuumAbove && free > pages/2 {
		if _, err := db.Exec("VACUUM"); err != nil { // which needs room for a copy
			slog.Warn("the database was not shrunk", "path", path, "free", free*pageSize, "err", err)
		}
	}
	return nil
}

// failure tells damage from what may pass, such as a full disk. Source: sqlite.org/rescode.html.
func failure(path string, err error) error {
	const corrupt, notADatabase = 11, 26
	var coded interface{ Code() int }
	if errors.As(err, &coded) && (coded.Code()&0xff == corrupt || coded.Code()&0xff == notADatabase) {
		return &damagedError{path, "is damaged: " + err.Error()}
	}
	return fmt.Errorf("read database %s: %w", path, err)
}

// headerSize is the size in bytes that the file's own header states; 0 for an empty file.
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
		return 0, nil
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
