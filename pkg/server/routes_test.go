package server

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/edgebox/edgebox/pkg/tunnel"
)

func TestRoute(t *testing.T) {
	nodes := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{})
	for _, n := range []struct{ name, address, pods string }{
		{"server", "192.0.2.1", "10.42.0.0/24"},
		{"site-a", "192.168.1.10", "10.42.1.0/24"},
		{"site-b", "192.168.1.10", "10.42.2.0/24"},
		{"gone", "192.168.1.20", "10.42.3.0/24"},
		{"heir", "192.168.1.20", "10.42.4.0/24"},
		{"new", "", ""},
	} {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.name}}
		if n.address != "" {
			node.Spec.PodCIDRs = []string{n.pods}
			node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: n.name}, {Type: corev1.NodeInternalIP, Address: n.address}}
		}
		if err := nodes.Add(node); err != nil {
			t.Fatal(err)
		}
	}
	open := func() []string { return []string{"heir", "site-a", "site-b"} }
	lister := corelisters.NewNodeLister(nodes)
	for host, want := range map[string]tunnel.Route{
		"server":       {Node: "server", Address: "127.0.0.1", Direct: "192.0.2.1"},
		"site-b":       {Node: "site-b", Address: "127.0.0.1", Direct: "192.168.1.10"},
		"new":          {Node: "new", Address: "127.0.0.1"}, // a name that no DNS server should be asked for
		"192.0.2.1":    {Node: "server", Address: "192.0.2.1", Direct: "192.0.2.1"},
		"192.168.1.10": {}, // of two
		"192.168.1.20": {Node: "heir", Address: "192.168.1.20", Direct: "192.168.1.20"},
		"10.42.2.7":    {Node: "site-b", Address: "10.42.2.7", Direct: "10.42.2.7"},
		"10.42.9.7":    {Direct: "10.42.9.7"},
		"hook.example": {Direct: "hook.example"},
	} {
		if got := route(lister, open, host); got != want {
			t.Errorf("%s: %+v, want %+v", host, got, want)
		}
	}
	if got := route(nil, open, "site-a"); got != (tunnel.Route{Direct: "site-a"}) {
		t.Errorf("before nodes are known: %+v", got)
	}
}
