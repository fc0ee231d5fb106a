// Package datastore is where the control plane's objects live: kine's etcd API on unix sockets, over SQLite in the
// data dir or over the database that the user names; or an etcd cluster, which others run or whose member this server is.
//
// It owns the files <data>/server/db and <run>/db and the two sockets. An acknowledged write is on the disk
// (synchronous=FULL), but for leases and events of a server that is alone, which have a database of their own that lasts
// until the reboot: see docs/adr/0003-volatile-leases-and-events.md. What each choice is good for, and what becomes of it
// when things fail, is in docs/datastores.md.
package datastore

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/k3s-io/kine/pkg/server"
	"github.com/k3s-io/kine/pkg/tls"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"github.com/edgebox/edgebox/pkg/component"
	"github.com/edgebox/edgebox/pkg/config"
	"github.com/edgebox/edgebox/pkg/durable"
	"github.com/edgebox/edgebox/pkg/socket"
)

// Settings of kine that have no default in the library. The etcd version is what the API server asks for when it
// decides whether watch progress notifications can be trusted.
const (
	emulatedEtcd   = "3.6.11"
	notifyInterval = time.Minute // of progress without being asked: the API server asks when it needs to know
	compactEvery   = 5 * time.Minute
	compactTimeout = 5 * time.Second
	compactRetain  = 1000 // revisions
	batchSize      = 500  // revisions

	// A write through this process wakes its watches at once; the poll only finds what other servers wrote.
	pollShared = time.Second
	pollAlone  = 5 * time.Second
)

// minPing is how often a client may ask whether the connection lives, as etcd has it.
const minPing = 5 * time.Second

// maxRequest bounds what a client may send in one request: etcd's own 1.5 MiB and room for the envelope.
const maxRequest = 2 << 20

// Store is a component that keeps the objects of the API server. What its methods say is valid before it runs.
type Store interface {
	component.Component
	// Alone reports whether the store belongs to this server only, so that there is no leader to elect.
	Alone() bool
	// Endpoint holds the etcd URLs of every resource, separated by commas.
	Endpoint() string
	// VolatileEndpoint is the etcd URL for leases and events, or empty when they are kept with all the others.
	VolatileEndpoint() string
	// TLSFiles are what a client of the endpoints needs: the CA, and its own certificate and key. Each may be empty.
	TLSFiles() (ca, cert, key string)
	// Client returns a client of one of the endpoints that calls it in this process, without a connection; nil for another
	// endpoint. It serves once the store is ready, and until it stops. Close ends its watches.
	Client(endpoint string) *clientv3.Client
}

// New returns the store of a server with this configuration that is no member of an etcd cluster.
func New(cfg config.Config) Store {
	files := tls.Config{CAFile: cfg.DatastoreCAFile, CertFile: cfg.DatastoreCertFile, KeyFile: cfg.DatastoreKeyFile}
	if isEtcd(cfg.DatastoreEndpoint) {
		return &External{urls: strings.Split(cfg.DatastoreEndpoint, ","), tls: files}
	}
	return &Datastore{endpoint: cfg.DatastoreEndpoint, tls: files, paths: cfg.Paths(), listen: socket.Listen}
}

// Datastore is kine over SQLite or another database.
type Datastore struct {
	endpoint string
	tls      tls.Config
	paths    config.Paths
	listen   func(path string) (net.Listener, error)
	bridges  sync.Map // *server.KVServerBridge by endpoint, once it serves
}

// Name implements component.Component.
func (d *Datastore) Name() string { return "datastore" }

// Alone implements Store.
func (d *Datastore) Alone() bool { return d.endpoint == "" }

// Endpoint implements Store.
func (d *Datastore) Endpoint() string { return "unix://" + d.paths.DatastoreSocket() }

// VolatileEndpoint implements Store.
func (d *Datastore) VolatileEndpoint() string {
	if !d.Alone() {
		return ""
	}
	return "unix://" + d.paths.VolatileSocket()
}

// TLSFiles implements Store: the API server needs none for a socket.
func (d *Datastore) TLSFiles() (ca, cert, key string) { return "", "", "" }

// Prepare makes the folders and looks at the SQLite file before anything trusts it.
func (d *Datastore) Prepare(context.Context) error {
	if err := os.MkdirAll(d.paths.Run, 0o755); err != nil {
		return err
	}
	if !d.Alone() {
		return nil
	}
	for _, db := range []string{d.paths.DB(), d.paths.VolatileDB()} {
		if err := durable.MkdirAll(filepath.Dir(db), 0o700); err != nil {
			return err
		}
	}
	if err := checkSQLite(d.paths.DB()); err != nil {
		return advise(err)
	}
	if err := createSQLite(d.paths.DB()); err != nil {
		return err
	}
	if err := checkSQLite(d.paths.VolatileDB()); err != nil {
		return removeSQLite(d.paths.VolatileDB())
	}
	return nil
}

// Run serves until ctx ends. It is ready when a value was written and read back through the socket.
func (d *Datastore) Run(ctx context.Context, ready func()) error {
	stores := d.stores()
	defer func() {
		for _, s := range stores {
			s.stop()
		}
	}()
	serving, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	if err := d.serve(serving, stores, fail); err != nil && serving.Err() == nil {
		return err
	}
	if serving.Err() == nil {
		ready()
	}
	<-serving.Done()
	if ctx.Err() != nil {
		return nil
	}
	return context.Cause(serving)
}

// serve starts the stores. What ends one of them later goes to fail.
func (d *Datastore) serve(ctx context.Context, stores []*store, fail func(error)) error {
	for _, s := range stores {
		if err := s.start(ctx, fail); err != nil {
			return err
		}
	}
	for _, s := range stores {
		if err := component.Poll(ctx, "a first read and write", 100*time.Millisecond, s.roundTrip); err != nil {
			return err
		}
		d.bridges.Store("unix://"+s.socket, s.bridge)
	}
	return nil
}

// Check reads from each database.
func (d *Datastore) Check(ctx context.Context) error {
	for _, s := range d.stores() {
		if err := s.read(ctx); err != nil {
			return fmt.Errorf("read %s: %s", s.name(), oneLine(scrub(err.Error(), s.endpoint)))
		}
	}
	return nil
}

func (d *Datastore) stores() []*store {
	if !d.Alone() {
		return []*store{{listen: d.listen, socket: d.paths.DatastoreSocket(), endpoint: d.endpoint, tls: d.tls}}
	}
	return []*store{
		{listen: d.listen, socket: d.paths.DatastoreSocket(), file: sqliteFile{d.paths.DB(), "FULL"}},
		{listen: d.listen, socket: d.paths.VolatileSocket(), file: sqliteFile{d.paths.VolatileDB(), "OFF"}},
	}
}

// store is one database and the socket that serves it.
type store struct {
	listen   func(path string) (net.Listener, error)
	socket   string
	endpoint string     // of a database elsewhere, or empty
	tls      tls.Config // for that
	file     sqliteFile // where there is no endpoint

	cancel context.CancelFunc
	wg     sync.WaitGroup
	grpc   *grpc.Server
	bridge *server.KVServerBridge
}

func (s *store) start(ctx context.Context, fail func(error)) error {
	backend, err := s.open(ctx)
	if err != nil {
		return s.openError(err)
	}
	s.grpc = grpc.NewServer(grpc.MaxRecvMsgSize(maxRequest), grpc.MaxSendMsgSize(1<<31-1),
		// The API server pings each idle connection every 30 s; gRPC's default would end them, with all their watches.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minPing, PermitWithoutStream: true}))
	s.bridge = server.New(backend, "unix", notifyInterval, emulatedEtcd)
	s.bridge.Register(s.grpc)
	l, err := s.listen(s.socket)
	if err != nil {
		return err
	}
	go func() {
		if err := s.grpc.Serve(l); err != nil {
			fail(fmt.Errorf("serve etcd API on %s: %w", s.socket, err))
		}
	}()
	return nil
}

func (s *store) stop() {
	if s.grpc != nil {
		s.grpc.Stop() // the API server has ended; what still hangs on are watches
	}
	if s.cancel != nil {
		s.cancel()
		s.wg.Wait()
	}
}

// dial opens a connection to the socket, and what reads and writes through it.
func (s *store) dial() (clientv3.KV, *grpc.ClientConn, error) {
	conn, err := grpc.NewClient("unix://"+s.socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, nil, err
	}
	return clientv3.NewKVFromKVClient(etcdserverpb.NewKVClient(conn), nil), conn, nil
}

func (s *store) roundTrip(ctx context.Context) error {
	kv, conn, err := s.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	return roundTrip(ctx, kv)
}

func (s *store) read(ctx context.Context) error {
	kv, conn, err := s.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = kv.Get(ctx, probeKey)
	return err
}

// probeKey is outside of /registry, where the API server keeps its objects.
const probeKey = "/edgebox/datastore-probe"

// roundTrip writes a value and reads it back.
func roundTrip(ctx context.Context, kv clientv3.KV) error {
	get, err := kv.Get(ctx, probeKey)
	if err != nil {
		return err
	}
	var rev int64
	if len(get.Kvs) > 0 {
		rev = get.Kvs[0].ModRevision
	}
	want := time.Now().UTC().Format(time.RFC3339Nano)
	txn := kv.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(probeKey), "=", rev)).Then(clientv3.OpPut(probeKey, want))
	if rev > 0 { // the shape of an update in the API server, and the only one that kine takes
		txn = txn.Else(clientv3.OpGet(probeKey))
	}
	put, err := txn.Commit()
	if err != nil {
		return err
	}
	if !put.Succeeded { // another server's probe came first; the next may not
		return errors.New("another value was written at the same time")
	}
	get, err = kv.Get(ctx, probeKey, clientv3.WithRev(put.Header.Revision))
	if err != nil {
		return err
	}
	if len(get.Kvs) != 1 || string(get.Kvs[0].Value) != want {
		return errors.New("a value that was written could not be read back")
	}
	return nil
}
