package host

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/edgebox/edgebox/pkg/component"
)

// inNamespace is set in the process whose network is its own.
const inNamespace = "HOST_TEST_IN_NAMESPACE"

// ownNetwork runs the calling test again in a process with a network of its own, and reports whether this is it.
func ownNetwork(t *testing.T) bool {
	t.Helper()
	if os.Getenv(inNamespace) != "" {
		return true
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root for a network namespace")
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	return false
}

// link makes an interface whose addresses change with add and remove.
func link(t *testing.T) (add, remove func(prefix string)) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "lan0"
	l := &netlink.Veth{LinkAttrs: attrs, PeerName: "lan1"}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(netlink.LinkAdd(l))
	t.Cleanup(func() { must(netlink.LinkDel(l)) })
	must(netlink.LinkSetUp(l))
	addr := func(prefix string) *netlink.Addr {
		a, err := netlink.ParseAddr(prefix)
		must(err)
		return a
	}
	return func(prefix string) { must(netlink.AddrAdd(l, addr(prefix))) }, func(prefix string) { must(netlink.AddrDel(l, addr(prefix))) }
}

func addrs(texts ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range texts {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

// TestMoved is about which changes of a host's addresses are the node's.
func TestMoved(t *testing.T) {
	if !ownNetwork(t) {
		return
	}
	nowhere := errors.New("no address")
	for _, tt := range []struct {
		name    string
		node    []netip.Addr // when it started
		host    []string     // now
		found   []netip.Addr
		err     error
		restart bool
	}{
		{name: "all as it was", node: addrs("192.0.2.7"), host: []string{"192.0.2.7/24"}, found: addrs("192.0.2.7")},
		{name: "another one too", node: addrs("192.0.2.7"), host: []string{"192.0.2.7/24", "198.51.100.1/24"}, found: addrs("192.0.2.7")},
		{name: "one that would be preferred now", node: addrs("192.0.2.7"), host: []string{"192.0.2.7/24", "198.51.100.1/24"}, found: addrs("198.51.100.1")},
		{name: "replaced", node: addrs("192.0.2.7"), host: []string{"192.0.2.8/24"}, found: addrs("192.0.2.8"), restart: true},
		{name: "removed", node: addrs("192.0.2.7"), err: nowhere},
		{name: "removed, another is left that does not count", node: addrs("192.0.2.7"), host: []string{"198.51.100.1/24"}, err: nowhere},
		{name: "removed, and set by the user", node: addrs("192.0.2.7"), found: addrs("192.0.2.7")},
		{name: "one of two replaced", node: addrs("192.0.2.7", "2001:db8::7"), host: []string{"192.0.2.7/24", "2001:db8::8/64"},
			found: addrs("192.0.2.7", "2001:db8::8"), restart: true},
		{name: "both there", node: addrs("192.0.2.7", "2001:db8::7"), host: []string{"192.0.2.7/24", "2001:db8::7/64"},
			found: addrs("192.0.2.7", "2001:db8::7")},
		{name: "another prefix length", node: addrs("192.0.2.7"), host: []string{"192.0.2.7/16"}, found: addrs("192.0.2.7")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			add, _ := link(t)
			for _, prefix := range tt.host {
				add(prefix)
			}
			err := NewAddresses(tt.node, func() ([]netip.Addr, error) { return tt.found, tt.err }).moved()
			if errors.Is(err, component.ErrRestart) != tt.restart || err != nil && !tt.restart {
				t.Errorf("moved: %v, want a restart: %v", err, tt.restart)
			}
		})
	}
}

// TestAddresses has the kernel tell the component what happens.
func TestAddresses(t *testing.T) {
	if !ownNetwork(t) {
		return
	}
	const old, next = "192.0.2.7/24", "198.51.100.8/24" // in one network, the second would go with the first
	for _, tt := range []struct {
		name     string
		before   func(add, remove func(string)) // what happened before the component ran
		meantime bool                           // the node has no address for a while
		after    func(add, remove func(string))
	}{
		{"replaced", nil, false, func(add, remove func(string)) { remove(old); add(next) }},
		{"replaced, the new one first", nil, false, func(add, remove func(string)) { add(next); remove(old) }},
		{"replaced before", func(add, remove func(string)) { remove(old); add(next) }, false, nil},
		{"removed, and replaced later", func(_, remove func(string)) { remove(old) }, true, func(add, _ func(string)) { add(next) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			add, remove := link(t)
			add(old)
			if tt.before != nil {
				tt.before(add, remove)
			}
			looked := make(chan bool, 100)
			a := NewAddresses(addrs("192.0.2.7"), func() ([]netip.Addr, error) {
				defer func() { looked <- true }()
				have, err := net.InterfaceAddrs()
				if err != nil {
					return nil, err
				}
				for _, h := range have {
					if h.String() == next {
						return addrs("198.51.100.8"), nil
					}
				}
				return nil, errors.New("no address")
			})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ready, ended := make(chan struct{}), make(chan error, 1)
			go func() { ended <- a.Run(ctx, func() { close(ready) }) }()
			<-ready
			if tt.meantime {
				<-looked
			}
			if tt.after != nil {
				tt.after(add, remove)
			}
			if err := <-ended; !errors.Is(err, component.ErrRestart) {
				t.Errorf("Run: %v", err)
			}
		})
	}
	t.Run("until told to stop", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		err := NewAddresses(nil, func() ([]netip.Addr, error) { return nil, nil }).Run(ctx, cancel)
		if err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}
