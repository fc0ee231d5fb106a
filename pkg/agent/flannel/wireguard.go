package flannel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/flannel-io/flannel/pkg/lease"
	"github.com/vishvananda/netlink"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/edgebox/edgebox/pkg/durable"
)

// keyFileVariable is how flannel's wireguard backend is told where the private key is. It makes one that is not there,
// without care for a power cut.
const keyFileVariable = "WIREGUARD_KEY_FILE"

// keepalive, in seconds, is what wireguard's manual advises for peers behind NAT: routers forget idle UDP flows.
const keepalive = 25

// wireguardConfig readies the key and returns the backend's configuration. The ports are flannel's own: 51820, and 51821
// for IPv6.
func wireguardConfig(keyFile string, mtu int, ipv6 bool) (json.RawMessage, error) {
	if err := ensureKey(keyFile); err != nil {
		return nil, fmt.Errorf("wireguard's private key: %w", err)
	}
	if err := os.Setenv(keyFileVariable, keyFile); err != nil {
		return nil, err
	}
	if !ipv6 {
		mtu += 20 // flannel takes off 80 bytes, as for an outer IPv6 header; one of IPv4 has 20 fewer
	}
	return json.Marshal(map[string]any{"MTU": mtu, "PersistentKeepaliveInterval": keepalive})
}

// ensureKey makes the key with the first start, and makes it anew if it is damaged: other nodes learn the public one.
func ensureKey(path string) error {
	if text, err := os.ReadFile(path); err == nil {
		if _, err := wgtypes.ParseKey(string(text)); err == nil {
			return os.Chmod(path, 0o600)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	key, err := wgtypes.GeneratePrivateKey()
	if err != nil {
		return err
	}
	if err := durable.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return durable.WriteFile(path, []byte(key.String()), 0o600)
}

// lessor publishes leases under the context of the run; the one that the wireguard backend hands on never ends.
type lessor struct {
	*nodes
	run context.Context //nolint:containedctx // see above
}

// AcquireLease implements subnet.Manager.
func (l lessor) AcquireLease(_ context.Context, attrs *lease.LeaseAttrs) (*lease.Lease, error) {
	return l.nodes.AcquireLease(l.run, attrs)
}

// removeOtherBackends removes what an earlier run with another backend has left: its links, whose routes to single nodes
// would win against one to the whole network, and the routes of host-gw.
func removeOtherBackends(keep []string, backend string, clusterCIDRs []netip.Prefix) error {
	for _, made := range linksOf {
		for _, name := range []string{made.v4, made.v6} {
			if slices.Contains(keep, name) {
				continue
			}
			link, err := netlink.LinkByName(name)
			if errors.As(err, new(netlink.LinkNotFoundError)) {
				continue
			}
			if err == nil {
				err = netlink.LinkDel(link)
			}
			if err != nil {
				return fmt.Errorf("remove link %s of another backend: %w", name, err)
			}
		}
	}
	if backend == HostGW {
		return nil
	}
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		if r.Gw == nil || r.Dst == nil || !ofNode(r, clusterCIDRs) || overFlannel(r, links) {
			continue
		}
		if err := netlink.RouteDel(&r); err != nil {
			return fmt.Errorf("remove route to %s of another backend: %w", r.Dst, err)
		}
	}
	return nil
}

// ofNode reports whether a route is to one node's part of the cluster's network.
func ofNode(r netlink.Route, clusterCIDRs []netip.Prefix) bool {
	addr, _ := netip.AddrFromSlice(r.Dst.IP)
	ones, _ := r.Dst.Mask.Size()
	return slices.ContainsFunc(clusterCIDRs, func(p netip.Prefix) bool { return p.Contains(addr.Unmap()) && p.Bits() < ones })
}

func overFlannel(r netlink.Route, links []netlink.Link) bool {
	return slices.ContainsFunc(links, func(l netlink.Link) bool {
		return l.Attrs().Index == r.LinkIndex && strings.HasPrefix(l.Attrs().Name, "flannel")
	})
}
