// Package network shows that pods on different nodes form one network with the nodes, in every direction, through
// Services and names too. Its tests share a cluster of a server and two agents, and a host beside it.
package network

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/edgebox/edgebox/tests/framework"
)

func TestMain(m *testing.M) { framework.Main(m) }

// nodes are the hosts of the shared cluster. The first is the server.
var nodes = []string{"one", "two", "three"}

// cluster is hosts that share a network, and one beside them that knows nothing of the cluster.
type cluster struct {
	nodes    map[string]*framework.Host
	outsider *framework.Host
}

var shared = sync.OnceValues(func() (*cluster, error) { return boot(netip.MustParsePrefix("192.168.78.0/24"), nodes) })

// boot makes a cluster. Its server is the first of the names.
func boot(prefix netip.Prefix, names []string, flags ...string) (*cluster, error) {
	network, err := framework.OpenNetwork(prefix)
	if err != nil {
		return nil, err
	}
	c := &cluster{nodes: make(map[string]*framework.Host)}
	var agents []*framework.Host
	for _, name := range append(names[:len(names):len(names)], "outsider") {
		h, err := framework.Boot(framework.Options{Name: name, Network: network})
		if err == nil {
			err = install(h)
		}
		if err != nil {
			return nil, err
		}
		switch name {
		case "outsider":
			c.outsider = h
			continue
		case names[0]:
		default:
			agents = append(agents, h)
		}
		c.nodes[name] = h
	}
	image, err := peerImage()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*framework.BootTimeout)
	defer cancel()
	return c, framework.FormCluster(ctx, c.nodes[names[0]], agents, []framework.Image{image}, flags...)
}

// peerBinary is peer's place in hosts and in its image.
const peerBinary = "/usr/local/bin/peer"

// peerImage is peer:e2e: busybox and peer.
func peerImage() (framework.Image, error) {
	bin, err := framework.GoBinary("./tests/e2e/network/peer")
	if err != nil {
		return framework.Image{}, err
	}
	image := framework.Busybox()
	image.Ref, image.Cmd = "peer:e2e", nil
	image.Entrypoint = []string{peerBinary}
	image.Files = maps.Clone(image.Files)
	image.Files[strings.TrimPrefix(peerBinary, "/")] = bin
	return image, nil
}

func install(h *framework.Host) error {
	bin, err := framework.GoBinary("./tests/e2e/network/peer")
	if err != nil {
		return err
	}
	data, err := os.ReadFile(bin)
	if err != nil {
		return err
	}
	return os.WriteFile(h.File(peerBinary), data, 0o755)
}

// namespace is a fresh one in the shared cluster. The test runs in parallel with others from here on.
func namespace(t *testing.T) (*cluster, *framework.Namespace) {
	t.Helper()
	t.Parallel()
	framework.NeedEdgebox(t)
	c, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	return c, c.namespace(t, nodes[0])
}

func (c *cluster) namespace(t *testing.T, server string) *framework.Namespace {
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() {
			for _, h := range c.nodes {
				h.Dump(t)
			}
		}
	})
	return c.nodes[server].Namespace(t)
}

// peerPod is a pod on a node that serves on port 8080.
func peerPod(node string) string {
	return `
apiVersion: v1
kind: Pod
metadata: {name: ` + podOn(node) + `, labels: {app: peer, node: "` + node + `"}}
spec:
  nodeSelector: {kubernetes.io/hostname: "` + node + `"}
  terminationGracePeriodSeconds: 0
  containers:
  - name: peer
    image: peer:e2e
    args: [serve, "8080"]
    readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
---`
}

func podOn(node string) string { return "peer-" + node }

// peers makes a pod on each node and returns their addresses by node.
func peers(n *framework.Namespace, nodes []string) map[string]string {
	var manifest strings.Builder
	for _, node := range nodes {
		manifest.WriteString(peerPod(node))
	}
	n.Apply(manifest.String())
	addresses := make(map[string]string)
	for _, node := range nodes {
		n.WaitFor("pod/"+podOn(node), "Ready")
		addresses[node] = n.Get("pod/"+podOn(node), "{.status.podIP}")
	}
	return addresses
}

// asker runs `peer ask` somewhere.
type asker func(urls ...string) (string, error)

func fromPod(n *framework.Namespace, pod string) asker {
	return func(urls ...string) (string, error) {
		return n.Exec(pod, append([]string{peerBinary, "ask"}, urls...)...)
	}
}

func fromHost(t *testing.T, h *framework.Host) asker {
	return func(urls ...string) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), framework.Patience)
		defer cancel()
		return h.Run(ctx, append([]string{peerBinary, "ask"}, urls...)...)
	}
}

// want waits until the asker gets answers that begin as they should, by URL.
func want(t *testing.T, who string, ask asker, answers map[string]string) {
	t.Helper()
	urls := slices.Sorted(maps.Keys(answers))
	framework.Eventually(t, framework.Patience, func() error {
		out, err := ask(urls...)
		if err != nil {
			return fmt.Errorf("%s: %w", who, err)
		}
		lines := strings.Split(strings.TrimSpace(out), "\n")
		if len(lines) != len(urls) {
			return fmt.Errorf("%s: %d answers to %d questions: %s", who, len(lines), len(urls), out)
		}
		var wrong []error
		for i, u := range urls {
			if !begins(lines[i], answers[u]) {
				wrong = append(wrong, fmt.Errorf("%s asked %s and got %q, want %q", who, u, lines[i], answers[u]))
			}
		}
		return errors.Join(wrong...)
	})
}

// begins tells whether a line begins with some words, or with a name that a dash says is cut short.
func begins(line, words string) bool {
	if !strings.HasSuffix(words, "-") {
		line, words = line+" ", words+" "
	}
	return strings.HasPrefix(line, words)
}

// everybody are the ways to ask from: a pod on each node, each node, and the host outside.
func (c *cluster) everybody(t *testing.T, n *framework.Namespace) map[string]asker {
	all := map[string]asker{"the host outside": fromHost(t, c.outsider)}
	for node, h := range c.nodes {
		all["the pod on "+node] = fromPod(n, podOn(node))
		all["node "+node] = fromHost(t, h)
	}
	return all
}

// wantAll waits until every one of some servers has answered at the URL, and nobody else.
func wantAll(t *testing.T, who string, ask asker, url string, servers []string) {
	t.Helper()
	missing := make(map[string]bool)
	for _, s := range servers {
		missing[s] = true
	}
	framework.Eventually(t, framework.Patience, func() error {
		out, err := ask(slices.Repeat([]string{url}, 20)...)
		if err != nil {
			return fmt.Errorf("%s: %w", who, err)
		}
		for line := range strings.Lines(out) {
			server, _, _ := strings.Cut(strings.TrimSpace(line), " ")
			if !slices.Contains(servers, server) {
				return fmt.Errorf("%s asked %s and got %q", who, url, line)
			}
			delete(missing, server)
		}
		if len(missing) > 0 {
			return fmt.Errorf("%s asked %s: no answer from %v", who, url, slices.Sorted(maps.Keys(missing)))
		}
		return nil
	})
}
