package config

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Host is what Complete needs to know of the machine.
type Host struct {
	Name       string      // as the kernel has it
	Interfaces []Interface // in the kernel's order
}

// Interface is a network interface of the host.
type Interface struct {
	Name     string
	Up       bool // set up by the administrator
	Running  bool // and connected
	Loopback bool
	Default4 bool         // the preferred default route of IPv4 leaves by it
	Default6 bool         // the preferred default route of IPv6 leaves by it
	Addrs    []netip.Addr // usable ones; stable ones before those that privacy extensions change
}

// CompleteName returns c with the node's name filled in from the host. It is what can be said of an agent before it
// knows the settings of its cluster. The error is of type Problems.
func (c Config) CompleteName(h Host) (Config, error) {
	if c.NodeName != "" {
		return c, nil
	}
	name := strings.ToLower(strings.TrimSpace(h.Name))
	if err := nodeName(name); err != nil {
		return c, Problems{{Option: "node-name", Text: fmt.Sprintf("the host's name %q %v: give one with --node-name", name, err)}}
	}
	c.NodeName = name
	return c, nil
}

// Complete returns c with what was left open filled in from the host: the node's name and addresses, the address that
// the API advertises and that of cluster DNS. The error, of type Problems, says what could not be found; the result is
// validated too, since a host can be named or numbered in ways that cannot work.
func (c Config) Complete(h Host) (Config, error) {
	var problems Problems
	bad := func(option, format string, args ...any) {
		problems = append(problems, Problem{Option: option, Text: fmt.Sprintf(format, args...)})
	}
	c, err := c.CompleteName(h)
	if p := (Problems)(nil); errors.As(err, &p) {
		problems = p
	}
	if len(c.NodeIP) == 0 {
		c.Found = append(c.Found, NodeIPOption)
		for _, p := range c.ClusterCIDR {
			a, ok := c.findAddr(h, p.Addr().Is4())
			if !ok {
				bad("node-ip", "%s: connect one, or give an address with --node-ip", c.whyNoAddr(h, p.Addr().Is4()))
				continue
			}
			c.NodeIP = append(c.NodeIP, a)
		}
	}
	if len(c.ClusterDNS) == 0 {
		for _, p := range c.ServiceCIDR {
			c.ClusterDNS = append(c.ClusterDNS, nth(p, 10))
		}
	}
	if c.Role == Server && !c.AdvertiseAddress.IsValid() {
		c.Found = append(c.Found, advertiseAddress)
		if c.BindAddress.IsGlobalUnicast() {
			c.AdvertiseAddress = c.BindAddress
		} else if len(c.NodeIP) > 0 {
			c.AdvertiseAddress = c.NodeIP[0]
		}
	}
	return c, append(problems, c.validate()...).err()
}

// Options that Found may hold.
const (
	NodeIPOption     = "node-ip"
	advertiseAddress = "advertise-address"
)

// CompleteAgain returns c as Complete would have it on the host as it is now: what it had found there is found anew.
func (c Config) CompleteAgain(h Host) (Config, error) {
	if slices.Contains(c.Found, NodeIPOption) {
		c.NodeIP = nil
	}
	if slices.Contains(c.Found, advertiseAddress) {
		c.AdvertiseAddress = netip.Addr{}
	}
	c.Found = nil
	return c.Complete(h)
}

// findAddr returns the node's address of a family: of the interface that the user named, else of the one that the
// default route leaves by, else of the first that is up, those of container engines last. Addresses for pods and
// services are never taken: edgebox's own bridge has one.
func (c Config) findAddr(h Host, is4 bool) (netip.Addr, bool) {
	type candidate struct {
		addr netip.Addr
		rank int
	}
	var found []candidate
	for _, i := range h.Interfaces {
		if c.FlannelIface != "" && i.Name != c.FlannelIface {
			continue
		}
		if !i.Up || i.Loopback && c.FlannelIface == "" {
			continue
		}
		rank := 0
		switch {
		case is4 && i.Default4 || !is4 && i.Default6:
		case virtual(i.Name):
			rank = 3
		case !i.Running:
			rank = 2
		default:
			rank = 1
		}
		for _, a := range i.Addrs {
			if a.Is4() == is4 && a.IsGlobalUnicast() && !c.ownsAddr(a) {
				found = append(found, candidate{a, rank})
			}
		}
	}
	if len(found) == 0 {
		return netip.Addr{}, false
	}
	return slices.MinFunc(found, func(a, b candidate) int { return cmp.Compare(a.rank, b.rank) }).addr, true
}

func (c Config) whyNoAddr(h Host, is4 bool) string {
	family := "IPv6"
	if is4 {
		family = "IPv4"
	}
	if c.FlannelIface == "" {
		return "no network interface that is up has an " + family + " address"
	}
	if slices.ContainsFunc(h.Interfaces, func(i Interface) bool { return i.Name == c.FlannelIface }) {
		return fmt.Sprintf("flannel-iface %s is not up with an %s address", c.FlannelIface, family)
	}
	return fmt.Sprintf("there is no network interface %s (flannel-iface)", c.FlannelIface)
}

func (c Config) ownsAddr(a netip.Addr) bool {
	in := func(p netip.Prefix) bool { return p.Contains(a) }
	return slices.ContainsFunc(c.ClusterCIDR, in) || slices.ContainsFunc(c.ServiceCIDR, in)
}

// virtual reports whether an interface is made by a container engine or hypervisor, for guests on this host.
func virtual(name string) bool {
	return slices.ContainsFunc([]string{"docker", "br-", "virbr", "veth", "cni", "flannel", "podman", "lxc", "lxd", "cali"},
		func(prefix string) bool { return strings.HasPrefix(name, prefix) })
}

// nth returns the nth address after the first of p.
func nth(p netip.Prefix, n int) netip.Addr {
	a := p.Addr()
	for range n {
		a = a.Next()
	}
	return a
}
