package proxy

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	gnftables "github.com/google/nftables"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/cache"
	"k8s.io/kubernetes/pkg/proxy"
	proxyconfig "k8s.io/kubernetes/pkg/proxy/apis/config"

	"github.com/edgebox/edgebox/pkg/config"
)

const kubeconfig = `apiVersion: v1
kind: Config
current-context: c
clusters: [{name: c, cluster: {server: "https://127.0.0.1:6443"}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
users: [{name: u, user: {token: t}}]
`

func newProxy(t *testing.T, args ...string) *Proxy {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "kubeconfig")
	if err := os.WriteFile(file, []byte(kubeconfig), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := config.Defaults()
	cfg.NodeName = "box"
	cfg.ProxyArg = args
	p := New(cfg, file)
	p.paths = config.Paths{Data: dir, Run: filepath.Join(dir, "run")}
	return p
}

func TestPrepare(t *testing.T) {
	p := newProxy(t)
	p.cfg.ClusterCIDR = append(p.cfg.ClusterCIDR, netip.MustParsePrefix("fd42::/48"))
	if err := p.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	c := p.conf
	for what, ok := range map[string]bool{
		"nftables are used":             c.Mode == proxyconfig.ProxyModeNFTables,
		"health is for this host alone": c.HealthzBindAddress == "127.0.0.1:10256",
		"metrics are too":               strings.HasPrefix(c.MetricsBindAddress, "127.0.0.1:"),
		"pods are told by their range":  strings.Join(c.DetectLocal.ClusterCIDRs, ",") == "10.42.0.0/16,fd42::/48",
		"any address has the NodePorts": strings.Join(c.NodePortAddresses, ",") == "0.0.0.0/0,::/0",
		"rules come back when flushed":  c.SyncPeriod.Duration == 10*time.Minute,
		"the node has its name":         c.HostnameOverride == "box",
		"profiles are not served":       !c.EnableProfiling,
		"the kubelet sets OOM's score":  c.Linux.OOMScoreAdj == nil,
	} {
		if !ok {
			t.Errorf("not so: %s", what)
		}
	}
	written, err := os.ReadFile(p.paths.ProxyConfig())
	if err != nil || !strings.Contains(string(written), "mode: nftables") {
		t.Errorf("the effective configuration: %v\n%s", err, written)
	}
}

func TestArguments(t *testing.T) {
	p := newProxy(t, "healthz-bind-address=127.0.0.1:11256", "iptables-min-sync-period=2s", "nodeport-addresses=192.0.2.0/24")
	if err := p.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(p.conf.NodePortAddresses, ","); got != "192.0.2.0/24" {
		t.Errorf("NodePorts are on %s", got)
	}
	if p.conf.HealthzBindAddress != "127.0.0.1:11256" || p.conf.MinSyncPeriod.Duration != 2*time.Second {
		t.Errorf("health at %s, at most every %s", p.conf.HealthzBindAddress, p.conf.MinSyncPeriod.Duration)
	}
}

func TestBadArguments(t *testing.T) {
	for arg, want := range map[string]string{
		"proxy-mod=iptables":        "kube-proxy-arg: kube-proxy has no flag --proxy-mod",
		"proxy-mode=iptables":       "kube-proxy-arg: proxy-mode is set by edgebox",
		"iptables-sync-period=ten":  `kube-proxy-arg: invalid argument "ten" for "--iptables-sync-period" flag`,
		"healthz-bind-address=box":  `kube-proxy-arg: invalid argument "box" for "--healthz-bind-address" flag`,
		"healthz-bind-address=":     "kube-proxy-arg: without a healthz-bind-address",
		"nodeport-addresses=cellar": "kube-proxy-arg: ",
	} {
		if err := newProxy(t, arg).Prepare(t.Context()); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: the error is %v, want %q", arg, err, want)
		}
	}
}

func TestRefusedArgumentsExist(t *testing.T) {
	for name := range config.FixedArguments("kube-proxy-arg") {
		if err := newProxy(t, name+"=x").Prepare(t.Context()); err != nil && strings.Contains(err.Error(), "has no flag") {
			t.Error(err)
		}
	}
}

// TestMakeTables: what upstream lists first is there, and what is there is kept.
func TestMakeTables(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("takes root")
	}
	p := newProxy(t)
	p.cfg.ClusterCIDR = append(p.cfg.ClusterCIDR, netip.MustParsePrefix("fd42::/48"))
	failed := make(chan error)
	go func() { // in a network namespace, which ends with the thread
		runtime.LockOSThread()
		failed <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return err
			}
			if err := p.makeTables(); err != nil {
				return err
			}
			conn, err := gnftables.New()
			if err != nil {
				return err
			}
			for _, family := range []gnftables.TableFamily{gnftables.TableFamilyIPv4, gnftables.TableFamilyIPv6} {
				table := &gnftables.Table{Name: "kube-proxy", Family: family}
				if _, err := conn.GetSets(table); err != nil {
					return err
				}
				conn.AddChain(&gnftables.Chain{Table: table, Name: "services"})
			}
			if err := conn.Flush(); err != nil {
				return err
			}
			if err := p.makeTables(); err != nil {
				return err
			}
			chains, err := conn.ListChains()
			if err == nil && len(chains) != 2 {
				err = fmt.Errorf("%d chains are left of 2", len(chains))
			}
			return err
		}()
	}()
	if err := <-failed; err != nil {
		t.Error(err)
	}
}

func node(labels map[string]string, addresses ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "box", Labels: labels}}
	for _, a := range addresses {
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a})
	}
	return n
}

// told is a proxier that remembers the topologies it was told.
type told struct {
	proxy.Provider
	topologies chan map[string]string
}

func (t *told) OnTopologyChange(labels map[string]string) { t.topologies <- labels }

// TestFollowsNode: kube-proxy's own node manager would end the process at each of these changes.
func TestFollowsNode(t *testing.T) {
	client := fake.NewClientset()
	p := newProxy(t)
	p.client = client
	informer := p.nodeInformer()
	go informer.Run(t.Context().Done())
	cache.WaitForCacheSync(t.Context().Done(), informer.HasSynced)
	if err := p.adopt(informer); err == nil || err.Error() != "the kubelet has not registered the node yet" {
		t.Errorf("no node: %v", err)
	}

	nodes := client.CoreV1().Nodes()
	update := func(n *corev1.Node) {
		t.Helper()
		if _, err := nodes.Update(t.Context(), n, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := nodes.Create(t.Context(), node(nil), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for len(informer.GetStore().List()) == 0 {
		time.Sleep(time.Millisecond)
	}
	if err := p.adopt(informer); err == nil || err.Error() != "the kubelet has not reported them yet" {
		t.Errorf("no address: %v", err)
	}
	update(node(nil, "192.0.2.7"))
	for p.adopt(informer) != nil {
		time.Sleep(time.Millisecond)
	}

	got := &told{topologies: make(chan map[string]string, 10)}
	if err := p.follow(informer, got); err != nil {
		t.Fatal(err)
	}
	if first := <-got.topologies; len(first) != 0 {
		t.Errorf("first topology %v", first)
	}
	update(node(map[string]string{"rack": "cellar"}, "192.0.2.7")) // of no interest
	update(node(map[string]string{"rack": "cellar"}, "192.0.2.8")) // the host's addresses changed
	if again := <-got.topologies; len(again) != 0 {
		t.Errorf("topology with another address: %v", again)
	}
	if address := p.Node().Status.Addresses[0].Address; address != "192.0.2.8" {
		t.Errorf("told of a change while the address was still %s, or of none", address)
	}
	update(node(map[string]string{corev1.LabelTopologyZone: "attic"}, "192.0.2.8"))
	if zone := <-got.topologies; len(zone) != 1 || zone[corev1.LabelTopologyZone] != "attic" {
		t.Errorf("topology in a zone: %v", zone)
	}
	if err := nodes.Delete(t.Context(), "box", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for len(informer.GetStore().List()) != 0 {
		time.Sleep(time.Millisecond)
	}
	if p.Node() == nil {
		t.Error("the last known node is gone with its object")
	}
}

func TestCheck(t *testing.T) {
	status := http.StatusOK
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
	defer srv.Close()
	p := &Proxy{conf: &proxyconfig.KubeProxyConfiguration{HealthzBindAddress: strings.TrimPrefix(srv.URL, "http://")}}
	if err := p.Check(t.Context()); err != nil {
		t.Error(err)
	}
	status = http.StatusServiceUnavailable
	if err := p.Check(t.Context()); err == nil || err.Error() != "rules are out of date: 503 Service Unavailable" {
		t.Errorf("the error is %v", err)
	}
}
