package main

import (
	"os"
	"strings"
	"testing"

	"github.com/edgebox/edgebox/pkg/config"
)

// A node stands in for by a shell that holds the lock and has its pid in it.
const fakeNode = `mkdir -p /var/lib/edgebox && exec 9>/var/lib/edgebox/lock && flock 9 && echo $$ >&9 &&
	trap 'echo told to stop; exit' TERM && touch /var/lib/edgebox/up && while :; do sleep 0.05; done`

func TestStop(t *testing.T) {
	h := newHost(t)
	h.hidden = "yes"
	h.exec("", "sh", "-c", `sh -c "$0" & until [ -e /var/lib/edgebox/up ]; do sleep 0.02; done; "$@"; code=$?; wait; exit $code`,
		fakeNode, bare, "stop").want(t, 0, "told to stop\n", "stopped after ")
	// The lock file stays, with the pid of a process that may be anyone's by now.
	h.run("stop").want(t, 1, "edgebox is not running on this machine")
	h.run("stop", "--pods").want(t, 0, "no pod is running any more")
}

// Commands act on the node that was started last, also when it has another data dir than the configuration says.
func TestStopFindsTheDataDir(t *testing.T) {
	h := newHost(t)
	h.hidden = "yes"
	started := config.Defaults()
	started.DataDir = "/var/lib/elsewhere"
	var text strings.Builder
	if err := started.Encode(&text); err != nil {
		t.Fatal(err)
	}
	h.write("run/edgebox/config.json", text.String(), 0o600)
	h.exec("", "sh", "-c", `mkdir -p /var/lib/elsewhere && echo broken > /var/lib/elsewhere/lock && exec flock /var/lib/elsewhere/lock "$@"`,
		"sh", bare, "stop").want(t, 1, "/var/lib/elsewhere/lock is locked, but does not say by which pid")

	// What the user says counts more.
	h.run("stop", "--data-dir", "/var/lib/other").want(t, 1, "edgebox is not running on this machine")
	h.env = []string{"EDGEBOX_DATA_DIR=/var/lib/other"}
	h.write("var/lib/other/lock", "", 0o600)
	h.run("uninstall", "--yes").want(t, 0, "removed file /var/lib/other")
	if _, err := os.Stat(h.path("var/lib/elsewhere")); err != nil {
		t.Errorf("uninstall took the data dir of another node: %v", err)
	}
}

func TestUninstall(t *testing.T) {
	h := newHost(t)
	h.hidden = "yes"
	h.write("etc/edgebox/kubeconfig.yaml", adminKubeconfig, 0o600)
	h.exec("", "mkdir", "-p", "/var/lib/edgebox/server")
	h.run("uninstall").want(t, 2, "this removes every volume and database of the cluster: confirm with --yes")
	h.run("uninstall", "--yes").want(t, 0, "removed file /var/lib/edgebox", "Left on this machine: nothing.\n")
	h.run("uninstall", "--yes").want(t, 0, "There is nothing of edgebox on this machine.")
}

func TestCheck(t *testing.T) {
	h := newHost(t)
	h.run("check", "--node-ip", "192.0.2.1").want(t, 0, "ok       configuration ", "This machine can run edgebox")
	h.write("etc/edgebox/config.yaml", "tls-sam: a\nnode-ip: 192.0.2.1\ndebug: 1\n", 0o600)
	h.run("check").want(t, 1, "error ", "config.yaml: tls-sam: is not an option: did you mean tls-san?", "config.yaml: debug: wants true or false",
		"This machine cannot run edgebox yet: 1 problem to fix.")
	h.run("check", "-o", "json").want(t, 1, `"name": "configuration"`, `"level": "error"`)

	h.write("etc/edgebox/config.yaml", "node-ip: 192.0.2.1\n", 0o600)
	bad := h.run("check", "--node-name", "My_Box")
	bad.want(t, 1, "This machine cannot run edgebox yet: 1 problem to fix.")
	if n := strings.Count(bad.stdout, "My_Box"); n != 1 {
		t.Errorf("a bad name is told %d times:\n%s", n, bad.stdout)
	}
}
