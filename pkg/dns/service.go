package dns

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/intstr"
	coreinformers "k8s.io/client-go/informers/core/v1"
	discoveryinformers "k8s.io/client-go/informers/discovery/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/edgebox/edgebox/pkg/component"
)

const (
	namespace   = metav1.NamespaceSystem
	serviceName = "kube-dns" // the name that everyone expects, CoreDNS' own deployment included
	manager     = "edgebox"

	labelManagedBy = "app.kubernetes.io/managed-by"

	retryMin = 200 * time.Millisecond
	retryMax = 10 * time.Second
)

// ServiceConfig is what the cluster's DNS Service is made from.
type ServiceConfig struct {
	Client    func() (kubernetes.Interface, error) // as administrator; asked at each start
	ClusterIP []netip.Addr                         // one per IP family of the cluster
}

// Service keeps kube-system/kube-dns and its endpoints, one EndpointSlice per node and family, as a component of the
// servers. Several servers may run it at a time: they all want the same.
type Service struct {
	cfg ServiceConfig

	mu  sync.Mutex
	err error // of the last reconciliation
}

// NewService returns the component.
func NewService(cfg ServiceConfig) *Service { return &Service{cfg: cfg} }

// Name implements component.Component.
func (s *Service) Name() string { return "dns-service" }

// Check implements component.Checker.
func (s *Service) Check(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Run brings Service and EndpointSlices to what they should be, whenever a node, or one of them, changes. It is ready
// when that was so for the first time.
func (s *Service) Run(ctx context.Context, ready func()) error {
	client, err := s.cfg.Client()
	if err != nil {
		return fmt.Errorf("kubernetes client: %w", err)
	}
	runCtx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	r, err := newReconciler(runCtx, &wg, client, s.cfg.ClusterIP)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}

	wait := retryMin
	for {
		err := r.reconcile(ctx)
		if ctx.Err() != nil {
			return nil
		}
		s.mu.Lock()
		s.err = err
		s.mu.Unlock()
		var retry <-chan time.Time
		if err == nil {
			ready()
			wait = retryMin
		} else {
			component.Note(ctx, err.Error())
			retry = time.After(wait)
			wait = min(2*wait, retryMax)
		}
		select {
		case <-r.changed:
		case <-retry:
		case <-ctx.Done():
			return nil
		}
	}
}

// Remove deletes what a Service made earlier, for a cluster that gets its DNS otherwise: a Service of another owner
// would inherit the EndpointSlices.
func Remove(ctx context.Context, client kubernetes.Interface) error {
	api := client.DiscoveryV1().EndpointSlices(namespace)
	list, err := api.List(ctx, metav1.ListOptions{LabelSelector: sliceSelector})
	if err != nil {
		return fmt.Errorf("list EndpointSlices of %s: %w", serviceName, err)
	}
	for _, s := range list.Items {
		if err := api.Delete(ctx, s.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete EndpointSlice %s: %w", s.Name, err)
		}
	}
	svc, err := client.CoreV1().Services(namespace).Get(ctx, serviceName, metav1.GetOptions{})
	if err == nil && svc.Labels[labelManagedBy] == manager {
		err = client.CoreV1().Services(namespace).Delete(ctx, serviceName,
			metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(svc.UID))})
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete Service %s: %w", serviceName, err)
	}
	return nil
}

var sliceSelector = metav1.FormatLabelSelector(&metav1.LabelSelector{MatchLabels: sliceLabels()})

// reconciler compares what is wanted with caches of what is there.
type reconciler struct {
	client     kubernetes.Interface
	clusterIPs []netip.Addr
	nodes      cache.Store
	services   cache.Store
	slices     cache.Store
	changed    chan struct{} // holds one element when a cache changed
}

func newReconciler(ctx context.Context, wg *sync.WaitGroup, client kubernetes.Interface, clusterIPs []netip.Addr) (*reconciler, error) {
	r := &reconciler{client: client, clusterIPs: clusterIPs, changed: make(chan struct{}, 1)}
	nodes := coreinformers.NewNodeInformer(client, 0, cache.Indexers{})
	if err := nodes.SetTransform(trimNode); err != nil {
		return nil, err
	}
	services := coreinformers.NewFilteredServiceInformer(client, namespace, 0, cache.Indexers{}, func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, serviceName).String()
	})
	endpoints := discoveryinformers.NewFilteredEndpointSliceInformer(client, namespace, 0, cache.Indexers{}, func(o *metav1.ListOptions) {
		o.LabelSelector = sliceSelector
	})
	var synced []cache.DoneChecker
	for _, i := range []cache.SharedIndexInformer{nodes, services, endpoints} {
		reg, err := i.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: func(any) { signal(r.changed) },
			UpdateFunc: func(old, now any) {
				if !equality.Semantic.DeepEqual(old, now) { // nodes report themselves often, and have little of interest
					signal(r.changed)
				}
			},
			DeleteFunc: func(any) { signal(r.changed) },
		})
		if err != nil {
			return nil, err
		}
		synced = append(synced, reg.HasSyncedChecker())
		wg.Go(func() { i.RunWithContext(ctx) })
	}
	r.nodes, r.services, r.slices = nodes.GetStore(), services.GetStore(), endpoints.GetStore()
	component.Note(ctx, "nodes, services and endpoints from the API")
	if !cache.WaitFor(ctx, "", synced...) {
		return nil, ctx.Err()
	}
	return r, nil
}

// trimNode keeps what decides over endpoints. Without a resource version two reports of the same are equal.
func trimNode(o any) (any, error) {
	node, ok := o.(*corev1.Node)
	if !ok {
		return o, nil
	}
	kept := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: node.Name, UID: node.UID},
		Spec:       corev1.NodeSpec{PodCIDR: node.Spec.PodCIDR, PodCIDRs: node.Spec.PodCIDRs},
	}
	if zone, ok := node.Labels[corev1.LabelTopologyZone]; ok {
		kept.Labels = map[string]string{corev1.LabelTopologyZone: zone}
	}
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			kept.Status.Conditions = []corev1.NodeCondition{{Type: c.Type, Status: c.Status}}
		}
	}
	return kept, nil
}

func (r *reconciler) reconcile(ctx context.Context) error {
	if err := r.reconcileService(ctx); err != nil {
		return err
	}
	return r.reconcileSlices(ctx)
}

func (r *reconciler) reconcileService(ctx context.Context) error {
	want := wantedService(r.clusterIPs)
	api := r.client.CoreV1().Services(namespace)
	o, exists, err := r.services.GetByKey(namespace + "/" + serviceName)
	if err != nil {
		return err
	}
	if exists {
		have := o.(*corev1.Service)
		switch {
		case len(have.Spec.Selector) > 0:
			return fmt.Errorf("Service %s/%s selects pods: another DNS is installed; delete it, or leave this one out with --disable=dns",
				namespace, serviceName)
		case have.Spec.ClusterIP != want.Spec.ClusterIP: // cannot be changed
			err := api.Delete(ctx, serviceName, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(have.UID))})
			if err != nil && !apierrors.IsNotFound(err) {
				return fmt.Errorf("delete Service %s, whose address is %s instead of %s: %w", serviceName, have.Spec.ClusterIP, want.Spec.ClusterIP, err)
			}
		case serviceMatches(have, want):
			return nil
		default:
			next := have.DeepCopy()
			if next.Labels == nil {
				next.Labels = make(map[string]string)
			}
			maps.Copy(next.Labels, want.Labels)
			next.Spec.ClusterIPs, next.Spec.IPFamilies = want.Spec.ClusterIPs, want.Spec.IPFamilies
			next.Spec.IPFamilyPolicy = want.Spec.IPFamilyPolicy
			next.Spec.Ports, next.Spec.TrafficDistribution = want.Spec.Ports, want.Spec.TrafficDistribution
			if _, err := api.Update(ctx, next, metav1.UpdateOptions{}); err != nil {
				return fmt.Errorf("update Service %s: %w", serviceName, err)
			}
			return nil
		}
	}
	if _, err := api.Create(ctx, want, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create Service %s: %w", serviceName, err)
	}
	return nil
}

func wantedService(clusterIPs []netip.Addr) *corev1.Service {
	policy := corev1.IPFamilyPolicySingleStack
	if len(clusterIPs) > 1 {
		policy = corev1.IPFamilyPolicyRequireDualStack
	}
	sameNode := corev1.ServiceTrafficDistributionPreferSameNode
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: serviceName,
			Labels: map[string]string{
				"k8s-app":                       "kube-dns",
				"kubernetes.io/cluster-service": "true",
				"kubernetes.io/name":            "CoreDNS",
				labelManagedBy:                  manager,
			},
		},
		Spec: corev1.ServiceSpec{
			ClusterIP:           clusterIPs[0].String(),
			IPFamilyPolicy:      &policy,
			TrafficDistribution: &sameNode,
			Ports: []corev1.ServicePort{
				{Name: "dns", Protocol: corev1.ProtocolUDP, Port: Port, TargetPort: intstr.FromInt32(Port)},
				{Name: "dns-tcp", Protocol: corev1.ProtocolTCP, Port: Port, TargetPort: intstr.FromInt32(Port)},
			},
		},
	}
	for _, a := range clusterIPs {
		svc.Spec.ClusterIPs = append(svc.Spec.ClusterIPs, a.String())
		svc.Spec.IPFamilies = append(svc.Spec.IPFamilies, corev1.IPFamily(addressType(a)))
	}
	return svc
}

// serviceMatches compares what is set here, not what the API adds.
func serviceMatches(have, want *corev1.Service) bool {
	for k, v := range want.Labels {
		if have.Labels[k] != v {
			return false
		}
	}
	a, b := have.Spec, want.Spec
	return slices.Equal(a.ClusterIPs, b.ClusterIPs) && slices.Equal(a.IPFamilies, b.IPFamilies) &&
		equality.Semantic.DeepEqual(a.IPFamilyPolicy, b.IPFamilyPolicy) &&
		equality.Semantic.DeepEqual(a.Ports, b.Ports) &&
		equality.Semantic.DeepEqual(a.TrafficDistribution, b.TrafficDistribution)
}

func (r *reconciler) reconcileSlices(ctx context.Context) error {
	want := make(map[string]*discoveryv1.EndpointSlice)
	var nodes []*corev1.Node
	for _, o := range r.nodes.List() {
		nodes = append(nodes, o.(*corev1.Node))
	}
	for _, s := range wantedSlices(nodes, r.clusterIPs) {
		want[s.Name] = s
	}
	api := r.client.DiscoveryV1().EndpointSlices(namespace)
	var errs []error
	for _, o := range r.slices.List() {
		have := o.(*discoveryv1.EndpointSlice)
		w, ok := want[have.Name]
		delete(want, have.Name)
		switch {
		// The garbage collector would do the first too, later. The type of a slice is for good: it is deleted, and made
		// anew when that has been seen.
		case !ok || have.AddressType != w.AddressType:
			if err := api.Delete(ctx, have.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
				errs = append(errs, fmt.Errorf("delete EndpointSlice %s: %w", have.Name, err))
			}
		case !sliceMatches(have, w):
			next := have.DeepCopy()
			next.Labels, next.OwnerReferences, next.Endpoints, next.Ports = w.Labels, w.OwnerReferences, w.Endpoints, w.Ports
			if _, err := api.Update(ctx, next, metav1.UpdateOptions{}); err != nil {
				errs = append(errs, fmt.Errorf("update EndpointSlice %s: %w", have.Name, err))
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if _, err := api.Create(ctx, want[name], metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			errs = append(errs, fmt.Errorf("create EndpointSlice %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

func sliceMatches(have, want *discoveryv1.EndpointSlice) bool {
	return equality.Semantic.DeepEqual(have.Labels, want.Labels) &&
		equality.Semantic.DeepEqual(have.OwnerReferences, want.OwnerReferences) &&
		equality.Semantic.DeepEqual(have.Endpoints, want.Endpoints) &&
		equality.Semantic.DeepEqual(have.Ports, want.Ports)
}

func sliceLabels() map[string]string {
	return map[string]string{discoveryv1.LabelServiceName: serviceName, discoveryv1.LabelManagedBy: manager}
}

// wantedSlices is pure: one slice per node and family of the cluster, for nodes that have pod CIDRs. A node that is
// not ready is passed over as long as another one is ready; when none is, DNS should be tried all the same.
func wantedSlices(nodes []*corev1.Node, clusterIPs []netip.Addr) []*discoveryv1.EndpointSlice {
	anyReady := slices.ContainsFunc(nodes, nodeReady)
	var out []*discoveryv1.EndpointSlice
	for _, node := range nodes {
		for i, ip := range clusterIPs {
			gateway, ok := podGateway(node, ip.Is4())
			if !ok {
				continue
			}
			name := serviceName + "-" + node.Name
			if i > 0 {
				name += "-secondary"
			}
			ready, no := nodeReady(node) || !anyReady, false
			endpoint := discoveryv1.Endpoint{
				Addresses:  []string{gateway.String()},
				Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &ready, Terminating: &no},
				NodeName:   &node.Name,
				// The controller that turns PreferSameNode into hints does not look after these slices.
				Hints: &discoveryv1.EndpointHints{ForNodes: []discoveryv1.ForNode{{Name: node.Name}}},
			}
			if zone, ok := node.Labels[corev1.LabelTopologyZone]; ok {
				endpoint.Zone = &zone
			}
			out = append(out, &discoveryv1.EndpointSlice{
				ObjectMeta: metav1.ObjectMeta{
					Namespace: namespace, Name: name, Labels: sliceLabels(),
					OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}},
				},
				AddressType: addressType(ip),
				Endpoints:   []discoveryv1.Endpoint{endpoint},
				Ports:       []discoveryv1.EndpointPort{port("dns", corev1.ProtocolUDP), port("dns-tcp", corev1.ProtocolTCP)},
			})
		}
	}
	return out
}

func port(name string, protocol corev1.Protocol) discoveryv1.EndpointPort {
	number := int32(Port)
	return discoveryv1.EndpointPort{Name: &name, Protocol: &protocol, Port: &number}
}

func addressType(a netip.Addr) discoveryv1.AddressType {
	if a.Is4() {
		return discoveryv1.AddressTypeIPv4
	}
	return discoveryv1.AddressTypeIPv6
}

func nodeReady(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// podGateway is the first address of the node's pod CIDR of that family, where its Server listens.
func podGateway(node *corev1.Node, is4 bool) (netip.Addr, bool) {
	cidrs := node.Spec.PodCIDRs
	if len(cidrs) == 0 {
		cidrs = []string{node.Spec.PodCIDR}
	}
	for _, c := range cidrs {
		if p, err := netip.ParsePrefix(c); err == nil && p.Addr().Is4() == is4 {
			return p.Masked().Addr().Next(), true
		}
	}
	return netip.Addr{}, false
}
