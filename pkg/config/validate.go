package config

import (
	"fmt"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Validate returns everything that is wrong with c as Problems, or nil. Fields that Complete fills may be empty.
func (c Config) Validate() error { return c.validate().err() }

func (c Config) validate() Problems {
	var v validator
	v.files(c)
	v.cluster(c)
	if c.Role == Agent {
		v.joining(c)
	} else {
		v.server(c)
	}
	v.node(c)
	v.components(c)
	return v.problems
}

type validator struct{ problems Problems }

func (v *validator) bad(option, format string, args ...any) {
	v.problems = append(v.problems, Problem{Option: option, Text: fmt.Sprintf(format, args...)})
}

// check reports what a rule says of a value, if anything.
func (v *validator) check(option, value string, rule func(string) error) {
	if err := rule(value); err != nil {
		v.bad(option, "%q %v", value, err)
	}
}

func (v *validator) files(c Config) {
	switch {
	case !filepath.IsAbs(c.DataDir):
		v.bad("data-dir", "%q is not an absolute path", c.DataDir)
	case filepath.Clean(c.DataDir) == "/":
		v.bad("data-dir", "must be a folder of edgebox's own, not /")
	}
	if !filepath.IsAbs(c.WriteKubeconfig) {
		v.bad("write-kubeconfig", "%q is not an absolute path", c.WriteKubeconfig)
	}
	if c.WriteKubeconfigMode&0o400 == 0 || c.WriteKubeconfigMode > 0o777 {
		v.bad("write-kubeconfig-mode", "%s does not let root read the file: use 0600", c.WriteKubeconfigMode)
	}
}

func (v *validator) cluster(c Config) {
	v.family("cluster-cidr", len(c.ClusterCIDR), func(i int) netip.Addr { return c.ClusterCIDR[i].Addr() })
	v.family("service-cidr", len(c.ServiceCIDR), func(i int) netip.Addr { return c.ServiceCIDR[i].Addr() })
	if len(c.ClusterCIDR) == 0 {
		v.bad("cluster-cidr", "is empty")
	}
	if len(c.ServiceCIDR) == 0 {
		v.bad("service-cidr", "is empty")
	}
	for _, p := range c.ClusterCIDR {
		// Every node gets a /24 or /64 of it, and the controller manager hands out at most 2^16 of them.
		if lo, hi := bounds(p, 8, 24, 48, 64); p.Bits() < lo || p.Bits() > hi {
			v.bad("cluster-cidr", "%s must have a prefix length from /%d to /%d", p, lo, hi)
		}
	}
	for _, p := range c.ServiceCIDR {
		// The API server takes at most 20 bits; the 10th address must be within.
		if lo, hi := bounds(p, 12, 28, 108, 124); p.Bits() < lo || p.Bits() > hi {
			v.bad("service-cidr", "%s must have a prefix length from /%d to /%d", p, lo, hi)
		}
	}
	if !sameFamilies(c.ClusterCIDR, c.ServiceCIDR) {
		v.bad("service-cidr", "%s must have the IP families of cluster-cidr %s, in the same order",
			join(c.ServiceCIDR), join(c.ClusterCIDR))
	}
	for _, s := range c.ServiceCIDR {
		for _, p := range c.ClusterCIDR {
			if s.Overlaps(p) {
				v.bad("service-cidr", "%s overlaps cluster-cidr %s", s, p)
			}
		}
	}

	v.family("cluster-dns", len(c.ClusterDNS), func(i int) netip.Addr { return c.ClusterDNS[i] })
	for _, a := range c.ClusterDNS {
		i := slices.IndexFunc(c.ServiceCIDR, func(p netip.Prefix) bool { return p.Contains(a) })
		switch {
		case i < 0:
			v.bad("cluster-dns", "%s is not within service-cidr %s", a, join(c.ServiceCIDR))
		case a == c.ServiceCIDR[i].Addr() || a == c.ServiceCIDR[i].Addr().Next():
			v.bad("cluster-dns", "%s is taken: the first addresses of service-cidr belong to the kubernetes Service", a)
		}
	}
	v.check("cluster-domain", c.ClusterDomain, dnsName)

	from, to, ok := portRange(c.NodePortRange)
	switch {
	case !ok:
		v.bad("service-node-port-range", "%q is not a range of ports such as 30000-32767", c.NodePortRange)
	case c.HTTPSListenPort >= from && c.HTTPSListenPort <= to:
		v.bad("https-listen-port", "%d is within service-node-port-range %s", c.HTTPSListenPort, c.NodePortRange)
	}
}

func (v *validator) server(c Config) {
	if c.HTTPSListenPort < 1 || c.HTTPSListenPort > 65535 {
		v.bad("https-listen-port", "%d is out of range (1-65535)", c.HTTPSListenPort)
	}
	if !c.BindAddress.IsValid() {
		v.bad("bind-address", "is empty")
	}
	if a := c.AdvertiseAddress; a.IsValid() {
		switch {
		case !a.IsGlobalUnicast():
			v.bad("advertise-address", "%s cannot be reached from pods", a)
		case len(c.ServiceCIDR) > 0 && a.Is4() != c.ServiceCIDR[0].Addr().Is4():
			v.bad("advertise-address", "%s must be of the IP family of the first service-cidr %s", a, c.ServiceCIDR[0])
		}
	}
	v.serverURL(c)
	for _, conflict := range []struct {
		option string
		given  bool
		with   string
		set    bool
	}{
		{"cluster-init", c.ClusterInit, "server", c.Server != ""},
		{"cluster-init", c.ClusterInit, "datastore-endpoint", c.DatastoreEndpoint != ""},
		{"server", c.Server != "", "datastore-endpoint", c.DatastoreEndpoint != ""},
	} {
		if conflict.given && conflict.set {
			v.bad(conflict.option, "contradicts %s: a server begins a cluster, joins one, or finds it in a database", conflict.with)
		}
	}
	for _, san := range c.TLSSAN {
		if _, err := netip.ParseAddr(san); err != nil {
			v.check("tls-san", san, func(s string) error { return dnsName(strings.TrimPrefix(s, "*.")) })
		}
	}
	v.datastore(c)
}

func (v *validator) datastore(c Config) {
	files := []struct{ option, path string }{
		{"datastore-cafile", c.DatastoreCAFile}, {"datastore-certfile", c.DatastoreCertFile}, {"datastore-keyfile", c.DatastoreKeyFile}}
	for _, f := range files {
		switch {
		case f.path == "":
		case !filepath.IsAbs(f.path):
			v.bad(f.option, "%q is not an absolute path", f.path)
		case c.DatastoreEndpoint == "":
			v.bad(f.option, "has no effect without datastore-endpoint: remove it")
		}
	}
	if (c.DatastoreCertFile == "") != (c.DatastoreKeyFile == "") {
		v.bad("datastore-certfile", "and datastore-keyfile belong together: give both or none")
	}
	// The endpoint holds a password, so it is not shown.
	if c.DatastoreEndpoint == "" {
		return
	}
	scheme, rest, ok := strings.Cut(c.DatastoreEndpoint, "://")
	if !ok || scheme == "" || rest == "" {
		v.bad("datastore-endpoint", "must be of the form SCHEME://…, such as postgres://user:password@host/database")
		return
	}
	if !slices.Contains(datastoreSchemes, scheme) {
		v.bad("datastore-endpoint", "begins with %s://, which is none of %s", scheme, strings.Join(datastoreSchemes, ", "))
		return
	}
	if scheme != "http" && scheme != "https" {
		return
	}
	for _, e := range strings.Split(c.DatastoreEndpoint, ",") {
		u, err := url.Parse(e)
		if err != nil || u.Scheme != scheme || u.Port() == "" || u.Hostname() == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
			v.bad("datastore-endpoint", "must be URLs of etcd such as https://10.0.0.1:2379, separated by commas, all with the same scheme and each with a port, without a user name: etcd is told who edgebox is by datastore-certfile")
			return
		}
	}
}

// datastoreSchemes begin the endpoints that pkg/datastore can use.
var datastoreSchemes = []string{"postgres", "postgresql", "mysql", "nats", "http", "https"}

func (v *validator) serverURL(c Config) {
	if c.Server == "" {
		return
	}
	if _, err := serverAddress(c.Server); err != nil {
		v.bad("server", "%q %v", c.Server, err)
	}
}

// joining is for agents.
func (v *validator) joining(c Config) {
	if c.Server == "" {
		v.bad("server", "is not given: an agent needs the URL of a server, such as https://192.168.1.10:6443")
	}
	v.serverURL(c)
	if c.BalancerPort < 1 || c.BalancerPort > 65535 {
		v.bad("lb-server-port", "%d is out of range (1-65535)", c.BalancerPort)
	}
}

func (v *validator) node(c Config) {
	if c.NodeName != "" {
		v.check("node-name", c.NodeName, nodeName)
	}
	v.family("node-ip", len(c.NodeIP), func(i int) netip.Addr { return c.NodeIP[i] })
	for _, a := range c.NodeIP {
		if !a.IsGlobalUnicast() {
			v.bad("node-ip", "%s cannot be reached from other nodes", a)
		}
		for _, p := range c.ClusterCIDR {
			if p.Contains(a) {
				v.bad("node-ip", "%s is within cluster-cidr %s: choose another range for pods", a, p)
			}
		}
		for _, p := range c.ServiceCIDR {
			if p.Contains(a) {
				v.bad("node-ip", "%s is within service-cidr %s: choose another range for services", a, p)
			}
		}
	}
	if len(c.NodeIP) > 0 && len(c.ClusterCIDR) > 0 && c.NodeIP[0].Is4() != c.ClusterCIDR[0].Addr().Is4() {
		v.bad("node-ip", "%s must be of the IP family of the first cluster-cidr %s", c.NodeIP[0], c.ClusterCIDR[0])
	}

	seen := map[string]bool{}
	for _, l := range c.NodeLabel {
		v.check("node-label", l, nodeLabel)
		key, _, _ := strings.Cut(l, "=")
		if seen[key] {
			v.bad("node-label", "%q is given twice", key)
		}
		seen[key] = true
	}
	for _, t := range c.NodeTaint {
		v.check("node-taint", t, nodeTaint)
		if seen["taint "+t] {
			v.bad("node-taint", "%q is given twice", t)
		}
		seen["taint "+t] = true
	}
	if strings.ContainsFunc(c.Token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		v.bad("token", "must be printable ASCII without spaces")
	}
	if c.TokenFile != "" && !filepath.IsAbs(c.TokenFile) {
		v.bad("token-file", "%q is not an absolute path", c.TokenFile)
	}
	if c.Token != "" && c.TokenFile != "" {
		v.bad("token-file", "has no effect together with token: remove one of them")
	}
}

func (v *validator) components(c Config) {
	if !slices.Contains(FlannelBackends, c.FlannelBackend) {
		v.bad("flannel-backend", "%q is not one of %s", c.FlannelBackend, strings.Join(FlannelBackends, ", "))
	}
	if c.FlannelIface != "" {
		v.check("flannel-iface", c.FlannelIface, interfaceName)
	}
	var names []string
	for _, o := range OptionalComponents {
		names = append(names, o.Name)
	}
	for _, name := range c.Disable {
		if slices.Contains(names, name) {
			continue
		}
		hint := "the optional ones are " + strings.Join(names, ", ")
		if near := Nearest(name, names); near != "" {
			hint = "did you mean " + near + "?"
		}
		v.bad("disable", "%q is not an optional component: %s", name, hint)
	}

	for _, upstream := range []struct {
		option string
		args   []string
	}{
		{"kube-apiserver-arg", c.APIServerArg},
		{"kube-controller-manager-arg", c.ControllerManagerArg},
		{"kube-scheduler-arg", c.SchedulerArg},
		{"kubelet-arg", c.KubeletArg},
		{"kube-proxy-arg", c.ProxyArg},
	} {
		for _, a := range upstream.args {
			v.check(upstream.option, a, upstreamArg)
			name, _, _ := strings.Cut(a, "=")
			if reason, isFixed := FixedArguments(upstream.option)[name]; isFixed {
				v.bad(upstream.option, "%s %s", name, reason)
			}
		}
	}

	// What the user says about something that will not run is a mistake on one side or the other.
	for _, conflict := range []struct {
		option string
		given  bool
		with   string
		set    bool
	}{
		{"node-label", len(c.NodeLabel) > 0, "disable-agent", c.DisableAgent},
		{"node-taint", len(c.NodeTaint) > 0, "disable-agent", c.DisableAgent},
		{"kubelet-arg", len(c.KubeletArg) > 0, "disable-agent", c.DisableAgent},
		{"kube-proxy-arg", len(c.ProxyArg) > 0, "disable-agent", c.DisableAgent},
		{"kube-proxy-arg", len(c.ProxyArg) > 0, "disable=kube-proxy", slices.Contains(c.Disable, KubeProxy)},
	} {
		if conflict.given && conflict.set {
			v.bad(conflict.option, "has no effect together with %s: remove one of them", conflict.with)
		}
	}
}

// family reports more than one value of an IP family.
func (v *validator) family(option string, n int, addr func(int) netip.Addr) {
	var four, six int
	for i := range n {
		if addr(i).Is4() {
			four++
		} else {
			six++
		}
	}
	if four > 1 || six > 1 {
		v.bad(option, "has more than one value of an IP family: give one for IPv4, one for IPv6, or both")
	}
}

// bounds are the prefix lengths allowed for p's family.
func bounds(p netip.Prefix, lo4, hi4, lo6, hi6 int) (lo, hi int) {
	if p.Addr().Is4() {
		return lo4, hi4
	}
	return lo6, hi6
}

func sameFamilies(a, b []netip.Prefix) bool {
	return slices.EqualFunc(a, b, func(x, y netip.Prefix) bool { return x.Addr().Is4() == y.Addr().Is4() })
}

func join[T fmt.Stringer](list []T) string {
	out := make([]string, len(list))
	for i, e := range list {
		out[i] = e.String()
	}
	return strings.Join(out, ",")
}

func portRange(s string) (from, to int, ok bool) {
	a, b, _ := strings.Cut(s, "-")
	from, err1 := strconv.Atoi(a)
	to, err2 := strconv.Atoi(b)
	return from, to, err1 == nil && err2 == nil && from >= 1 && from <= to && to <= 65535
}
