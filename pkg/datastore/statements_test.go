package datastore

import (
	"bytes"
	"database/sql"
	"fmt"
	"path/filepath"
	"testing"
)

func compiled(t *testing.T) *sql.DB {
	t.Helper()
	connector, err := newCompiler(sqliteFile{filepath.Join(t.TempDir(), "a.db"), "OFF"}.dsn())
	if err != nil {
		t.Fatal(err)
	}
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(1)
	t.Cleanup(func() { db.Close() })
	return db
}

// TestValues: what is given to a statement arrives as what it was, at each use of it.
func TestValues(t *testing.T) {
	db := compiled(t)
	execute(t, db, "CREATE TABLE a (i INTEGER, s TEXT, b BLOB)")
	for i := range 3 {
		s, b := fmt.Sprint("text", i), []byte{0, byte(i), 255}
		if _, err := db.Exec("INSERT INTO a VALUES (?, ?, ?)", i, s, b); err != nil {
			t.Fatal(err)
		}
		var gotS string
		var gotB []byte
		var types string
		if err := db.QueryRow("SELECT s, b, typeof(i) || typeof(s) || typeof(b) FROM a WHERE i = ?", i).Scan(&gotS, &gotB, &types); err != nil {
			t.Fatal(err)
		}
		if gotS != s || !bytes.Equal(gotB, b) || types != "integertextblob" {
			t.Errorf("%q, %v, %s", gotS, gotB, types)
		}
	}
	if _, err := db.Exec("INSERT INTO a VALUES (?, ?, ?)", 9, nil, []byte(nil)); err != nil {
		t.Fatal(err)
	}
	var n int
	if err := db.QueryRow("SELECT count(*) FROM a WHERE s IS NULL AND b IS NULL").Scan(&n); err != nil || n != 1 {
		t.Errorf("%d rows of NULLs, %v", n, err)
	}
}

// TestNested has a statement used again while it is in use, on the one connection of a transaction.
func TestNested(t *testing.T) {
	db := compiled(t)
	execute(t, db, "CREATE TABLE a (i INTEGER)", "INSERT INTO a VALUES (1), (2), (3)")
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	var pairs []string
	each := func(f func(i int)) {
		rows, err := tx.Query("SELECT i FROM a WHERE i > ? ORDER BY i", 1)
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		for rows.Next() {
			var i int
			if err := rows.Scan(&i); err != nil {
				t.Fatal(err)
			}
			f(i)
		}
	}
	each(func(i int) { each(func(j int) { pairs = append(pairs, fmt.Sprint(i, j)) }) })
	if got := fmt.Sprint(pairs); got != "[2 2 2 3 3 2 3 3]" {
		t.Error(got)
	}
}

// TestKeepsFew: texts that all differ do not fill the memory, and a statement that fails can be used again.
func TestKeepsFew(t *testing.T) {
	db := compiled(t)
	execute(t, db, "CREATE TABLE a (i INTEGER UNIQUE)", "INSERT INTO a VALUES (1)")
	for i := range 2 * maxKept {
		var n int
		if err := db.QueryRow(fmt.Sprintf("SELECT i FROM a LIMIT %d", i+1)).Scan(&n); err != nil || n != 1 {
			t.Fatal(n, err)
		}
	}
	for i, value := range []int{2, 2, 3} {
		if _, err := db.Exec("INSERT INTO a VALUES (?)", value); (err != nil) != (i == 1) {
			t.Errorf("insert %d: %v", value, err)
		}
	}
	if n := count(t, db); n != 3 {
		t.Errorf("%d rows", n)
	}
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	err = conn.Raw(func(c any) error {
		if kept := len(c.(*compiledConn).kept); kept != maxKept {
			return fmt.Errorf("%d statements are kept", kept)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func count(t *testing.T, db *sql.DB) (n int) {
	t.Helper()
	if err := db.QueryRow("SELECT count(*) FROM a").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}
