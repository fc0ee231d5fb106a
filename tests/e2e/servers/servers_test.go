// Package servers shows that a cluster of several servers outlives any one of them.
package servers

import (
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

// serverToken is what further servers join with.
func serverToken(t *testing.T, h *framework.Host) string {
	t.Helper()
	out, err := h.Edgebox(t.Context(), "token", "server")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// joinServer makes the host one more server.
func joinServer(t *testing.T, h, first *framework.Host, token string) {
	t.Helper()
	if err := h.Start("--server", first.URL(), "--token", token); err != nil {
		t.Fatal(err)
	}
	if err := h.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// writer makes ConfigMaps through an agent's balancer until it is stopped, and knows which ones were acknowledged.
type writer struct {
	mu     sync.Mutex
	names  []string
	errs   int
	gap    time.Duration // the longest time between two acknowledged writes
	last   time.Time
	cancel context.CancelFunc
	done   sync.WaitGroup
}

// startWriter uses the admin kubeconfig on the agent's host, at the balancer's address.
func startWriter(t *testing.T, agent *framework.Host) *writer {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w := &writer{cancel: cancel, last: time.Now()}
	for n := range 2 {
		w.done.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				name := fmt.Sprintf("w%d-%d", n, i)
				_, err := agent.Kubectl(ctx, "--kubeconfig", "/admin.yaml", "--server", "https://127.0.0.1:6444", "--request-timeout=5s", "create", "configmap", name)
				w.mu.Lock()
				if err == nil {
					w.names = append(w.names, name)
					w.gap = max(w.gap, time.Since(w.last))
					w.last = time.Now()
				} else {
					w.errs++
				}
				w.mu.Unlock()
			}
		})
	}
	t.Cleanup(w.stop)
	return w
}

func (w *writer) stop() {
	w.cancel()
	w.done.Wait()
}

func (w *writer) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.names)
}

// more waits until so many further writes were acknowledged.
func (w *writer) more(t *testing.T, n int) {
	t.Helper()
	want := w.count() + n
	framework.Eventually(t, framework.Patience, func() error {
		if got := w.count(); got < want {
			return fmt.Errorf("%d writes, want %d", got, want)
		}
		return nil
	})
}

// check looks for every acknowledged write.
func (w *writer) check(t *testing.T, h *framework.Host) {
	t.Helper()
	out, err := h.Kubectl(t.Context(), "get", "configmaps", "-o", "jsonpath={.items[*].metadata.name}")
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	for name := range strings.FieldsSeq(out) {
		there[name] = true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	lost := 0
	for _, name := range w.names {
		if !there[name] {
			lost++
			t.Errorf("%s was acknowledged and is lost", name)
		}
	}
	t.Logf("on %s: %d acknowledged writes, %d lost, %d failed, longest gap %s", h.Name, len(w.names), lost, w.errs, w.gap.Round(time.Millisecond))
}

// TestThreeServers kills each of three servers in turn while an agent's balancer is written through.
func TestThreeServers(t *testing.T) {
	framework.NeedEdgebox(t)
	t.Parallel()
	net := framework.NewNetwork(t, netip.MustParsePrefix("192.168.90.0/24"))
	host := func(name string) *framework.Host {
		return framework.NewHost(t, framework.Options{Name: name, Network: net})
	}
	a, b, c, agent := host("a"), host("b"), host("c"), host("agent")
	a.Up(t, "--cluster-init")
	token := serverToken(t, a)
	joinServer(t, b, a, token)
	joinServer(t, c, a, token)
	agent.Join(t, a)
	admin := a.Shell(t, "cat /etc/edgebox/kubeconfig.yaml")
	if err := agent.WriteFile("/admin.yaml", admin); err != nil {
		t.Fatal(err)
	}
	w := startWriter(t, agent)
	w.more(t, 20)
	for _, victim := range []*framework.Host{a, b, c} {
		if err := victim.Kill9(); err != nil {
			t.Fatal(err)
		}
		w.more(t, 20)
		if err := victim.Start(); err != nil {
			t.Fatal(err)
		}
		if err := victim.WaitReady(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	w.stop()
	for _, h := range []*framework.Host{a, b, c} {
		w.check(t, h)
	}
}
