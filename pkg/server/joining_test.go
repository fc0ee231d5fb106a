package server

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/edgebox/edgebox/pkg/config"
	"github.com/edgebox/edgebox/pkg/pki"
	"github.com/edgebox/edgebox/pkg/server/peers"
)

// TestAdoptSettings is about what a server that joins others makes of its own options.
func TestAdoptSettings(t *testing.T) {
	cluster := newConfig(t, func(c *config.Config) { c.ClusterDomain = "edge.example" }).ClusterSettings()
	for _, tt := range []struct {
		name, domain, backend string
		says                  []string
	}{
		{"own is the default", "", "", nil},
		{"own is the cluster's", "edge.example", "", nil},
		{"own is another", "other.example", "", []string{`cluster-domain: is "other.example" here and "edge.example" in the cluster: remove it here`}},
		{"two are others", "other.example", "host-gw", []string{"cluster-domain: ", "flannel-backend: "}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			own := newConfig(t, func(c *config.Config) {
				if tt.domain != "" {
					c.ClusterDomain = tt.domain
				}
				if tt.backend != "" {
					c.FlannelBackend = tt.backend
				}
			})
			got, err := adopt(own, cluster)
			if len(tt.says) == 0 && (err != nil || !maps.Equal(got.ClusterSettings(), cluster)) {
				t.Errorf("adopt = %v, %v; want %v", got.ClusterSettings(), err, cluster)
			}
			for _, says := range tt.says {
				if err == nil || !strings.Contains(err.Error(), says) {
					t.Errorf("adopt: %v, want %q", err, says)
				}
			}
		})
	}
}

func TestServerSettings(t *testing.T) {
	file := filepath.Join(t.TempDir(), "server", "cluster.json")
	if got, err := recallSettings(file); got != nil || err != nil {
		t.Errorf("of the first server: %v, %v", got, err)
	}
	want := map[string]string{"cluster-domain": "edge.example"}
	if err := writeSettings(file, want); err != nil {
		t.Fatal(err)
	}
	if got, err := recallSettings(file); err != nil || !maps.Equal(got, want) {
		t.Errorf("recall = %v, %v", got, err)
	}
	if fi, err := os.Stat(file); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", fi, err)
	}
	if err := os.Truncate(file, 5); err != nil {
		t.Fatal(err)
	}
	if got, err := recallSettings(file); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("damaged: %v, %v", got, err)
	}
}

// TestUnknownSharedFile has servers of a later version share more than this one knows: nothing of it is written.
func TestUnknownSharedFile(t *testing.T) {
	cfg := newConfig(t, nil)
	secrets := peers.Secrets{Files: map[string][]byte{"../../evil": nil}, Settings: cfg.ClusterSettings()}
	for _, name := range pki.SharedFiles() {
		secrets.Files[name] = []byte(name)
	}
	if err := become(cfg, &secrets); err == nil || !strings.Contains(err.Error(), "../../evil") {
		t.Errorf("become: %v", err)
	}
	if entries, err := os.ReadDir(cfg.DataDir); err != nil || len(entries) > 0 {
		t.Errorf("left in the data dir: %v, %v", entries, err)
	}

	delete(secrets.Files, "../../evil")
	cfg.Token = "secret"
	if err := become(cfg, &secrets); err != nil {
		t.Fatal(err)
	}
	for _, name := range pki.SharedFiles() {
		path := filepath.Join(cfg.Paths().PKI(), name)
		content, err := os.ReadFile(path)
		if fi, statErr := os.Stat(path); err != nil || statErr != nil || string(content) != name || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s: %q, %v, %v", name, content, err, statErr)
		}
	}
}

// TestServerKeyComesLast has the disk fail before it: the machine is no server then, and begins again.
func TestServerKeyComesLast(t *testing.T) {
	cfg := newConfig(t, nil)
	secrets := peers.Secrets{Files: map[string][]byte{}, Settings: cfg.ClusterSettings()}
	for _, name := range pki.SharedFiles() {
		secrets.Files[name] = []byte(name)
	}
	obstacle := filepath.Join(cfg.Paths().PKI(), pki.ServiceAccount+".pub")
	if err := os.MkdirAll(filepath.Join(obstacle, "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := become(cfg, &secrets); err == nil {
		t.Error("no error")
	}
	if _, err := os.Stat(pki.New(cfg.Paths().PKI()).KeyFile(pki.ServerCA)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the key of the CA: %v", err)
	}
}
