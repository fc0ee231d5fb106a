package flannel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/flannel-io/flannel/pkg/backend"
	"github.com/flannel-io/flannel/pkg/backend/hostgw"
	"github.com/flannel-io/flannel/pkg/backend/vxlan"
	"github.com/flannel-io/flannel/pkg/backend/wireguard"
	"github.com/flannel-io/flannel/pkg/ip"
	"github.com/flannel-io/flannel/pkg/subnet"
	"github.com/flannel-io/flannel/pkg/trafficmngr/nftables"
	"golang.org/x/sys/unix"
	"k8s.io/client-go/kubernetes"
)

// The backends that Config.Backend may name.
const (
	VXLAN     = "vxlan"
	HostGW    = "host-gw"
	WireGuard = "wireguard-native"
)

// vxlan's identifiers, those that flannel and k3s use on Linux.
const (
	vxlanVNI  = 1
	vxlanPort = 8472
)

// linksOf are the links that backends make for each family.
var linksOf = map[string]struct{ v4, v6 string }{
	VXLAN:     {fmt.Sprintf("flannel.%d", vxlanVNI), fmt.Sprintf("flannel-v6.%d", vxlanVNI)},
	WireGuard: {"flannel-wg", "flannel-wg-v6"},
}

// backendStop is how long flannel may take to leave its loops; see Component.Run.
const backendStop = time.Second

// Config is what the network of a node depends on.
type Config struct {
	Client       func() (kubernetes.Interface, error) // acts as the node; asked at each start
	NodeName     string
	Backend      string         // VXLAN, HostGW or WireGuard
	Iface        string         // interface between the nodes; empty: the one that holds the Node's InternalIP
	ClusterCIDRs []netip.Prefix // at most one per IP family
	ServiceCIDRs []netip.Prefix // get a route on the host; at most one per IP family
	WireGuardKey string         // file of this node's private key, which is made with the first start; for WireGuard
	SubnetFile   string         // flannel's subnet.env, in a directory that a reboot empties
	CNIConfDir   string         // where containerd looks for CNI configuration
	IPAMDir      string         // where host-local keeps the addresses in use
}

// Component is flannel as a component. All fields of its Config but Iface are required.
type Component struct {
	cfg     Config
	network *subnet.Config

	mu       sync.Mutex
	gateways []netip.Addr
	known    chan struct{} // closed once gateways is set
	changed  chan struct{} // closed when gateways is replaced
	verify   func() error  // of the run that is ready
}

// New returns the component; Prepare reports what is wrong with cfg.
func New(cfg Config) *Component {
	return &Component{cfg: cfg, known: make(chan struct{}), changed: make(chan struct{})}
}

// Name implements component.Component.
func (c *Component) Name() string { return "flannel" }

// Prepare checks the configuration. On the first start after a boot it also removes the CNI configuration of the
// earlier one, so that no pod starts before its network is there.
func (c *Component) Prepare(context.Context) error {
	network, err := networkConfig(c.cfg.Backend, c.cfg.ClusterCIDRs)
	if err != nil {
		return err
	}
	c.network = network
	if _, err := os.Stat(c.cfg.SubnetFile); errors.Is(err, fs.ErrNotExist) {
		if err := os.Remove(ConflistPath(c.cfg.CNIConfDir)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove CNI configuration of an earlier boot: %w", err)
		}
	}
	return nil
}

// Gateways waits until the bridge of this node exists and returns its addresses, the first of each pod CIDR. The
// channel is closed when they are replaced by others.
func (c *Component) Gateways(ctx context.Context) ([]netip.Addr, <-chan struct{}, error) {
	select {
	case <-c.known:
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.gateways), c.changed, nil
}

// Check implements component.Checker: the links are there and have their addresses.
func (c *Component) Check(context.Context) error {
	c.mu.Lock()
	verify := c.verify
	c.mu.Unlock()
	if verify == nil {
		return errors.New("the network is not set up")
	}
	return verify()
}

// Run sets the network up and keeps it. It fails, in order to be run anew, when the node's addresses or pod CIDRs
// change or when a link that it made is altered from outside.
func (c *Component) Run(ctx context.Context, ready func()) error {
	runCtx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()

	err := c.run(runCtx, &wg, ready)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (c *Component) run(ctx context.Context, wg *sync.WaitGroup, ready func()) error {
	client, err := c.cfg.Client()
	if err != nil {
		return fmt.Errorf("kubernetes client: %w", err)
	}

	// nft is executed several times: do it while the API is asked.
	masq := &nftables.NFTablesManager{}
	masqReady := make(chan error, 1)
	wg.Go(func() { masqReady <- masq.Init(ctx) })

	nodes := newNodes(client, c.cfg.NodeName, c.network)
	if err := nodes.start(ctx, wg); err != nil {
		return err
	}
	self, err := nodes.waitSelf(ctx)
	if err != nil {
		return err
	}

	// Subscribe before looking, so that no change falls between the two.
	links, err := subscribeLinks(ctx)
	if err != nil {
		return err
	}
	ext, err := externalInterface(c.cfg.Iface, self.addresses)
	if err != nil {
		return err
	}
	if err := removeOtherBackends(c.backendLinks(), c.cfg.Backend, c.cfg.ClusterCIDRs); err != nil {
		return err
	}
	network, err := c.register(ctx, nodes, ext)
	if err != nil {
		return err
	}
	if err := nodes.pruneRoutes(c.backendLinks()); err != nil {
		return err
	}

	if err := <-masqReady; err != nil {
		return fmt.Errorf("set up nftables: %w", err)
	}
	// Only masquerading: an accept in flannel's forward chain would not lift a drop of another table, as it ends
	// nothing but its own chain. The nftables manager has no periodic resync; the period is ignored.
	err = masq.SetupAndEnsureMasqRules(ctx, c.network.Network, ip.IP4Net{}, ip.IP4Net{},
		c.network.IPv6Network, ip.IP6Net{}, ip.IP6Net{}, network.Lease(), 0, false)
	if err != nil {
		return fmt.Errorf("set up masquerading: %w", err)
	}
	gateways, err := ensureBridge(self.podCIDRs, network.MTU())
	if err != nil {
		return err
	}

	if err := routeServices(c.cfg.ServiceCIDRs, self.addresses); err != nil {
		return err
	}

	verify, err := expectLinks(ext, c.backendLinks(), gateways)
	if err != nil {
		return err
	}
	c.setUp(gateways, verify)
	lease := network.Lease()
	if err := nodes.HandleSubnetFile(c.cfg.SubnetFile, c.network, true, lease.Subnet, lease.IPv6Subnet, network.MTU()); err != nil {
		return fmt.Errorf("write %s: %w", c.cfg.SubnetFile, err)
	}
	if err := writeConflist(c.cfg.CNIConfDir, self.podCIDRs, network.MTU(), c.cfg.IPAMDir); err != nil {
		return err
	}

	done := make(chan struct{})
	go func() {
		defer close(done)
		network.Run(ctx)
	}()
	// When a batch of leases arrives at the moment at which ctx ends, flannel's loops wait for each other for good.
	wg.Go(func() {
		<-ctx.Done()
		select {
		case <-done:
		case <-time.After(backendStop):
		}
	})
	slog.Info("pod network ready", "backend", c.cfg.Backend, "iface", ext.IfaceName, "podCIDRs", self.podCIDRs, "mtu", network.MTU())
	ready()

	for {
		select {
		case <-ctx.Done():
			return nil
		case <-done:
			return fmt.Errorf("flannel's %s backend ended", c.cfg.Backend)
		case <-nodes.selfChanged:
			if err := nodes.stillSelf(self); err != nil {
				return err
			}
		case _, ok := <-links:
			if !ok {
				return errors.New("the netlink subscription ended")
			}
			if err := verify(); err != nil {
				return err
			}
		}
	}
}

// register makes the backend's link, publishes this node's lease and returns the network.
func (c *Component) register(ctx context.Context, nodes *nodes, ext *backend.ExternalInterface) (backend.Network, error) {
	network := *c.network
	var manager subnet.Manager = nodes
	switch c.cfg.Backend {
	case VXLAN:
		mtu := ext.Iface.MTU
		if network.EnableIPv6 {
			mtu -= 20 // flannel takes off 50 bytes; an outer IPv6 header has 20 more
		}
		raw, err := json.Marshal(vxlan.VXLANConfig{VNI: vxlanVNI, Port: vxlanPort, MTU: mtu})
		if err != nil {
			return nil, err
		}
		network.Backend = raw
	case WireGuard:
		raw, err := wireguardConfig(c.cfg.WireGuardKey, ext.Iface.MTU, network.EnableIPv6)
		if err != nil {
			return nil, err
		}
		network.Backend = raw
		// The backend removes its links when its context ends, and pods are to keep their network.
		manager = lessor{nodes, ctx}
		ctx = context.WithoutCancel(ctx)
	}
	newBackend := map[string]backend.BackendCtor{VXLAN: vxlan.New, HostGW: hostgw.New, WireGuard: wireguard.New}[c.cfg.Backend]
	b, err := newBackend(manager, ext)
	if err != nil {
		return nil, fmt.Errorf("%s backend: %w", c.cfg.Backend, err)
	}
	n, err := b.RegisterNetwork(ctx, &sync.WaitGroup{}, &network)
	if c.cfg.Backend == WireGuard && errors.Is(err, unix.EOPNOTSUPP) {
		return nil, errors.New("this kernel has no wireguard: use one with CONFIG_WIREGUARD (Linux has it since 5.6), or another --flannel-backend on the servers")
	}
	if err != nil {
		return nil, fmt.Errorf("%s backend: %w", c.cfg.Backend, err)
	}
	return n, nil
}

// backendLinks names the links that the backend makes.
func (c *Component) backendLinks() []string {
	var names []string
	made := linksOf[c.cfg.Backend]
	if c.network.EnableIPv4 && made.v4 != "" {
		names = append(names, made.v4)
	}
	if c.network.EnableIPv6 && made.v6 != "" {
		names = append(names, made.v6)
	}
	return names
}

func (c *Component) setUp(gateways []netip.Addr, verify func() error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.verify = verify
	switch {
	case c.gateways == nil:
		c.gateways = gateways
		close(c.known)
	case !slices.Equal(c.gateways, gateways):
		c.gateways = gateways
		close(c.changed)
		c.changed = make(chan struct{})
	}
}

// networkConfig is flannel's net-conf.json.
func networkConfig(backendType string, clusterCIDRs []netip.Prefix) (*subnet.Config, error) {
	if !slices.Contains([]string{VXLAN, HostGW, WireGuard}, backendType) {
		return nil, fmt.Errorf("flannel-backend: %q is none of %s, %s, %s", backendType, VXLAN, HostGW, WireGuard)
	}
	cfg := &subnet.Config{EnableNFTables: true, BackendType: backendType}
	for _, p := range clusterCIDRs {
		if p.Addr().Is4() {
			if cfg.EnableIPv4 {
				return nil, errors.New("cluster-cidr: more than one IPv4 network")
			}
			cfg.EnableIPv4, cfg.Network = true, ip.FromIPNet(ipNet(p.Masked()))
		} else {
			if cfg.EnableIPv6 {
				return nil, errors.New("cluster-cidr: more than one IPv6 network")
			}
			cfg.EnableIPv6, cfg.IPv6Network = true, ip.FromIP6Net(ipNet(p.Masked()))
		}
	}
	if !cfg.EnableIPv4 && !cfg.EnableIPv6 {
		return nil, errors.New("cluster-cidr: no network given")
	}
	return cfg, nil
}
