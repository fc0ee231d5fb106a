package footprint

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cgroup is one of edgebox's with all below it, in every hierarchy that has it.
type cgroup struct {
	path string   // within the hierarchy
	dirs []string // of each hierarchy
	pod  bool     // of pods, as opposed to the engine
}

// kubeRoots are the kubelet's, for its two cgroup drivers.
var kubeRoots = []string{"/kubepods", "/kubepods.slice"}

// hierarchies are the mount points of cgroup file systems.
func (s *survey) hierarchies() []string {
	var points []string
	for _, m := range s.mounts {
		if (m.fstype == "cgroup" || m.fstype == "cgroup2") && !slices.Contains(points, m.point) && strings.HasPrefix(m.point, "/sys/fs/cgroup") {
			points = append(points, m.point)
		}
	}
	return points
}

func (s *survey) cgroups() []cgroup {
	var found []cgroup
	add := func(path string, pod bool) {
		if slices.ContainsFunc(found, func(g cgroup) bool { return below(path, g.path) }) {
			return
		}
		g := cgroup{path: path, pod: pod}
		for _, root := range s.hierarchies() {
			if dir := filepath.Join(root, path); isDir(s.path(dir)) {
				g.dirs = append(g.dirs, dir)
			}
		}
		if g.dirs != nil {
			found = append(found, g)
		}
	}
	if s.sole {
		for _, r := range kubeRoots {
			add(r, true)
		}
	}
	for _, b := range s.bundles {
		if b.cgroup != "" && b.cgroup != "/" {
			add(b.cgroup, b.pod)
		}
	}
	for _, path := range s.podCgroups() {
		add(path, true)
	}
	return found
}

// podCgroups are those below kubepods that bear the UID of a pod, or the id of a container, that is known as edgebox's.
func (s *survey) podCgroups() []string {
	var paths []string
	for _, root := range s.hierarchies() {
		for _, kube := range kubeRoots {
			_ = filepath.WalkDir(s.path(root, kube), func(dir string, d fs.DirEntry, err error) error {
				if err != nil || !d.IsDir() {
					return nil
				}
				if uid, id := cgroupOwner(d.Name()); s.pods[uid] || s.containers[id] {
					rel, _ := filepath.Rel(s.path(root), dir)
					paths = append(paths, "/"+rel)
					return fs.SkipDir
				}
				return nil
			})
		}
	}
	slices.Sort(paths)
	return slices.Compact(paths)
}

// cgroupOwner reads a pod's UID or a container's id from a directory name: podUID and ID, or with the systemd driver
// kubepods-burstable-podUID.slice, where the UID has _ for -, and cri-containerd-ID.scope.
func cgroupOwner(name string) (podUID, container string) {
	base := strings.TrimSuffix(strings.TrimSuffix(name, ".slice"), ".scope")
	if uid, found := strings.CutPrefix(base, "pod"); found {
		return uid, ""
	}
	if i := strings.LastIndex(base, "-pod"); i >= 0 {
		return strings.ReplaceAll(base[i+len("-pod"):], "_", "-"), ""
	}
	return "", base[strings.LastIndexByte(base, '-')+1:]
}

func isDir(path string) bool {
	st, err := os.Lstat(path)
	return err == nil && st.IsDir()
}

// tree lists a directory and those below it, deepest first.
func (h *host) tree(dir string) []string {
	var dirs []string
	_ = filepath.WalkDir(h.path(dir), func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, p)
		}
		return nil
	})
	slices.Reverse(dirs)
	return dirs
}

// members are the processes in the cgroup and those below it.
func (s *survey) members(g cgroup) []int {
	var pids []int
	for _, root := range g.dirs {
		for _, dir := range s.tree(root) {
			b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
			if err != nil {
				continue
			}
			for _, f := range strings.Fields(string(b)) {
				if pid, err := strconv.Atoi(f); err == nil && pid > 0 {
					pids = append(pids, pid)
				}
			}
		}
	}
	return pids
}

// thaw lets frozen (paused) containers run again: on v1 they do not even die before.
func (s *survey) thaw() {
	for _, g := range s.cgroups() {
		for _, root := range g.dirs {
			for _, dir := range s.tree(root) {
				writeExisting(filepath.Join(dir, "freezer.state"), "THAWED")
				writeExisting(filepath.Join(dir, "cgroup.freeze"), "0")
			}
		}
	}
}

func writeExisting(path, value string) {
	if f, err := os.OpenFile(path, os.O_WRONLY, 0); err == nil {
		_, _ = f.WriteString(value)
		_ = f.Close()
	}
}

func (s *survey) cgroupItems() ([]Item, error) {
	var items []Item
	for _, g := range s.cgroups() {
		var where []string
		for _, d := range g.dirs {
			where = append(where, strings.TrimSuffix(d, g.path))
		}
		items = append(items, Item{Kind: Cgroup, Name: g.path, Detail: strings.Join(where, ", "),
			remove: func(ctx context.Context) error { return s.removeCgroup(ctx, g) }})
	}
	return items, nil
}

// removeCgroup removes the directories. The kernel may need a moment after the last process ended.
func (s *survey) removeCgroup(ctx context.Context, g cgroup) error {
	deadline := time.Now().Add(cgroupWait)
	for {
		var errs []error
		for _, root := range g.dirs {
			for _, dir := range s.tree(root) {
				errs = append(errs, gone(os.Remove(dir)))
			}
		}
		err := errors.Join(errs...)
		if err == nil || !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) || ctx.Err() != nil {
			if err == nil {
				s.removeEmptyParents(g)
			}
			return err
		}
		sleep(ctx, 20*time.Millisecond)
	}
}

// removeEmptyParents takes along kubepods and its QoS classes once the last pod is gone. One with a pod of others in it
// is busy and stays.
func (s *survey) removeEmptyParents(g cgroup) {
	for _, root := range s.hierarchies() {
		for path := filepath.Dir(g.path); strings.HasPrefix(path, "/kubepods"); path = filepath.Dir(path) {
			if os.Remove(s.path(root, path)) != nil {
				break
			}
		}
	}
}
