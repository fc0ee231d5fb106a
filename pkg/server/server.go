// Package server wires a server: the control plane, and the node beside it unless that is left out. It reads like the
// architecture diagram in docs/architecture.md.
package server

import (
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"k8s.io/client-go/kubernetes"

	"github.com/edgebox/edgebox/pkg/admin/adminserver"
	"github.com/edgebox/edgebox/pkg/agent"
	"github.com/edgebox/edgebox/pkg/agent/join"
	"github.com/edgebox/edgebox/pkg/agent/kubelet"
	"github.com/edgebox/edgebox/pkg/component"
	"github.com/edgebox/edgebox/pkg/config"
	"github.com/edgebox/edgebox/pkg/datastore"
	"github.com/edgebox/edgebox/pkg/dns"
	"github.com/edgebox/edgebox/pkg/pki"
	"github.com/edgebox/edgebox/pkg/server/approval"
	"github.com/edgebox/edgebox/pkg/server/bootstrap"
	"github.com/edgebox/edgebox/pkg/server/controlplane"
	"github.com/edgebox/edgebox/pkg/server/peers"
	"github.com/edgebox/edgebox/pkg/tunnel"
	"github.com/edgebox/edgebox/pkg/upstream"
)

// Add puts the components of a server that is one of its cluster into the graph.
func Add(g *component.Graph, cfg config.Config, adm *adminserver.Server) {
	certs := pki.New(cfg.Paths().PKI())
	store := newStore(cfg, certs)
	adminConfig := cfg.Paths().Kubeconfig(pki.Admin)

	agent.AddAddresses(g, cfg)
	crt := g.Add(pki.NewRenewer(certs, func() pki.Spec { return identities(cfg) }, nil))
	db := g.Add(store, component.After(crt))
	handlers, leaderElect := map[string]http.Handler{}, func() bool { return false }
	serverToken := bootstrap.NewServerToken(adminConfig, cfg.Paths().ServerToken(), certs)
	if !store.Alone() {
		others := peers.New(peers.Config{
			Name:    cfg.NodeName,
			Connect: func() (*clientv3.Client, error) { return datastore.Connect(store) },
			Token:   serverToken.Token,
			Secrets: func() (peers.Secrets, error) { return shared(cfg, certs) },
		})
		db = g.Add(others, component.After(db))
		handlers[peers.Path], leaderElect = others, others.Several
	}
	var apiserver *controlplane.APIServer
	var tun *tunnel.Server
	tun = tunnel.NewServer(tunnel.ServerConfig{
		Socket: cfg.Paths().EgressSocket(),
		Node:   callingNode,
		Route:  func(host string) tunnel.Route { return route(apiserver.Nodes(), tun.Nodes, host) },
	})
	handlers[tunnel.Path] = tun.AgentHandler()
	apiserver = controlplane.NewAPIServer(cfg, certs, store, controlplane.Egress{Socket: cfg.Paths().EgressSocket(), Handlers: handlers})
	egress := g.Add(tun)
	api := g.Add(apiserver, component.After(db, egress), component.StopTimeout(4*time.Second))
	kcm := g.Add(controlplane.NewControllerManager(cfg, certs, leaderElect), component.After(api))
	g.Add(controlplane.NewScheduler(cfg, certs, leaderElect), component.After(api))
	boot := g.Add(component.Restart(bootstrap.New(adminConfig, clusterInfo(cfg, certs), bootstrap.Names{
		Settings: join.SettingsName, Tunnel: tunnel.Path, Secrets: peers.Path,
	})), component.After(api))
	g.Add(component.Restart(approval.New(approvals(cfg, adminConfig))), component.After(api))
	g.Add(component.Restart(approval.NewSelf(cfg.NodeName, cfg.DisableAgent,
		func() (pki.Machine, error) { return pki.LoadMachine("/", cfg.Paths().MachineSeed()) },
		func() (kubernetes.Interface, error) { return upstream.Client(adminConfig, "machine-record") })), component.After(api))
	tokens := bootstrap.NewJoinToken(adminConfig, cfg.NodeName, chosenToken(cfg), cfg.Paths().Token(), certs)
	g.Add(component.Restart(tokens), component.After(api))
	if !store.Alone() {
		g.Add(component.Restart(serverToken), component.After(api))
	}
	adminserver.ServeTokens(adm, tokens)
	g.Add(component.Restart(bootstrap.NewSettings(adminConfig, join.SettingsName, func() (map[string]string, error) { return published(cfg, certs) })), component.After(api))
	if !cfg.Disabled(config.DNS) && !cfg.Disabled(config.Flannel) { // the servers listen on flannel's bridge
		g.Add(component.Restart(dns.NewService(dns.ServiceConfig{
			Client:    func() (kubernetes.Interface, error) { return upstream.Client(adminConfig, "dns-service") },
			ClusterIP: cfg.ClusterDNS,
		})), component.After(api))
	}
	if cfg.DisableAgent {
		return
	}
	images := agent.Add(g, cfg, kubelet.Identity{
		Kubeconfig:  cfg.Paths().Kubeconfig(pki.KubeletClient),
		ClientCA:    certs.SigningCertFile(pki.ClientCA),
		ServingCert: certs.CertFile(pki.Kubelet),
		ServingKey:  certs.KeyFile(pki.Kubelet),
	}, boot, kcm)
	adminserver.ServeImages(adm, images)
	g.Add(component.Restart(bootstrap.NewNodeRole(cfg.NodeName, adminConfig)), component.After(boot))
}

// newStore is where the cluster's objects are. A server that has been a member of an etcd cluster stays one.
func newStore(cfg config.Config, certs *pki.Store) datastore.Store {
	switch {
	case cfg.Server != "":
		host, _, _ := net.SplitHostPort(cfg.ServerAddress())
		return datastore.NewEtcd(cfg, certs, []string{datastore.EtcdURL(host)})
	case inEtcd(cfg):
		return datastore.NewEtcd(cfg, certs, nil)
	}
	return datastore.New(cfg)
}

// inEtcd reports whether this server is a member of an etcd cluster.
func inEtcd(cfg config.Config) bool {
	return cfg.DatastoreEndpoint == "" && (cfg.Server != "" || cfg.ClusterInit || datastore.IsMember(cfg.Paths()))
}

// chosenToken is the join token that the user has chosen. That by which a server joins is another one.
func chosenToken(cfg config.Config) string {
	if pki.IsServerToken(cfg.Token) {
		return ""
	}
	return cfg.Token
}

// shared is what all servers of the cluster have in common.
func shared(cfg config.Config, certs *pki.Store) (peers.Secrets, error) {
	s := peers.Secrets{Files: map[string][]byte{}, Settings: cfg.ClusterSettings(), Etcd: inEtcd(cfg)}
	for _, name := range pki.SharedFiles() {
		content, err := os.ReadFile(filepath.Join(cfg.Paths().PKI(), filepath.FromSlash(name)))
		if err != nil {
			return s, err
		}
		s.Files[name] = content
	}
	return s, nil
}

// clusterInfo is what anybody may know.
func clusterInfo(cfg config.Config, certs *pki.Store) bootstrap.ClusterInfo {
	return bootstrap.ClusterInfo{
		Server: "https://" + netip.AddrPortFrom(cfg.AdvertiseAddress, uint16(cfg.HTTPSListenPort)).String(),
		CAFile: certs.CertFile(pki.ServerCA),
	}
}

// approvals is what the certificates of nodes are judged by. No other node may have a name or an address that servers are
// recognised by.
func approvals(cfg config.Config, adminConfig string) approval.Config {
	a := approval.Config{
		Client:        func() (kubernetes.Interface, error) { return upstream.Client(adminConfig, "csr-approver") },
		ClusterDomain: cfg.ClusterDomain,
		ClusterCIDRs:  slices.Concat(cfg.ClusterCIDR, cfg.ServiceCIDR),
	}
	for _, leaf := range identities(cfg).Leaves {
		if leaf.Name != pki.APIServer {
			continue
		}
		a.Reserved = append(a.Reserved, leaf.DNSNames...)
		for _, ip := range leaf.IPs {
			a.Reserved = append(a.Reserved, ip.String())
		}
	}
	return a
}

// published is what agents need to know.
func published(cfg config.Config, certs *pki.Store) (map[string]string, error) {
	serverCA, err := os.ReadFile(certs.CertFile(pki.ServerCA))
	if err != nil {
		return nil, err
	}
	clientCA, err := os.ReadFile(certs.SigningCertFile(pki.ClientCA))
	if err != nil {
		return nil, err
	}
	return join.Publish(cfg.ClusterSettings(), serverCA, clientCA), nil
}

// identities lists the certificates and kubeconfigs of a server.
func identities(cfg config.Config) pki.Spec {
	h := pki.Host{
		NodeName:      cfg.NodeName,
		NodeIPs:       cfg.NodeIP,
		ClusterDomain: cfg.ClusterDomain,
		ExtraSANs:     cfg.TLSSAN,
	}
	if cfg.AdvertiseAddress.IsValid() {
		h.ExtraSANs = append(h.ExtraSANs, cfg.AdvertiseAddress.String())
	}
	for _, cidr := range cfg.ServiceCIDR {
		h.ServiceIPs = append(h.ServiceIPs, first(cidr))
	}
	url := "https://" + cfg.LocalAPI()
	spec := pki.Spec{Leaves: pki.ControlPlaneLeaves(h)}
	if inEtcd(cfg) {
		spec.Leaves = append(spec.Leaves, pki.DatastoreLeaves(h)...)
	}
	inside := []string{pki.ControllerManager, pki.Scheduler, pki.Admin}
	if !cfg.DisableAgent {
		spec.Leaves = append(spec.Leaves, pki.NodeLeaves(h)...)
		inside = append(inside, pki.KubeletClient)
	}
	for _, leaf := range inside {
		spec.Kubeconfigs = append(spec.Kubeconfigs, pki.Kubeconfig{Path: cfg.Paths().Kubeconfig(leaf), Server: url, Leaf: leaf})
	}
	spec.Kubeconfigs = append(spec.Kubeconfigs, pki.Kubeconfig{
		Path: cfg.WriteKubeconfig, Mode: fs.FileMode(cfg.WriteKubeconfigMode), Server: url, Leaf: pki.Admin, Embed: true})
	return spec
}

// first is the first usable address of a network.
func first(p netip.Prefix) netip.Addr { return p.Masked().Addr().Next() }
