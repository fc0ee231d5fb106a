// Package tests holds the architecture to docs/architecture.md: who may import what, and that every package says what
// it is for.
package tests

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/edgebox/edgebox/"

// layers are the floors of the building; a package may import from the floors below it and not from its own, except
// where sameFloor says so. A trailing slash stands for a package and everything under it.
var layers = [][]string{
	{"pkg/component", "pkg/version", "pkg/durable", "pkg/socket", "pkg/upstream/workqueue"},
	{"pkg/config", "pkg/pki", "pkg/payload", "pkg/upstream", "pkg/admin", "pkg/preflight/", "pkg/footprint/"},
	{"pkg/datastore", "pkg/dns", "pkg/tunnel", "pkg/admin/adminserver",
		"pkg/agent/balancer", "pkg/agent/containerd", "pkg/agent/flannel", "pkg/agent/host", "pkg/agent/join", "pkg/agent/kubelet", "pkg/agent/proxy",
		"pkg/server/approval", "pkg/server/bootstrap", "pkg/server/controlplane", "pkg/server/peers"},
	{"pkg/agent"},
	{"pkg/server"},
	{"cmd/", "scripts/", "images/", "tests/"},
}

// sameFloor are imports between packages of one floor that are as they should be.
var sameFloor = map[string][]string{
	"pkg/preflight/": {"pkg/config"},
	"pkg/footprint/": {"pkg/config"},
	"tests/":         {"tests/"},
}

// heavy are upstream projects, and the one place that may import each.
var heavy = []struct {
	upstream string // a prefix of import paths
	rooms    []string
}{
	{"k8s.io/kubernetes/", []string{"pkg/server/controlplane", "pkg/agent/kubelet", "pkg/agent/proxy"}},
	{"github.com/containerd/containerd/v2/", []string{"pkg/agent/containerd"}},
	{"github.com/k3s-io/kine/", []string{"pkg/datastore"}},
	{"go.etcd.io/etcd/server/", []string{"pkg/datastore"}},
	{"github.com/coredns/", []string{"pkg/dns"}},
	{"github.com/flannel-io/", []string{"pkg/agent/flannel"}},
	{"sigs.k8s.io/apiserver-network-proxy/", []string{"pkg/tunnel"}},
	{"github.com/urfave/cli/", []string{"cmd/edgebox"}},
}

type pkg struct {
	ImportPath string
	Doc        string
	Imports    []string
	GoFiles    []string
}

// list asks the go command about packages.
func list(t *testing.T, args ...string) []pkg {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Doc,Imports,GoFiles"}, args...)...)
	cmd.Dir = ".."
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %s", exit.Stderr)
		}
		t.Fatal(err)
	}
	var all []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func within(path, pattern string) bool {
	if room, ok := strings.CutSuffix(pattern, "/"); ok {
		return path == room || strings.HasPrefix(path, pattern)
	}
	return path == pattern
}

// floorOf returns the number of a package's floor and the pattern that put it there.
func floorOf(path string) (int, string) {
	for i, patterns := range layers {
		for _, p := range patterns {
			if within(path, p) {
				return i, p
			}
		}
	}
	return -1, ""
}

func TestImportsGoDownOnly(t *testing.T) {
	for _, p := range list(t, "./...") {
		path := strings.TrimPrefix(p.ImportPath, module)
		if p.ImportPath == strings.TrimSuffix(module, "/") {
			continue
		}
		floor, room := floorOf(path)
		if floor < 0 {
			t.Errorf("%s has no place in the map: add it to layers here and to docs/architecture.md", path)
			continue
		}
		for _, imported := range p.Imports {
			other, ours := strings.CutPrefix(imported, module)
			if !ours {
				continue
			}
			below, otherRoom := floorOf(other)
			if below < floor || otherRoom == room && strings.HasSuffix(room, "/") ||
				below == floor && slices.Contains(sameFloor[room], otherRoom) {
				continue
			}
			t.Errorf("%s imports %s, which is not below it", path, other)
		}
	}
}

func TestUpstreamsHaveOneImporter(t *testing.T) {
	for _, p := range list(t, "./cmd/...", "./pkg/...") {
		path := strings.TrimPrefix(p.ImportPath, module)
		for _, imported := range p.Imports {
			for _, h := range heavy {
				if strings.HasPrefix(imported, h.upstream) && !slices.Contains(h.rooms, path) {
					t.Errorf("%s imports %s, which only %v may", path, imported, h.rooms)
				}
			}
		}
	}
}

func TestPackagesSayWhatTheyAreFor(t *testing.T) {
	for _, p := range list(t, "./...") {
		if p.Doc == "" && len(p.GoFiles) > 0 {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}

// TestFrontIsLight keeps `edgebox status` quick: what the front links is initialised on every command.
func TestFrontIsLight(t *testing.T) {
	for _, p := range list(t, "-deps", "./cmd/edgebox") {
		for _, tooHeavy := range []string{"k8s.io/", "github.com/containerd/containerd/", "google.golang.org/grpc", "net/http/pprof"} {
			if strings.HasPrefix(p.ImportPath, tooHeavy) {
				t.Errorf("cmd/edgebox links %s", p.ImportPath)
			}
		}
	}
}
