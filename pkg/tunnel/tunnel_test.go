package tunnel

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"k8s.io/klog/v2"
	"sigs.k8s.io/apiserver-network-proxy/konnectivity-client/proto/client"
	"sigs.k8s.io/apiserver-network-proxy/proto/agent"
)

func TestEcho(t *testing.T) {
	w := newWorld(t)
	w.agent("a")
	w.route("10.42.0.5", Route{Node: "a", Address: "127.0.0.2"})
	w.route("fd00::5", Route{Node: "a", Address: "::1"})
	echoes(t, w.dial("a:"+target(t, "127.0.0.1", echo)))
	echoes(t, w.dial("10.42.0.5:"+target(t, "127.0.0.2", echo)))
	echoes(t, w.dial("[fd00::5]:"+target(t, "::1", echo)))
}

// TestDirect is for hosts that are dialled from the server, and nodes whose tunnel is not open.
func TestDirect(t *testing.T) {
	w := newWorld(t)
	port := target(t, "127.0.0.3", echo)
	w.route("here", Route{Direct: "127.0.0.3"})
	w.route("near", Route{Node: "near", Address: "127.0.0.1", Direct: "127.0.0.3"})
	w.route("far", Route{Node: "far", Address: "127.0.0.1"})
	for _, host := range []string{"here", "near"} {
		c := w.dial(host + ":" + port)
		echoes(t, c)
		_ = c.CloseWrite()
		if rest, err := io.ReadAll(c); err != nil || len(rest) > 0 {
			t.Errorf("%s: the end is %q, %v", host, rest, err)
		}
	}
	for address, want := range map[string]string{
		"far:1":    "502 node far: no tunnel is open",
		"other:1":  "502 no way to other is known",
		"here:1":   "502 dial tcp 127.0.0.3:1: connect: connection refused",
		"nowhere":  "400",
		"near:1:1": "400",
	} {
		if got := w.refused(address); !strings.Contains(got, want) {
			t.Errorf("%s: %s, want %s", address, got, want)
		}
	}
}

// TestNodesAreWhoTheServerSays: what an agent says of itself has no effect.
func TestNodesAreWhoTheServerSays(t *testing.T) {
	w := newWorld(t)
	w.route("a", Route{Node: "a", Address: "127.0.0.1"})
	requests := make(chan string, 1)
	w.stranger("b", "a", func(stream agent.AgentService_ConnectClient, _ net.Conn) {
		if req, err := asked(stream); err == nil {
			requests <- req.Address
			_ = stream.Send(&client.Packet{Type: client.PacketType_DIAL_RSP, Payload: &client.Packet_DialResponse{
				DialResponse: &client.DialResponse{Random: req.Random, Error: "this is b"}}})
		}
		_, _ = stream.Recv()
	})
	if got := w.refused("a:80"); !strings.Contains(got, "node a: no tunnel is open") {
		t.Errorf("without a: %s", got)
	}
	w.agent("a")
	port := target(t, "127.0.0.1", echo)
	for range 20 {
		echoes(t, w.dial("a:"+port))
	}
	select {
	case address := <-requests:
		t.Errorf("b was asked to dial %s for a", address)
	default:
	}
	if got := w.refused("b:80"); !strings.Contains(got, "502 node b: this is b") {
		t.Errorf("b itself: %s", got)
	}
	if address := <-requests; address != "127.0.0.1:80" {
		t.Errorf("b was asked to dial %s", address)
	}
	if nodes := w.server.Nodes(); !slices.Equal(nodes, []string{"a", "b"}) {
		t.Errorf("nodes %v", nodes)
	}
}

// TestBadAgents: whatever a node does to the server, the API server gets an error, and the next tunnel works.
func TestBadAgents(t *testing.T) {
	for name, tt := range map[string]struct {
		f    func(stream agent.AgentService_ConnectClient, conn net.Conn)
		want string
	}{
		"dies while dialling": {func(stream agent.AgentService_ConnectClient, conn net.Conn) {
			_, _ = stream.Recv()
			conn.Close()
		}, "502 node b: the tunnel was cut"},
		"ends the stream": {func(stream agent.AgentService_ConnectClient, _ net.Conn) {
			_, _ = stream.Recv()
			_ = stream.CloseSend()
		}, "502 node b: the tunnel was cut"},
		"answers nothing": {func(stream agent.AgentService_ConnectClient, _ net.Conn) {
			_, _ = stream.Recv()
			_, _ = stream.Recv()
		}, "504 node b did not answer"},
		"answers something else": {func(stream agent.AgentService_ConnectClient, _ net.Conn) {
			req, _ := asked(stream)
			_ = stream.Send(&client.Packet{Type: client.PacketType_DIAL_RSP, Payload: &client.Packet_DialResponse{
				DialResponse: &client.DialResponse{Random: req.GetRandom() + 1, ConnectID: 1}}})
		}, "502 node b: the tunnel was cut"},
		"answers without an answer": {func(stream agent.AgentService_ConnectClient, _ net.Conn) {
			_, _ = stream.Recv()
			_ = stream.Send(&client.Packet{Type: client.PacketType_DIAL_RSP})
		}, "502 node b: the tunnel was cut"},
		"drains": {func(stream agent.AgentService_ConnectClient, _ net.Conn) {
			_, _ = stream.Recv()
			_ = stream.Send(&client.Packet{Type: client.PacketType_DRAIN})
		}, "502 node b: the tunnel was cut"},
		"refuses in several lines": {func(stream agent.AgentService_ConnectClient, _ net.Conn) {
			req, _ := asked(stream)
			_ = stream.Send(&client.Packet{Type: client.PacketType_DIAL_RSP, Payload: &client.Packet_DialResponse{
				DialResponse: &client.DialResponse{Random: req.GetRandom(), Error: "no\r\nX: y\r\n\r\n"}}})
		}, "502 node b: no  X: y"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.stranger("b", "b", tt.f)
			if got := w.refused("b:80"); !strings.Contains(got, tt.want) {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			w.agent("b")
			echoes(t, w.dial("b:"+target(t, "127.0.0.1", echo)))
		})
	}
}

// TestStopWhileDialling: the API server gets an error at once, and nothing is left.
func TestStopWhileDialling(t *testing.T) {
	w := newWorld(t)
	dialled := make(chan struct{})
	w.stranger("b", "b", func(stream agent.AgentService_ConnectClient, _ net.Conn) {
		_, _ = stream.Recv()
		close(dialled)
		_, _ = stream.Recv()
	})
	go func() { <-dialled; w.stop() }()
	w.refused("b:80")
	w.awaitNodes()
}

// TestRefusals are of agents by servers.
func TestRefusals(t *testing.T) {
	w := newWorld(t)
	dial := func(cfg ClientConfig) string {
		t.Helper()
		c, err := NewClient(cfg).dial(t.Context(), w.port)
		if err == nil {
			c.Close()
			t.Fatal("got a tunnel")
		}
		return err.Error()
	}
	good := w.config("a", nil)
	cert := w.ca.issue(t, "admin")
	for name, tt := range map[string]struct {
		tls  func() (*tls.Config, error)
		want string
	}{
		"no node": {func() (*tls.Config, error) {
			return &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: w.ca.pool}, nil
		}, "403 Forbidden: you are no node"},
		"another CA": {func() (*tls.Config, error) {
			return &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: newAuthority(t).pool}, nil
		}, "certificate signed by unknown authority"},
		"another name": {func() (*tls.Config, error) {
			cfg, err := good.TLS()
			cfg.ServerName = "elsewhere"
			return cfg, err
		}, "wanted to match elsewhere"},
		"no certificate yet": {func() (*tls.Config, error) { return nil, errors.New("no certificate yet") }, "no certificate yet"},
	} {
		if got := dial(ClientConfig{TLS: tt.tls}); !strings.Contains(got, tt.want) {
			t.Errorf("%s: %s, want %s", name, got, tt.want)
		}
	}
	cfg, _ := good.TLS()
	for _, h2 := range []bool{false, true} {
		tr := &http.Transport{TLSClientConfig: cfg.Clone(), ForceAttemptHTTP2: h2}
		resp, err := (&http.Client{Transport: tr}).Get("https://" + w.port + Path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		tr.CloseIdleConnections()
		if resp.StatusCode != http.StatusUpgradeRequired || (resp.ProtoMajor == 2) != h2 {
			t.Errorf("a plain request gets %s over %s", resp.Status, resp.Proto)
		}
	}
	w.stop()
	if got := dial(good); !strings.Contains(got, "503 Service Unavailable: this server takes no tunnels now") {
		t.Errorf("after the end: %s", got)
	}
}

// TestOnlyConnect: the socket is no proxy for other requests.
func TestOnlyConnect(t *testing.T) {
	w := newWorld(t)
	tr := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", w.server.cfg.Socket) }}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr}).Get("http://a/")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusMethodNotAllowed {
		t.Error(resp.Status)
	}
}

func TestRefusedDial(t *testing.T) {
	w := newWorld(t)
	w.agent("a")
	if got := w.refused("a:1"); !strings.Contains(got, "code 502: 502 node a: dial tcp 127.0.0.1:1: connect: connection refused") {
		t.Error(got)
	}
}

// TestHalfClose ends one direction and uses the other, from both ends, through a tunnel and without.
func TestHalfClose(t *testing.T) {
	w := newWorld(t)
	w.agent("a")
	w.route("here", Route{Direct: "127.0.0.1"})
	received := make(chan string, 1)
	askFirst := target(t, "127.0.0.1", func(c *net.TCPConn) {
		question, _ := io.ReadAll(c)
		fmt.Fprintf(c, "answer to %s", question)
	})
	speakFirst := target(t, "127.0.0.1", func(c *net.TCPConn) {
		knock(c)
		io.WriteString(c, "greeting")
		_ = c.CloseWrite()
		text, _ := io.ReadAll(c)
		received <- string(text)
	})
	for _, host := range []string{"a:", "here:"} {
		c := w.dial(host + askFirst)
		io.WriteString(c, "question")
		_ = c.CloseWrite()
		if got, err := io.ReadAll(c); err != nil || string(got) != "answer to question" {
			t.Errorf("%s got %q, %v", host, got, err)
		}
		c = w.dial(host + speakFirst)
		knock(c)
		if got, err := io.ReadAll(c); err != nil || string(got) != "greeting" {
			t.Errorf("%s got %q, %v", host, got, err)
		}
		io.WriteString(c, "thanks")
		c.Close()
		if got := <-received; got != "thanks" {
			t.Errorf("%s the target got %q", host, got)
		}
	}
	w.await(func() bool { return w.busy("a") == 0 })
}

// knock is the first byte that either side sends. The API server wants its own to be the first, and refuses a connection
// on which data is right behind the answer to CONNECT.
func knock(c net.Conn) {
	switch c.(type) {
	case *net.UnixConn:
		_, _ = c.Write([]byte{0})
	default:
		_, _ = c.Read(make([]byte, 1))
	}
}

// busy is how many streams of a node are in use.
func (w *world) busy(node string) (n int) {
	w.server.mu.Lock()
	defer w.server.mu.Unlock()
	for _, l := range w.server.nodes[node] {
		n += l.busy
	}
	return n
}

// newest is the link that counts of those of a node.
func (w *world) newest(node string) *link {
	w.server.mu.Lock()
	defer w.server.mu.Unlock()
	links := w.server.nodes[node]
	if len(links) == 0 {
		return nil
	}
	return links[len(links)-1]
}

// awaitAnother returns when a node has another tunnel than this one.
func (w *world) awaitAnother(node string, than *link) {
	w.t.Helper()
	w.await(func() bool { l := w.newest(node); return l != nil && l != than })
}

// TestTargetBreaksOff: the API server sees the end, and the target that of the API server, whoever is in the middle of
// something.
func TestTargetBreaksOff(t *testing.T) {
	w := newWorld(t)
	w.agent("a")
	w.route("here", Route{Direct: "127.0.0.1"})
	breaks := target(t, "127.0.0.1", func(c *net.TCPConn) {
		knock(c)
		_ = c.SetLinger(0)
	})
	ended := make(chan error, 1)
	floods := target(t, "127.0.0.1", func(c *net.TCPConn) {
		knock(c)
		for {
			if _, err := c.Write(make([]byte, chunk)); err != nil {
				ended <- err
				return
			}
		}
	})
	waits := target(t, "127.0.0.1", func(c *net.TCPConn) { // even though it was told the end of what it is sent
		_, _ = io.Copy(io.Discard, c)
		_, err := c.Write(make([]byte, 64<<20))
		ended <- err
	})
	for _, host := range []string{"a:", "here:"} {
		c := w.dial(host + breaks)
		knock(c)
		if n, err := c.Read(make([]byte, 1)); n > 0 || err == nil {
			t.Errorf("%s read %d, %v", host, n, err)
		}
		for _, port := range []string{floods, waits} {
			c := w.dial(host + port)
			knock(c)
			c.Close()
			if err := <-ended; err == nil {
				t.Errorf("%s: the target never learned the end", host)
			}
		}
	}
	idles := target(t, "127.0.0.1", func(c *net.TCPConn) { // whatever it is told
		knock(c)
		<-t.Context().Done()
	})
	c := w.dial("a:" + idles)
	knock(c)
	c.Close()
	w.await(func() bool { return w.busy("a") == 0 })
}

// source gives n bytes that depend on seed.
func source(seed byte, n int64) io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte{seed}), n)
}

func sum(r io.Reader) ([]byte, error) {
	h := sha256.New()
	_, err := io.Copy(h, r)
	return h.Sum(nil), err
}

const large = 64 << 20

// TestLargeData sends much both ways at once, and ends each direction on its own.
func TestLargeData(t *testing.T) {
	w := newWorld(t)
	w.agent("a")
	w.route("here", Route{Direct: "127.0.0.1"})
	there := make(chan []byte, 1)
	exchange := func(c interface {
		net.Conn
		CloseWrite() error
	}, seed byte) []byte {
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := io.Copy(c, source(seed, large)); err != nil {
				t.Error(err)
			}
			_ = c.CloseWrite()
		})
		got, err := sum(c)
		if err != nil {
			t.Error(err)
		}
		wg.Wait()
		return got
	}
	port := target(t, "127.0.0.1", func(c *net.TCPConn) {
		knock(c)
		there <- exchange(c, 1)
	})
	want := [2][]byte{}
	for i := range want {
		want[i], _ = sum(source(byte(i), large))
	}
	for _, host := range []string{"a:", "here:"} {
		c := w.dial(host + port)
		knock(c)
		if got := exchange(c, 0); !bytes.Equal(got, want[1]) {
			t.Errorf("%s: other data came back", host)
		}
		if got := <-there; !bytes.Equal(got, want[0]) {
			t.Errorf("%s: other data went there", host)
		}
	}
}

// TestSlowReader: who does not read is waited for, and nobody else waits.
func TestSlowReader(t *testing.T) {
	w := newWorld(t)
	w.agent("a")
	var written atomic.Int64
	flood := target(t, "127.0.0.1", func(c *net.TCPConn) {
		knock(c)
		_, _ = io.Copy(struct{ io.Writer }{c}, io.TeeReader(source(1, large), counter{&written}))
	})
	slow := w.dial("a:" + flood)
	knock(slow)
	if _, err := io.ReadFull(slow, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	fast := w.dial("a:" + target(t, "127.0.0.1", echo))
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = io.Copy(fast, source(2, large))
		_ = fast.CloseWrite()
	})
	got, err := sum(fast)
	wg.Wait()
	if want, _ := sum(source(2, large)); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the fast one got other data, %v", err)
	}
	if n := written.Load(); n > large/4 {
		t.Errorf("%d bytes were taken from the target although one was read", n)
	}
	got, err = sum(slow)
	rest := source(1, large)
	_, _ = io.ReadFull(rest, make([]byte, 1))
	if want, _ := sum(rest); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the slow one got other data, %v", err)
	}
}

// TestSlowTarget is the same in the other direction.
func TestSlowTarget(t *testing.T) {
	w := newWorld(t)
	w.agent("a")
	read, release := make(chan []byte, 1), make(chan struct{})
	port := target(t, "127.0.0.1", func(c *net.TCPConn) {
		<-release
		got, _ := sum(c)
		read <- got
	})
	var written atomic.Int64
	slow := w.dial("a:" + port)
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = io.Copy(struct{ io.Writer }{slow}, io.TeeReader(source(1, large), counter{&written}))
		_ = slow.CloseWrite()
	})
	fast := w.dial("a:" + target(t, "127.0.0.1", echo))
	for range 100 {
		echoes(t, fast)
	}
	if n := written.Load(); n > large/4 {
		t.Errorf("%d bytes were taken although the target reads none", n)
	}
	close(release)
	wg.Wait()
	if want, _ := sum(source(1, large)); !bytes.Equal(<-read, want) {
		t.Error("the target got other data")
	}
}

type counter struct{ n *atomic.Int64 }

func (c counter) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return len(p), nil
}

// TestParallel opens many connections at once, and sees the streams that this took go away.
func TestParallel(t *testing.T) {
	w := newWorld(t)
	w.agent("a")
	port := target(t, "127.0.0.1", echo)
	var wg sync.WaitGroup
	var open sync.WaitGroup
	open.Add(100)
	for range 100 {
		wg.Go(func() {
			c, err := w.egress(t.Context(), "tcp", "a:"+port)
			open.Done()
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			open.Wait() // all are open at the same time
			echoes(t, c)
		})
	}
	wg.Wait()
	w.await(func() bool {
		busy := w.busy("a")
		w.server.mu.Lock()
		defer w.server.mu.Unlock()
		return busy == 0 && len(w.server.nodes["a"][0].idle) <= 2*spares(0)
	})
}

// TestChurn ends many connections at once, and needs streams at the moment at which the server ends those that this left.
func TestChurn(t *testing.T) {
	w := newWorld(t)
	w.agent("a")
	port := target(t, "127.0.0.1", echo)
	first := w.newest("a")
	for range 100 {
		var burst []net.Conn
		for range 10 {
			burst = append(burst, w.dial("a:"+port))
		}
		for _, c := range burst {
			c.Close()
		}
		for range 10 {
			w.dial("a:" + port).Close()
		}
	}
	if w.newest("a") != first {
		t.Error("the tunnel was opened again")
	}
}

// TestTargetSpeaksFirst: what a target says at once comes after the answer to CONNECT, for clients that can take it.
func TestTargetSpeaksFirst(t *testing.T) {
	w := newWorld(t)
	w.agent("a")
	port := target(t, "127.0.0.1", func(c *net.TCPConn) { io.WriteString(c, "greeting") })
	for range 500 {
		c, err := net.Dial("unix", w.server.cfg.Socket)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(c, "CONNECT a:%s HTTP/1.1\r\nHost: a\r\n\r\n", port)
		got, err := io.ReadAll(c)
		c.Close()
		if want := "HTTP/1.1 200 Connection established\r\n\r\ngreeting"; err != nil || string(got) != want {
			t.Fatalf("got %q, %v", got, err)
		}
	}
}

// TestCut: connections end on both sides, and the tunnel is opened again.
func TestCut(t *testing.T) {
	w := newWorld(t)
	r := newRelay(t, w.port)
	w.route("a", Route{Node: "a", Address: "127.0.0.1"})
	running(t, NewClient(w.config("a", fixed(r.address))))
	w.awaitNodes("a")
	ended := make(chan error, 1)
	port := target(t, "127.0.0.1", func(c *net.TCPConn) {
		_, err := io.Copy(io.Discard, c)
		ended <- err
	})
	echoPort := target(t, "127.0.0.1", echo)
	for range 3 {
		c := w.dial("a:" + port)
		echoes(t, w.dial("a:"+echoPort))
		io.WriteString(c, "a part")
		former := w.newest("a")
		r.cut()
		if n, err := c.Read(make([]byte, 1)); n > 0 || err == nil {
			t.Errorf("read %d, %v", n, err)
		}
		if err := <-ended; err == nil {
			t.Error("the target takes a part for all")
		}
		w.awaitAnother("a", former)
	}
	// Nor does a target that does not read hold up the agent.
	stuck := w.dial("a:" + target(t, "127.0.0.1", func(c *net.TCPConn) { <-t.Context().Done() }))
	var written atomic.Int64
	broken := make(chan struct{})
	go func() {
		defer close(broken)
		_, _ = io.Copy(struct{ io.Writer }{stuck}, io.TeeReader(rand.NewChaCha8([32]byte{}), counter{&written}))
	}()
	for written.Load() < 2*streamWindow {
		echoes(t, w.dial("a:"+echoPort))
	}
	for last := int64(-1); last != written.Load(); { // most likely all buffers are full then
		last = written.Load()
		for range 100 {
			echoes(t, w.dial("a:"+echoPort))
		}
	}
	former := w.newest("a")
	r.cut()
	<-broken
	w.awaitAnother("a", former)
	echoes(t, w.dial("a:"+echoPort))
}

// TestBlackHole: nothing comes through any more, and nobody is told. The agent notices, and its new tunnel is used
// while the server still has the old one.
func TestBlackHole(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := newRelay(t, w.port)
	w.route("a", Route{Node: "a", Address: "127.0.0.1"})
	running(t, NewClient(w.config("a", fixed(r.address))))
	w.awaitNodes("a")
	port := target(t, "127.0.0.1", echo)
	echoes(t, w.dial("a:"+port))
	r.swallow()
	w.await(func() bool {
		w.server.mu.Lock()
		defer w.server.mu.Unlock()
		return len(w.server.nodes["a"]) == 2
	})
	for range 20 {
		echoes(t, w.dial("a:"+port))
	}
	w.await(func() bool { // the server notices too
		w.server.mu.Lock()
		defer w.server.mu.Unlock()
		return len(w.server.nodes["a"]) == 1
	})
	echoes(t, w.dial("a:"+port))
}

// TestServers come and go.
func TestServers(t *testing.T) {
	ca := newAuthority(t)
	one, two := newWorldWith(t, ca), newWorldWith(t, ca)
	var mu sync.Mutex
	servers, changed := []string{}, make(chan struct{})
	set := func(addresses ...string) {
		mu.Lock()
		defer mu.Unlock()
		servers = addresses
		close(changed)
		changed = make(chan struct{})
	}
	c := NewClient(one.config("a", func() ([]string, <-chan struct{}) {
		mu.Lock()
		defer mu.Unlock()
		return servers, changed
	}))
	ready, stop := running(t, c)
	if err := c.Check(t.Context()); err == nil || err.Error() != "no server is known" {
		t.Errorf("without servers: %v", err)
	}
	set(one.port)
	one.awaitNodes("a")
	<-ready
	set(one.port, two.port)
	two.awaitNodes("a")
	if err := c.Check(t.Context()); err != nil {
		t.Error(err)
	}
	port := target(t, "127.0.0.1", echo)
	two.route("a", Route{Node: "a", Address: "127.0.0.1"})
	kept := two.dial("a:" + port)
	set(two.port)
	one.awaitNodes()
	echoes(t, kept) // the other server's tunnel was left alone
	two.stop()      // as in a restart
	two.awaitNodes()
	two.start()
	two.awaitNodes("a")
	echoes(t, two.dial("a:"+port))
	stop()
	two.awaitNodes()
}

// TestQuiet: konnectivity logs no error where nothing is wrong.
func TestQuiet(t *testing.T) {
	var log bytes.Buffer
	klog.SetSlogLogger(slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn})))
	defer klog.ClearLogger()
	t.Run("all that is ordinary", func(t *testing.T) {
		w := newWorld(t)
		stop := w.agent("a")
		speaks := target(t, "127.0.0.1", func(c *net.TCPConn) {
			knock(c)
			io.WriteString(c, "greeting")
		})
		echoPort := target(t, "127.0.0.1", echo)
		resets := target(t, "127.0.0.1", func(c *net.TCPConn) {
			_, _ = io.Copy(io.Discard, io.LimitReader(c, 1))
			_ = c.SetLinger(0)
		})
		for range 50 {
			w.refused("a:1")
			c := w.dial("a:" + speaks)
			knock(c)
			if got, err := io.ReadAll(c); err != nil || string(got) != "greeting" {
				t.Fatalf("%q, %v", got, err)
			}
			c = w.dial("a:" + echoPort)
			echoes(t, c)
			c.Close()
			c = w.dial("a:" + resets)
			io.WriteString(c, "xyz")
			_, _ = io.ReadAll(c)
			c = w.dial("a:" + echoPort)
			_, _ = c.Write(make([]byte, 1<<20)) // what comes back is never read
			c.Close()
			w.dial("a:" + echoPort).Close()
		}
		kept := w.dial("a:" + echoPort)
		echoes(t, kept)
		stop()
		w.awaitNodes()
		_, _ = io.ReadAll(kept)
		w.agent("a")
		echoes(t, w.dial("a:"+echoPort))
		w.stop()
	})
	if log.Len() > 0 {
		t.Errorf("the log has:\n%s", log.String())
	}
}
