package flannel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/flannel-io/flannel/pkg/ip"
	"github.com/flannel-io/flannel/pkg/lease"
	"github.com/flannel-io/flannel/pkg/subnet"
	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/edgebox/edgebox/pkg/component"
)

// The annotations in which nodes tell each other their leases, as flannel's kube subnet manager names them.
const (
	annotationPrefix  = "flannel.alpha.coreos.com/"
	annotationManaged = annotationPrefix + "kube-subnet-manager"
	annotationType    = annotationPrefix + "backend-type"
	annotationData    = annotationPrefix + "backend-data"
	annotationV6Data  = annotationPrefix + "backend-v6-data"
	annotationIP      = annotationPrefix + "public-ip"
	annotationIPv6    = annotationPrefix + "public-ipv6"
)

var annotations = []string{
	annotationManaged, annotationType, annotationData, annotationV6Data, annotationIP, annotationIPv6,
}

// self is what this node's Node object says of it.
type self struct {
	podCIDRs  []netip.Prefix // one per family of the cluster, IPv4 first
	addresses []netip.Addr   // InternalIPs, one per family of the cluster, IPv4 first
}

// nodes follows the cluster's Node objects and is flannel's subnet manager over them: a lease is a Node with flannel's
// annotations and a pod CIDR. It keeps the state that is wanted, not a queue of events, so that nothing overflows.
type nodes struct {
	client   kubernetes.Interface
	nodeName string
	network  *subnet.Config
	informer cache.SharedIndexInformer

	selfChanged  chan struct{} // holds one element when self may have changed
	peersChanged chan struct{} // holds one element when peers may have changed

	mu    sync.Mutex
	self  *corev1.Node // nil when there is none
	peers map[string]lease.Lease
}

var _ subnet.Manager = (*nodes)(nil)

func newNodes(client kubernetes.Interface, nodeName string, network *subnet.Config) *nodes {
	return &nodes{
		client: client, nodeName: nodeName, network: network,
		selfChanged: make(chan struct{}, 1), peersChanged: make(chan struct{}, 1),
		peers: make(map[string]lease.Lease),
	}
}

// start returns when all Node objects are known.
func (n *nodes) start(ctx context.Context, wg *sync.WaitGroup) error {
	// An informer backs off for up to half a minute while it may not list; at boot the permission can be new.
	err := component.Poll(ctx, "permission to list nodes", 200*time.Millisecond, func(ctx context.Context) error {
		_, err := n.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{Limit: 1, ResourceVersion: "0"})
		return err
	})
	if err != nil {
		return err
	}
	n.informer = coreinformers.NewNodeInformer(n.client, 0, cache.Indexers{})
	if err := n.informer.SetTransform(trimNode); err != nil {
		return err
	}
	reg, err := n.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { n.update(o.(*corev1.Node)) },
		UpdateFunc: func(_, o any) { n.update(o.(*corev1.Node)) },
		DeleteFunc: func(o any) {
			if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = gone.Obj
			}
			if node, ok := o.(*corev1.Node); ok {
				n.remove(node.Name)
			}
		},
	})
	if err != nil {
		return err
	}
	wg.Go(func() { n.informer.RunWithContext(ctx) })
	if !cache.WaitFor(ctx, "", reg.HasSyncedChecker()) {
		return ctx.Err()
	}
	return nil
}

// trimNode drops what is of no use here; the lists of images and conditions are most of a Node object.
func trimNode(o any) (any, error) {
	node, ok := o.(*corev1.Node)
	if !ok {
		return o, nil
	}
	kept := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: node.Name, UID: node.UID, ResourceVersion: node.ResourceVersion},
		Spec:       corev1.NodeSpec{PodCIDR: node.Spec.PodCIDR, PodCIDRs: node.Spec.PodCIDRs},
	}
	for _, name := range annotations {
		if v, ok := node.Annotations[name]; ok {
			metav1.SetMetaDataAnnotation(&kept.ObjectMeta, name, v)
		}
	}
	for _, a := range node.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			kept.Status.Addresses = append(kept.Status.Addresses, a)
		}
	}
	return kept, nil
}

func (n *nodes) update(node *corev1.Node) {
	if node.Name == n.nodeName {
		n.mu.Lock()
		n.self = node
		n.mu.Unlock()
		signal(n.selfChanged)
		return
	}
	l, ok := n.leaseOf(node)
	if !ok {
		n.remove(node.Name)
		return
	}
	n.mu.Lock()
	old, known := n.peers[node.Name]
	same := known && reflect.DeepEqual(old, l)
	n.peers[node.Name] = l
	n.mu.Unlock()
	if !same {
		signal(n.peersChanged)
	}
}

func (n *nodes) remove(name string) {
	n.mu.Lock()
	if name == n.nodeName {
		n.self = nil
	}
	delete(n.peers, name)
	n.mu.Unlock()
	if name == n.nodeName {
		signal(n.selfChanged)
	} else {
		signal(n.peersChanged)
	}
}

// signal leaves one element in ch, which has room for one.
func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// waitSelf returns when this node has a pod CIDR and an address of each of the cluster's families.
func (n *nodes) waitSelf(ctx context.Context) (self, error) {
	start := time.Now()
	for {
		s, err := n.currentSelf()
		if err == nil {
			return s, nil
		}
		component.Note(ctx, err.Error())
		select {
		case <-n.selfChanged:
		case <-ctx.Done():
			return self{}, fmt.Errorf("waited %s: %w", time.Since(start).Round(time.Second), err)
		}
	}
}

// stillSelf compares this node with what it was.
func (n *nodes) stillSelf(was self) error {
	now, err := n.currentSelf()
	switch {
	case err != nil:
		return err
	case !slices.Equal(now.podCIDRs, was.podCIDRs):
		return fmt.Errorf("the pod CIDRs of this node changed from %v to %v", was.podCIDRs, now.podCIDRs)
	case !slices.Equal(now.addresses, was.addresses):
		return fmt.Errorf("the addresses of this node changed from %v to %v", was.addresses, now.addresses)
	}
	return nil
}

func (n *nodes) currentSelf() (self, error) {
	n.mu.Lock()
	node := n.self
	n.mu.Unlock()
	if node == nil {
		return self{}, fmt.Errorf("there is no Node object %q: its kubelet has not registered it", n.nodeName)
	}
	var s self
	cidrs := podCIDRs(node)
	for _, family := range []struct {
		name    string
		enabled bool
		cluster *net.IPNet
		is      func(netip.Addr) bool
	}{
		{"IPv4", n.network.EnableIPv4, n.network.Network.ToIPNet(), netip.Addr.Is4},
		{"IPv6", n.network.EnableIPv6, ip6Net(n.network), netip.Addr.Is6},
	} {
		if !family.enabled {
			continue
		}
		i := slices.IndexFunc(cidrs, func(p netip.Prefix) bool { return family.is(p.Addr()) })
		if i < 0 {
			return self{}, fmt.Errorf("the Node %s has no %s pod CIDR yet: kube-controller-manager assigns it", n.nodeName, family.name)
		}
		if ones, _ := family.cluster.Mask.Size(); cidrs[i].Bits() < ones || !family.cluster.Contains(cidrs[i].Addr().AsSlice()) {
			return self{}, fmt.Errorf("the pod CIDR %s of Node %s is not part of cluster-cidr %s", cidrs[i], n.nodeName, family.cluster)
		}
		s.podCIDRs = append(s.podCIDRs, cidrs[i])

		addr, ok := internalIP(node, family.is)
		if !ok {
			return self{}, fmt.Errorf("the Node %s has no %s address yet: its kubelet reports it", n.nodeName, family.name)
		}
		s.addresses = append(s.addresses, addr)
	}
	return s, nil
}

func ip6Net(c *subnet.Config) *net.IPNet {
	if !c.EnableIPv6 {
		return nil
	}
	return c.IPv6Network.ToIPNet()
}

func internalIP(node *corev1.Node, is func(netip.Addr) bool) (netip.Addr, bool) {
	for _, a := range node.Status.Addresses {
		addr, err := netip.ParseAddr(a.Address)
		if err == nil && a.Type == corev1.NodeInternalIP && is(addr.Unmap()) {
			return addr.Unmap(), true
		}
	}
	return netip.Addr{}, false
}

func podCIDRs(node *corev1.Node) []netip.Prefix {
	all := node.Spec.PodCIDRs
	if len(all) == 0 && node.Spec.PodCIDR != "" {
		all = []string{node.Spec.PodCIDR}
	}
	var out []netip.Prefix
	for _, s := range all {
		if p, err := netip.ParsePrefix(s); err == nil {
			out = append(out, p.Masked())
		}
	}
	return out
}

// leaseOf reads the lease of another node. There is none as long as that node has not published it, or when it lacks
// one of this cluster's families.
func (n *nodes) leaseOf(node *corev1.Node) (lease.Lease, bool) {
	if node.Annotations[annotationManaged] != "true" {
		return lease.Lease{}, false
	}
	l := lease.Lease{EnableIPv4: n.network.EnableIPv4, EnableIPv6: n.network.EnableIPv6}
	l.Attrs.BackendType = node.Annotations[annotationType]
	cidrs := podCIDRs(node)
	if n.network.EnableIPv4 {
		i := slices.IndexFunc(cidrs, func(p netip.Prefix) bool { return p.Addr().Is4() })
		addr, err := ip.ParseIP4(node.Annotations[annotationIP])
		if i < 0 || err != nil {
			return lease.Lease{}, false
		}
		l.Subnet, l.Attrs.PublicIP = ip.FromIPNet(ipNet(cidrs[i])), addr
		l.Attrs.BackendData = json.RawMessage(node.Annotations[annotationData])
	}
	if n.network.EnableIPv6 {
		i := slices.IndexFunc(cidrs, func(p netip.Prefix) bool { return p.Addr().Is6() })
		addr, err := ip.ParseIP6(node.Annotations[annotationIPv6])
		if i < 0 || err != nil {
			return lease.Lease{}, false
		}
		l.IPv6Subnet, l.Attrs.PublicIPv6 = ip.FromIP6Net(ipNet(cidrs[i])), addr
		l.Attrs.BackendV6Data = json.RawMessage(node.Annotations[annotationV6Data])
	}
	return l, true
}

// AcquireLease implements subnet.Manager: it publishes what other nodes need in order to reach the pods of this one.
func (n *nodes) AcquireLease(ctx context.Context, attrs *lease.LeaseAttrs) (*lease.Lease, error) {
	s, err := n.currentSelf()
	if err != nil {
		return nil, err
	}
	l := &lease.Lease{EnableIPv4: n.network.EnableIPv4, EnableIPv6: n.network.EnableIPv6, Attrs: *attrs}
	want := map[string]string{annotationManaged: "true", annotationType: attrs.BackendType}
	for _, p := range s.podCIDRs {
		if p.Addr().Is4() {
			l.Subnet = ip.FromIPNet(ipNet(p))
			want[annotationIP], want[annotationData] = attrs.PublicIP.String(), rawString(attrs.BackendData)
		} else {
			l.IPv6Subnet = ip.FromIP6Net(ipNet(p))
			want[annotationIPv6], want[annotationV6Data] = attrs.PublicIPv6.String(), rawString(attrs.BackendV6Data)
		}
	}
	if err := n.annotate(ctx, want); err != nil {
		return nil, err
	}
	return l, nil
}

// rawString writes absent data as flannel does.
func rawString(m json.RawMessage) string {
	if m == nil {
		return "null"
	}
	return string(m)
}

// annotate gives this node exactly those of flannel's annotations that want holds. Like flannel it patches the status
// subresource, which a node may do to itself.
func (n *nodes) annotate(ctx context.Context, want map[string]string) error {
	n.mu.Lock()
	node := n.self
	n.mu.Unlock()
	patch := make(map[string]*string)
	for _, name := range annotations {
		v, wanted := want[name]
		old, present := "", false
		if node != nil {
			old, present = node.Annotations[name]
		}
		switch {
		case wanted && (!present || old != v):
			patch[name] = &v
		case !wanted && present:
			patch[name] = nil
		}
	}
	if len(patch) == 0 {
		return nil
	}
	data, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": patch}})
	if err != nil {
		return err
	}
	return component.Poll(ctx, "the lease in the Node object", 500*time.Millisecond, func(ctx context.Context) error {
		_, err := n.client.CoreV1().Nodes().Patch(ctx, n.nodeName, types.MergePatchType, data, metav1.PatchOptions{}, "status")
		return err
	})
}

// WatchLeases implements subnet.Manager: it sends the peers, and then what changes, until ctx ends.
func (n *nodes) WatchLeases(ctx context.Context, receiver chan []lease.LeaseWatchResult) error {
	defer close(receiver)
	sent := make(map[string]lease.Lease)
	for {
		if events := n.diff(sent); len(events) > 0 {
			select {
			case receiver <- []lease.LeaseWatchResult{{Events: events}}:
			case <-ctx.Done():
				return nil
			}
		}
		select {
		case <-n.peersChanged:
		case <-ctx.Done():
			return nil
		}
	}
}

// diff brings sent up to date and returns the steps: removals first, because a subnet may have passed from one node to
// another, and a changed lease as removal and addition, so that the entries for its old address go.
func (n *nodes) diff(sent map[string]lease.Lease) []lease.Event {
	n.mu.Lock()
	defer n.mu.Unlock()
	var events []lease.Event
	for name, l := range sent {
		if now, ok := n.peers[name]; !ok || !reflect.DeepEqual(now, l) {
			events = append(events, lease.Event{Type: lease.EventRemoved, Lease: l})
			delete(sent, name)
		}
	}
	for name, l := range n.peers {
		if _, ok := sent[name]; !ok {
			events = append(events, lease.Event{Type: lease.EventAdded, Lease: l})
			sent[name] = l
		}
	}
	return events
}

// pruneRoutes removes routes through the backend's links to networks that no node has any more: those of nodes that
// left while edgebox was down. Such a network may be this node's own by now.
func (n *nodes) pruneRoutes(links []string) error {
	keep := make(map[string]bool)
	n.mu.Lock()
	for _, l := range n.peers {
		if l.EnableIPv4 {
			keep[l.Subnet.String()] = true
		}
		if l.EnableIPv6 {
			keep[l.IPv6Subnet.String()] = true
		}
	}
	n.mu.Unlock()
	for _, name := range links {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("find link %s: %w", name, err)
		}
		routes, err := netlink.RouteList(link, netlink.FAMILY_ALL)
		if err != nil {
			return fmt.Errorf("list routes of %s: %w", name, err)
		}
		for _, r := range routes {
			if r.Gw == nil || r.Dst == nil || keep[r.Dst.String()] {
				continue
			}
			if err := netlink.RouteDel(&r); err != nil {
				return fmt.Errorf("remove route to %s, which no node has: %w", r.Dst, err)
			}
		}
	}
	return nil
}

// GetStoredMacAddresses implements subnet.Manager: flannel keeps the address of its link over restarts, so that the
// entries of the other nodes stay right.
func (n *nodes) GetStoredMacAddresses(context.Context) (v4, v6 string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.self == nil {
		return "", ""
	}
	return vtepMAC(n.self.Annotations[annotationData]), vtepMAC(n.self.Annotations[annotationV6Data])
}

func vtepMAC(backendData string) string {
	var data struct{ VtepMAC string }
	if json.Unmarshal([]byte(backendData), &data) != nil {
		return ""
	}
	if _, err := net.ParseMAC(data.VtepMAC); err != nil {
		return ""
	}
	return data.VtepMAC
}

// GetNetworkConfig implements subnet.Manager.
func (n *nodes) GetNetworkConfig(context.Context) (*subnet.Config, error) { return n.network, nil }

// HandleSubnetFile implements subnet.Manager.
func (n *nodes) HandleSubnetFile(path string, config *subnet.Config, ipMasq bool, sn ip.IP4Net, sn6 ip.IP6Net, mtu int) error {
	return subnet.WriteSubnetFile(path, config, ipMasq, sn, sn6, mtu)
}

// Name implements subnet.Manager.
func (n *nodes) Name() string { return "edgebox" }

// The rest of subnet.Manager is for leases that expire and for addresses that are set by hand; flannel's vxlan and
// host-gw backends do not call it.

// RenewLease implements subnet.Manager.
func (n *nodes) RenewLease(context.Context, *lease.Lease) error { return errors.ErrUnsupported }

// WatchLease implements subnet.Manager.
func (n *nodes) WatchLease(context.Context, ip.IP4Net, ip.IP6Net, chan []lease.LeaseWatchResult) error {
	return errors.ErrUnsupported
}

// CompleteLease implements subnet.Manager.
func (n *nodes) CompleteLease(context.Context, *lease.Lease, *sync.WaitGroup) error {
	return errors.ErrUnsupported
}

// GetStoredPublicIP implements subnet.Manager.
func (n *nodes) GetStoredPublicIP(context.Context) (v4, v6 string) { return "", "" }
