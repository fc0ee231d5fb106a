package join

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/edgebox/edgebox/tests/framework"
)

// pair is a server and an agent of one test, with Images.
func pair(t *testing.T, prefix string, flags ...string) (server, agent *framework.Host) {
	t.Helper()
	framework.NeedEdgebox(t)
	t.Parallel()
	net := framework.NewNetwork(t, netip.MustParsePrefix(prefix))
	server = framework.NewHost(t, framework.Options{Name: "server", Network: net})
	agent = framework.NewHost(t, framework.Options{Name: "agent", Network: net})
	server.Up(t, flags...)
	agent.Join(t, server)
	images, err := framework.Images()
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range []*framework.Host{server, agent} {
		if err := h.Import(t.Context(), images...); err != nil {
			t.Fatal(err)
		}
	}
	return server, agent
}

const webOnAgent = `
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  nodeName: agent
  containers: [{name: web, image: "web:1", ports: [{containerPort: 80}]}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{port: 80}]`

// page is what a URL gives on a host.
func page(t *testing.T, h *framework.Host, url string) {
	t.Helper()
	framework.Eventually(t, framework.Patience, func() error {
		_, err := h.Run(t.Context(), "timeout", "3", "wget", "-qO-", url)
		return err
	})
}

// TestRestart: pods of an agent outlive it, and it comes back without a server.
func TestRestart(t *testing.T) {
	server, agent := pair(t, "192.168.80.0/24")
	n := server.Namespace(t)
	n.Apply(webOnAgent)
	n.WaitFor("pod/web", "Ready")
	pid := agent.Shell(t, "pidof web")
	for _, end := range []func() error{agent.Stop, agent.Kill9} {
		if err := end(); err != nil {
			t.Fatal(err)
		}
		if err := agent.StartAgent("--server", server.URL()); err != nil { // it needs no token any more
			t.Fatal(err)
		}
		if err := agent.WaitReady(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := server.Kill9(); err != nil {
		t.Fatal(err)
	}
	if err := agent.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := agent.StartAgent("--server", server.URL()); err != nil {
		t.Fatal(err)
	}
	framework.Eventually(t, framework.Patience, func() error {
		out, err := agent.Edgebox(t.Context(), "status")
		if err == nil || !strings.Contains(out, "connection refused") || !strings.Contains(out, "kubelet") {
			return fmt.Errorf("status without a server: %w\n%s", err, out)
		}
		return nil
	})
	server.Up(t)
	if err := agent.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	if now := agent.Shell(t, "pidof web"); now != pid {
		t.Errorf("the pod was restarted: pid %s, then %s", pid, now)
	}
	n.Kubectl("logs", "web")
}

// TestAgentMoves: a node that gets another address is the same node at that address, for pods, servers and certificates.
func TestAgentMoves(t *testing.T) {
	server, agent := pair(t, "192.168.81.0/24")
	n := server.Namespace(t)
	n.Apply(webOnAgent)
	n.WaitFor("pod/web", "Ready")
	ip := n.Kubectl("get", "pod", "web", "-o", "jsonpath={.status.podIP}")
	pid := agent.Shell(t, "pidof web")
	page(t, server, "http://"+ip)

	if err := agent.ChangeAddress(netip.MustParseAddr("192.168.81.99")); err != nil {
		t.Fatal(err)
	}
	framework.Eventually(t, framework.Patience, func() error {
		out := n.Kubectl("get", "node", "agent", "-o", "jsonpath={.status.addresses[?(@.type=='InternalIP')].address} {.metadata.annotations.flannel\\.alpha\\.coreos\\.com/public-ip}")
		if out != "192.168.81.99 192.168.81.99" {
			return fmt.Errorf("node and flannel are at %s", out)
		}
		return nil
	})
	page(t, server, "http://"+ip)
	n.Kubectl("logs", "web")
	framework.Eventually(t, framework.Patience, func() error {
		csrs := n.Kubectl("get", "csr", "-o", "jsonpath={range .items[?(@.spec.signerName=='kubernetes.io/kubelet-serving')]}{.status.conditions[*].type} {end}")
		if strings.Count(csrs, "Approved") < 2 {
			return fmt.Errorf("certificate requests: %s", csrs)
		}
		return nil
	})
	agent.Shell(t, "edgebox status | grep -q 'kubelet .* ready'")
	if now := agent.Shell(t, "pidof web"); now != pid {
		t.Errorf("the pod was restarted: pid %s, then %s", pid, now)
	}
}

// TestServerMoves: agents that know the server by a name find it again.
func TestServerMoves(t *testing.T) {
	framework.NeedEdgebox(t)
	t.Parallel()
	net := framework.NewNetwork(t, netip.MustParsePrefix("192.168.82.0/24"))
	server := framework.NewHost(t, framework.Options{Name: "server", Network: net})
	agent := framework.NewHost(t, framework.Options{Name: "agent", Network: net})
	hosts := func() {
		if err := agent.WriteFile("/etc/hosts", "127.0.0.1 localhost\n"+server.Address.String()+" home\n"); err != nil {
			t.Fatal(err)
		}
	}
	hosts()
	server.Up(t)
	token, err := server.Token()
	if err != nil {
		t.Fatal(err)
	}
	if err := agent.StartAgent("--server", "https://home:6443", "--token", token); err != nil {
		t.Fatal(err)
	}
	agent.Server = server
	if err := agent.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := server.ChangeAddress(netip.MustParseAddr("192.168.82.99")); err != nil {
		t.Fatal(err)
	}
	hosts()
	server.WaitLogged(t, "edgebox starts anew")
	if err := server.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := agent.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	framework.Eventually(t, framework.Patience, func() error {
		out, err := server.Kubectl(t.Context(), "get", "endpointslice", "kubernetes", "-o", "jsonpath={.endpoints[*].addresses[0]}")
		if err != nil || strings.TrimSpace(out) != "192.168.82.99" {
			return fmt.Errorf("the API is at %q, %w", out, err)
		}
		return nil
	})
	if out, err := server.Kubectl(t.Context(), "get", "--raw", "/api/v1/nodes/agent/proxy/healthz"); err != nil || out != "ok" {
		t.Errorf("the agent's kubelet: %s, %v", out, err)
	}
}

// TestSettings: an agent follows the cluster when that is set up differently.
func TestSettings(t *testing.T) {
	server, agent := pair(t, "192.168.83.0/24")
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	server.Up(t, "--disable=dns")
	agent.WaitLogged(t, "the settings of the cluster have changed")
	framework.Eventually(t, framework.Patience, func() error {
		out, err := agent.Edgebox(t.Context(), "status")
		if err != nil || strings.Contains(out, "dns") {
			return fmt.Errorf("%w\n%s", err, out)
		}
		return nil
	})
}

// TestRenewal: certificates that live for minutes are renewed without a restart.
func TestRenewal(t *testing.T) {
	server, agent := pair(t, "192.168.84.0/24", "--kube-controller-manager-arg=cluster-signing-duration=60s")
	serial := func(name string) string { return agent.Shell(t, "cat /var/lib/edgebox/agent/pki/"+name+".crt") }
	for range 2 { // beyond the first certificate's end
		client, serving, pid := serial("kubelet-client"), serial("kubelet"), agent.PID()
		framework.Eventually(t, framework.Patience, func() error {
			if serial("kubelet-client") == client || serial("kubelet") == serving {
				return fmt.Errorf("not renewed yet")
			}
			return nil
		})
		if agent.PID() != pid {
			t.Error("it was restarted")
		}
	}
	if out, err := server.Kubectl(t.Context(), "get", "--raw", "/api/v1/nodes/agent/proxy/healthz"); err != nil || out != "ok" {
		t.Errorf("the kubelet: %s, %v", out, err)
	}
	if err := agent.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(agent.Logs(), "level=ERROR") {
		t.Errorf("errors are logged:\n%s", agent.Logs())
	}
}
