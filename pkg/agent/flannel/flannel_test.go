package flannel

import (
	"context"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
)

const inNamespace = "FLANNEL_TEST_IN_NAMESPACE"

// ownNetwork runs the calling test again in a process with a network of its own, and reports whether this is it.
func ownNetwork(t *testing.T) bool {
	t.Helper()
	if os.Getenv(inNamespace) != "" {
		return true
	}
	if os.Getuid() != 0 {
		t.Skip("needs root for a network namespace")
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	return false
}

// fakeNFT puts an nft first in PATH that records what it is given.
func fakeNFT(t *testing.T) (log string) {
	t.Helper()
	dir := t.TempDir()
	log = filepath.Join(dir, "log")
	script := "#!/bin/sh\ncase \"$1\" in --version) echo 'nftables v1.0.6 (test)';; *) cat >>" + log + ";; esac\n"
	if err := os.WriteFile(filepath.Join(dir, "nft"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return log
}

func addLink(t *testing.T, name string, addrs ...string) netlink.Link {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = name, 1500
	link := &netlink.Veth{LinkAttrs: attrs, PeerName: name + "-peer"}
	if err := netlink.LinkAdd(link); err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		addAddress(t, link, a)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		t.Fatal(err)
	}
	return link
}

func addAddress(t *testing.T, link netlink.Link, addr string) {
	t.Helper()
	a, err := netlink.ParseAddr(addr)
	if err != nil {
		t.Fatal(err)
	}
	a.Flags = syscall.IFA_F_NODAD
	if err := netlink.AddrAdd(link, a); err != nil {
		t.Fatal(err)
	}
}

// instance is a component that runs.
type instance struct {
	*Component
	cancel context.CancelFunc
	done   chan error
}

func start(t *testing.T, cfg Config) *instance {
	t.Helper()
	c := New(cfg)
	if err := c.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	return (&instance{Component: c}).run(t)
}

// run starts the component, also anew, and returns when it is ready.
func (i *instance) run(t *testing.T) *instance {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	ready := make(chan struct{})
	i.cancel, i.done = cancel, make(chan error, 1)
	go func() { i.done <- i.Run(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-i.done:
		t.Fatalf("ended before it was ready: %v", err)
	}
	if err := i.Check(ctx); err != nil {
		t.Errorf("check: %v", err)
	}
	return i
}

func (i *instance) stop(t *testing.T) {
	t.Helper()
	start := time.Now()
	i.cancel()
	if err := <-i.done; err != nil {
		t.Errorf("stop: %v", err)
	}
	if d := time.Since(start); d > backendStop {
		t.Errorf("stopping took %s", d)
	}
}

func (i *instance) fails(t *testing.T, want string) {
	t.Helper()
	if err := <-i.done; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("ended with %v, want %q", err, want)
	}
	i.cancel()
}

func testConfig(t *testing.T, client kubernetes.Interface, backend string, cluster ...string) Config {
	dir := t.TempDir()
	return Config{
		Client:   func() (kubernetes.Interface, error) { return client, nil },
		NodeName: "a", Backend: backend, ClusterCIDRs: prefixes(cluster...),
		SubnetFile: filepath.Join(dir, "run", "subnet.env"), CNIConfDir: filepath.Join(dir, "net.d"), IPAMDir: "/run/cni",
	}
}

func bridgeAddresses(t *testing.T) (out []string) {
	t.Helper()
	link, err := netlink.LinkByName(Bridge)
	if err != nil {
		t.Fatal(err)
	}
	addrs, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if !a.IP.IsLinkLocalUnicast() {
			out = append(out, a.IPNet.String())
		}
	}
	return out
}

// TestVXLAN needs no default route, which the namespace lacks.
func TestVXLAN(t *testing.T) {
	if !ownNetwork(t) {
		return
	}
	nft := fakeNFT(t)
	eth := addLink(t, "eth7", "192.0.2.1/24")
	routes := make(chan netlink.RouteUpdate, 100)
	if err := netlink.RouteSubscribe(routes, t.Context().Done()); err != nil {
		t.Fatal(err)
	}
	client := fake.NewClientset(node("a", []string{"10.42.0.0/24"}, "192.0.2.1"))
	api := client.CoreV1().Nodes()
	cfg := testConfig(t, client, VXLAN, "10.42.0.0/16")
	c := start(t, cfg)

	gateways, changed, err := c.Gateways(t.Context())
	if err != nil || len(gateways) != 1 || gateways[0] != netip.MustParseAddr("10.42.0.1") {
		t.Fatalf("gateways %v, %v", gateways, err)
	}
	// DNS listens there before the first pod exists.
	l, err := net.Listen("tcp", "10.42.0.1:53")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	bridge, err := netlink.LinkByName(Bridge)
	if err != nil {
		t.Fatal(err)
	}
	if a := bridge.Attrs(); a.MTU != 1450 || a.HardwareAddr.String() != "0a:58:0a:2a:00:01" || a.Promisc != 0 {
		t.Errorf("bridge has MTU %d, address %s, promiscuity %d", a.MTU, a.HardwareAddr, a.Promisc)
	}
	for path, want := range map[string]string{
		cfg.SubnetFile:               "FLANNEL_NETWORK=10.42.0.0/16\nFLANNEL_SUBNET=10.42.0.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n",
		ConflistPath(cfg.CNIConfDir): `"subnet": "10.42.0.0/24"`,
		nft:                          "masquerade",
	} {
		if data, err := os.ReadFile(path); err != nil || !strings.Contains(string(data), want) {
			t.Errorf("%s holds %q, %v, want %q", path, data, err, want)
		}
	}

	awaitRoute := func(msg uint16, dst string) {
		t.Helper()
		for {
			select {
			case u := <-routes:
				if u.Type == msg && u.Dst != nil && u.Dst.String() == dst {
					return
				}
			case <-t.Context().Done():
				t.Fatalf("no change of the route to %s", dst)
			}
		}
	}
	must := func(_ *corev1.Node, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(api.Create(t.Context(), peer("b", "10.42.1.0/24", "192.0.2.2", "0a:00:00:00:00:02"), metav1.CreateOptions{}))
	awaitRoute(syscall.RTM_NEWROUTE, "10.42.1.0/24")

	// A restart keeps everything, except the route to a node that left meanwhile.
	c.stop(t)
	vtep, err := netlink.LinkByName("flannel.1")
	if err != nil {
		t.Fatal(err)
	}
	if err := api.Delete(t.Context(), "b", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.run(t)
	awaitRoute(syscall.RTM_DELROUTE, "10.42.1.0/24")
	if now, err := netlink.LinkByName("flannel.1"); err != nil || now.Attrs().Index != vtep.Attrs().Index ||
		now.Attrs().HardwareAddr.String() != vtep.Attrs().HardwareAddr.String() {
		t.Errorf("flannel.1 is not the one that was: %v", err)
	}

	// Each change from outside ends the run and is mended by the next.
	if err := netlink.LinkDel(vtep); err != nil {
		t.Fatal(err)
	}
	c.fails(t, "link flannel.1 was removed")
	c.run(t)
	if err := netlink.LinkDel(bridge); err != nil {
		t.Fatal(err)
	}
	c.fails(t, "link cni0 was removed")
	c.run(t)
	if err := netlink.LinkSetMTU(eth, 1400); err != nil {
		t.Fatal(err)
	}
	c.fails(t, "the MTU of eth7 changed from 1500 to 1400")
	c.run(t)
	if bridge, err = netlink.LinkByName(Bridge); err != nil || bridge.Attrs().MTU != 1350 {
		t.Errorf("bridge has MTU %d, %v", bridge.Attrs().MTU, err)
	}
	select {
	case <-changed:
		t.Error("the gateways are said to have changed")
	default:
	}

	// DHCP gives another address: first the interface has it, then the kubelet reports it.
	addAddress(t, eth, "192.0.2.77/24")
	must(api.Update(t.Context(), node("a", []string{"10.42.0.0/24"}, "192.0.2.77"), metav1.UpdateOptions{}))
	c.fails(t, "the addresses of this node changed")
	c.run(t)
	self, err := api.Get(t.Context(), "a", metav1.GetOptions{})
	if err != nil || self.Annotations[annotationIP] != "192.0.2.77" {
		t.Errorf("other nodes are told %q, %v", self.Annotations[annotationIP], err)
	}

	// The node was deleted and registered anew.
	moved := self.DeepCopy()
	moved.Spec.PodCIDRs = []string{"10.42.9.0/24"}
	must(api.Update(t.Context(), moved, metav1.UpdateOptions{}))
	c.fails(t, "the pod CIDRs of this node changed")
	c.run(t)
	<-changed
	if got := bridgeAddresses(t); len(got) != 1 || got[0] != "10.42.9.1/24" {
		t.Errorf("bridge holds %v", got)
	}
	c.stop(t)
}

func TestDualStack(t *testing.T) {
	if !ownNetwork(t) {
		return
	}
	for _, backend := range []string{VXLAN, HostGW} {
		t.Run(backend, func(t *testing.T) {
			fakeNFT(t)
			eth := addLink(t, "eth7", "192.0.2.1/24", "2001:db8::1/64")
			defer netlink.LinkDel(eth)
			client := fake.NewClientset(node("a", []string{"10.42.0.0/24", "fd42::/64"}, "192.0.2.1", "2001:db8::1"))
			c := start(t, testConfig(t, client, backend, "10.42.0.0/16", "fd42::/48"))
			if got := strings.Join(bridgeAddresses(t), " "); got != "10.42.0.1/24 fd42::1/64" {
				t.Errorf("bridge holds %s", got)
			}
			l, err := net.Listen("tcp", "[fd42::1]:53")
			if err != nil {
				t.Fatal(err)
			}
			l.Close()
			bridge, err := netlink.LinkByName(Bridge)
			if want := map[string]int{VXLAN: 1430, HostGW: 1500}[backend]; err != nil || bridge.Attrs().MTU != want {
				t.Errorf("MTU is %d, want %d", bridge.Attrs().MTU, want)
			}
			c.stop(t)
		})
	}
}

func TestExternalInterface(t *testing.T) {
	if !ownNetwork(t) {
		return
	}
	addLink(t, "eth7", "192.0.2.1/24", "192.0.2.2/24", "2001:db8::1/64")
	addLink(t, "eth8", "198.51.100.1/24")
	addr := netip.MustParseAddr
	for _, tt := range []struct {
		iface string
		addrs []netip.Addr
		want  string // interface and addresses, or part of the error
	}{
		{"", []netip.Addr{addr("192.0.2.2")}, "eth7 192.0.2.2 <nil>"},
		{"", []netip.Addr{addr("192.0.2.1"), addr("2001:db8::1")}, "eth7 192.0.2.1 2001:db8::1"},
		{"", []netip.Addr{addr("2001:db8::1")}, "eth7 <nil> 2001:db8::1"},
		{"eth8", []netip.Addr{addr("192.0.2.1")}, "eth8 198.51.100.1 <nil>"},
		{"eth7", []netip.Addr{addr("192.0.2.2")}, "eth7 192.0.2.2 <nil>"},
		{"", []netip.Addr{addr("203.0.113.1")}, "no interface holds the node's address 203.0.113.1"},
		{"eth9", []netip.Addr{addr("192.0.2.1")}, "there is no interface eth9"},
		{"eth8", []netip.Addr{addr("2001:db8::1")}, "has no address of the family of 2001:db8::1"},
	} {
		ext, err := externalInterface(tt.iface, tt.addrs)
		got := ""
		if err != nil {
			got = err.Error()
		} else {
			got = ext.IfaceName + " " + ext.ExtAddr.String() + " " + ext.ExtV6Addr.String()
		}
		if !strings.Contains(got, tt.want) {
			t.Errorf("%q %v: got %q, want %q", tt.iface, tt.addrs, got, tt.want)
		}
	}
}

func TestBridgeOfAnotherKindIsNotTouched(t *testing.T) {
	if !ownNetwork(t) {
		return
	}
	addLink(t, Bridge)
	_, err := ensureBridge(prefixes("10.42.0.0/24"), 1450)
	if err == nil || !strings.Contains(err.Error(), "of type veth") {
		t.Errorf("got %v", err)
	}
}

// TestPrepare: a conflist of an earlier boot goes, one of this boot stays.
func TestPrepare(t *testing.T) {
	cfg := testConfig(t, nil, VXLAN, "10.42.0.0/16")
	if err := writeConflist(cfg.CNIConfDir, prefixes("10.42.0.0/24"), 1450, cfg.IPAMDir); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(cfg.SubnetFile), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(cfg.SubnetFile, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	exists := func() bool {
		_, err := os.Stat(ConflistPath(cfg.CNIConfDir))
		return err == nil
	}
	if err := New(cfg).Prepare(t.Context()); err != nil || !exists() {
		t.Errorf("same boot: %v, exists %v", err, exists())
	}
	if err := os.Remove(cfg.SubnetFile); err != nil {
		t.Fatal(err)
	}
	if err := New(cfg).Prepare(t.Context()); err != nil || exists() {
		t.Errorf("next boot: %v, exists %v", err, exists())
	}
	cfg.ClusterCIDRs = nil
	if err := New(cfg).Prepare(t.Context()); err == nil {
		t.Error("no cluster CIDR: no error")
	}
}
