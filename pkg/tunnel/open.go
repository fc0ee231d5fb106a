package tunnel

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"sigs.k8s.io/apiserver-network-proxy/konnectivity-client/proto/client"
	"sigs.k8s.io/apiserver-network-proxy/proto/agent"
)

// Limits of an attempt to reach a server: lost packets of a TCP handshake are sent again after 1 and after 3 s, and then
// it is better to begin anew.
const (
	connectTimeout   = 5 * time.Second
	handshakeTimeout = 10 * time.Second
)

// open keeps one tunnel to a server until it is cut or ctx ends, and calls opened once the server can use it.
func (c *Client) open(ctx context.Context, address string, opened func()) error {
	conn, err := c.dial(ctx, address)
	if err != nil {
		return err
	}
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	l := newListener(conn)
	cc, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(insecure.NewCredentials()), // TLS is below
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.Accept() }),
		grpc.WithKeepaliveParams(agentKeepalive), grpc.WithIdleTimeout(0),
		grpc.WithStaticStreamWindowSize(streamWindow), grpc.WithStaticConnWindowSize(linkWindow),
		grpc.WithReadBufferSize(0), grpc.WithSharedWriteBuffer(true),
		grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(), grpc.WithDisableHealthCheck(),
	)
	if err != nil {
		conn.Close()
		return err
	}
	t := &tunnel{service: agent.NewAgentServiceClient(cc), fail: fail, opened: sync.OnceFunc(opened)}
	t.mu.Lock()
	t.fill(ctx)
	t.mu.Unlock()
	<-ctx.Done() // which an unused stream sees to when the connection ends
	cc.Close()
	conn.Close()
	t.wg.Wait()
	return context.Cause(ctx)
}

// dial connects to a server and upgrades the connection. Like all that a node says to its servers, it goes there
// straight, whatever proxy the environment names.
func (c *Client) dial(ctx context.Context, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	cfg, err := c.cfg.TLS()
	if err != nil {
		return nil, err
	}
	cfg = cfg.Clone()
	cfg.NextProtos = []string{"http/1.1"}
	if cfg.ServerName == "" {
		cfg.ServerName = host
	}
	d := net.Dialer{Timeout: connectTimeout}
	tcp, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = tcp.SetDeadline(time.Unix(1, 0)) })()
	conn, err := upgrade(ctx, tls.Client(tcp, cfg), address)
	if err != nil {
		tcp.Close()
		if ctx.Err() != nil {
			return nil, fmt.Errorf("no answer for %s", handshakeTimeout)
		}
		return nil, err
	}
	return conn, nil
}

// upgrade asks the server for a tunnel.
func upgrade(ctx context.Context, conn *tls.Conn, address string) (net.Conn, error) {
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", Path, address, Protocol); err != nil {
		return nil, err
	}
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return nil, fmt.Errorf("the server refused the tunnel: %s: %s", resp.Status, reason(resp.Body))
	}
	return bufferedConn{conn, r}, nil
}

// reason is what the body of a refusal says, which comes from Kubernetes' filters as a Status.
func reason(body io.Reader) string {
	text, err := io.ReadAll(io.LimitReader(body, 2048))
	if err != nil {
		return err.Error()
	}
	var s struct{ Message string }
	if json.Unmarshal(text, &s) == nil && s.Message != "" {
		return s.Message
	}
	return strings.TrimSpace(string(text))
}

// tunnel is one connection to a server, as the agent sees it.
type tunnel struct {
	service agent.AgentServiceClient
	fail    context.CancelCauseFunc // ends the tunnel
	opened  func()
	wg      sync.WaitGroup // streams

	mu         sync.Mutex
	idle, busy int // streams that carry no connection yet, and those that carry one
}

// fill opens streams so that there are enough unused ones. The caller holds t.mu.
func (t *tunnel) fill(ctx context.Context) {
	for t.idle < spares(t.busy) {
		t.idle++
		t.wg.Go(func() { t.serve(ctx) })
	}
}

// serve opens a stream, waits until the server uses it, and carries that connection.
func (t *tunnel) serve(ctx context.Context) {
	streamCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, req, err := t.wait(streamCtx)
	t.mu.Lock()
	t.idle--
	if err != nil {
		if errors.Is(err, io.EOF) { // the server had too many, and may have used the others meanwhile
			t.fill(ctx)
		} else {
			t.fail(errors.New(status.Convert(err).Message()))
		}
		t.mu.Unlock()
		return
	}
	t.busy++
	t.fill(ctx)
	t.mu.Unlock()
	carry(stream, req)
	t.mu.Lock()
	t.busy--
	t.mu.Unlock()
}

// wait opens a stream and returns it with the server's request to dial.
func (t *tunnel) wait(ctx context.Context) (agent.AgentService_ConnectClient, *client.DialRequest, error) {
	stream, err := t.service.Connect(ctx)
	if err != nil {
		return nil, nil, err
	}
	if md, err := stream.Header(); err == nil && md != nil {
		t.opened()
	}
	for {
		p, err := stream.Recv()
		if err != nil {
			return nil, nil, err
		}
		if req := p.GetDialRequest(); req != nil {
			return stream, req, nil
		}
	}
}
