package dns

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/go-logr/logr/funcr"
	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
)

const inNamespace = "DNS_TEST_IN_NAMESPACE"

// ownNetwork runs the calling test again in a process with a network of its own, where port 53 is free, and reports
// whether this is it.
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

// network gives the namespace a loopback and a link with the addresses of the test.
func network(t *testing.T, addresses ...string) {
	t.Helper()
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "cni0"
	bridge := &netlink.Bridge{LinkAttrs: attrs}
	if err := netlink.LinkAdd(bridge); err != nil {
		t.Fatal(err)
	}
	for _, s := range addresses {
		a, err := netlink.ParseAddr(s)
		if err != nil {
			t.Fatal(err)
		}
		a.Flags = syscall.IFA_F_NODAD
		if err := netlink.AddrAdd(bridge, a); err != nil {
			t.Fatal(err)
		}
	}
	for _, l := range []netlink.Link{lo, bridge} {
		if err := netlink.LinkSetUp(l); err != nil {
			t.Fatal(err)
		}
	}
}

// fakeAPI serves the lists that CoreDNS follows, and watches in which nothing happens.
func fakeAPI(t *testing.T) *rest.Config {
	t.Helper()
	port := int32(80)
	lists := map[string]struct {
		apiVersion, kind string
		items            []any
	}{
		"/api/v1/namespaces": {"v1", "Namespace", []any{
			corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default", ResourceVersion: "1"}},
		}},
		"/api/v1/services": {"v1", "Service", []any{
			corev1.Service{
				ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kubernetes", ResourceVersion: "1"},
				Spec:       corev1.ServiceSpec{ClusterIP: "10.43.0.1", ClusterIPs: []string{"10.43.0.1"}, Ports: []corev1.ServicePort{{Port: 443, Protocol: corev1.ProtocolTCP}}},
			},
			corev1.Service{
				ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "headless", ResourceVersion: "1"},
				Spec:       corev1.ServiceSpec{ClusterIP: "None", ClusterIPs: []string{"None"}},
			},
			corev1.Service{
				ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "outside", ResourceVersion: "1"},
				Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "example.com"},
			},
		}},
		"/apis/discovery.k8s.io/v1/endpointslices": {"discovery.k8s.io/v1", "EndpointSlice", []any{
			discoveryv1.EndpointSlice{
				ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: "headless-x", ResourceVersion: "1", Labels: map[string]string{discoveryv1.LabelServiceName: "headless"}},
				AddressType: discoveryv1.AddressTypeIPv4,
				Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{"10.42.0.7"}}},
				Ports:       []discoveryv1.EndpointPort{{Port: &port}},
			},
		}},
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		list, ok := lists[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		typed := func(o any) map[string]any { // with what a typed client leaves out
			data, err := json.Marshal(o)
			if err != nil {
				t.Error(err)
			}
			var m map[string]any
			if err := json.Unmarshal(data, &m); err != nil {
				t.Error(err)
			}
			m["apiVersion"], m["kind"] = list.apiVersion, list.kind
			return m
		}
		w.Header().Set("Content-Type", "application/json")
		enc := json.NewEncoder(w)
		q := r.URL.Query()
		if q.Get("watch") == "" {
			_ = enc.Encode(map[string]any{
				"apiVersion": list.apiVersion, "kind": list.kind + "List", "metadata": map[string]any{"resourceVersion": "1"}, "items": list.items,
			})
			return
		}
		if q.Get("sendInitialEvents") == "true" {
			for _, o := range list.items {
				_ = enc.Encode(map[string]any{"type": "ADDED", "object": typed(o)})
			}
			_ = enc.Encode(map[string]any{"type": "BOOKMARK", "object": typed(metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{
				ResourceVersion: "1", Annotations: map[string]string{metav1.InitialEventsAnnotationKey: "true"},
			}})})
		}
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}))
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	return &rest.Config{Host: server.URL}
}

// upstream is a DNS server of the world outside.
func upstream(t *testing.T, addr string) {
	t.Helper()
	pc, err := net.ListenPacket("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(r)
		m.Answer = []dns.RR{&dns.A{
			Hdr: dns.RR_Header{Name: r.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60},
			A:   net.IPv4(203, 0, 113, 7),
		}}
		_ = w.WriteMsg(m)
	})}
	go func() { _ = s.ActivateAndServe() }()
	t.Cleanup(func() { _ = s.Shutdown() })
}

// answer asks the server and puts the answer into words.
func answer(t *testing.T, network, server, name string, qtype uint16) string {
	t.Helper()
	m := new(dns.Msg)
	m.SetQuestion(name, qtype)
	reply, _, err := (&dns.Client{Net: network, Timeout: 3 * time.Second}).Exchange(m, net.JoinHostPort(server, "53"))
	if err != nil {
		return err.Error()
	}
	out := []string{dns.RcodeToString[reply.Rcode]}
	for _, rr := range reply.Answer {
		out = append(out, strings.Join(strings.Fields(rr.String())[3:], " "))
	}
	return strings.Join(out, " ")
}

// served is a Server that runs.
type served struct {
	*Server
	changed chan struct{} // to be closed by the test
	cancel  context.CancelFunc
	done    chan error
}

func serve(t *testing.T, api *rest.Config, conf string, addresses ...string) *served {
	t.Helper()
	s := &served{changed: make(chan struct{}), done: make(chan error, 1)}
	s.Server = NewServer(ServerConfig{
		API: func() (*rest.Config, error) { return api, nil },
		Addresses: func(context.Context) ([]netip.Addr, <-chan struct{}, error) {
			return addrs(addresses...), s.changed, nil
		},
		Domain: "cluster.local", ClusterIP: addrs("10.43.0.10"),
	})
	s.resolvConfs = []string{conf}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	s.cancel = cancel
	t.Cleanup(cancel)
	ready := make(chan struct{})
	go func() { s.done <- s.Run(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-s.done:
		t.Fatalf("ended before it was ready: %v", err)
	}
	return s
}

func TestServer(t *testing.T) {
	if !ownNetwork(t) {
		return
	}
	network(t, "10.42.0.1/24", "fd42::1/64", "192.0.2.53/24")
	var logged atomic.Int64
	klog.SetLogger(funcr.New(func(string, string) { logged.Add(1) }, funcr.Options{}))
	api := fakeAPI(t)
	conf := filepath.Join(t.TempDir(), "resolv.conf")

	start := time.Now()
	s := serve(t, api, conf, "10.42.0.1", "fd42::1")
	t.Logf("ready after %s", time.Since(start))
	for _, tt := range []struct {
		name  string
		qtype uint16
		want  string
	}{
		{"kubernetes.default.svc.cluster.local.", dns.TypeA, "NOERROR A 10.43.0.1"},
		{"KUBERNETES.default.svc.cluster.local.", dns.TypeA, "NOERROR A 10.43.0.1"},
		{"kubernetes.default.svc.cluster.local.", dns.TypeAAAA, "NOERROR"},
		{"_https._tcp.kubernetes.default.svc.cluster.local.", dns.TypeSRV, "NXDOMAIN"},
		{"headless.default.svc.cluster.local.", dns.TypeA, "NOERROR A 10.42.0.7"},
		{"10-42-0-9.default.pod.cluster.local.", dns.TypeA, "NOERROR A 10.42.0.9"},
		{"1.0.43.10.in-addr.arpa.", dns.TypePTR, "NOERROR PTR kubernetes.default.svc.cluster.local."},
		{"nothing.default.svc.cluster.local.", dns.TypeA, "NXDOMAIN"},
		{"example.com.", dns.TypeA, "SERVFAIL"},
		{"9.2.0.192.in-addr.arpa.", dns.TypePTR, "SERVFAIL"},
	} {
		for _, server := range []string{"10.42.0.1", "fd42::1"} {
			for _, network := range []string{"udp", "tcp"} {
				start := time.Now()
				if got := answer(t, network, server, tt.name, tt.qtype); got != tt.want {
					t.Errorf("%s %s over %s: got %q, want %q", tt.name, dns.TypeToString[tt.qtype], network, got, tt.want)
				}
				if d := time.Since(start); d > time.Second {
					t.Errorf("%s took %s", tt.name, d)
				}
			}
		}
	}

	// The network comes up: DHCP writes resolv.conf. No query of the cluster is lost meanwhile.
	upstream(t, "192.0.2.53:53")
	stopAsking := make(chan struct{})
	var asking sync.WaitGroup
	asking.Go(func() {
		for {
			select {
			case <-stopAsking:
				return
			default:
			}
			if got := answer(t, "udp", "10.42.0.1", "kubernetes.default.svc.cluster.local.", dns.TypeA); got != "NOERROR A 10.43.0.1" {
				t.Errorf("while reconfiguring: %s", got)
				return
			}
		}
	})
	if err := os.WriteFile(conf, []byte("nameserver 10.43.0.10\nnameserver 192.0.2.53\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for answer(t, "udp", "10.42.0.1", "example.com.", dns.TypeA) != "NOERROR A 203.0.113.7" {
		if time.Now().After(deadline) {
			t.Fatal("the upstream server is not asked")
		}
	}
	close(stopAsking)
	asking.Wait()
	if got := answer(t, "udp", "10.42.0.1", "outside.default.svc.cluster.local.", dns.TypeA); got != "NOERROR CNAME example.com. A 203.0.113.7" {
		t.Errorf("ExternalName: %s", got)
	}

	// A second server on the same addresses is refused, although CoreDNS would share the port.
	second := NewServer(s.cfg)
	second.resolvConfs = s.resolvConfs
	if err := second.Run(t.Context(), func() {}); err == nil || !strings.Contains(err.Error(), "10.42.0.1:53: bind: address already in use: is there a DNS server") {
		t.Errorf("second server: %v", err)
	}

	// Other addresses: the run ends, and the next one takes them.
	close(s.changed)
	if err := <-s.done; err == nil || !strings.Contains(err.Error(), "changed") {
		t.Errorf("ended with %v", err)
	}
	if _, err := net.DialTimeout("tcp", "10.42.0.1:53", time.Second); err == nil {
		t.Error("still listens after the end")
	}
	s = serve(t, api, conf, "fd42::1")
	if got := answer(t, "udp", "fd42::1", "kubernetes.default.svc.cluster.local.", dns.TypeA); got != "NOERROR A 10.43.0.1" {
		t.Errorf("after a restart: %s", got)
	}
	if err := s.Check(t.Context()); err != nil {
		t.Errorf("check: %v", err)
	}
	start = time.Now()
	s.cancel()
	if err := <-s.done; err != nil {
		t.Errorf("stop: %v", err)
	}
	if d := time.Since(start); d > stopTimeout {
		t.Errorf("stopping took %s", d)
	}
	if s.Check(t.Context()) == nil {
		t.Error("check after the end: no error")
	}

	before := logged.Load()
	klog.Info("still ours")
	if logged.Load() != before+1 {
		t.Error("klog's logger was replaced")
	}
}

// TestServerWithoutAPI: what is outside the cluster is answered also while the API cannot be reached.
func TestServerWithoutAPI(t *testing.T) {
	if !ownNetwork(t) {
		return
	}
	network(t, "10.42.0.1/24")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	start := time.Now()
	i, err := startCoreDNS(ctx, corefile{port: Port, addresses: addrs("10.42.0.1"), domain: "cluster.local"}, &rest.Config{Host: "http://127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	defer i.stop()
	if d := time.Since(start); d > syncTimeout+time.Second {
		t.Errorf("start took %s", d)
	}
	if got := answer(t, "udp", "10.42.0.1", "kubernetes.default.svc.cluster.local.", dns.TypeA); got != "SERVFAIL" {
		t.Errorf("a name of the cluster: %s", got)
	}
	if got := answer(t, "udp", "10.42.0.1", "example.com.", dns.TypeA); got != "SERVFAIL" {
		t.Errorf("another name: %s", got)
	}
}
