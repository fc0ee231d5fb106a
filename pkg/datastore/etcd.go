package datastore

import (
	"cmp"
	"context"
	cryptotls "crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.etcd.io/etcd/server/v3/features"
	"go.etcd.io/etcd/server/v3/storage/wal"

	"github.com/edgebox/edgebox/pkg/component"
	"github.com/edgebox/edgebox/pkg/config"
	"github.com/edgebox/edgebox/pkg/durable"
	"github.com/edgebox/edgebox/pkg/pki"
	"github.com/edgebox/edgebox/pkg/upstream"
)

// Ports of a member, for clients and for other members.
const (
	etcdClientPort = 2379
	etcdPeerPort   = 2380
)

// What differs from etcd's defaults, which are for a machine of its own with a fast disk. The log is synced at each write
// as everywhere.
const (
	// A disk that is busy for a second, as memory cards are, or a processor that is, is no reason for an election; the
	// price is that a dead leader is missed for 3 to 6 s. The controllers, who have 10 s to renew their lease, outlast it.
	heartbeat = 300 * time.Millisecond
	election  = 10 * heartbeat
	// The log is in memory too; a member that lacks more than this gets the whole database.
	catchUpEntries = 2500
	// What the log has goes into the database so often, or after so many writes. Until then it takes memory, and does not
	// count for the quota. Pages that change each second, such as those of leases, are written less often that way: an idle
	// server writes a third.
	batchInterval = 5 * time.Second
	batchLimit    = 100
	walSegment    = 16 << 20 // bytes that are reserved on the disk at a time, and twice that at least
	walFiles      = 2
)

// maxSize is how large the database may become before it takes no more writes. A 32-bit process cannot map more.
func maxSize() int64 {
	if strconv.IntSize == 32 {
		return 512 << 20
	}
	return 2 << 30
}

func init() { wal.SegmentSizeBytes = walSegment }

// Etcd is a member of an etcd cluster, in this process. Only members and those with a certificate of the cluster's CA for
// etcd are listened to.
type Etcd struct {
	name       string
	dir        string
	sqlite     string // of a server that was alone
	address    netip.Addr
	clientPort int
	peerPort   int
	quota      int64 // bytes
	certs      *pki.Store
	join       []string

	mu     sync.Mutex
	server *embed.Etcd // from when it has joined until it stops
}

// NewEtcd returns the member that this server is. The certificates of pki.DatastoreLeaves must be in place when it runs.
// A server that has no data of a cluster yet joins the one whose members have these client URLs; with none, it is the
// first member of a new cluster. Later it does without them.
func NewEtcd(cfg config.Config, certs *pki.Store, join []string) *Etcd {
	e := &Etcd{
		name: cfg.NodeName, dir: cfg.Paths().Etcd(), sqlite: cfg.Paths().DB(),
		clientPort: etcdClientPort, peerPort: etcdPeerPort, quota: maxSize(), certs: certs, join: join,
	}
	if len(cfg.NodeIP) > 0 {
		e.address = cfg.NodeIP[0]
	}
	return e
}

// IsMember reports whether a server with these paths has joined or founded an etcd cluster.
func IsMember(paths config.Paths) bool {
	_, err := os.Stat(memberMark(paths.Etcd()))
	return err == nil
}

// memberMark is a file in the folder of a member that has been part of its cluster.
func memberMark(dir string) string { return filepath.Join(dir, "joined") }

func (e *Etcd) hasLog() bool { return wal.Exist(filepath.Join(e.dir, "member", "wal")) }

// Name implements component.Component.
func (e *Etcd) Name() string { return "datastore" }

// Alone implements Store: how many members there are, or will be, is not known.
func (e *Etcd) Alone() bool { return false }

// Endpoint implements Store. It is this member's: when it is cut off from the others, this server's API had better fail
// than answer with what it knows from others, for agents to choose another.
func (e *Etcd) Endpoint() string { return e.url("127.0.0.1", e.clientPort) }

// VolatileEndpoint implements Store: leases are what servers elect a leader with.
func (e *Etcd) VolatileEndpoint() string { return "" }

// TLSFiles implements Store.
func (e *Etcd) TLSFiles() (ca, cert, key string) {
	return e.certs.CertFile(pki.DatastoreCA), e.certs.CertFile(pki.DatastoreClient), e.certs.KeyFile(pki.DatastoreClient)
}

// Client implements Store.
func (e *Etcd) Client(endpoint string) *clientv3.Client {
	if s := e.running(); s != nil && endpoint == e.Endpoint() {
		return v3client.New(s.Server)
	}
	return nil
}

func (e *Etcd) running() *embed.Etcd {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.server
}

func (e *Etcd) set(s *embed.Etcd) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.server = s
}

func (e *Etcd) url(host string, port int) string {
	return "https://" + net.JoinHostPort(host, strconv.Itoa(port))
}

func (e *Etcd) clientURL() string { return e.url(e.address.String(), e.clientPort) }
func (e *Etcd) peerURL() string   { return e.url(e.address.String(), e.peerPort) }

// clientTLS is what the API server's certificate gives access with.
func (e *Etcd) clientTLS() (*cryptotls.Config, error) {
	ca, cert, key := e.TLSFiles()
	return transport.TLSInfo{TrustedCAFile: ca, CertFile: cert, KeyFile: key}.ClientConfig()
}

// Prepare refuses to leave objects behind that are in SQLite, and to start over where data are missing.
func (e *Etcd) Prepare(context.Context) error {
	if !e.address.IsValid() {
		return errors.New("an etcd member needs an address that others can reach: set --node-ip")
	}
	_, err := os.Stat(memberMark(e.dir))
	joined := err == nil
	switch {
	case joined && !e.hasLog():
		return &damagedError{e.dir, "has lost its log: remove the folder, and have this server join the others again"}
	case joined:
		return nil
	case e.hasLog():
		// It was ended after its log was made and before it was ready. Whether the others know it, they will tell.
	default:
		// It was ended earlier.
		if err := os.RemoveAll(filepath.Join(e.dir, "member")); err != nil {
			return err
		}
	}
	if _, err := os.Stat(e.sqlite); err == nil {
		return fmt.Errorf("this server has kept its objects in %s, which etcd would not have: move that file away, with its -wal, "+
			"to go on without them, or start edgebox as before", e.sqlite)
	}
	return durable.MkdirAll(e.dir, 0o700)
}

// Run is a member until ctx ends. It is ready when it has a vote and a value was written and read back. While most
// members are away it waits.
func (e *Etcd) Run(ctx context.Context, ready func()) error {
	conf, err := e.configure(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	server, err := embed.StartEtcd(conf)
	if err != nil {
		return fmt.Errorf("start etcd: %w", err)
	}
	defer func() {
		select {
		case <-server.Server.ReadyNotify():
		default: // Close waits for listeners that wait for this
			server.Server.HardStop()
		}
		server.Close()
	}()
	err = e.serve(ctx, server, ready)
	e.set(nil)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// configure returns etcd's configuration. A new member is made known to the others first.
func (e *Etcd) configure(ctx context.Context) (*embed.Config, error) {
	conf := embed.NewConfig()
	conf.Name, conf.Dir = e.name, e.dir
	conf.ZapLoggerBuilder = embed.NewZapLoggerBuilder(newZap(upstream.Named(ctx, "etcd"), e.peerChanged))
	conf.ListenClientUrls = urls(e.clientURL(), e.Endpoint())
	conf.ListenPeerUrls = urls(e.peerURL())
	conf.AdvertiseClientUrls = urls(e.clientURL())
	conf.AdvertisePeerUrls = urls(e.peerURL())
	files := func(leaf string) transport.TLSInfo {
		return transport.TLSInfo{CertFile: e.certs.CertFile(leaf), KeyFile: e.certs.KeyFile(leaf),
			TrustedCAFile: e.certs.SigningCertFile(pki.DatastoreCA), ClientCertAuth: true}
	}
	conf.ClientTLSInfo, conf.PeerTLSInfo = files(pki.DatastoreServer), files(pki.DatastorePeer)

	conf.EnableGRPCGateway = false
	conf.TickMs, conf.ElectionMs = uint(heartbeat.Milliseconds()), uint(election.Milliseconds())
	conf.SnapshotCatchUpEntries = catchUpEntries
	conf.BackendBatchInterval, conf.BackendBatchLimit = batchInterval, batchLimit
	conf.QuotaBackendBytes = e.quota
	conf.MaxWalFiles, conf.MaxSnapFiles = walFiles, walFiles
	conf.DowngradeCheckTime = time.Minute
	if err := conf.ServerFeatureGate.(interface {
		SetFromMap(map[string]bool) error
	}).SetFromMap(map[string]bool{string(features.InitialCorruptCheck): true}); err != nil {
		return nil, err
	}

	conf.InitialCluster = conf.InitialClusterFromName(e.name)
	if e.hasLog() { // which says what the cluster is
		return conf, nil
	}
	if len(e.join) == 0 {
		conf.ClusterState = embed.ClusterStateFlagNew
		conf.InitialClusterToken = strconv.FormatInt(time.Now().UnixNano(), 36) // two clusters never have the same identity
		return conf, nil
	}
	client, err := e.clientTLS()
	if err != nil {
		return nil, err
	}
	conf.ClusterState = embed.ClusterStateFlagExisting
	err = component.Poll(ctx, "the members of the etcd cluster to take this one", retryEvery, func(ctx context.Context) error {
		var err error
		conf.InitialCluster, err = addMember(ctx, e.join, client, e.name, e.peerURL())
		return err
	})
	return conf, err
}

func urls(texts ...string) []url.URL {
	var all []url.URL
	for _, t := range texts {
		u, err := url.Parse(t)
		if err == nil && !slices.Contains(all, *u) { // made here, of an address and a port
			all = append(all, *u)
		}
	}
	return all
}

// serve makes the member one with a vote, and looks after it.
func (e *Etcd) serve(ctx context.Context, server *embed.Etcd, ready func()) error {
	ctx, ended := context.WithCancelCause(ctx)
	defer ended(nil)
	go func() {
		select {
		case err, ok := <-server.Err():
			if !ok || err == nil {
				err = errors.New("etcd ended")
			}
			ended(err)
		case <-server.Server.StopNotify():
			ended(e.whyStopped(server.Server))
		case <-ctx.Done():
		}
	}()
	err := e.becomeReady(ctx, server)
	if ctx.Err() == nil && err != nil {
		return err
	}
	if ctx.Err() == nil {
		ready()
		e.lookAfter(ctx, server.Server)
	}
	<-ctx.Done()
	return context.Cause(ctx)
}

// whyStopped is asked after etcd has ended by itself.
func (e *Etcd) whyStopped(s *etcdserver.EtcdServer) error {
	if s.IsIDRemoved(uint64(s.MemberID())) {
		return fmt.Errorf("this server was removed from the etcd cluster: to join again, remove %s", e.dir)
	}
	return errors.New("etcd ended")
}

// becomeReady waits for the others, for a vote, and for a first read and write.
func (e *Etcd) becomeReady(ctx context.Context, server *embed.Etcd) error {
	s := server.Server
	if err := component.Poll(ctx, "etcd", retryEvery, func(ctx context.Context) error {
		select {
		case <-s.ReadyNotify():
			return nil
		case <-time.After(probeTimeout):
		case <-ctx.Done():
			return ctx.Err()
		}
		return e.explain(ctx, s, context.DeadlineExceeded)
	}); err != nil {
		return err
	}
	if err := component.Poll(ctx, "a vote in the etcd cluster", retryEvery, func(ctx context.Context) error {
		if !s.IsLearner() {
			return nil
		}
		attempt, cancel := context.WithTimeout(ctx, probeTimeout)
		defer cancel()
		_, err := s.PromoteMember(attempt, uint64(s.MemberID())) // the leader knows whether it has caught up
		return e.explain(ctx, s, err)
	}); err != nil {
		return err
	}
	client := v3client.New(s)
	defer client.Close()
	if err := component.Poll(ctx, "a first read and write", 100*time.Millisecond, func(ctx context.Context) error {
		attempt, cancel := context.WithTimeout(ctx, probeTimeout)
		defer cancel()
		return e.explain(ctx, s, roundTrip(attempt, client.KV))
	}); err != nil {
		return err
	}
	if err := e.tellAddress(ctx, s); err != nil {
		return err
	}
	e.set(server)
	return durable.WriteFile(memberMark(e.dir), nil, 0o600)
}

// tellAddress makes the others look for this member at its new address, if it has one.
func (e *Etcd) tellAddress(ctx context.Context, s *etcdserver.EtcdServer) error {
	member := s.Cluster().Member(s.MemberID())
	if member == nil || slices.Equal(member.PeerURLs, []string{e.peerURL()}) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	moved := membership.Member{ID: member.ID, RaftAttributes: membership.RaftAttributes{PeerURLs: []string{e.peerURL()}}}
	if _, err := s.UpdateMember(ctx, moved); err != nil {
		return fmt.Errorf("tell the etcd cluster the new address of this server: %w", err)
	}
	slog.Info("the etcd cluster knows the new address of this server", "url", e.peerURL())
	return nil
}

// explain says which members cannot be reached, when that may be why etcd does not answer.
func (e *Etcd) explain(ctx context.Context, s *etcdserver.EtcdServer, err error) error {
	if err == nil {
		return nil
	}
	if slices.ContainsFunc(timeouts, func(t error) bool { return errors.Is(err, t) }) {
		err = context.DeadlineExceeded
	}
	conf, tlsErr := e.clientTLS()
	if tlsErr != nil {
		return tlsErr
	}
	var others []string
	for _, m := range s.Cluster().Members() {
		if m.ID != s.MemberID() && len(m.PeerURLs) > 0 {
			others = append(others, m.PeerURLs[0])
		}
	}
	return explain(ctx, others, conf, err)
}

// peerChanged tells of another member that went away or came back while this one runs.
func (e *Etcd) peerChanged(id string, active bool) {
	server := e.running()
	if server == nil {
		return
	}
	for _, m := range server.Server.Cluster().Members() {
		name := cmp.Or(m.Name, "a new one") // until it has started
		switch {
		case m.ID.String() != id:
		case active:
			slog.Info("an etcd member is there", "member", name, "urls", m.PeerURLs)
		default:
			slog.Warn("an etcd member is away", "member", name, "urls", m.PeerURLs)
		}
	}
}

// Check reads through a majority of the members.
func (e *Etcd) Check(ctx context.Context) error {
	server := e.running()
	if server == nil {
		return nil // it is stopping
	}
	attempt, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	_, err := server.Server.Range(attempt, &etcdserverpb.RangeRequest{Key: []byte(probeKey)})
	if err := e.explain(ctx, server.Server, err); err != nil {
		return err
	}
	return alarm(server.Server)
}
