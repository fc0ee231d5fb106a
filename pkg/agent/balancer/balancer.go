// Package balancer gives a node one address of the Kubernetes API, on its loopback interface, for all servers of the
// cluster. It learns servers as they come and go, remembers them on disk for the next start, and moves to another one
// when the one in use does not answer.
//
// It passes bytes on and takes part in no TLS session: a connection is verified end to end by those who made it. All
// connections go to one server at a time, so that what a component wrote is what it reads next.
//
// It owns its listener and the file of remembered servers.
package balancer

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/edgebox/edgebox/pkg/component"
)

const (
	dialTimeout = 3 * time.Second
	// hold is how long a client's connection is kept while no server can be reached. Clients that are refused wait longer
	// and longer before they try again; those that are held are served as soon as the network is back.
	hold      = 30 * time.Second
	dialPause = 250 * time.Millisecond

	// A peer that does not acknowledge for this long is gone; the kernel's own limit is a quarter of an hour.
	deadPeer = 10 * time.Second
)

// Config is what a balancer depends on.
type Config struct {
	Listen   string // host:port
	Server   string // host:port of the server that the user named; it counts while no other is known
	NodeName string // spreads nodes over servers
	File     string // remembers servers
	// Probe asks a server whether it is ready, and what time it is there.
	Probe func(ctx context.Context, address string) (time.Time, error)
	// Discover reports the addresses of all servers, each time that they change, until ctx ends.
	Discover func(ctx context.Context, found func(addresses []string)) error
}

// Server is what is known of one server.
type Server struct {
	Address     string
	InUse       bool
	Connections int
	Error       string // of the last attempt to reach it; empty if that went well
}

// Balancer is the component.
type Balancer struct {
	cfg Config

	mu      sync.Mutex
	servers []*server // the one in use first
	changed chan struct{}
	offset  time.Duration // of the servers' clock from this one's
}

// server is one of the servers. The balancer's lock guards it.
type server struct {
	address string
	err     error // of the last attempt
	conns   map[net.Conn]struct{}
}

// New returns the balancer of an agent.
func New(cfg Config) *Balancer { return &Balancer{cfg: cfg, changed: make(chan struct{})} }

// Name implements component.Component.
func (b *Balancer) Name() string { return "api-balancer" }

// Prepare takes up the servers that were known at the end of the last run.
func (b *Balancer) Prepare(context.Context) error {
	remembered := recall(b.cfg.File)
	if len(remembered) == 0 {
		remembered = []string{b.cfg.Server}
	}
	b.adopt(remembered)
	b.mu.Lock()
	defer b.mu.Unlock()
	// Nodes spread over the servers by their names.
	hash := fnv.New32a()
	_, _ = io.WriteString(hash, b.cfg.NodeName)
	first := int(hash.Sum32() % uint32(len(b.servers)))
	b.servers = append(b.servers[first:len(b.servers):len(b.servers)], b.servers[:first]...)
	return nil
}

// Run balances until ctx ends. It is ready when it listens: a node starts without a server as well.
func (b *Balancer) Run(ctx context.Context, ready func()) error {
	l, err := net.Listen("tcp", b.cfg.Listen)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer b.Reconnect()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	wg.Go(func() { b.probe(ctx) })
	wg.Go(func() { b.discover(ctx) })
	ready()
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		wg.Go(func() { b.serve(ctx, conn) })
	}
}

// Check returns nil when the server in use answers.
func (b *Balancer) Check(context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s := b.servers[0]; s.err != nil {
		return fmt.Errorf("server %s: %w", s.address, s.err)
	}
	return nil
}

// Servers returns what is known of each server, the one in use first.
func (b *Balancer) Servers() []Server {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make([]Server, len(b.servers))
	for i, s := range b.servers {
		out[i] = Server{Address: s.address, InUse: i == 0, Connections: len(s.conns)}
		if s.err != nil {
			out[i].Error = s.err.Error()
		}
	}
	return out
}

// Addresses returns those of all servers, sorted, and a channel that is closed when they change.
func (b *Balancer) Addresses() ([]string, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sorted(), b.changed
}

func (b *Balancer) sorted() []string {
	addresses := make([]string, len(b.servers))
	for i, s := range b.servers {
		addresses[i] = s.address
	}
	slices.Sort(addresses)
	return addresses
}

// Now is the time by the servers' clock, as far as it is known, else by this machine's.
func (b *Balancer) Now() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return time.Now().Add(b.offset)
}

// adopt makes addresses the servers. Those that stay keep their connections; the others' are closed.
func (b *Balancer) adopt(addresses []string) {
	b.mu.Lock()
	var kept []*server
	var gone []net.Conn
	for _, s := range b.servers {
		if slices.Contains(addresses, s.address) {
			kept = append(kept, s)
		} else {
			gone = append(gone, s.take()...)
		}
	}
	for _, a := range addresses {
		if !slices.ContainsFunc(kept, func(s *server) bool { return s.address == a }) {
			kept = append(kept, &server{address: a, conns: map[net.Conn]struct{}{}})
		}
	}
	before := b.sorted()
	b.servers = kept
	if !slices.Equal(before, b.sorted()) {
		close(b.changed)
		b.changed = make(chan struct{})
	}
	b.mu.Unlock()
	closeConns(gone)
}

// take empties the list of connections. The caller holds the lock, and closes them after it.
func (s *server) take() []net.Conn {
	var conns []net.Conn
	for c := range s.conns {
		conns = append(conns, c)
	}
	clear(s.conns)
	return conns
}

func closeConns(conns []net.Conn) {
	for _, c := range conns {
		_ = c.Close()
	}
}

// Reconnect ends all connections, so that clients make new ones.
func (b *Balancer) Reconnect() {
	b.mu.Lock()
	var conns []net.Conn
	for _, s := range b.servers {
		conns = append(conns, s.take()...)
	}
	b.mu.Unlock()
	closeConns(conns)
}

// current is the server in use.
func (b *Balancer) current() *server {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.servers[0]
}

// failed notes why a server could not be reached. If it is the one in use, the next one is, and its connections, which
// lead nowhere, are closed.
func (b *Balancer) failed(s *server, err error) {
	b.mu.Lock()
	if s.err == nil {
		slog.Warn("server does not answer", "server", s.address, "err", err)
	}
	s.err = err
	var conns []net.Conn
	if len(b.servers) > 1 && b.servers[0] == s {
		b.servers = append(b.servers[1:len(b.servers):len(b.servers)], s)
		conns = s.take()
		if next := b.servers[0]; next.err == nil {
			slog.Info("moved to another server", "server", next.address)
		}
	}
	b.mu.Unlock()
	closeConns(conns)
}

// lastResort turns to the server that the user named when none that is known answers: behind its name may be another
// address by now.
func (b *Balancer) lastResort(ctx context.Context) {
	b.mu.Lock()
	known := slices.ContainsFunc(b.servers, func(s *server) bool { return s.err == nil || s.address == b.cfg.Server })
	b.mu.Unlock()
	if known || !b.anyAnswers(ctx, []string{b.cfg.Server}) {
		return
	}
	slog.Info("moved to the server that was named", "server", b.cfg.Server)
	b.adopt([]string{b.cfg.Server})
}

// answered notes that a server was reached.
func (b *Balancer) answered(s *server) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s.err != nil {
		slog.Info("server answers again", "server", s.address)
	}
	s.err = nil
}

// serve connects a client with a server.
func (b *Balancer) serve(ctx context.Context, client net.Conn) {
	defer client.Close()
	upstream, s, err := b.dial(ctx)
	if err != nil {
		return
	}
	defer upstream.Close()
	b.mu.Lock()
	if !slices.Contains(b.servers, s) { // it was left meanwhile
		b.mu.Unlock()
		return
	}
	s.conns[upstream] = struct{}{}
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		delete(s.conns, upstream)
		b.mu.Unlock()
	}()
	exchange(client, upstream)
}

// dial connects to the server in use, or to the next one that answers.
func (b *Balancer) dial(ctx context.Context) (net.Conn, *server, error) {
	ctx, cancel := context.WithTimeout(ctx, hold)
	defer cancel()
	for {
		s := b.current()
		conn, err := dialer.DialContext(ctx, "tcp", s.address)
		if err == nil {
			b.answered(s)
			return conn, s, nil
		}
		if ctx.Err() != nil {
			return nil, nil, err
		}
		b.failed(s, err)
		b.lastResort(ctx)
		select {
		case <-ctx.Done():
			return nil, nil, err
		case <-time.After(dialPause):
		}
	}
}

var dialer = net.Dialer{
	Timeout:         dialTimeout,
	KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3},
	ControlContext: func(_ context.Context, _, _ string, c syscall.RawConn) error {
		var err error
		ctlErr := c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(deadPeer.Milliseconds()))
		})
		return errors.Join(ctlErr, err)
	},
}

// exchange copies both ways until both ends have finished or one has failed.
func exchange(a, b net.Conn) {
	var wg sync.WaitGroup
	for _, way := range [][2]net.Conn{{a, b}, {b, a}} {
		wg.Go(func() {
			from, to := way[0], way[1]
			_, err := io.Copy(to, from)
			if half, ok := to.(*net.TCPConn); ok && err == nil {
				_ = half.CloseWrite()
				return
			}
			_ = a.Close()
			_ = b.Close()
		})
	}
	wg.Wait()
}

// discover follows the servers of the cluster.
func (b *Balancer) discover(ctx context.Context) {
	// What it fails with is what other clients of the API see too; the server in use is known all the same.
	_ = component.Poll(ctx, "the servers of the cluster", 5*time.Second, func(ctx context.Context) error {
		return b.cfg.Discover(ctx, func(addresses []string) {
			if len(addresses) == 0 {
				return
			}
			b.learn(ctx, addresses)
		})
	})
}

// learn takes the servers that the cluster has told. Behind some networks their addresses cannot be reached from here:
// then the one that the user named stays.
func (b *Balancer) learn(ctx context.Context, addresses []string) {
	if !slices.Contains(addresses, b.cfg.Server) && !b.anyAnswers(ctx, addresses) {
		addresses = append(slices.Clone(addresses), b.cfg.Server)
	}
	b.adopt(addresses)
	if err := remember(b.cfg.File, addresses); err != nil {
		slog.Warn("servers are not remembered", "err", err)
	}
}

func (b *Balancer) anyAnswers(ctx context.Context, addresses []string) bool {
	for _, a := range addresses {
		ctx, cancel := context.WithTimeout(ctx, dialTimeout)
		_, err := b.cfg.Probe(ctx, a)
		cancel()
		if err == nil {
			return true
		}
	}
	return false
}
