package containerd

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"testing"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	srvconfig "github.com/containerd/containerd/v2/cmd/containerd/server/config"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
	"github.com/pelletier/go-toml/v2"

	"github.com/edgebox/edgebox/pkg/config"
)

var update = flag.Bool("update", false, "write the golden files")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("differs from %s (-update writes it):\n%s", path, got)
	}
}

func TestConfig(t *testing.T) {
	golden(t, "containerd.toml", render(config.Defaults().Paths(), true))
}

// strict decodes without unknown keys, which containerd itself would only warn of.
func strict(t *testing.T, what string, data []byte, into any) {
	t.Helper()
	if err := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields().Decode(into); err != nil {
		t.Errorf("%s: %v", what, err)
	}
}

// registerOnce, since plugins are global to the process and a test may run again.
var registerOnce = sync.OnceFunc(func() { registerClient(&Containerd{}) })

// TestContainerdKnowsConfig holds the file against the plugins that are linked in: an upgrade of containerd may rename
// any of them or their keys.
func TestContainerdKnowsConfig(t *testing.T) {
	registerOnce()
	registered := map[string]plugin.Registration{}
	for _, r := range registry.Graph(func(*plugin.Registration) bool { return false }) {
		registered[r.URI()] = r
	}

	// Characters that a path may have and that TOML escapes.
	paths := config.Paths{Data: `/data "1" \ x`, Run: `/run/ü`}
	var conf srvconfig.Config
	strict(t, "containerd.toml", render(paths, false), &conf)
	if err := conf.ValidateVersion(); err != nil {
		t.Error(err)
	}
	if conf.Root != paths.Containerd() || conf.State != paths.ContainerdRun() {
		t.Errorf("root %s, state %s", conf.Root, conf.State)
	}
	for _, id := range conf.RequiredPlugins {
		if _, ok := registered[id]; !ok {
			t.Errorf("required plugin %s is not linked in", id)
		}
	}
	for id, section := range conf.Plugins {
		r, ok := registered[id]
		if !ok || r.Config == nil {
			t.Errorf("no plugin %s that takes a configuration", id)
			continue
		}
		data, err := toml.Marshal(section)
		if err != nil {
			t.Fatal(err)
		}
		strict(t, id, data, reflect.New(reflect.TypeOf(r.Config).Elem()).Interface())
	}

	runtime := conf.Plugins["io.containerd.cri.v1.runtime"].(map[string]any)
	runc := runtime["containerd"].(map[string]any)["runtimes"].(map[string]any)["runc"].(map[string]any)
	data, err := toml.Marshal(runc["options"])
	if err != nil {
		t.Fatal(err)
	}
	var options runcoptions.Options
	strict(t, "options of runc", data, &options)
	if options.BinaryName != filepath.Join(paths.Helpers(), "runc") || options.Root != paths.Runc() || options.SystemdCgroup {
		t.Errorf("options of runc: %v", &options)
	}
	if runtime["restrict_oom_score_adj"] != true {
		t.Error("oom_score_adj is not restricted without the capability")
	}
}

// TestPlugins says what must never be linked in: plugins that listen, restart containers or stay in the way.
func TestPlugins(t *testing.T) {
	for _, r := range registry.Graph(func(*plugin.Registration) bool { return false }) {
		if slices.Contains([]string{
			"io.containerd.server.v1.debug", "io.containerd.server.v1.metrics",
			"io.containerd.internal.v1.restart", "io.containerd.internal.v1.opt",
		}, r.URI()) {
			t.Errorf("plugin %s is linked in", r.URI())
		}
	}
}
