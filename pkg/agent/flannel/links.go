package flannel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/flannel-io/flannel/pkg/backend"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Bridge is the link that pods of this node hang on.
const Bridge = "cni0"

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// gateway is the first address of a pod CIDR, which the bridge holds and the pods route to. The CNI plugins compute
// the same one.
func gateway(podCIDR netip.Prefix) netip.Addr { return podCIDR.Masked().Addr().Next() }

// externalInterface finds the interface between the nodes. Without a name it is the one that holds the addresses,
// which have one element per family; with one it is that interface, with those addresses if it holds them, else with
// its own first. No route is looked at.
func externalInterface(name string, addrs []netip.Addr) (*backend.ExternalInterface, error) {
	ifaces, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list network interfaces: %w", err)
	}
	if name == "" {
		if name, err = holder(ifaces, addrs[0]); err != nil {
			return nil, err
		}
	}
	i := slices.IndexFunc(ifaces, func(f net.Interface) bool { return f.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("flannel-iface: there is no interface %s", name)
	}
	iface := ifaces[i]
	own, err := addresses(iface)
	if err != nil {
		return nil, err
	}
	ext := &backend.ExternalInterface{Iface: &iface, IfaceName: iface.Name}
	for _, want := range addrs {
		got := want
		if !slices.Contains(own, want) {
			j := slices.IndexFunc(own, func(a netip.Addr) bool { return a.Is4() == want.Is4() && a.IsGlobalUnicast() })
			if j < 0 {
				return nil, fmt.Errorf("interface %s has no address of the family of %s: name another with --flannel-iface", name, want)
			}
			got = own[j]
		}
		if got.Is4() {
			ext.IfaceAddr, ext.ExtAddr = got.AsSlice(), got.AsSlice()
		} else {
			ext.IfaceV6Addr, ext.ExtV6Addr = got.AsSlice(), got.AsSlice()
		}
	}
	return ext, nil
}

func holder(ifaces []net.Interface, addr netip.Addr) (string, error) {
	for _, f := range ifaces {
		own, err := addresses(f)
		if err != nil {
			return "", err
		}
		if slices.Contains(own, addr) {
			return f.Name, nil
		}
	}
	return "", fmt.Errorf("no interface holds the node's address %s: name the one between the nodes with --flannel-iface", addr)
}

func addresses(f net.Interface) ([]netip.Addr, error) {
	all, err := f.Addrs()
	if err != nil {
		return nil, fmt.Errorf("list addresses of %s: %w", f.Name, err)
	}
	var out []netip.Addr
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			out = append(out, p.Addr().Unmap())
		}
	}
	return out, nil
}

// ensureBridge makes the bridge, or brings the one of an earlier run up to date, and returns its addresses.
//
// The CNI bridge plugin would make it with the first pod; it is made here so that DNS can listen on it before. The
// plugin then finds its address in place, and leaves the rest of the link alone.
func ensureBridge(podCIDRs []netip.Prefix, mtu int) ([]netip.Addr, error) {
	var gateways []netip.Addr
	for _, p := range podCIDRs {
		gateways = append(gateways, gateway(p))
	}
	mac := bridgeMAC(gateways[0])

	link, err := netlink.LinkByName(Bridge)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU, attrs.HardwareAddr = Bridge, mtu, mac
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return nil, fmt.Errorf("add bridge %s: %w", Bridge, err)
		}
		link, err = netlink.LinkByName(Bridge)
	}
	if err != nil {
		return nil, fmt.Errorf("find bridge %s: %w", Bridge, err)
	}
	if link.Type() != "bridge" {
		return nil, fmt.Errorf("link %s exists and is of type %s, not a bridge: remove it", Bridge, link.Type())
	}
	if link.Attrs().MTU != mtu {
		if err := netlink.LinkSetMTU(link, mtu); err != nil {
			return nil, fmt.Errorf("set MTU of %s to %d: %w", Bridge, mtu, err)
		}
	}
	// An address that was never set would follow those of the pods' links, and the pods' ARP caches with it.
	if link.Attrs().HardwareAddr.String() != mac.String() {
		if err := netlink.LinkSetHardwareAddr(link, mac); err != nil {
			return nil, fmt.Errorf("set MAC address of %s: %w", Bridge, err)
		}
	}
	// The routes of this link are set here and nowhere else. IPv6 may be off in the kernel.
	_ = sysctl("net/ipv6/conf/"+Bridge+"/accept_ra", "0")
	for i, p := range podCIDRs {
		if err := ensureAddress(link, netip.PrefixFrom(gateways[i], p.Bits())); err != nil {
			return nil, err
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return nil, fmt.Errorf("set %s up: %w", Bridge, err)
	}
	return gateways, nil
}

// bridgeMAC derives a MAC address from the gateway's address, so that a bridge that is made anew has the same one.
// 0a:58 marks a locally administered address; Kubernetes' own tools use it so.
func bridgeMAC(gw netip.Addr) net.HardwareAddr {
	b := gw.AsSlice()
	return append(net.HardwareAddr{0x0a, 0x58}, b[len(b)-4:]...)
}

// ensureAddress gives the link that address and removes others of its family, link-local ones apart: the CNI bridge
// plugin refuses a bridge with more.
func ensureAddress(link netlink.Link, want netip.Prefix) error {
	family := netlink.FAMILY_V6
	if want.Addr().Is4() {
		family = netlink.FAMILY_V4
	}
	all, err := netlink.AddrList(link, family)
	if err != nil {
		return fmt.Errorf("list addresses of %s: %w", link.Attrs().Name, err)
	}
	for _, a := range all {
		if a.IPNet.String() == ipNet(want).String() {
			want = netip.Prefix{}
		} else if !a.IP.IsLinkLocalUnicast() {
			if err := netlink.AddrDel(link, &a); err != nil {
				return fmt.Errorf("remove address %s from %s: %w", a.IPNet, link.Attrs().Name, err)
			}
		}
	}
	if !want.IsValid() {
		return nil
	}
	addr := &netlink.Addr{IPNet: ipNet(want)}
	if family == netlink.FAMILY_V6 {
		addr.Flags = unix.IFA_F_NODAD // without a pod the bridge has no carrier, and detection would never end
	}
	if err := netlink.AddrAdd(link, addr); err != nil {
		return fmt.Errorf("add address %s to %s: %w", want, link.Attrs().Name, err)
	}
	return nil
}

// routeServices gives the host itself a way to Services: the kernel wants a route before kube-proxy's rules can turn a
// packet to an endpoint, and a host without a default route has none. The source stays the node's address, as it is with
// a default route. The routes go with the bridge.
func routeServices(serviceCIDRs []netip.Prefix, nodeAddrs []netip.Addr) error {
	bridge, err := netlink.LinkByName(Bridge)
	if err != nil {
		return fmt.Errorf("find bridge %s: %w", Bridge, err)
	}
	for _, cidr := range serviceCIDRs {
		i := slices.IndexFunc(nodeAddrs, func(a netip.Addr) bool { return a.Is4() == cidr.Addr().Is4() })
		if i < 0 {
			continue
		}
		route := netlink.Route{
			LinkIndex: bridge.Attrs().Index, Scope: netlink.SCOPE_LINK,
			Dst: ipNet(cidr), Src: nodeAddrs[i].AsSlice(),
		}
		if err := netlink.RouteReplace(&route); err != nil {
			return fmt.Errorf("route Services %s to %s: %w", cidr, Bridge, err)
		}
	}
	return nil
}

// sysctl sets a kernel parameter. One that has the value already is not written: /proc/sys may be read-only.
func sysctl(name, value string) error {
	path := filepath.Join("/proc/sys", name)
	old, err := os.ReadFile(path)
	if err == nil && strings.TrimSpace(string(old)) == value {
		return nil
	}
	if err == nil {
		err = os.WriteFile(path, []byte(value), 0o644)
	}
	if err != nil {
		return fmt.Errorf("set %s to %s: %w", strings.ReplaceAll(name, "/", "."), value, err)
	}
	return nil
}

// subscribeLinks returns a channel that gets an element when a link or address of the host may have changed, and is
// closed when the kernel's messages cannot be followed any more. Until ctx ends it costs nothing while nothing happens.
func subscribeLinks(ctx context.Context) (<-chan struct{}, error) {
	links := make(chan netlink.LinkUpdate)
	addrs := make(chan netlink.AddrUpdate)
	if err := netlink.LinkSubscribe(links, ctx.Done()); err != nil {
		return nil, fmt.Errorf("subscribe to link changes: %w", err)
	}
	if err := netlink.AddrSubscribe(addrs, ctx.Done()); err != nil {
		return nil, fmt.Errorf("subscribe to address changes: %w", err)
	}
	changed := make(chan struct{}, 1)
	go func() {
		defer close(changed)
		for {
			select {
			case _, ok := <-links:
				if !ok {
					go drain(addrs)
					return
				}
			case _, ok := <-addrs:
				if !ok {
					go drain(links)
					return
				}
			}
			signal(changed)
		}
	}()
	return changed, nil
}

// drain lets the sender of a channel come to its end.
func drain[T any](ch <-chan T) {
	for range ch { //nolint:revive // nothing to do with them
	}
}

// expectLinks notes the links as they are now and returns a function that says what became different.
func expectLinks(ext *backend.ExternalInterface, made []string, gateways []netip.Addr) (func() error, error) {
	index := make(map[string]int)
	for _, name := range append([]string{Bridge}, made...) {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return nil, fmt.Errorf("find link %s: %w", name, err)
		}
		index[name] = link.Attrs().Index
	}
	index[ext.IfaceName] = ext.Iface.Index

	var extAddrs []netip.Addr
	for _, a := range []net.IP{ext.IfaceAddr, ext.IfaceV6Addr} {
		if addr, ok := netip.AddrFromSlice(a); ok {
			extAddrs = append(extAddrs, addr.Unmap())
		}
	}
	return func() error {
		for name, want := range index {
			f, err := net.InterfaceByName(name)
			if err != nil || f.Index != want {
				return fmt.Errorf("link %s was removed", name)
			}
			if f.Flags&net.FlagUp == 0 && name != ext.IfaceName {
				return fmt.Errorf("link %s was set down", name)
			}
			own, err := addresses(*f)
			if err != nil {
				return err
			}
			for _, a := range map[string][]netip.Addr{ext.IfaceName: extAddrs, Bridge: gateways}[name] {
				if !slices.Contains(own, a) {
					return fmt.Errorf("address %s was removed from %s", a, name)
				}
			}
			if name == ext.IfaceName && f.MTU != ext.Iface.MTU {
				return fmt.Errorf("the MTU of %s changed from %d to %d", name, ext.Iface.MTU, f.MTU)
			}
		}
		return nil
	}, nil
}
