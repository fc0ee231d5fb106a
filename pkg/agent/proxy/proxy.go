// Package proxy adapts kube-proxy, in nftables mode, to component.Component. It is the only importer of its packages.
//
// It owns the nftables tables "ip kube-proxy" and "ip6 kube-proxy", which stay in force while edgebox restarts. It puts
// kube-proxy's server together itself, because upstream's own node manager ends the whole process when the node's
// addresses change or its Node object is deleted. Here both are followed live.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	gnftables "github.com/google/nftables"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"
	"k8s.io/kubernetes/cmd/kube-proxy/app"
	"k8s.io/kubernetes/pkg/proxy"
	proxyconfig "k8s.io/kubernetes/pkg/proxy/apis/config"
	"k8s.io/kubernetes/pkg/proxy/apis/config/scheme"
	"k8s.io/kubernetes/pkg/proxy/healthcheck"
	"k8s.io/kubernetes/pkg/proxy/nftables"
	proxyutil "k8s.io/kubernetes/pkg/proxy/util"

	"github.com/edgebox/edgebox/pkg/component"
	"github.com/edgebox/edgebox/pkg/config"
	"github.com/edgebox/edgebox/pkg/upstream"
)

const healthAddress = "127.0.0.1:10256"

// Proxy is the component. It can be started once in a process: upstream's sync loops do not end.
type Proxy struct {
	cfg        config.Config
	paths      config.Paths
	kubeconfig string
	client     kubernetes.Interface
	conf       *proxyconfig.KubeProxyConfiguration

	mu   sync.Mutex
	node *corev1.Node
}

// New returns kube-proxy for the node whose identity the kubeconfig has.
func New(cfg config.Config, kubeconfig string) *Proxy {
	return &Proxy{cfg: cfg, paths: cfg.Paths(), kubeconfig: kubeconfig}
}

// Name implements component.Component.
func (p *Proxy) Name() string { return "kube-proxy" }

// Prepare turns flags into a configuration. Upstream gives no other access to that than writing it into a file, which
// is of use to the operator as well.
func (p *Proxy) Prepare(ctx context.Context) error {
	var err error
	if p.client, err = upstream.Client(p.kubeconfig, p.Name()); err != nil {
		return err
	}
	opts := app.NewOptions()
	fs := upstream.FlagSet("kube-proxy", nil)
	opts.AddFlags(fs)
	cidrs := make([]string, len(p.cfg.ClusterCIDR))
	for i, c := range p.cfg.ClusterCIDR {
		cidrs[i] = c.String()
	}
	own := map[string]string{
		"proxy-mode":           "nftables",
		"cluster-cidr":         strings.Join(cidrs, ","),
		"hostname-override":    p.cfg.NodeName,
		"healthz-bind-address": healthAddress,
		"nodeport-addresses":   "0.0.0.0/0,::/0", // of the moment: a new address of the node serves NodePorts at once
		"iptables-sync-period": "10m",            // changes are applied as they come; this is for rules that others flushed
		"config-sync-period":   "24h",
	}
	if err := upstream.Parse("kube-proxy", fs, own, p.cfg.ProxyArg); err != nil {
		return err
	}
	if fs.Lookup("healthz-bind-address").Value.String() == "" {
		return errors.New("kube-proxy-arg: without a healthz-bind-address edgebox could not see whether the rules are up to date: give it another one")
	}
	if err := opts.Complete(fs); err != nil {
		return fmt.Errorf("kube-proxy-arg: %w", err)
	}
	if err := opts.Validate(); err != nil {
		return fmt.Errorf("kube-proxy-arg: %w", err)
	}
	if err := os.MkdirAll(p.paths.Run, 0o755); err != nil {
		return err
	}
	opts.WriteConfigTo = p.paths.ProxyConfig()
	if err := opts.Run(ctx); err != nil {
		return fmt.Errorf("write %s: %w", opts.WriteConfigTo, err)
	}
	data, err := os.ReadFile(opts.WriteConfigTo)
	if err != nil {
		return err
	}
	obj, _, err := scheme.Codecs.UniversalDecoder().Decode(data, nil, nil)
	if err != nil {
		return fmt.Errorf("read %s: %w", opts.WriteConfigTo, err)
	}
	p.conf = obj.(*proxyconfig.KubeProxyConfiguration)
	p.conf.Linux.OOMScoreAdj = nil // it is the kubelet's, for all of the process
	return nil
}

// Run proxies until ctx ends. It is ready when the first sync of the rules is done.
func (p *Proxy) Run(ctx context.Context, ready func()) error {
	ctx = upstream.Named(ctx, p.Name())
	informer := p.nodeInformer()
	go informer.Run(ctx.Done())
	if err := component.Poll(ctx, "the node's addresses", 50*time.Millisecond, func(context.Context) error {
		return p.adopt(informer)
	}); err != nil {
		return err
	}

	if err := p.makeTables(); err != nil {
		return fmt.Errorf("make nftables tables: %w", err)
	}
	broadcaster := events.NewBroadcaster(&events.EventSinkImpl{Interface: p.client.EventsV1()})
	recorder := broadcaster.NewRecorder(scheme.Scheme, p.Name())
	health := healthcheck.NewProxyHealthServer(p.conf.HealthzBindAddress, 2*p.conf.SyncPeriod.Duration, p)
	proxier, err := p.newProxier(ctx, recorder, health)
	if err != nil {
		return err
	}
	server := &app.ProxyServer{
		Config:        p.conf,
		Client:        p.client,
		Broadcaster:   broadcaster,
		Recorder:      recorder,
		NodeRef:       &corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: p.cfg.NodeName},
		HealthzServer: health,
		NodeName:      p.cfg.NodeName,
		Proxier:       proxier,
	}
	if err := p.follow(informer, proxier); err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Run(ctx) }()
	go func() {
		if component.Poll(ctx, "the first sync of the rules", 25*time.Millisecond, p.Check) == nil {
			ready()
		}
	}()
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		return err
	}
}

// makeTables adds the tables that are not there yet. Upstream lists what is in them before it adds them, and takes it for
// an error that there is nothing to list.
func (p *Proxy) makeTables() error {
	conn, err := gnftables.New()
	if err != nil {
		return err
	}
	for _, c := range p.cfg.ClusterCIDR {
		table := gnftables.Table{Name: "kube-proxy", Family: gnftables.TableFamilyIPv6}
		if c.Addr().Is4() {
			table.Family = gnftables.TableFamilyIPv4
		}
		conn.AddTable(&table)
	}
	return conn.Flush()
}

// newProxier makes one proxier per IP family of the cluster.
func (p *Proxy) newProxier(ctx context.Context, rec events.EventRecorder, health *healthcheck.ProxyHealthServer) (proxy.Provider, error) {
	local := map[corev1.IPFamily]proxyutil.LocalTrafficDetector{
		corev1.IPv4Protocol: proxyutil.NewNoOpLocalDetector(),
		corev1.IPv6Protocol: proxyutil.NewNoOpLocalDetector(),
	}
	for _, c := range p.cfg.ClusterCIDR {
		local[family(c.Addr())] = proxyutil.NewDetectLocalByCIDR(c.String())
	}
	ips := map[corev1.IPFamily]net.IP{}
	for _, a := range p.cfg.NodeIP {
		ips[family(a)] = a.AsSlice()
	}
	// Upstream takes a kernel before 5.13 for a sign that the host's nft is too old; pkg/preflight looks at that nft.
	if err := os.Setenv("KUBE_PROXY_NFTABLES_SKIP_KERNEL_VERSION_CHECK", "1"); err != nil {
		return nil, err
	}
	if len(p.cfg.ClusterCIDR) > 1 {
		return nftables.NewDualStackProxier(ctx, p.conf, local, p.cfg.NodeName, ips, rec, health, false)
	}
	f := family(p.cfg.ClusterCIDR[0].Addr())
	return nftables.NewProxier(ctx, p.conf, f, local[f], p.cfg.NodeName, ips[f], rec, health, false)
}

func family(a netip.Addr) corev1.IPFamily {
	if a.Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

// nodeInformer watches the Node object of this machine.
func (p *Proxy) nodeInformer() cache.SharedIndexInformer {
	return informers.NewSharedInformerFactoryWithOptions(p.client, 0, informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector("metadata.name", p.cfg.NodeName).String()
	})).Core().V1().Nodes().Informer()
}

// adopt takes the node from the informer's store once it has an address.
func (p *Proxy) adopt(informer cache.SharedIndexInformer) error {
	nodes := informer.GetStore().List() // one at most
	if len(nodes) == 0 {
		return errors.New("the kubelet has not registered the node yet")
	}
	node := nodes[0].(*corev1.Node)
	if len(node.Status.Addresses) == 0 {
		return errors.New("the kubelet has not reported them yet")
	}
	p.setNode(node)
	return nil
}

// follow tells the proxier about new topology labels, and has it look at the host's addresses again when they change.
func (p *Proxy) follow(informer cache.SharedIndexInformer, proxier proxy.Provider) error {
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) { proxier.OnTopologyChange(topology(obj.(*corev1.Node))) },
		UpdateFunc: func(_, obj any) {
			node, before := obj.(*corev1.Node), p.Node()
			p.setNode(node)
			if !maps.Equal(topology(node), topology(before)) || !slices.Equal(node.Status.Addresses, before.Status.Addresses) {
				proxier.OnTopologyChange(topology(node))
			}
		},
	})
	return err
}

// topology is the part of a node's labels that decides which endpoints are near.
func topology(node *corev1.Node) map[string]string {
	t := map[string]string{}
	for _, k := range []string{corev1.LabelHostname, corev1.LabelTopologyZone, corev1.LabelTopologyRegion} {
		if v, ok := node.Labels[k]; ok {
			t[k] = v
		}
	}
	return t
}

// Node returns the latest Node object; kube-proxy's health server asks whether it is about to be deleted.
func (p *Proxy) Node() *corev1.Node {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.node
}

func (p *Proxy) setNode(n *corev1.Node) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.node = n
}

// Check asks the health server, which knows whether the rules are up to date.
func (p *Proxy) Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.conf.HealthzBindAddress+"/livez", nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("rules are out of date: %s", res.Status)
	}
	return nil
}
