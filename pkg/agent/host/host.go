// Package host brings the kernel of a node into the state that Kubernetes needs: sysctls of the network, and mounts that
// propagate. It changes nothing that is set already, and nothing that a reboot does not undo. Modules are loaded before
// that, by pkg/preflight.
package host

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// What must be 1 for each IP family of the cluster: forwarding for pods, and the bridge's traffic through netfilter,
// without which a pod cannot reach a Service whose endpoint is on the same bridge. A host whose pods have no IPv6 must not
// forward it: it would stop to take its own addresses from router advertisements.
var (
	sysctlsIPv4 = []string{"net/ipv4/ip_forward", "net/bridge/bridge-nf-call-iptables"}
	sysctlsIPv6 = []string{"net/ipv6/conf/all/forwarding", "net/bridge/bridge-nf-call-ip6tables"}
)

// Host is the component.
type Host struct {
	proc    string // /proc/sys
	sysctls []string
	mounts  mounts
}

// New returns the component for this machine and the pod networks of the cluster. It notes in the file shared which
// mounts it had to change.
func New(clusterCIDRs []netip.Prefix, shared string) *Host {
	h := &Host{proc: "/proc/sys", mounts: realMounts(shared)}
	for _, c := range clusterCIDRs {
		if c.Addr().Is4() {
			h.sysctls = append(h.sysctls, sysctlsIPv4...)
		} else {
			h.sysctls = append(h.sysctls, sysctlsIPv6...)
		}
	}
	return h
}

// Name implements component.Component.
func (h *Host) Name() string { return "host" }

// Prepare sets sysctls, and lets the mounts of pods propagate.
func (h *Host) Prepare(context.Context) error { return errors.Join(h.setSysctls(), h.mounts.share()) }

func (h *Host) setSysctls() error {
	var errs []error
	for _, name := range h.sysctls {
		errs = append(errs, h.turnOn(name))
	}
	return errors.Join(errs...)
}

// turnOn writes a sysctl unless it is on: /proc/sys may be read-only.
func (h *Host) turnOn(name string) error {
	if err := h.isOn(name); err == nil || errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.WriteFile(filepath.Join(h.proc, name), []byte("1"), 0o644); err != nil {
		return fmt.Errorf("set sysctl %s to 1: %w", dotted(name), err)
	}
	return nil
}

func (h *Host) isOn(name string) error {
	got, err := os.ReadFile(filepath.Join(h.proc, name))
	if err != nil {
		return fmt.Errorf("sysctl %s: %w: this kernel lacks it, or the module br_netfilter is not loaded", dotted(name), err)
	}
	if v := strings.TrimSpace(string(got)); v != "1" {
		return fmt.Errorf("sysctl %s is %s, pods need 1", dotted(name), v)
	}
	return nil
}

func dotted(name string) string { return strings.ReplaceAll(name, "/", ".") }

// Run has nothing to do: Prepare did it.
func (h *Host) Run(ctx context.Context, ready func()) error {
	ready()
	<-ctx.Done()
	return nil
}

// Check reports a sysctl that someone has changed since.
func (h *Host) Check(context.Context) error {
	var errs []error
	for _, name := range h.sysctls {
		errs = append(errs, h.isOn(name))
	}
	return errors.Join(errs...)
}
