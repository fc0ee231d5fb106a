package footprint

import (
	"context"
	"crypto/sha512"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/edgebox/edgebox/pkg/config"
)

var paths = config.Paths{Data: "/var/lib/edgebox", Run: "/run/edgebox"}

const (
	sandboxID = "aaaa1111aaaa1111"
	engineID  = "bbbb2222bbbb2222"
	podUID    = "12345678-1234-1234-1234-123456789abc"
)

// world is a host on which edgebox runs a pod and a container of the engine, beside things of others.
type world struct {
	node, shim, container   int
	engineShim, engineChild int
	others                  []int
	foreignGroup            string
}

func build(t *testing.T) world {
	t.Helper()
	if items, err := List(context.Background(), paths); len(items) > 0 || err != nil {
		t.Fatalf("the host is not clean: %v %v", items, err)
	}
	t.Cleanup(func() { _ = os.RemoveAll("/usr/local/other") })
	var w world

	// Propagation: edgebox shared two of these three.
	write(t, paths.SharedMounts(), `["/", "/usr/local", "/not/mounted", "`+paths.Data+`/agent/x"]`)
	for _, point := range []string{"/", "/etc", "/usr/local"} {
		must(t, unix.Mount("", point, "", unix.MS_SHARED, ""))
	}

	// Files.
	write(t, paths.Lock(), "")
	write(t, paths.Token(), "secret")
	write(t, "/etc/edgebox/config.yaml", "debug: true\n")
	write(t, "/etc/systemd/system/edgebox.service", "[Service]\nExecStart=/opt/bin/edgebox server\n")
	must(t, os.MkdirAll("/etc/systemd/system/multi-user.target.wants", 0o755))
	must(t, os.Symlink("../edgebox.service", "/etc/systemd/system/multi-user.target.wants/edgebox.service"))
	write(t, "/usr/local/bin/edgebox", "x")
	must(t, os.Symlink("edgebox", "/usr/local/bin/kubectl"))
	write(t, filepath.Join(paths.Kubelet(), "pods", podUID, "etc-hosts"), "x")
	write(t, filepath.Join(paths.PodLogs(), "default_web_"+podUID, "web", "0.log"), "x")
	must(t, os.MkdirAll("/var/log/containers", 0o755))
	must(t, os.Symlink(filepath.Join(paths.PodLogs(), "default_web_"+podUID, "web", "0.log"), "/var/log/containers/web_default_web.log"))
	write(t, "/run/containerd/s/0123", "")
	write(t, "/run/containerd/runc/k8s.io/"+sandboxID+"/state.json", "{}")
	write(t, "/var/lib/cni/results/edgebox-"+sandboxID+"-eth0", "{}")
	write(t, "/usr/local/admin/kubeconfig", "x")

	// State of containerd, host-local and flannel.
	writeBundle(t, "k8s.io", sandboxID, map[string]any{
		"annotations": map[string]string{"io.kubernetes.cri.container-type": "sandbox", "io.kubernetes.cri.sandbox-uid": podUID},
		"linux": map[string]any{
			"cgroupsPath": "/kubepods/besteffort/pod" + podUID + "/" + sandboxID,
			"namespaces":  []map[string]string{{"type": "network", "path": "/var/run/netns/cni-1111"}},
		},
	})
	write(t, filepath.Join(paths.ContainerdRun(), "io.containerd.runtime.v2.task/k8s.io", sandboxID, "bootstrap.json"), `{"version":3,"address":"unix:///run/containerd/s/0123"}`)
	writeBundle(t, "k8s.io", engineID, map[string]any{"linux": map[string]any{"cgroupsPath": "/edgebox/" + engineID}})
	write(t, filepath.Join(paths.CNIState(), "networks", "edgebox", "10.42.0.7"), sandboxID+"\r\neth0")
	write(t, paths.FlannelSubnet(), "FLANNEL_NETWORK=10.42.0.0/16\nFLANNEL_SUBNET=10.42.0.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n")

	// Processes.
	bin := filepath.Join(paths.Bin(), "0123456789abcdef")
	w.node = idle(t, filepath.Join(bin, "edgebox-node"), "server")
	w.shim, w.container = shim(t, filepath.Join(bin, "containerd-shim-runc-v2"), "-namespace", "k8s.io", "-id", sandboxID, "-address", paths.ContainerdSocket())
	w.engineShim, w.engineChild = shim(t, filepath.Join(bin, "containerd-shim-runc-v2"), "-namespace", "k8s.io", "-id", engineID, "-address", paths.ContainerdSocket())
	foreignShim, foreignChild := shim(t, "/usr/local/other/containerd-shim-runc-v2", "-id", "ffff", "-address", "/run/containerd/containerd.sock")
	w.others = []int{foreignShim, foreignChild, idle(t, "/usr/local/other/edgebox-node", "--data-dir", "/var/lib/edgebox")}

	// Cgroups.
	for _, point := range cgroupPoints() {
		if strings.HasSuffix(point, "cpuset") { // wants cpus and mems before it takes a process
			continue
		}
		join(t, filepath.Join(point, "kubepods/besteffort/pod"+podUID, sandboxID), w.container)
		join(t, filepath.Join(point, "edgebox", engineID), w.engineChild)
		join(t, filepath.Join(point, "other"), w.others[0])
		w.foreignGroup = filepath.Join(point, "other")
	}
	t.Cleanup(func() { clearGroups(t) })

	// Mounts.
	tmpfs(t, filepath.Join(paths.ContainerdRun(), "io.containerd.runtime.v2.task/k8s.io", sandboxID, "rootfs"))
	tmpfs(t, filepath.Join(paths.ContainerdRun(), "io.containerd.runtime.v2.task/k8s.io", engineID, "rootfs"))
	volume := filepath.Join(paths.Kubelet(), "pods", podUID, "volumes", "kubernetes.io~secret", "my key")
	tmpfs(t, volume)
	tmpfs(t, volume) // stacked
	tmpfs(t, filepath.Join(volume, "deeper"))
	tmpfs(t, filepath.Join(paths.Data, "agent", "x"))
	tmpfs(t, "/mnt")
	write(t, "/mnt/precious", "x")
	bind := filepath.Join(paths.Kubelet(), "pods", podUID, "volume-subpaths", "0")
	must(t, os.MkdirAll(bind, 0o755))
	must(t, unix.Mount("/mnt", bind, "", unix.MS_BIND, ""))
	netns(t, "/run/netns/cni-1111")
	netns(t, "/run/netns/cni-2222") // of another containerd
	netns(t, filepath.Join(paths.ContainerdRun(), "netns", "cni-3333"))
	t.Cleanup(func() {
		_ = unix.Unmount("/mnt", unix.MNT_DETACH)
		_ = unix.Unmount("/run/netns/cni-2222", unix.MNT_DETACH)
		_ = os.Remove("/run/netns/cni-2222")
	})

	// Links, routes and tables.
	br := addLink(t, &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "cni0"}})
	addLink(t, &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "veth1", MasterIndex: br.Attrs().Index}, PeerName: "veth1p"})
	addLink(t, &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "veth2"}, PeerName: "veth2p"})
	addLink(t, &netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "flannel.1"}, VxlanId: 1, Port: 8472})
	uplink := addLink(t, &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}})
	must(t, netlink.AddrAdd(uplink, &netlink.Addr{IPNet: cidr(t, "192.168.7.2/24")}))
	must(t, netlink.LinkSetUp(uplink))
	for _, dst := range []string{"10.42.3.0/24", "10.99.0.0/24"} {
		must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: uplink.Attrs().Index, Dst: cidr(t, dst), Gw: net.IPv4(192, 168, 7, 3)}))
	}
	t.Cleanup(func() {
		for _, n := range []string{"eth0", "veth1", "veth2", "cni0", "flannel.1"} {
			if l, err := netlink.LinkByName(n); err == nil {
				_ = netlink.LinkDel(l)
			}
		}
	})
	addTable(t, nftables.TableFamilyIPv4, "kube-proxy")
	addTable(t, nftables.TableFamilyIPv6, "kube-proxy")
	addTable(t, nftables.TableFamilyIPv4, "flannel-ipv4")
	addTable(t, nftables.TableFamilyINet, "edgebox-netpol")
	addTable(t, nftables.TableFamilyIPv4, "cni_hostport", sandboxID)
	addTable(t, nftables.TableFamilyINet, "cni_plugins_masquerade",
		hashOf("edgebox")+"-123, net: edgebox, if: eth0, id: x", hashOf("podman")+"-456, net: podman, if: eth0, id: y")
	addTable(t, nftables.TableFamilyIPv4, "filter")
	addTable(t, nftables.TableFamilyINet, "my-edgebox")
	t.Cleanup(func() {
		c, _ := nftables.New()
		c.FlushRuleset()
		_ = c.Flush()
	})
	return w
}

// untouched asserts that what is of others is still there.
func (w world) untouched(t *testing.T) {
	t.Helper()
	for _, pid := range w.others {
		if !alive(pid) {
			t.Errorf("foreign process %d was ended", pid)
		}
	}
	if _, err := os.Stat(w.foreignGroup); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat("/mnt/precious"); err != nil || !mounted("/mnt") {
		t.Errorf("the user's disk was touched: %v", err)
	}
	if !mounted("/run/netns/cni-2222") {
		t.Error("a foreign netns was removed")
	}
	for _, l := range []string{"veth2", "eth0", "lo"} {
		if _, err := netlink.LinkByName(l); err != nil {
			t.Errorf("foreign link %s: %v", l, err)
		}
	}
	if got := tableNames(t); !slices.Contains(got, "ip filter") || !slices.Contains(got, "inet my-edgebox") || !slices.Contains(got, "inet cni_plugins_masquerade") {
		t.Errorf("foreign tables were removed: %v are left", got)
	}
	if rules := comments(t, nftables.TableFamilyINet, "cni_plugins_masquerade"); len(rules) == 0 || !strings.Contains(rules[len(rules)-1], "podman") {
		t.Errorf("podman's rule was removed: %v are left", rules)
	}
	routes, _ := netlink.RouteList(nil, netlink.FAMILY_V4)
	if !slices.ContainsFunc(routes, func(r netlink.Route) bool { return r.Dst != nil && r.Dst.String() == "10.99.0.0/24" }) {
		t.Error("a foreign route was removed")
	}
}

func ids(items []Item) []string {
	var all []string
	for _, i := range items {
		all = append(all, i.ID())
	}
	return all
}

func TestHostRemove(t *testing.T) {
	onHost(t)
	w := build(t)
	volume := filepath.Join(paths.Kubelet(), "pods", podUID, "volumes", "kubernetes.io~secret", "my key")

	items, err := List(t.Context(), paths, "/usr/local/admin/kubeconfig")
	if err != nil {
		t.Error(err)
	}
	got := ids(items)
	want := []string{
		"process " + strconv.Itoa(w.node), "process " + strconv.Itoa(w.shim), "process " + strconv.Itoa(w.container),
		"process " + strconv.Itoa(w.engineShim), "process " + strconv.Itoa(w.engineChild),
		"mount " + filepath.Join(paths.ContainerdRun(), "netns/cni-3333"),
		"mount " + filepath.Join(paths.Kubelet(), "pods", podUID, "volume-subpaths/0"),
		"mount " + filepath.Join(paths.Data, "agent/x"),
		"mount " + filepath.Join(volume, "deeper"), "mount " + volume, "mount " + volume,
		"mount " + filepath.Join(paths.ContainerdRun(), "io.containerd.runtime.v2.task/k8s.io", engineID, "rootfs"),
		"mount " + filepath.Join(paths.ContainerdRun(), "io.containerd.runtime.v2.task/k8s.io", sandboxID, "rootfs"),
		"mount propagation",
		"netns /run/netns/cni-1111",
		"link veth1", "link cni0", "link flannel.1",
		"route 10.42.3.0/24",
		"table inet edgebox-netpol", "table ip cni_hostport", "table ip flannel-ipv4", "table ip kube-proxy", "table ip6 kube-proxy",
		"rules inet cni_plugins_masquerade",
		"cgroup /kubepods", "cgroup /edgebox/" + engineID,
		"file /var/lib/kubelet", "file /var/log/pods", "file /var/log/containers",
		"file /run/containerd/s/0123", "file /run/containerd/runc/k8s.io/" + sandboxID, "file /var/lib/cni/results/edgebox-" + sandboxID + "-eth0",
		"file /run/containerd", "file /var/lib/cni",
		"file /etc/edgebox", "file /etc/systemd/system/edgebox.service", "file /etc/systemd/system/multi-user.target.wants/edgebox.service",
		"file /usr/local/bin/kubectl", "file /usr/local/bin/edgebox",
		"file /usr/local/admin/kubeconfig", "file /run/edgebox", "file /var/lib/edgebox",
	}
	for _, id := range want {
		if !slices.Contains(got, id) {
			t.Errorf("not listed: %s", id)
		}
	}
	for _, id := range got {
		if !slices.Contains(want, id) && !strings.HasPrefix(id, "file /run/containerd/") && !strings.HasPrefix(id, "file /var/lib/cni/") {
			t.Errorf("listed: %s", id)
		}
	}

	var progress []Item
	if err := Remove(t.Context(), paths, func(i Item) { progress = append(progress, i) }, "/usr/local/admin/kubeconfig"); err != nil {
		t.Error(err)
	}
	left, err := List(t.Context(), paths, "/usr/local/admin/kubeconfig")
	if err != nil || len(left) > 0 {
		t.Errorf("left: %v %v", left, err)
	}
	for _, pid := range []int{w.node, w.shim, w.container, w.engineShim, w.engineChild} {
		if alive(pid) {
			t.Errorf("process %d is left", pid)
		}
	}
	for _, path := range []string{
		paths.Data, paths.Run, paths.Kubelet(), paths.PodLogs(), "/var/log/containers", "/etc/edgebox", "/run/containerd", "/var/lib/cni",
		"/usr/local/bin/kubectl", "/usr/local/bin/edgebox", "/usr/local/admin/kubeconfig", "/run/netns/cni-1111",
	} {
		if exists(path) {
			t.Errorf("%s is left", path)
		}
	}
	for _, point := range cgroupPoints() {
		if exists(filepath.Join(point, "kubepods")) || exists(filepath.Join(point, "edgebox", engineID)) {
			t.Errorf("cgroups are left in %s", point)
		}
	}
	for point, want := range map[string]bool{"/": false, "/usr/local": false, "/etc": true} {
		if got := isShared(t, point); got != want {
			t.Errorf("%s is shared: %v, want %v", point, got, want)
		}
	}
	if got := tableNames(t); len(got) != 3 {
		t.Errorf("tables left: %v", got)
	}
	w.untouched(t)
	if len(progress) < 30 || progress[0].Kind != Process || progress[len(progress)-1].Name != paths.Data {
		t.Errorf("progress: %v", progress)
	}
	if _, err := json.Marshal(progress); err != nil {
		t.Error(err)
	}

	if err := Remove(t.Context(), paths, func(i Item) { t.Errorf("removed twice: %s", i) }); err != nil {
		t.Errorf("a second time: %v", err)
	}
}

// Where another Kubernetes is installed, only what the state proves is edgebox's goes.
func TestHostRemoveBesideK3s(t *testing.T) {
	onHost(t)
	w := build(t)
	write(t, "/var/lib/rancher/k3s/agent/x", "x")
	write(t, filepath.Join(paths.Kubelet(), "pods", "of-k3s", "etc-hosts"), "x")
	write(t, filepath.Join(paths.PodLogs(), "default_k3s_of-k3s", "0.log"), "x")
	tmpfs(t, filepath.Join(paths.Kubelet(), "pods", "of-k3s", "volume"))
	k3s := idle(t, "/usr/local/other/k3s-server")
	t.Cleanup(func() {
		_ = unix.Unmount(filepath.Join(paths.Kubelet(), "pods", "of-k3s", "volume"), unix.MNT_DETACH)
		for _, d := range []string{"/var/lib/rancher", "/var/lib/kubelet", "/var/log/pods", "/var/log/containers"} {
			_ = os.RemoveAll(d)
		}
	})
	pod := idle(t, "/usr/local/other/pod-of-k3s")
	var group string
	for _, point := range cgroupPoints() {
		if !strings.HasSuffix(point, "cpuset") {
			group = filepath.Join(point, "kubepods/besteffort/podofk3s")
			join(t, group, pod)
		}
	}

	if err := Remove(t.Context(), paths, nil); err != nil {
		t.Error(err)
	}
	for _, pid := range []int{w.node, w.shim, w.container, w.engineChild} {
		if alive(pid) {
			t.Errorf("process %d is left", pid)
		}
	}
	for _, path := range []string{paths.Data, paths.Run, filepath.Join(paths.Kubelet(), "pods", podUID), filepath.Join(paths.PodLogs(), "default_web_"+podUID),
		"/var/log/containers/web_default_web.log", "/run/containerd", filepath.Join(filepath.Dir(group), "pod"+podUID)} {
		if exists(path) {
			t.Errorf("%s is left", path)
		}
	}
	for _, pid := range []int{k3s, pod} {
		if !alive(pid) {
			t.Errorf("process %d of k3s was ended", pid)
		}
	}
	for _, path := range []string{group, "/var/lib/rancher/k3s/agent/x", filepath.Join(paths.Kubelet(), "pods/of-k3s/etc-hosts"), filepath.Join(paths.PodLogs(), "default_k3s_of-k3s/0.log")} {
		if !exists(path) {
			t.Errorf("%s of k3s was removed", path)
		}
	}
	if !mounted(filepath.Join(paths.Kubelet(), "pods/of-k3s/volume")) {
		t.Error("a mount of k3s was removed")
	}
	if _, err := netlink.LinkByName("cni0"); err != nil {
		t.Errorf("the bridge that k3s uses now was removed: %v", err)
	}
	if got := tableNames(t); !slices.Contains(got, "ip kube-proxy") || slices.Contains(got, "inet edgebox-netpol") || slices.Contains(got, "ip cni_hostport") {
		t.Errorf("tables left: %v", got)
	}
	w.untouched(t)
}

// An uninstall that was interrupted, after a reboot that lost /run, with a container whose shim was killed.
func TestHostRemoveHalfGone(t *testing.T) {
	onHost(t)
	w := build(t)
	must(t, unix.Kill(w.shim, unix.SIGKILL))
	must(t, unix.Kill(w.node, unix.SIGKILL))
	for _, m := range []string{filepath.Join(paths.ContainerdRun(), "io.containerd.runtime.v2.task/k8s.io", sandboxID, "rootfs"),
		filepath.Join(paths.ContainerdRun(), "io.containerd.runtime.v2.task/k8s.io", engineID, "rootfs"), filepath.Join(paths.ContainerdRun(), "netns/cni-3333"),
		filepath.Join(paths.Data, "agent/x"), "/run/netns/cni-1111"} {
		must(t, unix.Unmount(m, unix.MNT_DETACH))
	}
	must(t, os.Remove("/run/netns/cni-1111")) // its bundle is gone, so nothing proves whose it is
	must(t, os.RemoveAll(paths.Run))
	must(t, os.RemoveAll(paths.Bin()))
	for _, f := range []string{"/run/containerd", "/var/lib/cni/results"} {
		must(t, os.RemoveAll(f))
	}
	c, _ := nftables.New()
	c.DelTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "cni_hostport"})
	must(t, c.Flush())

	if err := Remove(t.Context(), paths, nil); err != nil {
		t.Error(err)
	}
	for _, pid := range []int{w.container, w.engineShim, w.engineChild} {
		if alive(pid) {
			t.Errorf("process %d is left", pid)
		}
	}
	if exists(paths.Data) || exists(paths.Kubelet()) {
		t.Error("files are left")
	}
	if _, err := netlink.LinkByName("cni0"); err == nil {
		t.Error("cni0 is left")
	}
	w.untouched(t)
}

func TestHostStopPods(t *testing.T) {
	onHost(t)
	w := build(t)
	if err := StopPods(t.Context(), paths); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("edgebox runs (pid %d)", w.node)) {
		t.Errorf("while edgebox runs: %v", err)
	}
	if !alive(w.container) {
		t.Error("a container was ended although edgebox runs")
	}
	must(t, unix.Kill(w.node, unix.SIGKILL))
	for alive(w.node) {
		time.Sleep(time.Millisecond)
	}
	freeze(t, w.container)
	start := time.Now()
	must(t, StopPods(t.Context(), paths))
	if d := time.Since(start); d > podGrace {
		t.Errorf("took %s: a paused container did not get its SIGTERM", d)
	}
	if alive(w.shim) || alive(w.container) {
		t.Error("the pod is left")
	}
	if !alive(w.engineShim) || !alive(w.engineChild) {
		t.Error("the engine's container was ended")
	}
	engineRoot := filepath.Join(paths.ContainerdRun(), "io.containerd.runtime.v2.task/k8s.io", engineID, "rootfs")
	if !mounted(engineRoot) || !mounted(filepath.Join(paths.Data, "agent/x")) {
		t.Error("a mount that is not the pod's was removed")
	}
	if b, _ := os.ReadFile("/proc/self/mountinfo"); strings.Contains(string(b), podUID) || strings.Contains(string(b), sandboxID) || strings.Contains(string(b), "cni-1111") || strings.Contains(string(b), "cni-3333") {
		t.Errorf("mounts of the pod are left:\n%s", b)
	}
	for _, path := range []string{paths.Token(), paths.FlannelSubnet(), filepath.Join(paths.Kubelet(), "pods", podUID, "etc-hosts")} {
		if !exists(path) {
			t.Errorf("%s was removed", path)
		}
	}
	must(t, StopPods(t.Context(), paths))
	must(t, Remove(t.Context(), paths, nil))
	w.untouched(t)
}

// A paused container dies too, also on cgroup v1.
func TestHostRemoveFrozen(t *testing.T) {
	onHost(t)
	w := build(t)
	freeze(t, w.container)
	must(t, Remove(t.Context(), paths, nil))
	if alive(w.container) {
		t.Error("the paused container is left")
	}
	w.untouched(t)
}

// A data dir of the user's choice, on a disk with other files, reached by a symlink, with a disk of its own for images.
func TestHostOtherDataDir(t *testing.T) {
	onHost(t)
	tmpfs(t, "/mnt")
	t.Cleanup(func() {
		_ = unix.Unmount("/mnt/box/agent", unix.MNT_DETACH)
		_ = unix.Unmount("/mnt", unix.MNT_DETACH)
		_ = os.RemoveAll("/etc/fstab")
		_ = os.RemoveAll("/usr/local/bin")
	})
	must(t, os.MkdirAll("/mnt/box", 0o755))
	must(t, os.Symlink("/mnt/box", "/var/lib/box"))
	p := config.Paths{Data: "/var/lib/box", Run: "/run/edgebox"}
	write(t, "/mnt/box/holiday.jpg", "x")
	if items, err := List(t.Context(), p); len(items) > 0 || err != nil {
		t.Errorf("without a lock nothing is edgebox's, but: %v %v", items, err)
	}
	write(t, p.Lock(), "")
	write(t, p.Token(), "x")
	tmpfs(t, "/mnt/box/agent")
	write(t, "/mnt/box/agent/big disk/layer", "x")
	write(t, "/etc/fstab", "# comment\n/dev/sdb1 /mnt/box/agent ext4 defaults 0 2\n")
	write(t, "/usr/local/bin/edgebox", "x")
	node := idle(t, filepath.Join(p.Bin(), "0123", "edgebox-node"))

	must(t, Remove(t.Context(), p, nil))
	if alive(node) {
		t.Error("the node is left")
	}
	if !exists("/mnt/box/holiday.jpg") || !exists("/mnt/box/agent/big disk/layer") {
		t.Error("the user's files are gone")
	}
	if exists("/mnt/box/server") || exists("/mnt/box/lock") || exists("/mnt/box/bin") || exists("/var/lib/box") {
		t.Error("edgebox's files are left")
	}
	if items, err := List(t.Context(), p); len(items) > 0 || err != nil {
		t.Errorf("left: %v %v", items, err)
	}
}

// The installation belongs to the default data dir: removing a second edgebox leaves it alone.
func TestHostSecondDataDir(t *testing.T) {
	onHost(t)
	t.Cleanup(func() { must(t, Remove(context.Background(), paths, nil)) })
	write(t, paths.Lock(), "")
	write(t, "/etc/edgebox/config.yaml", "x")
	write(t, "/usr/local/bin/edgebox", "x")
	p := config.Paths{Data: "/srv-test", Run: "/run/edgebox-2"}
	write(t, p.Lock(), "")
	must(t, Remove(t.Context(), p, nil))
	for _, path := range []string{paths.Lock(), "/etc/edgebox/config.yaml", "/usr/local/bin/edgebox"} {
		if !exists(path) {
			t.Errorf("%s was removed", path)
		}
	}
	if exists(p.Data) {
		t.Error("the second data dir is left")
	}
}

// A mount that cannot be undone: its content stays, the error says so, and a later attempt finishes.
func TestHostRemoveResisting(t *testing.T) {
	onHost(t)
	write(t, paths.Lock(), "")
	dir := filepath.Join(paths.Kubelet(), "pods", podUID, "volume")
	tmpfs(t, dir)
	write(t, filepath.Join(dir, "precious"), "x")
	h := realHost()
	h.unmount = func(path string, flags int) error { return unix.EPERM }
	err := h.remove(t.Context(), paths, nil, nil)
	if err == nil || !strings.Contains(err.Error(), "remove mount "+dir+": operation not permitted") {
		t.Errorf("got %v", err)
	}
	if !exists(filepath.Join(dir, "precious")) {
		t.Error("the content of a mount was removed")
	}
	must(t, unix.Unmount(dir, unix.MNT_DETACH))
	must(t, os.MkdirAll(paths.Data, 0o755))
	write(t, paths.Lock(), "")
	must(t, Remove(t.Context(), paths, nil))
}

func TestHostServices(t *testing.T) {
	onHost(t)
	write(t, paths.Lock(), "")
	write(t, systemdUnit, "[Service]\nExecStart=-/usr/local/other/bin/edgebox server --debug\n")
	write(t, openrcUnit, "#!/sbin/openrc-run\n")
	write(t, "/usr/local/other/bin/edgebox", "x")
	must(t, os.Symlink("/usr/local/other/bin/edgebox", "/usr/local/other/bin/docker"))
	must(t, os.MkdirAll("/run/systemd/system", 0o755))
	must(t, os.MkdirAll("/run/openrc", 0o755))
	must(t, os.MkdirAll("/etc/runlevels/default", 0o755))
	must(t, os.Symlink(openrcUnit, "/etc/runlevels/default/edgebox"))
	t.Cleanup(func() {
		for _, d := range []string{"/run/systemd", "/run/openrc", "/usr/local/other", "/etc/systemd", "/etc/init.d", "/etc/runlevels"} {
			_ = os.RemoveAll(d)
		}
	})
	h := realHost()
	var ran []string
	h.run = func(_ context.Context, name string, arg ...string) error {
		ran = append(ran, name+" "+strings.Join(arg, " "))
		return nil
	}
	must(t, h.remove(t.Context(), paths, nil, nil))
	want := []string{"systemctl disable --now edgebox.service", "rc-service --ifstarted edgebox stop", "rc-update --all del edgebox", "systemctl daemon-reload"}
	if !slices.Equal(ran, want) {
		t.Errorf("ran %q", ran)
	}
	for _, path := range []string{systemdUnit, openrcUnit, "/usr/local/other/bin/edgebox", "/usr/local/other/bin/docker", "/etc/runlevels/default/edgebox"} {
		if exists(path) {
			t.Errorf("%s is left", path)
		}
	}
}

// Helpers.

func writeBundle(t *testing.T, ns, id string, spec any) {
	t.Helper()
	b, err := json.Marshal(spec)
	must(t, err)
	write(t, filepath.Join(paths.ContainerdRun(), "io.containerd.runtime.v2.task", ns, id, "config.json"), string(b))
}

func join(t *testing.T, dir string, pid int) {
	t.Helper()
	must(t, os.MkdirAll(dir, 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o644))
}

func clearGroups(t *testing.T) {
	for _, point := range cgroupPoints() {
		for _, g := range []string{"kubepods", "edgebox", "other"} {
			b := realHost().tree(filepath.Join(point, g))
			for _, d := range b {
				procs, _ := os.ReadFile(filepath.Join(d, "cgroup.procs"))
				for _, pid := range strings.Fields(string(procs)) {
					_ = os.WriteFile(filepath.Join(point, "cgroup.procs"), []byte(pid), 0o644)
				}
			}
			if exists(filepath.Join(point, g)) {
				removeGroups(t, filepath.Join(point, g))
			}
		}
	}
}

func freeze(t *testing.T, pid int) {
	t.Helper()
	for _, point := range cgroupPoints() {
		dir := filepath.Join(point, "kubepods/besteffort/pod"+podUID, sandboxID)
		state, frozen := filepath.Join(dir, "freezer.state"), "FROZEN"
		if !exists(state) {
			state, frozen = filepath.Join(dir, "cgroup.freeze"), "1"
		}
		if exists(state) {
			must(t, os.WriteFile(state, []byte(frozen), 0o644))
			for deadline := time.Now().Add(5 * time.Second); ; {
				b, _ := os.ReadFile(state)
				if strings.TrimSpace(string(b)) == frozen {
					return
				}
				if time.Now().After(deadline) {
					t.Fatalf("process %d does not freeze", pid)
				}
				time.Sleep(time.Millisecond)
			}
		}
	}
	t.Skip("no freezer here")
}

func tmpfs(t *testing.T, dir string) {
	t.Helper()
	must(t, errors.Join(os.MkdirAll(dir, 0o755), unix.Mount("tmpfs", dir, "tmpfs", 0, "")))
}

func netns(t *testing.T, path string) {
	t.Helper()
	write(t, path, "")
	must(t, unix.Mount("/proc/self/ns/net", path, "", unix.MS_BIND, ""))
}

func addLink(t *testing.T, l netlink.Link) netlink.Link {
	t.Helper()
	if err := netlink.LinkAdd(l); err != nil {
		t.Fatalf("add link %s: %v", l.Attrs().Name, err)
	}
	made, err := netlink.LinkByName(l.Attrs().Name)
	must(t, err)
	return made
}

func cidr(t *testing.T, s string) *net.IPNet {
	t.Helper()
	addr, n, err := net.ParseCIDR(s)
	must(t, err)
	n.IP = addr
	return n
}

func hashOf(network string) string {
	return fmt.Sprintf("%x", sha512.Sum512([]byte(network)))[:16]
}

func addTable(t *testing.T, f nftables.TableFamily, name string, comments ...string) {
	t.Helper()
	c, err := nftables.New()
	must(t, err)
	table := c.AddTable(&nftables.Table{Family: f, Name: name})
	chain := c.AddChain(&nftables.Chain{Table: table, Name: "rules"})
	for _, comment := range comments {
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Counter{}}, UserData: userdata.AppendString(nil, userdata.TypeComment, comment)})
	}
	must(t, c.Flush())
}

func tableNames(t *testing.T) []string {
	t.Helper()
	c, err := nftables.New()
	must(t, err)
	tables, err := c.ListTables()
	must(t, err)
	var names []string
	for _, table := range tables {
		names = append(names, family(table.Family)+" "+table.Name)
	}
	return names
}

func comments(t *testing.T, f nftables.TableFamily, name string) []string {
	t.Helper()
	c, err := nftables.New()
	must(t, err)
	rules, err := c.GetRules(&nftables.Table{Family: f, Name: name}, &nftables.Chain{Name: "rules"})
	must(t, err)
	var all []string
	for _, r := range rules {
		s, _ := userdata.GetString(r.UserData, userdata.TypeComment)
		all = append(all, s)
	}
	return all
}
