// Package config is edgebox's one typed configuration: its defaults, where each value may come from (flags,
// EDGEBOX_* variables, /etc/edgebox/config.yaml), its validation, and every path of the product.
//
// Each option is declared once, as a field of Config. The flags of the command line, the variables, the keys of
// config.yaml and docs/configuration.md all follow from that declaration (see Options).
//
// It reads files, the environment and facts of the host when told to, and changes nothing. It is linked into the
// front, which must start within milliseconds: standard library and a YAML parser only.
package config

//go:generate go run ../../scripts/configdoc -o ../../docs/configuration.md

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
)

// Config is what a node is told by its user. The option tag holds the name of the flag and of the key in
// config.yaml; the variable is EDGEBOX_ and that name in capitals. Fields without a default in Defaults are
// filled by Complete from the host. A blank field starts a group of options in help and documentation.
type Config struct {
	Role  Role     // chosen by the command
	Found []string // options that Complete filled in from the host's addresses, which may change

	DataDir string `option:"data-dir" usage:"folder of all state"`
	Debug   bool   `option:"debug" usage:"log more"`

	// All nodes of a cluster have the same values. The servers' count: agents get them from there.
	_              struct{}       `group:"Cluster"`
	ClusterCIDR    []netip.Prefix `option:"cluster-cidr" scope:"server" shared:"true" usage:"pod addresses, one range per IP family, the main family first"`
	ServiceCIDR    []netip.Prefix `option:"service-cidr" scope:"server" shared:"true" usage:"service addresses, one range per IP family in the same order"`
	ClusterDNS     []netip.Addr   `option:"cluster-dns" scope:"server" shared:"true" fallback:"the 10th address of service-cidr" usage:"address of the kube-dns Service, one per IP family"`
	ClusterDomain  string         `option:"cluster-domain" scope:"server" shared:"true" usage:"DNS domain of the cluster"`
	NodePortRange  string         `option:"service-node-port-range" scope:"server" shared:"true" usage:"ports for NodePort services"`
	FlannelBackend string         `option:"flannel-backend" scope:"server" shared:"true" usage:"network between nodes: vxlan, host-gw, wireguard-native or none"`
	Disable        []string       `option:"disable" scope:"server" shared:"true" usage:"optional component to leave out"`

	_            struct{} `group:"Joining"`
	Server       string   `option:"server" usage:"URL of a server of the cluster to join, such as https://192.168.1.10:6443; a server joins as one more server"`
	Token        string   `option:"token" fallback:"generated on the first server" usage:"secret by which nodes join: on an agent what edgebox token create prints, on one more server what edgebox token server prints; on the first server its second part, ID.SECRET, may be chosen" secret:"true"`
	TokenFile    string   `option:"token-file" usage:"file that holds the token"`
	BalancerPort int      `option:"lb-server-port" scope:"agent" usage:"port on the loopback address by which this node reaches the API of whichever server answers"`

	_                   struct{}   `group:"Server"`
	BindAddress         netip.Addr `option:"bind-address" scope:"server" usage:"address that the API listens on; 0.0.0.0 and :: are every address of both IP families"`
	HTTPSListenPort     int        `option:"https-listen-port" scope:"server" usage:"port of the Kubernetes API"`
	AdvertiseAddress    netip.Addr `option:"advertise-address" scope:"server" fallback:"bind-address if it is one address, else node-ip" usage:"address of the API that pods are told"`
	TLSSAN              []string   `option:"tls-san" scope:"server" usage:"additional host names or addresses on the API's certificate"`
	WriteKubeconfig     string     `option:"write-kubeconfig" scope:"server" usage:"file that gets the admin kubeconfig"`
	WriteKubeconfigMode FileMode   `option:"write-kubeconfig-mode" scope:"server" usage:"mode of that file"`
	DatastoreEndpoint   string     `option:"datastore-endpoint" scope:"server" fallback:"SQLite in the data dir" usage:"database elsewhere for the cluster: postgres://, mysql:// or nats://, or the https:// URLs of an etcd cluster, separated by commas" secret:"true"`
	DatastoreCAFile     string     `option:"datastore-cafile" scope:"server" usage:"file of the CA that the certificate of that database must be from"`
	DatastoreCertFile   string     `option:"datastore-certfile" scope:"server" usage:"file of the certificate that edgebox shows to that database"`
	DatastoreKeyFile    string     `option:"datastore-keyfile" scope:"server" usage:"file of its key"`
	ClusterInit         bool       `option:"cluster-init" scope:"server" usage:"keep the cluster's objects in etcd on the servers themselves, so that others can join as servers with --server"`
	DisableAgent        bool       `option:"disable-agent" scope:"server" usage:"run the control plane alone, without a kubelet"`

	_            struct{}     `group:"Node"`
	NodeName     string       `option:"node-name" fallback:"the host's name" usage:"name of this node"`
	NodeIP       []netip.Addr `option:"node-ip" fallback:"address of the default route's interface, else of the first one that is up" usage:"addresses of this node, one per IP family"`
	NodeLabel    []string     `option:"node-label" usage:"label for the node, KEY=VALUE"`
	NodeTaint    []string     `option:"node-taint" usage:"taint for the node, KEY=VALUE:EFFECT"`
	FlannelIface string       `option:"flannel-iface" fallback:"the one of node-ip" usage:"network interface between nodes"`

	_ struct{} `group:"Components"`
	// Commas belong to the values of upstream arguments.
	APIServerArg         []string `option:"kube-apiserver-arg" scope:"server" commas:"keep" usage:"argument for kube-apiserver, NAME=VALUE"`
	ControllerManagerArg []string `option:"kube-controller-manager-arg" scope:"server" commas:"keep" usage:"argument for kube-controller-manager, NAME=VALUE"`
	SchedulerArg         []string `option:"kube-scheduler-arg" scope:"server" commas:"keep" usage:"argument for kube-scheduler, NAME=VALUE"`
	KubeletArg           []string `option:"kubelet-arg" commas:"keep" usage:"argument for kubelet, NAME=VALUE"`
	ProxyArg             []string `option:"kube-proxy-arg" commas:"keep" usage:"argument for kube-proxy, NAME=VALUE"`
}

// Role is what a node is to its cluster.
type Role string

// The roles.
const (
	Server Role = "server" // the control plane, with a node beside it unless that is left out
	Agent  Role = "agent"  // a node alone
)

// Disabled reports whether the user left out the component of that name.
func (c Config) Disabled(name string) bool {
	if name == Flannel && c.FlannelBackend == "none" {
		return true
	}
	return slices.Contains(c.Disable, name)
}

// Paths are those of a node with this configuration.
func (c Config) Paths() Paths { return Paths{Data: c.DataDir, Run: "/run/edgebox"} }

// FileMode is a file's permission bits, written in octal.
type FileMode uint32

func (m FileMode) String() string { return fmt.Sprintf("%04o", uint32(m)) }

// MarshalText writes the mode in octal.
func (m FileMode) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads a mode in octal, with or without a leading 0 or 0o.
func (m *FileMode) UnmarshalText(text []byte) error {
	s := string(text)
	if len(s) > 2 && (s[:2] == "0o" || s[:2] == "0O") {
		s = s[2:]
	}
	n, err := strconv.ParseUint(s, 8, 32)
	if err != nil || n > 0o777 {
		return fmt.Errorf("%s is not a file mode such as 0640", text)
	}
	*m = FileMode(n)
	return nil
}
