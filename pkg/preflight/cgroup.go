package preflight

import (
	"fmt"
	"slices"
	"strings"
)

// Modes of the host's control groups.
const (
	cgroupNone   = ""
	cgroupV1     = "v1"
	cgroupHybrid = "hybrid" // v1 controllers, and an empty v2 tree for systemd
	cgroupV2     = "v2"
)

// cgroups reads from mountinfo which mode the host is in, and which controllers it has mounted.
func (h *host) cgroups() (mode string, controllers []string) {
	for line := range strings.Lines(h.read("/proc/self/mountinfo")) {
		// proc_pid_mountinfo(5): ID, parent, major:minor, root, mount point, options, fields…, -, type, source, options
		left, right, found := strings.Cut(line, " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if !found || len(l) < 5 || len(r) < 3 {
			continue
		}
		switch r[0] {
		case "cgroup":
			if mode == cgroupNone {
				mode = cgroupV1
			}
			controllers = append(controllers, strings.Split(r[2], ",")...)
		case "cgroup2":
			if l[4] == "/sys/fs/cgroup" {
				return cgroupV2, strings.Fields(h.read("/sys/fs/cgroup/cgroup.controllers"))
			}
			mode = cgroupHybrid
		}
	}
	if mode == cgroupHybrid && len(controllers) == 0 {
		return cgroupNone, nil
	}
	return mode, controllers
}

func probeCgroups(h *host, _ Input) []Result {
	mode, have := h.cgroups()
	need := []string{"cpu", "cpuset", "memory", "pids"}
	switch mode {
	case cgroupNone:
		return one("cgroups", Error, "no control groups are mounted at /sys/fs/cgroup", "run: mount -t cgroup2 cgroup2 /sys/fs/cgroup")
	case cgroupV1, cgroupHybrid:
		need = append(need, "cpuacct", "devices", "freezer")
	}
	var missing []string
	for _, c := range need {
		if !slices.Contains(have, c) {
			missing = append(missing, c)
		}
	}
	if len(missing) > 0 {
		return one("cgroups", Error,
			fmt.Sprintf("control groups (%s) lack: %s", mode, strings.Join(missing, ", ")), h.cgroupFix(mode, missing))
	}
	if mode != cgroupV2 {
		return one("cgroups", Warning,
			"control groups are "+mode+": pods get no memory.high, swap limit or pressure (PSI) figures, an OOM kills one process instead of the container, and Kubernetes will drop v1",
			"boot with systemd.unified_cgroup_hierarchy=1 when convenient")
	}
	return ok("cgroups", "control groups v2 with %s", strings.Join(need, ", "))
}

func (h *host) cgroupFix(mode string, missing []string) string {
	if slices.Contains(missing, "memory") && (h.onRaspberryPi() || strings.Contains(h.read("/proc/cmdline"), "cgroup_disable=memory")) {
		file := "the kernel's command line"
		if h.onRaspberryPi() {
			file = "the line in /boot/firmware/cmdline.txt"
			if !h.exists("/boot/firmware/cmdline.txt") && h.exists("/boot/cmdline.txt") {
				file = "the line in /boot/cmdline.txt"
			}
		}
		return "append ' cgroup_memory=1 cgroup_enable=memory' to " + file + ", and reboot"
	}
	if mode == cgroupV2 {
		return "if this is a container, give it a cgroup namespace of its own with these controllers (docker run --privileged --cgroupns=private); " +
			"else use a kernel that has them and is not booted with cgroup_disable"
	}
	var cmds []string
	for _, c := range missing {
		cmds = append(cmds, fmt.Sprintf("mkdir -p /sys/fs/cgroup/%[1]s && mount -t cgroup -o %[1]s cgroup /sys/fs/cgroup/%[1]s", c))
	}
	return "mount them (" + strings.Join(cmds, "; ") + "), or boot with systemd.unified_cgroup_hierarchy=1"
}

func (h *host) onRaspberryPi() bool {
	return strings.Contains(h.read("/proc/device-tree/model"), "Raspberry Pi")
}
