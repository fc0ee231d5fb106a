package preflight

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/edgebox/edgebox/pkg/config"
)

// fake is a healthy host: a small Debian with cgroups v2. Files given replace or add to its own; an empty content
// removes, and "-> target" makes a symlink.
func fake(files map[string]string) *host {
	all := map[string]string{
		"/proc/self/status":                            "Name:\tx\nCapEff:\t000001ffffffffff\n",
		"/proc/self/mountinfo":                         "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n",
		"/sys/fs/cgroup/cgroup.controllers":            "cpuset cpu io memory hugetlb pids rdma misc",
		"/proc/meminfo":                                "MemTotal:        1947652 kB\nMemFree: 1 kB\n",
		"/proc/swaps":                                  "Filename\tType\tSize\tUsed\tPriority\n",
		"/proc/filesystems":                            "nodev\tsysfs\nnodev\toverlay\n\text4\n",
		"/proc/sys/net/ipv4/ip_forward":                "1",
		"/proc/sys/fs/inotify/max_user_instances":      "512",
		"/proc/sys/fs/inotify/max_user_watches":        "524288",
		"/proc/sys/kernel/seccomp/actions_avail":       "kill_process errno allow",
		"/proc/sys/net/bridge/bridge-nf-call-iptables": "1",
		"/etc/machine-id":                              "3d1219c7c4c5404aaa1f6d2a48adfda4",
		"/var/lib/placeholder":                         "x",
		"/proc/self/ns/pid":                            "-> pid:[1]",
	}
	for _, ns := range []string{"cgroup", "ipc", "mnt", "net", "uts"} {
		all["/proc/self/ns/"+ns] = "-> " + ns + ":[1]"
	}
	for k, v := range files {
		all[k] = v
	}
	root := fstest.MapFS{}
	for k, v := range all {
		target, isLink := strings.CutPrefix(v, "-> ")
		switch {
		case v == "":
		case isLink:
			root[name(k)] = &fstest.MapFile{Data: []byte(target), Mode: fs.ModeSymlink | 0o777}
		default:
			root[name(k)] = &fstest.MapFile{Data: []byte(v)}
		}
	}
	return &host{
		root:    root,
		euid:    func() int { return 0 },
		now:     func() time.Time { return time.Date(2026, time.November, 1, 12, 0, 0, 0, time.UTC) },
		uname:   func() (string, error) { return "6.1.0-18-arm64", nil },
		resolve: func(p string) string { return p },
		statfs: func(string) (unix.Statfs_t, error) {
			return unix.Statfs_t{Type: unix.EXT4_SUPER_MAGIC, Bsize: 4096, Blocks: 4 << 20, Bavail: 3 << 20, Files: 1 << 20, Ffree: 1 << 19}, nil
		},
		lookup:  func(string) error { return nil },
		sysctl:  func(string) error { return nil },
		write:   func(string) error { return nil },
		overlay: func(string) error { return nil },
		network: func(string) []netFeature { return []netFeature{{"bridges", "CONFIG_BRIDGE", nil}} },
		nft:     func(...string) (string, error) { return "nftables v1.0.6 (Lester Gooch #5)", nil },
		links:   func() ([]string, error) { return []string{"lo", "eth0"}, nil },
		tables:  func() ([]table, error) { return nil, nil },
	}
}

func node() Input {
	return Input{
		Paths:    config.Paths{Data: "/var/lib/edgebox", Run: "/run/edgebox"},
		NodeName: "pi-4.local", Server: true, Agent: true, StartUp: true, FlannelBackend: "vxlan",
		ClusterCIDR: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")},
		ServiceCIDR: []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16")},
		Version:     "v1.2.0",
	}
}

func withPorts(in Input) Input {
	in.Ports = Ports(in, netip.MustParseAddrPort("0.0.0.0:6443"))
	return in
}

func TestHealthyHost(t *testing.T) {
	for _, r := range run(context.Background(), fake(nil), withPorts(node())) {
		if r.Level != OK {
			t.Errorf("%s: %s: %s", r.Name, r.Level, r)
		}
	}
}

const (
	hybridMounts = `25 1 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw
26 25 0:23 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
27 25 0:24 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
28 25 0:25 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset
29 25 0:26 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
30 25 0:27 / /sys/fs/cgroup/devices rw - cgroup cgroup rw,devices
31 25 0:28 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer
`
	memoryMount = "32 25 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"

	tcpHeader = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
)

// sock is a line of /proc/net/tcp or udp.
func sock(addr, state, inode string) string {
	return tcpHeader + "   0: " + addr + " 00000000:0000 " + state + " 00000000:00000000 00:00000000 00000000     0        0 " + inode + " 1 0 100 0 0 10 0\n"
}

// Each case changes one thing on the healthy host and names what must be found.
func TestProbes(t *testing.T) {
	disk := func(change func(*unix.Statfs_t)) func(*host) {
		return func(h *host) {
			old := h.statfs
			h.statfs = func(p string) (unix.Statfs_t, error) {
				st, err := old(p)
				change(&st)
				return st, err
			}
		}
	}
	hasTables := func(ts ...table) func(*host) {
		return func(h *host) { h.tables = func() ([]table, error) { return ts, nil } }
	}
	hasLinks := func(ls ...string) func(*host) {
		return func(h *host) { h.links = func() ([]string, error) { return ls, nil } }
	}
	own := func(ids ...string) func(*Input) { return func(in *Input) { in.Own = ids } }
	hasNft := func(says string, err error) func(*host) {
		return func(h *host) { h.nft = func(...string) (string, error) { return says, err } }
	}
	k3sOn6443 := map[string]string{
		"/proc/thread-self/net/tcp6": sock("00000000000000000000000000000000:192B", "0A", "777"),
		"/proc/812/comm":             "k3s-server\n",
		"/proc/812/exe":              "-> /usr/local/bin/k3s",
		"/proc/812/fd/3":             "-> socket:[777]",
		"/proc/812/ns/pid":           "-> pid:[1]",
		"/proc/813/comm":             "sh",
		"/proc/813/fd/0":             "-> /dev/null",
		"/proc/notapid/status":       "x",
	}
	selfOn10250 := map[string]string{
		"/proc/thread-self/net/tcp": sock("00000000:280A", "0A", "778"),
		"/proc/99/comm":             "edgebox-node",
		"/proc/99/exe":              "-> /var/lib/edgebox/bin/0123/edgebox-node",
		"/proc/99/fd/7":             "-> socket:[778]",
		"/proc/99/ns/pid":           "-> pid:[1]",
	}
	wireguard := map[string]string{"/proc/thread-self/net/udp": sock("00000000:CA6C", "07", "0")}
	backend := func(b string, cidrs ...string) func(*Input) {
		return func(in *Input) {
			in.FlannelBackend, in.ClusterCIDR = b, nil
			for _, c := range cidrs {
				in.ClusterCIDR = append(in.ClusterCIDR, netip.MustParsePrefix(c))
			}
			in.Ports = Ports(*in, netip.MustParseAddrPort("0.0.0.0:6443"))
		}
	}
	vxlan := map[string]string{"/proc/thread-self/net/udp": sock("00000000:2118", "07", "0")}

	for _, tc := range []struct {
		name  string
		files map[string]string
		host  func(*host)
		input func(*Input)

		probe string
		level Level
		says  string // in message and fix
	}{
		{name: "not root", host: func(h *host) { h.euid = func() int { return 1000 } }, probe: "root", level: Error, says: "user 1000, but needs root: start it with sudo"},
		{name: "container without privileges", files: map[string]string{"/proc/self/status": "CapEff:\t00000000a80425fb\n"}, probe: "root", level: Error, says: "CAP_SYS_ADMIN here: if this is a container, start it with --privileged"},
		{name: "no CAP_SYS_RESOURCE", files: map[string]string{"/proc/self/status": "CapEff:\t000001fffeffffff\n"}, probe: "capabilities", level: Info, says: "CAP_SYS_RESOURCE is absent"},

		{name: "kernel too old", host: func(h *host) { h.uname = func() (string, error) { return "5.4.0-1104-raspi", nil } }, probe: "kernel", level: Error, says: "kernel 5.4.0-1104-raspi is older than 5.10"},
		{name: "kernel just right", host: func(h *host) { h.uname = func() (string, error) { return "5.10.0", nil } }, probe: "kernel", level: OK},
		{name: "kernel 4.19", host: func(h *host) { h.uname = func() (string, error) { return "4.19.0-10", nil } }, probe: "kernel", level: Error, says: "4.19"},

		{name: "name with capitals", input: func(in *Input) { in.NodeName = "My_Box" }, probe: "name", level: Error, says: `node name "My_Box" is no RFC 1123 name (lower-case letters, digits, '-' and '.'): set --node-name=my-box`},
		{name: "no name", input: func(in *Input) { in.NodeName = "" }, probe: "name", level: Error, says: "no name"},
		{name: "hopeless name", input: func(in *Input) { in.NodeName = "___" }, probe: "name", level: Error, says: ": set --node-name"},
		{name: "name with empty label", input: func(in *Input) { in.NodeName = "a..b" }, probe: "name", level: Error, says: "RFC 1123"},
		{name: "name too long", input: func(in *Input) { in.NodeName = strings.Repeat("a", 64) }, probe: "name", level: Error, says: "64 characters"},
		{name: "localhost", input: func(in *Input) { in.NodeName = "localhost" }, probe: "name", level: Warning, says: "clash"},

		{name: "no clock", host: func(h *host) { h.now = func() time.Time { return time.Unix(3600, 0) } }, probe: "clock", level: Warning, says: "the clock says 1970-01-01"},
		{name: "clock before the build", input: func(in *Input) { in.BuildDate = time.Date(2026, 12, 24, 0, 0, 0, 0, time.UTC) }, probe: "clock", level: Warning, says: "2026-12-24"},
		{name: "machine id missing", files: map[string]string{"/etc/machine-id": ""}, probe: "machine id", level: Warning, says: "systemd-machine-id-setup"},
		{name: "machine id of an image", files: map[string]string{"/etc/machine-id": "uninitialized"}, probe: "machine id", level: Warning, says: "no machine id"},
		{name: "little memory", files: map[string]string{"/proc/meminfo": "MemTotal: 437000 kB\n"}, probe: "memory", level: Warning, says: "426 MiB"},

		{name: "v2 without memory", files: map[string]string{"/sys/fs/cgroup/cgroup.controllers": "cpuset cpu io pids"}, probe: "cgroups", level: Error, says: "control groups (v2) lack: memory"},
		{name: "v2 without memory on a Pi", files: map[string]string{
			"/sys/fs/cgroup/cgroup.controllers": "cpuset cpu io pids", "/proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\x00", "/boot/firmware/cmdline.txt": "x",
		}, probe: "cgroups", level: Error, says: "append ' cgroup_memory=1 cgroup_enable=memory' to the line in /boot/firmware/cmdline.txt, and reboot"},
		{name: "v2 without memory on an older Pi", files: map[string]string{
			"/sys/fs/cgroup/cgroup.controllers": "cpuset cpu io pids", "/proc/device-tree/model": "Raspberry Pi 3", "/boot/cmdline.txt": "x",
		}, probe: "cgroups", level: Error, says: "the line in /boot/cmdline.txt"},
		{name: "memory switched off at boot", files: map[string]string{
			"/sys/fs/cgroup/cgroup.controllers": "cpuset cpu io pids", "/proc/cmdline": "root=/dev/sda1 cgroup_disable=memory",
		}, probe: "cgroups", level: Error, says: "the kernel's command line"},
		{name: "hybrid", files: map[string]string{"/proc/self/mountinfo": hybridMounts + memoryMount}, probe: "cgroups", level: Warning, says: "control groups are hybrid"},
		{name: "v1", files: map[string]string{"/proc/self/mountinfo": strings.Replace(hybridMounts+memoryMount, "cgroup2 cgroup2", "tmpfs tmpfs", 1)}, probe: "cgroups", level: Warning, says: "control groups are v1"},
		{name: "hybrid without memory", files: map[string]string{"/proc/self/mountinfo": hybridMounts}, probe: "cgroups", level: Error, says: "mount -t cgroup -o memory cgroup /sys/fs/cgroup/memory"},
		{name: "no cgroups", files: map[string]string{"/proc/self/mountinfo": "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n"}, probe: "cgroups", level: Error, says: "no control groups are mounted"},

		{name: "no pid namespaces", files: map[string]string{"/proc/self/ns/pid": ""}, probe: "namespaces", level: Error, says: "lacks namespaces: pid"},
		{name: "no seccomp", files: map[string]string{"/proc/sys/kernel/seccomp/actions_avail": ""}, probe: "namespaces", level: Error, says: "CONFIG_SECCOMP_FILTER"},

		{name: "port taken by k3s", files: k3sOn6443, probe: "ports", level: Error, says: "port 6443, for the Kubernetes API, is in use by pid 812 (k3s-server): stop it or set --https-listen-port"},
		{name: "k3s runs", files: k3sOn6443, probe: "other clusters", level: Error, says: "k3s runs (pid 812"},
		{name: "kind in a container", files: map[string]string{"/proc/5/comm": "kubelet", "/proc/5/ns/pid": "-> pid:[2]"}, probe: "other clusters", level: OK},
		{name: "kubelet in a pod with hostPID", files: map[string]string{"/proc/5/comm": "kubelet", "/proc/5/ns/pid": "-> pid:[1]", "/proc/5/cgroup": "0::/kubepods/burstable/podx/y"}, probe: "other clusters", level: OK},
		{name: "Docker runs", files: map[string]string{"/proc/5/comm": "dockerd", "/proc/5/ns/pid": "-> pid:[1]"}, probe: "other clusters", level: Info, says: "Docker runs (pid 5)"},
		{name: "edgebox with another data dir", files: map[string]string{"/proc/5/comm": "edgebox-node", "/proc/5/exe": "-> /srv/bin/1/edgebox-node", "/proc/5/ns/pid": "-> pid:[1]"}, probe: "other clusters", level: Error, says: "another edgebox"},
		{name: "connection to the port", files: map[string]string{"/proc/thread-self/net/tcp": sock("00000000:192B", "01", "9")}, probe: "ports", level: OK},
		{name: "port on another address", files: map[string]string{"/proc/thread-self/net/tcp": sock("0500A8C0:2811", "0A", "9")}, probe: "ports", level: OK},
		{name: "port on the same loopback", files: map[string]string{"/proc/thread-self/net/tcp": sock("0100007F:2811", "0A", "9")}, probe: "ports", level: Error, says: "port 10257, for kube-controller-manager, is in use by a process that cannot be seen"},
		{name: "start while it runs", files: selfOn10250, probe: "ports", level: Error, says: "port 10250, for kubelet, is in use by pid 99 (edgebox-node)"},
		{name: "check while it runs", files: selfOn10250, input: func(in *Input) { in.StartUp = false }, probe: "ports", level: OK, says: "1 of 7 ports are edgebox's already"},
		{name: "vxlan port of another", files: vxlan, probe: "ports", level: Error, says: "port 8472/udp, for flannel's vxlan, is in use by the kernel"},
		{name: "vxlan port, wireguard wanted", files: vxlan, input: backend("wireguard-native", "10.42.0.0/16"), probe: "ports", level: OK, says: "7 ports are free"},
		{name: "wireguard port of another", files: wireguard, input: backend("wireguard-native", "10.42.0.0/16"), probe: "ports", level: Error, says: "port 51820/udp, for flannel's wireguard, is in use by the kernel: remove the link that another product left (ip -d link show type wireguard)"},
		{name: "wireguard port, IPv6 only", files: wireguard, input: backend("wireguard-native", "fd42::/48"), probe: "ports", level: OK, says: "7 ports are free"},
		{name: "wireguard ports, both families", input: backend("wireguard-native", "10.42.0.0/16", "fd42::/48"), probe: "ports", level: OK, says: "8 ports are free"},
		{name: "vxlan port after a restart", files: vxlan, input: func(in *Input) { in.Own = []string{"link flannel.1"} }, probe: "ports", level: OK},

		{name: "disk read-only", host: disk(func(st *unix.Statfs_t) { st.Flags |= unix.ST_RDONLY }), probe: "data dir", level: Error, says: "read-only file system"},
		{name: "disk full", host: disk(func(st *unix.Statfs_t) { st.Bavail = 10 }), probe: "data dir", level: Error, says: "0 MiB free of 16384: free some space"},
		{name: "disk nearly full", host: disk(func(st *unix.Statfs_t) { st.Bavail = 100 << 10 }), probe: "data dir", level: Warning, says: "400 MiB free"},
		{name: "no inodes", host: disk(func(st *unix.Statfs_t) { st.Ffree = 3 }), probe: "data dir", level: Error, says: "3 inodes free"},
		{name: "few inodes", host: disk(func(st *unix.Statfs_t) { st.Ffree = 20000 }), probe: "data dir", level: Warning, says: "inodes left"},
		{name: "btrfs counts no inodes", host: disk(func(st *unix.Statfs_t) { st.Files, st.Ffree = 0, 0 }), probe: "data dir", level: OK},
		{name: "NFS", host: disk(func(st *unix.Statfs_t) { st.Type = unix.NFS_SUPER_MAGIC }), probe: "data dir", level: Error, says: "NFS, where the database's locks do not hold"},
		{name: "FAT", host: disk(func(st *unix.Statfs_t) { st.Type = unix.MSDOS_SUPER_MAGIC }), probe: "data dir", level: Error, says: "FAT"},
		{name: "tmpfs", host: disk(func(st *unix.Statfs_t) { st.Type = unix.TMPFS_MAGIC }), probe: "data dir", level: Warning, says: "in memory"},
		{name: "write fails", host: func(h *host) {
			h.write = func(string) error { return &fs.PathError{Op: "write", Path: "x", Err: unix.ENOSPC} }
		}, probe: "data dir", level: Error, says: "no space left on device: free some space"},
		{name: "made by a newer version", input: func(in *Input) { in.DataVersion = "v1.10.0" }, probe: "data version", level: Error, says: "used by edgebox v1.10.0, which is newer than this v1.2.0"},
		{name: "made by an older version", input: func(in *Input) { in.DataVersion = "v1.1.9-rc.1" }, probe: "data version", level: OK},
		{name: "made by a development build", input: func(in *Input) { in.DataVersion = "dev" }, probe: "data version", level: OK},

		{name: "overlay in a container", host: func(h *host) {
			h.overlay = func(string) error { return unix.EINVAL }
			disk(func(st *unix.Statfs_t) { st.Type = unix.OVERLAYFS_SUPER_MAGIC })(h)
		}, probe: "overlayfs", level: Error, says: "mount a volume at /var/lib/edgebox"},
		{name: "overlay on a read-only disk", host: func(h *host) { h.overlay = func(string) error { return untriedError{unix.EROFS} } }, probe: "overlayfs", level: Info, says: "could not be tried"},
		{name: "overlay on NFS", host: func(h *host) {
			h.overlay = func(string) error { return unix.EINVAL }
			disk(func(st *unix.Statfs_t) { st.Type = unix.NFS_SUPER_MAGIC })(h)
		}, probe: "overlayfs", level: Info, says: "does not work"},
		{name: "data dir behind a symlink", files: selfOn10250, input: func(in *Input) { in.StartUp, in.Paths.Data = false, "/srv/link" }, host: func(h *host) {
			h.resolve = func(string) string { return "/var/lib/edgebox" }
		}, probe: "ports", level: OK, says: "edgebox's already"},
		{name: "no overlayfs", files: map[string]string{"/proc/filesystems": "\text4\n"}, host: func(h *host) { h.overlay = func(string) error { return unix.ENODEV } }, probe: "overlayfs", level: Error, says: "CONFIG_OVERLAY_FS"},
		{name: "no vxlan", host: func(h *host) {
			h.network = func(string) []netFeature {
				return []netFeature{{"bridges", "CONFIG_BRIDGE", nil}, {"vxlan links", "CONFIG_VXLAN", unix.EOPNOTSUPP}}
			}
		}, probe: "network features", level: Error, says: "use a kernel with CONFIG_VXLAN, or --flannel-backend=host-gw"},
		{name: "no wireguard", host: func(h *host) {
			h.network = func(b string) []netFeature {
				return []netFeature{{"bridges", "CONFIG_BRIDGE", nil}, {b, "", nil}, {"wireguard links", "CONFIG_WIREGUARD", unix.EOPNOTSUPP}}
			}
		}, input: backend("wireguard-native", "10.42.0.0/16"), probe: "network features", level: Error, says: "cannot do wireguard links: operation not supported: use a kernel with CONFIG_WIREGUARD (Linux has it since 5.6), or another"},
		{name: "backend is tried", host: func(h *host) {
			h.network = func(b string) []netFeature { return []netFeature{{b, "", nil}} }
		}, input: backend("wireguard-native", "10.42.0.0/16"), probe: "network features", level: OK, says: "wireguard-native work"},
		{name: "no nft command", host: hasNft("", exec.ErrNotFound), probe: "nft", level: OK},
		{name: "nft of Debian 11", host: hasNft("nftables v0.9.8 (E.D.S.)", nil), probe: "nft", level: Info, says: "version 0.9.8, and some that old crash"},
		{name: "nft of Debian 11 copes", host: hasNft("nftables v0.9.8 (E.D.S.)", nil), input: own("table ip kube-proxy"), probe: "nft", level: OK, says: "reads edgebox's rules"},
		{name: "nft crashes", host: func(h *host) {
			h.nft = func(args ...string) (string, error) {
				if args[0] == "--version" {
					return "nftables v0.9.8 (E.D.S.)", nil
				}
				return "", errors.New("signal: segmentation fault")
			}
		}, input: own("table ip6 kube-proxy"), probe: "nft", level: Warning, says: "fails on edgebox's rules (signal: segmentation fault )"},
		{name: "nft just too old", host: hasNft("nftables v1.0.0 (Fearless Fosdick #2)", nil), probe: "nft", level: Info, says: "version 1.0.0"},
		{name: "nft just right", host: hasNft("nftables v1.0.1 (Fearless Fosdick #3)", nil), probe: "nft", level: OK},
		{name: "nft of tomorrow", host: hasNft("nftables v1.10.0", nil), probe: "nft", level: OK},
		{name: "nft that does not run", host: hasNft("Illegal instruction", errors.New("exit status 132")), probe: "nft", level: Info, says: "Illegal instruction"},
		{name: "forwarding off", files: map[string]string{"/proc/sys/net/ipv4/ip_forward": "0"}, probe: "forwarding", level: Info, says: "turns it on"},
		{name: "forwarding fixed", files: map[string]string{"/proc/sys/net/ipv4/ip_forward": "0"}, host: func(h *host) { h.sysctl = func(string) error { return unix.EROFS } }, probe: "forwarding", level: Error, says: "read-only file system"},
		{name: "br_netfilter absent", files: map[string]string{bridgeFilter: ""}, probe: "br_netfilter", level: Error, says: "modprobe br_netfilter"},
		{name: "br_netfilter to be loaded", files: map[string]string{bridgeFilter: "", "/lib/modules/6.1.0-18-arm64/modules.dep": "kernel/net/bridge/br_netfilter.ko.xz: x\n"}, input: func(in *Input) { in.StartUp = false }, probe: "br_netfilter", level: Info, says: "loads it when it starts"},

		{name: "swap", files: map[string]string{"/proc/swaps": "Filename Type\n/dev/sda2 partition 1 0 -2\n"}, probe: "swap", level: Warning, says: "swap is on (/dev/sda2)"},
		{name: "zram", files: map[string]string{"/proc/swaps": "Filename Type\n/dev/zram0 partition 1 0 100\n"}, probe: "swap", level: Info, says: "zram"},
		{name: "few inotify instances", files: map[string]string{"/proc/sys/fs/inotify/max_user_instances": "128"}, probe: "inotify", level: Warning, says: "sysctl -w fs.inotify.max_user_instances=512, and"},
		{name: "no mount", host: func(h *host) {
			h.lookup = func(c string) error {
				if c == "mount" {
					return errors.New("not found")
				}
				return nil
			}
		}, probe: "commands", level: Error, says: "not in PATH: mount"},

		{name: "k3s installed", files: map[string]string{"/var/lib/rancher/k3s/x": "x"}, probe: "leftovers", level: Warning, says: "k3s-uninstall.sh"},
		{name: "kubeadm installed", files: map[string]string{"/etc/kubernetes/kubelet.conf": "x", "/var/lib/kubelet/config.yaml": "x"}, probe: "leftovers", level: Warning, says: "run kubeadm reset"},
		{name: "CNI configured", files: map[string]string{"/etc/cni/net.d/87-podman.conflist": "x"}, probe: "leftovers", level: Info, says: "87-podman.conflist"},
		{name: "foreign cni0", host: hasLinks("lo", "cni0"), probe: "leftovers", level: Warning, says: "ip link delete cni0"},
		{name: "own cni0", host: hasLinks("lo", "cni0"), input: func(in *Input) { in.Own = []string{"link cni0"} }, probe: "leftovers", level: OK},
		{name: "foreign kube-proxy", host: hasTables(table{name: "ip kube-proxy"}), probe: "leftovers", level: Warning, says: "nft delete table ip kube-proxy"},
		{name: "own kube-proxy", host: hasTables(table{name: "ip kube-proxy"}), input: func(in *Input) { in.Own = []string{"table ip kube-proxy"} }, probe: "leftovers", level: OK},
		{name: "iptables of kube-proxy", host: hasTables(table{name: "ip nat", chains: []string{"PREROUTING", "KUBE-SERVICES"}}), probe: "leftovers", level: Warning, says: "KUBE-* chains"},

		{name: "firewalld", files: map[string]string{"/proc/7/comm": "firewalld", "/proc/7/ns/pid": "-> pid:[1]"}, probe: "firewall", level: Warning, says: "--add-source=10.42.0.0/16 --add-source=10.43.0.0/16, open the ports of edgebox to other nodes (6443/tcp 10250/tcp 8472/udp)"},
		{name: "ufw", files: map[string]string{"/etc/ufw/ufw.conf": "# x\nENABLED=yes\nLOGLEVEL=low\n"}, probe: "firewall", level: Warning, says: "ufw route allow from 10.42.0.0/16"},
		{name: "Docker drops forwarded packets", host: hasTables(table{name: "ip filter", chains: []string{"FORWARD", "DOCKER-USER"}, drops: []string{"FORWARD"}}), probe: "firewall", level: Warning, says: "nft insert rule ip filter DOCKER-USER ip saddr 10.42.0.0/16 accept; nft insert rule ip filter DOCKER-USER ip daddr"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h, in := fake(tc.files), node()
			if tc.host != nil {
				tc.host(h)
			}
			in = withPorts(in)
			if tc.input != nil {
				tc.input(&in)
			}
			var of []Result
			for _, r := range run(context.Background(), h, in) {
				if r.Name == tc.probe {
					of = append(of, r)
				}
			}
			if !slices.ContainsFunc(of, func(r Result) bool { return r.Level == tc.level && strings.Contains(r.String(), tc.says) }) {
				t.Errorf("want %s %q, got %+v", tc.level, tc.says, of)
			}
			if len(of) != 1 {
				t.Errorf("want one finding, got %+v", of)
			}
		})
	}
}

func TestServerAloneNeedsNoPodFeatures(t *testing.T) {
	h := fake(map[string]string{"/sys/fs/cgroup/cgroup.controllers": "cpu", bridgeFilter: ""})
	h.overlay = func(string) error { return unix.EINVAL }
	in := node()
	in.Agent = false
	if err := Errors(run(context.Background(), h, withPorts(in))); err != nil {
		t.Error(err)
	}
}

func TestPanicIsAFinding(t *testing.T) {
	h := fake(nil)
	h.uname = func() (string, error) { panic("boom") }
	err := Errors(run(context.Background(), h, node()))
	if err == nil || err.Error() != "the kernel probe failed: boom: report this as a bug of edgebox" {
		t.Error(err)
	}
}

func TestHangIsAFinding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := fake(nil)
		hang := make(chan struct{})
		h.statfs = func(string) (unix.Statfs_t, error) { <-hang; return unix.Statfs_t{}, unix.EIO }
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		err := Errors(run(ctx, h, node()))
		if err == nil || !strings.Contains(err.Error(), "the data dir probe did not end: context deadline exceeded") {
			t.Error(err)
		}
		close(hang)
	})
}

// The host of a stripped container: nothing can be read. Every probe must come back.
func TestEmptyHost(t *testing.T) {
	h := fake(nil)
	h.root = fstest.MapFS{}
	rs := run(context.Background(), h, withPorts(node()))
	for _, r := range rs {
		if strings.Contains(r.Message, "probe failed") {
			t.Error(r)
		}
	}
	if _, err := json.Marshal(rs); err != nil {
		t.Error(err)
	}
}

func TestErrorsJoinsWithFixes(t *testing.T) {
	rs := []Result{{"a", OK, "fine", ""}, {"b", Error, "no b", "make b"}, {"c", Warning, "hm", "x"}, {"d", Error, "no d", ""}}
	if got := Errors(rs).Error(); got != "no b: make b\nno d" {
		t.Errorf("got %q", got)
	}
	if Errors(rs[:1]) != nil {
		t.Error("errors without an error")
	}
}

func TestProcAddr(t *testing.T) {
	for in, want := range map[string]string{
		"0100007F:192B":                         "127.0.0.1:6443",
		"00000000000000000000000001000000:1F90": "[::1]:8080",
		"0000000000000000FFFF00000500A8C0:0050": "192.168.0.5:80", // IPv4 in IPv6
	} {
		if got, valid := procAddr(in); !valid || got.String() != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
	for _, in := range []string{"", "01:1", "0100007F", "0100007F:XX", "zz00007F:0001"} {
		if got, valid := procAddr(in); valid {
			t.Errorf("%q is taken for %s", in, got)
		}
	}
}
