package datastore

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/k3s-io/kine/pkg/tls"

	"github.com/edgebox/edgebox/pkg/component"
	"github.com/edgebox/edgebox/pkg/config"
	"github.com/edgebox/edgebox/tests/e2e/datastore/databases"
)

// TestExternal waits for an etcd with TLS, uses it, and waits again.
func TestExternal(t *testing.T) {
	t.Parallel()
	ca, srv, client := certificates(t)
	etcd := databases.Etcd(t, databases.Options{CA: readFile(t, ca.CAFile), Cert: readFile(t, srv.CertFile), Key: readFile(t, srv.KeyFile)})
	cfg := config.Defaults()
	cfg.DatastoreEndpoint = "https://127.0.0.1:1," + etcd.EtcdURL() // of a cluster, one member may be away
	cfg.DatastoreCAFile, cfg.DatastoreCertFile, cfg.DatastoreKeyFile = client.CAFile, client.CertFile, client.KeyFile
	store := New(cfg)
	if store.Alone() || store.Endpoint() != cfg.DatastoreEndpoint || store.VolatileEndpoint() != "" || store.Client(etcd.EtcdURL()) != nil {
		t.Errorf("endpoint %q, volatile %q", store.Endpoint(), store.VolatileEndpoint())
	}
	if ca, cert, key := store.TLSFiles(); ca != client.CAFile || cert != client.CertFile || key != client.KeyFile {
		t.Errorf("files %q, %q, %q", ca, cert, key)
	}

	etcd.Stop()
	var g component.Graph
	g.Add(store)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	waitsFor(t, &g, "connection refused")
	etcd.Start()
	select {
	case <-g.Ready():
	case <-time.After(time.Minute):
		t.Fatalf("not ready: %v", g.Status(ctx))
	}
	check := store.(component.Checker).Check
	if err := check(t.Context()); err != nil {
		t.Error(err)
	}
	etcd.Kill()
	if err := check(t.Context()); err == nil || !strings.Contains(err.Error(), etcd.EtcdURL()) {
		t.Errorf("Check with etcd away: %v", err)
	}
	etcd.Start()
	eventually(t, "etcd", func() bool { return check(t.Context()) == nil })
}

// TestExternalRefuses has an etcd that lets nobody in without a certificate.
func TestExternalRefuses(t *testing.T) {
	t.Parallel()
	ca, srv, client := certificates(t)
	foreign, _, _ := certificates(t)
	etcd := databases.Etcd(t, databases.Options{CA: readFile(t, ca.CAFile), Cert: readFile(t, srv.CertFile), Key: readFile(t, srv.KeyFile)})
	for why, files := range map[string]tls.Config{
		"certificate required":                    ca,
		"certificate signed by unknown authority": {CAFile: foreign.CAFile, CertFile: client.CertFile, KeyFile: client.KeyFile},
	} {
		var g component.Graph
		g.Add(&External{urls: []string{etcd.EtcdURL()}, tls: files})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- g.Run(ctx) }()
		waitsFor(t, &g, why)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	if err := (&External{urls: []string{etcd.EtcdURL()}, tls: tls.Config{CAFile: "/does/not/exist"}}).Run(t.Context(), nil); err == nil {
		t.Error("a CA that is not there was not missed")
	}
}
