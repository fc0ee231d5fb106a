package preflight

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

const capSysResource, capSysAdmin, capNetAdmin = 24, 21, 12 // linux/capability.h

func probeRoot(h *host, _ Input) []Result {
	if uid := h.euid(); uid != 0 {
		return one("root", Error, fmt.Sprintf("edgebox runs as user %d, but needs root", uid), "start it with sudo, or as a system service")
	}
	caps := h.capabilities()
	for _, c := range []struct {
		bit  int
		name string
	}{{capSysAdmin, "CAP_SYS_ADMIN"}, {capNetAdmin, "CAP_NET_ADMIN"}} {
		if caps != 0 && caps&(1<<c.bit) == 0 {
			return one("root", Error, "root lacks "+c.name+" here", "if this is a container, start it with --privileged")
		}
	}
	return ok("root", "edgebox runs as root")
}

// capabilities are the effective ones, 0 if they are not known.
func (h *host) capabilities() uint64 {
	for line := range strings.Lines(h.read("/proc/self/status")) {
		if v, found := strings.CutPrefix(line, "CapEff:"); found {
			n, _ := strconv.ParseUint(strings.TrimSpace(v), 16, 64)
			return n
		}
	}
	return 0
}

func probeCapabilities(h *host, _ Input) []Result {
	if caps := h.capabilities(); caps != 0 && caps&(1<<capSysResource) == 0 {
		return one("capabilities", Info,
			"CAP_SYS_RESOURCE is absent: containers keep edgebox's OOM score instead of a lower one", "")
	}
	return ok("capabilities", "all needed capabilities are there")
}

var kernelVersion = regexp.MustCompile(`^(\d+)\.(\d+)`)

func probeKernel(h *host, _ Input) []Result {
	const major, minor = 5, 10
	release, err := h.uname()
	m := kernelVersion.FindStringSubmatch(release)
	if err != nil || m == nil {
		return one("kernel", Error, fmt.Sprintf("the kernel's version %q cannot be read", release), "")
	}
	a, _ := strconv.Atoi(m[1])
	b, _ := strconv.Atoi(m[2])
	if a < major || a == major && b < minor {
		return one("kernel", Error, fmt.Sprintf("kernel %s is older than %d.%d", release, major, minor), "upgrade the operating system or its kernel")
	}
	return ok("kernel", "kernel %s", release)
}

var dnsName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)

// probeName holds the node name against RFC 1123, and against the 63 characters of the kubernetes.io/hostname label.
func probeName(_ *host, in Input) []Result {
	n := in.NodeName
	switch {
	case n == "":
		return one("name", Error, "this node has no name", "set a host name, or --node-name")
	case len(n) > 63:
		return one("name", Error, fmt.Sprintf("node name %q has %d characters, 63 are allowed", n, len(n)), "choose a shorter --node-name")
	case !dnsName.MatchString(n):
		return one("name", Error, fmt.Sprintf("node name %q is no RFC 1123 name (lower-case letters, digits, '-' and '.')", n),
			suggestName(n))
	case n == "localhost" || strings.HasPrefix(n, "localhost."):
		return one("name", Warning, fmt.Sprintf("node name %q will clash with other nodes", n), "set a host name of its own, or --node-name, before the first start")
	}
	return ok("name", "node name %s", n)
}

var notDNS = regexp.MustCompile(`[^a-z0-9.-]+`)

func suggestName(n string) string {
	s := strings.Trim(notDNS.ReplaceAllString(strings.ToLower(n), "-"), "-.")
	if !dnsName.MatchString(s) {
		return "set --node-name"
	}
	return "set --node-name=" + s + ", or change the host name"
}

// earliest is a date that had passed when this version of edgebox was written.
var earliest = time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC)

func probeClock(h *host, in Input) []Result {
	bound := earliest
	if in.BuildDate.After(bound) {
		bound = in.BuildDate
	}
	now := h.now().UTC()
	if now.Before(bound) {
		return one("clock", Warning,
			fmt.Sprintf("the clock says %s, which is before this edgebox was built (%s); its certificates are backdated, so it starts all the same",
				now.Format(time.DateOnly), bound.Format(time.DateOnly)),
			"set the clock, or let an NTP service do it")
	}
	return ok("clock", "the clock says %s", now.Format(time.RFC3339))
}

func probeMachineID(h *host, _ Input) []Result {
	id := h.read("/etc/machine-id")
	if len(id) != 32 || strings.Trim(id, "0123456789abcdef") != "" {
		return one("machine id", Warning, "/etc/machine-id holds no machine id, so that nodes cannot be told apart by it",
			"run systemd-machine-id-setup, or: tr -d - < /proc/sys/kernel/random/uuid > /etc/machine-id")
	}
	return ok("machine id", "machine id %s", id)
}

func (h *host) memTotal() (bytes uint64, known bool) {
	for line := range strings.Lines(h.read("/proc/meminfo")) {
		f := strings.Fields(line)
		if len(f) >= 2 && f[0] == "MemTotal:" {
			kib, err := strconv.ParseUint(f[1], 10, 64)
			return kib << 10, err == nil
		}
	}
	return 0, false
}

func probeMemory(h *host, _ Input) []Result {
	const enough = 512 << 20
	total, known := h.memTotal()
	switch {
	case !known:
		return one("memory", Warning, "/proc/meminfo does not say how much memory there is", "")
	case total < enough:
		return one("memory", Warning, fmt.Sprintf("%d MiB of memory: a server needs 512 MiB, pods aside", total>>20),
			"run this box as an agent, or add zram swap")
	}
	return ok("memory", "%d MiB of memory", total>>20)
}

func probeSwap(h *host, _ Input) []Result {
	var devices []string
	for line := range strings.Lines(h.read("/proc/swaps")) {
		if f := strings.Fields(line); len(f) > 0 && strings.HasPrefix(f[0], "/") {
			devices = append(devices, f[0])
		}
	}
	notZram := slices.DeleteFunc(slices.Clone(devices), func(d string) bool { return strings.Contains(d, "zram") })
	switch {
	case len(devices) == 0:
		return ok("swap", "no swap")
	case len(notZram) == 0:
		return one("swap", Info, "zram swap is on: the kubelet starts with it, and gives pods none by default", "")
	}
	return one("swap", Warning,
		fmt.Sprintf("swap is on (%s): the kubelet starts with it and gives pods none by default, but the node slows down before it evicts pods",
			strings.Join(devices, ", ")),
		"swapoff -a, and remove the swap line from /etc/fstab, unless the box needs it")
}

func probeInotify(h *host, _ Input) []Result {
	const instances, watches = 256, 65536
	var low []string
	if n, known := h.number("/proc/sys/fs/inotify/max_user_instances"); known && n < instances {
		low = append(low, fmt.Sprintf("fs.inotify.max_user_instances=%d", max(2*instances, n)))
	}
	if n, known := h.number("/proc/sys/fs/inotify/max_user_watches"); known && n < watches {
		low = append(low, fmt.Sprintf("fs.inotify.max_user_watches=%d", max(2*watches, n)))
	}
	if len(low) > 0 {
		return one("inotify", Warning, "the limits of inotify are low: with some dozen pods, following logs and watching files stops working",
			"run sysctl -w "+strings.Join(low, " ")+", and put it into /etc/sysctl.d/90-inotify.conf")
	}
	return ok("inotify", "inotify limits are high enough")
}

func probeCommands(h *host, _ Input) []Result {
	var missing []string
	for _, c := range []string{"mount", "umount"} { // what the kubelet runs; all else is in the payload
		if h.lookup(c) != nil {
			missing = append(missing, c)
		}
	}
	if len(missing) > 0 {
		return one("commands", Error, "not in PATH: "+strings.Join(missing, ", "), "install the package util-linux (Debian: mount)")
	}
	return ok("commands", "mount and umount are there")
}

func probeNamespaces(h *host, _ Input) []Result {
	var missing []string
	for _, ns := range []string{"cgroup", "ipc", "mnt", "net", "pid", "uts"} {
		if h.link("/proc/self/ns/"+ns) == "" {
			missing = append(missing, ns)
		}
	}
	if len(missing) > 0 {
		return one("namespaces", Error, "the kernel lacks namespaces: "+strings.Join(missing, ", "), "use a kernel with CONFIG_NAMESPACES and its parts")
	}
	if !h.exists("/proc/sys/kernel/seccomp/actions_avail") {
		return one("namespaces", Error, "the kernel lacks seccomp filters, which pods run under", "use a kernel with CONFIG_SECCOMP_FILTER")
	}
	return ok("namespaces", "namespaces and seccomp are there")
}
