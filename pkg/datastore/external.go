package datastore

import (
	"context"
	cryptotls "crypto/tls"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/k3s-io/kine/pkg/tls"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/edgebox/edgebox/pkg/component"
)

// probeTimeout is how long one attempt to use an etcd cluster may take.
const probeTimeout = 3 * time.Second

// isEtcd reports whether an endpoint is etcd itself, which kine has nothing to do with.
func isEtcd(endpoint string) bool {
	return strings.HasPrefix(endpoint, "http://") || strings.HasPrefix(endpoint, "https://")
}

// External is an etcd cluster that others run. The API server has connections of its own to it; the component tells
// whether it can be used.
type External struct {
	urls []string
	tls  tls.Config

	mu     sync.Mutex
	client *clientv3.Client
	conf   *cryptotls.Config
}

// Name implements component.Component.
func (e *External) Name() string { return "datastore" }

// Alone implements Store.
func (e *External) Alone() bool { return false }

// Endpoint implements Store.
func (e *External) Endpoint() string { return strings.Join(e.urls, ",") }

// VolatileEndpoint implements Store.
func (e *External) VolatileEndpoint() string { return "" }

// TLSFiles implements Store.
func (e *External) TLSFiles() (ca, cert, key string) {
	return e.tls.CAFile, e.tls.CertFile, e.tls.KeyFile
}

// Client implements Store.
func (e *External) Client(string) *clientv3.Client { return nil }

// Run is ready when a value was written and read back. It waits while the cluster cannot be reached, and does not end
// when that happens later: the API fails meanwhile.
func (e *External) Run(ctx context.Context, ready func()) error {
	conf, err := e.tls.ClientConfig()
	if err != nil {
		return fmt.Errorf("datastore-cafile, datastore-certfile, datastore-keyfile: %w", err)
	}
	c, err := clientv3.New(clientv3.Config{Endpoints: e.urls, TLS: conf, DialKeepAliveTime: deadAfter, Logger: zap.NewNop()})
	if err != nil {
		return err
	}
	defer c.Close()
	e.mu.Lock()
	e.client, e.conf = c, conf
	e.mu.Unlock()
	if err := component.Poll(ctx, "etcd at "+e.Endpoint(), retryEvery, func(ctx context.Context) error {
		attempt, cancel := context.WithTimeout(ctx, probeTimeout)
		defer cancel()
		return explain(ctx, e.urls, conf, roundTrip(attempt, c))
	}); err == nil {
		ready()
	}
	<-ctx.Done()
	return nil
}

// Check reads from the cluster.
func (e *External) Check(ctx context.Context) error {
	e.mu.Lock()
	c, conf := e.client, e.conf
	e.mu.Unlock()
	attempt, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	_, err := c.Get(attempt, probeKey)
	return explain(ctx, e.urls, conf, err)
}
