// Package join shows how machines become nodes of a cluster and stay it: with which tokens, under which names, and what
// they may do with the identity that they get.
package join

import (
	"context"
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/edgebox/edgebox/tests/framework"
)

func TestMain(m *testing.M) { framework.Main(m) }

// cluster is a server that tests share, and the network on which they add machines.
type cluster struct {
	net    *framework.Network
	server *framework.Host
}

var shared = sync.OnceValues(func() (*cluster, error) {
	net, err := framework.OpenNetwork(netip.MustParsePrefix("192.168.78.0/24"))
	if err != nil {
		return nil, err
	}
	c := &cluster{net: net}
	if c.server, err = framework.Boot(framework.Options{Name: "server", Network: net}); err != nil {
		return nil, err
	}
	if err := c.server.Start(); err != nil {
		return nil, err
	}
	return c, c.server.WaitReady(context.Background())
})

func start(t *testing.T) *cluster {
	t.Helper()
	framework.NeedEdgebox(t)
	t.Parallel()
	c, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// machine is one more host on the network.
func (c *cluster) machine(t *testing.T, name string) *framework.Host {
	t.Helper()
	return framework.NewHost(t, framework.Options{Name: name, Network: c.net})
}

func (c *cluster) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := c.server.Kubectl(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// token runs a subcommand of `edgebox token` on the server.
func (c *cluster) token(t *testing.T, args ...string) string {
	t.Helper()
	out, err := c.server.Edgebox(t.Context(), append([]string{"token"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// refused starts an agent that has to end by itself and say why.
func refused(t *testing.T, h *framework.Host, want string, flags ...string) {
	t.Helper()
	if err := h.StartAgent(flags...); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), framework.Patience)
	defer cancel()
	if err := h.Exit(ctx); err == nil || ctx.Err() != nil {
		t.Fatalf("it was to be refused, and ended with %v\n%s", err, h.Logs())
	}
	if !strings.Contains(h.Logs(), want) {
		t.Errorf("it does not say %q:\n%s", want, h.Logs())
	}
}

// TestRefusedTokens: each says what to do, and none gets in.
func TestRefusedTokens(t *testing.T) {
	c := start(t)
	h := c.machine(t, "refused")
	good, err := c.server.Token()
	if err != nil {
		t.Fatal(err)
	}
	hash, _, _ := strings.Cut(good, "::")
	foreign := "EB1" + strings.Repeat("0", 64) + strings.TrimPrefix(good, hash)
	deleted := c.token(t, "create")
	c.token(t, "delete", deleted)
	expired := c.token(t, "create", "--ttl", "1s")
	framework.Eventually(t, framework.Patience, func() error {
		if out := c.token(t, "list"); strings.Contains(out, strings.Split(strings.Split(expired, "::")[1], ".")[0]) {
			return fmt.Errorf("the expired token is still there:\n%s", out)
		}
		return nil
	})
	if err := c.server.WriteFile("/srv/index.html", "no server of edgebox"); err != nil {
		t.Fatal(err)
	}
	c.server.Shell(t, "httpd -p 8088 -h /srv")
	address := c.server.Address.String()
	for _, tt := range []struct{ name, server, token, want string }{
		{"malformed", c.server.URL(), "K10abc::server:x", "join token is one of k3s"},
		{"cut off", c.server.URL(), good[:len(good)-3], "does not end in a bootstrap token"},
		{"without hash", c.server.URL(), strings.Split(good, "::")[1], "has no CA hash"},
		{"of another cluster", c.server.URL(), foreign, "the server has another CA"},
		{"deleted", c.server.URL(), deleted, "the server does not know the token"},
		{"expired", c.server.URL(), expired, "the server does not know the token"},
		{"wrong port, no TLS", "https://" + address + ":8088", good, "does not speak TLS: is the port right?"},
		{"wrong port, a kubelet", "https://" + address + ":10250", good, "is not the API of a server"},
		{"no token", c.server.URL(), "", "needs a token: make one with `edgebox token create`"},
	} {
		flags := []string{"--server", tt.server}
		if tt.token != "" {
			flags = append(flags, "--token", tt.token)
		}
		refused(t, h, tt.want, flags...)
	}
	if out := c.kubectl(t, "get", "nodes"); strings.Contains(out, "refused") {
		t.Errorf("it is a node all the same:\n%s", out)
	}
}

// TestNames: a name belongs to the machine that had it first.
func TestNames(t *testing.T) {
	c := start(t)
	first, other := c.machine(t, "first"), c.machine(t, "other")
	first.Join(t, c.server)
	token, err := c.server.Token()
	if err != nil {
		t.Fatal(err)
	}
	flags := []string{"--server", c.server.URL(), "--token", token}
	refused(t, other, "belongs to another machine", append(flags, "--node-name", "first")...)
	refused(t, other, "is a name of the cluster's servers", append(flags, "--node-name", "server")...)

	// A machine that was wiped is the same machine, whatever else is new.
	if err := first.Stop(); err != nil {
		t.Fatal(err)
	}
	first.Shell(t, "edgebox uninstall --yes && ! ls /var/lib/edgebox")
	first.Join(t, c.server)

	// Another one takes its place with a token that allows it; even so, a server's name is never to be had.
	if err := first.Stop(); err != nil {
		t.Fatal(err)
	}
	rejoin := c.token(t, "create", "--usages", "signing,authentication,rejoin")
	refused(t, other, "is a name of the cluster's servers", "--server", c.server.URL(), "--token", rejoin, "--node-name", "server")
	if err := other.StartAgent("--server", c.server.URL(), "--token", rejoin, "--node-name", "first"); err != nil {
		t.Fatal(err)
	}
	framework.Eventually(t, framework.Patience, func() error {
		out, err := other.Edgebox(t.Context(), "status", "-o", "json")
		if err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
		return nil
	})
	if ip := c.kubectl(t, "get", "node", "first", "-o", "jsonpath={.status.addresses[?(@.type=='InternalIP')].address}"); ip != other.Address.String() {
		t.Errorf("node first is at %s, want %s", ip, other.Address)
	}
	// And when the node is gone, so is the claim to its name.
	if err := other.Stop(); err != nil {
		t.Fatal(err)
	}
	c.kubectl(t, "delete", "node", "first")
	framework.Eventually(t, framework.Patience, func() error {
		out, err := c.server.Kubectl(t.Context(), "-n", "kube-system", "get", "secret", "first.machine")
		if err == nil {
			return fmt.Errorf("the record is still there: %s", out)
		}
		return nil
	})
	first.Join(t, c.server)
}

// TestWaitsForServer: an agent that is started first joins when the server is there, and says what it waits for.
func TestWaitsForServer(t *testing.T) {
	framework.NeedEdgebox(t)
	t.Parallel()
	net := framework.NewNetwork(t, netip.MustParsePrefix("192.168.79.0/24"))
	server := framework.NewHost(t, framework.Options{Name: "late", Network: net})
	h := framework.NewHost(t, framework.Options{Name: "early", Network: net})
	server.Up(t) // for its token
	token, err := server.Token()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := h.StartAgent("--server", server.URL(), "--token", token); err != nil {
		t.Fatal(err)
	}
	h.Server = server
	h.WaitLogged(t, "connection refused")
	out, err := h.Edgebox(t.Context(), "status")
	if err == nil || !strings.Contains(out, "join") || !strings.Contains(out, "connection refused") {
		t.Errorf("status says %v:\n%s", err, out)
	}
	server.Up(t)
	if err := h.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestRights: what an agent's identity is good for.
func TestRights(t *testing.T) {
	c := start(t)
	h := c.machine(t, "agent")
	h.Join(t, c.server)
	c.kubectl(t, "create", "secret", "generic", "treasure", "--from-literal=a=b")
	// The server's kubectl, with all that the agent has.
	c.server.Shell(t, "mkdir -p /stolen")
	for _, file := range []string{"pki/kubelet-client.crt", "pki/kubelet-client.key", "pki/server-ca.crt"} {
		if err := c.server.WriteFile("/stolen/"+file, h.Shell(t, "cat /var/lib/edgebox/agent/"+file)+"\n"); err != nil {
			t.Fatal(err)
		}
	}
	as := []string{"--kubeconfig", "/dev/null", "--server", c.server.URL(), "--certificate-authority", "/stolen/pki/server-ca.crt",
		"--client-certificate", "/stolen/pki/kubelet-client.crt", "--client-key", "/stolen/pki/kubelet-client.key"}
	try := func(args ...string) (string, error) {
		return c.server.Kubectl(t.Context(), append(as[:len(as):len(as)], args...)...)
	}
	if out, err := try("get", "node", "agent"); err != nil {
		t.Fatalf("its own node: %s, %v", out, err)
	}
	for _, args := range [][]string{
		{"get", "secrets", "-A"},
		{"get", "secret", "treasure"},
		{"-n", "kube-system", "get", "secrets"},
		{"label", "node", "server", "stolen=true"},
		{"delete", "node", "server"},
		{"create", "token", "default"},
		{"get", "--raw", "/api/v1/nodes/server/proxy/pods"},
		{"get", "--raw", "/edgebox/servers-secrets"},
		{"-n", "kube-system", "patch", "configmap", "edgebox-cluster", "-p", `{"data":{"disable":"dns"}}`},
		{"create", "clusterrolebinding", "mine", "--clusterrole=cluster-admin", "--user=system:node:agent"},
	} {
		if out, err := try(args...); err == nil || !strings.Contains(strings.ToLower(err.Error()), "forbidden") {
			t.Errorf("kubectl %s: %s, %v", strings.Join(args, " "), out, err)
		}
	}
	for _, file := range []string{"pki/kubelet-client.key", "pki/kubelet.key", "kubelet.kubeconfig", "cluster.json"} {
		if mode := h.Shell(t, "stat -c %a /var/lib/edgebox/agent/"+file); mode != "600" {
			t.Errorf("%s has mode %s", file, mode)
		}
	}
	if out := h.Shell(t, "find /var/lib/edgebox -name '*ca.key'"); out != "" {
		t.Errorf("an agent has the key of a CA: %s", out)
	}
}

// TestWrongClock: years behind or ahead.
func TestWrongClock(t *testing.T) {
	c := start(t)
	if runtime.GOARCH != "amd64" {
		t.Skip("clocks can be wrong on amd64 only")
	}
	behind := c.machine(t, "behind")
	if err := behind.SetClock(-40 * 365 * 24 * time.Hour); err != nil {
		t.Fatal(err)
	}
	behind.Join(t, c.server)

	ahead := c.machine(t, "ahead")
	if err := ahead.SetClock(20 * 365 * 24 * time.Hour); err != nil {
		t.Fatal(err)
	}
	if err := ahead.StartAgentOf(c.server); err != nil {
		t.Fatal(err)
	}
	ahead.WaitLogged(t, "the clock of this machine says 20")
	if err := ahead.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := ahead.SetClock(0); err != nil {
		t.Fatal(err)
	}
	ahead.Join(t, c.server)
}
