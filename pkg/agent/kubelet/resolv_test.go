package kubelet

import (
	"os"
	"path/filepath"
	"testing"
)

func TestResolvConf(t *testing.T) {
	const (
		stub  = "# systemd\nnameserver 127.0.0.53\noptions edns0\n"
		real  = "nameserver 192.168.1.1\nsearch lan\n"
		mixed = "nameserver ::1\nnameserver 192.168.1.1\n"
	)
	for name, tt := range map[string]struct{ etc, systemd, want string }{
		"neither":                    {"", "", ""},
		"the usual":                  {real, "", "etc"},
		"no servers":                 {"search lan\n", real, "etc"},
		"systemd's stub":             {stub, real, "systemd"},
		"a stub and nothing behind":  {stub, "", "etc"},
		"a local server and another": {mixed, real, "etc"},
		"no link to systemd's":       {"", real, "systemd"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, content := range map[string]string{"etc": tt.etc, "systemd": tt.systemd} {
				if content == "" {
					continue
				}
				if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want := ""
			if tt.want != "" {
				want = filepath.Join(dir, tt.want)
			}
			if got := resolvConf([]string{filepath.Join(dir, "etc"), filepath.Join(dir, "systemd")}); got != want {
				t.Errorf("%q, want %q", got, want)
			}
		})
	}
}
