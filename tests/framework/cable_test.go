package framework

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"
)

// pair makes two hosts on one network.
func pair(t *testing.T) (a, b *Host) {
	t.Helper()
	t.Parallel()
	n := NewNetwork(t, netip.MustParsePrefix("10.98.0.0/24"))
	return NewHost(t, Options{Name: "a", Network: n}), NewHost(t, Options{Name: "b", Network: n})
}

// pings counts the answers to so many pings.
func pings(t *testing.T, from *Host, to netip.Addr, count int) int {
	t.Helper()
	out := from.Shell(t, fmt.Sprintf("ping -q -i 0.01 -c %d -W 1 %s || true", count, to))
	_, report, ok := strings.Cut(out, "packets transmitted, ")
	if !ok { // the network is unreachable
		return 0
	}
	var got int
	if _, err := fmt.Sscan(report, &got); err != nil {
		t.Fatalf("ping says: %s", out)
	}
	return got
}

func answers(t *testing.T, from *Host, to netip.Addr) bool {
	t.Helper()
	return pings(t, from, to, 2) > 0
}

func TestUnpluggedHostHasNoCarrier(t *testing.T) {
	a, b := pair(t)
	if !answers(t, a, b.Address) {
		t.Fatal("no answer over a cable that is in order")
	}
	if err := b.Unplug(); err != nil {
		t.Fatal(err)
	}
	carrier := func(h *Host) string { return h.Shell(t, "cat /sys/class/net/eth0/carrier") }
	if carrier(b) != "0" || carrier(a) != "1" || answers(t, a, b.Address) {
		t.Errorf("unplugged: carrier %s, that of the other host %s, or there are answers", carrier(b), carrier(a))
	}
	if err := b.Reboot(); err != nil {
		t.Fatal(err)
	}
	if carrier(b) != "0" {
		t.Error("a reboot has plugged the cable in")
	}
	if err := b.Plug(); err != nil {
		t.Fatal(err)
	}
	Eventually(t, 10*time.Second, func() error {
		if carrier(b) != "1" || !answers(t, a, b.Address) {
			return fmt.Errorf("plugged in again: carrier %s", carrier(b))
		}
		return nil
	})
}

func TestBlackholeIsSilent(t *testing.T) {
	a, b := pair(t)
	for range 2 { // what was healed can break again
		if err := b.Blackhole(true); err != nil {
			t.Fatal(err)
		}
		if got := b.Shell(t, "cat /sys/class/net/eth0/carrier"); got != "1" {
			t.Errorf("carrier %s", got)
		}
		if answers(t, a, b.Address) || answers(t, b, a.Address) || answers(t, b, b.opts.Network.gateway()) {
			t.Error("there are answers")
		}
		if err := b.Blackhole(false); err != nil {
			t.Fatal(err)
		}
		Eventually(t, 10*time.Second, func() error {
			if !answers(t, a, b.Address) {
				return fmt.Errorf("no answer after healing: %s", a.Shell(t, "ip neigh"))
			}
			return nil
		})
	}
	if tables, err := b.NFTables(); err != nil || len(tables) > 0 {
		t.Errorf("tables in the host: %v, %v", tables, err)
	}
}

func TestLoss(t *testing.T) {
	a, b := pair(t)
	pings(t, a, b.Address, 1)
	if err := b.Loss(30); err != nil {
		t.Fatal(err)
	}
	// 49 % come back. Fewer than 10 or more than 90 of 100 would be a matter of 10^-16.
	if got := pings(t, a, b.Address, 100); got < 10 || got > 90 {
		t.Errorf("loss of 30 %% in each direction: %d of 100 pings were answered", got)
	}
	if err := b.Reboot(); err != nil {
		t.Fatal(err)
	}
	known := func() { // b must have found a, which may take some tries
		t.Helper()
		Eventually(t, time.Minute, func() error {
			if !answers(t, a, b.Address) {
				return errors.New("no answer")
			}
			return nil
		})
	}
	known()
	if got := pings(t, a, b.Address, 100); got < 10 || got > 90 {
		t.Errorf("after a reboot: %d of 100 pings were answered", got)
	}
	if err := b.Loss(0); err != nil {
		t.Fatal(err)
	}
	known()
	if got := pings(t, a, b.Address, 20); got != 20 {
		t.Errorf("healed: %d of 20 pings were answered", got)
	}
	if err := b.Loss(101); err == nil {
		t.Error("a loss of 101 % was accepted")
	}
}

func TestLossOneWay(t *testing.T) {
	a, b := pair(t)
	// Addresses must be known already: finding them takes both ways.
	pings(t, a, b.Address, 1)
	received := func(h *Host) uint64 {
		t.Helper()
		traffic, err := h.Traffic()
		if err != nil {
			t.Fatal(err)
		}
		return traffic.RxPackets
	}
	for _, way := range []struct{ fromHost, toHost int }{{0, 100}, {100, 0}} {
		if err := b.LossOneWay(way.fromHost, way.toHost); err != nil {
			t.Fatal(err)
		}
		before := received(b)
		if got := pings(t, a, b.Address, 20); got > 0 {
			t.Errorf("%+v: %d answers", way, got)
		}
		if got, want := received(b)-before >= 20, way.toHost == 0; got != want {
			t.Errorf("%+v: pings have reached the host: %t", way, got)
		}
	}
}

func TestDelay(t *testing.T) {
	a, b := pair(t)
	roundTrip := func(from *Host, to netip.Addr) time.Duration {
		t.Helper()
		out := from.Shell(t, "ping -c 3 -W 5 "+to.String())
		if strings.Contains(out, "DUP") {
			t.Errorf("packets arrive twice: %s", out)
		}
		var ms float64
		_, rest, _ := strings.Cut(out, "min/avg/max = ")
		if _, err := fmt.Sscanf(rest, "%f/", &ms); err != nil {
			t.Fatalf("ping says: %s", out)
		}
		return time.Duration(ms * float64(time.Millisecond))
	}
	fast := func() {
		t.Helper()
		if got := roundTrip(a, b.Address); got > 50*time.Millisecond {
			t.Errorf("without a delay: %s", got)
		}
	}
	slow := func() {
		t.Helper()
		if got := roundTrip(a, b.Address); got < 100*time.Millisecond {
			t.Errorf("a delay of 100 ms: %s", got)
		}
	}
	fast()
	if err := b.Delay(100 * time.Millisecond); err != nil {
		t.Fatal(err)
	}
	slow()
	// No packet arrives twice, damaged or too early, whether a checksum is left to the network card or not.
	b.Shell(t, "mkdir /tmp/www; head -c 3000000 /dev/urandom >/tmp/www/file; httpd -p 80 -h /tmp/www")
	sum := b.Shell(t, "sha256sum </tmp/www/file")
	if got := a.Shell(t, "timeout 60 wget -qO- http://"+b.Address.String()+"/file | sha256sum"); got != sum {
		t.Errorf("sum of what was fetched from b: %s, want %s", got, sum)
	}
	a.Shell(t, "mkdir /tmp/www; head -c 3000000 /dev/urandom >/tmp/www/file; httpd -p 80 -h /tmp/www")
	sum = a.Shell(t, "sha256sum </tmp/www/file")
	if got := b.Shell(t, "timeout 60 wget -qO- http://"+a.Address.String()+"/file | sha256sum"); got != sum {
		t.Errorf("sum of what was fetched from a: %s, want %s", got, sum)
	}
	// The switch itself does not answer past the delay.
	if got := roundTrip(b, b.opts.Network.gateway()); got < 100*time.Millisecond {
		t.Errorf("to the gateway: %s", got)
	}

	if err := b.Blackhole(true); err != nil {
		t.Fatal(err)
	}
	if answers(t, a, b.Address) {
		t.Error("a delay lets packets through a black hole")
	}
	if err := b.Blackhole(false); err != nil {
		t.Fatal(err)
	}
	if err := b.Unplug(); err != nil {
		t.Fatal(err)
	}
	if answers(t, a, b.Address) {
		t.Error("a delay lets packets through an unplugged cable")
	}
	if err := b.Plug(); err != nil {
		t.Fatal(err)
	}
	Eventually(t, 10*time.Second, func() error {
		if !answers(t, a, b.Address) {
			return fmt.Errorf("no answer after the cable was plugged in: %s", a.Shell(t, "ip neigh"))
		}
		return nil
	})
	if err := b.Reboot(); err != nil {
		t.Fatal(err)
	}
	slow()
	if err := b.Delay(0); err != nil {
		t.Fatal(err)
	}
	fast()
	if links := linksOf(t, b.opts.Network); strings.Contains(links, "slow") {
		t.Errorf("a TAP device is left: %s", links)
	}
}

// linksOf lists the names of the interfaces on the network's side.
func linksOf(t *testing.T, n *Network) string {
	t.Helper()
	nl, err := handleAt(n.ns)
	if err != nil {
		t.Fatal(err)
	}
	defer nl.Close()
	links, err := nl.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, l := range links {
		names = append(names, l.Attrs().Name)
	}
	return strings.Join(names, " ")
}

func TestChangeAddress(t *testing.T) {
	t.Parallel()
	n := NewNetwork(t, netip.MustParsePrefix("10.98.0.0/24"))
	a := NewHost(t, Options{Name: "a", Network: n})
	b := NewHost(t, Options{Name: "b", Network: n, DefaultRoute: true})
	for _, h := range []*Host{a, b} {
		old, routes := h.Address, h.Shell(t, "ip route | sed 's/ src .*//'")
		other := a
		if h == a {
			other = b
		}
		pings(t, other, old, 1)
		next := netip.AddrFrom4([4]byte{10, 98, 0, old.As4()[3] + 100})
		if err := h.ChangeAddress(next); err != nil {
			t.Fatal(err)
		}
		if h.Address != next {
			t.Errorf("the host says that it has %s", h.Address)
		}
		if got := h.Shell(t, "ip -4 addr show eth0 | grep -c inet; ip route | sed 's/ src .*//'"); got != "1\n"+routes {
			t.Errorf("addresses and routes: %s\nroutes before: %s", got, routes)
		}
		if answers(t, other, old) || !answers(t, other, next) {
			t.Errorf("the old address answers: %t, the new one: %t", answers(t, other, old), answers(t, other, next))
		}
	}
	if err := b.Reboot(); err != nil {
		t.Fatal(err)
	}
	if !answers(t, a, b.Address) {
		t.Error("the new address was lost by a reboot")
	}
}

func TestTraffic(t *testing.T) {
	a, b := pair(t)
	a.Shell(t, "mkdir /tmp/www; head -c 1000000 /dev/zero >/tmp/www/file; httpd -p 80 -h /tmp/www")
	before, err := b.Traffic()
	if err != nil {
		t.Fatal(err)
	}
	b.Shell(t, "timeout 60 wget -qO /dev/null http://"+a.Address.String()+"/file")
	after, err := b.Traffic()
	if err != nil {
		t.Fatal(err)
	}
	if got := after.RxBytes - before.RxBytes; got < 1_000_000 || got > 1_500_000 {
		t.Errorf("fetching 1 MB was counted as %d bytes received", got)
	}
	if got := after.TxBytes - before.TxBytes; got == 0 || got > 500_000 || after.TxPackets == before.TxPackets {
		t.Errorf("fetching 1 MB was counted as %d bytes sent", got)
	}
}

const insidePrefix = "192.168.1.0/24"

// site is a host behind a NAT.
func site(t *testing.T, outside *Network, name string) *Host {
	t.Helper()
	return NewHost(t, Options{Name: name, Network: NewNAT(t, outside, netip.MustParsePrefix(insidePrefix))})
}

func TestNAT(t *testing.T) {
	t.Parallel()
	outside := NewNetwork(t, netip.MustParsePrefix("10.98.0.0/24"))
	server := NewHost(t, Options{Name: "server", Network: outside})
	// Two sites with the same addresses.
	one, two := site(t, outside, "one"), site(t, outside, "two")
	if one.Address != two.Address {
		t.Fatalf("addresses %s and %s", one.Address, two.Address)
	}
	server.Shell(t, `mkdir -p /tmp/cgi-bin; printf '#!/bin/sh\necho; echo $REMOTE_ADDR\n' >/tmp/cgi-bin/who; chmod +x /tmp/cgi-bin/who; httpd -p 80 -h /tmp`)
	for _, h := range []*Host{one, two} {
		h.Shell(t, "ping -c 1 -W 5 "+server.Address.String())
		seen := h.Shell(t, "timeout 10 wget -qO- http://"+server.Address.String()+"/cgi-bin/who")
		if want := h.opts.Network.OutsideAddress().String(); !strings.Contains(seen, want) {
			t.Errorf("host %s is seen as %q, want %q", h.Name, seen, want)
		}
		h.Shell(t, "echo inside >/tmp/page; httpd -p 80 -h /tmp")
		h.Shell(t, "wget -qO- http://"+h.Address.String()+"/page")
		if answers(t, server, h.Address) || answers(t, server, h.opts.Network.OutsideAddress()) {
			t.Errorf("host %s answers to outside", h.Name)
		}
	}
	// Nor does one get in by force, with a route.
	router := one.opts.Network.OutsideAddress().String()
	server.Shell(t, "ip route add "+insidePrefix+" via "+router)
	for _, to := range []string{one.Address.String(), router, one.opts.Network.gateway().String()} {
		if out, err := server.Run(t.Context(), "timeout", "2", "wget", "-qO-", "http://"+to+"/page"); err == nil {
			t.Errorf("server has reached %s: %s", to, out)
		}
	}
	if one.opts.Network.OutsideAddress() == two.opts.Network.OutsideAddress() {
		t.Error("two routers have one address")
	}
}

func TestNATInNAT(t *testing.T) {
	t.Parallel()
	outside := NewNetwork(t, netip.MustParsePrefix("10.98.0.0/24"))
	server := NewHost(t, Options{Name: "server", Network: outside})
	provider := NewNAT(t, outside, netip.MustParsePrefix("100.64.0.0/24"))
	home := site(t, provider, "home")
	home.Shell(t, "ping -c 1 -W 5 "+server.Address.String())
}

func TestRouterForgetsConnections(t *testing.T) {
	t.Parallel()
	outside := NewNetwork(t, netip.MustParsePrefix("10.98.0.0/24"))
	server := NewHost(t, Options{Name: "server", Network: outside})
	h := site(t, outside, "one")
	// Each end sends what it is given on a pipe; what it receives ends up in a file.
	server.Shell(t, "mkfifo /tmp/in; (nc -l -p 7000 </tmp/in >/tmp/out &) >/dev/null 2>&1; (sleep 1000 >/tmp/in &) >/dev/null 2>&1")
	server.Shell(t, "until netstat -ltn | grep -q :7000; do sleep 0.05; done")
	h.Shell(t, "mkfifo /tmp/in; (nc "+server.Address.String()+" 7000 </tmp/in >/tmp/out &) >/dev/null 2>&1; (sleep 1000 >/tmp/in &) >/dev/null 2>&1")
	say := func(from, to *Host, word string) bool {
		t.Helper()
		from.Shell(t, "echo "+word+" >/tmp/in")
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		for ctx.Err() == nil {
			if text, _ := os.ReadFile(to.File("/tmp/out")); strings.Contains(string(text), word) {
				return true
			}
			time.Sleep(20 * time.Millisecond)
		}
		return false
	}
	Eventually(t, 10*time.Second, func() error {
		if !say(h, server, "hello") || !say(server, h, "welcome") {
			return errors.New("the connection does not work")
		}
		return nil
	})
	if err := h.opts.Network.ForgetConnections(); err != nil {
		t.Fatal(err)
	}
	if say(server, h, "downwards") || say(h, server, "upwards") {
		t.Error("the connection goes on")
	}
	h.Shell(t, "ping -c 1 -W 5 "+server.Address.String()) // new ones work
}

func TestClosedNATLeavesNothingOutside(t *testing.T) {
	t.Parallel()
	outside := NewNetwork(t, netip.MustParsePrefix("10.98.0.0/24"))
	before := linksOf(t, outside)
	n, err := OpenNAT(outside, netip.MustParsePrefix(insidePrefix))
	if err != nil {
		t.Fatal(err)
	}
	if linksOf(t, outside) == before {
		t.Error("the router has no cable")
	}
	n.Close()
	Eventually(t, 30*time.Second, func() error { // the kernel removes namespaces when it has time
		if links := linksOf(t, outside); links != before {
			return fmt.Errorf("left: %s", links)
		}
		return nil
	})
}
