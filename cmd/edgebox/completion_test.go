package main

import (
	"net/http"
	"strings"
	"testing"
)

func TestComplete(t *testing.T) {
	h := newHost(t)
	h.serve(map[string]http.HandlerFunc{"GET /v1/images": answer([]image{{Name: "docker.io/library/app:1"}, {Name: "ghcr.io/x/y:2"}})})
	for _, test := range []struct{ line, want string }{
		{"st", "status stop :4"},
		{"server --flannel-b", "--flannel-backend :4"},
		{"server --flannel-backend ", "vxlan host-gw wireguard-native none :4"},
		{"server --debug --flannel-backend=h", "--flannel-backend=host-gw :4"},
		{"server --disable k", "kube-proxy :4"},
		{"server --config ", ":0"},
		{"server --node-name ", ":4"},
		{"server --flannel-iface l", "lo :4"},
		{"status -o j", "json :4"},
		{"images ", "ls import export rm :4"},
		{"images export -o ", ":0"},
		{"images import a", ":0"},
		{"images rm gh", "ghcr.io/x/y:2 :4"},
		{"completion ", "bash zsh fish :4"},
		{"nonsense ", ":4"},
	} {
		r := h.run(append([]string{completeVerb}, strings.Split(test.line, " ")...)...)
		r.want(t, 0)
		var words []string
		for line := range strings.Lines(r.stdout) {
			word, _, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
			words = append(words, word)
		}
		if have := strings.Join(words, " "); have != test.want {
			t.Errorf("%s: have %s, want %s", test.line, have, test.want)
		}
	}
	h.write("etc/edgebox/kubeconfig.yaml", adminKubeconfig, 0o600)
	h.exec("", packed, completeVerb, "kubectl", "get", "po").want(t, 0, "kubectl __complete get po\nKUBECONFIG=/etc/edgebox/kubeconfig.yaml")
}

// The script in a real shell: readline gives it the line and replaces what follows the last : or =.
func TestBashCompletion(t *testing.T) {
	h := newHost(t)
	h.serve(map[string]http.HandlerFunc{"GET /v1/images": answer([]image{{Name: "docker.io/library/app:1"}, {Name: "docker.io/library/app:2"}})})
	const script = `shopt -s extglob; compopt() { echo "compopt $*"; }
		source <("$1" completion bash)
		COMP_LINE="$1 $2"; COMP_POINT=${#COMP_LINE}; _edgebox; printf '%s\n' "${COMPREPLY[@]}"`
	for line, want := range map[string]string{
		"kubect":                           "kubectl\n",
		"server --flannel-backend=v":       "vxlan\n",
		"images rm docker.io/library/app:": "1\n2\n",
		"images import ":                   "compopt -o default\n\n",
		"kubeconfig --serv":                "--server\n",
		"kubeconfig nothing-to-say ":       "\n",
	} {
		r := h.exec("", "bash", "-c", script, "bash", bare, line)
		if r.stdout != want {
			t.Errorf("%q: have %q, want %q %s", line, r.stdout, want, r.stderr)
		}
	}
}
