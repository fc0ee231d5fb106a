// Package config is edgebox's one typed configuration: its defaults, where each value may come from (flags,
// EDGEBOX_* variables, /etc/edgebox/config.yaml), its validation, and every path of the product.
//
// It is pure: it reads files and the environment when told to, and changes nothing.
package config

import (
	"net/netip"
	"slices"
)

// Config is what a node is told by its user. The option tag holds the name of the flag and of the key in
// config.yaml; the variable is EDGEBOX_ and that name in capitals. Fields without a default in Defaults are
// filled by Complete from the host.
type Config struct {
	DataDir string `option:"data-dir" usage:"folder of all state"`
	Debug   bool   `option:"debug" usage:"log more"`

	// Cluster.
	ClusterCIDR   []netip.Prefix `option:"cluster-cidr" usage:"pod addresses, one per IP family"`
	ServiceCIDR   []netip.Prefix `option:"service-cidr" usage:"service addresses, one per IP family"`
	ClusterDNS    []netip.Addr   `option:"cluster-dns" usage:"address of the kube-dns Service (default: the 10th of service-cidr)"`
	ClusterDomain string         `option:"cluster-domain" usage:"DNS domain of the cluster"`
	NodePortRange string         `option:"service-node-port-range" usage:"ports for NodePort services"`

	// Server.
	BindAddress        netip.Addr `option:"bind-address" scope:"server" usage:"address that the API listens on"`
	HTTPSListenPort    int        `option:"https-listen-port" scope:"server" usage:"port of the Kubernetes API"`
	AdvertiseAddress   netip.Addr `option:"advertise-address" scope:"server" usage:"address of the API that pods are told (default: node-ip)"`
	TLSSAN             []string   `option:"tls-san" scope:"server" usage:"additional host names or addresses on the API's certificate"`
	WriteKubeconfig    string     `option:"write-kubeconfig" scope:"server" usage:"file that gets the admin kubeconfig"`
	WriteKubeconfigMod FileMode   `option:"write-kubeconfig-mode" scope:"server" usage:"mode of that file"`
	DatastoreEndpoint  string     `option:"datastore-endpoint" scope:"server" usage:"data source of kine (default: SQLite in the data dir)" secret:"true"`
	DisableAgent       bool       `option:"disable-agent" scope:"server" usage:"run the control plane alone, without a kubelet"`

	// Node.
	NodeName       string       `option:"node-name" usage:"name of this node (default: the host's name)"`
	NodeIP         []netip.Addr `option:"node-ip" usage:"addresses of this node, one per IP family (default: found)"`
	NodeLabel      []string     `option:"node-label" usage:"label for the node, KEY=VALUE"`
	NodeTaint      []string     `option:"node-taint" usage:"taint for the node, KEY=VALUE:EFFECT"`
	FlannelBackend string       `option:"flannel-backend" usage:"vxlan, host-gw or none"`
	FlannelIface   string       `option:"flannel-iface" usage:"network interface between nodes (default: the one of node-ip)"`
	Token          string       `option:"token" usage:"secret shared by servers and joining nodes" secret:"true"`

	Disable []string `option:"disable" usage:"optional component to leave out"`

	// Arguments passed on to upstream components, NAME=VALUE.
	APIServerArg         []string `option:"kube-apiserver-arg" scope:"server" usage:"argument for kube-apiserver, NAME=VALUE"`
	ControllerManagerArg []string `option:"kube-controller-manager-arg" scope:"server" usage:"argument for kube-controller-manager, NAME=VALUE"`
	SchedulerArg         []string `option:"kube-scheduler-arg" scope:"server" usage:"argument for kube-scheduler, NAME=VALUE"`
	KubeletArg           []string `option:"kubelet-arg" usage:"argument for kubelet, NAME=VALUE"`
	ProxyArg             []string `option:"kube-proxy-arg" usage:"argument for kube-proxy, NAME=VALUE"`
}

// Disabled reports whether the user left out the component of that name.
func (c Config) Disabled(name string) bool { return slices.Contains(c.Disable, name) }

// Paths are those of a node with this configuration.
func (c Config) Paths() Paths { return Paths{Data: c.DataDir, Run: "/run/edgebox"} }

// FileMode is a file's permission bits, written in octal.
type FileMode uint32
