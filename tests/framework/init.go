package framework

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// This file is what runs inside a host as pid 1. It talks to the program over a seqpacket socket, on which each
// message is one JSON document, with file descriptors where a type says so.

// controlFD is where pid 1 finds the socket.
const controlFD = 3

// hostConfig is the first message to pid 1.
type hostConfig struct {
	Root     string // directory that becomes /
	Hostname string
}

// bootReply is pid 1's answer: the host is up, or why not.
type bootReply struct{ Error string }

// execRequest asks pid 1 to start a process. It comes with four descriptors: a socket on which the process is
// answered for, and its stdin, stdout and stderr.
type execRequest struct {
	Args []string
	Env  []string
	Dir  string
}

// execReply is sent twice for a process: when it has started, and when it has ended. The first alone has PID or Error.
type execReply struct {
	PID    int
	Error  string
	Status syscall.WaitStatus
}

// hostPath is the PATH of all processes in a host.
const hostPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// setupHost makes the host's root file system the root and continues as the host's init. The program has made all
// namespaces but the cgroup's, and puts this process into the host's cgroup before it sends the configuration.
func setupHost() {
	runtime.LockOSThread()
	var config hostConfig
	err := receive(controlFD, &config)
	if err == nil {
		err = errors.Join(unix.Sethostname([]byte(config.Hostname)), setupMounts(config.Root))
	}
	if err == nil {
		env := []string{roleVar + "=init", "PATH=" + hostPath}
		// The new cgroup namespace is this thread's alone until exec ends the others.
		err = fmt.Errorf("exec init: %w", unix.Exec("/proc/self/exe", []string{"init"}, env))
	}
	_ = send(controlFD, bootReply{Error: err.Error()})
	os.Exit(1)
}

func setupMounts(root string) error {
	hs := hierarchies() // as the machine has mounted them
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount(root, root, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s: %w", root, err)
	}
	for _, m := range []struct {
		source, target, fstype string
		flags                  uintptr
		data                   string
	}{
		{"proc", "proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"sysfs", "sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"dev", "dev", "tmpfs", unix.MS_NOSUID, "mode=755"},
		{"devpts", "dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"},
		{"shm", "dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
		{"mqueue", "dev/mqueue", "mqueue", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"run", "run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=755"},
		{"tmp", "tmp", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
	} {
		target := filepath.Join(root, m.target)
		if err := os.MkdirAll(target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.source, target, m.fstype, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
		if m.target == "dev" {
			if err := makeDevices(target); err != nil {
				return err
			}
		}
	}
	if _, err := os.Stat("/lib/modules"); err == nil {
		target := filepath.Join(root, "lib/modules")
		if err := errors.Join(os.MkdirAll(target, 0o755),
			unix.Mount("/lib/modules", target, "", unix.MS_BIND|unix.MS_RDONLY, "")); err != nil {
			return fmt.Errorf("bind /lib/modules: %w", err)
		}
	}
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil { // the old root now lies over the new one
		return fmt.Errorf("pivot root: %w", err)
	}
	if err := errors.Join(unix.Unmount(".", unix.MNT_DETACH), os.Chdir("/")); err != nil {
		return fmt.Errorf("leave the old root: %w", err)
	}
	if err := mountCgroups(hs); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil { // as systemd does
		return fmt.Errorf("make mounts shared: %w", err)
	}
	return nil
}

func makeDevices(dir string) error {
	type device struct {
		name         string
		mode         uint32
		major, minor uint32
	}
	devices := []device{
		{"null", unix.S_IFCHR | 0o666, 1, 3}, {"zero", unix.S_IFCHR | 0o666, 1, 5}, {"full", unix.S_IFCHR | 0o666, 1, 7},
		{"random", unix.S_IFCHR | 0o666, 1, 8}, {"urandom", unix.S_IFCHR | 0o666, 1, 9}, {"kmsg", unix.S_IFCHR | 0o600, 1, 11},
		{"tty", unix.S_IFCHR | 0o666, 5, 0}, {"fuse", unix.S_IFCHR | 0o666, 10, 229}, {"net/tun", unix.S_IFCHR | 0o666, 10, 200},
		{"loop-control", unix.S_IFCHR | 0o600, 10, 237},
	}
	for i := range uint32(8) {
		devices = append(devices, device{fmt.Sprintf("loop%d", i), unix.S_IFBLK | 0o600, 7, i})
	}
	unix.Umask(0)
	defer unix.Umask(0o022)
	if err := os.Mkdir(filepath.Join(dir, "net"), 0o755); err != nil {
		return err
	}
	for _, d := range devices {
		if err := unix.Mknod(filepath.Join(dir, d.name), d.mode, int(unix.Mkdev(d.major, d.minor))); err != nil {
			return fmt.Errorf("make /dev/%s: %w", d.name, err)
		}
	}
	for name, target := range map[string]string{
		"ptmx": "pts/ptmx", "fd": "/proc/self/fd",
		"stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
	} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// serveCommands is pid 1 after set-up. It ends, and with it the host, when the program closes the socket or dies.
// (A parent-death signal would come with the end of the thread that started pid 1, which need not be the program's.)
func serveCommands() {
	// Not signal.Ignore: ignored signals are ignored in children too.
	signal.Notify(make(chan os.Signal, 1), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	c, err := net.FileConn(os.NewFile(controlFD, "control"))
	if err != nil {
		fmt.Fprintln(os.Stderr, "init:", err)
		os.Exit(1)
	}
	unix.CloseOnExec(controlFD)
	control := c.(*net.UnixConn)
	r := &reaper{procs: make(map[int]chan syscall.WaitStatus)}
	go r.run()
	if err := sendConn(control, bootReply{}); err != nil {
		os.Exit(1)
	}
	for {
		var req execRequest
		fds, err := receiveConn(control, &req)
		if err != nil {
			os.Exit(0)
		}
		if len(fds) != 4 {
			fmt.Fprintf(os.Stderr, "init: request with %d descriptors\n", len(fds))
			os.Exit(1)
		}
		go r.serve(req, fds)
	}
}

// reaper starts processes and waits for these and for all orphans of the host.
type reaper struct {
	mu    sync.Mutex
	procs map[int]chan syscall.WaitStatus
}

func (r *reaper) run() {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGCHLD)
	for range ended {
		for r.reapOne() {
		}
	}
}

func (r *reaper) reapOne() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	var status syscall.WaitStatus
	pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
	if errors.Is(err, syscall.EINTR) {
		return true
	}
	if err != nil || pid <= 0 {
		return false
	}
	if ch, ok := r.procs[pid]; ok {
		delete(r.procs, pid)
		ch <- status
	}
	return true
}

// start holds the lock over fork, so that the process is known before it can be reaped.
func (r *reaper) start(req execRequest, stdio []uintptr) (int, chan syscall.WaitStatus, error) {
	path, err := exec.LookPath(req.Args[0])
	if err != nil {
		return 0, nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := syscall.ForkExec(path, req.Args, &syscall.ProcAttr{
		Dir: req.Dir, Env: req.Env, Files: stdio,
		Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return 0, nil, fmt.Errorf("start %s: %w", path, err)
	}
	ch := make(chan syscall.WaitStatus, 1)
	r.procs[pid] = ch
	return pid, ch, nil
}

// serve starts the process, passes on signals, and kills its process group when the other side hangs up first.
func (r *reaper) serve(req execRequest, fds []int) {
	file := os.NewFile(uintptr(fds[0]), "process")
	c, err := net.FileConn(file)
	_ = file.Close()
	if err != nil {
		return
	}
	conn := c.(*net.UnixConn)
	defer func() { _ = conn.Close() }()
	pid, ended, err := r.start(req, []uintptr{uintptr(fds[1]), uintptr(fds[2]), uintptr(fds[3])})
	for _, fd := range fds[1:] {
		_ = unix.Close(fd)
	}
	if err != nil {
		_ = sendConn(conn, execReply{Error: err.Error()})
		return
	}
	_ = sendConn(conn, execReply{PID: pid})
	go func() {
		for {
			var sig syscall.Signal
			if _, err := receiveConn(conn, &sig); err != nil {
				r.kill(pid, -pid, unix.SIGKILL)
				return
			}
			r.kill(pid, pid, sig)
		}
	}()
	_ = sendConn(conn, execReply{Status: <-ended})
}

// kill sends a signal to target, which is pid or its group, unless pid was reaped and may now be another's.
func (r *reaper) kill(pid, target int, sig syscall.Signal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.procs[pid]; ok {
		_ = syscall.Kill(target, sig)
	}
}

const maxMessage = 192 << 10 // below the default limit of a socket's send buffer

func send(fd int, msg any) error {
	data, err := json.Marshal(msg)
	if err != nil {
		return err
	}
	return unix.Send(fd, data, 0)
}

func receive(fd int, msg any) error {
	buf := make([]byte, maxMessage)
	n, err := unix.Read(fd, buf)
	if err != nil {
		return err
	}
	return json.Unmarshal(buf[:n], msg)
}

func sendConn(c *net.UnixConn, msg any, fds ...int) error {
	data, err := json.Marshal(msg)
	if err != nil {
		return err
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	_, _, err = c.WriteMsgUnix(data, oob, nil)
	return err
}

func receiveConn(c *net.UnixConn, msg any) ([]int, error) {
	buf, oob := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(4*8))
	n, oobn, _, _, err := c.ReadMsgUnix(buf, oob)
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, net.ErrClosed
	}
	var fds []int
	if msgs, err := unix.ParseSocketControlMessage(oob[:oobn]); err == nil {
		for _, m := range msgs {
			got, err := unix.ParseUnixRights(&m)
			if err != nil {
				return nil, err
			}
			fds = append(fds, got...)
		}
	}
	return fds, json.Unmarshal(buf[:n], msg)
}
