package framework

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// hierarchy is one cgroup file system of the machine: one of cgroup v1's, or the unified one of v2, which is alone on
// v2 machines and beside the others on hybrid ones.
type hierarchy struct {
	mountpoint string // on the machine
	name       string // below /sys/fs/cgroup; empty when this hierarchy is /sys/fs/cgroup itself
	options    string // mount options that choose the hierarchy, v1 only
	v2         bool
}

const cgroupRoot = "/sys/fs/cgroup"

// hierarchies lists the machine's, as they are mounted below /sys/fs/cgroup.
func hierarchies() []hierarchy {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	var found []hierarchy
	seen := make(map[string]bool)
	for line := range strings.Lines(string(text)) {
		// 36 35 98:0 /mnt1 /mnt/parent rw,noatime master:1 - ext3 /dev/root rw,errors=continue
		mount, super, ok := strings.Cut(strings.TrimSpace(line), " - ")
		m, s := strings.Fields(mount), strings.Fields(super)
		if !ok || len(m) < 5 || len(s) < 3 || !strings.HasPrefix(s[0], "cgroup") || seen[m[4]] {
			continue
		}
		name, ok := strings.CutPrefix(m[4], cgroupRoot)
		if !ok {
			continue
		}
		seen[m[4]] = true
		h := hierarchy{mountpoint: m[4], name: strings.TrimPrefix(name, "/"), v2: s[0] == "cgroup2"}
		for o := range strings.SplitSeq(s[2], ",") {
			switch {
			case h.v2 || o == "rw" || o == "ro" || o == "xattr" || o == "clone_children" || strings.HasPrefix(o, "release_agent="):
			case strings.HasPrefix(o, "name="):
				h.options = "none," + o
			case h.options == "":
				h.options = o
			default:
				h.options += "," + o
			}
		}
		found = append(found, h)
	}
	return found
}

// makeCgroup makes the group in each hierarchy, ready to take processes and subgroups.
func makeCgroup(group string) error {
	for _, h := range hierarchies() {
		dir := filepath.Join(h.mountpoint, group)
		if h.v2 {
			delegateControllers(h.mountpoint)
		}
		if err := os.Mkdir(dir, 0o755); err != nil {
			return fmt.Errorf("make cgroup: %w", err)
		}
		if h.v2 {
			continue
		}
		// A new group of cpuset takes no process before it has both.
		for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
			v, err := os.ReadFile(filepath.Join(h.mountpoint, f))
			if err != nil {
				continue // not the cpuset hierarchy
			}
			if err := os.WriteFile(filepath.Join(dir, f), v, 0o644); err != nil {
				return fmt.Errorf("make cgroup: %w", err)
			}
		}
	}
	return nil
}

// delegateControllers lets the children of a v2 group use all controllers that it has itself. A controller that
// cannot be had (realtime processes, a v1 hierarchy that holds it) is left out.
func delegateControllers(dir string) {
	controllers, _ := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	for c := range strings.FieldsSeq(string(controllers)) {
		_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+c), 0o644)
	}
}

// joinCgroup moves a process into the group in each hierarchy.
func joinCgroup(group string, pid int) error {
	for _, h := range hierarchies() {
		path := filepath.Join(h.mountpoint, group, "cgroup.procs")
		if err := os.WriteFile(path, fmt.Append(nil, pid), 0o644); err != nil {
			return fmt.Errorf("join cgroup: %w", err)
		}
	}
	return nil
}

func removeCgroups(group string) error {
	for _, h := range hierarchies() {
		if err := removeCgroup(filepath.Join(h.mountpoint, group)); err != nil {
			return err
		}
	}
	return nil
}

// mountCgroups gives the caller's thread, which must be in the host's cgroup already, a cgroup namespace of its own
// and mounts the hierarchies in it.
func mountCgroups(hs []hierarchy) error {
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("unshare the cgroup namespace: %w", err)
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if len(hs) != 1 || hs[0].name != "" {
		if err := unix.Mount("tmpfs", cgroupRoot, "tmpfs", flags, "mode=755"); err != nil {
			return fmt.Errorf("mount %s: %w", cgroupRoot, err)
		}
	}
	for _, h := range hs {
		dir := filepath.Join(cgroupRoot, h.name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		fstype := "cgroup"
		if h.v2 {
			fstype = "cgroup2"
		}
		if err := unix.Mount("cgroup", dir, fstype, flags, h.options); err != nil {
			return fmt.Errorf("mount %s: %w", dir, err)
		}
		if h.v2 && h.name == "" {
			// No group but the machine's root may have both processes and subgroups with controllers.
			leaf := filepath.Join(dir, "init")
			if err := os.Mkdir(leaf, 0o755); err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(leaf, "cgroup.procs"), []byte("0"), 0o644); err != nil {
				return fmt.Errorf("join cgroup: %w", err)
			}
			delegateControllers(dir)
		}
	}
	return nil
}
