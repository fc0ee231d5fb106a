package databases

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// NATS starts a NATS server with JetStream.
func NATS(t testing.TB, opts Options) *Server {
	t.Helper()
	s := newServer(t, opts, "nobody")
	s.args = []string{build(t, "github.com/nats-io/nats-server/v2"), "-c", s.file("conf")}
	conf := fmt.Sprintf("listen: %s:%s\nauthorization { user: kine, password: %q }\njetstream { store_dir: %q, sync_interval: always }\n",
		s.opts.Address, strconv.Itoa(s.opts.Port), Password, s.file("data"))
	if opts.Cert != "" {
		conf += fmt.Sprintf("tls { cert_file: %q, key_file: %q, ca_file: %q, verify: true }\n", s.file("server.crt"), s.file("server.key"), s.file("ca.crt"))
	}
	s.write("conf", conf)
	s.answers = func() error {
		conn, err := s.dial()
		if err == nil {
			err = conn.Close()
		}
		return err
	}
	s.Start()
	return s
}

// NATSDSN is the data source of a server.
func NATSDSN(address string) string { return "nats://kine:" + Password + "@" + address }

// build makes a program of the module graph, unless it is there.
func build(t testing.TB, pkg string) string {
	t.Helper()
	dir := os.Getenv("EDGEBOX_TEST_DIR")
	if dir == "" {
		dir = "/var/tmp/edgebox-test" // as tests/framework has it; others than root must get there
	}
	out, err := exec.Command("go", "list", "-f", "{{.Module.Version}}", pkg).Output()
	if err != nil {
		t.Fatalf("go list %s: %v", pkg, err)
	}
	name := strings.NewReplacer("/", "_", "@", "_").Replace(pkg) + "_" + strings.TrimSpace(string(out))
	path := filepath.Join(dir, "programs", name)
	if _, err := os.Stat(path); err == nil {
		return path
	}
	made := fmt.Sprintf("%s.%d", path, os.Getpid())
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", made, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build %s: %v\n%s", pkg, err, out)
	}
	if err := os.Rename(made, path); err != nil {
		t.Fatal(err)
	}
	return path
}
