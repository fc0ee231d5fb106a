package balancer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/utils/ptr"
)

// echo is a server that answers each line with its own name and the line.
type echo struct {
	net.Listener
	mu    sync.Mutex
	conns []net.Conn
}

func newEcho(t *testing.T, name string) *echo {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e := &echo{Listener: l}
	t.Cleanup(e.kill)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			e.mu.Lock()
			e.conns = append(e.conns, conn)
			e.mu.Unlock()
			go func() {
				buf := make([]byte, 512)
				for {
					n, err := conn.Read(buf)
					if err != nil {
						_ = conn.Close()
						return
					}
					_, _ = fmt.Fprintf(conn, "%s %s", name, buf[:n])
				}
			}()
		}
	}()
	return e
}

func (e *echo) address() string { return e.Addr().String() }

// kill is what a crash of the server is to its clients.
func (e *echo) kill() {
	_ = e.Close()
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, c := range e.conns {
		_ = c.Close()
	}
}

// cluster is a balancer with what it learns.
type cluster struct {
	*Balancer
	t      *testing.T
	listen string
	file   string
	found  chan []string
	probe  func(address string) error
}

func newCluster(t *testing.T, server string, prepare func(*cluster)) *cluster {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listen := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, listen: listen, file: filepath.Join(t.TempDir(), "agent", "servers.json"), found: make(chan []string)}
	c.probe = func(address string) error {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			err = conn.Close()
		}
		return err
	}
	c.Balancer = New(Config{
		Listen: listen, Server: server, NodeName: "box", File: c.file,
		Probe: func(_ context.Context, address string) (time.Time, error) {
			return time.Now().Add(time.Hour), c.probe(address)
		},
		Discover: func(ctx context.Context, found func([]string)) error {
			for {
				select {
				case addresses := <-c.found:
					found(addresses)
				case <-ctx.Done():
					return nil
				}
			}
		},
	})
	if prepare != nil {
		prepare(c)
	}
	if err := c.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended, ready := make(chan error, 1), make(chan struct{})
	go func() { ended <- c.Run(ctx, sync.OnceFunc(func() { close(ready) })) }()
	<-ready
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return c
}

// learn tells the balancer the servers, and returns when it has taken them.
func (c *cluster) learn(addresses ...string) {
	c.t.Helper()
	c.found <- addresses
	c.found <- addresses // is taken when the first was worked on
}

func (c *cluster) dial() net.Conn {
	c.t.Helper()
	conn, err := net.Dial("tcp", c.listen)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// ask returns the name of the server that answers on a connection.
func (c *cluster) ask(conn net.Conn) (string, error) {
	c.t.Helper()
	if _, err := io.WriteString(conn, "hello"); err != nil {
		return "", err
	}
	buf := make([]byte, 64)
	if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		return "", err
	}
	n, err := conn.Read(buf)
	name, _, _ := strings.Cut(string(buf[:n]), " ")
	return name, err
}

func (c *cluster) want(name string) {
	c.t.Helper()
	if got, err := c.ask(c.dial()); err != nil || got != name {
		c.t.Errorf("%q answers (%v), want %s", got, err, name)
	}
}

func TestFailOver(t *testing.T) {
	a, b, third := newEcho(t, "a"), newEcho(t, "b"), newEcho(t, "c")
	c := newCluster(t, a.address(), nil)
	c.want("a")
	c.learn(a.address(), b.address())
	c.want("a") // what works is not left

	old := c.dial()
	if name, err := c.ask(old); err != nil || name != "a" {
		t.Fatal(name, err)
	}
	a.kill()
	if _, err := c.ask(old); err == nil {
		t.Error("a connection to a dead server goes on")
	}
	c.want("b")
	if s := c.Servers(); len(s) != 2 || s[0].Address != b.address() || !s[0].InUse || s[0].Error != "" || s[1].InUse || s[1].Error == "" {
		t.Errorf("servers: %+v", s)
	}
	if err := c.Check(t.Context()); err != nil {
		t.Error(err)
	}

	// A server that left the cluster is left, though it answers.
	stays := c.dial()
	if _, err := c.ask(stays); err != nil {
		t.Fatal(err)
	}
	_, changed := c.Addresses()
	c.learn(third.address())
	<-changed
	if _, err := stays.Read(make([]byte, 1)); err == nil {
		t.Error("a connection to a server that has left the cluster goes on")
	}
	c.want("c")
	if got := recall(c.file); !slices.Equal(got, []string{third.address()}) {
		t.Errorf("remembered are %v", got)
	}
	if got, _ := c.Addresses(); !slices.Equal(got, []string{third.address()}) {
		t.Errorf("addresses: %v", got)
	}
}

// TestSilentServer: one that accepts connections and does not answer is found by its probe.
func TestSilentServer(t *testing.T) {
	a, b := newEcho(t, "a"), newEcho(t, "b")
	var mu sync.Mutex
	silent := false
	c := newCluster(t, a.address(), func(c *cluster) {
		c.probe = func(address string) error {
			mu.Lock()
			defer mu.Unlock()
			if silent && address == a.address() {
				return errors.New("no answer")
			}
			return nil
		}
	})
	c.learn(a.address(), b.address())
	watch := c.dial()
	if name, err := c.ask(watch); err != nil || name != "a" {
		t.Fatal(name, err)
	}
	mu.Lock()
	silent = true
	mu.Unlock()
	if _, err := watch.Read(make([]byte, 1)); err == nil { // returns when the balancer has moved
		t.Error("the watch goes on")
	}
	c.want("b")
	if off := time.Until(c.Now()).Round(time.Minute); off != time.Hour {
		t.Errorf("the servers' clock is %v ahead, want an hour", off)
	}
}

// TestHeldWhileNothingAnswers: a client waits for the first server that answers, and is not refused.
func TestHeldWhileNothingAnswers(t *testing.T) {
	gone := newEcho(t, "gone")
	gone.kill()
	c := newCluster(t, gone.address(), nil)
	conn := c.dial()
	a := newEcho(t, "a")
	c.learn(a.address())
	if name, err := c.ask(conn); err != nil || name != "a" {
		t.Errorf("%q, %v", name, err)
	}
}

// TestUnreachableAddresses: when the addresses that servers advertise do not lead there, the user's does.
func TestUnreachableAddresses(t *testing.T) {
	a, inside := newEcho(t, "a"), newEcho(t, "inside")
	inside.kill()
	c := newCluster(t, a.address(), nil)
	c.learn(inside.address())
	c.want("a")
	if err := c.Check(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestServerMoved: the server that the user named by its name has another address than the one that is known.
func TestServerMoved(t *testing.T) {
	old, moved := newEcho(t, "old"), newEcho(t, "moved")
	c := newCluster(t, moved.address(), nil)
	c.learn(old.address())
	c.want("old")
	old.kill()
	c.want("moved")
	if got, _ := c.Addresses(); !slices.Equal(got, []string{moved.address()}) {
		t.Errorf("addresses: %v", got)
	}
}

func TestRemembered(t *testing.T) {
	a, b := newEcho(t, "a"), newEcho(t, "b")
	a.kill() // the server that the user named has gone for good, and is not asked as long as others answer
	c := newCluster(t, a.address(), func(c *cluster) {
		if err := remember(c.file, []string{b.address()}); err != nil {
			t.Fatal(err)
		}
	})
	c.want("b")
	for _, text := range []string{"", "{}", `["no port"]`, "[]"} {
		if err := os.WriteFile(c.file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := recall(c.file); len(got) != 0 {
			t.Errorf("%q gives %v", text, got)
		}
	}
}

// TestHalfClose: the end of a request reaches the server, and its answer the client.
func TestHalfClose(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		all, _ := io.ReadAll(conn)
		_, _ = fmt.Fprintf(conn, "%d bytes", len(all))
		_ = conn.Close()
	}()
	c := newCluster(t, l.Addr().String(), func(c *cluster) { c.probe = func(string) error { return nil } })
	conn := c.dial().(*net.TCPConn)
	if _, err := conn.Write(make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil || string(answer) != "1048576 bytes" {
		t.Errorf("%s, %v", answer, err)
	}
}

func TestDiscover(t *testing.T) {
	slice := func(name, service string, port int32, addresses ...string) *discoveryv1.EndpointSlice {
		return &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
			Ports:      []discoveryv1.EndpointPort{{Port: ptr.To(port)}},
			Endpoints:  []discoveryv1.Endpoint{{Addresses: addresses}},
		}
	}
	client := fake.NewClientset(slice("kubernetes", "kubernetes", 6443, "192.0.2.2", "192.0.2.1"), slice("other", "other", 80, "192.0.2.9"))
	ctx, cancel := context.WithCancel(t.Context())
	found, ended := make(chan []string, 10), make(chan error, 1)
	go func() {
		ended <- Discover(func() (kubernetes.Interface, error) { return client, nil })(ctx, func(a []string) { found <- a })
	}()
	if got := <-found; !slices.Equal(got, []string{"192.0.2.1:6443", "192.0.2.2:6443"}) {
		t.Errorf("found %v", got)
	}
	if _, err := client.DiscoveryV1().EndpointSlices("default").Update(ctx, slice("kubernetes", "kubernetes", 6443, "2001:db8::1"), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := <-found; !slices.Equal(got, []string{"[2001:db8::1]:6443"}) {
		t.Errorf("found %v", got)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
