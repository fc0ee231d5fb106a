package config

import (
	"net/netip"
	"reflect"
	"testing"
)

func TestComplete(t *testing.T) {
	lo := Interface{Name: "lo", Up: true, Running: true, Loopback: true, Addrs: addrs("127.0.0.1", "::1", "10.9.9.9")}
	wan := Interface{Name: "wan0", Up: true, Running: true, Default4: true, Default6: true, Addrs: addrs("192.0.2.7", "2001:db8::7", "fe80::7")}
	lan := Interface{Name: "lan0", Up: true, Running: true, Addrs: addrs("10.0.0.7", "fd00::7")}
	cable := Interface{Name: "eth9", Up: true, Addrs: addrs("10.9.0.7")}
	down := Interface{Name: "eth1", Addrs: addrs("10.1.0.7")}
	docker := Interface{Name: "docker0", Up: true, Running: true, Addrs: addrs("172.17.0.1")}
	cni := Interface{Name: "anything", Up: true, Running: true, Addrs: addrs("10.42.0.1")}
	only6 := Interface{Name: "six0", Up: true, Running: true, Default6: true, Addrs: addrs("fe80::9", "2001:db8::9")}

	for _, test := range []struct {
		name   string
		config func(*Config)
		host   Host
		want   func(*Config)
		err    string
	}{
		{
			name: "default route",
			host: Host{"Box", []Interface{lo, lan, wan}},
			want: func(c *Config) { c.NodeIP, c.AdvertiseAddress = addrs("192.0.2.7"), netip.MustParseAddr("192.0.2.7") },
		}, {
			name: "no default route",
			host: Host{"Box", []Interface{lo, down, cni, docker, cable, lan}},
			want: func(c *Config) { c.NodeIP, c.AdvertiseAddress = addrs("10.0.0.7"), netip.MustParseAddr("10.0.0.7") },
		}, {
			name: "cable is out",
			host: Host{"Box", []Interface{lo, docker, cable}},
			want: func(c *Config) { c.NodeIP, c.AdvertiseAddress = addrs("10.9.0.7"), netip.MustParseAddr("10.9.0.7") },
		}, {
			name:   "interface named",
			config: func(c *Config) { c.FlannelIface = "lan0" },
			host:   Host{"Box", []Interface{lo, wan, lan}},
			want: func(c *Config) {
				c.FlannelIface, c.NodeIP, c.AdvertiseAddress = "lan0", addrs("10.0.0.7"), netip.MustParseAddr("10.0.0.7")
			},
		}, {
			name:   "interface that is not there",
			config: func(c *Config) { c.FlannelIface = "lan1" },
			host:   Host{"Box", []Interface{lo, wan}},
			want:   func(c *Config) { c.FlannelIface = "lan1" },
			err:    "node-ip: there is no network interface lan1 (flannel-iface): connect one, or give an address with --node-ip",
		}, {
			name:   "interface that is down",
			config: func(c *Config) { c.FlannelIface = "eth1" },
			host:   Host{"Box", []Interface{lo, wan, down}},
			want:   func(c *Config) { c.FlannelIface = "eth1" },
			err:    "node-ip: flannel-iface eth1 is not up with an IPv4 address: connect one, or give an address with --node-ip",
		}, {
			name: "dual-stack",
			config: func(c *Config) {
				c.ClusterCIDR, c.ServiceCIDR = prefixes("10.42.0.0/16", "fd42::/56"), prefixes("10.43.0.0/16", "fd43::/112")
			},
			host: Host{"Box", []Interface{lo, wan, lan}},
			want: func(c *Config) {
				c.ClusterCIDR, c.ServiceCIDR = prefixes("10.42.0.0/16", "fd42::/56"), prefixes("10.43.0.0/16", "fd43::/112")
				c.NodeIP, c.AdvertiseAddress = addrs("192.0.2.7", "2001:db8::7"), netip.MustParseAddr("192.0.2.7")
				c.ClusterDNS = addrs("10.43.0.10", "fd43::a")
			},
		}, {
			name:   "IPv6",
			config: func(c *Config) { c.ClusterCIDR, c.ServiceCIDR = prefixes("fd42::/56"), prefixes("fd43::/112") },
			host:   Host{"Box", []Interface{lo, lan, only6}},
			want: func(c *Config) {
				c.ClusterCIDR, c.ServiceCIDR = prefixes("fd42::/56"), prefixes("fd43::/112")
				c.NodeIP, c.AdvertiseAddress = addrs("2001:db8::9"), netip.MustParseAddr("2001:db8::9")
				c.ClusterDNS = addrs("fd43::a")
			},
		}, {
			name: "IPv4 wanted where only IPv6 is",
			host: Host{"Box", []Interface{lo, only6}},
			want: func(c *Config) {},
			err:  "node-ip: no network interface that is up has an IPv4 address: connect one, or give an address with --node-ip",
		}, {
			name:   "API on one address",
			config: func(c *Config) { c.BindAddress = netip.MustParseAddr("10.0.0.7") },
			host:   Host{"Box", []Interface{lo, wan, lan}},
			want: func(c *Config) {
				c.BindAddress, c.AdvertiseAddress, c.NodeIP = netip.MustParseAddr("10.0.0.7"), netip.MustParseAddr("10.0.0.7"), addrs("192.0.2.7")
			},
		}, {
			name: "nothing is overwritten",
			config: func(c *Config) {
				c.NodeName, c.NodeIP, c.ClusterDNS, c.AdvertiseAddress = "other", addrs("198.51.100.1"), addrs("10.43.0.53"), netip.MustParseAddr("203.0.113.1")
			},
			host: Host{"Box", []Interface{lo, wan}},
			want: func(c *Config) {
				c.NodeName, c.NodeIP, c.ClusterDNS, c.AdvertiseAddress = "other", addrs("198.51.100.1"), addrs("10.43.0.53"), netip.MustParseAddr("203.0.113.1")
			},
		}, {
			name: "host's name is no DNS name",
			host: Host{"Living_Room", []Interface{lo, wan}},
			want: func(c *Config) {
				c.NodeName, c.NodeIP, c.AdvertiseAddress = "", addrs("192.0.2.7"), netip.MustParseAddr("192.0.2.7")
			},
			err: `node-name: the host's name "living_room" is not a DNS name: use lower-case letters, digits, - and . (RFC 1123): give one with --node-name`,
		}, {
			name: "nothing at all",
			host: Host{"", []Interface{lo}},
			want: func(c *Config) { c.NodeName = "" },
			err: `node-name: the host's name "" is not a DNS name: use lower-case letters, digits, - and . (RFC 1123): give one with --node-name` + "\n" +
				"node-ip: no network interface that is up has an IPv4 address: connect one, or give an address with --node-ip",
		}, {
			name:   "host within cluster-cidr",
			config: func(c *Config) { c.ClusterCIDR = prefixes("192.0.0.0/16"); c.NodeIP = addrs("192.0.2.7") },
			host:   Host{"Box", []Interface{lo, wan}},
			want: func(c *Config) {
				c.ClusterCIDR, c.NodeIP, c.AdvertiseAddress = prefixes("192.0.0.0/16"), addrs("192.0.2.7"), netip.MustParseAddr("192.0.2.7")
			},
			err: "node-ip: 192.0.2.7 is within cluster-cidr 192.0.0.0/16: choose another range for pods",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := Defaults()
			if test.config != nil {
				test.config(&c)
			}
			want := Defaults()
			want.NodeName, want.ClusterDNS = "box", addrs("10.43.0.10")
			test.want(&want)
			have, err := c.Complete(test.host)
			switch {
			case test.err == "" && err != nil:
				t.Error(err)
			case test.err != "" && (err == nil || err.Error() != test.err):
				t.Errorf("have error %v\nwant %s", err, test.err)
			}
			have.Found = nil // see TestCompleteAgain
			if !reflect.DeepEqual(have, want) {
				t.Errorf("have %+v\nwant %+v", have, want)
			}
		})
	}
}

func TestCompleteAgain(t *testing.T) {
	host := func(addr string) Host {
		return Host{"Box", []Interface{{Name: "eth0", Up: true, Running: true, Default4: true, Addrs: addrs(addr)}}}
	}
	c, err := Defaults().Complete(host("192.0.2.7"))
	if err != nil {
		t.Fatal(err)
	}
	moved, err := c.CompleteAgain(host("192.0.2.8"))
	if err != nil || moved.NodeIP[0].String() != "192.0.2.8" || moved.AdvertiseAddress.String() != "192.0.2.8" {
		t.Errorf("addresses %v and %v, %v", moved.NodeIP, moved.AdvertiseAddress, err)
	}
	if again, err := moved.CompleteAgain(host("192.0.2.7")); err != nil || !reflect.DeepEqual(again, c) {
		t.Errorf("back at home: %+v, %v", again, err)
	}
	fixed := Defaults()
	fixed.NodeIP = addrs("192.0.2.1")
	if fixed, err = fixed.Complete(host("192.0.2.7")); err != nil {
		t.Fatal(err)
	}
	if same, err := fixed.CompleteAgain(host("192.0.2.8")); err != nil || same.NodeIP[0].String() != "192.0.2.1" || same.AdvertiseAddress.String() != "192.0.2.1" {
		t.Errorf("the user's address became %v and %v, %v", same.NodeIP, same.AdvertiseAddress, err)
	}
}
