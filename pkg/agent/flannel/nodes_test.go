package flannel

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/flannel-io/flannel/pkg/ip"
	"github.com/flannel-io/flannel/pkg/lease"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func node(name string, cidrs []string, addrs ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDRs: cidrs}}
	for _, a := range addrs {
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a})
	}
	return n
}

func peer(name, cidr, addr, mac string) *corev1.Node {
	n := node(name, []string{cidr}, addr)
	n.Annotations = map[string]string{
		annotationManaged: "true",
		annotationType:    "vxlan",
		annotationIP:      addr,
		annotationData:    `{"VNI":1,"VtepMAC":"` + mac + `"}`,
	}
	return n
}

func prefixes(s ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func TestNetworkConfig(t *testing.T) {
	for _, tt := range []struct {
		backend string
		cidrs   []netip.Prefix
		want    string // part of the error
	}{
		{VXLAN, prefixes("10.42.0.0/16"), ""},
		{HostGW, prefixes("10.42.0.0/16", "fd42::/48"), ""},
		{VXLAN, prefixes("fd42::/48"), ""},
		{WireGuard, prefixes("10.42.0.0/16"), ""},
		{"none", prefixes("10.42.0.0/16"), `flannel-backend: "none"`},
		{VXLAN, nil, "cluster-cidr: no network"},
		{VXLAN, prefixes("10.42.0.0/16", "10.44.0.0/16"), "more than one IPv4"},
		{VXLAN, prefixes("fd42::/48", "fd43::/48"), "more than one IPv6"},
	} {
		_, err := networkConfig(tt.backend, tt.cidrs)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s %v: got %v, want %q", tt.backend, tt.cidrs, err, tt.want)
		}
	}
}

func TestCurrentSelf(t *testing.T) {
	for _, tt := range []struct {
		name    string
		cluster []netip.Prefix
		node    *corev1.Node
		want    self
		err     string
	}{
		{"no node", prefixes("10.42.0.0/16"), nil, self{}, "has not registered it"},
		{"no CIDR", prefixes("10.42.0.0/16"), node("a", nil, "192.0.2.1"), self{}, "no IPv4 pod CIDR yet"},
		{"no address", prefixes("10.42.0.0/16"), node("a", []string{"10.42.0.0/24"}), self{}, "no IPv4 address yet"},
		{"foreign CIDR", prefixes("10.42.0.0/16"), node("a", []string{"10.99.0.0/24"}, "192.0.2.1"), self{}, "not part of cluster-cidr 10.42.0.0/16"},
		{"wider CIDR", prefixes("10.42.0.0/24"), node("a", []string{"10.42.0.0/16"}, "192.0.2.1"), self{}, "not part of cluster-cidr"},
		{"half of dual stack", prefixes("10.42.0.0/16", "fd42::/48"), node("a", []string{"10.42.0.0/24"}, "192.0.2.1"), self{}, "no IPv6 pod CIDR yet"},
		{
			"single", prefixes("10.42.0.0/16"), node("a", []string{"10.42.7.0/24"}, "192.0.2.1"),
			self{prefixes("10.42.7.0/24"), []netip.Addr{netip.MustParseAddr("192.0.2.1")}}, "",
		},
		{
			"dual, the other way round", prefixes("fd42::/48", "10.42.0.0/16"),
			node("a", []string{"fd42:0:0:7::/64", "10.42.7.0/24"}, "2001:db8::1", "192.0.2.1"),
			self{prefixes("10.42.7.0/24", "fd42:0:0:7::/64"), []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}}, "",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg, err := networkConfig(VXLAN, tt.cluster)
			if err != nil {
				t.Fatal(err)
			}
			n := newNodes(nil, "a", cfg)
			n.self = tt.node
			got, err := n.currentSelf()
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("got error %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil || !slices.Equal(got.podCIDRs, tt.want.podCIDRs) || !slices.Equal(got.addresses, tt.want.addresses) {
				t.Errorf("got %v, %v, want %v", got, err, tt.want)
			}
		})
	}
}

func TestLeaseIsPublishedOnceAndReadBack(t *testing.T) {
	cfg, err := networkConfig(VXLAN, prefixes("10.42.0.0/16", "fd42::/48"))
	if err != nil {
		t.Fatal(err)
	}
	self := node("a", []string{"10.42.0.0/24", "fd42::/64"}, "192.0.2.1", "2001:db8::1")
	client := fake.NewClientset(self)
	n := newNodes(client, "a", cfg)
	n.self = self
	attrs := &lease.LeaseAttrs{
		BackendType: VXLAN,
		PublicIP:    ip.MustParseIP4("192.0.2.1"), BackendData: json.RawMessage(`{"VNI":1,"VtepMAC":"0a:00:00:00:00:01"}`),
		PublicIPv6: ip.MustParseIP6("2001:db8::1"), BackendV6Data: json.RawMessage(`{"VNI":1,"VtepMAC":"0a:00:00:00:00:02"}`),
	}
	got, err := n.AcquireLease(t.Context(), attrs)
	if err != nil {
		t.Fatal(err)
	}
	if got.Subnet.String() != "10.42.0.0/24" || got.IPv6Subnet.String() != "fd42::/64" {
		t.Errorf("lease of %s and %s", got.Subnet, got.IPv6Subnet)
	}

	published, err := client.CoreV1().Nodes().Get(t.Context(), "a", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	other := newNodes(nil, "b", cfg) // as another node reads it
	read, ok := other.leaseOf(published)
	if !ok || read.Attrs.String() != attrs.String() {
		t.Errorf("another node reads %s, want %s", &read.Attrs, attrs)
	}

	n.self = published
	if v4, v6 := n.GetStoredMacAddresses(t.Context()); v4 != "0a:00:00:00:00:01" || v6 != "0a:00:00:00:00:02" {
		t.Errorf("stored MAC addresses are %q and %q", v4, v6)
	}
	writes := len(client.Actions())
	if _, err := n.AcquireLease(t.Context(), attrs); err != nil {
		t.Fatal(err)
	}
	if len(client.Actions()) != writes {
		t.Error("an equal lease was written again")
	}
}

func TestLeaseDropsTheFamilyThatTheClusterLost(t *testing.T) {
	cfg, err := networkConfig(VXLAN, prefixes("10.42.0.0/16"))
	if err != nil {
		t.Fatal(err)
	}
	self := node("a", []string{"10.42.0.0/24"}, "192.0.2.1")
	self.Annotations = map[string]string{annotationIPv6: "2001:db8::1", annotationV6Data: "{}", "mine": "kept"}
	client := fake.NewClientset(self)
	n := newNodes(client, "a", cfg)
	n.self = self
	if _, err := n.AcquireLease(t.Context(), &lease.LeaseAttrs{BackendType: HostGW, PublicIP: ip.MustParseIP4("192.0.2.1")}); err != nil {
		t.Fatal(err)
	}
	got, err := client.CoreV1().Nodes().Get(t.Context(), "a", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		annotationManaged: "true", annotationType: HostGW, annotationIP: "192.0.2.1", annotationData: "null", "mine": "kept",
	}
	if len(got.Annotations) != len(want) {
		t.Errorf("annotations are %v, want %v", got.Annotations, want)
	}
	for k, v := range want {
		if got.Annotations[k] != v {
			t.Errorf("%s is %q, want %q", k, got.Annotations[k], v)
		}
	}
}

func TestUnfinishedPeersHaveNoLease(t *testing.T) {
	cfg, err := networkConfig(VXLAN, prefixes("10.42.0.0/16"))
	if err != nil {
		t.Fatal(err)
	}
	n := newNodes(nil, "a", cfg)
	whole := peer("b", "10.42.1.0/24", "192.0.2.2", "0a:00:00:00:00:02")
	if _, ok := n.leaseOf(whole); !ok {
		t.Fatal("a whole peer has no lease")
	}
	for name, spoil := range map[string]func(*corev1.Node){
		"not flannel's": func(n *corev1.Node) { delete(n.Annotations, annotationManaged) },
		"no address":    func(n *corev1.Node) { delete(n.Annotations, annotationIP) },
		"bad address":   func(n *corev1.Node) { n.Annotations[annotationIP] = "::1::" },
		"no CIDR":       func(n *corev1.Node) { n.Spec.PodCIDRs = nil },
		"bad CIDR":      func(n *corev1.Node) { n.Spec.PodCIDRs = []string{"10.42.0.0/99"} },
		"other family":  func(n *corev1.Node) { n.Spec.PodCIDRs = []string{"fd42::/64"} },
	} {
		p := whole.DeepCopy()
		spoil(p)
		if _, ok := n.leaseOf(p); ok {
			t.Errorf("%s: has a lease", name)
		}
	}
}

// TestWatchLeases goes through the life of a cluster and checks what flannel is told.
func TestWatchLeases(t *testing.T) {
	defer goleak.VerifyNone(t)
	cfg, err := networkConfig(VXLAN, prefixes("10.42.0.0/16"))
	if err != nil {
		t.Fatal(err)
	}
	client := fake.NewClientset(
		node("a", []string{"10.42.0.0/24"}, "192.0.2.1"),
		peer("b", "10.42.1.0/24", "192.0.2.2", "0a:00:00:00:00:02"),
	)
	api := client.CoreV1().Nodes()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	n := newNodes(client, "a", cfg)
	if err := n.start(ctx, &wg); err != nil {
		t.Fatal(err)
	}
	events := make(chan []lease.LeaseWatchResult)
	wg.Go(func() {
		if err := n.WatchLeases(ctx, events); err != nil {
			t.Error(err)
		}
	})
	expect := func(what string, want ...string) {
		t.Helper()
		select {
		case got := <-events:
			var s []string
			for _, e := range got[0].Events {
				verb := map[lease.EventType]string{lease.EventAdded: "add ", lease.EventRemoved: "remove "}[e.Type]
				s = append(s, verb+e.Lease.Subnet.String()+" "+e.Lease.Attrs.PublicIP.String())
			}
			if !slices.Equal(s, want) {
				t.Errorf("%s: got %v, want %v", what, s, want)
			}
		case <-ctx.Done():
			t.Fatalf("%s: no event", what)
		}
	}
	must := func(_ *corev1.Node, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	expect("at the start", "add 10.42.1.0/24 192.0.2.2")

	must(api.Create(ctx, node("c", []string{"10.42.2.0/24"}, "192.0.2.3"), metav1.CreateOptions{})) // no lease yet
	must(api.Update(ctx, peer("c", "10.42.2.0/24", "192.0.2.3", "0a:00:00:00:00:03"), metav1.UpdateOptions{}))
	expect("a node joins", "add 10.42.2.0/24 192.0.2.3")

	same := peer("c", "10.42.2.0/24", "192.0.2.3", "0a:00:00:00:00:03")
	same.Labels = map[string]string{"of": "no interest"}
	must(api.Update(ctx, same, metav1.UpdateOptions{}))
	must(api.Update(ctx, peer("c", "10.42.2.0/24", "192.0.2.33", "0a:00:00:00:00:03"), metav1.UpdateOptions{}))
	expect("its address changes", "remove 10.42.2.0/24 192.0.2.3", "add 10.42.2.0/24 192.0.2.33")

	if err := api.Delete(ctx, "b", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	expect("a node leaves", "remove 10.42.1.0/24 192.0.2.2")

	cancel()
	if _, open := <-events; open {
		t.Error("an event after the end")
	}
}

func TestSelfIsWaitedForAndWatched(t *testing.T) {
	defer goleak.VerifyNone(t)
	cfg, err := networkConfig(VXLAN, prefixes("10.42.0.0/16"))
	if err != nil {
		t.Fatal(err)
	}
	client := fake.NewClientset()
	api := client.CoreV1().Nodes()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	n := newNodes(client, "a", cfg)
	if err := n.start(ctx, &wg); err != nil {
		t.Fatal(err)
	}

	ended, end := context.WithCancel(ctx)
	end()
	if _, err := n.waitSelf(ended); err == nil || !strings.Contains(err.Error(), "has not registered") {
		t.Errorf("wait without a node: %v", err)
	}
	got := make(chan self)
	wg.Go(func() {
		s, err := n.waitSelf(ctx)
		if err != nil {
			t.Error(err)
		}
		got <- s
	})
	for _, step := range []*corev1.Node{node("a", nil), node("a", nil, "192.0.2.1"), node("a", []string{"10.42.0.0/24"}, "192.0.2.1")} {
		_, err := api.Update(ctx, step, metav1.UpdateOptions{})
		if err != nil {
			_, err = api.Create(ctx, step, metav1.CreateOptions{})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	was := <-got
	if err := n.stillSelf(was); err != nil {
		t.Errorf("nothing changed: %v", err)
	}
	for _, tt := range []struct {
		node *corev1.Node
		want string
	}{
		{node("a", []string{"10.42.0.0/24"}, "192.0.2.9"), "addresses of this node changed from [192.0.2.1] to [192.0.2.9]"},
		{node("a", []string{"10.42.5.0/24"}, "192.0.2.1"), "pod CIDRs of this node changed from [10.42.0.0/24] to [10.42.5.0/24]"},
	} {
		n.update(tt.node)
		if err := n.stillSelf(was); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("got %v, want %q", err, tt.want)
		}
	}
	n.remove("a")
	if err := n.stillSelf(was); err == nil || errors.Is(err, context.Canceled) {
		t.Errorf("after the node was deleted: %v", err)
	}
}
