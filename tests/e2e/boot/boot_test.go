// Package boot shows that edgebox boots from nothing but a kernel, and as its configuration says.
package boot

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/edgebox/edgebox/tests/framework"
)

func TestMain(m *testing.M) { framework.Main(m) }

// No default route, no DNS server, no package that others need, and no image beforehand.
func TestBootsFromNothing(t *testing.T) {
	t.Parallel()
	framework.NeedEdgebox(t)
	h := framework.NewHost(t, framework.Options{})
	for _, tool := range []string{"nft", "iptables", "containerd", "containerd-shim-runc-v2", "runc", "bridge", "host-local", "kubectl"} {
		if _, err := h.Run(t.Context(), "which", tool); err == nil {
			t.Fatalf("the host has %s", tool)
		}
	}
	if routes := h.Shell(t, "ip route | grep default || true"); routes != "" {
		t.Fatalf("the host has a default route: %s", routes)
	}
	h.Up(t)
	images, err := framework.Images()
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Import(t.Context(), images...); err != nil {
		t.Fatal(err)
	}
	n := h.Namespace(t)
	n.Client()
	if pods := n.Kubectl("get", "pods", "-A", "-o", "name"); pods != "pod/client" {
		t.Errorf("a fresh cluster runs pods of its own: %s", pods)
	}

	// Nothing that only root should read can be read by others.
	open := h.Shell(t, `find /etc/edgebox /var/lib/edgebox/server \( -name '*.key' -o -name '*kubeconfig*' -o -name token \) -type f -perm /077`)
	if open != "" {
		t.Errorf("files with secrets that others may read: %s", open)
	}
	// One process beside those that the pod needs.
	for p := range strings.Lines(h.Shell(t, "ps -o comm,args")) {
		name, _, _ := strings.Cut(strings.TrimSpace(p), " ")
		switch name {
		case "containerd", "kubelet", "kube-apiserver", "etcd", "kine", "coredns", "flanneld":
			t.Errorf("process of its own: %s", p)
		}
	}
	if err := h.Stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
}

func TestControlPlaneAlone(t *testing.T) {
	t.Parallel()
	framework.NeedEdgebox(t)
	h := framework.NewHost(t, framework.Options{})
	if err := h.Start("--disable-agent"); err != nil {
		t.Fatal(err)
	}
	if err := h.WaitAPI(t.Context()); err != nil {
		t.Fatal(err)
	}
	n := h.Namespace(t)
	n.Kubectl("create", "configmap", "works")
	if nodes := n.Kubectl("get", "nodes", "-o", "name"); nodes != "" {
		t.Errorf("nodes: %s", nodes)
	}
	if links := h.Shell(t, "ls /sys/class/net"); strings.Contains(links, "flannel") || strings.Contains(links, "cni") {
		t.Errorf("links of an agent: %s", links)
	}
	if err := h.Stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
}

func TestConfigurationFromFileEnvironmentAndFlags(t *testing.T) {
	t.Parallel()
	framework.NeedEdgebox(t)
	h := framework.NewHost(t, framework.Options{Name: "configured"})
	files := map[string]string{
		"/etc/edgebox/config.yaml": `
node-label: [from=file]
https-listen-port: 7443
cluster-cidr: 10.142.0.0/16
service-cidr: 10.143.0.0/16
cluster-domain: example.test
disable: dns
kube-apiserver-arg: event-ttl=10m
`,
		"/etc/edgebox/config.yaml.d/10-more.yaml": "node-label+: [more=file]\nhttps-listen-port: 8443\n",
	}
	for path, content := range files {
		if err := h.WriteFile(path, content); err != nil {
			t.Fatal(err)
		}
	}
	err := h.StartCommand("env", "EDGEBOX_HTTPS_LISTEN_PORT=9443", "EDGEBOX_NODE_TAINT=from=env:PreferNoSchedule",
		framework.Binary, "server", "--https-listen-port=6444", "--write-kubeconfig-mode=0644", "--tls-san=box.example.test")
	if err != nil {
		t.Fatal(err)
	}
	if err := h.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	n := h.Namespace(t)
	for _, c := range []struct{ what, got, want string }{
		{"server", n.Kubectl("config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}"), "https://127.0.0.1:6444"},
		{"labels", n.Get("node/configured", "{.metadata.labels.from} {.metadata.labels.more}"), "file file"},
		{"taint", n.Get("node/configured", "{.spec.taints[*].key}={.spec.taints[*].value}"), "from=env"},
		{"pod CIDR", n.Get("node/configured", "{.spec.podCIDR}"), "10.142.0.0/24"},
		{"API's address", n.Kubectl("get", "service", "kubernetes", "-n", "default", "-o", "jsonpath={.spec.clusterIP}"), "10.143.0.1"},
		{"DNS service", n.Kubectl("get", "services", "-n", "kube-system", "-o", "name"), ""},
		{"kubeconfig's mode", h.Shell(t, "stat -c %a "+framework.Kubeconfig), "644"},
	} {
		if c.got != c.want {
			t.Errorf("%s: %q, want %q", c.what, c.got, c.want)
		}
	}
	// The name is on the certificate.
	h.Shell(t, "echo 127.0.0.1 box.example.test >>/etc/hosts")
	n.Kubectl("--server=https://box.example.test:6444", "get", "nodes")
}

// An operator's own CA is used as it is.
func TestOwnCertificateAuthority(t *testing.T) {
	t.Parallel()
	framework.NeedEdgebox(t)
	h := framework.NewHost(t, framework.Options{})
	cert, key := framework.NewCA(t, "the operator's own", time.Now().Add(100*24*time.Hour))
	const dir = "/var/lib/edgebox/server/pki/"
	if err := h.WriteFile(dir+"server-ca.crt", cert); err != nil {
		t.Fatal(err)
	}
	if err := h.WriteFile(dir+"server-ca.key", key); err != nil {
		t.Fatal(err)
	}
	h.Up(t)
	for file, want := range map[string]string{"server-ca.crt": cert, "server-ca.key": key} {
		if got, err := os.ReadFile(h.File(dir + file)); err != nil || string(got) != want {
			t.Errorf("%s was changed (%v)", file, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	kubeconfig, err := h.Kubectl(ctx, "config", "view", "--raw", "-o", "jsonpath={.clusters[0].cluster.certificate-authority-data}")
	if err != nil {
		t.Fatal(err)
	}
	if got := h.Shell(t, "echo "+kubeconfig+" | base64 -d"); got != strings.TrimSpace(cert) {
		t.Errorf("the kubeconfig trusts another CA:\n%s", got)
	}
	// An API client that trusts this CA alone gets through, to the kubelet's serving certificate too.
	n := h.Namespace(t)
	n.Kubectl("get", "--raw", "/api/v1/nodes/"+h.Name+"/proxy/healthz")
}

func TestHostGatewayBackend(t *testing.T) {
	t.Parallel()
	h := framework.Cluster(t, "--flannel-backend=host-gw")
	if links := h.Shell(t, "ls /sys/class/net"); strings.Contains(links, "flannel") {
		t.Errorf("links %s", links)
	}
	n := h.Namespace(t)
	n.Client()
	n.Kubectl("run", "web", "--image=web:1")
	n.WaitFor("pod/web", "Ready")
	n.WantPage("http://"+n.Get("pod/web", "{.status.podIP}"), "Hello from web")
}
