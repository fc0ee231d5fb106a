// Package preflight looks at a host and says whether edgebox can run on it, and how to fix what is in the way. Start-up
// and `edgebox check` share its probes.
//
// It tries what it can instead of reading version numbers: an overlay is mounted, links and nftables rules are made,
// in namespaces that vanish with the probe. For that it briefly keeps a folder named .edgebox-check-* in or above the
// data dir. It changes nothing else, except for LoadModules, which only start-up calls.
package preflight

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/edgebox/edgebox/pkg/config"
)

// Level says how much a finding matters.
type Level string

const (
	OK      Level = "ok"
	Info    Level = "info"    // worth knowing, nothing to do
	Warning Level = "warning" // edgebox runs, with a cost or a risk
	Error   Level = "error"   // edgebox does not run, or not correctly
)

// Result is one finding about the host.
type Result struct {
	Name    string `json:"name"` // what was looked at
	Level   Level  `json:"level"`
	Message string `json:"message"`
	Fix     string `json:"fix,omitempty"` // what the user can do, as an imperative
}

// Input is what the probes need to know about the node that is to run.
type Input struct {
	Paths    config.Paths
	NodeName string
	Server   bool // runs the control plane
	Etcd     bool // and a member of an etcd cluster
	Agent    bool // runs pods: kubelet and containerd

	// StartUp means that edgebox is about to start. Otherwise it may be running, and may hold its ports.
	StartUp bool

	Ports          []Port         // that edgebox listens on; Ports gives the usual ones
	FlannelBackend string         // vxlan, host-gw, wireguard-native or none
	ClusterCIDR    []netip.Prefix // for the advice about firewalls
	ServiceCIDR    []netip.Prefix

	// Own names the links and tables that edgebox made, so that they do not count as another product's: "link cni0",
	// "table ip kube-proxy", as the footprint lists them.
	Own []string

	Version     string    // of this edgebox
	DataVersion string    // of the edgebox that last used the data dir; empty if none did
	BuildDate   time.Time // no clock can be right that is before it
}

// Port is one that edgebox listens on.
type Port struct {
	Number int
	UDP    bool
	Addr   netip.Addr // the zero Addr is every address
	Use    string     // the component that listens
	Option string     // the flag that moves it; empty if none does
}

// Ports are those of a node that serves the API on api: a server, or the balancer of an agent.
func Ports(in Input, api netip.AddrPort) []Port {
	local := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	var ports []Port
	if in.Server {
		ports = append(ports,
			Port{Number: int(api.Port()), Addr: api.Addr(), Use: "the Kubernetes API", Option: "--https-listen-port"},
			Port{Number: 10257, Addr: local, Use: "kube-controller-manager"},
			Port{Number: 10259, Addr: local, Use: "kube-scheduler"},
		)
	} else {
		ports = append(ports, Port{Number: int(api.Port()), Addr: api.Addr(), Use: "the balancer of the API", Option: "--lb-server-port"})
	}
	if in.Etcd {
		ports = append(ports, Port{Number: 2379, Use: "etcd"}, Port{Number: 2380, Use: "etcd's members"})
	}
	if in.Agent {
		ports = append(ports,
			Port{Number: 10248, Addr: local, Use: "kubelet's health check"},
			Port{Number: 10250, Use: "kubelet"},
			Port{Number: 10256, Addr: local, Use: "kube-proxy's health check"},
		)
		switch in.FlannelBackend {
		case "vxlan":
			ports = append(ports, Port{Number: 8472, UDP: true, Use: "flannel's vxlan"})
		case "wireguard-native":
			for _, cidr := range in.ClusterCIDR { // flannel has a link for each family
				port := 51820
				if cidr.Addr().Is6() {
					port = 51821
				}
				ports = append(ports, Port{Number: port, UDP: true, Use: "flannel's wireguard"})
			}
		}
	}
	return ports
}

type probe struct {
	name string
	run  func(*host, Input) []Result
}

// The order is that of the report.
var (
	always = []probe{
		{"root", probeRoot},
		{"kernel", probeKernel},
		{"name", probeName},
		{"clock", probeClock},
		{"machine id", probeMachineID},
		{"memory", probeMemory},
		{"data dir", probeDataDir},
		{"data version", probeDataVersion},
		{"ports", probePorts},
		{"other clusters", probeOthers},
	}
	forPods = []probe{
		{"cgroups", probeCgroups},
		{"namespaces", probeNamespaces},
		{"overlayfs", probeOverlay},
		{"network features", probeNetwork},
		{"nft", probeNft},
		{"forwarding", probeForwarding},
		{"br_netfilter", probeBridgeFilter},
		{"swap", probeSwap},
		{"inotify", probeInotify},
		{"commands", probeCommands},
		{"capabilities", probeCapabilities},
		{"leftovers", probeLeftovers},
		{"firewall", probeFirewall},
	}
)

// Run runs all probes at once and returns their findings in a fixed order. It takes some ten milliseconds; a probe that
// hangs (a dead NFS server, say) is reported when ctx ends. Panics become findings. Safe for concurrent use.
func Run(ctx context.Context, in Input) []Result { return run(ctx, realHost(), in) }

func run(ctx context.Context, h *host, in Input) []Result {
	probes := always
	if in.Agent {
		probes = append(probes[:len(probes):len(probes)], forPods...)
	}
	in.Paths.Data = h.resolve(in.Paths.Data) // as the kernel shows it
	h.tables = sync.OnceValues(h.tables)     // two probes ask
	found := make([]chan []Result, len(probes))
	for i, p := range probes {
		found[i] = make(chan []Result, 1)
		go func() { found[i] <- guarded(p, h, in) }()
	}
	var all []Result
	for i, p := range probes {
		select {
		case rs := <-found[i]:
			all = append(all, rs...)
			continue
		default:
		}
		select {
		case rs := <-found[i]:
			all = append(all, rs...)
		case <-ctx.Done():
			all = append(all, Result{p.name, Error, fmt.Sprintf("the %s probe did not end: %v", p.name, context.Cause(ctx)),
				"look for a disk or network file system that does not answer (dmesg)"})
		}
	}
	return all
}

func guarded(p probe, h *host, in Input) (rs []Result) {
	defer func() {
		if v := recover(); v != nil {
			rs = []Result{{p.name, Error, fmt.Sprintf("the %s probe failed: %v", p.name, v), "report this as a bug of edgebox"}}
		}
	}()
	return p.run(h, in)
}

// Errors joins the findings that keep edgebox from running, each with its fix. It is nil if there are none.
func Errors(results []Result) error {
	var errs []error
	for _, r := range results {
		if r.Level == Error {
			errs = append(errs, errors.New(r.String()))
		}
	}
	return errors.Join(errs...)
}

func (r Result) String() string {
	if r.Fix == "" {
		return r.Message
	}
	return strings.TrimSuffix(r.Message, ".") + ": " + r.Fix
}

func ok(name, format string, args ...any) []Result {
	return []Result{{Name: name, Level: OK, Message: fmt.Sprintf(format, args...)}}
}

func one(name string, l Level, message, fix string) []Result {
	return []Result{{name, l, message, fix}}
}
