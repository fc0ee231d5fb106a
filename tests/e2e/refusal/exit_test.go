package refusal

import (
	"strings"
	"testing"
)

// TestArgumentsThatContradict: what edgebox sets itself is not taken from the user twice. All of it is told at once,
// before anything is made.
func TestArgumentsThatContradict(t *testing.T) {
	h := host(t)
	write(t, h, "/etc/edgebox/config.yaml", "kube-apiserver-arg: [secure-port=7443, audit-log-maxage=3]\nkubelet-arg: [node-ip=192.0.2.9]\n")
	refused(t, h, []string{"--kube-proxy-arg=proxy-mode=iptables", "--kube-controller-manager-arg=cluster-cidr=10.1.0.0/16"},
		`config\.yaml: kube-apiserver-arg: secure-port is set by --https-listen-port`, `config\.yaml: kubelet-arg: node-ip is set by --node-ip`,
		`kube-proxy-arg: proxy-mode cannot be set`, `kube-controller-manager-arg: cluster-cidr is set by --cluster-cidr`)
	if left := h.Shell(t, "ls /var/lib 2>/dev/null || true"); strings.Contains(left, "edgebox") {
		t.Errorf("a server with bad arguments has made %s", left)
	}
	if err := h.WriteFile("/etc/edgebox/config.yaml", ""); err != nil {
		t.Fatal(err)
	}
	refused(t, h, []string{"--kube-scheduler-arg=config=/none.yaml"}, `kube-scheduler-arg: config: .*/none\.yaml.*no such file`)
}

// TestUpstreamExits: the kubelet would end the process with no more than a log line. It is its component that ends.
func TestUpstreamExits(t *testing.T) {
	h := host(t)
	message := refused(t, h, []string{"--kubelet-arg=port=6443"}, `kubelet failed: Failed to listen and serve: .*6443.*address already in use`)
	if strings.Contains(message, "still running") {
		t.Errorf("the others were not stopped in order:\n%s", message)
	}
}
