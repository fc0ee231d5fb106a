package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/edgebox/edgebox/pkg/component"
)

// settle is how long addresses must stay as they are before they count: a DHCP client removes one before it adds the
// next, and a cable may be pulled for a moment.
const settle = 2 * time.Second

// Addresses watches the addresses that this node had when it started. When one has gone and another has taken its place,
// edgebox starts anew, and with it everything that depends on them: certificates, the Node, the network between nodes.
type Addresses struct {
	now  []netip.Addr
	find func() ([]netip.Addr, error)
}

// NewAddresses returns the component; find looks for the node's addresses on the host as it is.
func NewAddresses(now []netip.Addr, find func() ([]netip.Addr, error)) *Addresses {
	return &Addresses{now: now, find: find}
}

// Name implements component.Component.
func (a *Addresses) Name() string { return "addresses" }

// Run watches until ctx ends. While nothing happens it costs nothing.
func (a *Addresses) Run(ctx context.Context, ready func()) error {
	updates := make(chan netlink.AddrUpdate, 16)
	if err := netlink.AddrSubscribe(updates, ctx.Done()); err != nil {
		return fmt.Errorf("subscribe to address changes: %w", err)
	}
	ready()
	check := time.NewTimer(0) // what happened before the subscription
	defer check.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-updates:
			if !ok {
				return errors.New("the kernel's messages on addresses ended")
			}
			check.Reset(settle)
		case <-check.C:
			if err := a.moved(); err != nil {
				return err
			}
		}
	}
}

// moved fails when the node has other addresses than before. As long as it has no other, nothing can be done but wait.
func (a *Addresses) moved() error {
	have, err := net.InterfaceAddrs()
	if err != nil {
		return fmt.Errorf("read addresses: %w", err)
	}
	gone := slices.ContainsFunc(a.now, func(addr netip.Addr) bool {
		return !slices.ContainsFunc(have, func(h net.Addr) bool {
			p, err := netip.ParsePrefix(h.String())
			return err == nil && p.Addr().Unmap() == addr
		})
	})
	if !gone {
		return nil
	}
	found, err := a.find()
	if err != nil {
		slog.Warn("this node has lost an address", "had", a.now, "err", err)
		return nil
	}
	if slices.Equal(found, a.now) {
		return nil
	}
	return fmt.Errorf("the addresses of this node were %v and are %v: %w", a.now, found, component.ErrRestart)
}
