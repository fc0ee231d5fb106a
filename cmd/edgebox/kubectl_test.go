package main

import (
	"os"
	"strings"
	"testing"
)

const adminKubeconfig = `apiVersion: v1
kind: Config
clusters:
- name: edgebox
  cluster:
    certificate-authority-data: Q0E=
    server: https://127.0.0.1:6443
`

func TestKubectl(t *testing.T) {
	h := newHost(t)
	kubectl := func(args ...string) result { return h.exec("", append([]string{packed, "kubectl"}, args...)...) }

	t.Run("no cluster needed", func(t *testing.T) {
		for _, args := range []string{"version --client", "completion bash", "get --help", "config view", ""} {
			kubectl(strings.Fields(args)...).want(t, 0, "kubectl "+args+"\nKUBECONFIG=\n")
		}
	})
	t.Run("no server yet", func(t *testing.T) {
		kubectl("get", "nodes").want(t, 1, "there is no /etc/edgebox/kubeconfig.yaml")
	})
	t.Run("kubeconfig of the user", func(t *testing.T) {
		kubectl("get", "nodes", "--kubeconfig=/a").want(t, 0, "kubectl get nodes --kubeconfig=/a\nKUBECONFIG=\n")
		h.env = []string{"KUBECONFIG=/b"}
		kubectl("get", "nodes").want(t, 0, "KUBECONFIG=/b\n")
		h.env = nil
	})
	h.write("etc/edgebox/kubeconfig.yaml", adminKubeconfig, 0o600)
	t.Run("kubeconfig of the server", func(t *testing.T) {
		kubectl("get", "nodes", "-o", "wide").want(t, 0, "kubectl get nodes -o wide\nKUBECONFIG=/etc/edgebox/kubeconfig.yaml\n")
		kubectl("exec", "p", "--", "tool", "--kubeconfig=/a").want(t, 0, "KUBECONFIG=/etc/edgebox/kubeconfig.yaml\n")
	})
	t.Run("symbolic link", func(t *testing.T) {
		if err := os.Symlink(packed, h.path("kubectl")); err != nil {
			t.Fatal(err)
		}
		h.exec("", h.path("kubectl"), "get", "--help").want(t, 0, "kubectl get --help\n")
	})
	t.Run("other users", func(t *testing.T) {
		h.uid = "65534"
		defer func() { h.uid = "" }()
		kubectl("get", "nodes").want(t, 1, "you may not read /etc/edgebox/kubeconfig.yaml: use sudo, or start the server with --write-kubeconfig-mode")
		kubectl("version", "--client").want(t, 0, "kubectl version --client\n")
		if entries, err := os.ReadDir(h.path("home/.cache/edgebox/bin")); err != nil || len(entries) == 0 {
			t.Errorf("kubectl is not in the user's cache: %v", err)
		}
		if err := os.MkdirAll(h.path("home/.kube"), 0o755); err != nil {
			t.Fatal(err)
		}
		h.write("home/.kube/config", adminKubeconfig, 0o644)
		kubectl("get", "nodes").want(t, 0, "kubectl get nodes\nKUBECONFIG=\n")
	})
}

func TestKubeconfig(t *testing.T) {
	h := newHost(t)
	h.write("etc/edgebox/kubeconfig.yaml", adminKubeconfig, 0o600)
	if r := h.run("kubeconfig"); r.stdout != adminKubeconfig {
		t.Errorf("have %s", r.stdout)
	}
	r := h.run("kubeconfig", "--server", "https://box.lan:6443")
	r.want(t, 0, "server: https://box.lan:6443\n", "certificate-authority-data: Q0E=\n")
	h.run("kubeconfig", "--server", "box.lan").want(t, 2, `"box.lan" is not an address such as https://`)
	h.uid = "65534"
	h.run("kubeconfig").want(t, 1, "you may not read /etc/edgebox/kubeconfig.yaml: use sudo")
}
