package config

import (
	"reflect"
	"strings"
	"testing"
)

func TestClusterSettings(t *testing.T) {
	server := Defaults()
	server.ClusterCIDR, server.ServiceCIDR = prefixes("10.52.0.0/16", "fd42::/56"), prefixes("10.53.0.0/16", "fd43::/112")
	server.ClusterDNS, server.ClusterDomain = addrs("10.53.0.10", "fd43::a"), "edge.local"
	server.FlannelBackend, server.Disable = "host-gw", []string{DNS}
	settings := server.ClusterSettings()
	settings["of-a-later-version"] = "ignored"

	agent := Defaults()
	agent.Role, agent.NodeName = Agent, "box"
	got, err := agent.WithClusterSettings(settings)
	if err != nil {
		t.Fatal(err)
	}
	want := agent
	want.ClusterCIDR, want.ServiceCIDR, want.ClusterDNS, want.ClusterDomain = server.ClusterCIDR, server.ServiceCIDR, server.ClusterDNS, server.ClusterDomain
	want.FlannelBackend, want.Disable = server.FlannelBackend, server.Disable
	if !reflect.DeepEqual(got, want) {
		t.Errorf("have %+v\nwant %+v", got, want)
	}
	if same, err := agent.WithClusterSettings(map[string]string{}); err != nil || !reflect.DeepEqual(same, agent) {
		t.Errorf("without settings: %+v, %v", same, err)
	}
	_, err = agent.WithClusterSettings(map[string]string{"cluster-cidr": "ten", "service-cidr": "10.43.0.1/16"})
	for _, part := range []string{`the cluster: cluster-cidr: "ten"`, "the cluster: service-cidr: 10.43.0.1/16"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("the error %v does not have %q", err, part)
		}
	}
}

func TestAgent(t *testing.T) {
	for name, test := range map[string]struct {
		flags map[string][]string
		want  string
	}{
		"good":             {map[string][]string{"server": {"https://192.0.2.1:6443"}, "token": {"EB1x"}}, ""},
		"no server":        {map[string][]string{"token": {"EB1x"}}, "server: is not given"},
		"http":             {map[string][]string{"server": {"http://192.0.2.1:6443"}}, `--server: "http://192.0.2.1:6443" must begin with https://`},
		"bare address":     {map[string][]string{"server": {"192.0.2.1:6443"}}, "is not a URL such as"},
		"path":             {map[string][]string{"server": {"https://box/path"}}, "must be no more than https://HOST:PORT"},
		"port":             {map[string][]string{"server": {"https://box:70000"}}, "has a port out of range"},
		"host":             {map[string][]string{"server": {"https://b_x:6443"}}, "has neither a host name nor"},
		"shared option":    {map[string][]string{"server": {"https://box"}, "cluster-cidr": {"10.0.0.0/16"}}, "is the same on all nodes"},
		"server's option":  {map[string][]string{"server": {"https://box"}, "tls-san": {"x"}}, "is an option of the server: remove it here"},
		"two tokens":       {map[string][]string{"server": {"https://box"}, "token": {"a"}, "token-file": {"/t"}}, "has no effect together with token"},
		"relative file":    {map[string][]string{"server": {"https://box"}, "token-file": {"t"}}, "is not an absolute path"},
		"balancer's port":  {map[string][]string{"server": {"https://box"}, "lb-server-port": {"0"}}, "out of range"},
		"node's own label": {map[string][]string{"server": {"https://box"}, "node-label": {"a=b"}}, ""},
	} {
		c, _, err := Load(Sources{Role: Agent, Flags: test.flags})
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: the error is %v, want %q", name, err, test.want)
		}
		if c.Role != Agent {
			t.Errorf("%s: the role is %q", name, c.Role)
		}
	}
	c := Config{Role: Agent, Server: "https://[2001:db8::1]", BalancerPort: 6444, HTTPSListenPort: 6443}
	if c.ServerAddress() != "[2001:db8::1]:6443" || c.LocalAPI() != "127.0.0.1:6444" {
		t.Errorf("server at %s, API at %s", c.ServerAddress(), c.LocalAPI())
	}
	for name, test := range map[string]struct {
		flags map[string][]string
		want  string
	}{
		"joins":          {map[string][]string{"server": {"https://box"}}, ""},
		"begins":         {map[string][]string{"cluster-init": {"true"}}, ""},
		"both":           {map[string][]string{"server": {"https://box"}, "cluster-init": {"true"}}, "cluster-init: contradicts server"},
		"two databases":  {map[string][]string{"datastore-endpoint": {"postgres://db/kine"}, "cluster-init": {"true"}}, "cluster-init: contradicts datastore-endpoint"},
		"two ways":       {map[string][]string{"datastore-endpoint": {"postgres://db/kine"}, "server": {"https://box"}}, "server: contradicts datastore-endpoint"},
		"agent's option": {map[string][]string{"lb-server-port": {"1"}}, "is an option of the agent"},
	} {
		_, _, err := Load(Sources{Role: Server, Flags: test.flags})
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(strings.ReplaceAll(err.Error(), "--", ""), test.want)) {
			t.Errorf("%s: the error is %v, want %q", name, err, test.want)
		}
	}
}
