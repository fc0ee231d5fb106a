package preflight

import (
	"context"
	"encoding/json"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/edgebox/edgebox/pkg/config"
)

// On a host that can run edgebox no probe may find an error, and all of them together must be quick.
func TestRealHost(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	in := Input{
		Paths:  config.Paths{Data: dir + "/data", Run: dir + "/run"},
		Server: true, Agent: true, StartUp: true,
		NodeName: "node", FlannelBackend: "vxlan",
		ClusterCIDR: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")},
		Ports:       []Port{{Number: 1, Use: "a test"}},
	}
	start := time.Now()
	rs := Run(context.Background(), in)
	t.Logf("took %s", time.Since(start))
	for _, r := range rs {
		if r.Name == "other clusters" || r.Name == "leftovers" || r.Name == "firewall" {
			continue // not the product's matter on a developer's machine
		}
		b, _ := json.Marshal(r)
		t.Logf("%s", b)
		if r.Level == Error {
			t.Errorf("%s: %s", r.Name, r)
		}
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
