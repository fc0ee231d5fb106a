package config

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write golden files")

// golden compares text with a file of testdata.
func golden(t *testing.T, name, have string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(have), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if have != string(want) {
		t.Errorf("differs from %s (write it with -update):\n%s", path, have)
	}
}

// files writes a configuration into a folder of its own, and returns the path of its config.yaml.
func files(t *testing.T, content map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range content {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "config.yaml")
}

func TestLoadReportsAllProblemsAtOnce(t *testing.T) {
	_, _, err := Load(Sources{
		File:    "testdata/bad.yaml",
		Environ: []string{"EDGEBOX_CLUSTER_DOMAIN=Cluster.Local", "EDGEBOX_DISABLE_AGENT=perhaps", "EDGEBOX_KUBE_PROXY_ARG=mode"},
		Flags: map[string][]string{
			"service-node-port-range": {"32767-30000"},
			"flannel-iface":           {"a/b"},
			"cluster-cidr":            {"10.42.0.0/16,10.44.0.0/16"},
			"tls-san":                 {"ok.example.org", "-bad-"},
		},
	})
	golden(t, "bad.txt", err.Error()+"\n")
	if strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "correct horse") {
		t.Error("a secret is shown")
	}
	var problem Problem
	if !errors.As(err, &problem) {
		t.Error("errors.As finds no Problem")
	}
}

func TestPrecedence(t *testing.T) {
	base := map[string]string{
		"config.yaml":                  "node-name: file\ntls-san: [a, b]\nhttps-listen-port: 1000\ndebug: true\n",
		"config.yaml.d/20-later.yaml":  "node-name: later\ntls-san+: [d]\n",
		"config.yaml.d/10-sooner.yml":  "node-name: sooner\ntls-san+: c\n",
		"config.yaml.d/30-not-read.md": "node-name: other\n",
	}
	for _, test := range []struct {
		name    string
		environ []string
		flags   map[string][]string
		want    func(*Config)
	}{
		{
			name: "files in the order of their names, lists added to",
			want: func(c *Config) {},
		}, {
			name:    "variables beat files, and replace lists",
			environ: []string{"EDGEBOX_NODE_NAME=env", "EDGEBOX_TLS_SAN=x,y", "EDGEBOX_DEBUG=0"},
			want:    func(c *Config) { c.NodeName, c.TLSSAN, c.Debug = "env", []string{"x", "y"}, false },
		}, {
			name:    "flags beat variables",
			environ: []string{"EDGEBOX_NODE_NAME=env", "EDGEBOX_HTTPS_LISTEN_PORT=2000"},
			flags:   map[string][]string{"node-name": {"one", "two"}, "tls-san": {"p,q", "r"}},
			want: func(c *Config) {
				c.NodeName, c.TLSSAN, c.HTTPSListenPort = "two", []string{"p", "q", "r"}, 2000
			},
		}, {
			name:    "an empty variable is not set",
			environ: []string{"EDGEBOX_NODE_NAME=", "EDGEBOX_DEBUG="},
			want:    func(c *Config) {},
		}, {
			name:  "an empty flag empties a list",
			flags: map[string][]string{"tls-san": {""}},
			want:  func(c *Config) { c.TLSSAN = nil },
		}, {
			name:  "upstream arguments keep their commas",
			flags: map[string][]string{"kube-apiserver-arg": {"admission=A,B", "v=2"}},
			want:  func(c *Config) { c.APIServerArg = []string{"admission=A,B", "v=2"} },
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			want := Defaults()
			want.NodeName, want.TLSSAN, want.HTTPSListenPort, want.Debug = "later", []string{"a", "b", "c", "d"}, 1000, true
			test.want(&want)
			have, _, err := Load(Sources{File: files(t, base), Environ: test.environ, Flags: test.flags})
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(have, want) {
				t.Errorf("have %+v\nwant %+v", have, want)
			}
		})
	}
}

func TestWhichFileIsRead(t *testing.T) {
	one := files(t, map[string]string{"config.yaml": "node-name: one\n"})
	two := files(t, map[string]string{"config.yaml": "node-name: two\n"})
	for _, test := range []struct {
		name    string
		sources Sources
		want    string
		err     string
	}{
		{"flag", Sources{File: one, Environ: []string{"EDGEBOX_CONFIG_FILE=" + two}}, "one", ""},
		{"variable", Sources{Environ: []string{"EDGEBOX_CONFIG_FILE=" + two}}, "two", ""},
		{"flag names none", Sources{File: "/none"}, "", "--config: /none does not exist"},
		{"variable names none", Sources{Environ: []string{"EDGEBOX_CONFIG_FILE=/none"}}, "", "EDGEBOX_CONFIG_FILE: /none does not exist"},
		{"a folder", Sources{File: "/proc"}, "", "/proc: cannot be read: is a directory"},
		{"unreadable", Sources{File: "/proc/self/mem"}, "", "/proc/self/mem: cannot be read: input/output error"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, _, err := Load(test.sources)
			switch {
			case test.err == "" && err != nil:
				t.Fatal(err)
			case test.err != "" && (err == nil || err.Error() != test.err):
				t.Fatalf("have error %v, want %s", err, test.err)
			case c.NodeName != test.want:
				t.Errorf("read the file of %q, want %q", c.NodeName, test.want)
			}
		})
	}
}

func TestEmptyAndOddFiles(t *testing.T) {
	for _, test := range []struct{ name, text, err string }{
		{"empty", "", ""},
		{"comment", "# nothing yet\n", ""},
		{"null", "~\n", ""},
		{"empty list", "tls-san: []\n", ""},
		{"alias", "tls-san: &names [a]\ndisable+: []\n", ""},
		{"binary", "\x00\x01\x02", "is not valid YAML"},
		{"tab", "a:\n\tb: 1\n", "is not valid YAML: line 2"},
		{"huge", strings.Repeat("# filler\n", 130_000), "is larger than 1 MiB"},
		{"no map", "just text\n", "holds text: it must be a list of lines KEY: VALUE"},
		{"add to text", "node-name+: a\n", "config.yaml: node-name+: is not a list, so nothing can be added to it"},
		{"number for a switch", "debug: 1\n", "debug: wants true or false, not a number"},
		{"text for a number", "https-listen-port: \"6443\"\n", "https-listen-port: wants a number, not text"},
		{"hexadecimal", "https-listen-port: 0x1F90\n", `https-listen-port: "0x1F90" is not a whole number`},
		{"map for text", "node-name: {a: b}\n", "node-name: wants text, not a map"},
		{"list for text", "node-name: [a]\n", "node-name: wants text, not a list"},
		{"nothing in a list", "tls-san: [~]\n", "tls-san: has nothing as an element: write text"},
		{"empty element", "tls-san: a,,b\n", "tls-san: has an empty element"},
		{"address with a zone", "node-ip: fe80::1%eth0\n", `node-ip: "fe80::1%eth0" is not an IP address`},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, _, err := Load(Sources{File: files(t, map[string]string{"config.yaml": test.text})})
			switch {
			case test.err == "" && err != nil:
				t.Error(err)
			case test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)):
				t.Errorf("have error %v, want %s", err, test.err)
			}
		})
	}
}

func TestProblemsNameEveryFileOfAList(t *testing.T) {
	path := files(t, map[string]string{"config.yaml": "node-label: [a]\n", "config.yaml.d/1.yaml": "node-label+: [b=c]\n"})
	_, _, err := Load(Sources{File: path})
	want := path + ": node-label and " + path + `.d/1.yaml: node-label+: "a" is not of the form KEY=VALUE`
	if err == nil || err.Error() != want {
		t.Errorf("have %v\nwant %s", err, want)
	}
}

func TestUnknownVariables(t *testing.T) {
	_, warnings, err := Load(Sources{File: files(t, map[string]string{"config.yaml": ""}), Environ: []string{
		"EDGEBOX_URL=https://a:6443", "EDGEBOX_BIN_DIR=/usr/local/bin", "INSTALL_EDGEBOX_EXEC=server", "PATH=/bin",
		"EDGEBOX_NODE_LABLE=a=b", "EDGEBOX_TLS_SANS=a",
	}})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"EDGEBOX_NODE_LABLE is not used: did you mean EDGEBOX_NODE_LABEL?",
		"EDGEBOX_TLS_SANS is not used: did you mean EDGEBOX_TLS_SAN?",
	}
	if !slices.Equal(warnings, want) {
		t.Errorf("have %q\nwant %q", warnings, want)
	}
}
