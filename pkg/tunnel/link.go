package tunnel

import (
	"context"
	"io"
	"net"
	"net/http"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"sigs.k8s.io/apiserver-network-proxy/konnectivity-client/proto/client"
	"sigs.k8s.io/apiserver-network-proxy/pkg/server"
	"sigs.k8s.io/apiserver-network-proxy/pkg/server/proxystrategies"
	"sigs.k8s.io/apiserver-network-proxy/proto/agent"
	"sigs.k8s.io/apiserver-network-proxy/proto/header"
)

// link is the connection of one agent, as the server sees it: konnectivity's service on that connection alone.
type link struct {
	server *Server
	node   string
	conn   net.Conn

	// Guarded by server.mu.
	idle  []*session // streams that carry no connection yet
	busy  int        // streams that carry one
	ended bool
}

func newLink(s *Server, node string, conn net.Conn) *link {
	return &link{server: s, node: node, conn: conn}
}

// serve speaks gRPC until the connection ends or r does.
func (l *link) serve(r *run) {
	defer context.AfterFunc(r.ctx, func() { l.conn.Close() })()
	srv := grpc.NewServer(
		grpc.KeepaliveParams(serverKeepalive), grpc.KeepaliveEnforcementPolicy(pingsAllowed),
		grpc.StaticStreamWindowSize(streamWindow), grpc.StaticConnWindowSize(linkWindow),
		grpc.MaxConcurrentStreams(maxStreams), grpc.ConnectionTimeout(answerTimeout),
		grpc.ReadBufferSize(0), grpc.SharedWriteBuffer(true), // the connection has a buffer to read from
		grpc.WaitForHandlers(true),
	)
	agent.RegisterAgentServiceServer(srv, l)
	_ = srv.Serve(newListener(l.conn)) // ends with the connection
	l.server.unlink(l)
	srv.Stop()
}

// Connect implements agent.AgentServiceServer: a stream begins. Each has a proxy server of its own, which tells
// connections apart by the numbers that agents give them.
func (l *link) Connect(stream agent.AgentService_ConnectServer) error {
	// The agent's id is the name by which the API server knows it, whatever it says. That the stream has ended is for Recv
	// to tell.
	ctx := metadata.NewIncomingContext(context.WithoutCancel(stream.Context()), metadata.Pairs(header.AgentID, l.node))
	ss := &session{
		AgentService_ConnectServer: stream, ctx: ctx, link: l,
		proxy: server.NewProxyServer("edgebox", []proxystrategies.ProxyStrategy{proxystrategies.ProxyStrategyDefault}, 1,
			&server.AgentTokenAuthenticationOptions{}, 4),
	}
	ss.proxy.SetBackendDialTimeout(answerTimeout)
	defer l.server.remove(ss)
	return ss.proxy.Connect(ss)
}

// session is one stream of an agent, as konnectivity sees it, for one connection. What ends in an ordinary way or was
// refused looks to konnectivity like a connection that was opened and closed: it would log an error for it.
type session struct {
	agent.AgentService_ConnectServer
	ctx   context.Context
	link  *link
	proxy *server.ProxyServer

	offer   sync.Once
	backend *server.Backend // what konnectivity makes of the stream
	taken   bool            // guarded by the server's lock

	mu    sync.Mutex
	front *frontend // the connection, once the agent was asked to dial
	dial  int64     // konnectivity's number of that request
	over  bool      // the stream has ended

	// Of Recv, which is not called at the same time twice.
	answered bool // the agent's answer was received
	refused  bool // and what comes next is the end
}

// Context implements grpc.ServerStream.
func (ss *session) Context() context.Context { return ss.ctx }

// connect lets the agent dial address for f, and returns when that connection and the stream have ended.
func (ss *session) connect(f *frontend, address string) {
	defer ss.backend.Retire()
	ss.mu.Lock()
	ss.front = f
	ss.mu.Unlock()
	f.node = ss.link.node
	tunnel := server.Tunnel{Server: ss.proxy}
	tunnel.ServeHTTP(hijacked{f: f}, &http.Request{Method: http.MethodConnect, Host: address})
}

// SendHeader implements grpc.ServerStream.
func (ss *session) SendHeader(md metadata.MD) error {
	_ = ss.AgentService_ConnectServer.SendHeader(md)
	return nil
}

// Send implements agent.AgentService_ConnectServer.
func (ss *session) Send(p *client.Packet) error {
	if req := p.GetDialRequest(); req != nil {
		ss.mu.Lock()
		over := ss.over
		ss.dial = req.Random
		ss.mu.Unlock()
		if over {
			return io.EOF
		}
	}
	_ = ss.AgentService_ConnectServer.Send(p)
	return nil
}

// Recv implements agent.AgentService_ConnectServer.
func (ss *session) Recv() (*client.Packet, error) {
	ss.offer.Do(func() {
		ss.backend, _ = ss.proxy.BackendManagers[0].Backend(ss.ctx) // there is just this one
		ss.link.server.offer(ss)
	})
	if ss.answered {
		ss.front.awaitAnswer() // which konnectivity writes at the same time as the first data
	}
	if ss.refused {
		ss.refused = false
		return &client.Packet{Type: client.PacketType_CLOSE_RSP, Payload: &client.Packet_CloseResponse{
			CloseResponse: &client.CloseResponse{ConnectID: connectID}}}, nil
	}
	p, err := ss.AgentService_ConnectServer.Recv()
	ss.mu.Lock()
	dial := ss.dial
	if err != nil || !wellFormed(p, dial) {
		ss.over = true
	}
	over := ss.over
	ss.mu.Unlock()
	switch {
	case over && dial != 0 && !ss.answered:
		return ss.refuse(dial, "the tunnel was cut"), nil
	case over:
		return nil, io.EOF
	case p.Type != client.PacketType_DIAL_RSP:
		return p, nil
	case p.GetDialResponse().Error != "":
		return ss.refuse(dial, p.GetDialResponse().Error), nil
	}
	ss.answered = true
	return p, nil
}

// wellFormed reports whether konnectivity can take a packet of an agent that was asked to dial, or was not if dial is 0:
// it trusts agents, and a packet without content would end the process.
func wellFormed(p *client.Packet, dial int64) bool {
	if dial == 0 {
		return false
	}
	switch p.Type {
	case client.PacketType_DIAL_RSP:
		return p.GetDialResponse() != nil && p.GetDialResponse().Random == dial
	case client.PacketType_DATA:
		return p.GetData() != nil
	case client.PacketType_CLOSE_RSP:
		return p.GetCloseResponse() != nil
	}
	return false
}

// refuse has the API server told why its connection cannot be made.
func (ss *session) refuse(dial int64, why string) *client.Packet {
	ss.front.refuse(why)
	ss.answered, ss.refused = true, true
	return &client.Packet{Type: client.PacketType_DIAL_RSP, Payload: &client.Packet_DialResponse{
		DialResponse: &client.DialResponse{Random: dial, ConnectID: connectID}}}
}
