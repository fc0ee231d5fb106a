package kubelet

import (
	"net/netip"
	"os"
	"strings"
)

// resolvConfs are where a host says what its DNS servers are. The first is often a stub on a loopback address, which a pod
// cannot reach; systemd-resolved keeps what is behind its stub in the second.
var resolvConfs = []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"}

// resolvConf chooses the file that pods get the host's DNS servers from. It is empty where there is none, as on a box
// without DNS: with the name of a missing file the kubelet starts no pod.
func resolvConf(files []string) string {
	stub := ""
	for _, f := range files {
		data, err := os.ReadFile(f)
		switch {
		case err != nil:
		case !isStub(string(data)):
			return f
		case stub == "":
			stub = f
		}
	}
	return stub
}

// isStub reports whether all servers, of which there is one at least, are on loopback addresses.
func isStub(conf string) bool {
	loopback := false
	for line := range strings.Lines(conf) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "nameserver" {
			continue
		}
		addr, err := netip.ParseAddr(f[1])
		if err != nil || !addr.Unmap().IsLoopback() {
			return false
		}
		loopback = true
	}
	return loopback
}
