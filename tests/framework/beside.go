package framework

import "net/netip"

// Beside calls f on a thread that is on the network, with the address of Switch: to start what is no host, such as a
// database server, or to talk to it.
func (n *Network) Beside(f func() error) error {
	nl, err := handleAt(n.ns)
	if err != nil {
		return err
	}
	defer nl.Close()
	lo, err := nl.LinkByName("lo") // which also leads from Switch to itself
	if err != nil {
		return err
	}
	if err := nl.LinkSetUp(lo); err != nil {
		return err
	}
	return inNetNS(n.ns, f)
}

// Switch is the address of what is started with Beside.
func (n *Network) Switch() netip.Addr { return n.gateway() }
