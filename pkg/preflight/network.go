package preflight

import (
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func probeNetwork(h *host, in Input) []Result {
	const name = "network features"
	var rs []Result
	var good []string
	for _, f := range h.network(in.FlannelBackend == "vxlan") {
		if f.err != nil {
			fix := "use a kernel with " + f.option
			if f.name == "vxlan links" {
				fix += ", or --flannel-backend=host-gw when all nodes share one network"
			}
			rs = append(rs, Result{name, Error, fmt.Sprintf("the kernel cannot do %s: %v", f.name, f.err), fix})
			continue
		}
		good = append(good, f.name)
	}
	if rs == nil {
		return ok(name, "%s work", strings.Join(good, ", "))
	}
	return rs
}

// tryNetwork makes the links and rules of a pod network in a network namespace that ends with the attempt. The kernel
// loads the modules for most of them by itself.
func tryNetwork(vxlan bool) []netFeature {
	var fs []netFeature
	try := func(name, option string, err error) { fs = append(fs, netFeature{name, option, err}) }
	err := inNamespace(unix.CLONE_NEWNET, func() error {
		bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br"}}
		try("bridges", "CONFIG_BRIDGE", netlink.LinkAdd(bridge))
		try("veth pairs", "CONFIG_VETH", netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "v0"}, PeerName: "v1"}))
		if vxlan {
			try("vxlan links", "CONFIG_VXLAN", netlink.LinkAdd(&netlink.Vxlan{
				LinkAttrs: netlink.LinkAttrs{Name: "vx"}, VxlanId: 1, Port: 8472, Learning: false,
			}))
		}
		err := tryTable()
		try("nf_tables", "CONFIG_NF_TABLES and CONFIG_NF_TABLES_INET", err)
		if err != nil {
			return nil
		}
		for _, r := range nftFeatures {
			try(r.name, r.option, tryRule(r.hook, r.exprs))
		}
		return nil
	})
	if err != nil {
		return append(fs, netFeature{"network namespaces", "CONFIG_NET_NS", err})
	}
	return fs
}

// nftFeatures are the parts of nf_tables that kube-proxy, flannel and the CNI plugins use.
var nftFeatures = []struct {
	name, option string
	hook         *nftables.ChainHook
	exprs        []expr.Any
}{
	{"nft ct", "CONFIG_NFT_CT", nftables.ChainHookForward, []expr.Any{&expr.Ct{Register: 1, Key: expr.CtKeySTATE}}},
	{"nft fib", "CONFIG_NFT_FIB_INET", nftables.ChainHookPrerouting, []expr.Any{&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true}}},
	{"nft numgen", "CONFIG_NFT_NUMGEN", nftables.ChainHookForward, []expr.Any{&expr.Numgen{Register: 1, Modulus: 2, Type: unix.NFT_NG_RANDOM}}},
	{"nft reject", "CONFIG_NFT_REJECT_INET", nftables.ChainHookForward, []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH}}},
	{"nft masquerade", "CONFIG_NFT_MASQ and CONFIG_NF_NAT", nftables.ChainHookPostrouting, []expr.Any{&expr.Masq{}}},
}

func tryTable() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	t := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "edgebox-check"})
	c.AddChain(&nftables.Chain{Table: t, Name: "check"})
	return c.Flush()
}

func tryRule(hook *nftables.ChainHook, exprs []expr.Any) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	t := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "edgebox-check"})
	chain := &nftables.Chain{Table: t, Name: "hook", Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: nftables.ChainPriorityFilter}
	if _, isNAT := exprs[0].(*expr.Masq); isNAT {
		chain.Name, chain.Type, chain.Priority = "nat", nftables.ChainTypeNAT, nftables.ChainPriorityNATSource
	} else {
		chain.Name = fmt.Sprintf("hook%d", *hook)
	}
	c.AddChain(chain)
	c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: exprs})
	return c.Flush()
}

func listLinks() ([]string, error) {
	links, err := netlink.LinkList()
	names := make([]string, len(links))
	for i, l := range links {
		names[i] = l.Attrs().Name
	}
	return names, err
}

func listTables() ([]table, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, err
	}
	chains, err := c.ListChains()
	if err != nil {
		return nil, fmt.Errorf("list nftables chains: %w", err)
	}
	var ts []table
	for _, ch := range chains {
		n := family(ch.Table.Family) + " " + ch.Table.Name
		i := slices.IndexFunc(ts, func(t table) bool { return t.name == n })
		if i < 0 {
			i = len(ts)
			ts = append(ts, table{name: n})
		}
		ts[i].chains = append(ts[i].chains, ch.Name)
		if ch.Hooknum != nil && *ch.Hooknum == *nftables.ChainHookForward && ch.Policy != nil && *ch.Policy == nftables.ChainPolicyDrop {
			ts[i].drops = append(ts[i].drops, ch.Name)
		}
	}
	return ts, nil
}

func family(f nftables.TableFamily) string {
	switch f {
	case nftables.TableFamilyIPv4:
		return "ip"
	case nftables.TableFamilyIPv6:
		return "ip6"
	case nftables.TableFamilyINet:
		return "inet"
	case nftables.TableFamilyARP:
		return "arp"
	case nftables.TableFamilyBridge:
		return "bridge"
	case nftables.TableFamilyNetdev:
		return "netdev"
	}
	return fmt.Sprintf("family%d", f)
}

func probeForwarding(h *host, _ Input) []Result {
	const path = "/proc/sys/net/ipv4/ip_forward"
	if h.read(path) == "1" {
		return ok("forwarding", "IPv4 forwarding is on")
	}
	if err := h.sysctl(path); err != nil {
		return one("forwarding", Error, fmt.Sprintf("IPv4 forwarding is off and cannot be set: %v", err),
			"run sysctl -w net.ipv4.ip_forward=1, or, in a container, mount /proc/sys writable (--privileged)")
	}
	return one("forwarding", Info, "IPv4 forwarding is off: edgebox turns it on", "")
}

// bridgeFilter exists once br_netfilter is loaded. Without it, a reply between two pods of one bridge bypasses the
// address translation of their Service.
const bridgeFilter = "/proc/sys/net/bridge/bridge-nf-call-iptables"

func probeBridgeFilter(h *host, in Input) []Result {
	if h.exists(bridgeFilter) {
		return ok("br_netfilter", "br_netfilter is there")
	}
	if !in.StartUp && h.hasModule("br_netfilter") {
		return one("br_netfilter", Info, "br_netfilter is not loaded: edgebox loads it when it starts", "")
	}
	return one("br_netfilter", Error, "br_netfilter is not there, so pods cannot reach Services whose pod is on the same node",
		"run modprobe br_netfilter (on the host, if this is a container), or use a kernel with CONFIG_BRIDGE_NETFILTER")
}

// hasModule reports whether the running kernel has a module of that name to load.
func (h *host) hasModule(name string) bool {
	release, err := h.uname()
	return err == nil && strings.Contains(h.read("/lib/modules/"+release+"/modules.dep"), "/"+name+".ko")
}
