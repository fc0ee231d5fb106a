package datastore

import (
	"context"
	cryptotls "crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/edgebox/edgebox/pkg/component"
	"github.com/edgebox/edgebox/pkg/config"
	"github.com/edgebox/edgebox/pkg/pki"
	"github.com/edgebox/edgebox/tests/e2e/datastore/databases"
)

var _, _, _ Store = (*Datastore)(nil), (*External)(nil), (*Etcd)(nil)

// cluster is etcd members of one cluster, all on the loopback address.
type cluster struct {
	t     testing.TB
	certs *pki.Store
}

func newCluster(t testing.TB) *cluster {
	t.Helper()
	certs := pki.New(t.TempDir())
	if _, err := certs.Ensure(pki.Spec{Leaves: pki.DatastoreLeaves(pki.Host{NodeName: "box"})}); err != nil {
		t.Fatal(err)
	}
	return &cluster{t, certs}
}

// member is one that joins others.
func (c *cluster) member(name string, join ...*Etcd) *Etcd {
	c.t.Helper()
	cfg := config.Defaults()
	cfg.DataDir, cfg.NodeName = c.t.TempDir(), name
	cfg.NodeIP = []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	var urls []string
	for _, m := range join {
		urls = append(urls, m.clientURL())
	}
	e := NewEtcd(cfg, c.certs, urls)
	e.clientPort, e.peerPort = databases.FreePort(c.t), databases.FreePort(c.t)
	return e
}

// started is a graph with one component.
type started struct {
	t     testing.TB
	graph *component.Graph
	stop  func() error
}

// launch runs a component as it is run in a server.
func launch(t testing.TB, c component.Component) started {
	t.Helper()
	var g component.Graph
	g.Add(c, component.StopTimeout(20*time.Second))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	stop := sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	t.Cleanup(func() { _ = stop() })
	return started{t, &g, stop}
}

func (s started) ready() started {
	s.t.Helper()
	select {
	case <-s.graph.Ready():
	case <-time.After(time.Minute):
		s.t.Fatalf("not ready: %v", s.graph.Status(s.t.Context()))
	}
	return s
}

func (s started) end() {
	s.t.Helper()
	if err := s.stop(); err != nil {
		s.t.Error(err)
	}
}

// client is one over the network, as that of the API server's health check.
func (c *cluster) client(members ...*Etcd) *clientv3.Client {
	c.t.Helper()
	conf, err := members[0].clientTLS()
	if err != nil {
		c.t.Fatal(err)
	}
	var urls []string
	for _, m := range members {
		urls = append(urls, m.Endpoint())
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: urls, TLS: conf})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { client.Close() })
	return client
}

// members are those that one of them knows.
func (c *cluster) members(of *Etcd) []*etcdserverpb.Member {
	c.t.Helper()
	list, err := c.client(of).MemberList(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	return list.Members
}

// TestEtcd has three members, of which one after the other is lost, under load.
func TestEtcd(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a := c.member("a")
	b, d := c.member("b", a), c.member("d", a)
	runA := launch(t, a).ready()
	local := a.Client(a.Endpoint())
	defer local.Close()
	create(t, local, "/registry/pods/first", "pod")
	w := newLoad(t, a, "load")
	w.until(100)

	runB, runD := launch(t, b), launch(t, d) // both join at once
	runB.ready()
	runD.ready()
	if all := c.members(a); len(all) != 3 {
		t.Fatalf("members: %v", all)
	}
	for _, m := range c.members(a) {
		if m.IsLearner || m.Name == "" || len(m.ClientURLs) == 0 || !strings.HasPrefix(m.ClientURLs[0], "https://127.0.0.1:") {
			t.Errorf("member %+v", m)
		}
	}
	for _, m := range []*Etcd{b, d} {
		if got := get(t, m.Client(m.Endpoint()), "/registry/pods/first"); got != "pod" {
			t.Errorf("a new member has %q", got)
		}
	}

	// One loses its data.
	w.until(100)
	said := overhearLog(t)
	runD.end()
	eventually(t, "a line about d", func() bool { return strings.Contains(said(), `"an etcd member is away" member=d`) })
	w.until(100)
	if err := os.RemoveAll(d.dir); err != nil {
		t.Fatal(err)
	}
	runD = launch(t, d).ready()
	eventually(t, "a line about d", func() bool { // which has another identity, and at first no name
		for line := range strings.Lines(said()) {
			if strings.Contains(line, "an etcd member is there") && strings.Contains(line, d.peerURL()) {
				return true
			}
		}
		return false
	})
	w.until(100)
	w.check(c.client(d))
	if n := len(c.members(a)); n != 3 {
		t.Errorf("%d members after one came back without data", n)
	}

	// Most are away, and come back.
	runB.end()
	runD.end()
	err := a.Check(t.Context())
	if err == nil || !strings.Contains(err.Error(), "etcd has no leader") && !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("Check without a majority: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	if _, err := local.Put(ctx, "/registry/pods/lonely", "pod"); err == nil {
		t.Error("a write without a majority was acknowledged")
	}
	cancel()
	runD = launch(t, d)
	runD.ready()
	eventually(t, "a majority", func() bool { return a.Check(t.Context()) == nil })
	w = newLoad(t, a, "again")
	w.until(100)
	w.check(c.client(d))

	// A server that starts waits for a majority.
	runA.end()
	runD.end()
	runB = launch(t, b)
	waitsFor(t, runB.graph, "connection refused")
	runB.end() // also while it waits
	runB = launch(t, b)
	launch(t, a)
	runB.ready()
	if got := get(t, b.Client(b.Endpoint()), "/registry/pods/first"); got != "pod" {
		t.Errorf("after the restart: %q", got)
	}
}

// overhearLog returns what edgebox itself logs from now on.
func overhearLog(t *testing.T) func() string {
	var mu sync.Mutex
	var text strings.Builder
	was := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(writerFunc(func(p []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return text.Write(p)
	}), nil)))
	t.Cleanup(func() { slog.SetDefault(was) })
	return func() string {
		mu.Lock()
		defer mu.Unlock()
		return text.String()
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// TestEtcdMember removes a member, which then says so.
func TestEtcdMember(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a := c.member("a")
	b := c.member("b", a)
	launch(t, a).ready()
	runB := launch(t, b).ready()
	eventually(t, "the removal", func() bool { // members must know each other for 5 s
		for _, m := range c.members(a) {
			if m.Name == "b" {
				_, err := c.client(a).MemberRemove(t.Context(), m.ID)
				return err == nil
			}
		}
		return false
	})
	eventually(t, "the end of the removed member", func() bool {
		return strings.Contains(fmt.Sprint(runB.graph.Status(t.Context())), "was removed from the etcd cluster")
	})
	if err := runB.stop(); err == nil || !strings.Contains(err.Error(), b.dir) {
		t.Errorf("the removed member ended with %v", err)
	}
	if all := c.members(a); len(all) != 1 || all[0].Name != "a" {
		t.Errorf("members: %v", all)
	}
	if err := a.Check(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestEtcdNamesake refuses a second server of one name while the first is alive.
func TestEtcdNamesake(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a := c.member("a")
	launch(t, a).ready()
	waitsFor(t, launch(t, c.member("a", a)).graph, "has a member a that is alive")
	if n := len(c.members(a)); n != 1 {
		t.Errorf("%d members", n)
	}
}

// TestEtcdAlone restarts the only member, also with another address.
func TestEtcdAlone(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a := c.member("a")
	run := launch(t, a).ready()
	client := a.Client(a.Endpoint())
	create(t, client, "/registry/pods/a", "pod")
	client.Close()
	if a.Client("https://127.0.0.1:1") != nil {
		t.Error("a client of another endpoint")
	}
	first := a.peerURL()
	run.end()
	a.clientPort, a.peerPort = databases.FreePort(t), databases.FreePort(t)
	launch(t, a).ready()
	remote := c.client(a)
	if got := get(t, remote, "/registry/pods/a"); got != "pod" {
		t.Errorf("after a restart: %q", got)
	}
	list, err := remote.MemberList(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if m := list.Members[0]; m.PeerURLs[0] == first || m.PeerURLs[0] != a.peerURL() {
		t.Errorf("the member is looked for at %v", m.PeerURLs)
	}
	eventually(t, "the new client URL", func() bool { return slices.Contains(c.members(a)[0].ClientURLs, a.clientURL()) })
}

// TestEtcdListens has those who are not let in.
func TestEtcdListens(t *testing.T) {
	c := newCluster(t)
	a := c.member("a")
	launch(t, a).ready()
	foreign := newCluster(t).member("x")
	strange, err := foreign.clientTLS()
	if err != nil {
		t.Fatal(err)
	}
	strange.InsecureSkipVerify = true
	nobody := &cryptotls.Config{InsecureSkipVerify: true}
	for _, port := range []int{a.clientPort, a.peerPort} {
		for name, conf := range map[string]*cryptotls.Config{"without a certificate": nobody, "with a foreign certificate": strange} {
			web := &http.Client{Transport: &http.Transport{TLSClientConfig: conf}}
			if res, err := web.Get(a.url("127.0.0.1", port) + "/version"); err == nil {
				t.Errorf("port %d, %s: %s", port, name, res.Status)
			}
		}
		if res, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/version", port)); err == nil && res.StatusCode == http.StatusOK {
			t.Errorf("port %d takes plain text", port)
		}
	}
}

// TestEtcdPrepares has what a member must not start on.
func TestEtcdPrepares(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a := c.member("a")
	paths := config.Paths{Data: filepath.Dir(filepath.Dir(filepath.Dir(a.dir)))}
	if IsMember(paths) {
		t.Error("a member before it has started")
	}
	launch(t, a).ready().end()
	if !IsMember(paths) {
		t.Error("no member after it has started")
	}
	if err := os.RemoveAll(filepath.Join(a.dir, "member", "wal")); err != nil {
		t.Fatal(err)
	}
	if err := a.Prepare(t.Context()); err == nil || !strings.Contains(err.Error(), "has lost its log") {
		t.Errorf("without a log: %v", err)
	}

	half := c.member("half") // was killed before it had a log
	if err := os.MkdirAll(filepath.Join(half.dir, "member", "snap"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(half.dir, "member", "snap", "db"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	launch(t, half).ready()

	alone := c.member("alone")
	if err := os.WriteFile(alone.sqlite, nil, 0o600); !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(alone.sqlite), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(alone.sqlite, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := alone.Prepare(t.Context()); err == nil || !strings.Contains(err.Error(), alone.sqlite) {
		t.Errorf("with objects in SQLite: %v", err)
	}
}

// TestEtcdFull fills the database, deletes, and can write again.
func TestEtcdFull(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a := c.member("a")
	a.quota = 16 << 20
	launch(t, a).ready()
	client := a.Client(a.Endpoint())
	defer client.Close()
	value := strings.Repeat("x", 1<<20)
	var err error
	for i := 0; err == nil; i++ {
		if i > 2*batchLimit {
			t.Fatal("the database takes more than its quota")
		}
		_, err = client.Put(t.Context(), fmt.Sprint("/registry/big/", i), value)
	}
	if !strings.Contains(err.Error(), "database space exceeded") {
		t.Errorf("full: %v", err)
	}
	eventually(t, "the alarm", func() bool {
		e := a.Check(t.Context())
		return e != nil && strings.Contains(e.Error(), "delete objects")
	})
	s := a.running().Server
	if err := upkeep(t.Context(), s); err == nil {
		t.Error("a database that is full of objects was made smaller")
	}
	if _, err := client.Delete(t.Context(), "/registry/big/", clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	if err := upkeep(t.Context(), s); err != nil {
		t.Error(err)
	}
	create(t, client, "/registry/pods/a", "pod")
	if err := a.Check(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestEtcdExit has etcd say what it says before it ends the process.
func TestEtcdExit(t *testing.T) {
	run := launch(t, fataller{})
	eventually(t, "the end", func() bool { return run.graph.Status(t.Context())[0].State == component.Failed })
	if err := run.stop(); err == nil || !strings.Contains(err.Error(), "etcd: no room: disk full") {
		t.Errorf("ended with %v", err)
	}
}

type fataller struct{}

func (fataller) Name() string { return "fataller" }

func (fataller) Run(ctx context.Context, _ func()) error {
	conf := embed.NewConfig()
	if err := embed.NewZapLoggerBuilder(newZap(ctx, nil))(conf); err != nil {
		return err
	}
	conf.GetLogger().Fatal("no room", zap.Error(errors.New("disk full")))
	return nil
}
