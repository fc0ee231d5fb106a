package framework

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// cable is what connects a host's eth0 to its network, and what is wrong with it. It stays so over a reboot.
type cable struct {
	port               string // on the switch
	unplugged          bool
	fromHost, fromRest int // percent of the packets that are lost
	delay              time.Duration
	line               *delayLine // while there is a delay
}

// plugIn connects the host that has just booted.
func (h *Host) plugIn() error {
	ns, err := h.netNS()
	if err != nil {
		return err
	}
	defer func() { _ = ns.Close() }()
	n := h.opts.Network
	if h.cable.port, err = n.connect(ns, eth0, h.mac, h.Address, h.hasDefaultRoute()); err != nil {
		return err
	}
	if h.cable.delay > 0 {
		err = h.Delay(h.cable.delay)
	}
	if h.cable.fromHost+h.cable.fromRest > 0 {
		err = errors.Join(err, h.LossOneWay(h.cable.fromHost, h.cable.fromRest))
	}
	if h.cable.unplugged {
		err = errors.Join(err, h.Unplug())
	}
	return err
}

// powerOff removes the host's port, which the kernel would do later, and meanwhile believe that the host is there.
func (h *Host) powerOff() {
	if h.cable.line != nil {
		h.cable.line.cut()
		h.cable.line = nil
	}
	nl, err := handleAt(h.opts.Network.ns)
	if err != nil {
		return // the network was closed first
	}
	defer nl.Close()
	if port, err := nl.LinkByName(h.cable.port); err == nil {
		_ = nl.LinkDel(port) // fails when the kernel was quicker
	}
}

const eth0 = "eth0"

func (h *Host) hasDefaultRoute() bool { return h.opts.DefaultRoute || h.opts.Network.IsNAT() }

// Unplug pulls the cable out of the switch: eth0 loses its carrier.
func (h *Host) Unplug() error { return h.setPort((*netlink.Handle).LinkSetDown, true) }

// Plug undoes Unplug.
func (h *Host) Plug() error { return h.setPort((*netlink.Handle).LinkSetUp, false) }

func (h *Host) setPort(set func(*netlink.Handle, netlink.Link) error, unplugged bool) error {
	nl, err := handleAt(h.opts.Network.ns)
	if err != nil {
		return err
	}
	defer nl.Close()
	port, err := nl.LinkByName(h.cable.port)
	if err != nil {
		return fmt.Errorf("port of host %s: %w", h.Name, err)
	}
	h.cable.unplugged = unplugged
	return set(nl, port)
}

// Blackhole loses all packets in both directions without a sign of it: eth0 keeps its carrier, and nobody gets an
// error. It and Loss replace one another.
func (h *Host) Blackhole(on bool) error {
	if on {
		return h.Loss(100)
	}
	return h.Loss(0)
}

// Loss loses packets at random, percent of a hundred in each direction; 0 heals. A packet is what crosses the switch:
// the kernel hands up to 64 KiB of a TCP stream from host to host as one.
func (h *Host) Loss(percent int) error { return h.LossOneWay(percent, percent) }

// LossOneWay is Loss with a figure for each direction.
func (h *Host) LossOneWay(fromHost, toHost int) error {
	for _, percent := range []int{fromHost, toHost} {
		if percent < 0 || percent > 100 {
			return fmt.Errorf("loss of %d %%", percent)
		}
	}
	c, err := nftables.New(nftables.WithNetNSFd(int(h.opts.Network.ns.Fd())))
	if err != nil {
		return err
	}
	// Adding it first makes deleting it work always.
	table := &nftables.Table{Family: nftables.TableFamilyBridge, Name: h.cable.port}
	c.AddTable(table)
	c.DelTable(table)
	c.AddTable(table)
	for _, direction := range []struct {
		chain   string
		hook    *nftables.ChainHook
		key     expr.MetaKey
		percent int
	}{
		{"fromhost", nftables.ChainHookPrerouting, expr.MetaKeyIIFNAME, fromHost},
		{"tohost", nftables.ChainHookPostrouting, expr.MetaKeyOIFNAME, toHost},
	} {
		chain := c.AddChain(&nftables.Chain{
			Table: table, Name: direction.chain, Type: nftables.ChainTypeFilter,
			Hooknum: direction.hook, Priority: nftables.ChainPriorityFilter,
		})
		if direction.percent == 0 {
			continue
		}
		// With a delay it is the delay line that is plugged into the bridge.
		for _, port := range []string{h.cable.port, delayPort(h.cable.port)} {
			c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: append(isInterface(direction.key, port),
				&expr.Numgen{Register: 1, Modulus: 100, Type: unix.NFT_NG_RANDOM},
				&expr.Byteorder{SourceRegister: 1, DestRegister: 1, Op: expr.ByteorderHton, Len: 4, Size: 4},
				&expr.Cmp{Op: expr.CmpOpLt, Register: 1, Data: binaryutil.BigEndian.PutUint32(uint32(direction.percent))},
				&expr.Verdict{Kind: expr.VerdictDrop},
			)})
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("loss on the cable of host %s: %w", h.Name, err)
	}
	h.cable.fromHost, h.cable.fromRest = fromHost, toHost
	return nil
}

// ChangeAddress gives eth0 another address of the same network, as a DHCP client does that gets another lease: the new
// one is added, the old one removed, and a default route is kept.
func (h *Host) ChangeAddress(addr netip.Addr) error {
	ns, err := h.netNS()
	if err != nil {
		return err
	}
	defer func() { _ = ns.Close() }()
	nl, err := handleAt(ns)
	if err != nil {
		return err
	}
	defer nl.Close()
	link, err := nl.LinkByName(eth0)
	if err != nil {
		return err
	}
	n := h.opts.Network
	// systemd sets it. Without, the second address of a network goes with the first.
	err = inNetNS(ns, func() error {
		return os.WriteFile("/proc/sys/net/ipv4/conf/"+eth0+"/promote_secondaries", []byte("1"), 0o644)
	})
	if err == nil {
		err = nl.AddrAdd(link, &netlink.Addr{IPNet: ipNet(addr, n.prefix.Bits())})
	}
	if err == nil {
		err = nl.AddrDel(link, &netlink.Addr{IPNet: ipNet(h.Address, n.prefix.Bits())})
	}
	if err == nil && h.hasDefaultRoute() {
		err = nl.RouteReplace(n.defaultRoute(link))
	}
	if err != nil {
		return fmt.Errorf("change the address of host %s from %s to %s: %w", h.Name, h.Address, addr, err)
	}
	h.Address = addr
	return nil
}

// Traffic is what an interface has received and sent since the host booted.
type Traffic struct {
	RxBytes, TxBytes     uint64
	RxPackets, TxPackets uint64
}

// Traffic reads the counters of eth0.
func (h *Host) Traffic() (Traffic, error) {
	ns, err := h.netNS()
	if err != nil {
		return Traffic{}, err
	}
	defer func() { _ = ns.Close() }()
	nl, err := handleAt(ns)
	if err != nil {
		return Traffic{}, err
	}
	defer nl.Close()
	link, err := nl.LinkByName(eth0)
	if err != nil {
		return Traffic{}, err
	}
	s := link.Attrs().Statistics
	return Traffic{RxBytes: s.RxBytes, TxBytes: s.TxBytes, RxPackets: s.RxPackets, TxPackets: s.TxPackets}, nil
}
