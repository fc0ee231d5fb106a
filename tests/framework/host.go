package framework

import (
	"context"
	"crypto/rand"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Options describe a host.
type Options struct {
	Name         string     // host name, and so the node's: another one for each host of a cluster; default "box"
	Network      *Network   // default: one of its own
	Address      netip.Addr // on eth0; default: the network's next free one
	DefaultRoute bool       // through the network's bridge, which leads nowhere; default: none, but behind a NAT always
}

// Host is one machine. Its methods may be used from several goroutines, except Join, Reboot, Close and those that change
// its cable or its address.
type Host struct {
	Name    string
	Address netip.Addr // of eth0
	Server  *Host      // a server of the cluster that the host has joined as an agent; nil for others

	run     *run
	opts    Options
	dir     string // on the machine: root and logs
	cgroup  string
	init    *exec.Cmd
	control *net.UnixConn
	ownNet  *Network // made for this host
	mac     net.HardwareAddr
	cable   cable
	clock   atomic.Int64 // seconds that it is ahead

	mu      sync.Mutex
	edgebox *Cmd // the server or the agent
}

// busybox is from Debian's busybox-static.
const busybox = "/bin/busybox"

// Binary is edgebox's place in a host.
const Binary = "/usr/local/bin/edgebox"

// NewHost boots a host that is closed at the end of the test. When the test fails, what the host knows is logged.
func NewHost(t testing.TB, opts Options) *Host {
	t.Helper()
	h, err := Boot(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			h.Dump(t)
		}
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// Boot makes a host.
func Boot(opts Options) (*Host, error) {
	r, err := theRun()
	if err != nil {
		return nil, err
	}
	if opts.Name == "" {
		opts.Name = "box"
	}
	h := &Host{Name: opts.Name, run: r, opts: opts}
	if h.dir, err = r.hostDir(opts.Name); err != nil {
		return nil, err
	}
	h.cgroup = cgroupPrefix + filepath.Base(r.dir) + "-" + filepath.Base(h.dir)
	if h.opts.Network == nil {
		if h.ownNet, err = OpenNetwork(netip.MustParsePrefix("192.168.77.0/24")); err != nil {
			return nil, err
		}
		h.opts.Network = h.ownNet
	}
	h.Address = opts.Address
	if !h.Address.IsValid() {
		h.Address = h.opts.Network.nextAddress()
	}
	h.mac = make(net.HardwareAddr, 6)
	_, _ = rand.Read(h.mac)    // never fails
	h.mac[0] = h.mac[0]&^1 | 2 // locally administered, of one station
	r.addHost(h)
	err = h.makeRoot()
	if err == nil {
		err = makeCgroup(h.cgroup)
	}
	if err == nil {
		err = h.boot()
	}
	if err != nil {
		_ = h.Close()
		return nil, fmt.Errorf("boot host %s: %w", h.Name, err)
	}
	return h, nil
}

func (h *Host) root() string { return filepath.Join(h.dir, "root") }

// makeRoot fills the root file system: what a small distribution has, and edgebox.
func (h *Host) makeRoot() error {
	for _, dir := range []string{
		"bin", "dev", "etc", "home", "lib", "opt", "proc", "root", "run", "sbin", "sys", "tmp", "usr/local/bin", "usr/sbin",
		"var/lib", "var/log", "var/tmp",
	} {
		if err := os.MkdirAll(filepath.Join(h.root(), dir), 0o755); err != nil {
			return err
		}
	}
	files := map[string]string{
		"etc/hostname": h.Name + "\n",
		"etc/hosts":    "127.0.0.1 localhost\n::1 localhost\n127.0.1.1 " + h.Name + "\n", // as Debian has it
		// A site without DNS: names are answered by the cluster or not at all.
		"etc/resolv.conf": "",
		"etc/machine-id":  machineID(h.dir) + "\n",
		"etc/passwd":      "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
		"etc/group":       "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
		"etc/os-release":  "ID=edgebox-test\nNAME=\"edgebox test host\"\nPRETTY_NAME=\"edgebox test host\"\n",
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(h.root(), name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	if err := os.Symlink("../run", filepath.Join(h.root(), "var/run")); err != nil {
		return err
	}
	if err := installBusybox(filepath.Join(h.root(), "bin")); err != nil {
		return err
	}
	bin := EdgeboxBinary()
	if _, err := os.Stat(bin); errors.Is(err, os.ErrNotExist) {
		return nil // tests of the framework itself do without
	}
	return copyFile(bin, filepath.Join(h.root(), Binary))
}

// machineID is a valid /etc/machine-id, another one for each host.
func machineID(dir string) string {
	fi, err := os.Stat(dir)
	if err != nil {
		return strings.Repeat("0", 31) + "1"
	}
	return fmt.Sprintf("%016x%016x", fi.Sys().(*syscall.Stat_t).Ino, fi.ModTime().UnixNano())
}

func installBusybox(dir string) error {
	if err := mustBeStatic(busybox); err != nil {
		return fmt.Errorf("%w: apt-get install busybox-static", err)
	}
	if err := copyFile(busybox, filepath.Join(dir, "busybox")); err != nil {
		return err
	}
	applets, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		return fmt.Errorf("list busybox' applets: %w", err)
	}
	for applet := range strings.FieldsSeq(string(applets)) {
		if applet == "busybox" {
			continue
		}
		if err := os.Symlink("busybox", filepath.Join(dir, applet)); err != nil {
			return err
		}
	}
	return nil
}

// mustBeStatic fails when the file needs a loader, which hosts and images do not have.
func mustBeStatic(path string) error {
	f, err := elf.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("%s is not static", path)
		}
	}
	return nil
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// EdgeboxBinary is the edgebox under test.
func EdgeboxBinary() string {
	if bin := os.Getenv("EDGEBOX_BIN"); bin != "" {
		return bin
	}
	return filepath.Join(repository(), "bin", "edgebox")
}

// repository is the checkout that this program belongs to: the nearest directory above the working directory with a
// go.mod.
func repository() string {
	wd, err := os.Getwd()
	if err != nil {
		return "."
	}
	for dir := wd; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
	}
	return wd
}

// boot starts the host's pid 1 and connects its network.
func (h *Host) boot() error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	theirs, mine := os.NewFile(uintptr(pair[1]), "control"), os.NewFile(uintptr(pair[0]), "control")
	defer func() { _ = theirs.Close() }()
	conn, err := net.FileConn(mine)
	_ = mine.Close()
	if err != nil {
		return err
	}
	h.control = conn.(*net.UnixConn)

	log, err := os.OpenFile(filepath.Join(h.dir, "init.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	h.init = exec.Command("/proc/self/exe")
	h.init.Args = []string{"init"}
	h.init.Env = []string{roleVar + "=setup"}
	h.init.Stdout, h.init.Stderr = log, log
	h.init.ExtraFiles = []*os.File{theirs}
	h.init.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
		Setsid:     true,
	}
	if err := h.init.Start(); err != nil {
		return fmt.Errorf("start init: %w", err)
	}
	pid := h.init.Process.Pid
	if err := joinCgroup(h.cgroup, pid); err != nil {
		return err
	}
	if err := h.plugIn(); err != nil {
		return err
	}
	if err := sendConn(h.control, hostConfig{Root: h.root(), Hostname: h.Name}); err != nil {
		return err
	}
	_ = theirs.Close()
	var reply bootReply
	if _, err := receiveConn(h.control, &reply); err != nil {
		text, _ := os.ReadFile(log.Name())
		return fmt.Errorf("init has died: %w: %s", err, text)
	}
	if reply.Error != "" {
		return errors.New(reply.Error)
	}
	return nil
}

// request passes a command and its descriptors to the host's init.
func (h *Host) request(req execRequest, fds []int) error {
	return sendConn(h.control, req, fds...)
}

// halt cuts the power: all processes are killed, mounts and links vanish.
func (h *Host) halt() {
	if h.control != nil {
		_ = h.control.Close()
		h.control = nil
	}
	if h.init != nil {
		_ = h.init.Process.Kill()
		_ = h.init.Wait() // returns when the last process of the pid namespace has gone
		h.init = nil
	}
	h.powerOff()
	h.mu.Lock()
	h.edgebox = nil
	h.mu.Unlock()
}

// Reboot cuts the power and boots again. Everything but /run and /tmp is as it was left, the
// cable too.
func (h *Host) Reboot() error {
	h.halt()
	return errors.Join(removeCgroups(h.cgroup), makeCgroup(h.cgroup), h.boot())
}

// Close ends the host and removes it. Closing again has no effect.
func (h *Host) Close() error {
	if !h.run.forget(h) {
		return nil
	}
	h.halt()
	if h.ownNet != nil {
		h.ownNet.Close()
	}
	return errors.Join(removeCgroups(h.cgroup), os.RemoveAll(h.dir))
}

// File gives the path under which a file of the host can be reached from outside. A symbolic link with an absolute
// target leads astray.
func (h *Host) File(path string) string {
	return fmt.Sprintf("/proc/%d/root%s", h.init.Process.Pid, path)
}

// WriteFile writes a file of the host and makes the directories above it.
func (h *Host) WriteFile(path, content string) error {
	if err := os.MkdirAll(filepath.Dir(h.File(path)), 0o755); err != nil {
		return err
	}
	return os.WriteFile(h.File(path), []byte(content), 0o644)
}

// Shell runs a script with busybox' sh.
func (h *Host) Shell(t testing.TB, script string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	out, err := h.Run(ctx, "sh", "-ec", script)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}
