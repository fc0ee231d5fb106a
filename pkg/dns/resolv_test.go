package dns

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func TestUpstreams(t *testing.T) {
	exclude := addrs("10.42.0.1", "10.43.0.10")
	for _, tt := range []struct {
		name          string
		first, second string
		want          []netip.Addr
	}{
		{"none", "", "", nil},
		{"one", "search lan\nnameserver 192.0.2.1\n", "", addrs("192.0.2.1")},
		{"systemd-resolved", "nameserver 127.0.0.53\noptions edns0 trust-ad\n", "nameserver 192.0.2.1\nnameserver 192.0.2.2\n", addrs("192.0.2.1", "192.0.2.2")},
		{"loopback only", "nameserver 127.0.0.1\nnameserver ::1\n", "", nil},
		{"a stub among others", "nameserver 127.0.0.1\nnameserver 192.0.2.1\n", "nameserver 192.0.2.2\n", addrs("192.0.2.1")},
		{"ourselves", "nameserver 10.43.0.10\nnameserver 10.42.0.1\n", "", nil},
		{"link-local", "nameserver fe80::1%eth0\nnameserver 2001:db8::1\n", "", addrs("2001:db8::1")},
		{"twice", "nameserver 192.0.2.1\nnameserver 192.0.2.1\n", "", addrs("192.0.2.1")},
		{"many", "nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\nnameserver 192.0.2.4\n", "", addrs("192.0.2.1", "192.0.2.2", "192.0.2.3")},
		{"nonsense", "nameserver resolver.lan\nnameserver 0.0.0.0\n\x00\xff\n", "", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			files := []string{filepath.Join(dir, "a"), filepath.Join(dir, "b"), filepath.Join(dir, "missing")}
			for i, content := range []string{tt.first, tt.second} {
				if err := os.WriteFile(files[i], []byte(content), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if got := upstreams(files, exclude); !slices.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

// TestWatchFiles: the file may come into being late, and in ways in which resolv.conf does.
func TestWatchFiles(t *testing.T) {
	write := func(t *testing.T, path string) {
		t.Helper()
		if err := os.WriteFile(path, []byte("nameserver 192.0.2.1\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, change := range map[string]func(t *testing.T, etc, run string){
		"appears": func(t *testing.T, etc, _ string) { write(t, filepath.Join(etc, "resolv.conf")) },
		"is renamed into place": func(t *testing.T, etc, _ string) {
			write(t, filepath.Join(etc, "new"))
			if err := os.Rename(filepath.Join(etc, "new"), filepath.Join(etc, "resolv.conf")); err != nil {
				t.Fatal(err)
			}
		},
		"is a link whose target's folder appears": func(t *testing.T, etc, run string) {
			if err := os.MkdirAll(filepath.Join(run, "systemd"), 0o755); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			etc, run := filepath.Join(root, "etc"), filepath.Join(root, "run")
			for _, d := range []string{etc, run} {
				if err := os.Mkdir(d, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			conf := filepath.Join(etc, "resolv.conf")
			if name == "is a link whose target's folder appears" {
				if err := os.Symlink("../run/systemd/resolv.conf", conf); err != nil {
					t.Fatal(err)
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			changed, err := watchFiles(ctx, []string{conf})
			if err != nil {
				t.Fatal(err)
			}
			await := func() {
				t.Helper()
				select {
				case <-changed:
				case <-ctx.Done():
					t.Fatal("the change was not noticed")
				}
			}
			write(t, filepath.Join(etc, "hosts")) // of no interest
			change(t, etc, run)
			await()
			if _, err := os.Stat(filepath.Join(run, "systemd")); err == nil {
				write(t, filepath.Join(run, "systemd", "resolv.conf"))
				await()
			}
		})
	}
}
