package config

import "path/filepath"

// Paths names every file, directory and socket that edgebox makes. Nothing else in the tree spells a path.
type Paths struct {
	Data string // state that must survive a reboot
	Run  string // state of this boot; a tmpfs on most hosts
}

func (p Paths) data(elem ...string) string {
	return filepath.Join(append([]string{p.Data}, elem...)...)
}
func (p Paths) run(elem ...string) string { return filepath.Join(append([]string{p.Run}, elem...)...) }

// Of the node as a whole.

func (p Paths) Lock() string           { return p.data("lock") }                   // held while edgebox runs
func (p Paths) Bin() string            { return p.data("bin") }                    // unpacked payloads, one folder per content hash
func (p Paths) Helpers() string        { return p.data("bin", "current") }         // the payload in use: runc, shim, CNI plugins, nft
func (p Paths) Token() string          { return p.data("server", "token") }        // join token
func (p Paths) ServerToken() string    { return p.data("server", "server-token") } // by which others become servers
func (p Paths) ServerSettings() string { return p.data("server", "cluster.json") } // of the cluster that this server has joined
func (p Paths) AdminSocket() string    { return p.run("edgebox.sock") }            // HTTP API of `edgebox status`, `images` …
func (p Paths) PKI() string            { return p.data("server", "pki") }          // CAs and the leaves of the control plane

// Kubeconfig is that of a control plane component, named after its certificate, or of the administrator.
func (p Paths) Kubeconfig(leaf string) string {
	return p.data("server", "kubeconfig", leaf+".kubeconfig")
}

// Of an agent's membership.

func (p Paths) AgentPKI() string    { return p.data("agent", "pki") }          // keys, certificates and CAs of the node
func (p Paths) Cluster() string     { return p.data("agent", "cluster.json") } // what is remembered of the cluster
func (p Paths) Servers() string     { return p.data("agent", "servers.json") } // where its API can be reached
func (p Paths) MachineSeed() string { return p.data("machine-seed") }          // identity of a machine without /etc/machine-id

// Of the datastore.

func (p Paths) DB() string              { return p.data("server", "db", "state.db") } // everything but leases and events
func (p Paths) VolatileDB() string      { return p.run("db", "volatile.db") }         // leases and events: ADR 0003
func (p Paths) Etcd() string            { return p.data("server", "db", "etcd") }     // of a member of an etcd cluster
func (p Paths) DatastoreSocket() string { return p.run("kine.sock") }
func (p Paths) VolatileSocket() string  { return p.run("kine-volatile.sock") }

// Of the node's agent.

func (p Paths) KubeletConfig() string    { return p.data("agent", "kubelet.kubeconfig") } // identity of all node components
func (p Paths) Kubelet() string          { return "/var/lib/kubelet" }                    // where CSI drivers and device plugins expect it
func (p Paths) PodLogs() string          { return "/var/log/pods" }
func (p Paths) Containerd() string       { return p.data("agent", "containerd") }
func (p Paths) ContainerdRun() string    { return p.run("containerd") }
func (p Paths) ContainerdSocket() string { return p.run("containerd", "containerd.sock") }
func (p Paths) CNIConf() string          { return p.data("agent", "cni", "net.d") }
func (p Paths) CNIState() string         { return p.run("cni") }                // addresses in use; they end with the pods at a reboot
func (p Paths) SharedMounts() string     { return p.run("shared-mounts.json") } // mount points that were private before edgebox
func (p Paths) FlannelSubnet() string    { return p.run("flannel", "subnet.env") }
func (p Paths) WireGuardKey() string     { return p.data("agent", "wireguard.key") } // of this node, if that is the network

// ContainerdConfig is rendered at each start; ContainerdDropIns holds what the user adds to it.
func (p Paths) ContainerdConfig() string  { return p.data("agent", "containerd.toml") }
func (p Paths) ContainerdDropIns() string { return "/etc/edgebox/containerd.d" }
func (p Paths) RegistryHosts() string     { return p.data("agent", "registry") }      // hosts.toml of each registry
func (p Paths) StaticPods() string        { return p.data("agent", "pod-manifests") } // run by the kubelet, also without an API server
func (p Paths) EgressSocket() string      { return p.run("egress.sock") }             // by which the API server reaches nodes and pods
func (p Paths) EgressConfig() string      { return p.run("egress.yaml") }
func (p Paths) ProxyConfig() string       { return p.run("kube-proxy.yaml") }     // the effective configuration
func (p Paths) SchedulerConfig() string   { return p.run("kube-scheduler.yaml") } // the user's, if any, with edgebox's identity

// Version holds the version of the edgebox that last used the data dir. The node writes it, once it has the lock.
func (p Paths) Version() string { return p.data("version") }

// RunConfig is the configuration of the node that was started last, as JSON: what commands that get no flags act on.
func (p Paths) RunConfig() string { return p.run("config.json") }

// What the user writes; see also Config.WriteKubeconfig.
func (p Paths) ConfigFile() string    { return DefaultFile }
func (p Paths) ConfigDir() string     { return DefaultFile + ".d" }                // *.yaml on top of ConfigFile
func (p Paths) VolumePlugins() string { return p.data("agent", "volume-plugins") } // flexvolume drivers
func (p Paths) Runc() string          { return p.run("runc") }                     // state of its containers
func (p Paths) ShimSockets() string   { return p.run("containerd", "s") }
func (p Paths) KubectlCache() string  { return p.run("kubectl") } // what root's `edgebox kubectl` has learnt of the API
