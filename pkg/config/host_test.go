package config

import (
	"net"
	"net/netip"
	"slices"
	"testing"
)

func TestReadHost(t *testing.T) {
	h, err := ReadHost()
	if err != nil {
		t.Fatal(err)
	}
	if h.Name == "" || !slices.ContainsFunc(h.Interfaces, func(i Interface) bool { return i.Loopback }) {
		t.Errorf("have %+v", h)
	}
}

func TestDefaultRoute4(t *testing.T) {
	const head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
	for name, test := range map[string]struct{ table, want string }{
		"missing file": {"", ""},
		"no route":     {head, ""},
		"lowest metric": {head +
			"wlan0\t00000000\t0102000A\t0003\t0\t0\t600\t00000000\t0\t0\t0\n" +
			"eth0\t00000000\t0102000A\t0003\t0\t0\t100\t00000000\t0\t0\t0\n" +
			"eth1\t0000000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n", "eth0"},
		"half of everything is not a default": {head + "tun0\t00000000\t0102000A\t0003\t0\t0\t0\t00000080\t0\t0\t0\n", ""},
		"unreachable":                         {head + "*\t00000000\t00000000\t0200\t0\t0\t0\t00000000\t0\t0\t0\n", ""},
		"short lines":                         {head + "eth0\t00000000\n\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			if have := defaultRoute4([]byte(test.table)); have != test.want {
				t.Errorf("have %q, want %q", have, test.want)
			}
		})
	}
}

func TestDefaultRoute6(t *testing.T) {
	const zero = "00000000000000000000000000000000"
	const gw = "fe800000000000000000000000000001"
	table := "20010db8000000000000000000000000 40 " + zero + " 00 " + zero + " 00000100 00000001 00000000 00000001     eth0\n" +
		zero + " 00 " + zero + " 00 " + zero + " ffffffff 00000001 00000000 00200200       lo\n" +
		zero + " 00 " + zero + " 00 " + gw + " 00000400 00000001 00000000 00450003    wlan0\n" +
		zero + " 00 " + zero + " 00 " + gw + " 00000064 00000001 00000000 00450003     eth0\n"
	if have := defaultRoute6([]byte(table)); have != "eth0" {
		t.Errorf("have %q", have)
	}
	if have := defaultRoute6(nil); have != "" {
		t.Errorf("have %q of nothing", have)
	}
}

func TestUsableAddresses(t *testing.T) {
	const table = "20010db8000000000000000000000001 02 40 00 01     eth0\n" + // temporary
		"20010db8000000000000000000000002 02 40 00 80     eth0\n" + // permanent
		"20010db8000000000000000000000003 02 40 00 a0     eth0\n" + // deprecated
		"20010db8000000000000000000000004 02 40 00 48     eth0\n" + // failed duplicate address detection
		"broken\n"
	var list []net.Addr
	for _, s := range []string{"192.0.2.1", "2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8::4"} {
		list = append(list, &net.IPNet{IP: net.ParseIP(s)})
	}
	have := usable(list, addrFlags6([]byte(table)))
	want := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::2"), netip.MustParseAddr("2001:db8::1")}
	if !slices.Equal(have, want) {
		t.Errorf("have %v, want %v", have, want)
	}
}
