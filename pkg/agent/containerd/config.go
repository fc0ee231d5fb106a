package containerd

import (
	"bytes"
	"path/filepath"
	"text/template"

	"golang.org/x/sys/unix"

	"github.com/edgebox/edgebox/pkg/config"
)

// PauseImage is the sandbox image. edgebox makes it from a program in its payload; no registry has it.
const PauseImage = "edgebox.internal/pause:1"

// configTemplate is containerd's configuration. What users want to add goes to /etc/edgebox/containerd.d.
var configTemplate = template.Must(template.New("containerd.toml").Parse(`# Written by edgebox at each start. Put changes into {{.Imports}}.
version = 4
root = {{.Root | printf "%q"}}
state = {{.State | printf "%q"}}
imports = [{{.Imports | printf "%q"}}]
# etcd registers the same collector in this process, and containerd takes that for a bug.
disabled_plugins = ["io.containerd.metrics.v1.grpc-prometheus"]
required_plugins = [
  "io.containerd.snapshotter.v1.overlayfs",
  "io.containerd.cri.v1.images",
  "io.containerd.cri.v1.runtime",
  "io.containerd.grpc.v1.cri",
  "io.edgebox.client.v1.client",
]

[plugins."io.containerd.server.v1.grpc"]
address = {{.Socket | printf "%q"}}

[plugins."io.containerd.server.v1.ttrpc"]
address = {{.Socket | printf "%s.ttrpc" | printf "%q"}}

[plugins."io.containerd.shim.v1.manager"]
socket_dir = {{.ShimSockets | printf "%q"}}

[plugins."io.containerd.nri.v1.nri"]
disable = true

[plugins."io.containerd.cri.v1.images"]
snapshotter = "overlayfs"
image_pull_with_sync_fs = true
stats_collect_period = 60

[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = {{.Pause | printf "%q"}}

[plugins."io.containerd.cri.v1.images".registry]
config_path = {{.Registries | printf "%q"}}

[plugins."io.containerd.cri.v1.runtime"]
enable_unprivileged_icmp = true
enable_unprivileged_ports = true
netns_mounts_under_state_dir = true
restrict_oom_score_adj = {{.RestrictOOMScoreAdj}}
stats_collect_period = "10s"
enable_criu = false

[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = [{{.Helpers | printf "%q"}}, "/opt/cni/bin"]
conf_dir = {{.CNIConf | printf "%q"}}
use_internal_loopback = true

[plugins."io.containerd.cri.v1.runtime".containerd]
default_runtime_name = "runc"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
runtime_path = {{.Shim | printf "%q"}}

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = {{.Runc | printf "%q"}}
Root = {{.RuncRoot | printf "%q"}}
SystemdCgroup = false
`))

func render(p config.Paths, canLowerOOMScore bool) []byte {
	var b bytes.Buffer
	if err := configTemplate.Execute(&b, map[string]any{
		"Imports":             filepath.Join(p.ContainerdDropIns(), "*.toml"),
		"Root":                p.Containerd(),
		"State":               p.ContainerdRun(),
		"Socket":              p.ContainerdSocket(),
		"Pause":               PauseImage,
		"Registries":          p.RegistryHosts(),
		"RestrictOOMScoreAdj": !canLowerOOMScore,
		"Helpers":             p.Helpers(),
		"CNIConf":             p.CNIConf(),
		"ShimSockets":         p.ShimSockets(),
		"RuncRoot":            p.Runc(),
		"Shim":                filepath.Join(p.Helpers(), "containerd-shim-runc-v2"),
		"Runc":                filepath.Join(p.Helpers(), "runc"),
	}); err != nil {
		panic(err) // the template and its data are both fixed
	}
	return b.Bytes()
}

// canLowerOOMScore reports whether the process may lower a child's oom_score_adj. Without CAP_SYS_RESOURCE, as in some
// containers and VMs, runc fails on every pod that asks for it.
func canLowerOOMScore() bool {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return false
	}
	return data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0
}
