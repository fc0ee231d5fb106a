// Package postgres runs a PostgreSQL server for a test: Debian's, as the unprivileged user that comes with it, in a folder
// that goes with the test.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Password is that of the user kine.
const Password = "sec-ret-Pa55"

// Options describe a server.
type Options struct {
	Address string // that it listens on; default: 127.0.0.1
	// Port is 5432 unless the address is shared with others; 0 finds a free one of 127.0.0.1.
	Port int
	// CA, Cert and Key are PEM. With them connections need TLS; with the CA also a client certificate.
	CA, Cert, Key string
	// On calls its argument on a thread of its own, which may be in another network namespace. Default: in this one.
	On func(func() error) error
}

// Server is a PostgreSQL server.
type Server struct {
	t    testing.TB
	opts Options
	bin  string
	dir  string
	as   *syscall.SysProcAttr

	mu    sync.Mutex
	cmd   *exec.Cmd
	ended chan struct{}
}

// New makes a database cluster and starts its server. Both end with the test.
func New(t testing.TB, opts Options) *Server {
	t.Helper()
	if opts.Address == "" {
		opts.Address = "127.0.0.1"
	}
	if opts.Port == 0 {
		opts.Port = freePort(t)
	}
	if opts.On == nil {
		opts.On = func(f func() error) error {
			runtime.LockOSThread() // for good: the thread ends with the goroutine
			return f()
		}
	}
	s := &Server{t: t, opts: opts, bin: binaries(t), dir: t.TempDir()}
	uid, gid := ids(t)
	s.as = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}, Pdeathsig: syscall.SIGKILL}
	files := map[string]string{"password": Password, "server.crt": opts.Cert, "server.key": opts.Key, "ca.crt": opts.CA}
	for name, content := range files {
		path := filepath.Join(s.dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, int(uid), int(gid)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(s.dir, int(uid), int(gid)); err != nil {
		t.Fatal(err)
	}
	// The folders above it are testing's, which makes one for each test, and only for root.
	for dir := filepath.Dir(s.dir); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	initdb := exec.Command(filepath.Join(s.bin, "initdb"), "-D", s.data(), "-U", "kine", "-A", "scram-sha-256",
		"--pwfile", filepath.Join(s.dir, "password"), "-E", "UTF8", "--locale", "C", "--no-sync")
	initdb.SysProcAttr, initdb.Dir = &syscall.SysProcAttr{Credential: s.as.Credential}, s.dir
	if out, err := initdb.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	hba := "host all all all scram-sha-256\n"
	if opts.Cert != "" {
		hba = "hostssl all all all scram-sha-256"
		if opts.CA != "" {
			hba += " clientcert=verify-ca"
		}
	}
	if err := os.WriteFile(filepath.Join(s.data(), "pg_hba.conf"), []byte("local all all scram-sha-256\n"+hba+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Kill()
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(s.dir, "log"))
			lines := strings.Split(string(log), "\n")
			t.Logf("end of PostgreSQL's log:\n%s", strings.Join(lines[max(0, len(lines)-40):], "\n"))
		}
	})
	s.Start()
	return s
}

// binaries is the folder of Debian's newest version.
func binaries(t testing.TB) string {
	t.Helper()
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if len(found) == 0 {
		t.Fatal("there is no PostgreSQL: apt-get install postgresql, or run scripts/deps.sh")
	}
	slices.Sort(found)
	return filepath.Dir(found[len(found)-1])
}

func ids(t testing.TB) (uid, gid uint32) {
	t.Helper()
	u, err := user.Lookup("postgres")
	if err != nil {
		t.Fatal(err)
	}
	id := func(s string) uint32 {
		n, err := strconv.ParseUint(s, 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		return uint32(n)
	}
	return id(u.Uid), id(u.Gid)
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

// Address is where the server listens.
func (s *Server) Address() string { return net.JoinHostPort(s.opts.Address, strconv.Itoa(s.opts.Port)) }

// DSN is the data source for kine, of a database of that name; params may be empty.
func (s *Server) DSN(database, params string) string { return DSN(s.Address(), database, params) }

// DSN is the data source of a server at another address, such as that of a proxy.
func DSN(address, database, params string) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword("kine", Password), Host: address, Path: "/" + database, RawQuery: params}
	return u.String()
}

// Start starts the server and waits until it answers.
func (s *Server) Start() {
	s.t.Helper()
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	args := []string{"-D", s.data(), "-h", s.opts.Address, "-p", strconv.Itoa(s.opts.Port),
		"-c", "unix_socket_directories=" + s.dir, "-c", "log_line_prefix=%m [%p] ", "-c", "shared_buffers=16MB"}
	if s.opts.Cert != "" {
		args = append(args, "-c", "ssl=on", "-c", "ssl_cert_file="+filepath.Join(s.dir, "server.crt"), "-c", "ssl_key_file="+filepath.Join(s.dir, "server.key"))
		if s.opts.CA != "" {
			args = append(args, "-c", "ssl_ca_file="+filepath.Join(s.dir, "ca.crt"))
		}
	}
	cmd := exec.Command(filepath.Join(s.bin, "postgres"), args...)
	cmd.SysProcAttr, cmd.Dir, cmd.Stdout, cmd.Stderr = s.as, s.dir, log, log
	// A killed test takes the server with it, for which the thread that started it must live as long.
	started, ended := make(chan error, 2), make(chan struct{})
	go func() {
		err := s.opts.On(func() error {
			err := cmd.Start()
			started <- err
			<-ended
			return err
		})
		started <- err
	}()
	if err := <-started; err != nil {
		close(ended)
		s.t.Fatal("start PostgreSQL: ", err)
	}
	s.mu.Lock()
	s.cmd, s.ended = cmd, ended
	s.mu.Unlock()
	deadline := time.Now().Add(time.Minute)
	for {
		// The socket is served when the database is, after a recovery.
		if out, err := s.psql(s.t.Context(), "postgres", "SELECT 1"); err == nil {
			return
		} else if time.Now().After(deadline) {
			text, _ := os.ReadFile(log.Name())
			s.t.Fatalf("PostgreSQL does not answer: %v\n%s\n%s", err, out, text)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// psql talks to the server over its socket: a path knows no network namespace.
func (s *Server) psql(ctx context.Context, database, statement string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, "psql"), "-h", s.dir, "-p", strconv.Itoa(s.opts.Port), "-U", "kine", "-d", database, "-w", "-X", "-A", "-t", "-q",
		"-v", "ON_ERROR_STOP=1", "-c", statement)
	cmd.Env = append(os.Environ(), "PGPASSWORD="+Password)
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// Exec runs a statement in a database, and returns its rows.
func (s *Server) Exec(database, statement string) string {
	s.t.Helper()
	out, err := s.psql(s.t.Context(), database, statement)
	if err != nil {
		s.t.Fatalf("%s: %v: %s", statement, err, out)
	}
	return out
}

// Stop ends the server as a service manager does: connections are cut, what was committed is written.
func (s *Server) Stop() {
	s.t.Helper()
	s.end(syscall.SIGINT)
}

// Kill ends the server and all its processes with SIGKILL, as a power cut would.
func (s *Server) Kill() { s.end(syscall.SIGKILL) }

func (s *Server) end(how syscall.Signal) {
	s.mu.Lock()
	cmd, ended := s.cmd, s.ended
	s.cmd = nil
	s.mu.Unlock()
	if cmd == nil {
		return
	}
	defer close(ended)
	pids := append(children(cmd.Process.Pid), cmd.Process.Pid)
	_ = cmd.Process.Signal(how)
	if how == syscall.SIGKILL {
		for _, pid := range pids {
			_ = syscall.Kill(pid, how)
		}
	}
	_ = cmd.Wait()
	for _, pid := range pids { // the next server cannot start before the last of these has gone
		for deadline := time.Now().Add(30 * time.Second); alive(pid); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				s.t.Errorf("process %d of PostgreSQL is still there", pid)
				return
			}
		}
	}
}

// alive reports whether a process of PostgreSQL has that id.
func alive(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return false
	}
	fields := strings.Fields(string(text))
	return len(fields) > 2 && strings.Contains(fields[1], "postgres") && fields[2] != "Z"
}

func children(pid int) []int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return nil
	}
	var pids []int
	for _, f := range strings.Fields(string(text)) {
		if n, err := strconv.Atoi(f); err == nil {
			pids = append(pids, n)
		}
	}
	return pids
}
