package preflight

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func probeNetwork(h *host, in Input) []Result {
	const name = "network features"
	var rs []Result
	var good []string
	for _, f := range h.network(in.FlannelBackend) {
		if f.err != nil {
			fix := "use a kernel with " + f.option
			switch f.name {
			case "vxlan links":
				fix += ", or --flannel-backend=host-gw when all nodes share one network"
			case "wireguard links":
				fix += " (Linux has it since 5.6), or another --flannel-backend, such as vxlan, which does not encrypt"
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
func tryNetwork(backend string) []netFeature {
	var fs []netFeature
	try := func(name, option string, err error) { fs = append(fs, netFeature{name, option, err}) }
	err := inNamespace(unix.CLONE_NEWNET, func() error {
		bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br"}}
		try("bridges", "CONFIG_BRIDGE", netlink.LinkAdd(bridge))
		try("veth pairs", "CONFIG_VETH", netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "v0"}, PeerName: "v1"}))
		switch backend {
		case "vxlan":
			try("vxlan links", "CONFIG_VXLAN", netlink.LinkAdd(&netlink.Vxlan{
				LinkAttrs: netlink.LinkAttrs{Name: "vx"}, VxlanId: 1, Port: 8472, Learning: false,
			}))
		case "wireguard-native":
			try("wireguard links", "CONFIG_WIREGUARD", netlink.LinkAdd(&netlink.Wireguard{LinkAttrs: netlink.LinkAttrs{Name: "wg"}}))
		}
		err := tryTable()
		try("nf_tables", "CONFIG_NF_TABLES and CONFIG_NF_TABLES_INET", err)
		if err != nil {
			return nil
		}
		for _, f := range nftFeatures {
			try(f.name, f.option, tryRule(f.chain, f.rule))
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
	chain        nftables.Chain
	rule         func(*nftables.Conn, *nftables.Table) ([]expr.Any, error)
}{
	{"nft ct", "CONFIG_NFT_CT", filter(nftables.ChainHookForward), just(&expr.Ct{Register: 1, Key: expr.CtKeySTATE})},
	{"nft fib", "CONFIG_NFT_FIB_INET", filter(nftables.ChainHookPrerouting), just(&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true})},
	{"nft numgen", "CONFIG_NFT_NUMGEN", filter(nftables.ChainHookForward), just(&expr.Numgen{Register: 1, Modulus: 2, Type: unix.NFT_NG_RANDOM})},
	{"nft reject", "CONFIG_NFT_REJECT_INET", filter(nftables.ChainHookForward), just(&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH})},
	{"nft masquerade", "CONFIG_NFT_MASQ and CONFIG_NF_NAT", nat(nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource), just(&expr.Masq{})},
	{"nft dnat", "CONFIG_NFT_NAT", nat(nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest),
		just(&expr.Immediate{Register: 1, Data: []byte{10, 0, 0, 1}}, &expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1})},
	{"nft verdict maps", "CONFIG_NF_TABLES of 5.10 or later", filter(nftables.ChainHookForward), serviceMap},
	{"nft sets with timeouts", "CONFIG_NF_TABLES of 5.10 or later", filter(nftables.ChainHookForward), affinitySet},
}

func filter(hook *nftables.ChainHook) nftables.Chain {
	return nftables.Chain{Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: nftables.ChainPriorityFilter}
}

func nat(hook *nftables.ChainHook, priority *nftables.ChainPriority) nftables.Chain {
	return nftables.Chain{Type: nftables.ChainTypeNAT, Hooknum: hook, Priority: priority}
}

func just(exprs ...expr.Any) func(*nftables.Conn, *nftables.Table) ([]expr.Any, error) {
	return func(*nftables.Conn, *nftables.Table) ([]expr.Any, error) { return exprs, nil }
}

// serviceMap looks up what to do by address, protocol and port, as kube-proxy does for Services.
func serviceMap(c *nftables.Conn, t *nftables.Table) ([]expr.Any, error) {
	key, err := nftables.ConcatSetType(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService)
	if err != nil {
		return nil, err
	}
	m := &nftables.Set{Table: t, Name: "services", IsMap: true, Concatenation: true, KeyType: key, DataType: nftables.TypeVerdict}
	return []expr.Any{
		&expr.Payload{DestRegister: unix.NFT_REG32_00, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
		&expr.Meta{Register: unix.NFT_REG32_01, Key: expr.MetaKeyL4PROTO},
		&expr.Payload{DestRegister: unix.NFT_REG32_02, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Lookup{SourceRegister: unix.NFT_REG32_00, SetName: m.Name, IsDestRegSet: true, DestRegister: unix.NFT_REG_VERDICT},
	}, c.AddSet(m, nil)
}

// affinitySet remembers a client for a while, as kube-proxy does for session affinity.
func affinitySet(c *nftables.Conn, t *nftables.Table) ([]expr.Any, error) {
	s := &nftables.Set{Table: t, Name: "affinity", KeyType: nftables.TypeIPAddr, Dynamic: true, HasTimeout: true}
	return []expr.Any{
		&expr.Payload{DestRegister: unix.NFT_REG_1, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4},
		&expr.Dynset{SrcRegKey: unix.NFT_REG_1, SetName: s.Name, Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: time.Hour},
	}, c.AddSet(s, nil)
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

// tryRule adds a rule to a chain in one transaction, which the kernel takes as a whole or not at all.
func tryRule(chain nftables.Chain, rule func(*nftables.Conn, *nftables.Table) ([]expr.Any, error)) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	t := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "edgebox-check"})
	chain.Table, chain.Name = t, fmt.Sprintf("%s%d", chain.Type, *chain.Hooknum)
	exprs, err := rule(c, t)
	if err != nil {
		return err
	}
	c.AddRule(&nftables.Rule{Table: t, Chain: c.AddChain(&chain), Exprs: exprs})
	return c.Flush()
}

// oldestNft is the first version of the nft command that reads only the tables it is asked for. Builds before it may crash
// on the sets of later ones.
var oldestNft = [3]int{1, 0, 1}

var nftVersion = regexp.MustCompile(`\bv(\d+)\.(\d+)\.(\d+)`)

// probeNft looks at the host's own nft command. edgebox does not use it, but others on the host may, and it meets edgebox's
// rules: see docs/adr/0008-kernels-before-5.13.md. Distributions mend old versions, so it is tried where that can be.
func probeNft(h *host, in Input) []Result {
	const name = "nft"
	says, err := h.nft("--version")
	if errors.Is(err, exec.ErrNotFound) {
		return ok(name, "no nft command on this host that could meet edgebox's rules")
	}
	m := nftVersion.FindStringSubmatch(says)
	if err != nil || m == nil {
		return one(name, Info, fmt.Sprintf("the version of the host's nft command is not known: %q, %v", says, err), "")
	}
	var v [3]int
	for i := range v {
		v[i], _ = strconv.Atoi(m[i+1])
	}
	if slices.Compare(v[:], oldestNft[:]) >= 0 {
		return ok(name, "the host's nft command is version %s", m[0][1:])
	}
	old := "the host's nft command is version " + m[0][1:]
	if !slices.Contains(in.Own, "table ip kube-proxy") && !slices.Contains(in.Own, "table ip6 kube-proxy") {
		return one(name, Info, old+", and some that old crash on edgebox's rules: edgebox check, while edgebox runs, tries it", "")
	}
	if out, err := h.nft("list", "ruleset"); err != nil {
		return one(name, Warning,
			fmt.Sprintf("%s and fails on edgebox's rules (%v %.100s), and with it whatever uses it: firewalld, fail2ban, /etc/nftables.conf", old, err, out),
			"install nftables 1.0.1 or later, or a newer release of the operating system")
	}
	return ok(name, "%s, and reads edgebox's rules", old)
}

// runNft runs the host's nft command.
func runNft(args ...string) (says string, err error) {
	path, err := exec.LookPath("nft")
	for _, p := range []string{"/usr/sbin/nft", "/sbin/nft"} { // often not in the PATH of users
		if err != nil {
			path, err = exec.LookPath(p)
		}
	}
	if err != nil {
		return "", exec.ErrNotFound
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, args...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
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
