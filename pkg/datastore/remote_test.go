package datastore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/k3s-io/kine/pkg/tls"
	"github.com/sirupsen/logrus"
	clientv3 "go.etcd.io/etcd/client/v3"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/edgebox/edgebox/pkg/component"
	"github.com/edgebox/edgebox/pkg/pki"
	"github.com/edgebox/edgebox/tests/e2e/datastore/databases"
)

// startRemote runs a datastore on a database elsewhere until the test or stop ends it.
func startRemote(t testing.TB, endpoint string) (d *Datastore, stop func()) {
	t.Helper()
	d = newDatastore(newPaths(t))
	d.endpoint = endpoint
	if err := d.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	return d, run(t, d)
}

// TestPostgres and TestMariaDB do to a database server what the API server does, and what happens to database servers.
func TestPostgres(t *testing.T) {
	t.Parallel()
	db := databases.Postgres(t, databases.Options{})
	testServer(t, db, databases.PostgresDSN(db.Address(), ""), `
		CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'disk full' USING ERRCODE = '53100'; END $$;
		CREATE TRIGGER full_disk BEFORE INSERT ON kine FOR EACH ROW EXECUTE FUNCTION full_disk()`,
		`DROP TRIGGER full_disk ON kine`)
}

func TestMariaDB(t *testing.T) {
	t.Parallel()
	db := databases.MariaDB(t, databases.Options{})
	testServer(t, db, databases.MariaDBDSN(db.Address()),
		`CREATE TRIGGER full_disk BEFORE INSERT ON kine FOR EACH ROW SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'disk full'`,
		`DROP TRIGGER full_disk`)
}

// TestNATS has what a server without SQL can fail with.
func TestNATS(t *testing.T) {
	t.Parallel()
	nats := databases.NATS(t, databases.Options{})
	d, _ := startRemote(t, databases.NATSDSN(nats.Address()))
	w := newLoad(t, d, "killed")
	w.until(200)
	nats.Kill()
	w.untilRefused()
	nats.Start()
	w.until(200)
	other, stop := startRemote(t, d.endpoint)
	defer stop()
	w.check(dial(t, other.Endpoint()))
	if err := d.Check(t.Context()); err != nil {
		t.Error(err)
	}
}

// testServer gets the statements after which the server takes no rows, and takes them again.
func testServer(t *testing.T, db *databases.Server, dsn, fill, empty string) {
	d, _ := startRemote(t, dsn)
	if d.Alone() || d.VolatileEndpoint() != "" {
		t.Error("a server with a database elsewhere may have others beside it")
	}
	c := d.Client(d.Endpoint())
	defer c.Close()

	t.Run("a write that failed is not acknowledged", func(t *testing.T) {
		rev := create(t, c, "/registry/pods/old", "1")
		db.Exec("kine", fill)
		for name, txn := range map[string]clientv3.Txn{
			"create": c.Txn(t.Context()).If(clientv3.Compare(clientv3.ModRevision("/registry/pods/new"), "=", 0)).
				Then(clientv3.OpPut("/registry/pods/new", "1")),
			"update": c.Txn(t.Context()).If(clientv3.Compare(clientv3.ModRevision("/registry/pods/old"), "=", rev)).
				Then(clientv3.OpPut("/registry/pods/old", "2")).Else(clientv3.OpGet("/registry/pods/old")),
			"delete": c.Txn(t.Context()).If(clientv3.Compare(clientv3.ModRevision("/registry/pods/old"), "=", rev)).
				Then(clientv3.OpDelete("/registry/pods/old")).Else(clientv3.OpGet("/registry/pods/old")),
		} {
			if res, err := txn.Commit(); err == nil || !strings.Contains(err.Error(), "disk full") {
				t.Errorf("%s: %v, %v", name, res, err)
			}
		}
		db.Exec("kine", empty)
		if get(t, c, "/registry/pods/new") != "" || get(t, c, "/registry/pods/old") != "1" {
			t.Error("a write that failed was carried out")
		}
		create(t, c, "/registry/pods/new", "1")
	})

	t.Run("conflicts", func(t *testing.T) {
		rev := create(t, c, "/registry/pods/raced", "0")
		var won atomic.Int32
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				res, err := c.Txn(t.Context()).If(clientv3.Compare(clientv3.ModRevision("/registry/pods/raced"), "=", rev)).
					Then(clientv3.OpPut("/registry/pods/raced", fmt.Sprint(i))).Else(clientv3.OpGet("/registry/pods/raced")).Commit()
				switch {
				case err != nil:
					t.Error(err)
				case res.Succeeded:
					won.Add(1)
				}
			})
		}
		wg.Wait()
		if won.Load() != 1 {
			t.Errorf("%d of 20 updates of one revision succeeded", won.Load())
		}
	})

	for name, end := range map[string]func(){"restarted": db.Stop, "killed": db.Kill} {
		t.Run(name+" under load", func(t *testing.T) {
			w := newLoad(t, d, name)
			w.until(200)
			end()
			w.untilRefused()
			eventually(t, "an answer for clients", func() bool {
				_, err := c.Get(t.Context(), "/registry/pods/new")
				code := apiCode(err)
				if _, lists := c.Get(t.Context(), "/registry/pods/", clientv3.WithPrefix()); apiCode(lists) != code {
					return false
				}
				_, creates := c.Txn(t.Context()).If(clientv3.Compare(clientv3.ModRevision("/registry/pods/x"), "=", 0)).
					Then(clientv3.OpPut("/registry/pods/x", "1")).Commit()
				return code == http.StatusServiceUnavailable && apiCode(creates) == code && !strings.Contains(err.Error(), "127.0.0.1")
			})
			if err := d.Check(t.Context()); err == nil || strings.Contains(err.Error(), databases.Password) {
				t.Errorf("Check with the database away: %v", err)
			}
			db.Start()
			w.until(200)
			other, stop := startRemote(t, dsn)
			w.check(dial(t, other.Endpoint()))
			stop()
			if w.watches > 1 { // the one that the test has ended
				t.Errorf("%d watches ended", w.watches)
			}
			if err := d.Check(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// apiCode is what the API server would answer to its client, 0 if it would not know.
func apiCode(err error) int32 {
	if status, ok := err.(apierrors.APIStatus); ok { //nolint:errorlint // as the API server does
		return status.Status().Code
	}
	return 0
}

// load creates objects and watches them, and remembers what was acknowledged.
type load struct {
	t       testing.TB
	prefix  string
	stop    func()
	mu      sync.Mutex
	acked   map[string]bool
	refused int
	watches int // that have ended
	seen    map[string]bool
	watched chan struct{} // closed when the watch has ended
}

func newLoad(t testing.TB, store Store, name string) *load {
	w := &load{t: t, prefix: "/registry/" + name + "/", acked: map[string]bool{}, seen: map[string]bool{}, watched: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	c := store.Client(store.Endpoint())
	go func() {
		defer close(w.watched)
		next := int64(0)
		for ctx.Err() == nil {
			for res := range c.Watch(ctx, w.prefix, clientv3.WithPrefix(), clientv3.WithRev(next)) {
				w.mu.Lock()
				for _, e := range res.Events {
					if e.Kv.ModRevision < next {
						t.Errorf("the watch told of revision %d after %d", e.Kv.ModRevision, next-1)
					}
					w.seen[string(e.Kv.Key)] = true
					next = e.Kv.ModRevision + 1
				}
				w.mu.Unlock()
			}
			w.mu.Lock()
			w.watches++ // as the API server does, which starts over then
			w.mu.Unlock()
		}
	}()
	for n := range 8 {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				key := fmt.Sprintf("%s%d-%d", w.prefix, n, i)
				res, err := c.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", 0)).Then(clientv3.OpPut(key, "value")).Commit()
				w.mu.Lock()
				if err == nil && res.Succeeded {
					w.acked[key] = true
				} else if err != nil {
					w.refused++
				}
				w.mu.Unlock()
			}
		})
	}
	w.stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
		<-w.watched
		c.Close()
	})
	t.Cleanup(w.stop)
	return w
}

// until waits for more acknowledged writes.
func (w *load) until(more int) {
	w.t.Helper()
	count := func() int { w.mu.Lock(); defer w.mu.Unlock(); return len(w.acked) }
	want := count() + more
	eventually(w.t, fmt.Sprintf("%d acknowledged writes", want), func() bool { return count() >= want })
}

func (w *load) untilRefused() {
	w.t.Helper()
	eventually(w.t, "a refused write", func() bool { w.mu.Lock(); defer w.mu.Unlock(); return w.refused > 0 })
}

// check waits until the watch has told of what was acknowledged, ends the load, and reads it all.
func (w *load) check(reader *clientv3.Client) {
	w.t.Helper()
	missing := func() (n int) {
		w.mu.Lock()
		defer w.mu.Unlock()
		for key := range w.acked {
			if !w.seen[key] {
				n++
			}
		}
		return n
	}
	eventually(w.t, "the watch to tell of all acknowledged writes", func() bool { return missing() < 8 }) // others come on
	w.stop()
	res, err := reader.Get(w.t.Context(), w.prefix, clientv3.WithPrefix())
	if err != nil {
		w.t.Fatal(err)
	}
	found := map[string]bool{}
	for _, kv := range res.Kvs {
		found[string(kv.Key)] = true
	}
	for key := range w.acked {
		if !found[key] {
			w.t.Errorf("%s was acknowledged and is lost", key)
		}
	}
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited for a minute for ", what)
		}
	}
}

// TestTwoServers has one server see what the other writes.
func TestTwoServers(t *testing.T) {
	db := databases.Postgres(t, databases.Options{})
	a, _ := startRemote(t, databases.PostgresDSN(db.Address(), ""))
	b, _ := startRemote(t, databases.PostgresDSN(db.Address(), ""))
	events := dial(t, b.Endpoint()).Watch(t.Context(), "/registry/pods/", clientv3.WithPrefix())
	create(t, dial(t, a.Endpoint()), "/registry/pods/a", "pod")
	if res := <-events; len(res.Events) != 1 || string(res.Events[0].Kv.Value) != "pod" {
		t.Errorf("the other server's watch saw %v", res)
	}
}

// TestCutShort reads through a connection that breaks in the middle of the answer.
func TestCutShort(t *testing.T) {
	db := databases.Postgres(t, databases.Options{})
	proxy := newCutter(t, db.Address())
	d, _ := startRemote(t, databases.PostgresDSN(proxy.address, "sslmode=disable"))
	c := d.Client(d.Endpoint())
	defer c.Close()
	const objects = 300
	first := create(t, c, "/registry/pods/0", strings.Repeat("x", 2000))
	for i := range objects - 1 {
		create(t, c, fmt.Sprintf("/registry/pods/%d", i+1), strings.Repeat("x", 2000))
	}
	list := func() (int, error) {
		res, err := c.Get(t.Context(), "/registry/pods/", clientv3.WithPrefix())
		if err != nil {
			return 0, err
		}
		return len(res.Kvs), nil
	}
	watch := func() (int, error) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		n := 0
		for res := range c.Watch(ctx, "/registry/pods/", clientv3.WithPrefix(), clientv3.WithRev(first), clientv3.WithCreatedNotify()) {
			if err := res.Err(); err != nil {
				return n, err
			}
			if n += len(res.Events); n >= objects {
				return n, nil
			}
			if len(res.Events) > 0 && n < objects { // kine sends what it has read at once
				return n, nil
			}
		}
		return n, errors.New("the watch ended")
	}
	for name, read := range map[string]func() (int, error){"list": list, "watch": watch} {
		if n, err := read(); n != objects || err != nil {
			t.Fatalf("%s: %d objects, %v", name, n, err)
		}
		proxy.cutAfter(100_000)
		if n, err := read(); err == nil {
			t.Errorf("%s: %d of %d objects were taken for all of them", name, n, objects)
		}
		if n := proxy.cuts.Load(); n == 0 {
			t.Errorf("%s: no connection was cut", name)
		}
		proxy.cutAfter(0)
		eventually(t, "a new connection", func() bool { n, err := read(); return n == objects && err == nil })
	}
}

// cutter is a proxy that cuts connections which have transported a number of bytes from the server.
type cutter struct {
	address string
	limit   atomic.Int64 // 0: none
	cuts    atomic.Int64
}

func newCutter(t *testing.T, to string) *cutter {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	p := &cutter{address: l.Addr().String()}
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			go p.serve(client, to)
		}
	}()
	return p
}

func (p *cutter) cutAfter(bytes int64) {
	p.cuts.Store(0)
	p.limit.Store(bytes)
}

func (p *cutter) serve(client net.Conn, to string) {
	defer client.Close()
	srv, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer srv.Close()
	go func() {
		_, _ = io.Copy(srv, client)
		srv.Close()
	}()
	buf := make([]byte, 4096)
	since := p.limit.Load()
	for n := int64(0); ; {
		got, err := srv.Read(buf)
		if err != nil {
			return
		}
		limit := p.limit.Load()
		if limit != since { // counts from when it was set
			since, n = limit, 0
		}
		if n += int64(got); limit > 0 && n > limit {
			p.cuts.Add(1)
			return
		}
		if _, err := client.Write(buf[:got]); err != nil {
			return
		}
	}
}

// TestComesLate starts before its database server, which has no database for it yet.
func TestComesLate(t *testing.T) {
	db := databases.Postgres(t, databases.Options{})
	db.Stop()
	d := newDatastore(newPaths(t))
	d.endpoint = databases.PostgresDSN(db.Address(), "")
	var g component.Graph
	g.Add(d)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	waitsFor(t, &g, "connection refused")
	db.Start()
	select {
	case <-g.Ready():
	case <-time.After(time.Minute):
		t.Fatalf("not ready: %v", g.Status(ctx))
	}
}

// waitsFor waits until the one component of the graph says why it is not ready.
func waitsFor(t *testing.T, g *component.Graph, why string) {
	t.Helper()
	eventually(t, "the reason "+why, func() bool {
		s := g.Status(t.Context())[0]
		if strings.Contains(fmt.Sprint(s), databases.Password) {
			t.Fatalf("the password is in the status: %v", s)
		}
		return s.State == component.Starting && strings.Contains(fmt.Sprint(s.WaitingFor), why)
	})
}

// TestUnreachable has databases that do not answer: all are waited for.
func TestUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	at := l.Addr().String()
	for endpoint, why := range map[string]string{
		"postgres://kine:" + databases.Password + "@" + at + "/kine":   "connection refused",
		"mysql://kine:" + databases.Password + "@tcp(" + at + ")/kine": "connection refused",
		"nats://kine:" + databases.Password + "@" + at:                 "no servers available",
	} {
		d := newDatastore(newPaths(t))
		d.endpoint = endpoint
		var g component.Graph
		g.Add(d)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- g.Run(ctx) }()
		waitsFor(t, &g, why)
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("stopped while it waited: %v", err)
		}
	}
}

// TestRefused has a database that says no, which waiting does not change.
func TestRefused(t *testing.T) {
	db := databases.Postgres(t, databases.Options{})
	wrong := strings.Replace(databases.PostgresDSN(db.Address(), ""), databases.Password, "wrong-Pa55", 1)
	d := newDatastore(newPaths(t))
	d.endpoint = wrong
	err := d.Run(t.Context(), func() { t.Error("is ready") })
	if err == nil || !strings.Contains(err.Error(), "password authentication failed") || strings.Contains(err.Error(), "wrong-Pa55") {
		t.Errorf("the error is %v", err)
	}
}

// certificates are a CA and, from it, a server for the loopback address and a client.
func certificates(t testing.TB) (ca, server, client tls.Config) {
	t.Helper()
	certs := pki.New(t.TempDir())
	if _, err := certs.Ensure(pki.Spec{Leaves: pki.DatastoreLeaves(pki.Host{NodeName: "box"})}); err != nil {
		t.Fatal(err)
	}
	pair := func(leaf string) tls.Config {
		return tls.Config{CAFile: certs.CertFile(pki.DatastoreCA), CertFile: certs.CertFile(leaf), KeyFile: certs.KeyFile(leaf)}
	}
	return tls.Config{CAFile: certs.CertFile(pki.DatastoreCA)}, pair(pki.DatastoreServer), pair(pki.DatastoreClient)
}

func readFile(t testing.TB, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestTLS has servers that take connections with TLS alone, from those who have a certificate.
func TestTLS(t *testing.T) {
	ca, srv, client := certificates(t)
	foreign, _, _ := certificates(t)
	opts := databases.Options{CA: readFile(t, ca.CAFile), Cert: readFile(t, srv.CertFile), Key: readFile(t, srv.KeyFile)}
	postgres, mariaDB, nats := databases.Postgres(t, opts), databases.MariaDB(t, opts), databases.NATS(t, opts)
	for dsn, refusal := range map[string]string{
		databases.PostgresDSN(postgres.Address(), ""): "SQLSTATE 28000",
		databases.MariaDBDSN(mariaDB.Address()):       "Access denied",
		databases.NATSDSN(nats.Address()):             "tls: ",
	} {
		for name, with := range map[string]struct {
			files tls.Config
			err   string // "" if it works
		}{
			"certificate":    {client, ""},
			"no certificate": {ca, refusal},
			"foreign CA":     {tls.Config{CAFile: foreign.CAFile, CertFile: client.CertFile, KeyFile: client.KeyFile}, "certificate signed by unknown authority"},
		} {
			d := newDatastore(newPaths(t))
			d.endpoint, d.tls = dsn, with.files
			if err := d.Prepare(t.Context()); err != nil {
				t.Fatal(err)
			}
			if with.err == "" {
				stop := run(t, d)
				create(t, dial(t, d.Endpoint()), "/registry/pods/a", "pod")
				stop()
				continue
			}
			err := d.Run(t.Context(), func() { t.Errorf("%s: %s: is ready", redact(dsn), name) })
			if err == nil || !strings.Contains(err.Error(), with.err) || strings.Contains(err.Error(), databases.Password) {
				t.Errorf("%s: %s: %v", redact(dsn), name, err)
			}
		}
	}
}

// TestDialect fails when kine keeps its dialect elsewhere, or makes something that the code does not know.
func TestDialect(t *testing.T) {
	db := databases.Postgres(t, databases.Options{})
	d := newDatastore(newPaths(t))
	s := &store{endpoint: databases.PostgresDSN(db.Address(), ""), listen: d.listen, socket: d.paths.DatastoreSocket()}
	backend, err := s.openBackend(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if outer, ok := backend.(answering); !ok {
		t.Errorf("the backend is a %T", backend)
	} else if _, ok := outer.Backend.(reportingBackend); !ok {
		t.Errorf("the backend is a %T", outer.Backend)
	}
}

// TestQuiet has the log say once that the database is away, and once that it is back.
func TestQuiet(t *testing.T) {
	db := databases.Postgres(t, databases.Options{})
	d, _ := startRemote(t, databases.PostgresDSN(db.Address(), ""))
	var lines lineCounter
	logrus.AddHook(&lines)
	db.Kill()
	for range 3 {
		if err := d.Check(t.Context()); err == nil {
			t.Error("healthy without a database")
		}
		time.Sleep(retryEvery) // kine looks for changes as often
	}
	db.Start()
	eventually(t, "the database", func() bool { return d.Check(t.Context()) == nil })
	if n := len(slices.DeleteFunc(lines.all(), func(s string) bool { return strings.HasPrefix(s, "error while range on") })); n > 1 {
		t.Errorf("kine said %q", lines.all())
	}
}

// lineCounter keeps errors that are logged.
type lineCounter struct {
	mu    sync.Mutex
	lines []string
}

func (*lineCounter) Levels() []logrus.Level { return []logrus.Level{logrus.ErrorLevel} }

func (l *lineCounter) Fire(e *logrus.Entry) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, e.Message)
	return nil
}

func (l *lineCounter) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.lines)
}
