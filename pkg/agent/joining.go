package agent

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/edgebox/edgebox/pkg/admin"
	"github.com/edgebox/edgebox/pkg/admin/adminserver"
	"github.com/edgebox/edgebox/pkg/agent/balancer"
	"github.com/edgebox/edgebox/pkg/agent/join"
	"github.com/edgebox/edgebox/pkg/agent/kubelet"
	"github.com/edgebox/edgebox/pkg/component"
	"github.com/edgebox/edgebox/pkg/config"
	"github.com/edgebox/edgebox/pkg/pki"
	"github.com/edgebox/edgebox/pkg/tunnel"
	"github.com/edgebox/edgebox/pkg/upstream"
)

// AddJoining puts the components of an agent into the graph: first those that make this machine a node of the cluster,
// and once it is one, all that run on a node. Status is what its admin API reports, given what is known of the servers.
func AddJoining(g *component.Graph, cfg config.Config, status func(context.Context, []admin.APIServer) admin.Status) {
	paths := cfg.Paths()
	node := join.New(join.Config{
		Server:     cfg.ServerAddress(),
		Token:      cfg.Token,
		NodeName:   cfg.NodeName,
		Machine:    sync.OnceValues(func() (pki.Machine, error) { return pki.LoadMachine("/", paths.MachineSeed()) }),
		Store:      pki.New(paths.AgentPKI()),
		State:      paths.Cluster(),
		Kubeconfig: paths.KubeletConfig(),
		API:        "https://" + cfg.LocalAPI(),
		Now:        time.Now,
	})
	var m member
	adm := adminserver.New(paths.AdminSocket(), func(ctx context.Context) admin.Status { return status(ctx, m.servers()) })
	g.Add(adm)
	g.Add(component.Expand("join", func(ctx context.Context) (func(*component.Graph), error) {
		settings, err := node.Join(ctx)
		if err != nil {
			return nil, err
		}
		cfg, err := cfg.WithClusterSettings(settings)
		if err != nil {
			return nil, err
		}
		if cfg, err = complete(ctx, cfg); err != nil {
			return nil, err
		}
		return func(g *component.Graph) { m.add(g, cfg, node, settings, adm) }, nil
	}))
}

// complete fills in what the host tells. An address may yet have to come, from a DHCP server; all else is an error.
func complete(ctx context.Context, cfg config.Config) (config.Config, error) {
	var completed config.Config
	var failed error
	err := component.Poll(ctx, "an address of this node", time.Second, func(context.Context) error {
		host, err := config.ReadHost()
		if err != nil {
			return err
		}
		completed, err = cfg.Complete(host)
		var problems config.Problems
		if errors.As(err, &problems) && len(problems) == 1 && problems[0].Option == "node-ip" && len(cfg.NodeIP) == 0 {
			return err
		}
		failed = err
		return nil
	})
	return completed, errors.Join(err, failed)
}

// member is a node that has joined.
type member struct {
	mu       sync.Mutex
	balancer *balancer.Balancer
	tunnel   *tunnel.Client
}

func (m *member) add(g *component.Graph, cfg config.Config, node *join.Node, settings map[string]string, adm *adminserver.Server) {
	paths := cfg.Paths()
	certs := pki.New(paths.AgentPKI())
	bal := balancer.New(balancer.Config{
		Listen:   cfg.LocalAPI(),
		Server:   cfg.ServerAddress(),
		NodeName: cfg.NodeName,
		File:     paths.Servers(),
		Probe:    balancer.Probe(node.TLS),
		Discover: balancer.Discover(func() (kubernetes.Interface, error) { return upstream.Client(paths.KubeletConfig(), "api-balancer") }),
	})

	AddAddresses(g, cfg)
	api := g.Add(bal)
	crt := g.Add(join.NewCertificates(node, cfg.NodeIP, bal.Now, bal.Reconnect), component.After(api))
	g.Add(join.NewSettings(node, settings), component.After(api))
	tun := tunnel.NewClient(tunnel.ClientConfig{Servers: bal.Addresses, TLS: node.TLS})
	g.Add(component.Restart(tun), component.After(crt))
	m.mu.Lock()
	m.balancer, m.tunnel = bal, tun
	m.mu.Unlock()
	images := Add(g, cfg, kubelet.Identity{
		Kubeconfig:  paths.KubeletConfig(),
		ClientCA:    certs.CertFile(pki.ClientCA),
		ServingCert: certs.CertFile(pki.Kubelet),
		ServingKey:  certs.KeyFile(pki.Kubelet),
	}, crt)
	adminserver.ServeImages(adm, images)
}

// servers are those that the node knows; none before it has joined.
func (m *member) servers() []admin.APIServer {
	m.mu.Lock()
	bal, tun := m.balancer, m.tunnel
	m.mu.Unlock()
	if bal == nil {
		return nil
	}
	open := tun.Connected()
	var out []admin.APIServer
	for _, s := range bal.Servers() {
		out = append(out, admin.APIServer{Address: s.Address, InUse: s.InUse, Connections: s.Connections,
			Tunnel: slices.Contains(open, s.Address), Error: s.Error})
	}
	return out
}
