package controlplane

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/klog/v2"
	"k8s.io/kubernetes/cmd/kube-scheduler/app/options"
)

// TestSchedulerConfigFile: the user's file is judged before anything starts, and gets edgebox's way to the API.
func TestSchedulerConfigFile(t *testing.T) {
	const head = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n"
	for name, tt := range map[string]struct{ content, err string }{
		"profiles":        {head + "profiles:\n- schedulerName: packed\n  pluginConfig:\n  - name: NodeResourcesFit\n    args: {scoringStrategy: {type: MostAllocated}}\n", ""},
		"an unknown kind": {"apiVersion: v1\nkind: Pod\n", "no kind \"Pod\""},
		"an unknown key":  {head + "profile: []\n", "unknown field \"profile\""},
		"a bad value":     {head + "parallelism: -1\n", "parallelism: Invalid value"},
		"no YAML":         {"\t", "kube-scheduler-arg: config: "},
		"missing":         {"", "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "scheduler.yaml")
			if tt.content != "" {
				if err := os.WriteFile(file, []byte(tt.content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if tt.err != "" {
				cfg, certs := newServer(t)
				cfg.SchedulerArg = []string{"config=" + file}
				s := NewScheduler(cfg, certs, alone)
				s.paths.Run = filepath.Join(t.TempDir(), "run")
				err := s.Prepare(t.Context())
				if err == nil || !strings.HasPrefix(err.Error(), "kube-scheduler-arg: config: ") || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("the error is %v, want %s", err, tt.err)
				}
				if _, err := os.Stat(s.paths.SchedulerConfig()); err == nil {
					t.Error("something was written all the same")
				}
				return
			}
			path := filepath.Join(t.TempDir(), "run", "scheduler.yaml")
			if _, err := adoptConfig(file, path, "/kubeconfig"); err != nil {
				t.Fatal(err)
			}
			conf, err := options.LoadConfigFromFile(klog.Background(), path)
			if err != nil {
				t.Fatal(err)
			}
			if len(conf.Profiles) != 1 || conf.Profiles[0].SchedulerName != "packed" || len(conf.Profiles[0].PluginConfig) == 0 {
				t.Errorf("profiles %+v", conf.Profiles)
			}
			if conf.ClientConnection.Kubeconfig != "/kubeconfig" {
				t.Errorf("its way to the API is %q", conf.ClientConnection.Kubeconfig)
			}
			if fi, err := os.Stat(path); err != nil || fi.Mode() != fs.FileMode(0o600) {
				t.Errorf("the file: %v, %v", fi, err)
			}
		})
	}
}
