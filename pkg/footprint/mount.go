package footprint

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// mount is one of proc_pid_mountinfo(5).
type mount struct {
	point, fstype, source string
	shared                bool // propagates to its peers
}

func (s *survey) readMounts() {
	s.mounts = parseMountinfo(s.read("/proc/self/mountinfo"))
	for line := range strings.Lines(s.read("/etc/fstab")) {
		if f := strings.Fields(line); len(f) >= 2 && !strings.HasPrefix(f[0], "#") && strings.HasPrefix(f[1], "/") {
			s.fstab = append(s.fstab, filepath.Clean(unescape(f[1])))
		}
	}
}

func parseMountinfo(data string) []mount {
	var mounts []mount
	for line := range strings.Lines(data) {
		left, right, found := strings.Cut(line, " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if found && len(l) >= 5 && len(r) >= 2 {
			shared := slices.ContainsFunc(l[min(6, len(l)):], func(f string) bool { return strings.HasPrefix(f, "shared:") })
			mounts = append(mounts, mount{unescape(l[4]), r[0], unescape(r[1]), shared})
		}
	}
	return mounts
}

// unescape undoes the octal escapes of blanks and backslashes.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// own reports whether edgebox made the mount, or let a pod make it.
func (s *survey) own(m mount) bool {
	switch {
	case slices.Contains(s.fstab, m.point):
		return false
	case strictlyBelow(m.point, s.paths.Data), below(m.point, s.paths.Run):
		return true
	case strictlyBelow(m.point, s.paths.Kubelet()):
		return s.sole || s.ofPod(m.point)
	}
	return false
}

// ofPod reports whether a path in the kubelet's directory is of a pod that is known as edgebox's.
func (s *survey) ofPod(path string) bool {
	rel, found := strings.CutPrefix(path, filepath.Join(s.paths.Kubelet(), "pods")+"/")
	uid, _, _ := strings.Cut(rel, "/")
	return found && s.pods[uid]
}

// ownMounts are in the order of unmounting: the last one first, so that stacked and deeper ones go before those below.
func (s *survey) ownMounts() []mount {
	mounts := slices.DeleteFunc(slices.Clone(s.mounts), func(m mount) bool { return !s.own(m) })
	slices.Reverse(mounts)
	return mounts
}

// podMounts are those that end with the pods.
func (s *survey) podMounts() []mount {
	return slices.DeleteFunc(s.ownMounts(), func(m mount) bool {
		ofEngine := slices.ContainsFunc(s.bundles, func(b bundle) bool { return !b.pod && below(m.point, b.dir) })
		return ofEngine || !strictlyBelow(m.point, s.paths.ContainerdRun()) && !strictlyBelow(m.point, filepath.Join(s.paths.Kubelet(), "pods"))
	})
}

func (s *survey) mountItems() ([]Item, error) {
	var items []Item
	for _, m := range s.ownMounts() {
		items = append(items, Item{Kind: Mount, Name: m.point, Detail: m.fstype,
			remove: func(context.Context) error { return s.detach(m) }})
	}
	if points := s.sharedPoints(); len(points) > 0 { // last: until then what edgebox mounted must be seen to end everywhere
		items = append(items, Item{Kind: Mount, Name: "propagation", Detail: "edgebox made " + strings.Join(points, ", ") + " shared",
			remove: func(context.Context) error { return s.makePrivate(points) }})
	}
	return items, nil
}

// sharedPoints are the mount points that were private before edgebox and are shared now, but for edgebox's own.
func (s *survey) sharedPoints() []string {
	var noted, points []string
	_ = json.Unmarshal([]byte(s.readOwn(s.paths.SharedMounts())), &noted) // a broken note names none
	for _, m := range s.mounts {
		if m.shared && !s.own(m) && slices.Contains(noted, m.point) && !slices.Contains(points, m.point) {
			points = append(points, m.point)
		}
	}
	return points
}

func (h *host) makePrivate(points []string) error {
	var errs []error
	for _, p := range points {
		if err := h.mount("", p, "", unix.MS_PRIVATE, ""); err != nil && !errors.Is(err, unix.EINVAL) { // EINVAL: unmounted since
			errs = append(errs, gone(fmt.Errorf("make %s private: %w", p, err)))
		}
	}
	return errors.Join(errs...)
}

// detach unmounts, lazily where the mount is busy or its server may not answer.
func (h *host) detach(m mount) error {
	err := error(unix.EBUSY)
	if !remote(m.fstype) {
		err = h.unmount(m.point, unix.UMOUNT_NOFOLLOW)
	}
	if errors.Is(err, unix.EBUSY) {
		err = h.unmount(m.point, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
	}
	if errors.Is(err, unix.EINVAL) { // no mount any more: it went with another
		return nil
	}
	return gone(err)
}

func remote(fstype string) bool {
	for _, prefix := range []string{"nfs", "cifs", "smb", "fuse", "ceph", "9p"} {
		if strings.HasPrefix(fstype, prefix) {
			return true
		}
	}
	return false
}

// netnsItems are network namespaces in the place that they have without netns_mounts_under_state_dir, which an
// administrator may have switched off. Only those that a bundle names count: other runtimes use the same directory.
func (s *survey) netnsItems() ([]Item, error) {
	var items []Item
	for _, m := range s.mounts {
		if m.fstype != "nsfs" || !strictlyBelow(m.point, "/run/netns") {
			continue
		}
		named := func(b bundle) bool { return b.pod && strings.TrimPrefix(b.netns, "/var") == m.point }
		if !slices.ContainsFunc(s.bundles, named) || slices.ContainsFunc(items, func(i Item) bool { return i.Name == m.point }) {
			continue
		}
		items = append(items, Item{Kind: NetNS, Name: m.point, remove: func(context.Context) error {
			if err := s.detach(m); err != nil {
				return err
			}
			return gone(unix.Unlink(m.point))
		}})
	}
	return items, nil
}
