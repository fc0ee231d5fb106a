package datastore

import (
	"context"
	"database/sql"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"k8s.io/klog/v2"

	"github.com/edgebox/edgebox/pkg/component"
	"github.com/edgebox/edgebox/pkg/config"
	"github.com/edgebox/edgebox/pkg/socket"
)

func TestMain(m *testing.M) {
	logrus.SetLevel(logrus.ErrorLevel)
	logrus.SetOutput(io.Discard)
	klog.SetSlogLogger(slog.New(slog.DiscardHandler))
	os.Exit(m.Run())
}

// newPaths is in a folder whose name is short, for the sockets. The data dir's means something else in a URL.
func newPaths(t testing.TB) config.Paths {
	t.Helper()
	dir, err := os.MkdirTemp("", "ds")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return config.Paths{Data: filepath.Join(dir, "da ta?a=b#c%41&d"), Run: filepath.Join(dir, "run")}
}

func newDatastore(paths config.Paths) *Datastore {
	return &Datastore{paths: paths, listen: socket.Listen}
}

// start runs the datastore until the test or stop ends it.
func start(t testing.TB, paths config.Paths) (d *Datastore, stop func()) {
	t.Helper()
	d = newDatastore(paths)
	if err := d.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	return d, run(t, d)
}

// run runs a component that is prepared until the test or stop ends it.
func run(t testing.TB, c component.Component) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- c.Run(ctx, func() { close(ready) }) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run ended with %v", err)
		}
	})
	t.Cleanup(stop)
	select {
	case <-ready:
	case err := <-ended:
		ended <- nil
		t.Fatal("not ready: ", err)
	}
	return stop
}

func dial(t testing.TB, endpoint string) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, DialTimeout: 5 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// create makes a key as the API server does, and returns its revision.
func create(t testing.TB, c *clientv3.Client, key, value string) int64 {
	t.Helper()
	res, err := c.Txn(t.Context()).If(clientv3.Compare(clientv3.ModRevision(key), "=", 0)).Then(clientv3.OpPut(key, value)).Commit()
	if err != nil || !res.Succeeded {
		t.Fatalf("create %s: %v, %v", key, res, err)
	}
	return res.Header.Revision
}

// get returns the value of a key, "" if there is none.
func get(t testing.TB, c *clientv3.Client, key string) string {
	t.Helper()
	res, err := c.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Kvs) == 0 {
		return ""
	}
	return string(res.Kvs[0].Value)
}

func TestServesTwoDatabases(t *testing.T) {
	d, stop := start(t, newPaths(t))
	for _, socket := range []string{d.paths.DatastoreSocket(), d.paths.VolatileSocket()} {
		fi, err := os.Stat(socket)
		if err != nil {
			t.Fatal(err)
		}
		if fi.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", socket, fi.Mode())
		}
	}
	kept, volatile := dial(t, d.Endpoint()), dial(t, d.VolatileEndpoint())
	create(t, kept, "/registry/pods/a", "pod")
	create(t, volatile, "/registry/leases/a", "lease")
	if get(t, kept, "/registry/pods/a") != "pod" || get(t, volatile, "/registry/leases/a") != "lease" {
		t.Error("a value was not read back")
	}
	if get(t, volatile, "/registry/pods/a") != "" || get(t, kept, "/registry/leases/a") != "" {
		t.Error("the databases are one")
	}
	if err := d.Check(t.Context()); err != nil {
		t.Error(err)
	}
	stop()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := d.Check(ctx); err == nil {
		t.Error("healthy after it was stopped")
	}
}

// TestKeepsWrites restarts on what a clean stop and on what kill -9 leave: the database with its log.
func TestKeepsWrites(t *testing.T) {
	d, stop := start(t, newPaths(t))
	create(t, dial(t, d.Endpoint()), "/registry/pods/a", "pod")
	create(t, dial(t, d.VolatileEndpoint()), "/registry/leases/a", "lease")

	killed := newPaths(t)
	for from, to := range map[string]string{d.paths.DB(): killed.DB(), d.paths.VolatileDB(): killed.VolatileDB()} {
		if err := os.CopyFS(filepath.Dir(to), os.DirFS(filepath.Dir(from))); err != nil {
			t.Fatal(err)
		}
		if fi, err := os.Stat(to + "-wal"); err != nil || fi.Size() == 0 {
			t.Fatalf("the copy has no log, and proves nothing: %v", err)
		}
	}
	stop()
	if _, err := os.Stat(d.paths.DB() + "-wal"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the log was not put into the file: %v", err)
	}
	for name, paths := range map[string]config.Paths{"stopped": d.paths, "killed": killed} {
		d, stop := start(t, paths)
		if get(t, dial(t, d.Endpoint()), "/registry/pods/a") != "pod" {
			t.Errorf("%s: the pod is lost", name)
		}
		if get(t, dial(t, d.VolatileEndpoint()), "/registry/leases/a") != "lease" {
			t.Errorf("%s: the lease is lost", name)
		}
		stop()
	}
}

// TestDamage has a damaged file of each kind: one must stay as it is, the other is made anew.
func TestDamage(t *testing.T) {
	paths := newPaths(t)
	d := newDatastore(paths)
	if err := d.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{paths.DB(), paths.VolatileDB()} {
		if err := os.WriteFile(path, []byte("scrambled"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	err := d.Prepare(t.Context())
	if err == nil || !strings.Contains(err.Error(), "restore it from a backup") || !strings.Contains(err.Error(), paths.DB()) {
		t.Errorf("the error is %v", err)
	}
	if data, err := os.ReadFile(paths.DB()); err != nil || string(data) != "scrambled" {
		t.Errorf("the damaged database was touched: %q, %v", data, err)
	}
	if err := os.Remove(paths.DB()); err != nil {
		t.Fatal(err)
	}
	if err := d.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(paths.VolatileDB()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the volatile database is still there: %v", err)
	}
}

// TestEmptiedDatabase: a file that has lost its content, or went missing without its log, is not a new cluster's.
func TestEmptiedDatabase(t *testing.T) {
	paths := newPaths(t)
	d, stop := start(t, paths)
	create(t, dial(t, d.Endpoint()), "/registry/pods/a", "pod")
	stop()
	content, err := os.ReadFile(paths.DB())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(paths.DB(), 0); err != nil {
		t.Fatal(err)
	}
	if err := d.Prepare(t.Context()); err == nil || !strings.Contains(err.Error(), "is empty: restore it from a backup") {
		t.Errorf("emptied: %v", err)
	}
	if err := os.Remove(paths.DB()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(paths.DB()+"-wal", []byte("log"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.Prepare(t.Context()); err == nil || !strings.Contains(err.Error(), "is missing, but its log") {
		t.Errorf("removed: %v", err)
	}
	if got, err := os.ReadFile(paths.DB() + "-wal"); string(got) != "log" {
		t.Errorf("the log was touched: %q, %v", got, err)
	}
	if err := os.Remove(paths.DB() + "-wal"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(paths.DB(), content, 0o600); err != nil {
		t.Fatal(err)
	}
	d, _ = start(t, paths)
	if get(t, dial(t, d.Endpoint()), "/registry/pods/a") != "pod" {
		t.Error("the pod is lost")
	}
}

// TestKilledWhileCreating starts on what a first boot leaves that was killed before the database had its name.
func TestKilledWhileCreating(t *testing.T) {
	paths := newPaths(t)
	if err := os.MkdirAll(filepath.Dir(paths.DB()), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, suffix := range []string{".new", ".new-wal"} {
		if err := os.WriteFile(paths.DB()+suffix, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d, _ := start(t, paths)
	create(t, dial(t, d.Endpoint()), "/registry/pods/a", "pod")
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(paths.DB()), "*.new*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestServerDiesEarly has an etcd API that ends before anything was read or written through it.
func TestServerDiesEarly(t *testing.T) {
	d := newDatastore(newPaths(t))
	d.listen = func(path string) (net.Listener, error) {
		l, err := socket.Listen(path)
		if err == nil {
			err = l.Close()
		}
		return l, err
	}
	if err := d.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	err := d.Run(t.Context(), func() { t.Error("is ready") })
	if err == nil || !strings.Contains(err.Error(), "serve etcd API on "+d.paths.DatastoreSocket()) {
		t.Errorf("Run ended with %v", err)
	}
}

// TestSyncs asks SQLite what became of the data source.
func TestSyncs(t *testing.T) {
	for mode, want := range map[string]int{"FULL": 2, "OFF": 0} {
		connector, err := newCompiler(sqliteFile{filepath.Join(t.TempDir(), "a.db"), mode}.dsn())
		if err != nil {
			t.Fatal(err)
		}
		db := sql.OpenDB(connector)
		defer db.Close()
		var synchronous, busy, limit int
		var journal string
		for pragma, to := range map[string]any{"synchronous": &synchronous, "busy_timeout": &busy, "journal_size_limit": &limit, "journal_mode": &journal} {
			if err := db.QueryRow("PRAGMA " + pragma).Scan(to); err != nil {
				t.Fatal(err)
			}
		}
		if synchronous != want || busy != 30000 || limit != 8<<20 || journal != "wal" {
			t.Errorf("%s: synchronous %d, busy_timeout %d, journal_size_limit %d, journal_mode %s", mode, synchronous, busy, limit, journal)
		}
	}
}

func TestEndpoints(t *testing.T) {
	cfg := config.Defaults()
	alone := New(cfg)
	if !alone.Alone() || alone.VolatileEndpoint() == "" || alone.VolatileEndpoint() == alone.Endpoint() {
		t.Errorf("alone: %q, %q", alone.Endpoint(), alone.VolatileEndpoint())
	}
	cfg.DatastoreEndpoint = "postgres://db/kine"
	if shared := New(cfg); shared.Alone() || shared.VolatileEndpoint() != "" {
		t.Errorf("shared: %q, %q", shared.Endpoint(), shared.VolatileEndpoint())
	}
}

func TestRedact(t *testing.T) {
	for dsn, want := range map[string]string{
		"postgres://kine:secret@db.lan:5432/kine?sslmode=disable":  "postgres://kine:xxxxx@db.lan:5432/kine",
		"postgres://db.lan/kine?user=kine&password=secret":         "postgres://db.lan/kine",
		"postgres://kine:secret%zz@db.lan/kine":                    "postgres://…",
		"mysql://kine:secret@tcp(db.lan:3306)/kine?tls=true":       "mysql://kine:xxxxx@tcp(db.lan:3306)/kine",
		"mysql://kine:secret@tcp(db.lan":                           "mysql://kine:xxxxx@tcp(db.lan",
		"nats://kine:secret@a.lan,nats://kine:secret@b.lan":        "nats://kine:xxxxx@a.lan,nats://kine:xxxxx@b.lan",
		"kine:secret@tcp(db.lan:3306)/kine":                        "…",
		"nats://kine:secret@nats.lan?bucket=kine&password=secret2": "nats://kine:xxxxx@nats.lan",
	} {
		if got := redact(dsn); got != want || strings.Contains(got, "secret") {
			t.Errorf("redact(%q) = %q, want %q", dsn, got, want)
		}
	}
}

func TestScrub(t *testing.T) {
	for dsn, text := range map[string]string{
		"postgres://kine:sec%zzret@db.lan/kine":              `parse "postgres://kine:sec%zzret@db.lan/kine": invalid URL escape`,
		"postgres://kine:sec%40ret@db.lan/kine":              "no password sec@ret or sec%40ret",
		"postgres://db.lan/kine?user=kine&password=sec-ret":  "tried sec-ret",
		"mysql://kine:sec-r@t@tcp(db.lan:3306)/kine?a=b":     "tried sec-r@t",
		"nats://kine:sec-ret@nats.lan?bucket=b&password=ret": "tried sec-ret and ret",
		"nats://a:sec-one@a.lan,nats://b:ret-two@b.lan":      "tried sec-one and ret-two",
		"nats://sec-ret@nats.lan":                            "tried sec-ret",
	} {
		if got := scrub(text, dsn); strings.Contains(got, "sec") || strings.Contains(got, "ret") || !strings.Contains(got, "xxxxx") {
			t.Errorf("%s: %s", dsn, got)
		}
	}
	if got := scrub("connection refused", "postgres://db.lan/kine"); got != "connection refused" {
		t.Error(got)
	}
}
