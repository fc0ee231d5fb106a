package preflight

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// daemons of other clusters, by the name in /proc/PID/comm, which holds 15 characters.
var daemons = map[string]string{
	"kubelet":         "a kubelet (kubeadm?)",
	"kube-apiserver":  "a kube-apiserver (kubeadm?)",
	"kube-proxy":      "a kube-proxy (kubeadm?)",
	"k3s":             "k3s",
	"k3s-server":      "k3s",
	"k3s-agent":       "k3s",
	"rke2":            "rke2",
	"k0s":             "k0s",
	"kubelite":        "microk8s",
	"flanneld":        "flannel",
	"calico-node":     "Calico",
	"cilium-agent":    "Cilium",
	"edgebox-node":    "another edgebox",
	"containerd":      "containerd",
	"dockerd":         "Docker",
	"crio":            "CRI-O",
	"firewalld":       "firewalld",
	"microk8s-worker": "microk8s",
}

// harmless ones run beside edgebox: they have their own state, sockets and cgroups.
var harmless = map[string]bool{"containerd": true, "dockerd": true, "crio": true, "firewalld": true}

// running finds daemons of others. Those in containers (another pid namespace, or a pod's cgroup) do not count.
func (h *host) running(in Input) map[string]process {
	found := make(map[string]process)
	own := h.link("/proc/self/ns/pid")
	for _, pid := range h.pids() {
		comm := h.read(proc(pid, "comm"))
		if _, known := daemons[comm]; !known {
			continue
		}
		p := h.process(pid)
		if below(p.exe, in.Paths.Bin()) || h.link(proc(pid, "ns/pid")) != own || strings.Contains(h.read(proc(pid, "cgroup")), "kubepods") {
			continue
		}
		if _, have := found[comm]; !have {
			found[comm] = p
		}
	}
	return found
}

func probeOthers(h *host, in Input) []Result {
	const name = "other clusters"
	var rs []Result
	running := h.running(in)
	comms := make([]string, 0, len(running))
	for comm := range running {
		comms = append(comms, comm)
	}
	slices.Sort(comms)
	for _, comm := range comms {
		p := running[comm]
		switch {
		case comm == "firewalld":
		case comm == "edgebox-node":
			rs = append(rs, Result{name, Error, fmt.Sprintf("another edgebox runs with another data dir (pid %d)", p.pid), "stop it, or use its --data-dir"})
		case harmless[comm]:
			rs = append(rs, Result{name, Info, fmt.Sprintf("%s runs (pid %d); edgebox has its own engine and images beside it", daemons[comm], p.pid), ""})
		case in.Agent:
			rs = append(rs, Result{name, Error, fmt.Sprintf("%s runs (pid %d, %s); two kubelets or pod networks on one host break each other", daemons[comm], p.pid, comm),
				"stop and disable it, or uninstall it"})
		default:
			rs = append(rs, Result{name, Warning, fmt.Sprintf("%s runs (pid %d, %s)", daemons[comm], p.pid, comm), "stop it if it is not needed"})
		}
	}
	if rs == nil {
		return ok(name, "no other cluster runs here")
	}
	return rs
}

// installed are folders that other clusters leave, and what removes them.
var installed = []struct{ path, product, fix string }{
	{"/etc/kubernetes/kubelet.conf", "kubeadm", "run kubeadm reset"},
	{"/etc/kubernetes/manifests/kube-apiserver.yaml", "kubeadm", "run kubeadm reset"},
	{"/var/lib/kubelet/config.yaml", "kubeadm", "run kubeadm reset, or delete /var/lib/kubelet"},
	{"/var/lib/rancher/k3s", "k3s", "run k3s-uninstall.sh or k3s-agent-uninstall.sh"},
	{"/var/lib/rancher/rke2", "rke2", "run rke2-uninstall.sh"},
	{"/var/lib/k0s", "k0s", "run k0s reset"},
	{"/var/snap/microk8s/current", "microk8s", "run snap remove --purge microk8s"},
}

func probeLeftovers(h *host, in Input) []Result {
	const name = "leftovers"
	var rs []Result
	add := func(l Level, message, fix string) { rs = append(rs, Result{name, l, message, fix}) }

	seen := make(map[string]bool)
	for _, i := range installed {
		if !seen[i.product] && h.exists(i.path) {
			seen[i.product] = true
			add(Warning, fmt.Sprintf("%s was installed here (%s)", i.product, i.path), i.fix+" when it is no longer needed")
		}
	}
	if confs := h.files("/etc/cni/net.d"); len(confs) > 0 {
		add(Info, fmt.Sprintf("/etc/cni/net.d holds %s, which edgebox does not use", strings.Join(confs, ", ")), "")
	}

	links, err := h.links()
	if err != nil {
		add(Warning, fmt.Sprintf("network links cannot be listed: %v", err), "")
	}
	for _, l := range links {
		switch {
		case slices.Contains(in.Own, "link "+l):
		case l == "cni0" || l == "flannel.1" || l == "flannel-v6.1":
			add(Warning, fmt.Sprintf("link %s was left by another cluster; edgebox takes it over", l), "run ip link delete "+l+" before edgebox starts")
		case strings.HasPrefix(l, "cali") || strings.HasPrefix(l, "cilium_") || l == "kube-ipvs0" || l == "weave":
			add(Warning, fmt.Sprintf("link %s was left by another cluster", l), "run ip link delete "+l)
		}
	}
	tables, err := h.tables()
	if err != nil {
		add(Warning, fmt.Sprintf("%v", err), "")
	}
	for _, t := range tables {
		if slices.Contains(in.Own, "table "+t.name) {
			continue
		}
		if strings.HasSuffix(t.name, " kube-proxy") {
			add(Warning, fmt.Sprintf("nftables table %s was left by another kube-proxy; edgebox takes it over", t.name), "run nft delete table "+t.name)
		}
		if slices.ContainsFunc(t.chains, func(c string) bool { return strings.HasPrefix(c, "KUBE-") && c != "KUBE-KUBELET-CANARY" }) {
			add(Warning, fmt.Sprintf("table %s holds KUBE-* chains of another kube-proxy, which send Service traffic to pods that are gone", t.name),
				"reboot, or run: iptables-save | grep -v KUBE- | iptables-restore")
		}
	}
	if rs == nil {
		return ok(name, "nothing is left of other clusters")
	}
	return rs
}

func probeFirewall(h *host, in Input) []Result {
	const name = "firewall"
	var rs []Result
	var cidrs []string
	for _, c := range slices.Concat(in.ClusterCIDR, in.ServiceCIDR) {
		cidrs = append(cidrs, c.Masked().String())
	}
	if _, active := h.running(in)["firewalld"]; active {
		fix := "run firewall-cmd --permanent --zone=trusted --add-interface=cni0 --add-interface=flannel.1"
		for _, c := range cidrs {
			fix += " --add-source=" + c
		}
		rs = append(rs, Result{name, Warning, "firewalld is active and drops traffic of pods and from other nodes",
			fix + ", open the ports of edgebox to other nodes (" + portList(in.Ports) + "), and run firewall-cmd --reload"})
	}
	if h.ufwActive() {
		var cmds []string
		for _, c := range cidrs {
			cmds = append(cmds, "ufw route allow from "+c, "ufw allow from "+c)
		}
		rs = append(rs, Result{name, Warning, "ufw is active and drops traffic of pods and from other nodes",
			"run " + strings.Join(cmds, "; ") + "; and open the ports of edgebox to other nodes (" + portList(in.Ports) + ")"})
	}
	if rs != nil {
		return rs
	}
	tables, err := h.tables()
	if err != nil {
		return one(name, Warning, err.Error(), "")
	}
	for _, t := range tables {
		if len(t.drops) > 0 && !slices.Contains(in.Own, "table "+t.name) {
			rs = append(rs, Result{name, Warning,
				fmt.Sprintf("chain %s of nftables table %s drops forwarded packets by default, also those of pods", strings.Join(t.drops, ", "), t.name),
				forwardFix(t, in.ClusterCIDR)})
		}
	}
	if rs == nil {
		return ok(name, "no firewall drops forwarded packets")
	}
	return rs
}

func forwardFix(t table, pods []netip.Prefix) string {
	chain := t.drops[0]
	if slices.Contains(t.chains, "DOCKER-USER") {
		chain = "DOCKER-USER" // Docker's place for rules that it keeps
	}
	var cmds []string
	for _, p := range pods {
		fam := "ip"
		if p.Addr().Is6() {
			fam = "ip6"
		}
		if f, _, _ := strings.Cut(t.name, " "); f != "inet" && f != fam {
			continue
		}
		for _, dir := range []string{"saddr", "daddr"} {
			cmds = append(cmds, fmt.Sprintf("nft insert rule %s %s %s %s %s accept", t.name, chain, fam, dir, p.Masked()))
		}
	}
	if cmds == nil {
		return "let it accept the traffic of pods"
	}
	return "run " + strings.Join(cmds, "; ")
}

func (h *host) ufwActive() bool {
	for line := range strings.Lines(h.read("/etc/ufw/ufw.conf")) {
		if strings.TrimSpace(line) == "ENABLED=yes" {
			return true
		}
	}
	return false
}

// portList names the ports that other nodes use.
func portList(ports []Port) string {
	var s []string
	for _, p := range ports {
		if p.Addr.IsLoopback() {
			continue
		}
		proto := "tcp"
		if p.UDP {
			proto = "udp"
		}
		s = append(s, fmt.Sprintf("%d/%s", p.Number, proto))
	}
	return strings.Join(s, " ")
}
