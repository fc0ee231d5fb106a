package config

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// ReadHost collects the facts of this machine.
func ReadHost() (Host, error) {
	name, err := os.Hostname()
	if err != nil {
		return Host{}, fmt.Errorf("read the host's name: %w", err)
	}
	interfaces, err := readInterfaces("/proc/net")
	if err != nil {
		return Host{}, fmt.Errorf("read network interfaces: %w", err)
	}
	return Host{Name: name, Interfaces: interfaces}, nil
}

// readInterfaces asks the kernel for interfaces, and the files of proc for what package net does not tell.
func readInterfaces(proc string) ([]Interface, error) {
	default4, err := readTable(filepath.Join(proc, "route"), defaultRoute4)
	if err != nil {
		return nil, err
	}
	default6, err := readTable(filepath.Join(proc, "ipv6_route"), defaultRoute6)
	if err != nil {
		return nil, err
	}
	flags6, err := readTable(filepath.Join(proc, "if_inet6"), addrFlags6)
	if err != nil {
		return nil, err
	}
	list, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var out []Interface
	for _, i := range list {
		addrs, err := i.Addrs()
		if err != nil {
			continue // the interface has gone meanwhile
		}
		out = append(out, Interface{
			Name:     i.Name,
			Up:       i.Flags&net.FlagUp != 0,
			Running:  i.Flags&net.FlagRunning != 0,
			Loopback: i.Flags&net.FlagLoopback != 0,
			Default4: i.Name == default4,
			Default6: i.Name == default6,
			Addrs:    usable(addrs, flags6),
		})
	}
	return out, nil
}

// Flags of an IPv6 address, from linux/if_addr.h.
const (
	addrTemporary  = 0x01
	addrDADFailed  = 0x08
	addrDeprecated = 0x20
	addrTentative  = 0x40
)

// usable returns addrs without those that must not be used, temporary ones last.
func usable(addrs []net.Addr, flags6 map[netip.Addr]uint64) []netip.Addr {
	var stable, temporary []netip.Addr
	for _, a := range addrs {
		ipnet, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		addr, ok := netip.AddrFromSlice(ipnet.IP)
		if !ok {
			continue
		}
		addr = addr.Unmap()
		switch flags := flags6[addr]; {
		case flags&(addrDADFailed|addrDeprecated|addrTentative) != 0:
		case flags&addrTemporary != 0:
			temporary = append(temporary, addr)
		default:
			stable = append(stable, addr)
		}
	}
	return append(stable, temporary...)
}

// readTable parses a file of /proc/net. One that is missing, as those of IPv6 may be, is empty.
func readTable[T any](path string, parse func([]byte) T) (T, error) {
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		var none T
		return none, err
	}
	return parse(text), nil
}

// defaultRoute4 returns the interface of the default route with the lowest metric in /proc/net/route, or "".
func defaultRoute4(table []byte) string {
	const iface, destination, flags, metric, mask = 0, 1, 3, 6, 7
	return bestRoute(table, func(f []string) (string, uint64, bool) {
		if len(f) < 8 || f[destination] != "00000000" || f[mask] != "00000000" {
			return "", 0, false
		}
		return route(f[iface], f[flags], f[metric], 10)
	})
}

// defaultRoute6 does the same for /proc/net/ipv6_route.
func defaultRoute6(table []byte) string {
	const destination, length, metric, flags, iface = 0, 1, 5, 8, 9
	return bestRoute(table, func(f []string) (string, uint64, bool) {
		if len(f) < 10 || f[length] != "00" || strings.Trim(f[destination], "0") != "" {
			return "", 0, false
		}
		return route(f[iface], f[flags], f[metric], 16)
	})
}

// route accepts a route that is up and does not reject (linux/route.h).
func route(iface, flags, metric string, base int) (string, uint64, bool) {
	const up, reject = 0x1, 0x200
	bits, err1 := strconv.ParseUint(flags, 16, 64)
	m, err2 := strconv.ParseUint(metric, base, 64)
	return iface, m, err1 == nil && err2 == nil && bits&up != 0 && bits&reject == 0
}

func bestRoute(table []byte, parse func([]string) (iface string, metric uint64, ok bool)) string {
	best, bestMetric := "", uint64(0)
	for s := bufio.NewScanner(bytes.NewReader(table)); s.Scan(); {
		iface, metric, ok := parse(strings.Fields(s.Text()))
		if ok && iface != "lo" && (best == "" || metric < bestMetric) {
			best, bestMetric = iface, metric
		}
	}
	return best
}

// addrFlags6 reads the flags of each address in /proc/net/if_inet6.
func addrFlags6(table []byte) map[netip.Addr]uint64 {
	const addr, flags = 0, 4
	out := map[netip.Addr]uint64{}
	for s := bufio.NewScanner(bytes.NewReader(table)); s.Scan(); {
		f := strings.Fields(s.Text())
		if len(f) < 6 || len(f[addr]) != 32 {
			continue
		}
		var groups []string
		for i := 0; i < 32; i += 4 {
			groups = append(groups, f[addr][i:i+4])
		}
		a, err1 := netip.ParseAddr(strings.Join(groups, ":"))
		bits, err2 := strconv.ParseUint(f[flags], 16, 64)
		if err1 == nil && err2 == nil {
			out[a] = bits
		}
	}
	return out
}
