// Package databases runs real database servers for tests: Debian's PostgreSQL and MariaDB, and NATS and etcd as they are in
// the module graph; each as an unprivileged user, in a folder that goes with the test.
package databases

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
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
	Port    int    // default: a free one of 127.0.0.1
	// CA, Cert and Key are PEM. With them connections need TLS and a client certificate.
	CA, Cert, Key string
	// On calls its argument on a thread of its own, which may be in another network namespace. Default: in this one.
	On func(func() error) error
}

// Server is a database server.
type Server struct {
	t    testing.TB
	opts Options
	dir  string
	as   *syscall.Credential
	args []string // of the program
	// answers tells whether it can be used.
	answers func() error
	exec    func(database, statement string) (string, error) // of SQL

	mu    sync.Mutex
	cmd   *exec.Cmd
	ended chan struct{}
}

// newServer makes the folder of a server that will run as that user. The server ends with the test.
func newServer(t testing.TB, opts Options, name string) *Server {
	t.Helper()
	if opts.Address == "" {
		opts.Address = "127.0.0.1"
	}
	if opts.Port == 0 {
		opts.Port = FreePort(t)
	}
	if opts.On == nil {
		opts.On = func(f func() error) error {
			done := make(chan error, 1)
			go func() {
				runtime.LockOSThread() // for good: the thread ends with the goroutine
				done <- f()
			}()
			return <-done
		}
	}
	u, err := user.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{t: t, opts: opts, dir: t.TempDir(), as: &syscall.Credential{Uid: number(t, u.Uid), Gid: number(t, u.Gid)}}
	// The folders above are testing's, and only for root.
	for dir := filepath.Dir(s.dir); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(s.dir, int(s.as.Uid), int(s.as.Gid)); err != nil {
		t.Fatal(err)
	}
	if opts.Cert != "" {
		s.write("server.crt", opts.Cert)
		s.write("server.key", opts.Key)
		s.write("ca.crt", opts.CA)
	}
	t.Cleanup(func() {
		s.Kill()
		if t.Failed() && s.args != nil {
			log, _ := os.ReadFile(s.file("log"))
			lines := strings.Split(string(log), "\n")
			t.Logf("end of the log of %s:\n%s", s.args[0], strings.Join(lines[max(0, len(lines)-40):], "\n"))
		}
	})
	return s
}

func number(t testing.TB, id string) uint32 {
	t.Helper()
	n, err := strconv.ParseUint(id, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(n)
}

// FreePort is one of 127.0.0.1.
func FreePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func (s *Server) file(name string) string { return filepath.Join(s.dir, name) }

// write makes a file that the server can read.
func (s *Server) write(name, content string) {
	s.t.Helper()
	if err := os.WriteFile(s.file(name), []byte(content), 0o600); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Chown(s.file(name), int(s.as.Uid), int(s.as.Gid)); err != nil {
		s.t.Fatal(err)
	}
}

// prepare runs a command that makes the data.
func (s *Server) prepare(args ...string) {
	s.t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.SysProcAttr, cmd.Dir = &syscall.SysProcAttr{Credential: s.as}, s.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// Address is where the server listens.
func (s *Server) Address() string { return net.JoinHostPort(s.opts.Address, strconv.Itoa(s.opts.Port)) }

// dial connects to the server from where it is.
func (s *Server) dial() (conn net.Conn, err error) {
	err = s.opts.On(func() error {
		conn, err = net.DialTimeout("tcp", s.Address(), time.Second)
		return err
	})
	return conn, err
}

// Start starts the server and waits until it answers.
func (s *Server) Start() {
	s.t.Helper()
	log, err := os.OpenFile(s.file("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(s.args[0], s.args[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.as, Pdeathsig: syscall.SIGKILL}
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.dir, log, log
	// A killed test takes the server with it, for which the thread that started it must live as long.
	started, ended := make(chan error, 2), make(chan struct{})
	go func() {
		started <- s.opts.On(func() error {
			err := cmd.Start()
			started <- err
			<-ended
			return err
		})
	}()
	if err := <-started; err != nil {
		close(ended)
		s.t.Fatal("start: ", err)
	}
	s.mu.Lock()
	s.cmd, s.ended = cmd, ended
	s.mu.Unlock()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		err := s.answers()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%s does not answer: %v", s.args[0], err)
		}
	}
}

// Exec runs a statement in a database, and returns its rows.
func (s *Server) Exec(database, statement string) string {
	s.t.Helper()
	out, err := s.exec(database, statement)
	if err != nil {
		s.t.Fatalf("%s: %v: %s", statement, err, out)
	}
	return out
}

// Stop ends the server as a service manager does: connections are cut, what was committed is written.
func (s *Server) Stop() {
	how := syscall.SIGTERM
	if strings.HasSuffix(s.args[0], "postgres") {
		how = syscall.SIGINT // it would wait for clients to leave
	}
	s.end(how)
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
		for deadline := time.Now().Add(30 * time.Second); alive(pid, filepath.Base(s.args[0])); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				s.t.Errorf("process %d of %s is still there", pid, s.args[0])
				return
			}
		}
	}
}

// alive reports whether a process of that program has that id.
func alive(pid int, program string) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return false
	}
	fields := strings.Fields(string(text))
	return len(fields) > 2 && strings.Contains(fields[1], program) && fields[2] != "Z"
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
