package databases

import (
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Postgres starts a PostgreSQL server.
func Postgres(t testing.TB, opts Options) *Server {
	t.Helper()
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres") // as Debian has it
	if len(found) == 0 {
		t.Fatal("there is no PostgreSQL: run scripts/deps.sh")
	}
	slices.Sort(found)
	bin := filepath.Dir(found[len(found)-1])
	s := newServer(t, opts, "postgres")
	s.write("password", Password)
	data := s.file("data")
	s.prepare(filepath.Join(bin, "initdb"), "-D", data, "-U", "kine", "-A", "scram-sha-256",
		"--pwfile", s.file("password"), "-E", "UTF8", "--locale", "C", "--no-sync")
	hba := "host all all all scram-sha-256\n"
	s.args = []string{filepath.Join(bin, "postgres"), "-D", data, "-h", s.opts.Address, "-p", strconv.Itoa(s.opts.Port),
		"-c", "unix_socket_directories=" + s.dir, "-c", "log_line_prefix=%m [%p] ", "-c", "shared_buffers=16MB"}
	if opts.Cert != "" {
		hba = "hostssl all all all scram-sha-256 clientcert=verify-ca\n"
		s.args = append(s.args, "-c", "ssl=on", "-c", "ssl_cert_file="+s.file("server.crt"), "-c", "ssl_key_file="+s.file("server.key"),
			"-c", "ssl_ca_file="+s.file("ca.crt"))
	}
	s.write("data/pg_hba.conf", "local all all scram-sha-256\n"+hba)
	s.exec = func(database, statement string) (string, error) { // over the socket: a path knows no network namespace
		cmd := exec.Command(filepath.Join(bin, "psql"), "-h", s.dir, "-p", strconv.Itoa(s.opts.Port), "-U", "kine", "-d", database,
			"-w", "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-c", statement)
		cmd.Env = append(os.Environ(), "PGPASSWORD="+Password)
		out, err := cmd.CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	s.answers = func() error {
		_, err := s.exec("postgres", "SELECT 1")
		return err
	}
	s.Start()
	return s
}

// PostgresDSN is the data source of a server; params may be empty.
func PostgresDSN(address, params string) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword("kine", Password), Host: address, Path: "/kine", RawQuery: params}
	return u.String()
}
