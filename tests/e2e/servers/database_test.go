package servers

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	"github.com/edgebox/edgebox/tests/e2e/datastore/databases"
	"github.com/edgebox/edgebox/tests/framework"
)

// TestServersOnOneDatabase: two servers find each other in PostgreSQL, share their keys, and either will do.
func TestServersOnOneDatabase(t *testing.T) {
	framework.NeedEdgebox(t)
	t.Parallel()
	net := framework.NewNetwork(t, netip.MustParsePrefix("192.168.91.0/24"))
	db := databases.Postgres(t, databases.Options{Address: net.Switch().String(), Port: 5432, On: net.Beside})
	dsn := databases.PostgresDSN(db.Address(), "sslmode=disable")
	a := framework.NewHost(t, framework.Options{Name: "a", Network: net})
	b := framework.NewHost(t, framework.Options{Name: "b", Network: net})
	a.Up(t, "--datastore-endpoint", dsn, "--cluster-domain", "edge.local")
	for text, want := range map[string]string{"PRIVATE KEY": "0", "": "1"} {
		if n := db.Exec("kine", "SELECT count(*) FROM kine WHERE name = '/edgebox/servers-secrets' AND position('"+text+"'::bytea in value) > 0"); n != want {
			t.Errorf("in the database there are %s secrets with %q, want %s", n, text, want)
		}
	}
	token := serverToken(t, a)

	for _, tt := range []struct {
		name, want string
		flags      []string
	}{
		{"no token", "there is a cluster in the database", nil},
		{"token of agents", "there is a cluster in the database", []string{"--token", "abcdef.0123456789abcdef"}},
		{"another server's token", "of another server token, or damaged", []string{"--token", token[:len(token)-4] + "0000"}},
		{"other settings", `cluster-domain: is "other.local" here and "edge.local" in the cluster`, []string{"--token", token, "--cluster-domain", "other.local"}},
	} {
		if err := b.Start(append([]string{"--datastore-endpoint", dsn}, tt.flags...)...); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), framework.Patience)
		if err := b.Exit(ctx); err == nil || ctx.Err() != nil {
			t.Errorf("%s: it was to be refused, and ended with %v", tt.name, err)
		}
		cancel()
		if !strings.Contains(b.Logs(), tt.want) {
			t.Errorf("%s: it does not say %q:\n%s", tt.name, tt.want, b.Logs())
		}
	}

	if err := b.Start("--datastore-endpoint", dsn, "--token", token); err != nil {
		t.Fatal(err)
	}
	if err := b.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	a.WaitLogged(t, "b has become a server, too")
	if err := a.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, h := range []*framework.Host{a, b} {
		if out, err := h.Kubectl(t.Context(), "get", "nodes", "-o", "name"); err != nil || strings.Join(strings.Fields(out), " ") != "node/a node/b" {
			t.Errorf("on %s the nodes are %q, %v", h.Name, out, err)
		}
		holders, err := h.Kubectl(t.Context(), "-n", "kube-system", "get", "leases", "kube-scheduler", "kube-controller-manager", "-o", "jsonpath={.items[*].spec.holderIdentity}")
		if err != nil || len(strings.Fields(holders)) != 2 {
			t.Errorf("on %s the elected are %q, %v", h.Name, holders, err)
		}
	}
	// Each signs and verifies what the other does: one CA, one key of service accounts.
	if before, after := a.Shell(t, "sha256sum /var/lib/edgebox/server/pki/*ca.key /var/lib/edgebox/server/pki/service-account.key"), b.Shell(t, "sha256sum /var/lib/edgebox/server/pki/*ca.key /var/lib/edgebox/server/pki/service-account.key"); before != after {
		t.Errorf("they have different keys:\n%s\n%s", before, after)
	}
	if err := a.Kill9(); err != nil {
		t.Fatal(err)
	}
	n := b.Namespace(t)
	n.Apply(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      nodeSelector: {kubernetes.io/hostname: b}
      containers: [{name: web, image: "web:1", imagePullPolicy: Never}]`) // needs an elected controller and scheduler
	framework.Eventually(t, framework.Patience, func() error {
		_, err := n.Try("wait", "--for=jsonpath={.spec.nodeName}=b", "pod", "-l", "app=web", "--timeout=5s")
		return err
	})
	// And with all that it has on the disk, it starts again.
	if err := b.Stop(); err != nil {
		t.Fatal(err)
	}
	b.Up(t, "--datastore-endpoint", dsn)
}
