package kubelet

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	kubeletconfig "k8s.io/kubernetes/pkg/kubelet/apis/config"

	"github.com/edgebox/edgebox/pkg/config"
)

func newKubelet(t *testing.T, change func(*config.Config)) *Kubelet {
	t.Helper()
	cfg := config.Defaults()
	cfg.DataDir = t.TempDir()
	cfg.NodeName = "box"
	cfg.NodeIP = []netip.Addr{netip.MustParseAddr("192.0.2.7")}
	cfg.ClusterDNS = []netip.Addr{netip.MustParseAddr("10.43.0.10")}
	if change != nil {
		change(&cfg)
	}
	return New(cfg, Identity{Kubeconfig: "/k", ClientCA: "/ca.crt", ServingCert: "/s.crt", ServingKey: "/s.key"})
}

// TestPrepare shows what the kubelet makes of a default configuration.
func TestPrepare(t *testing.T) {
	k := newKubelet(t, nil)
	if err := k.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	c, paths := k.server.KubeletConfiguration, k.cfg.Paths()
	for what, ok := range map[string]bool{
		"anonymous requests are refused":     !c.Authentication.Anonymous.Enabled,
		"tokens are verified by the API":     c.Authentication.Webhook.Enabled,
		"client certificates are verified":   c.Authentication.X509.ClientCAFile == "/ca.crt",
		"the API says what is allowed":       c.Authorization.Mode == kubeletconfig.KubeletAuthorizationModeWebhook,
		"there is no read-only port":         c.ReadOnlyPort == 0,
		"its own certificate is used":        c.TLSCertFile == "/s.crt" && c.TLSPrivateKeyFile == "/s.key",
		"health is for this host alone":      c.HealthzBindAddress == "127.0.0.1" && k.health == "http://127.0.0.1:10248/healthz",
		"cgroup v1 is allowed":               !c.FailCgroupV1,
		"swap is allowed":                    !c.FailSwapOn,
		"iptables are left alone":            !c.MakeIPTablesUtilChains,
		"cgroups are made by runc":           c.CgroupDriver == "cgroupfs",
		"it speaks to our containerd":        c.ContainerRuntimeEndpoint == "unix://"+paths.ContainerdSocket(),
		"pods use cluster DNS":               slices.Equal(c.ClusterDNS, []string{"10.43.0.10"}) && c.ClusterDomain == "cluster.local",
		"a file with DNS servers is there":   c.ResolverConfig == resolvConf(resolvConfs),
		"static pods come from the data dir": c.StaticPodPath == paths.StaticPods(),
		"the root dir is the usual one":      k.server.RootDirectory == "/var/lib/kubelet",
		"the node has its name and address":  k.server.HostnameOverride == "box" && k.server.NodeIP == "192.0.2.7",
		"it acts as the node":                k.server.KubeConfig == "/k",
	} {
		if !ok {
			t.Errorf("not so: %s", what)
		}
	}
	if fi, err := os.Stat(paths.StaticPods()); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("folder of static pods: %v, %v", fi, err)
	}
}

func TestArguments(t *testing.T) {
	k := newKubelet(t, func(c *config.Config) {
		c.NodeIP = append(c.NodeIP, netip.MustParseAddr("2001:db8::7"))
		c.NodeLabel = []string{"rack=cellar", "disk=ssd"}
		c.NodeTaint = []string{"edge=true:NoSchedule"}
		c.KubeletArg = []string{"max-pods=60", "healthz-port=11248", "eviction-hard=memory.available<50Mi"}
	})
	if err := k.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := k.server
	if s.NodeIP != "192.0.2.7,2001:db8::7" || s.NodeLabels["rack"] != "cellar" || s.NodeLabels["disk"] != "ssd" {
		t.Errorf("address %s, labels %v", s.NodeIP, s.NodeLabels)
	}
	if len(s.RegisterWithTaints) != 1 || s.RegisterWithTaints[0].Effect != "NoSchedule" || s.RegisterWithTaints[0].Key != "edge" {
		t.Errorf("taints %v", s.RegisterWithTaints)
	}
	if s.MaxPods != 60 || s.EvictionHard["memory.available"] != "50Mi" {
		t.Errorf("max pods %d, eviction %v", s.MaxPods, s.EvictionHard)
	}
	if k.health != "http://127.0.0.1:11248/healthz" {
		t.Errorf("health check at %s", k.health)
	}
}

func TestBadArguments(t *testing.T) {
	for arg, want := range map[string]string{
		"max-pod=60":         "kubelet-arg: kubelet has no flag --max-pod",
		"max-pods=many":      `kubelet-arg: invalid argument "many" for "--max-pods" flag`,
		"max-pods":           "kubelet-arg: --max-pods needs a value: write max-pods=VALUE",
		"max-pods=-1":        "kubelet-arg: invalid configuration: maxPods (--max-pods) -1 must not be a negative number",
		"feature-gates=X=on": `kubelet-arg: invalid argument "X=on" for "--feature-gates" flag`,
		"node-ip=10.0.0.1":   "kubelet-arg: node-ip is set by edgebox",
		"healthz-port=0":     "kubelet-arg: healthz-port=0 would hide",
	} {
		k := newKubelet(t, func(c *config.Config) { c.KubeletArg = []string{arg} })
		if err := k.Prepare(t.Context()); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: the error is %v, want %q", arg, err, want)
		}
	}
	k := newKubelet(t, func(c *config.Config) { c.NodeLabel = []string{"node-role.kubernetes.io/x=1"} })
	if err := k.Prepare(t.Context()); err == nil || !strings.Contains(err.Error(), "--node-labels") {
		t.Errorf("a label that the API server would refuse: %v", err)
	}
}

// TestWithoutCapability: the kubelet does not ask for what the kernel would refuse.
func TestWithoutCapability(t *testing.T) {
	for _, drop := range []bool{false, true} {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestAsked$", "-test.v")
		cmd.Env = append(os.Environ(), "ASKED=1")
		if drop {
			cmd.Env = append(cmd.Env, "DROP=1")
		}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
}

// TestAsked runs in a process of its own, with or without the capability.
func TestAsked(t *testing.T) {
	if os.Getenv("ASKED") == "" {
		t.Skip("run by TestWithoutCapability")
	}
	runtime.LockOSThread() // capabilities are a thread's
	if os.Getenv("DROP") != "" {
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		if err := unix.Capget(&header, &data[0]); err != nil {
			t.Fatal(err)
		}
		data[0].Effective &^= 1 << unix.CAP_SYS_RESOURCE
		if err := unix.Capset(&header, &data[0]); err != nil {
			t.Fatal(err)
		}
	}
	k := newKubelet(t, nil)
	if err := k.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	err := os.WriteFile("/proc/thread-self/oom_score_adj", fmt.Append(nil, k.server.OOMScoreAdj), 0)
	if err != nil {
		t.Errorf("OOM score %d: %v", k.server.OOMScoreAdj, err)
	}
	limit := unix.Rlimit{Cur: uint64(k.server.MaxOpenFiles), Max: uint64(k.server.MaxOpenFiles)}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Errorf("%d open files: %v", k.server.MaxOpenFiles, err)
	}
	if may(unix.CAP_SYS_RESOURCE) && k.server.OOMScoreAdj != -999 {
		t.Errorf("OOM score %d although it could be lower", k.server.OOMScoreAdj)
	}
}

func TestRefusedArgumentsExist(t *testing.T) {
	for name := range config.FixedArguments("kubelet-arg") {
		k := newKubelet(t, func(c *config.Config) { c.KubeletArg = []string{name + "=x"} })
		if err := k.Prepare(t.Context()); err != nil && strings.Contains(err.Error(), "has no flag") {
			t.Error(err)
		}
	}
}

func TestUnwritable(t *testing.T) {
	k := newKubelet(t, func(c *config.Config) {
		file := filepath.Join(c.DataDir, "file")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		c.DataDir = file
	})
	if err := k.Prepare(t.Context()); err == nil {
		t.Error("no error")
	}
}

func TestCheck(t *testing.T) {
	status := http.StatusOK
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
	defer srv.Close()
	k := &Kubelet{health: srv.URL + "/healthz"}
	if err := k.Check(t.Context()); err != nil {
		t.Error(err)
	}
	status = http.StatusInternalServerError
	if err := k.Check(t.Context()); err == nil || err.Error() != k.health+": 500 Internal Server Error" {
		t.Errorf("the error is %v", err)
	}
}

func TestNodeCheck(t *testing.T) {
	ready := func(status corev1.ConditionStatus) []corev1.NodeCondition {
		return []corev1.NodeCondition{
			{Type: corev1.NodeMemoryPressure, Status: corev1.ConditionTrue, Reason: "other", Message: "condition"},
			{Type: corev1.NodeReady, Status: status, Reason: "KubeletNotReady", Message: "cni plugin not initialized"},
		}
	}
	for name, tt := range map[string]struct {
		conditions []corev1.NodeCondition
		want       string
	}{
		"ready":   {ready(corev1.ConditionTrue), ""},
		"not":     {ready(corev1.ConditionFalse), "KubeletNotReady: cni plugin not initialized"},
		"unknown": {ready(corev1.ConditionUnknown), "KubeletNotReady: cni plugin not initialized"},
		"new":     {nil, "the kubelet has not reported yet"},
	} {
		n := &Node{name: "box", client: fake.NewClientset(&corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: "box"}, Status: corev1.NodeStatus{Conditions: tt.conditions}})}
		if err := n.Check(t.Context()); err == nil && tt.want != "" || err != nil && err.Error() != tt.want {
			t.Errorf("%s: the error is %v, want %q", name, err, tt.want)
		}
	}
	if err := (&Node{name: "gone", client: fake.NewClientset()}).Check(t.Context()); err == nil {
		t.Error("no error about a node that is not there")
	}
}
