package footprint

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/edgebox/edgebox/pkg/config"
)

const (
	defaultData = "/var/lib/edgebox" // wholly edgebox's, whatever is in it
	etc         = "/etc/edgebox"
	logLinks    = "/var/log/containers" // the kubelet's, into its pod logs
)

// dataNames are what edgebox makes in a data dir that the user chose, where other things may lie too. The lock comes
// last: it marks the directory as edgebox's.
var dataNames = []string{"agent", "server", "bin", "engine", "registry", "storage", "machine-seed", "version", "lock"}

// systemDirs are no data dirs: the names above mean other things in them.
var systemDirs = []string{
	"/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/media", "/mnt", "/opt", "/proc", "/root", "/run", "/sbin", "/srv",
	"/sys", "/tmp", "/usr", "/usr/local", "/usr/share", "/var", "/var/cache", "/var/lib", "/var/local", "/var/log", "/var/run", "/var/tmp",
}

func refuse(p config.Paths) error {
	for _, dir := range []string{p.Data, p.Run} {
		if !filepath.IsAbs(dir) || slices.Contains(systemDirs, resolve(dir)) {
			return fmt.Errorf("%q is not a directory of edgebox: give the --data-dir that edgebox was started with", dir)
		}
	}
	return nil
}

// dataFiles are the parts of the data dir that are there, with the lock last. whole means that nothing else is in it, so
// that it goes with them.
func (s *survey) dataFiles() (files []string, whole bool) {
	dir := s.paths.Data
	entries, err := os.ReadDir(dir)
	if err != nil || refuse(s.paths) != nil {
		return nil, false
	}
	all := dir == defaultData
	if !all && !exists(s.paths.Lock()) {
		return nil, false
	}
	whole = !s.isMount(dir)
	for _, e := range entries {
		n := e.Name()
		switch {
		case !all && !slices.Contains(dataNames, n) || n == "lost+found" || !s.removable(filepath.Join(dir, n)):
			whole = false
		default:
			files = append(files, filepath.Join(dir, n))
		}
	}
	rank := func(path string) int { return slices.Index(dataNames, filepath.Base(path)) }
	slices.SortStableFunc(files, func(a, b string) int { return rank(a) - rank(b) })
	return files, whole && len(s.kept(dir)) == 0
}

func (s *survey) isMount(path string) bool {
	return slices.ContainsFunc(s.mounts, func(m mount) bool { return m.point == path })
}

// kept are the mount points of the administrator that are mounted below edgebox's directories.
func (s *survey) kept(below string) []string {
	var points []string
	for _, m := range s.mounts {
		if slices.Contains(s.fstab, m.point) && strictlyBelow(m.point, below) || m.point == below && slices.Contains(s.fstab, below) {
			points = append(points, m.point)
		}
	}
	return points
}

// removable reports whether removeTree would remove anything.
func (s *survey) removable(path string) bool {
	kept := s.kept(path)
	if len(kept) == 0 {
		return true
	}
	if slices.Contains(kept, path) {
		return false
	}
	entries, _ := os.ReadDir(path)
	return slices.ContainsFunc(entries, func(e os.DirEntry) bool { return s.removable(filepath.Join(path, e.Name())) })
}

// removeTree removes a file, or a directory with all in it but the administrator's mounts. It refuses while anything
// else is mounted there: it could be a disk of the user that a pod has mounted.
func (s *survey) removeTree(path string) error {
	now := &survey{host: s.host, paths: s.paths}
	now.readMounts()
	for _, m := range now.mounts {
		if below(m.point, path) && !slices.Contains(now.fstab, m.point) {
			return fmt.Errorf("%s is still mounted, its content stays", m.point)
		}
	}
	return now.removeAround(path)
}

func (s *survey) removeAround(path string) error {
	kept := s.kept(path)
	if len(kept) == 0 {
		return gone(os.RemoveAll(path))
	}
	if slices.Contains(kept, path) {
		return nil
	}
	entries, err := os.ReadDir(path)
	errs := []error{err}
	for _, e := range entries {
		errs = append(errs, s.removeAround(filepath.Join(path, e.Name())))
	}
	return errors.Join(errs...)
}

// fileItems are in an order that leaves the proof of what is edgebox's for last.
func (s *survey) fileItems(also []string) []Item {
	var items []Item
	item := func(path string, remove func(context.Context) error) {
		if !slices.ContainsFunc(items, func(i Item) bool { return below(path, i.Name) }) && exists(path) {
			items = append(items, Item{Kind: File, Name: path, remove: remove})
		}
	}
	add := func(paths ...string) {
		for _, path := range paths {
			if s.isMount(path) && !slices.ContainsFunc(s.mounts, func(m mount) bool { return m.point == path && s.own(m) }) {
				for _, n := range s.names(path) { // a volume of the administrator
					child := filepath.Join(path, n)
					item(child, func(context.Context) error { return s.removeTree(child) })
				}
				continue
			}
			if s.removable(path) {
				item(path, func(context.Context) error { return s.removeTree(path) })
			}
		}
	}
	add(s.kubeletFiles()...)
	add(s.runtimeFiles()...)
	if s.installedHere() {
		add(etc)
		add(s.binaries()...)
		add(s.unitFiles()...)
	}
	add(also...)
	add(s.paths.Run)
	if files, whole := s.dataFiles(); whole {
		item(s.paths.Data, func(context.Context) error {
			var errs []error
			for _, f := range files {
				errs = append(errs, s.removeTree(f))
			}
			return errors.Join(append(errs, gone(os.Remove(s.paths.Data)))...)
		})
	} else {
		add(files...)
	}
	for _, link := range []string{s.given.Run, s.given.Data} { // that lead to them
		st, err := os.Lstat(link)
		if _, dangling := os.Stat(link); err == nil && st.Mode()&os.ModeSymlink != 0 && (s.present || dangling != nil) {
			item(link, func(context.Context) error { return gone(os.Remove(link)) })
		}
	}
	return items
}

// kubeletFiles are what the kubelet keeps outside the data dir.
func (s *survey) kubeletFiles() []string {
	if s.sole {
		return []string{s.paths.Kubelet(), s.paths.PodLogs(), logLinks}
	}
	var files []string
	for uid := range s.pods {
		files = append(files, filepath.Join(s.paths.Kubelet(), "pods", uid))
		logs, _ := filepath.Glob(filepath.Join(s.paths.PodLogs(), "*_"+uid))
		files = append(files, logs...)
		for _, n := range s.names(logLinks) {
			link := filepath.Join(logLinks, n)
			if target, err := os.Readlink(link); err == nil && strings.Contains(target, "_"+uid+"/") {
				files = append(files, link)
			}
		}
	}
	slices.Sort(files)
	return files
}

// runtimeFiles are what containerd, runc and the CNI library keep in places of their own. They bear the ids of containers
// or the name of the network; directories are taken only when nothing else is in them.
func (s *survey) runtimeFiles() []string {
	var files []string
	for _, b := range s.bundles {
		if b.shimSocket != "" && !below(b.shimSocket, s.paths.Run) && filepath.Base(filepath.Dir(b.shimSocket)) == "s" {
			files = append(files, b.shimSocket)
		}
	}
	for _, dir := range s.glob("/run/containerd/runc/*/*") {
		if s.containers[filepath.Base(dir)] {
			files = append(files, dir)
		}
	}
	for _, f := range s.glob("/var/lib/cni/results/*") {
		base := filepath.Base(f)
		id := strings.TrimPrefix(base, "cni-loopback-")
		if i := strings.LastIndexByte(id, '-'); i >= 0 {
			id = id[:i]
		}
		if strings.HasPrefix(base, cniNetwork+"-") || s.containers[id] {
			files = append(files, f)
		}
	}
	files = append(files, s.glob("/var/lib/cni/networks/"+cniNetwork)...)
	if s.sole || len(files) > 0 {
		files = append(files, s.emptied(files, "/run/containerd/s", "/run/containerd/fifo", "/run/containerd/runc/k8s.io", "/run/containerd/runc", "/run/containerd",
			"/var/lib/cni/results", "/var/lib/cni/networks", "/var/lib/cni")...)
	}
	return files
}

// emptied are the directories that hold nothing but what is in files or in directories that are emptied too.
func (s *survey) emptied(files []string, dirs ...string) []string {
	gone := slices.Clone(files)
	for _, dir := range dirs {
		if !isDir(s.path(dir)) {
			continue
		}
		if !slices.ContainsFunc(s.names(dir), func(n string) bool { return !slices.Contains(gone, filepath.Join(dir, n)) }) {
			gone = append(gone, dir)
		}
	}
	return gone[len(files):]
}

// installedHere reports whether what install.sh made belongs to this data dir.
func (s *survey) installedHere() bool {
	return s.given.Data == defaultData || !exists(defaultData)
}

const (
	systemdUnit = "/etc/systemd/system/edgebox.service"
	openrcUnit  = "/etc/init.d/edgebox"
)

func (s *survey) unitFiles() []string {
	files := []string{systemdUnit, openrcUnit, "/etc/conf.d/edgebox", "/etc/default/edgebox"}
	for _, pattern := range []string{
		"/etc/systemd/system/edgebox.service.*", "/etc/systemd/system/*.wants/edgebox.service", "/etc/runlevels/*/edgebox",
	} {
		files = append(files, s.glob(pattern)...)
	}
	return files
}

// binaries are the installed file, wherever the unit says that it is, and the symlinks to it beside it. Without a unit
// nobody installed edgebox: the file is a copy of the user's.
func (s *survey) binaries() []string {
	if !s.exists(systemdUnit) && !s.exists(openrcUnit) {
		return nil
	}
	var files []string
	for _, bin := range []string{"/usr/local/bin/edgebox", s.unitBinary()} {
		if bin == "" {
			continue
		}
		dir := filepath.Dir(bin)
		for _, n := range s.names(dir) {
			link := filepath.Join(dir, n)
			target, err := os.Readlink(link)
			if err != nil || link == bin {
				continue
			}
			if !filepath.IsAbs(target) {
				target = filepath.Join(dir, target)
			}
			if filepath.Clean(target) == bin {
				files = append(files, link)
			}
		}
		files = append(files, bin)
	}
	return files
}

func (s *survey) unitBinary() string {
	for line := range strings.Lines(s.read(systemdUnit)) {
		command, found := strings.CutPrefix(strings.TrimSpace(line), "ExecStart=")
		if !found {
			continue
		}
		if bin, _, _ := strings.Cut(strings.TrimLeft(command, "-@:+!"), " "); filepath.IsAbs(bin) && filepath.Base(bin) == "edgebox" {
			return filepath.Clean(bin)
		}
	}
	return ""
}
