package preflight

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// features that a module brings and that the kernel does not load by itself when they are used, each with a file that
// shows it.
var features = []struct{ module, shows string }{
	{"br_netfilter", bridgeFilter},
	{"nf_conntrack", "/proc/sys/net/netfilter/nf_conntrack_max"}, // kube-proxy sets its limits
}

// LoadModules loads the modules of missing features where the host has modprobe. What it could not load may be built
// in, or not be needed; the probes tell. Only start-up calls it, before Run.
func LoadModules(ctx context.Context) error {
	modprobe := modprobePath()
	if modprobe == "" {
		return nil
	}
	var errs []error
	h := realHost()
	for _, f := range features {
		if h.exists(f.shows) {
			continue
		}
		if out, err := exec.CommandContext(ctx, modprobe, "-q", f.module).CombinedOutput(); err != nil {
			errs = append(errs, fmt.Errorf("load module %s: %w %s", f.module, err, strings.TrimSpace(string(out))))
		}
	}
	return errors.Join(errs...)
}

func modprobePath() string {
	for _, p := range []string{"/sbin/modprobe", "/usr/sbin/modprobe", "/bin/modprobe"} {
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	return ""
}
