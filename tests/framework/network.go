package framework

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
)

// Network is a switch that hosts are plugged into: a bridge in a network namespace that is connected to nothing else,
// or, when OpenNAT made it, to another network. The bridge has the network's first address.
type Network struct {
	prefix  netip.Prefix
	ns      *os.File
	bridge  int        // index
	outside netip.Addr // of the router, on the network outside; invalid without a router

	mu    sync.Mutex
	next  netip.Addr
	ports int
}

// NewNetwork makes a network that ends with the test.
func NewNetwork(t testing.TB, prefix netip.Prefix) *Network {
	t.Helper()
	n, err := OpenNetwork(prefix)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	return n
}

// OpenNetwork makes a network. Hosts get addresses from the prefix' eleventh on.
func OpenNetwork(prefix netip.Prefix) (*Network, error) {
	ns, err := newNetNS()
	if err != nil {
		return nil, fmt.Errorf("network namespace: %w", err)
	}
	n := &Network{prefix: prefix.Masked(), ns: ns, next: prefix.Masked().Addr()}
	for range 11 {
		n.next = n.next.Next()
	}
	if err := n.makeBridge(); err != nil {
		n.Close()
		return nil, fmt.Errorf("bridge: %w", err)
	}
	return n, nil
}

func (n *Network) gateway() netip.Addr { return n.prefix.Addr().Next() }

func (n *Network) makeBridge() error {
	nl, err := handleAt(n.ns)
	if err != nil {
		return err
	}
	defer nl.Close()
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridgeName}}
	if err := nl.LinkAdd(bridge); err != nil {
		return err
	}
	n.bridge = bridge.Index
	return errors.Join(
		nl.AddrAdd(bridge, &netlink.Addr{IPNet: ipNet(n.gateway(), n.prefix.Bits())}),
		nl.LinkSetUp(bridge),
	)
}

const bridgeName = "switch"

func (n *Network) nextAddress() netip.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	a := n.next
	n.next = a.Next()
	return a
}

// connect gives a network namespace an interface on this network, with a MAC address or, when that is nil, any, and
// returns the name of the switch's port.
func (n *Network) connect(ns *os.File, name string, mac net.HardwareAddr, addr netip.Addr, defaultRoute bool) (port string, err error) {
	n.mu.Lock()
	n.ports++
	port = fmt.Sprintf("port%d", n.ports)
	n.mu.Unlock()

	outside, err := handleAt(n.ns)
	if err != nil {
		return "", err
	}
	defer outside.Close()
	inside, err := handleAt(ns)
	if err != nil {
		return "", err
	}
	defer inside.Close()

	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: port, MasterIndex: n.bridge},
		PeerName:  name, PeerHardwareAddr: mac, PeerNamespace: netlink.NsFd(int(ns.Fd())),
	}
	if err := outside.LinkAdd(veth); err != nil {
		return "", fmt.Errorf("plug into the network: %w", err)
	}
	if err := outside.LinkSetUp(veth); err != nil {
		return "", fmt.Errorf("plug into the network: %w", err)
	}
	lo, err := inside.LinkByName("lo")
	if err != nil {
		return "", err
	}
	link, err := inside.LinkByName(name)
	if err != nil {
		return "", err
	}
	err = errors.Join(
		inside.LinkSetUp(lo),
		inside.AddrAdd(link, &netlink.Addr{IPNet: ipNet(addr, n.prefix.Bits())}),
		inside.LinkSetUp(link),
	)
	if err == nil && defaultRoute {
		err = inside.RouteAdd(n.defaultRoute(link))
	}
	if err != nil {
		return "", fmt.Errorf("configure %s: %w", name, err)
	}
	return port, nil
}

func (n *Network) defaultRoute(link netlink.Link) *netlink.Route {
	return &netlink.Route{LinkIndex: link.Attrs().Index, Gw: n.gateway().AsSlice()}
}

func ipNet(addr netip.Addr, bits int) *net.IPNet {
	return &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(bits, addr.BitLen())}
}

// Close removes the network. Hosts on it keep their addresses and lose the link.
func (n *Network) Close() { _ = n.ns.Close() }
