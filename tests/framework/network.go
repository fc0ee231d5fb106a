package framework

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Network is a switch that hosts are plugged into: a bridge in a network namespace that is connected to nothing else.
// The bridge has the network's first address.
type Network struct {
	prefix netip.Prefix
	ns     *os.File
	bridge int // index

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

// newNetNS makes a network namespace that lives as long as the file is open.
func newNetNS() (*os.File, error) {
	type result struct {
		ns  *os.File
		err error
	}
	made := make(chan result)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with this goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			made <- result{err: err}
			return
		}
		ns, err := os.Open("/proc/thread-self/ns/net")
		made <- result{ns, err}
	}()
	r := <-made
	return r.ns, r.err
}

func (n *Network) gateway() netip.Addr { return n.prefix.Addr().Next() }

func (n *Network) makeBridge() error {
	nl, err := handleAt(n.ns)
	if err != nil {
		return err
	}
	defer nl.Close()
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "switch"}}
	if err := nl.LinkAdd(bridge); err != nil {
		return err
	}
	n.bridge = bridge.Index
	return errors.Join(
		nl.AddrAdd(bridge, &netlink.Addr{IPNet: ipNet(n.gateway(), n.prefix.Bits())}),
		nl.LinkSetUp(bridge),
	)
}

func (n *Network) nextAddress() netip.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	a := n.next
	n.next = a.Next()
	return a
}

// connect gives the network namespace of the process an eth0 on this network.
func (n *Network) connect(pid int, addr netip.Addr, defaultRoute bool) error {
	n.mu.Lock()
	n.ports++
	port := fmt.Sprintf("port%d", n.ports)
	n.mu.Unlock()

	hostNS, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return err
	}
	defer func() { _ = hostNS.Close() }()
	outside, err := handleAt(n.ns)
	if err != nil {
		return err
	}
	defer outside.Close()
	inside, err := handleAt(hostNS)
	if err != nil {
		return err
	}
	defer inside.Close()

	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: port, MasterIndex: n.bridge},
		PeerName:  "eth0", PeerNamespace: netlink.NsFd(int(hostNS.Fd())),
	}
	if err := outside.LinkAdd(veth); err != nil {
		return fmt.Errorf("plug into the network: %w", err)
	}
	if err := outside.LinkSetUp(veth); err != nil {
		return fmt.Errorf("plug into the network: %w", err)
	}
	lo, err := inside.LinkByName("lo")
	if err != nil {
		return err
	}
	eth0, err := inside.LinkByName("eth0")
	if err != nil {
		return err
	}
	err = errors.Join(
		inside.LinkSetUp(lo),
		inside.AddrAdd(eth0, &netlink.Addr{IPNet: ipNet(addr, n.prefix.Bits())}),
		inside.LinkSetUp(eth0),
	)
	if err == nil && defaultRoute {
		err = inside.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: n.gateway().AsSlice()})
	}
	if err != nil {
		return fmt.Errorf("configure eth0: %w", err)
	}
	return nil
}

func ipNet(addr netip.Addr, bits int) *net.IPNet {
	return &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(bits, addr.BitLen())}
}

// Close removes the network. Hosts on it keep their addresses and lose the link.
func (n *Network) Close() { _ = n.ns.Close() }

// handleAt opens netlink in the network namespace that the file stands for.
func handleAt(ns *os.File) (*netlink.Handle, error) {
	return netlink.NewHandleAt(netns.NsHandle(int(ns.Fd())), unix.NETLINK_ROUTE)
}
