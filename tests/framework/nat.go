package framework

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// NewNAT is OpenNAT for a network that ends with the test.
func NewNAT(t testing.TB, outside *Network, inside netip.Prefix) *Network {
	t.Helper()
	n, err := OpenNAT(outside, inside)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	return n
}

// OpenNAT makes a network behind a router with one address on the network outside, as home routers and firewalls are.
// All hosts inside have a default route to it. What they send appears outside under the router's address; nothing but
// answers gets in, and no host outside knows a route. Several such networks may have the same prefix, which is IPv4.
func OpenNAT(outside *Network, inside netip.Prefix) (*Network, error) {
	n, err := OpenNetwork(inside)
	if err != nil {
		return nil, err
	}
	n.outside = outside.nextAddress()
	_, err = outside.connect(n.ns, uplink, nil, n.outside, outside.IsNAT())
	if err == nil {
		err = n.masquerade()
	}
	if err == nil {
		err = inNetNS(n.ns, func() error {
			return errors.Join(
				// Connections that the router does not know are not taken up in the middle.
				os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_tcp_loose", []byte("0"), 0o644),
				os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644),
			)
		})
	}
	if err != nil {
		n.Close()
		return nil, fmt.Errorf("router: %w", err)
	}
	return n, nil
}

// uplink is the router's interface on the network outside.
const uplink = "uplink"

// IsNAT tells whether the network lies behind a router.
func (n *Network) IsNAT() bool { return n.outside.IsValid() }

// OutsideAddress is the address under which the hosts of a NAT's network are seen outside.
func (n *Network) OutsideAddress() netip.Addr { return n.outside }

// ForgetConnections makes the router of a NAT forget all connections, as if it had been restarted: what is sent on them
// is dropped silently from then on.
func (n *Network) ForgetConnections() error {
	nl, err := handleAt(n.ns)
	if err != nil {
		return err
	}
	defer nl.Close()
	return nl.ConntrackTableFlush(netlink.ConntrackTable)
}

// ForgetConnections is that of the router which the host is behind.
func (h *Host) ForgetConnections() error { return h.opts.Network.ForgetConnections() }

// masquerade writes the router's rules. In the language of nft:
//
//	table ip router {
//		chain input { type filter hook input priority filter; policy accept
//			iifname uplink ct state != established,related drop }
//		chain forward { type filter hook forward priority filter; policy accept
//			iifname uplink ct state != established,related drop
//			ct state invalid drop }
//		chain postrouting { type nat hook postrouting priority srcnat
//			oifname uplink masquerade }
//	}
func (n *Network) masquerade() error {
	c, err := nftables.New(nftables.WithNetNSFd(int(n.ns.Fd())))
	if err != nil {
		return err
	}
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "router"})
	const answers = expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED
	drop := &expr.Verdict{Kind: expr.VerdictDrop}
	for name, hook := range map[string]*nftables.ChainHook{"input": nftables.ChainHookInput, "forward": nftables.ChainHookForward} {
		chain := c.AddChain(&nftables.Chain{
			Table: table, Name: name, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: nftables.ChainPriorityFilter,
		})
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: append(append(
			isInterface(expr.MetaKeyIIFNAME, uplink), ctState(answers, expr.CmpOpEq)...), drop)})
		if name == "forward" {
			c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: append(ctState(expr.CtStateBitINVALID, expr.CmpOpNeq), drop)})
		}
	}
	chain := c.AddChain(&nftables.Chain{
		Table: table, Name: "postrouting", Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	})
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: append(isInterface(expr.MetaKeyOIFNAME, uplink), &expr.Masq{})})
	return c.Flush()
}

// isInterface matches packets that come in by (IIFNAME) or leave by (OIFNAME) an interface.
func isInterface(key expr.MetaKey, name string) []expr.Any {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: padded},
	}
}

// ctState compares those of a connection's state bits that are in mask with zero.
func ctState(mask uint32, op expr.CmpOp) []expr.Any {
	zero := binaryutil.NativeEndian.PutUint32(0)
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(mask), Xor: zero},
		&expr.Cmp{Op: op, Register: 1, Data: zero},
	}
}
