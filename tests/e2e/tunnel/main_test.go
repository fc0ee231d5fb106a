// Package tunnel shows that nodes behind routers that let nothing in are as good as others: what the API server wants of
// them gets there, and does so again as soon as a cut has healed. Its tests share a cluster of a server and two agents,
// each behind a router of its own, with the same private address.
package tunnel

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/edgebox/edgebox/tests/framework"
)

func TestMain(m *testing.M) { framework.Main(m) }

// cluster is the server and the agents by name.
type cluster struct {
	server *framework.Host
	agents map[string]*framework.Host
}

// agents are the names of the nodes behind routers.
var agents = []string{"home", "office"}

var shared = sync.OnceValues(func() (*cluster, error) {
	outside, err := framework.OpenNetwork(netip.MustParsePrefix("192.168.78.0/24"))
	if err != nil {
		return nil, err
	}
	c := &cluster{agents: make(map[string]*framework.Host)}
	if c.server, err = framework.Boot(framework.Options{Name: "server", Network: outside}); err != nil {
		return nil, err
	}
	var hosts []*framework.Host
	for _, name := range agents {
		inside, err := framework.OpenNAT(outside, netip.MustParsePrefix("192.168.1.0/24"))
		if err != nil {
			return nil, err
		}
		h, err := framework.Boot(framework.Options{Name: name, Network: inside})
		if err != nil {
			return nil, err
		}
		c.agents[name] = h
		hosts = append(hosts, h)
	}
	bin, err := framework.GoBinary("./tests/e2e/tunnel/webhook")
	if err != nil {
		return nil, err
	}
	images := []framework.Image{framework.Busybox(), {
		Ref: "webhook:e2e", Files: map[string]string{"webhook": bin}, Entrypoint: []string{"/webhook"},
	}}
	ctx, cancel := context.WithTimeout(context.Background(), 2*framework.BootTimeout)
	defer cancel()
	return c, framework.FormCluster(ctx, c.server, hosts, images)
})

// namespace is a fresh one in the shared cluster.
func namespace(t *testing.T) (*cluster, *framework.Namespace) {
	t.Helper()
	framework.NeedEdgebox(t)
	c, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, h := range c.agents {
				h.Dump(t)
			}
		}
	})
	return c, c.server.Namespace(t)
}

// pod is a pod on a node that runs a script; it is named after the node. More are fields of its container.
func pod(node, script, more string) string {
	return `
apiVersion: v1
kind: Pod
metadata: {name: ` + node + `, labels: {app: ` + node + `}}
spec:
  nodeSelector: {kubernetes.io/hostname: ` + node + `}
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: busybox:e2e
    command: [sh, -c, "` + script + `"]
    ` + more + `
---`
}

// onEach makes a pod on each agent and waits until they are ready.
func onEach(n *framework.Namespace, script, more string) {
	var manifest strings.Builder
	for _, node := range agents {
		manifest.WriteString(pod(node, script, more))
	}
	n.Apply(manifest.String())
	for _, node := range agents {
		n.WaitFor("pod/"+node, "Ready")
	}
}

// safeBuffer is written by a command while a test reads.
type safeBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// wantIn waits until the output of a command has want in it.
func wantIn(t *testing.T, out *safeBuffer, want string) {
	t.Helper()
	framework.Eventually(t, framework.Patience, func() error {
		if text := out.String(); !strings.Contains(text, want) {
			return fmt.Errorf("no %q in the output: %s", want, text)
		}
		return nil
	})
}

// start starts kubectl in the namespace; it is killed at the end of the test.
func start(t *testing.T, n *framework.Namespace, args ...string) (*framework.Cmd, *safeBuffer) {
	t.Helper()
	out := &safeBuffer{}
	cmd := n.Host.Command(t.Context(), append([]string{framework.Binary, "kubectl", "-n", n.Name}, args...)...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, out
}

// try runs a command in the pod on a node, for at most some seconds.
func try(t *testing.T, n *framework.Namespace, node string) error {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	out, err := n.Host.Kubectl(ctx, "-n", n.Name, "exec", node, "--", "echo", "through")
	if err == nil && strings.TrimSpace(out) != "through" {
		err = fmt.Errorf("the answer is %q", out)
	}
	return err
}
