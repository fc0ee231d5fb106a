package datastore

import (
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"
)

const pageSize = 4096

// newDatabase makes a SQLite file of some 200 pages. With a log, it is as after kill -9.
func newDatabase(t *testing.T, withLog bool) string {
	t.Helper()
	live := filepath.Join(t.TempDir(), "live.db")
	db := open(t, live)
	execute(t, db, "PRAGMA journal_mode=WAL", "CREATE TABLE a (k INTEGER PRIMARY KEY, v BLOB)",
		"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 400) INSERT INTO a SELECT i, randomblob(2000) FROM n",
		"PRAGMA wal_checkpoint(TRUNCATE)", "CREATE TABLE b (k)")
	if !withLog {
		db.Close()
		return live
	}
	left := filepath.Join(t.TempDir(), "left.db")
	for _, suffix := range []string{"", "-wal"} {
		data, err := os.ReadFile(live + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(left+suffix, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return left
}

func open(t *testing.T, path string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	t.Cleanup(func() { db.Close() })
	return db
}

func execute(t *testing.T, db *sql.DB, statements ...string) {
	t.Helper()
	for _, s := range statements {
		if _, err := db.Exec(s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

// scramble overwrites pages in the middle, of both data and index.
func scramble(t *testing.T, path string) string {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte(strings.Repeat("\xff", 8*pageSize)), 20*pageSize); err != nil {
		t.Fatal(err)
	}
	return path
}

func truncate(t *testing.T, path string, size int64) string {
	t.Helper()
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestCheckSQLite(t *testing.T) {
	file := func(content string) func(*testing.T) string {
		return func(t *testing.T) string {
			path := filepath.Join(t.TempDir(), "state.db")
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			return path
		}
	}
	for name, tt := range map[string]struct {
		make func(*testing.T) string
		want string // in the error; empty for none
	}{
		"missing":                    {func(t *testing.T) string { return filepath.Join(t.TempDir(), "state.db") }, ""},
		"empty":                      {file(""), "is empty"},
		"not a database":             {file(strings.Repeat("x", 5000)), "is not a SQLite database"},
		"shorter than a header":      {file("SQLite format 3\x00"), "is not a SQLite database"},
		"a folder":                   {func(t *testing.T) string { return t.TempDir() }, "is a directory"},
		"good":                       {func(t *testing.T) string { return newDatabase(t, false) }, ""},
		"good, with a log":           {func(t *testing.T) string { return newDatabase(t, true) }, ""},
		"cut short":                  {func(t *testing.T) string { return truncate(t, newDatabase(t, false), 50*pageSize) }, "is cut short: 204800 bytes of"},
		"cut short, with a log":      {func(t *testing.T) string { return truncate(t, newDatabase(t, true), 50*pageSize) }, "is damaged"},
		"damaged pages":              {func(t *testing.T) string { return scramble(t, newDatabase(t, false)) }, "is damaged"},
		"damaged pages, with a log":  {func(t *testing.T) string { return scramble(t, newDatabase(t, true)) }, "is damaged"},
		"damaged schema, but closed": {func(t *testing.T) string { p := newDatabase(t, false); return poke(t, p, 100, 0xff) }, "is damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			path := tt.make(t)
			before := content(path)
			err := checkSQLite(path)
			if tt.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("the error is %v, want %q and the path in it", err, tt.want)
			}
			if content(path) != before {
				t.Error("the broken file or its log was changed")
			}
		})
	}
}

// content is that of a database and its log.
func content(path string) (c [2]string) {
	for i, suffix := range []string{"", "-wal"} {
		data, err := os.ReadFile(path + suffix)
		c[i] = fmt.Sprint(string(data), err)
	}
	return c
}

func poke(t *testing.T, path string, offset int64, b byte) string {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{b}, offset); err != nil {
		t.Fatal(err)
	}
	return path
}

// mostlyFree fills a database with used bytes, beside free ones that nothing uses any more.
func mostlyFree(t *testing.T, path string, used, free int) {
	t.Helper()
	db := open(t, path)
	execute(t, db, "PRAGMA synchronous=OFF", "CREATE TABLE a (k INTEGER PRIMARY KEY, v BLOB)")
	for i, size := range []int{free, used} {
		if _, err := db.Exec("INSERT INTO a VALUES (?, zeroblob(?))", i, size); err != nil {
			t.Fatal(err)
		}
	}
	execute(t, db, "DELETE FROM a WHERE k = 0")
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

func size(t *testing.T, path string) int64 {
	t.Helper()
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return fi.Size()
}

func TestShrinks(t *testing.T) {
	for name, tt := range map[string]struct {
		used, free int
		below      int64 // bytes afterwards
		kept       bool
	}{
		"mostly free":  {1 << 20, vacuumAbove + 1<<20, 2 << 20, false},
		"free, little": {1 << 20, vacuumAbove - 1<<20, 0, true},
		"less of it":   {vacuumAbove + 2<<20, vacuumAbove + 1<<20, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "state.db")
			mostlyFree(t, path, tt.used, tt.free)
			before := size(t, path)
			if err := checkSQLite(path); err != nil {
				t.Fatal(err)
			}
			if got := size(t, path); tt.kept && got != before || !tt.kept && got > tt.below {
				t.Errorf("%d bytes of %d", got, before)
			}
		})
	}
}

// TestFullDisk: what cannot be shrunk is still good, and must not be called damaged.
func TestFullDisk(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounts a tmpfs: needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=32m"); err != nil {
		t.Skip("mount a tmpfs: ", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	path := filepath.Join(dir, "state.db")
	mostlyFree(t, path, 4<<20, vacuumAbove+1<<20)
	filler, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = filler.Write(make([]byte, 64<<10))
	}
	filler.Close()
	if err := checkSQLite(path); err != nil {
		t.Errorf("a full disk: %v", err)
	}
}

// TestDamagedWhileRunning lists what the disk has lost a part of: nothing is better than a part that is taken for all.
func TestDamagedWhileRunning(t *testing.T) {
	const objects = 1000
	d, stop := start(t, newPaths(t))
	c := dial(t, d.Endpoint())
	for i := range objects {
		create(t, c, fmt.Sprintf("/registry/pods/%04d", i), strings.Repeat("x", 3000))
	}
	stop()
	d, stop = start(t, d.paths)
	defer stop()
	f, err := os.OpenFile(d.paths.DB(), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	size, err := f.Seek(0, 2)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(make([]byte, 256<<10), size/2&^4095); err != nil {
		t.Fatal(err)
	}
	res, err := dial(t, d.Endpoint()).Get(t.Context(), "/registry/pods/", clientv3.WithPrefix())
	if err == nil {
		t.Errorf("%d of %d objects were taken for all of them", len(res.Kvs), objects)
	}
}
