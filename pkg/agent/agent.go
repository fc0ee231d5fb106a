// Package agent wires what runs on every node. It never imports pkg/server: all that it knows of a server is how to
// reach it as this node.
package agent

import (
	"net/netip"
	"slices"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/edgebox/edgebox/pkg/agent/containerd"
	"github.com/edgebox/edgebox/pkg/agent/flannel"
	"github.com/edgebox/edgebox/pkg/agent/host"
	"github.com/edgebox/edgebox/pkg/agent/kubelet"
	"github.com/edgebox/edgebox/pkg/agent/proxy"
	"github.com/edgebox/edgebox/pkg/component"
	"github.com/edgebox/edgebox/pkg/config"
	"github.com/edgebox/edgebox/pkg/dns"
	"github.com/edgebox/edgebox/pkg/upstream"
)

// AddAddresses puts into the graph what notices that this machine has got another address. One that the user has given
// stays.
func AddAddresses(g *component.Graph, cfg config.Config) {
	if !slices.Contains(cfg.Found, config.NodeIPOption) {
		return
	}
	g.Add(host.NewAddresses(cfg.NodeIP, func() ([]netip.Addr, error) {
		h, err := config.ReadHost()
		if err != nil {
			return nil, err
		}
		cfg, err := cfg.CompleteAgain(h)
		return cfg.NodeIP, err
	}))
}

// Add puts the node's components into the graph and returns the image store. What talks to the API comes after api; the
// kubelet also comes after the controllers, if they run in the same process: both keep the state of CSI in the same
// variables of upstream's, and the kubelet must be the one that set them last.
func Add(g *component.Graph, cfg config.Config, id kubelet.Identity, api *component.Node, controllers ...*component.Node) *containerd.Containerd {
	hst := g.Add(host.New(cfg.ClusterCIDR, cfg.Paths().SharedMounts()))
	store := containerd.New(cfg)
	ctr := g.Add(store, component.After(hst))
	kl := g.Add(kubelet.New(cfg, id), component.After(append(controllers, ctr, api)...))
	ready := []*component.Node{kl}

	if !cfg.Disabled(config.KubeProxy) {
		ready = append(ready, g.Add(proxy.New(cfg, id.Kubeconfig), component.After(hst, api)))
	}
	if !cfg.Disabled(config.Flannel) {
		net := flannel.New(flannel.Config{
			Client:       func() (kubernetes.Interface, error) { return upstream.Client(id.Kubeconfig, "flannel") },
			NodeName:     cfg.NodeName,
			Backend:      cfg.FlannelBackend,
			Iface:        cfg.FlannelIface,
			ClusterCIDRs: cfg.ClusterCIDR,
			ServiceCIDRs: cfg.ServiceCIDR,
			SubnetFile:   cfg.Paths().FlannelSubnet(),
			WireGuardKey: cfg.Paths().WireGuardKey(),
			CNIConfDir:   cfg.Paths().CNIConf(),
			IPAMDir:      cfg.Paths().CNIState(),
		})
		fl := g.Add(component.Restart(net), component.After(hst, api))
		ready = append(ready, fl)
		if !cfg.Disabled(config.DNS) {
			g.Add(component.Restart(dns.NewServer(dns.ServerConfig{
				API:       func() (*rest.Config, error) { return upstream.ClientConfig(id.Kubeconfig, "dns") },
				Addresses: net.Gateways,
				Domain:    cfg.ClusterDomain,
				ClusterIP: cfg.ClusterDNS,
			})), component.After(fl))
		}
	}
	g.Add(component.Restart(kubelet.NewNode(cfg.NodeName, id.Kubeconfig)), component.After(ready...))
	return store
}
