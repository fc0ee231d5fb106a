package flannel

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/flannel-io/flannel/pkg/lease"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
)

// The key is this node's alone, stays over restarts, and one that a power cut has damaged is made anew.
func TestWireGuardKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent", "wireguard.key")
	key := func() string {
		t.Helper()
		if err := ensureKey(path); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("mode is %o", info.Mode().Perm())
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	first := key()
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if key() != first {
		t.Error("the key has changed")
	}
	for _, damaged := range []string{"", first[:20]} {
		if err := os.WriteFile(path, []byte(damaged), 0o600); err != nil {
			t.Fatal(err)
		}
		if k := key(); k == damaged || k == first {
			t.Errorf("after %q the key is %q", damaged, k)
		}
	}
}

func TestWireGuardConfig(t *testing.T) {
	t.Setenv(keyFileVariable, "/elsewhere")
	path := filepath.Join(t.TempDir(), "wireguard.key")
	for ipv6, mtu := range map[bool]int{false: 1520, true: 1500} { // flannel takes off 80
		raw, err := wireguardConfig(path, 1500, ipv6)
		if err != nil {
			t.Fatal(err)
		}
		var got struct{ MTU, PersistentKeepaliveInterval int }
		if err := json.Unmarshal(raw, &got); err != nil {
			t.Fatal(err)
		}
		if got.MTU != mtu || got.PersistentKeepaliveInterval != 25 {
			t.Errorf("IPv6 %v: %s", ipv6, raw)
		}
	}
	if got := os.Getenv(keyFileVariable); got != path {
		t.Errorf("flannel looks for the key in %s", got)
	}
}

func hasWireGuard(t *testing.T) bool {
	t.Helper()
	link := &netlink.Wireguard{LinkAttrs: netlink.LinkAttrs{Name: "wg-try"}}
	err := netlink.LinkAdd(link)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return false
	}
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if err != nil {
		t.Fatal(err)
	}
	return true
}

// A kernel with wireguard gets the link, which outlives the component; one without is named as what is wrong.
func TestWireGuard(t *testing.T) {
	if !ownNetwork(t) {
		return
	}
	fakeNFT(t)
	addLink(t, "eth7", "192.0.2.1/24")
	client := fake.NewClientset(node("a", []string{"10.42.0.0/24"}, "192.0.2.1"))
	cfg := testConfig(t, client, WireGuard, "10.42.0.0/16")
	cfg.WireGuardKey = filepath.Join(t.TempDir(), "wireguard.key")
	if !hasWireGuard(t) {
		c := New(cfg)
		if err := c.Prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
		err := c.Run(t.Context(), func() { t.Error("it is ready") })
		if err == nil || !strings.Contains(err.Error(), "this kernel has no wireguard: use one with CONFIG_WIREGUARD") {
			t.Errorf("got %v", err)
		}
		return
	}
	c := start(t, cfg)
	check := func() {
		t.Helper()
		link, err := netlink.LinkByName("flannel-wg")
		if err != nil {
			t.Fatal(err)
		}
		if link.Type() != "wireguard" || link.Attrs().MTU != 1440 {
			t.Errorf("link of type %s with MTU %d", link.Type(), link.Attrs().MTU)
		}
	}
	check()
	c.stop(t)
	check()
	c.run(t)
	check()
	c.stop(t)
}

// What vxlan and host-gw have left would win against wireguard's route to the whole network.
func TestOtherBackendsAreRemoved(t *testing.T) {
	if !ownNetwork(t) {
		return
	}
	eth := addLink(t, "eth7", "192.0.2.1/24")
	peer, err := netlink.LinkByName("eth7-peer")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(peer); err != nil {
		t.Fatal(err)
	}
	route := func(dst, gw string) {
		t.Helper()
		r := netlink.Route{LinkIndex: eth.Attrs().Index, Gw: net.ParseIP(gw)}
		if _, r.Dst, err = net.ParseCIDR(dst); err != nil {
			t.Fatal(err)
		}
		if err := netlink.RouteAdd(&r); err != nil {
			t.Fatal(err)
		}
	}
	has := func(dst string) bool {
		t.Helper()
		routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range routes {
			if r.Dst != nil && r.Dst.String() == dst {
				return true
			}
		}
		return false
	}
	linked := func(name string) bool {
		_, err := netlink.LinkByName(name)
		return err == nil
	}
	vxlanLink := &netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "flannel.1"}, VxlanId: 1, Port: vxlanPort}
	if err := netlink.LinkAdd(vxlanLink); err != nil {
		t.Fatal(err)
	}
	addAddress(t, vxlanLink, "10.42.0.0/32")
	if err := netlink.LinkSetUp(vxlanLink); err != nil {
		t.Fatal(err)
	}
	onLink := netlink.Route{LinkIndex: vxlanLink.Index, Gw: net.IPv4(10, 42, 3, 0), Flags: unix.RTNH_F_ONLINK,
		Dst: &net.IPNet{IP: net.IPv4(10, 42, 3, 0).To4(), Mask: net.CIDRMask(24, 32)}}
	if err := netlink.RouteAdd(&onLink); err != nil {
		t.Fatal(err)
	}
	route("10.42.1.0/24", "192.0.2.2")    // of host-gw
	route("198.51.100.0/24", "192.0.2.3") // the host's own
	route("10.0.0.0/8", "192.0.2.3")      // the host's own, around the cluster's network

	cluster := prefixes("10.42.0.0/16")
	if err := removeOtherBackends([]string{"flannel.1"}, VXLAN, cluster); err != nil {
		t.Fatal(err)
	}
	if !linked("flannel.1") || !has("10.42.3.0/24") || has("10.42.1.0/24") || !has("198.51.100.0/24") || !has("10.0.0.0/8") {
		t.Error("vxlan: not just the route of host-gw is gone")
	}
	route("10.42.1.0/24", "192.0.2.2")
	if err := removeOtherBackends(nil, HostGW, cluster); err != nil {
		t.Fatal(err)
	}
	if linked("flannel.1") || !has("10.42.1.0/24") {
		t.Error("host-gw: not just the link of vxlan is gone")
	}
	if err := removeOtherBackends([]string{"flannel-wg"}, WireGuard, cluster); err != nil {
		t.Fatal(err)
	}
	if has("10.42.1.0/24") || !has("198.51.100.0/24") || !has("10.0.0.0/8") {
		t.Error("wireguard: not just the route of host-gw is gone")
	}
}

// The backend's context never ends, and a stop must not wait for an API that does not answer.
func TestLeaseOfWireGuardEndsWithTheRun(t *testing.T) {
	client := fake.NewClientset()
	client.PrependReactor("patch", "nodes", func(k8stesting.Action) (bool, runtime.Object, error) {
		return true, nil, errors.New("no server")
	})
	network, err := networkConfig(WireGuard, prefixes("10.42.0.0/16"))
	if err != nil {
		t.Fatal(err)
	}
	n := newNodes(client, "a", network)
	n.update(node("a", []string{"10.42.0.0/24"}, "192.0.2.1"))
	run, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := (lessor{n, run}).AcquireLease(context.WithoutCancel(run), &lease.LeaseAttrs{BackendType: "wireguard"}); err == nil {
		t.Error("no error")
	}
}
