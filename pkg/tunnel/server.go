package tunnel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/edgebox/edgebox/pkg/socket"
)

// ServerConfig is what a server's end depends on.
type ServerConfig struct {
	Socket string // where the API server's egress selector connects to
	// Node names the node that an authenticated request comes from. An error is told to the caller.
	Node func(*http.Request) (name string, err error)
	// Route is asked for each connection, with the host that the API server wants.
	Route func(host string) Route
}

// Route is the way to a host.
type Route struct {
	Node    string // leads through the tunnel of this node, if one is open
	Address string // what the node dials at the other end: a host without port
	Direct  string // what is dialled from here where no tunnel is open; empty if that would reach another host, or none
}

// Server is the end of tunnels beside an API server.
type Server struct {
	cfg ServerConfig

	mu      sync.Mutex
	run     *run
	nodes   map[string][]*link // by name, the newest last; only those that opened a stream
	changed chan struct{}      // closed and replaced when a stream or a link comes or goes
}

// run is what belongs to one call of Run.
type run struct {
	ctx   context.Context
	links chan *link // to be served
	wg    sync.WaitGroup
}

// NewServer returns a server that accepts nobody before it runs.
func NewServer(cfg ServerConfig) *Server {
	return &Server{cfg: cfg, nodes: map[string][]*link{}, changed: make(chan struct{})}
}

// Name implements component.Component.
func (s *Server) Name() string { return "tunnel" }

// Run serves the API server's connections and agents' tunnels until ctx ends, and ends them with it.
func (s *Server) Run(ctx context.Context, ready func()) error {
	if err := os.MkdirAll(filepath.Dir(s.cfg.Socket), 0o755); err != nil {
		return err
	}
	l, err := socket.Listen(s.cfg.Socket)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	r := &run{ctx: ctx, links: make(chan *link)}
	served := make(chan error, 1)
	srv := &http.Server{
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { s.connect(r, w, req) }),
		ReadHeaderTimeout: answerTimeout,
	}
	s.mu.Lock()
	s.run = r
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.run = nil
		s.mu.Unlock()
		cancel()
		_ = srv.Close()
		r.wg.Wait()
	}()
	r.wg.Go(func() { served <- srv.Serve(l) })
	ready()
	for {
		select {
		case l := <-r.links:
			r.wg.Go(func() { l.serve(r) })
		case err := <-served:
			return fmt.Errorf("serve %s: %w", s.cfg.Socket, err)
		case <-ctx.Done():
			return nil
		}
	}
}

// begin counts a connection among those that Run waits for, unless Run is about to return.
func (s *Server) begin(r *run) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.run != r {
		return false
	}
	r.wg.Add(1)
	return true
}

// Nodes are the names of nodes with an open tunnel, in order.
func (s *Server) Nodes() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.nodes))
}

// AgentHandler takes the requests at Path. Whoever gets there must be authenticated and authorized already.
func (s *Server) AgentHandler() http.Handler { return http.HandlerFunc(s.accept) }

// accept makes a tunnel of an agent's connection.
func (s *Server) accept(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet || !strings.EqualFold(r.Header.Get("Upgrade"), Protocol) {
		w.Header().Set("Upgrade", Protocol)
		http.Error(w, "this path is for tunnels of agents", http.StatusUpgradeRequired)
		return
	}
	node, err := s.cfg.Node(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusForbidden)
		return
	}
	s.mu.Lock()
	run := s.run
	s.mu.Unlock()
	if run == nil {
		http.Error(w, "this server takes no tunnels now", http.StatusServiceUnavailable)
		return
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, "tunnels need HTTP/1.1: "+err.Error(), http.StatusHTTPVersionNotSupported)
		return
	}
	_ = conn.SetDeadline(time.Now().Add(answerTimeout)) // gRPC sets its own
	if _, err := fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", Protocol); err != nil {
		conn.Close()
		return
	}
	select {
	case run.links <- newLink(s, node, bufferedConn{conn, rw.Reader}):
	case <-run.ctx.Done():
		conn.Close()
	}
}

var errNoTunnel = errors.New("no tunnel is open")

// take finds an unused stream to a node. The newest link counts: an older one may be a connection that is dead without
// anybody knowing.
func (s *Server) take(ctx context.Context, node string) (*session, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	for {
		s.mu.Lock()
		links := s.nodes[node]
		if len(links) == 0 {
			s.mu.Unlock()
			return nil, errNoTunnel
		}
		l := links[len(links)-1]
		if n := len(l.idle); n > 0 {
			ss := l.idle[n-1]
			l.idle = l.idle[:n-1]
			ss.taken = true
			l.busy++
			s.mu.Unlock()
			return ss, nil
		}
		changed := s.changed
		s.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("its tunnel had no stream to spare for %s", answerTimeout)
		}
	}
}

// notify wakes up those who wait for a stream. The caller holds s.mu.
func (s *Server) notify() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// offer makes a stream available.
func (s *Server) offer(ss *session) {
	l := ss.link
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.ended {
		return
	}
	if !slices.Contains(s.nodes[l.node], l) {
		s.nodes[l.node] = append(s.nodes[l.node], l)
		slog.Info("tunnel opened", "node", l.node)
	}
	l.idle = append(l.idle, ss)
	s.notify()
}

// remove forgets a stream that has ended, and ends unused ones of which a burst left too many.
func (s *Server) remove(ss *session) {
	l := ss.link
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(l.idle, ss); i >= 0 {
		l.idle = slices.Delete(l.idle, i, i+1)
	}
	if ss.taken {
		l.busy--
	}
	if keep := spares(l.busy); len(l.idle) > 2*keep {
		surplus := len(l.idle) - keep
		for _, ss := range l.idle[:surplus] {
			ss.backend.Retire()
		}
		l.idle = slices.Clone(l.idle[surplus:])
	}
	s.notify()
}

// unlink forgets a connection that has ended.
func (s *Server) unlink(l *link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l.ended, l.idle = true, nil
	links := s.nodes[l.node]
	i := slices.Index(links, l)
	if i < 0 {
		return
	}
	if links = slices.Delete(links, i, i+1); len(links) > 0 {
		s.nodes[l.node] = links
	} else {
		delete(s.nodes, l.node)
		slog.Info("tunnel closed", "node", l.node)
	}
	s.notify()
}
