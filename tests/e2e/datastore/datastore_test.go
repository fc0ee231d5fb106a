// Package datastore shows servers whose objects are in a database elsewhere: they boot, survive what happens to the
// database and to themselves, lose nothing that they acknowledged, and keep its password to themselves.
package datastore

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/edgebox/edgebox/pkg/pki"
	"github.com/edgebox/edgebox/tests/e2e/datastore/databases"
	"github.com/edgebox/edgebox/tests/framework"
)

func TestMain(m *testing.M) { framework.Main(m) }

// site is a network with room for a database server beside the host.
type site struct {
	host  *framework.Host
	opts  databases.Options
	flags []string // for the certificates
}

func newSite(t *testing.T, port int) site {
	t.Helper()
	framework.NeedEdgebox(t)
	network := framework.NewNetwork(t, netip.MustParsePrefix("192.168.78.0/24"))
	host := framework.NewHost(t, framework.Options{Network: network})
	certs := pki.New(t.TempDir())
	if _, err := certs.Ensure(pki.Spec{Leaves: pki.DatastoreLeaves(pki.Host{NodeName: "db", NodeIPs: []netip.Addr{network.Switch()}})}); err != nil {
		t.Fatal(err)
	}
	read := func(path string) string {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	s := site{host: host, opts: databases.Options{
		Address: network.Switch().String(), Port: port, On: network.Beside,
		CA: read(certs.CertFile(pki.DatastoreCA)), Cert: read(certs.CertFile(pki.DatastoreServer)), Key: read(certs.KeyFile(pki.DatastoreServer)),
	}}
	for option, path := range map[string]string{
		"cafile": certs.CertFile(pki.DatastoreCA), "certfile": certs.CertFile(pki.DatastoreClient), "keyfile": certs.KeyFile(pki.DatastoreClient)} {
		inside := "/etc/edgebox/datastore-" + option
		if err := host.WriteFile(inside, read(path)); err != nil {
			t.Fatal(err)
		}
		s.flags = append(s.flags, "--datastore-"+option, inside)
	}
	return s
}

func (s site) up(t *testing.T, endpoint string) {
	t.Helper()
	s.host.Up(t, append(s.flags, "--datastore-endpoint", endpoint)...)
}

// TestPostgres boots on PostgreSQL with TLS, and has the one and the other end in every way.
func TestPostgres(t *testing.T) {
	t.Parallel()
	s := newSite(t, 5432)
	db := databases.Postgres(t, s.opts)
	dsn := databases.PostgresDSN(db.Address(), "")
	s.up(t, dsn)
	if n := db.Exec("kine", "SELECT count(*) FROM kine WHERE name = '/registry/namespaces/default'"); n == "0" {
		t.Error("the objects are not in PostgreSQL")
	}
	for name, end := range map[string]func(){"restarted": db.Stop, "killed": db.Kill} {
		outage(t, s.host, name, end, db.Start)
	}
	logs := s.host.Logs()
	for _, each := range []string{"error in txn", "error while range", "TTL delete", "pgconn."} { // attempt that failed
		if n := strings.Count(logs, each); n > 0 {
			t.Errorf("the log has %q %d times", each, n)
		}
	}

	// The server itself.
	w := newWriters(t, s.host, "server")
	w.until(50)
	if err := s.host.Kill9(); err != nil {
		t.Fatal(err)
	}
	w.stop()
	s.up(t, dsn)
	w.check()
	if err := s.host.Stop(); err != nil {
		t.Error(err)
	}
	s.up(t, dsn)
	w.check()
	keepsPassword(t, s.host)
}

// TestEtcd has the API server talk to an etcd of others.
func TestEtcd(t *testing.T) {
	t.Parallel()
	s := newSite(t, 2379)
	db := databases.Etcd(t, s.opts)
	s.up(t, db.EtcdURL())
	outage(t, s.host, "killed", db.Kill, db.Start)
	if err := s.host.Stop(); err != nil {
		t.Error(err)
	}
	s.up(t, db.EtcdURL())
}

// TestNATS boots on NATS.
func TestNATS(t *testing.T) {
	t.Parallel()
	s := newSite(t, 4222)
	db := databases.NATS(t, s.opts)
	s.up(t, databases.NATSDSN(db.Address()))
	outage(t, s.host, "killed", db.Kill, db.Start)
	keepsPassword(t, s.host)
}

// longOutage is more than any lease lasts.
const (
	longName   = "restarted"
	longOutage = 20 * time.Second
)

// outage has the database go away and come back while objects are written. The server waits for it, and says so.
func outage(t *testing.T, h *framework.Host, name string, end, start func()) {
	t.Helper()
	pid := h.PID()
	w := newWriters(t, h, name)
	w.until(50)
	end()
	framework.Eventually(t, framework.Patience, func() error {
		out, err := h.Edgebox(t.Context(), "status")
		if err == nil || !strings.Contains(out+err.Error(), "datastore") {
			return fmt.Errorf("%s: the status with the database away is %v: %s", name, err, out)
		}
		if strings.Contains(out+err.Error(), databases.Password) {
			t.Errorf("%s: the password is in the status: %s", name, out)
		}
		return nil
	})
	if name == longName {
		time.Sleep(longOutage) // is what is tested
	}
	start()
	w.until(50)
	w.stop()
	w.check()
	if now := h.PID(); now != pid {
		t.Errorf("%s: the server was pid %d and is %d", name, pid, now)
	}
	if err := h.WaitReady(t.Context()); err != nil {
		t.Errorf("%s: %v", name, err)
	}
}

// keepsPassword looks for the database's password where others could see it.
func keepsPassword(t *testing.T, h *framework.Host) {
	t.Helper()
	for line := range strings.Lines(h.Logs()) {
		if strings.Contains(line, databases.Password) && !strings.HasPrefix(line, "--- ") { // which is the test's own, for its command
			t.Errorf("the password is in the log: %s", line)
		}
	}
	pid := fmt.Sprint("/proc/", h.PID())
	for _, command := range []string{
		"ps w", "tr '\\0' '\\n' < " + pid + "/cmdline", "tr '\\0' '\\n' < " + pid + "/environ", "cat /run/edgebox/*.json",
		framework.Binary + " status", framework.Binary + " status -o json", framework.Binary + " check || true",
	} {
		if out := h.Shell(t, command); strings.Contains(out, databases.Password) {
			t.Errorf("the password is in the output of %s: %s", command, out)
		}
	}
}

// writers create ConfigMaps, again when that fails, and remember what was acknowledged.
type writers struct {
	t    *testing.T
	host *framework.Host
	name string
	stop func()

	mu    sync.Mutex
	acked map[string]bool
}

type configMap struct {
	APIVersion string   `json:"apiVersion"`
	Kind       string   `json:"kind"`
	Metadata   metadata `json:"metadata"`
}

type metadata struct {
	Name string `json:"name"`
}

const configMaps = "/api/v1/namespaces/default/configmaps"

func newWriters(t *testing.T, h *framework.Host, name string) *writers {
	t.Helper()
	api, err := h.API()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	w := &writers{t: t, host: h, name: name, acked: map[string]bool{}}
	var wg sync.WaitGroup
	for n := range 4 {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				object := configMap{"v1", "ConfigMap", metadata{fmt.Sprintf("%s-%d-%d", name, n, i)}}
				request, done := context.WithTimeout(ctx, 10*time.Second)
				err := api.Do(request, "POST", configMaps, &object, nil)
				done()
				if err != nil {
					select {
					case <-time.After(100 * time.Millisecond):
					case <-ctx.Done():
					}
					continue
				}
				w.mu.Lock()
				w.acked[object.Metadata.Name] = true
				w.mu.Unlock()
			}
		})
	}
	w.stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
		api.Close()
	})
	t.Cleanup(w.stop)
	return w
}

// until waits for more acknowledged writes.
func (w *writers) until(more int) {
	w.t.Helper()
	count := func() int {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.acked)
	}
	want := count() + more
	framework.Eventually(w.t, framework.Patience, func() error {
		if n := count(); n < want {
			return fmt.Errorf("%s: %d writes were acknowledged, not %d", w.name, n, want)
		}
		return nil
	})
}

// check finds all that was acknowledged.
func (w *writers) check() {
	w.t.Helper()
	api, err := w.host.API()
	if err != nil {
		w.t.Fatal(err)
	}
	defer api.Close()
	var list struct {
		Items []configMap `json:"items"`
	}
	framework.Eventually(w.t, framework.Patience, func() error { return api.Do(w.t.Context(), "GET", configMaps, nil, &list) })
	found := map[string]bool{}
	for _, item := range list.Items {
		found[item.Metadata.Name] = true
	}
	var lost []error
	for name := range w.acked {
		if !found[name] {
			lost = append(lost, errors.New(name))
		}
	}
	if lost != nil {
		w.t.Errorf("%s: %d of %d acknowledged objects are lost: %v", w.name, len(lost), len(w.acked), errors.Join(lost...))
	}
}
