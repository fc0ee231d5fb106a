package server

import (
	"bytes"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/edgebox/edgebox/pkg/admin/adminserver"
	"github.com/edgebox/edgebox/pkg/component"
	"github.com/edgebox/edgebox/pkg/config"
	"github.com/edgebox/edgebox/pkg/pki"
)

var update = flag.Bool("update", false, "write the golden files")

func newConfig(t *testing.T, change func(*config.Config)) config.Config {
	t.Helper()
	cfg := config.Defaults()
	cfg.DataDir = t.TempDir()
	cfg.NodeName = "box"
	cfg.NodeIP = []netip.Addr{netip.MustParseAddr("192.0.2.7")}
	if change != nil {
		change(&cfg)
	}
	cfg, err := cfg.Complete(config.Host{Name: "box"})
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// TestGraph shows what a server consists of, and what comes after what.
func TestGraph(t *testing.T) {
	var out bytes.Buffer
	for _, tt := range []struct {
		name   string
		change func(*config.Config)
	}{
		{"defaults", nil},
		{"--disable=dns", func(c *config.Config) { c.Disable = []string{config.DNS} }},
		{"--disable=kube-proxy", func(c *config.Config) { c.Disable = []string{config.KubeProxy} }},
		{"--flannel-backend=none", func(c *config.Config) { c.FlannelBackend = "none" }},
		{"--disable-agent", func(c *config.Config) { c.DisableAgent = true }},
		{"--datastore-endpoint", func(c *config.Config) { c.DatastoreEndpoint = "postgres://kine:secret@db/kine" }},
	} {
		var g component.Graph
		Add(&g, newConfig(t, tt.change), adminserver.New("/none", nil))
		fmt.Fprintf(&out, "# %s\n", tt.name)
		for _, s := range g.Status(t.Context()) {
			fmt.Fprintln(&out, strings.TrimSpace(s.Name+": "+strings.Join(s.WaitingFor, ", ")))
		}
		fmt.Fprintln(&out)
	}
	path := filepath.Join("testdata", "graph.txt")
	if *update {
		if err := os.WriteFile(path, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out.Bytes(), want) {
		t.Errorf("differs from %s (-update writes it):\n%s", path, out.Bytes())
	}
}

func TestIdentities(t *testing.T) {
	cfg := newConfig(t, func(c *config.Config) {
		c.TLSSAN = []string{"box.lan", "198.51.100.1"}
		c.AdvertiseAddress = netip.MustParseAddr("203.0.113.9")
		c.ServiceCIDR = append(c.ServiceCIDR, netip.MustParsePrefix("fd43::/112"))
		c.ClusterCIDR = append(c.ClusterCIDR, netip.MustParsePrefix("fd42::/48"))
		c.NodeIP = append(c.NodeIP, netip.MustParseAddr("2001:db8::7"))
	})
	certs := pki.New(cfg.Paths().PKI())
	spec := identities(cfg)
	leaf := func(name string) pki.Leaf {
		t.Helper()
		i := slices.IndexFunc(spec.Leaves, func(l pki.Leaf) bool { return l.Name == name })
		if i < 0 {
			t.Fatalf("no certificate %s", name)
		}
		return spec.Leaves[i]
	}
	api := leaf(pki.APIServer)
	for _, name := range []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost", "box", "box.lan"} {
		if !slices.Contains(api.DNSNames, name) {
			t.Errorf("the API's certificate lacks %s: %v", name, api.DNSNames)
		}
	}
	for _, ip := range []string{"127.0.0.1", "::1", "192.0.2.7", "2001:db8::7", "10.43.0.1", "fd43::1", "198.51.100.1", "203.0.113.9"} {
		if !slices.Contains(api.IPs, netip.MustParseAddr(ip)) {
			t.Errorf("the API's certificate lacks %s: %v", ip, api.IPs)
		}
	}
	if l := leaf(pki.KubeletClient); l.CommonName != "system:node:box" || !slices.Equal(l.Organizations, []string{"system:nodes"}) {
		t.Errorf("the node is %s of %v", l.CommonName, l.Organizations)
	}
	if again := identities(cfg); fmt.Sprint(again) != fmt.Sprint(spec) {
		t.Error("two calls differ: certificates would be renewed again and again")
	}

	user := spec.Kubeconfigs[len(spec.Kubeconfigs)-1]
	if user.Path != cfg.WriteKubeconfig || user.Mode != 0o600 || !user.Embed || user.Leaf != pki.Admin || user.Server != "https://127.0.0.1:6443" {
		t.Errorf("the user's kubeconfig: %+v", user)
	}
	for _, k := range spec.Kubeconfigs[:len(spec.Kubeconfigs)-1] {
		if k.Path != cfg.Paths().Kubeconfig(k.Leaf) || k.Embed || k.Mode != 0 {
			t.Errorf("kubeconfig of a component: %+v", k)
		}
	}
	if _, err := certs.Ensure(pki.Spec{Leaves: spec.Leaves}); err != nil {
		t.Errorf("cannot be made: %v", err)
	}

	cfg.DisableAgent = true
	for _, l := range identities(cfg).Leaves {
		if l.Name == pki.Kubelet || l.Name == pki.KubeletClient {
			t.Errorf("certificate %s without a node", l.Name)
		}
	}
}
