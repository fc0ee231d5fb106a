package server

import (
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
	corelisters "k8s.io/client-go/listers/core/v1"

	"github.com/edgebox/edgebox/pkg/tunnel"
)

// route finds the way to a host: the name or an address of a node, or the address of a pod. Others are dialled from here.
// Open are the nodes with a tunnel.
func route(nodes corelisters.NodeLister, open func() []string, host string) tunnel.Route {
	direct := tunnel.Route{Direct: host}
	if nodes == nil {
		return direct
	}
	if node, err := nodes.Get(host); err == nil {
		// At the node's own end its kubelet is on the loopback address, whatever addresses the node has.
		return tunnel.Route{Node: host, Address: "127.0.0.1", Direct: internalIP(node)}
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return direct
	}
	all, err := nodes.List(labels.Everything())
	if err != nil {
		return direct
	}
	var at []string
	for _, n := range all {
		if hasPods(n, addr) || hasAddress(n, addr) {
			at = append(at, n.Name)
		}
	}
	if len(at) > 1 { // behind different networks, or some have gone
		connected := open()
		at = slices.DeleteFunc(at, func(name string) bool { return !slices.Contains(connected, name) })
	}
	switch len(at) {
	case 0:
		return direct
	case 1:
		return tunnel.Route{Node: at[0], Address: host, Direct: host}
	}
	return tunnel.Route{} // which one is meant, nobody can tell
}

// callingNode is the node that a request comes from, which the API server has authenticated.
func callingNode(r *http.Request) (string, error) {
	caller, ok := request.UserFrom(r.Context())
	if ok && slices.Contains(caller.GetGroups(), user.NodesGroup) {
		if name, ok := strings.CutPrefix(caller.GetName(), "system:node:"); ok {
			return name, nil
		}
	}
	return "", errors.New("tunnels are for nodes")
}

func internalIP(n *corev1.Node) string {
	for _, a := range n.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			return a.Address
		}
	}
	return ""
}

func hasAddress(n *corev1.Node, addr netip.Addr) bool {
	return slices.ContainsFunc(n.Status.Addresses, func(a corev1.NodeAddress) bool { return a.Address == addr.String() })
}

func hasPods(n *corev1.Node, addr netip.Addr) bool {
	return slices.ContainsFunc(n.Spec.PodCIDRs, func(cidr string) bool {
		p, err := netip.ParsePrefix(cidr)
		return err == nil && p.Contains(addr)
	})
}
