// Package tunnel is how the API server reaches nodes that cannot be dialled. An agent dials each server, on the port of
// the API, and asks for an upgrade of its request at Path; over the connection that this leaves, both speak gRPC:
// konnectivity's protocol, with one stream for each connection that the API server makes. The API server asks for those
// with HTTP CONNECT on a unix socket, as its egress selector does.
//
// A stream carries one connection only, so that HTTP/2's flow control is that connection's own: a reader that does not
// read holds up nobody else, and no more than a window of what it does not read is kept. Since it is agents that open
// streams, each keeps a few unused ones open. An empty DATA packet stands for the end of one direction.
//
// On a server it owns the socket, on an agent its connections to servers; it writes no files. It decides about nobody: who
// an agent is and which host is behind which tunnel is what its wiring tells it.
package tunnel

import (
	"time"

	"google.golang.org/grpc/keepalive"
)

const (
	// Path is where agents ask for a tunnel: with GET and an upgrade, which is short like any other request to the API
	// server, since the connection outlives it.
	Path = "/edgebox/tunnel"
	// Protocol is what they ask for. It is not HTTP/2 of the API server, whose windows, keepalive and limits on requests
	// are made for other things.
	Protocol = "edgebox-tunnel"

	// agentDialTimeout bounds what an agent dials, answerTimeout what a server waits for its answer, for a free stream, and
	// for what it dials itself.
	agentDialTimeout = 5 * time.Second
	answerTimeout    = 10 * time.Second

	chunk        = 32 << 10 // bytes of a DATA packet at most
	streamWindow = 1 << 20  // bytes under way on one connection, which is what one that is not read from costs
	linkWindow   = 4 << 20  // bytes under way on all connections of a tunnel
	maxStreams   = 1024     // of one agent
	connectID    = 1        // konnectivity's number of the one connection on a stream
)

// An agent pings while it hears nothing; gRPC does not allow less than 10 s. A server hears that and pings only an agent
// that has gone silent. With 30 % of packets lost an answer may need several attempts.
var (
	agentKeepalive  = keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 10 * time.Second, PermitWithoutStream: true}
	serverKeepalive = keepalive.ServerParameters{Time: 25 * time.Second, Timeout: 10 * time.Second}
	pingsAllowed    = keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}
)

// spares is how many unused streams a tunnel keeps open while so many are in use. A burst of connections doubles them
// with each round trip.
func spares(busy int) int { return min(busy+1, 16) }
