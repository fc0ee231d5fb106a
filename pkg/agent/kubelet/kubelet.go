// Package kubelet adapts the kubelet to component.Component, and reports when its node is Ready. It is the only
// importer of the kubelet's packages.
//
// The kubelet owns /var/lib/kubelet, /var/log/pods and the cgroup kubepods.
package kubelet

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/kubernetes/cmd/kubelet/app"
	"k8s.io/kubernetes/cmd/kubelet/app/options"
	kubeletconfig "k8s.io/kubernetes/pkg/kubelet/apis/config"
	"k8s.io/kubernetes/pkg/kubelet/apis/config/validation"

	"github.com/edgebox/edgebox/pkg/component"
	"github.com/edgebox/edgebox/pkg/config"
	"github.com/edgebox/edgebox/pkg/upstream"
)

const readyPoll = 25 * time.Millisecond

// Identity is the files by which the node and the API server know each other.
type Identity struct {
	Kubeconfig  string // acts as system:node:NAME
	ClientCA    string // of those who may call the kubelet
	ServingCert string
	ServingKey  string
}

// Kubelet is the component.
type Kubelet struct {
	cfg    config.Config
	id     Identity
	server *options.KubeletServer
	health string // URL of its health check
}

// New returns the kubelet of a node.
func New(cfg config.Config, id Identity) *Kubelet { return &Kubelet{cfg: cfg, id: id} }

// Name implements component.Component.
func (k *Kubelet) Name() string { return "kubelet" }

// Prepare builds and validates the configuration.
func (k *Kubelet) Prepare(context.Context) error {
	if err := os.MkdirAll(k.cfg.Paths().StaticPods(), 0o700); err != nil {
		return err
	}
	conf, err := options.NewKubeletConfiguration()
	if err != nil {
		return err
	}
	k.configure(conf)
	flags := options.NewKubeletFlags()
	fs := upstream.FlagSet("kubelet", nil)
	flags.AddFlags(fs)
	options.AddKubeletConfigFlags(fs, conf)
	options.AddGlobalFlags(fs)
	own := map[string]string{
		"kubeconfig":        k.id.Kubeconfig,
		"root-dir":          k.cfg.Paths().Kubelet(),
		"hostname-override": k.cfg.NodeName,
		"node-ip":           joinAddrs(k.cfg.NodeIP),
	}
	if len(k.cfg.NodeLabel) > 0 {
		own["node-labels"] = strings.Join(k.cfg.NodeLabel, ",")
	}
	if len(k.cfg.NodeTaint) > 0 {
		own["register-with-taints"] = strings.Join(k.cfg.NodeTaint, ",")
	}
	if err := upstream.Parse("kubelet", fs, own, k.cfg.KubeletArg); err != nil {
		return err
	}
	if conf.HealthzPort == 0 {
		return errors.New("kubelet-arg: healthz-port=0 would hide from edgebox whether the kubelet is healthy: give it another port")
	}
	k.health = "http://" + net.JoinHostPort(conf.HealthzBindAddress, strconv.Itoa(int(conf.HealthzPort))) + "/healthz"
	if err := utilfeature.DefaultMutableFeatureGate.SetFromMap(conf.FeatureGates); err != nil {
		return fmt.Errorf("kubelet-arg: %w", err)
	}
	if err := validation.ValidateKubeletConfiguration(conf, utilfeature.DefaultFeatureGate); err != nil {
		return fmt.Errorf("kubelet-arg: %w", err)
	}
	k.server = &options.KubeletServer{KubeletFlags: *flags, KubeletConfiguration: *conf}
	return options.ValidateKubeletServer(k.server)
}

// configure sets what differs from the kubelet's defaults.
func (k *Kubelet) configure(c *kubeletconfig.KubeletConfiguration) {
	paths := k.cfg.Paths()
	c.ContainerRuntimeEndpoint = "unix://" + paths.ContainerdSocket()
	c.CgroupDriver = "cgroupfs"
	c.FailCgroupV1 = false
	c.FailSwapOn = false
	c.MakeIPTablesUtilChains = false
	c.StaticPodPath = paths.StaticPods()
	c.VolumePluginDir = paths.VolumePlugins()
	c.ClusterDomain = k.cfg.ClusterDomain
	c.ResolverConfig = resolvConf(resolvConfs)
	for _, a := range k.cfg.ClusterDNS {
		c.ClusterDNS = append(c.ClusterDNS, a.String())
	}
	c.Authentication.Anonymous.Enabled = false
	c.Authentication.Webhook.Enabled = true
	c.Authentication.X509.ClientCAFile = k.id.ClientCA
	c.ReadOnlyPort = 0
	c.Authorization.Mode = kubeletconfig.KubeletAuthorizationModeWebhook
	c.TLSCertFile = k.id.ServingCert
	c.TLSPrivateKeyFile = k.id.ServingKey
	// Percentages of a small disk are all that a small box has.
	c.EvictionHard = map[string]string{"memory.available": "100Mi", "nodefs.available": "5%", "imagefs.available": "5%", "nodefs.inodesFree": "5%", "imagefs.inodesFree": "5%"}
	c.EvictionMinimumReclaim = map[string]string{"nodefs.available": "10%", "imagefs.available": "10%"}
	if !may(unix.CAP_SYS_RESOURCE) { // what would be refused, and be an error every five minutes
		c.OOMScoreAdj = max(c.OOMScoreAdj, oomScoreAdj())
		c.MaxOpenFiles = min(c.MaxOpenFiles, openFilesLimit())
	}
	c.SerializeImagePulls = false
	maxPulls := int32(3)
	c.MaxParallelImagePulls = &maxPulls
}

// Run starts the kubelet. It is ready when its health check passes; the node may not be Ready then, since that needs
// the network, which needs the node.
func (k *Kubelet) Run(ctx context.Context, ready func()) error {
	ctx = upstream.Named(ctx, k.Name())
	deps, err := app.UnsecuredDependencies(ctx, k.server, utilfeature.DefaultFeatureGate)
	if err != nil {
		return err
	}
	go func() {
		if component.Poll(ctx, "its health check", readyPoll, k.Check) != nil {
			return
		}
		ready()
		if k.cfg.Role == config.Server {
			keepCSI(ctx)
		}
	}()
	return app.Run(ctx, k.server, deps, utilfeature.DefaultFeatureGate)
}

// Check asks the kubelet's own health check.
func (k *Kubelet) Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, k.health, nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", k.health, res.Status)
	}
	return nil
}

func joinAddrs(addrs []netip.Addr) string {
	s := make([]string, len(addrs))
	for i, a := range addrs {
		s[i] = a.String()
	}
	return strings.Join(s, ",")
}

// may reports whether this process has a capability.
func may(capability int) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	err := unix.Capget(&header, &data[0])
	return err == nil && data[capability/32].Effective&(1<<(capability%32)) != 0
}

// oomScoreAdj is how much the OOM killer spares this process, 0 if that cannot be read.
func oomScoreAdj() int32 {
	text, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return 0
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 32)
	if err != nil {
		return 0
	}
	return int32(n)
}

// openFilesLimit is the most that this process can set.
func openFilesLimit() int64 {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return math.MaxInt64
	}
	return int64(min(limit.Max, math.MaxInt64))
}
