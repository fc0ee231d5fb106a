package main

import (
	"os"
	"strings"
	"testing"

	"github.com/edgebox/edgebox/pkg/config"
)

func TestServerReportsAllConfigurationProblems(t *testing.T) {
	h := newHost(t)
	h.write("etc/edgebox/config.yaml", "tls-sam: a\ndata-dir: x\n", 0o600)
	h.env = []string{"EDGEBOX_HTTPS_LISTEN_PORT=70000", "EDGEBOX_NODE_NAMES=a"}
	r := h.run("server", "--disable", "dns,flanel")
	r.want(t, 2)
	golden(t, "problems.txt", r.stderr)

	h.env = nil
	h.write("etc/edgebox/config.yaml", "node-ip: 192.0.2.1\n", 0o600)
	h.run("server", "--config", "/none").want(t, 2, "the configuration has a problem: --config: /none does not exist")
	h.run("server", "--node-name", "a_b").want(t, 2, `the configuration has a problem: --node-name: "a_b" is not a DNS name`)
}

func TestServerNeedsRoot(t *testing.T) {
	h := newHost(t)
	h.uid = "65534"
	h.run("server").want(t, 1, "edgebox must run as root: use sudo edgebox server")
	h.run("agent", "--server", "https://192.0.2.1").want(t, 1, "edgebox must run as root: use sudo edgebox agent")
	h.run("stop").want(t, 1, "only root may stop edgebox")
	h.run("uninstall").want(t, 1, "only root may uninstall edgebox")
}

func TestServerWithoutPayload(t *testing.T) {
	newHost(t).run("server", "--node-ip", "192.0.2.1").want(t, 1, "edgebox was built without its payload: build the whole product with `make build`")
}

// The node gets its whole configuration on stdin, and nothing that the configuration has already.
func TestServerBecomesTheNode(t *testing.T) {
	h := newHost(t)
	h.write("etc/edgebox/config.yaml", "node-label: [from=file]\ntls-san: [box.lan]\n", 0o600)
	h.env = []string{"EDGEBOX_TOKEN=hunter2", "EDGEBOX_NODE_NAME=box"}
	r := h.exec("not for the node", packed, "server", "--node-ip", "192.0.2.1", "--tls-san", "a,b", "--tls-san=c", "--debug")
	r.want(t, 7)
	first, rest, _ := strings.Cut(r.stdout, "\n")
	if first != "node server" {
		t.Fatalf("the node was called as %q\n%s", first, r.stderr)
	}
	text, environ, _ := strings.Cut(rest, "\n")
	if strings.Contains(environ, "hunter2") || !strings.Contains(environ, "EDGEBOX_NODE_NAME=box") {
		t.Errorf("the environment of the node is wrong:\n%s", environ)
	}
	c, err := config.Decode(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	for what, pair := range map[string][2]string{
		"role":     {string(c.Role), "server"},
		"name":     {c.NodeName, "box"},
		"labels":   {strings.Join(c.NodeLabel, ","), "from=file"},
		"names":    {strings.Join(c.TLSSAN, ","), "a,b,c"},
		"token":    {c.Token, "hunter2"},
		"data dir": {c.DataDir, "/var/lib/edgebox"},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s is %q, want %q", what, pair[0], pair[1])
		}
	}
	if !c.Debug {
		t.Error("--debug got lost")
	}

	// What is left for stop and uninstall.
	file, err := os.Open(h.path("run/edgebox/config.json"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	left, err := config.Decode(file)
	if err != nil {
		t.Fatal(err)
	}
	if left.NodeName != "box" || left.Token != "" || len(left.ClusterDNS) != 1 || left.AdvertiseAddress.String() != "192.0.2.1" {
		t.Errorf("the configuration left is %+v", left)
	}
	if _, err := os.Stat(h.path("var/lib/edgebox/bin/current/edgebox-node")); err != nil {
		t.Errorf("the payload is not in place: %v", err)
	}
	if _, err := os.Stat(h.path("var/lib/edgebox/bin/current/kubectl")); err == nil {
		t.Error("kubectl was unpacked, which nobody has asked for")
	}
}

// A second server is told so, before it looks for the ports that the first one has.
func TestSecondServer(t *testing.T) {
	h := newHost(t)
	h.exec("", "sh", "-c", `mkdir -p /var/lib/edgebox && echo 4321 > /var/lib/edgebox/lock &&
		exec flock /var/lib/edgebox/lock "$@"`, "sh", bare, "server", "--node-ip", "192.0.2.1").
		want(t, 1, "edgebox runs on /var/lib/edgebox already, as pid 4321: stop it with `edgebox stop`")
}

// An agent takes its options from the same places, and its token from a file.
func TestAgentBecomesTheNode(t *testing.T) {
	h := newHost(t)
	h.write("etc/edgebox/config.yaml", "server: https://192.0.2.9:6443\n", 0o600)
	h.write("etc/edgebox/token", "hunter2\n", 0o600)
	r := h.exec("not for the node", packed, "agent", "--token-file", "/etc/edgebox/token", "--node-name", "second")
	r.want(t, 7)
	first, rest, _ := strings.Cut(r.stdout, "\n")
	if first != "node agent" {
		t.Fatalf("the node was called as %q\n%s", first, r.stderr)
	}
	text, _, _ := strings.Cut(rest, "\n")
	c, err := config.Decode(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if c.Role != config.Agent || c.Server != "https://192.0.2.9:6443" || c.Token != "hunter2" || c.TokenFile != "" || c.NodeName != "second" {
		t.Errorf("the node's configuration is %+v", c)
	}
	h.run("agent", "--token-file", "/none").want(t, 2, "token-file: open /none: no such file or directory")
	h.run("agent", "--cluster-cidr", "10.0.0.0/16").want(t, 2, "unknown flag --cluster-cidr")
}
