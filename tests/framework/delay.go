package framework

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Delay makes the way between the host and its network longer: a packet takes half of roundTrip in each direction; 0
// ends that, and packets on the way are lost. The program carries the packets itself, since few kernels have netem.
func (h *Host) Delay(roundTrip time.Duration) error {
	if h.cable.line != nil {
		if err := h.cable.line.close(); err != nil {
			return err
		}
		h.cable.line = nil
	}
	h.cable.delay = roundTrip
	if roundTrip <= 0 {
		return h.setGSOMaxSegs(gsoMaxSegs)
	}
	line, err := h.newDelayLine(roundTrip / 2)
	if err != nil {
		return fmt.Errorf("delay on the cable of host %s: %w", h.Name, err)
	}
	h.cable.line = line
	return nil
}

// gsoMaxSegs is the kernel's default.
const gsoMaxSegs = 65535

// delayPort is the port of the bridge that the host behind port has while its packets are delayed.
func delayPort(port string) string { return "slow" + port }

// delayLine stands between a port of the bridge and the cable that was plugged into it: a TAP device becomes the port,
// and packets are carried between it and the cable's end.
type delayLine struct {
	network *Network
	port    string
	tap     *os.File
	wire    *os.File // packet socket on the cable's end
	carry   sync.WaitGroup
}

func (h *Host) newDelayLine(delay time.Duration) (*delayLine, error) {
	// The packet socket cannot carry what the kernel has yet to cut into several packets of a tunnel.
	if err := h.setGSOMaxSegs(1); err != nil {
		return nil, err
	}
	l := &delayLine{network: h.opts.Network, port: h.cable.port}
	err := inNetNS(l.network.ns, func() error {
		wire, err := netlink.LinkByName(l.port)
		if err != nil {
			return err
		}
		if l.wire, err = openPacketSocket(wire.Attrs().Index); err != nil {
			return err
		}
		if l.tap, err = openTAP(delayPort(l.port)); err != nil {
			return err
		}
		tap, err := netlink.LinkByName(delayPort(l.port))
		if err != nil {
			return err
		}
		return errors.Join(
			l.deafen(),
			netlink.LinkSetNoMaster(wire),
			netlink.LinkSetMTU(tap, wire.Attrs().MTU),
			netlink.LinkSetMasterByIndex(tap, l.network.bridge),
			netlink.LinkSetUp(tap),
		)
	})
	if err != nil {
		return nil, errors.Join(err, l.close())
	}
	l.carry.Go(func() { carry(l.wire, l.tap, delay) })
	l.carry.Go(func() { carry(l.tap, l.wire, delay) })
	return l, nil
}

// setGSOMaxSegs limits how many packets the host's kernel passes to eth0 as one.
func (h *Host) setGSOMaxSegs(segments int) error {
	return h.inNetwork(func() error {
		link, err := netlink.LinkByName(eth0)
		if err != nil {
			return err
		}
		return netlink.LinkSetGSOMaxSegs(link, segments)
	})
}

// deafen keeps the kernel of the network's namespace from answering to what comes in by the cable's end, which is a
// plain interface now.
func (l *delayLine) deafen() error {
	c, err := nftables.New() // in the namespace of the thread
	if err != nil {
		return err
	}
	table := c.AddTable(l.table())
	chain := c.AddChain(&nftables.Chain{
		Table: table, Name: "deaf", Type: nftables.ChainTypeFilter, Device: l.port,
		Hooknum: nftables.ChainHookIngress, Priority: nftables.ChainPriorityFilter,
	})
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}})
	return c.Flush()
}

func (l *delayLine) table() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyNetdev, Name: l.port}
}

// cut stops carrying packets and removes the TAP device.
func (l *delayLine) cut() {
	for _, f := range []*os.File{l.wire, l.tap} {
		if f != nil {
			_ = f.Close()
		}
	}
	l.carry.Wait()
}

// close cuts the line and plugs the cable into the bridge again.
func (l *delayLine) close() error {
	l.cut()
	return inNetNS(l.network.ns, func() error {
		wire, err := netlink.LinkByName(l.port)
		if err != nil {
			return err
		}
		c, err := nftables.New()
		if err != nil {
			return err
		}
		c.AddTable(l.table()) // so that deleting works always
		c.DelTable(l.table())
		return errors.Join(netlink.LinkSetMasterByIndex(wire, l.network.bridge), c.Flush())
	})
}

// carry passes packets on, each after its delay, until a file is closed. Both files give and take struct
// virtio_net_hdr before each packet, which says what is missing in the checksum.
func carry(from, to *os.File, delay time.Duration) {
	type packet struct {
		due  time.Time
		data []byte
	}
	queue := make(chan packet, 8<<10)
	defer close(queue)
	go func() {
		for p := range queue {
			time.Sleep(time.Until(p.due))
			_, _ = to.Write(p.data) // the cable may be unplugged
		}
	}()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		switch {
		case errors.Is(err, unix.ENETDOWN): // unplugged
			continue
		case err != nil:
			return
		}
		select {
		case queue <- packet{time.Now().Add(delay), slices.Clone(buf[:n])}:
		default: // lost, as in a full buffer of a router
		}
	}
}

// openPacketSocket opens a socket for all packets on an interface of the thread's network namespace.
func openPacketSocket(index int) (*os.File, error) {
	everything := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: everything, Ifindex: index}),
	)
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	return os.NewFile(uintptr(fd), "wire"), nil
}

// openTAP makes a TAP device in the thread's network namespace. It goes when the file is closed.
func openTAP(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("TAP device: %w", err)
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("TAP device: %w", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}
