package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/edgebox/edgebox/pkg/component"
)

// Pauses between attempts to open a tunnel: the first, its doubling up to a limit, and how long a tunnel must have been
// open to start over.
const (
	retryMin = 250 * time.Millisecond
	retryMax = 5 * time.Second
	retryOK  = 10 * time.Second
)

// ClientConfig is what an agent's end depends on.
type ClientConfig struct {
	// Servers gives host:port of all servers, and a channel on which something comes, or which is closed, when to ask again.
	Servers func() (addresses []string, changed <-chan struct{})
	// TLS is asked for each connection, since certificates are renewed. Where it has no ServerName, the server's host is
	// verified.
	TLS func() (*tls.Config, error)
}

// Client is the end of tunnels on a node: it keeps one open to each server.
type Client struct {
	cfg ClientConfig

	mu      sync.Mutex
	servers map[string]error // those that Servers named; nil for an open tunnel, else why there is none
}

// NewClient returns a client that does nothing before it runs.
func NewClient(cfg ClientConfig) *Client {
	return &Client{cfg: cfg, servers: map[string]error{}}
}

// Name implements component.Component.
func (c *Client) Name() string { return "tunnel" }

// Run keeps tunnels open until ctx ends. It is ready when one is.
func (c *Client) Run(ctx context.Context, ready func()) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stops := map[string]func(){}
	for {
		addresses, changed := c.cfg.Servers()
		for address, stop := range stops {
			if !slices.Contains(addresses, address) {
				stop()
				delete(stops, address)
			}
		}
		for _, address := range addresses {
			if stops[address] != nil {
				continue
			}
			ctx, stop := context.WithCancel(ctx)
			ended := make(chan struct{})
			stops[address] = func() { stop(); <-ended }
			c.note(ctx, address, errors.New("connecting"))
			wg.Go(func() {
				defer close(ended)
				defer stop()
				c.keep(ctx, address, ready)
			})
		}
		if len(addresses) == 0 {
			component.Note(ctx, "no server is known")
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// Connected are the servers to which a tunnel is open, in order.
func (c *Client) Connected() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var open []string
	for _, address := range slices.Sorted(maps.Keys(c.servers)) {
		if c.servers[address] == nil {
			open = append(open, address)
		}
	}
	return open
}

// Check implements component.Checker: without any tunnel, no server reaches this node.
func (c *Client) Check(context.Context) error {
	if len(c.Connected()) > 0 {
		return nil
	}
	return errors.New(c.waitsFor())
}

// waitsFor says why no tunnel is open.
func (c *Client) waitsFor() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.servers) == 0 {
		return "no server is known"
	}
	var why []string
	for _, address := range slices.Sorted(maps.Keys(c.servers)) {
		why = append(why, fmt.Sprintf("server %s: %v", address, c.servers[address]))
	}
	return strings.Join(why, "; ")
}

// note records the state of a server's tunnel.
func (c *Client) note(ctx context.Context, address string, err error) {
	c.mu.Lock()
	c.servers[address] = err
	c.mu.Unlock()
	if len(c.Connected()) == 0 {
		component.Note(ctx, c.waitsFor())
	}
}

// keep opens a tunnel to a server again and again until ctx ends.
func (c *Client) keep(ctx context.Context, address string, ready func()) {
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.servers, address)
	}()
	told := false // of failures: one line for all until it goes well
	for wait := retryMin; ; wait = min(2*wait, retryMax) {
		start, open := time.Now(), false
		err := c.open(ctx, address, func() {
			open, told = true, false
			c.note(ctx, address, nil)
			slog.Info("tunnel opened", "server", address)
			ready()
		})
		if ctx.Err() != nil {
			return
		}
		c.note(ctx, address, err)
		if !told {
			told = true
			slog.Warn("no tunnel to a server, trying again", "server", address, "err", err)
		}
		if open {
			if time.Since(start) > retryOK {
				wait = retryMin
			}
			start = time.Now()
		}
		// What an attempt took is part of the pause, so that attempts that time out follow each other at once.
		pause := time.NewTimer(time.Until(start.Add(wait/2 + rand.N(wait/2))))
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return
		}
	}
}
