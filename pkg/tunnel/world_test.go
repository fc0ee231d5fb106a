package tunnel

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/apis/apiserver"
	apifilters "k8s.io/apiserver/pkg/endpoints/filters"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/server/egressselector"
	"k8s.io/apiserver/pkg/server/filters"
	"k8s.io/apiserver/pkg/server/httplog"
	"sigs.k8s.io/apiserver-network-proxy/konnectivity-client/proto/client"
	"sigs.k8s.io/apiserver-network-proxy/proto/agent"
	"sigs.k8s.io/apiserver-network-proxy/proto/header"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("k8s.io/klog/v2.(*flushDaemon).run.func1"))
}

// authority issues certificates for the ends of tunnels.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{cert: cert, key: key, pool: x509.NewCertPool()}
	a.pool.AddCert(cert)
	return a
}

func (a *authority) issue(t testing.TB, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}},
		a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// world is a server: an API's port with HTTP/2, and an egress selector.
type world struct {
	t      testing.TB
	ca     *authority
	server *Server
	port   string // host:port of the API
	stop   func() // ends Server.Run

	egress func(ctx context.Context, network, address string) (net.Conn, error)

	mu     sync.Mutex
	routes map[string]Route
}

func newWorld(t testing.TB) *world { return newWorldWith(t, newAuthority(t)) }

func newWorldWith(t testing.TB, ca *authority) *world {
	t.Helper()
	w := &world{t: t, ca: ca, routes: map[string]Route{}}
	socket := filepath.Join(t.TempDir(), "sub", "s")
	w.server = NewServer(ServerConfig{
		Socket: socket,
		Node: func(r *http.Request) (string, error) {
			name, ok := strings.CutPrefix(r.TLS.PeerCertificates[0].Subject.CommonName, "system:node:")
			if !ok {
				return "", errors.New("you are no node")
			}
			return name, nil
		},
		Route: func(host string) Route {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.routes[host]
		},
	})
	mux := http.NewServeMux()
	mux.Handle(Path, w.server.AgentHandler())
	// Those of the API server's filters that stand between a connection and who hijacks it, with a limit for requests that
	// tunnels outlive.
	short := func(*http.Request, *request.RequestInfo) bool { return false }
	var h http.Handler = filters.WithTimeoutForNonLongRunningRequests(mux, short)
	h = apifilters.WithRequestDeadline(h, nil, nil, short, nil, 2*time.Second)
	h = httplog.WithLogging(h, httplog.DefaultStacktracePred)
	h = apifilters.WithRequestInfo(h, &request.RequestInfoFactory{APIPrefixes: sets.NewString("api", "apis")})
	api := httptest.NewUnstartedServer(apifilters.WithRequestReceivedTimestamp(h))
	api.EnableHTTP2 = true
	api.TLS = &tls.Config{Certificates: []tls.Certificate{ca.issue(t, "server")}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ca.pool}
	api.StartTLS()
	t.Cleanup(api.Close)
	w.port = api.Listener.Addr().String()
	w.start()

	selector, err := egressselector.NewEgressSelector(&apiserver.EgressSelectorConfiguration{EgressSelections: []apiserver.EgressSelection{{
		Name: "cluster",
		Connection: apiserver.Connection{ProxyProtocol: apiserver.ProtocolHTTPConnect,
			Transport: &apiserver.Transport{UDS: &apiserver.UDSTransport{UDSName: socket}}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	w.egress, err = selector.Lookup(egressselector.Cluster.AsNetworkContext())
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// start runs the server until stop or the end of the test.
func (w *world) start() {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended, ready := make(chan error, 1), make(chan struct{})
	go func() { ended <- w.server.Run(ctx, func() { close(ready) }) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			w.t.Errorf("Run: %v", err)
		}
	})
	w.t.Cleanup(w.stop)
	select {
	case <-ready:
	case err := <-ended:
		w.t.Fatal(err)
	}
}

func (w *world) route(host string, r Route) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.routes[host] = r
}

// dial connects as the API server does.
func (w *world) dial(address string) *net.UnixConn {
	w.t.Helper()
	c, err := w.egress(w.t.Context(), "tcp", address)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { c.Close() })
	return c.(*net.UnixConn)
}

// refused dials what cannot be reached, and returns why.
func (w *world) refused(address string) string {
	w.t.Helper()
	c, err := w.egress(w.t.Context(), "tcp", address)
	if err == nil {
		c.Close()
		w.t.Fatalf("%s can be reached", address)
	}
	return err.Error()
}

// await returns when the server's tunnels are as cond wants.
func (w *world) await(cond func() bool) {
	w.t.Helper()
	for {
		w.server.mu.Lock()
		changed := w.server.changed
		w.server.mu.Unlock()
		if cond() {
			return
		}
		select {
		case <-changed:
		case <-w.t.Context().Done():
			w.t.Fatal("the test ended")
		}
	}
}

// awaitNodes returns when exactly these nodes have a tunnel.
func (w *world) awaitNodes(names ...string) {
	w.t.Helper()
	w.await(func() bool { return slices.Equal(w.server.Nodes(), names) })
}

// config is an agent's of that name.
func (w *world) config(name string, servers func() ([]string, <-chan struct{})) ClientConfig {
	cert := w.ca.issue(w.t, "system:node:"+name)
	return ClientConfig{Servers: servers, TLS: func() (*tls.Config, error) {
		return &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: w.ca.pool}, nil
	}}
}

// fixed are servers that do not change.
func fixed(addresses ...string) func() ([]string, <-chan struct{}) {
	return func() ([]string, <-chan struct{}) { return addresses, nil }
}

// running runs an agent until stop or the end of the test; ready is closed when it is.
func running(t testing.TB, c *Client) (ready chan struct{}, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	ready = make(chan struct{})
	once := sync.OnceFunc(func() { close(ready) })
	go func() { ended <- c.Run(ctx, once) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		if open := c.Connected(); len(open) > 0 {
			t.Errorf("connected to %v after the end", open)
		}
	})
	t.Cleanup(stop)
	return ready, stop
}

// agent runs an agent with a tunnel to the server, and routes its name to itself.
func (w *world) agent(name string) (stop func()) {
	w.t.Helper()
	w.route(name, Route{Node: name, Address: "127.0.0.1"})
	ready, stop := running(w.t, NewClient(w.config(name, fixed(w.port))))
	<-ready
	w.await(func() bool { return slices.Contains(w.server.Nodes(), name) })
	return stop
}

// target serves connections with f on an address of the loopback interface until the end of the test.
func target(t testing.TB, host string, f func(*net.TCPConn)) (port string) {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				defer context.AfterFunc(t.Context(), func() { c.Close() })()
				f(c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	_, port, _ = net.SplitHostPort(l.Addr().String())
	return port
}

// echo is a target that returns what it is sent, and ends when that ends.
func echo(c *net.TCPConn) { _, _ = io.Copy(c, c) }

// echoes proves that c leads to echo.
func echoes(t testing.TB, c net.Conn) {
	t.Helper()
	text := rand.Text()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != text {
		t.Fatalf("got %q, %v", got, err)
	}
}

// stranger is an agent whose behaviour the test writes: f gets one stream of a node, and the connection below it.
func (w *world) stranger(name, claims string, f func(stream agent.AgentService_ConnectClient, conn net.Conn)) {
	w.t.Helper()
	w.route(name, Route{Node: name, Address: "127.0.0.1"})
	conn, err := NewClient(w.config(name, nil)).dial(w.t.Context(), w.port)
	if err != nil {
		w.t.Fatal(err)
	}
	l := newListener(conn)
	cc, err := grpc.NewClient("passthrough:///x", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return l.Accept() }))
	if err != nil {
		w.t.Fatal(err)
	}
	ctx := metadata.AppendToOutgoingContext(w.t.Context(), header.AgentID, claims, header.AgentIdentifiers, "host="+claims)
	stream, err := agent.NewAgentServiceClient(cc).Connect(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); f(stream, conn) }()
	w.t.Cleanup(func() { cc.Close(); conn.Close(); <-done })
	w.await(func() bool { return slices.Contains(w.server.Nodes(), name) })
}

// asked receives what a server asks to dial.
func asked(stream agent.AgentService_ConnectClient) (*client.DialRequest, error) {
	p, err := stream.Recv()
	return p.GetDialRequest(), err
}

// relay stands between an agent and a server, for connections to be cut.
type relay struct {
	address string
	mu      sync.Mutex
	conns   []net.Conn
	deaf    map[net.Conn]bool // pass nothing on any more
}

func newRelay(t testing.TB, to string) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{address: l.Addr().String(), deaf: map[net.Conn]bool{}}
	var wg sync.WaitGroup
	copyTo := func(dst, src net.Conn) {
		buf := make([]byte, 64<<10)
		for {
			n, err := src.Read(buf)
			r.mu.Lock()
			deaf := r.deaf[src]
			r.mu.Unlock()
			switch {
			case deaf && err == nil:
				continue
			case deaf:
				return
			}
			if _, werr := dst.Write(buf[:n]); err != nil || werr != nil {
				dst.Close()
				src.Close()
				return
			}
		}
	}
	wg.Go(func() {
		for {
			a, err := l.Accept()
			if err != nil {
				return
			}
			b, err := net.Dial("tcp", to)
			if err != nil {
				a.Close()
				continue
			}
			r.mu.Lock()
			r.conns = append(r.conns, a, b)
			r.mu.Unlock()
			wg.Go(func() { copyTo(a, b) })
			wg.Go(func() { copyTo(b, a) })
		}
	})
	t.Cleanup(func() { l.Close(); r.cut(); wg.Wait() })
	return r
}

// cut closes the connections that there are.
func (r *relay) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.conns {
		c.Close()
	}
	r.conns = nil
}

// swallow lets nothing through any more on the connections that there are, and closes none.
func (r *relay) swallow() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.conns {
		r.deaf[c] = true
	}
}
