package config

import "net/netip"

// Names of the optional components: what --disable takes, and what Disabled is asked for.
const (
	DNS       = "dns"
	Flannel   = "flannel"
	KubeProxy = "kube-proxy"
)

// An OptionalComponent can be left out with --disable.
type OptionalComponent struct {
	Name string
	Does string
}

// OptionalComponents are all that --disable knows.
var OptionalComponents = []OptionalComponent{
	{DNS, "cluster DNS on every node, behind the kube-dns Service"},
	{Flannel, "network between nodes"},
	{KubeProxy, "Services, by nftables"},
}

// FlannelBackends are the values of flannel-backend.
var FlannelBackends = []string{"vxlan", "host-gw", "wireguard-native", "none"}

// Defaults is the configuration of a node whose user says nothing, as far as it does not depend on the host.
func Defaults() Config {
	return Config{
		Role:                Server,
		DataDir:             "/var/lib/edgebox",
		ClusterCIDR:         []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")},
		ServiceCIDR:         []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16")},
		ClusterDomain:       "cluster.local",
		NodePortRange:       "30000-32767",
		BindAddress:         netip.IPv4Unspecified(),
		HTTPSListenPort:     6443,
		WriteKubeconfig:     "/etc/edgebox/kubeconfig.yaml",
		WriteKubeconfigMode: 0o600,
		FlannelBackend:      "vxlan",
		BalancerPort:        6444,
	}
}
