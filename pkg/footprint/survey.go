package footprint

import (
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/edgebox/edgebox/pkg/config"
)

// survey is the evidence that one look at the host gives.
type survey struct {
	*host
	paths config.Paths // with symlinks resolved, as the kernel shows them
	given config.Paths

	procs   map[int]proc
	bundles []bundle
	mounts  []mount
	fstab   []string // mount points of the administrator

	containers map[string]bool // ids of edgebox's containers and sandboxes
	pods       map[string]bool // UIDs of edgebox's pods
	subnets    subnets

	present bool // edgebox has state, or a process, on this host
	sole    bool // present, and no other Kubernetes was installed: shared names are edgebox's
	network bool // shared names of the network are edgebox's

	errs []error
}

// bundle is what containerd keeps of a container while it exists (io.containerd.runtime.v2.task/NAMESPACE/ID).
type bundle struct {
	id, dir    string
	pod        bool   // of a pod, not of the engine
	podUID     string // known for sandboxes
	netns      string
	cgroup     string // within each hierarchy, for the cgroupfs driver
	shimSocket string
}

// subnets is flannel's subnet file: the cluster's networks, and this node's part of them with the bridge's address.
type subnets struct {
	networks []netip.Prefix
	own      []netip.Prefix
}

// foreign are the marks of other distributions that use the same names for cgroups, links, tables and directories.
var foreign = []string{
	"/var/lib/rancher/k3s", "/var/lib/rancher/rke2", "/var/lib/k0s", "/var/snap/microk8s/current",
	"/etc/kubernetes/kubelet.conf", "/etc/kubernetes/manifests/kube-apiserver.yaml", "/var/lib/kubelet/config.yaml",
}

// foreignDaemons are theirs, by /proc/PID/comm.
var foreignDaemons = []string{"kubelet", "kube-proxy", "flanneld", "k3s", "k3s-server", "k3s-agent", "k0s", "rke2", "kubelite"}

func (h *host) survey(p config.Paths) *survey {
	s := &survey{host: h, paths: config.Paths{Data: resolve(p.Data), Run: resolve(p.Run)}, given: p, containers: map[string]bool{}, pods: map[string]bool{}}
	s.procs = s.readProcs()
	s.readMounts()
	s.readBundles()
	s.subnets = parseSubnets(s.readOwn(s.paths.FlannelSubnet()))
	s.classify()

	data, _ := s.dataFiles()
	s.present = len(data) > 0 || exists(p.Run) || slices.ContainsFunc(s.sorted(), func(p proc) bool { return p.role != "" })
	s.sole = s.present && !slices.ContainsFunc(foreign, s.exists) && !s.foreignRuns()
	// After another distribution was stopped, tables and links with shared names are of the last one that ran; flannel's
	// subnet file in the runtime directory says that it was edgebox.
	s.network = s.sole || len(s.subnets.own) > 0 && !s.foreignRuns()
	s.classifyByCgroup()
	return s
}

func resolve(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	return filepath.Clean(path)
}

// foreignRuns looks for daemons of others on this host; those in containers have a pid namespace of their own.
func (s *survey) foreignRuns() bool {
	here := s.readlink("/proc/" + strconv.Itoa(s.self) + "/ns/pid")
	return slices.ContainsFunc(s.sorted(), func(p proc) bool {
		return p.role == "" && slices.Contains(foreignDaemons, p.comm) && !strings.Contains(p.cgroup, "kubepods") &&
			s.readlink("/proc/"+strconv.Itoa(p.pid)+"/ns/pid") == here
	})
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// readOwn reads a file of edgebox.
func (s *survey) readOwn(path string) string {
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.errs = append(s.errs, err)
	}
	return string(b)
}

func (s *survey) readBundles() {
	configs, _ := filepath.Glob(filepath.Join(s.paths.ContainerdRun(), "io.containerd.runtime.v2.task", "*", "*", "config.json"))
	for _, c := range configs {
		b := parseBundle([]byte(s.readOwn(c)))
		b.dir = filepath.Dir(c)
		b.id = filepath.Base(b.dir)
		b.shimSocket = s.shimSocket(b.dir)
		s.bundles = append(s.bundles, b)
		s.containers[b.id] = true
		if b.podUID != "" {
			s.pods[b.podUID] = true
		}
	}
	// The IPAM plugin host-local keeps a file per address, with the sandbox's id in its first line.
	leases, _ := filepath.Glob(filepath.Join(s.paths.CNIState(), "*", "*"))
	deeper, _ := filepath.Glob(filepath.Join(s.paths.CNIState(), "*", "*", "*"))
	for _, l := range slices.Concat(leases, deeper) {
		if _, err := netip.ParseAddr(filepath.Base(l)); err != nil {
			continue
		}
		if id, _, _ := strings.Cut(s.readOwn(l), "\n"); strings.TrimSpace(id) != "" {
			s.containers[strings.TrimSpace(id)] = true
		}
	}
	sandboxes, _ := filepath.Glob(filepath.Join(s.paths.Containerd(), "io.containerd.grpc.v1.cri", "*", "*"))
	for _, d := range sandboxes {
		s.containers[filepath.Base(d)] = true
	}
}

// parseBundle reads the fields of an OCI runtime configuration that matter here. A broken one gives none.
func parseBundle(data []byte) bundle {
	var spec struct {
		Annotations map[string]string
		Linux       struct {
			CgroupsPath string
			Namespaces  []struct{ Type, Path string }
		}
	}
	if json.Unmarshal(data, &spec) != nil {
		return bundle{}
	}
	b := bundle{
		pod:    spec.Annotations["io.kubernetes.cri.container-type"] != "",
		podUID: spec.Annotations["io.kubernetes.cri.sandbox-uid"],
	}
	if strings.HasPrefix(spec.Linux.CgroupsPath, "/") { // else the systemd driver's SLICE:PREFIX:NAME
		b.cgroup = filepath.Clean(spec.Linux.CgroupsPath)
	}
	for _, ns := range spec.Linux.Namespaces {
		if ns.Type == "network" {
			b.netns = ns.Path
		}
	}
	return b
}

// shimSocket reads the shim's address from the bundle, where containerd finds it after a restart.
func (s *survey) shimSocket(dir string) string {
	var params struct {
		Address string `json:"address"`
	}
	address := s.readOwn(filepath.Join(dir, "address"))
	if json.Unmarshal([]byte(s.readOwn(filepath.Join(dir, "bootstrap.json"))), &params) == nil && params.Address != "" {
		address = params.Address
	}
	path, isUnix := strings.CutPrefix(strings.TrimSpace(address), "unix://")
	if !isUnix {
		return ""
	}
	return filepath.Clean(path)
}

func parseSubnets(file string) subnets {
	var s subnets
	for line := range strings.Lines(file) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		for _, v := range strings.Split(value, ",") {
			p, err := netip.ParsePrefix(v)
			if err != nil {
				continue
			}
			switch key {
			case "FLANNEL_NETWORK", "FLANNEL_IPV6_NETWORK":
				s.networks = append(s.networks, p.Masked())
			case "FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET":
				s.own = append(s.own, p)
			}
		}
	}
	return s
}
