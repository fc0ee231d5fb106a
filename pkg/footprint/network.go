package footprint

import (
	"context"
	"crypto/sha512"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	prefix     = "edgebox" // of the names of links and tables that are edgebox's alone
	cniNetwork = "edgebox" // in the CNI configuration
	bridge     = "cni0"
)

var sharedLinks = []string{bridge, "flannel.1", "flannel-v6.1", "flannel-wg", "flannel-wg-v6"}

// ownLinks are first the ones that hang on the bridge: with it gone they could not be told.
func (s *survey) ownLinks() ([]netlink.Link, error) {
	all, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list links: %w", err)
	}
	var pods, own []netlink.Link
	for _, l := range all {
		a := l.Attrs()
		if strings.HasPrefix(a.Name, prefix) || strings.HasPrefix(a.Alias, prefix) || s.network && slices.Contains(sharedLinks, a.Name) {
			own = append(own, l)
		}
	}
	for _, l := range all {
		onBridge := func(b netlink.Link) bool {
			return b.Attrs().Name == bridge && l.Attrs().MasterIndex == b.Attrs().Index
		}
		if l.Type() == "veth" && slices.ContainsFunc(own, onBridge) {
			pods = append(pods, l)
		}
	}
	return append(pods, own...), nil
}

func (s *survey) linkItems() ([]Item, error) {
	links, err := s.ownLinks()
	var items []Item
	for _, l := range links {
		items = append(items, Item{Kind: Link, Name: l.Attrs().Name, Detail: l.Type(),
			remove: func(context.Context) error { return gone(netlink.LinkDel(l)) }})
	}
	return items, err
}

// routeItems are those of the host-gw backend: to pods of other nodes, over links that are not edgebox's. Routes over
// its own links go with them.
func (s *survey) routeItems() ([]Item, error) {
	if len(s.subnets.networks) == 0 || !s.network {
		return nil, nil
	}
	links, err := s.ownLinks()
	if err != nil {
		return nil, err
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var items []Item
	for _, r := range routes {
		overOwn := slices.ContainsFunc(links, func(l netlink.Link) bool { return l.Attrs().Index == r.LinkIndex })
		dst, valid := prefixOf(r.Dst)
		if overOwn || !valid || r.Gw == nil || !s.inCluster(dst) {
			continue
		}
		items = append(items, Item{Kind: Route, Name: dst.String(), Detail: "via " + r.Gw.String(),
			remove: func(context.Context) error { return gone(netlink.RouteDel(&r)) }})
	}
	return sortByName(items), nil
}

// inCluster reports whether dst is a node's part of the cluster's network.
func (s *survey) inCluster(dst netip.Prefix) bool {
	return slices.ContainsFunc(s.subnets.networks, func(n netip.Prefix) bool { return n.Contains(dst.Addr()) && n.Bits() < dst.Bits() })
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	addr, valid := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), ones), valid
}

// Tables that other Kubernetes distributions, or other users of the CNI plugins, have under the same name.
var (
	sharedTables = []string{"ip kube-proxy", "ip6 kube-proxy", "ip flannel-ipv4", "ip6 flannel-ipv6"}
	pluginTables = []string{"ip cni_hostport", "ip6 cni_hostport", "inet cni_plugins_masquerade"}
)

func (s *survey) tableItems() ([]Item, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, err
	}
	tables, err := c.ListTables()
	if err != nil {
		if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EINVAL) {
			return nil, nil // a kernel without nf_tables has no tables
		}
		return nil, fmt.Errorf("list nftables tables: %w", err)
	}
	var items []Item
	for _, t := range tables {
		name := family(t.Family) + " " + t.Name
		remove := func(context.Context) error {
			c.DelTable(t)
			return gone(c.Flush())
		}
		switch {
		case strings.HasPrefix(t.Name, prefix), s.network && slices.Contains(sharedTables, name):
			items = append(items, Item{Kind: Table, Name: name, remove: remove})
		case slices.Contains(pluginTables, name):
			own, others, err := s.ownRules(c, t)
			if err != nil {
				return items, err
			}
			switch {
			case others == 0 && (len(own) > 0 || s.sole):
				items = append(items, Item{Kind: Table, Name: name, remove: remove})
			case len(own) > 0:
				items = append(items, Item{Kind: Rules, Name: name, Detail: fmt.Sprintf("%d of %d", len(own), len(own)+others),
					remove: func(context.Context) error {
						var errs []error
						for _, r := range own {
							errs = append(errs, c.DelRule(r))
						}
						return errors.Join(append(errs, gone(c.Flush()))...)
					}})
			}
		}
	}
	return sortByName(items), nil
}

// ownRules divides the rules that bear the comment of a CNI plugin into edgebox's and others': cni_hostport writes the
// sandbox's id, cni_plugins_masquerade a text that begins with a hash of the network's name.
func (s *survey) ownRules(c *nftables.Conn, t *nftables.Table) (own []*nftables.Rule, others int, err error) {
	chains, err := c.ListChainsOfTableFamily(t.Family)
	if err != nil {
		return nil, 0, fmt.Errorf("list nftables chains: %w", err)
	}
	hash := fmt.Sprintf("%x", sha512.Sum512([]byte(cniNetwork)))[:16]
	for _, ch := range chains {
		if ch.Table.Name != t.Name {
			continue
		}
		rules, err := c.GetRules(t, ch)
		if err != nil {
			return nil, 0, fmt.Errorf("list rules of nftables table %s: %w", t.Name, err)
		}
		for _, r := range rules {
			comment, found := userdata.GetString(r.UserData, userdata.TypeComment)
			switch {
			case !found:
			case s.containers[comment], strings.HasPrefix(comment, hash+"-"):
				r.Chain = ch
				r.Table = t
				own = append(own, r)
			default:
				others++
			}
		}
	}
	return own, others, nil
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
