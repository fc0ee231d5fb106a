package config

import (
	"net/netip"
	"strings"
	"testing"
)

func addrs(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func TestValidate(t *testing.T) {
	long := strings.Repeat("x", 64)
	for name, test := range map[string]struct {
		change func(*Config)
		want   string // the whole error; empty: none
	}{
		"defaults": {func(c *Config) {}, ""},
		"dual-stack": {func(c *Config) {
			c.ClusterCIDR, c.ServiceCIDR = prefixes("10.42.0.0/16", "fd42::/56"), prefixes("10.43.0.0/16", "fd43::/112")
		}, ""},
		"IPv6":     {func(c *Config) { c.ClusterCIDR, c.ServiceCIDR = prefixes("fd42::/56"), prefixes("fd43::/112") }, ""},
		"wildcard": {func(c *Config) { c.TLSSAN = []string{"*.example.org", "10.0.0.1", "::1"} }, ""},
		"node facts": {func(c *Config) {
			c.NodeName, c.NodeIP = "box-1.lan", addrs("192.0.2.1")
			c.NodeLabel = []string{"a=", "example.org/b=C_d.e", "node.kubernetes.io/pool=edge", "topology.kubernetes.io/zone=z"}
			c.NodeTaint = []string{"gpu:NoSchedule", "gpu=yes:NoExecute", "example.org/x=:PreferNoSchedule"}
		}, ""},

		"data dir relative": {func(c *Config) { c.DataDir = "data" }, `data-dir: "data" is not an absolute path`},
		"data dir is root":  {func(c *Config) { c.DataDir = "//" }, "data-dir: must be a folder of edgebox's own, not /"},
		"kubeconfig empty":  {func(c *Config) { c.WriteKubeconfig = "" }, `write-kubeconfig: "" is not an absolute path`},
		"mode":              {func(c *Config) { c.WriteKubeconfigMode = 0o200 }, "write-kubeconfig-mode: 0200 does not let root read the file: use 0600"},

		"no cluster-cidr": {func(c *Config) { c.ClusterCIDR, c.ServiceCIDR = nil, nil }, "cluster-cidr: is empty\nservice-cidr: is empty"},
		"two of a family": {func(c *Config) {
			c.ClusterCIDR, c.ServiceCIDR = prefixes("10.1.0.0/16", "10.2.0.0/16"), prefixes("10.3.0.0/16", "10.4.0.0/16")
		},
			"cluster-cidr: has more than one value of an IP family: give one for IPv4, one for IPv6, or both\n" +
				"service-cidr: has more than one value of an IP family: give one for IPv4, one for IPv6, or both"},
		"families differ": {func(c *Config) { c.ServiceCIDR = prefixes("fd43::/112") },
			"service-cidr: fd43::/112 must have the IP families of cluster-cidr 10.42.0.0/16, in the same order"},
		"families swapped": {func(c *Config) {
			c.ClusterCIDR, c.ServiceCIDR = prefixes("10.42.0.0/16", "fd42::/56"), prefixes("fd43::/112", "10.43.0.0/16")
		},
			"service-cidr: fd43::/112,10.43.0.0/16 must have the IP families of cluster-cidr 10.42.0.0/16,fd42::/56, in the same order"},
		"cluster too small": {func(c *Config) { c.ClusterCIDR = prefixes("10.42.0.0/25") }, "cluster-cidr: 10.42.0.0/25 must have a prefix length from /8 to /24"},
		"cluster too large": {func(c *Config) { c.ClusterCIDR, c.ServiceCIDR = prefixes("fd42::/40"), prefixes("fd43::/112") },
			"cluster-cidr: fd42::/40 must have a prefix length from /48 to /64"},
		"services too large": {func(c *Config) { c.ServiceCIDR = prefixes("11.0.0.0/8") }, "service-cidr: 11.0.0.0/8 must have a prefix length from /12 to /28"},
		"overlap":            {func(c *Config) { c.ServiceCIDR = prefixes("10.42.16.0/20") }, "service-cidr: 10.42.16.0/20 overlaps cluster-cidr 10.42.0.0/16"},
		"dns outside":        {func(c *Config) { c.ClusterDNS = addrs("10.44.0.10") }, "cluster-dns: 10.44.0.10 is not within service-cidr 10.43.0.0/16"},
		"dns is taken": {func(c *Config) { c.ClusterDNS = addrs("10.43.0.1") },
			"cluster-dns: 10.43.0.1 is taken: the first addresses of service-cidr belong to the kubernetes Service"},
		"domain": {func(c *Config) { c.ClusterDomain = "cluster.local." },
			`cluster-domain: "cluster.local." is not a DNS name: use lower-case letters, digits, - and . (RFC 1123)`},
		"node ports": {func(c *Config) { c.NodePortRange = "30000" }, `service-node-port-range: "30000" is not a range of ports such as 30000-32767`},
		"API within node ports": {func(c *Config) { c.HTTPSListenPort = 30443 },
			"https-listen-port: 30443 is within service-node-port-range 30000-32767"},

		"port":               {func(c *Config) { c.HTTPSListenPort = 0 }, "https-listen-port: 0 is out of range (1-65535)"},
		"advertise loopback": {func(c *Config) { c.AdvertiseAddress = netip.MustParseAddr("127.0.0.1") }, "advertise-address: 127.0.0.1 cannot be reached from pods"},
		"advertise family": {func(c *Config) { c.AdvertiseAddress = netip.MustParseAddr("2001:db8::1") },
			"advertise-address: 2001:db8::1 must be of the IP family of the first service-cidr 10.43.0.0/16"},
		"datastore": {func(c *Config) { c.DatastoreEndpoint = "user:hunter2@db" },
			"datastore-endpoint: must be of the form SCHEME://…, such as postgres://user:password@host/database"},
		"datastore scheme": {func(c *Config) { c.DatastoreEndpoint = "redis://user:hunter2@db/0" },
			"datastore-endpoint: begins with redis://, which is none of postgres, postgresql, mysql, nats, http, https"},
		"datastore etcd": {func(c *Config) { c.DatastoreEndpoint = "https://10.0.0.1:2379,http://10.0.0.2:2379" },
			"datastore-endpoint: must be URLs of etcd such as https://10.0.0.1:2379, separated by commas, all with the same scheme and each with a port, " +
				"without a user name: etcd is told who edgebox is by datastore-certfile"},
		"datastore key": {func(c *Config) { c.DatastoreEndpoint, c.DatastoreCertFile = "postgres://db/kine", "/etc/cert.pem" },
			"datastore-certfile: and datastore-keyfile belong together: give both or none"},
		"datastore CA": {func(c *Config) { c.DatastoreCAFile = "/etc/ca.pem" }, "datastore-cafile: has no effect without datastore-endpoint: remove it"},
		"datastore CA path": {func(c *Config) { c.DatastoreEndpoint, c.DatastoreCAFile = "postgres://db/kine", "ca.pem" },
			`datastore-cafile: "ca.pem" is not an absolute path`},

		"node name too long": {func(c *Config) { c.NodeName = long }, `node-name: "` + long + `" is longer than 63 characters`},
		"node name":          {func(c *Config) { c.NodeName = "a..b" }, `node-name: "a..b" is not a DNS name: use lower-case letters, digits, - and . (RFC 1123)`},
		"node ip":            {func(c *Config) { c.NodeIP = addrs("169.254.1.1") }, "node-ip: 169.254.1.1 cannot be reached from other nodes"},
		"node ip for pods":   {func(c *Config) { c.NodeIP = addrs("10.42.0.7") }, "node-ip: 10.42.0.7 is within cluster-cidr 10.42.0.0/16: choose another range for pods"},
		"node ip for services": {func(c *Config) { c.NodeIP = addrs("10.43.0.7") },
			"node-ip: 10.43.0.7 is within service-cidr 10.43.0.0/16: choose another range for services"},
		"node ip family": {func(c *Config) { c.NodeIP = addrs("2001:db8::1") },
			"node-ip: 2001:db8::1 must be of the IP family of the first cluster-cidr 10.42.0.0/16"},
		"label twice": {func(c *Config) { c.NodeLabel = []string{"a=b", "a=c"} }, `node-label: "a" is given twice`},
		"label of Kubernetes": {func(c *Config) { c.NodeLabel = []string{"node-role.kubernetes.io/worker=true"} },
			`node-label: "node-role.kubernetes.io/worker=true" is a label that a node may not give itself: ` +
				"set it with `edgebox kubectl label node`, or use a prefix of your own or node.kubernetes.io"},
		"label prefix": {func(c *Config) { c.NodeLabel = []string{"a_b/c=d"} }, `node-label: "a_b/c=d" has a key whose part before / is not a DNS name`},
		"label value": {func(c *Config) { c.NodeLabel = []string{"a=-"} },
			`node-label: "a=-" has a value that is not up to 63 letters, digits, -, _ and ., with a letter or digit at both ends`},
		"taint":        {func(c *Config) { c.NodeTaint = []string{"a=b"} }, `node-taint: "a=b" is not of the form KEY=VALUE:EFFECT`},
		"taint effect": {func(c *Config) { c.NodeTaint = []string{"a:Never"} }, `node-taint: "a:Never" has an effect that is not NoSchedule, PreferNoSchedule, NoExecute`},
		"taint key": {func(c *Config) { c.NodeTaint = []string{"a b:NoExecute"} },
			`node-taint: "a b:NoExecute" has a key that is not up to 63 letters, digits, -, _ and ., with a letter or digit at both ends`},
		"token": {func(c *Config) { c.Token = "hunter2\n" }, "token: must be printable ASCII without spaces"},

		"backend": {func(c *Config) { c.FlannelBackend = "ipip" }, `flannel-backend: "ipip" is not one of vxlan, host-gw, wireguard-native, none`},
		"iface":   {func(c *Config) { c.FlannelIface = "a-name-of-16-chr" }, `flannel-iface: "a-name-of-16-chr" cannot be the name of a network interface`},
		"disable": {func(c *Config) { c.Disable = []string{"kubeproxy", "traefik"} },
			"disable: \"kubeproxy\" is not an optional component: did you mean kube-proxy?\n" +
				"disable: \"traefik\" is not an optional component: the optional ones are dns, flannel, kube-proxy"},
		"dashes":  {func(c *Config) { c.SchedulerArg = []string{"--v=2"} }, `kube-scheduler-arg: "--v=2" must be written without dashes at its start`},
		"no name": {func(c *Config) { c.ControllerManagerArg = []string{"=2"} }, `kube-controller-manager-arg: "=2" is not of the form NAME=VALUE`},

		"no agent": {func(c *Config) { c.DisableAgent, c.NodeTaint = true, []string{"a:NoExecute"} },
			"node-taint: has no effect together with disable-agent: remove one of them"},
		"no proxy": {func(c *Config) { c.Disable, c.ProxyArg = []string{KubeProxy}, []string{"v=2"} },
			"kube-proxy-arg: has no effect together with disable=kube-proxy: remove one of them"},
	} {
		t.Run(name, func(t *testing.T) {
			c := Defaults()
			test.change(&c)
			have := ""
			if err := c.Validate(); err != nil {
				have = err.Error()
			}
			if have != test.want {
				t.Errorf("have %s\nwant %s", have, test.want)
			}
		})
	}
}

func TestNearest(t *testing.T) {
	words := []string{"dns", "flannel", "kube-proxy"}
	for name, want := range map[string]string{"DNS": "dns", "flanel": "flannel", "kube_proxy": "kube-proxy", "traefik": "", "x": "", "": ""} {
		if have := Nearest(name, words); have != want {
			t.Errorf("%q: have %q, want %q", name, have, want)
		}
	}
}
