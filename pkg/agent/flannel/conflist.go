package flannel

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/edgebox/edgebox/pkg/durable"
)

// ConflistPath is the CNI configuration in the directory that containerd reads. Whoever runs another network in
// flannel's place removes it.
func ConflistPath(dir string) string { return filepath.Join(dir, "10-edgebox.conflist") }

// The CNI configuration: bridge and host-local for the pod's link and address, portmap for hostPort.

type conflist struct {
	CNIVersion string `json:"cniVersion"`
	Name       string `json:"name"`
	Plugins    []any  `json:"plugins"`
}

type bridgePlugin struct {
	Type        string    `json:"type"`
	Bridge      string    `json:"bridge"`
	DefaultGW   bool      `json:"isDefaultGateway"`
	HairpinMode bool      `json:"hairpinMode"` // a pod may reach itself through its Service
	IPMasq      bool      `json:"ipMasq"`      // flannel masquerades, once for all pods
	MTU         int       `json:"mtu"`
	IPAM        hostLocal `json:"ipam"`
}

type hostLocal struct {
	Type    string        `json:"type"`
	DataDir string        `json:"dataDir"`
	Ranges  [][]ipamRange `json:"ranges"`
}

type ipamRange struct {
	Subnet netip.Prefix `json:"subnet"`
}

type portmapPlugin struct {
	Type         string          `json:"type"`
	Capabilities map[string]bool `json:"capabilities"`
	Backend      string          `json:"backend"`
	SNAT         bool            `json:"snat"`
}

// renderConflist is pure. Version 1.0.0 of the CNI specification is asked for on purpose: with 1.1.0 the runtime
// executes every plugin at each status call, and host-local has no answer to it.
func renderConflist(podCIDRs []netip.Prefix, mtu int, ipamDir string) ([]byte, error) {
	var ranges [][]ipamRange
	for _, p := range podCIDRs {
		ranges = append(ranges, []ipamRange{{p}})
	}
	data, err := json.MarshalIndent(conflist{
		CNIVersion: "1.0.0",
		Name:       "edgebox",
		Plugins: []any{
			bridgePlugin{
				Type: "bridge", Bridge: Bridge, DefaultGW: true, HairpinMode: true, MTU: mtu,
				IPAM: hostLocal{Type: "host-local", DataDir: ipamDir, Ranges: ranges},
			},
			portmapPlugin{
				Type: "portmap", Capabilities: map[string]bool{"portMappings": true}, Backend: "nftables", SNAT: true,
			},
		},
	}, "", "  ")
	return append(data, '\n'), err
}

// writeConflist puts the configuration in place, which makes the node's network ready. An equal one is left as it is,
// so that containerd, which watches the directory, does not load it again.
func writeConflist(dir string, podCIDRs []netip.Prefix, mtu int, ipamDir string) error {
	data, err := renderConflist(podCIDRs, mtu, ipamDir)
	if err != nil {
		return err
	}
	path := ConflistPath(dir)
	if old, err := os.ReadFile(path); err == nil && string(old) == string(data) {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make CNI directory: %w", err)
	}
	return durable.WriteFile(path, data, 0o644)
}
