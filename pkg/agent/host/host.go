// Package host brings the kernel of a node into the state that Kubernetes' network needs. It changes nothing that is set
// already, and nothing that a reboot does not undo. Modules are loaded before that, by pkg/preflight.
package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// sysctls and the values that they must have: forwarding for pods, and the bridge's traffic through netfilter, without
// which a pod cannot reach a Service whose endpoint is on the same bridge.
var sysctls = []struct {
	name, value string
	optional    bool // the kernel may not have it: no IPv6
}{
	{"net/ipv4/ip_forward", "1", false},
	{"net/bridge/bridge-nf-call-iptables", "1", false},
	{"net/ipv6/conf/all/forwarding", "1", true},
	{"net/bridge/bridge-nf-call-ip6tables", "1", true},
}

// Host is the component.
type Host struct{ proc string }

// New returns the component for this machine.
func New() *Host { return &Host{proc: "/proc/sys"} }

// Name implements component.Component.
func (h *Host) Name() string { return "host" }

// Prepare sets sysctls, and lets mounts of pods propagate where the root is private, as it is without
// systemd.
func (h *Host) Prepare(context.Context) error {
	var errs []error
	for _, s := range sysctls {
		errs = append(errs, h.set(s.name, s.value, s.optional))
	}
	if err := unix.Mount("", "/", "", unix.MS_SHARED|unix.MS_REC, ""); err != nil {
		errs = append(errs, fmt.Errorf("make the root mount shared: %w", err))
	}
	return errors.Join(errs...)
}

func (h *Host) set(name, want string, optional bool) error {
	path := filepath.Join(h.proc, name)
	got, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) && optional {
		return nil
	}
	if err != nil {
		return fmt.Errorf("sysctl %s: %w: does this kernel lack it?", strings.ReplaceAll(name, "/", "."), err)
	}
	if strings.TrimSpace(string(got)) == want {
		return nil
	}
	if err := os.WriteFile(path, []byte(want), 0o644); err != nil && !optional {
		return fmt.Errorf("set sysctl %s to %s: %w", strings.ReplaceAll(name, "/", "."), want, err)
	}
	return nil
}

// Run has nothing to do: Prepare did it.
func (h *Host) Run(ctx context.Context, ready func()) error {
	ready()
	<-ctx.Done()
	return nil
}

// Check reports a sysctl that someone has changed since.
func (h *Host) Check(context.Context) error {
	for _, s := range sysctls {
		got, err := os.ReadFile(filepath.Join(h.proc, s.name))
		if err == nil && !s.optional && strings.TrimSpace(string(got)) != s.value {
			return fmt.Errorf("sysctl %s is %s, pods need %s", strings.ReplaceAll(s.name, "/", "."), strings.TrimSpace(string(got)), s.value)
		}
	}
	return nil
}
