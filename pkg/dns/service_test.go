package dns

import (
	"context"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	"sigs.k8s.io/yaml"
)

func node(name string, ready corev1.ConditionStatus, cidrs ...string) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("uid-" + name), Labels: map[string]string{corev1.LabelTopologyZone: "attic"}},
		Spec:       corev1.NodeSpec{PodCIDRs: cidrs},
		Status:     corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}},
	}
}

func asYAML(t *testing.T, objects ...any) string {
	t.Helper()
	var docs []string
	for _, o := range objects {
		data, err := yaml.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		docs = append(docs, string(data))
	}
	return strings.Join(docs, "---\n")
}

func TestWantedObjects(t *testing.T) {
	ips := addrs("10.43.0.10", "fd43::a")
	out := []any{wantedService(ips)}
	for _, s := range wantedSlices([]*corev1.Node{node("box", corev1.ConditionTrue, "10.42.0.0/24", "fd42::/64")}, ips) {
		out = append(out, s)
	}
	golden(t, "dual.yaml", asYAML(t, out...))
}

func TestReadyEndpoints(t *testing.T) {
	const yes, no, unknown = corev1.ConditionTrue, corev1.ConditionFalse, corev1.ConditionUnknown
	for _, tt := range []struct {
		name  string
		nodes []*corev1.Node
		want  string
	}{
		{"one ready", []*corev1.Node{node("a", yes, "10.42.0.0/24")}, "a 10.42.0.1 true"},
		{"the only one is not", []*corev1.Node{node("a", no, "10.42.0.0/24")}, "a 10.42.0.1 true"},
		{"one of two", []*corev1.Node{node("a", yes, "10.42.0.0/24"), node("b", unknown, "10.42.1.0/24")}, "a 10.42.0.1 true, b 10.42.1.1 false"},
		{"none of two", []*corev1.Node{node("a", no, "10.42.0.0/24"), node("b", unknown, "10.42.1.0/24")}, "a 10.42.0.1 true, b 10.42.1.1 true"},
		{"no pod CIDR yet", []*corev1.Node{node("a", yes, "10.42.0.0/24"), node("b", yes)}, "a 10.42.0.1 true"},
		{"bad pod CIDR", []*corev1.Node{node("a", yes, "10.42.0/24")}, ""},
		{"other family", []*corev1.Node{node("a", yes, "fd42::/64")}, ""},
	} {
		var got []string
		for _, s := range wantedSlices(tt.nodes, addrs("10.43.0.10")) {
			e := s.Endpoints[0]
			ready := map[bool]string{true: "true", false: "false"}[*e.Conditions.Ready]
			got = append(got, *e.NodeName+" "+e.Addresses[0]+" "+ready)
		}
		if s := strings.Join(got, ", "); s != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, s, tt.want)
		}
	}
}

// service runs the component against a fake API.
type service struct {
	*Service
	t      *testing.T
	ctx    context.Context
	client *fake.Clientset
	wg     sync.WaitGroup
}

func runService(t *testing.T, ips []netip.Addr, objects ...runtime.Object) *service {
	client := fake.NewClientset(objects...)
	s := &service{t: t, client: client}
	s.Service = NewService(ServiceConfig{Client: func() (kubernetes.Interface, error) { return client, nil }, ClusterIP: ips})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	s.ctx = ctx
	t.Cleanup(func() {
		cancel()
		s.wg.Wait()
	})
	ready := make(chan struct{})
	once := sync.OnceFunc(func() { close(ready) })
	s.wg.Go(func() {
		if err := s.Run(ctx, once); err != nil {
			t.Error(err)
		}
	})
	select {
	case <-ready:
	case <-time.After(2 * time.Second): // the test looks at Check
	}
	return s
}

// eventually watches the EndpointSlices until cond holds.
func (s *service) eventually(what string, cond func(map[string]discoveryv1.EndpointSlice) bool) {
	s.t.Helper()
	api := s.client.DiscoveryV1().EndpointSlices(namespace)
	w, err := api.Watch(s.ctx, metav1.ListOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	defer w.Stop()
	for {
		list, err := api.List(s.ctx, metav1.ListOptions{})
		if err != nil {
			s.t.Fatal(err)
		}
		byName := make(map[string]discoveryv1.EndpointSlice)
		for _, i := range list.Items {
			byName[i.Name] = i
		}
		if cond(byName) {
			return
		}
		select {
		case <-w.ResultChan():
		case <-s.ctx.Done():
			s.t.Fatalf("%s: %v", what, byName)
		}
	}
}

func TestServiceFollowsTheNodes(t *testing.T) {
	defer goleak.VerifyNone(t)
	t.Run("run", func(t *testing.T) {
		s := runService(t, addrs("10.43.0.10"), node("a", corev1.ConditionTrue, "10.42.0.0/24"))
		svc, err := s.client.CoreV1().Services(namespace).Get(s.ctx, serviceName, metav1.GetOptions{})
		if err != nil || svc.Spec.ClusterIP != "10.43.0.10" {
			t.Fatalf("service at the time of ready: %v, %v", svc, err)
		}
		s.eventually("first node", func(m map[string]discoveryv1.EndpointSlice) bool { return len(m) == 1 && m["kube-dns-a"].Name != "" })

		nodes := s.client.CoreV1().Nodes()
		if _, err := nodes.Create(s.ctx, node("b", corev1.ConditionTrue), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := nodes.Update(s.ctx, node("b", corev1.ConditionFalse, "10.42.1.0/24"), metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		s.eventually("second node, not ready", func(m map[string]discoveryv1.EndpointSlice) bool {
			e := m["kube-dns-b"].Endpoints
			return len(e) == 1 && !*e[0].Conditions.Ready
		})
		if _, err := nodes.Update(s.ctx, node("b", corev1.ConditionTrue, "10.42.1.0/24"), metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		s.eventually("second node ready", func(m map[string]discoveryv1.EndpointSlice) bool {
			return *m["kube-dns-b"].Endpoints[0].Conditions.Ready
		})

		// What someone else breaks is mended.
		slices := s.client.DiscoveryV1().EndpointSlices(namespace)
		if err := slices.Delete(s.ctx, "kube-dns-a", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		s.eventually("deleted by hand", func(m map[string]discoveryv1.EndpointSlice) bool { return len(m) == 2 })
		bent := wantedSlices([]*corev1.Node{node("a", corev1.ConditionTrue, "10.99.0.0/24")}, addrs("10.43.0.10"))[0]
		if _, err := slices.Update(s.ctx, bent, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		s.eventually("changed by hand", func(m map[string]discoveryv1.EndpointSlice) bool {
			return m["kube-dns-a"].Endpoints[0].Addresses[0] == "10.42.0.1"
		})

		// A node that comes back under its name is another object.
		again := node("a", corev1.ConditionTrue, "10.42.7.0/24")
		again.UID = "another"
		if err := nodes.Delete(s.ctx, "a", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		s.eventually("node gone", func(m map[string]discoveryv1.EndpointSlice) bool { return len(m) == 1 })
		if _, err := nodes.Create(s.ctx, again, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		s.eventually("node back", func(m map[string]discoveryv1.EndpointSlice) bool {
			return len(m) == 2 && m["kube-dns-a"].OwnerReferences[0].UID == "another"
		})
		if err := s.Check(s.ctx); err != nil {
			t.Errorf("check: %v", err)
		}
	})
}

func TestServiceIsIdleWhenNothingChanges(t *testing.T) {
	s := runService(t, addrs("10.43.0.10"), node("a", corev1.ConditionTrue, "10.42.0.0/24"))
	s.eventually("first node", func(m map[string]discoveryv1.EndpointSlice) bool { return len(m) == 1 })
	writes := func() (n int) {
		for _, a := range s.client.Actions() {
			if v := a.GetVerb(); v != "list" && v != "watch" && v != "get" && a.GetResource().Resource != "nodes" {
				n++
			}
		}
		return n
	}
	before := writes()
	heartbeat := node("a", corev1.ConditionTrue, "10.42.0.0/24")
	heartbeat.Status.Conditions[0].LastHeartbeatTime = metav1.Now()
	if _, err := s.client.CoreV1().Nodes().Update(s.ctx, heartbeat, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	// A node that follows is acted upon after the heartbeat was seen.
	if _, err := s.client.CoreV1().Nodes().Create(s.ctx, node("b", corev1.ConditionTrue, "10.42.1.0/24"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	s.eventually("second node", func(m map[string]discoveryv1.EndpointSlice) bool { return len(m) == 2 })
	if n := writes() - before; n != 1 {
		t.Errorf("%d writes, want the one for the second node", n)
	}
}

func TestExistingService(t *testing.T) {
	get := func(s *service) *corev1.Service {
		svc, err := s.client.CoreV1().Services(namespace).Get(s.ctx, serviceName, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return svc
	}
	t.Run("equal", func(t *testing.T) {
		svc := wantedService(addrs("10.43.0.10"))
		svc.ResourceVersion = "7"
		svc.Annotations = map[string]string{"note": "kept"}
		if s := runService(t, addrs("10.43.0.10"), svc); get(s).ResourceVersion != "7" {
			t.Error("was written")
		}
	})
	t.Run("of an earlier version", func(t *testing.T) {
		svc := wantedService(addrs("10.43.0.10"))
		svc.Spec.TrafficDistribution = nil
		svc.Labels = nil
		svc.Annotations = map[string]string{"note": "kept"}
		got := get(runService(t, addrs("10.43.0.10"), svc))
		if got.Spec.TrafficDistribution == nil || got.Labels["k8s-app"] != "kube-dns" || got.Annotations["note"] != "kept" {
			t.Errorf("got %v", got)
		}
	})
	t.Run("becomes dual-stack", func(t *testing.T) {
		got := get(runService(t, addrs("10.43.0.10", "fd43::a"), wantedService(addrs("10.43.0.10"))))
		if len(got.Spec.ClusterIPs) != 2 || *got.Spec.IPFamilyPolicy != corev1.IPFamilyPolicyRequireDualStack {
			t.Errorf("got %v", got.Spec)
		}
	})
	t.Run("other address", func(t *testing.T) {
		if got := get(runService(t, addrs("10.43.0.99"), wantedService(addrs("10.43.0.10")))); got.Spec.ClusterIP != "10.43.0.99" {
			t.Errorf("got %s", got.Spec.ClusterIP)
		}
	})
	t.Run("of another DNS", func(t *testing.T) {
		svc := wantedService(addrs("10.43.0.10"))
		svc.Labels = nil
		svc.Spec.Selector = map[string]string{"k8s-app": "kube-dns"}
		s := runService(t, addrs("10.43.0.10"), svc, node("a", corev1.ConditionTrue, "10.42.0.0/24"))
		if err := s.Check(s.ctx); err == nil || !strings.Contains(err.Error(), "--disable=dns") {
			t.Errorf("check: %v", err)
		}
		list, err := s.client.DiscoveryV1().EndpointSlices(namespace).List(s.ctx, metav1.ListOptions{})
		if err != nil || len(list.Items) != 0 {
			t.Errorf("it got our endpoints: %v, %v", list.Items, err)
		}
	})
}

// TestSliceOfTheOtherFamily: a cluster that turned its families round has a slice of a type that cannot be changed.
func TestSliceOfTheOtherFamily(t *testing.T) {
	a := node("a", corev1.ConditionTrue, "10.42.0.0/24", "fd42::/64")
	s := runService(t, addrs("10.43.0.10"), a, wantedSlices([]*corev1.Node{a}, addrs("fd43::a"))[0])
	s.eventually("made anew", func(m map[string]discoveryv1.EndpointSlice) bool {
		got, ok := m["kube-dns-a"]
		return ok && got.AddressType == discoveryv1.AddressTypeIPv4
	})
}

func TestRemove(t *testing.T) {
	ips := addrs("10.43.0.10")
	slice := wantedSlices([]*corev1.Node{node("a", corev1.ConditionTrue, "10.42.0.0/24")}, ips)[0]
	client := fake.NewClientset(wantedService(ips), slice)
	for range 2 { // the second finds nothing
		if err := Remove(t.Context(), client); err != nil {
			t.Fatal(err)
		}
		if list, err := client.DiscoveryV1().EndpointSlices("").List(t.Context(), metav1.ListOptions{}); err != nil || len(list.Items) != 0 {
			t.Errorf("slices left: %v, %v", list, err)
		}
		if list, err := client.CoreV1().Services("").List(t.Context(), metav1.ListOptions{}); err != nil || len(list.Items) != 0 {
			t.Errorf("services left: %v, %v", list, err)
		}
	}
	foreign := wantedService(ips)
	foreign.Labels[labelManagedBy] = "Helm"
	client = fake.NewClientset(foreign)
	if err := Remove(t.Context(), client); err != nil {
		t.Fatal(err)
	}
	if list, err := client.CoreV1().Services("").List(t.Context(), metav1.ListOptions{}); err != nil || len(list.Items) != 1 {
		t.Errorf("a foreign service: %v, %v", list, err)
	}
}
