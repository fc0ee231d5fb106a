package framework

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// parentVar makes the program a test run of its own that boots a host and waits to be killed.
const parentVar = "EDGEBOX_TEST_PARENT"

func TestMain(m *testing.M) {
	Reexec()
	if os.Getenv(parentVar) != "" {
		bootAndWait()
	}
	if os.Getenv(timeVar) != "" {
		printTime()
	}
	Main(m)
}

func TestHostHasNothingButAKernel(t *testing.T) {
	t.Parallel()
	h := NewHost(t, Options{Name: "bare"})
	for _, tool := range []string{"nft", "iptables", "ipset", "conntrack", "containerd", "runc", "bridge", "host-local", "docker", "kubectl"} {
		if out, err := h.Run(t.Context(), "which", tool); err == nil {
			t.Errorf("%s can be reached: %s", tool, out)
		}
	}
	for _, tool := range []string{"mount", "umount", "sh"} {
		if _, err := h.Run(t.Context(), "which", tool); err != nil {
			t.Errorf("%s is missing: %v", tool, err)
		}
	}
	if got := h.Shell(t, "hostname"); got != "bare" {
		t.Errorf("hostname %q", got)
	}
	if got := h.Shell(t, "ip route | grep default || true"); got != "" {
		t.Errorf("there is a default route: %s", got)
	}
	if got := h.Shell(t, "ps -o pid,args | grep -v ps"); strings.Count(got, "\n") > 2 {
		t.Errorf("processes of others are seen:\n%s", got)
	}
	if got := h.Shell(t, "cut -d: -f3 /proc/1/cgroup | sort -u"); got != "/" {
		t.Errorf("pid 1 is not in the root of its cgroup namespace: %q", got)
	}
	h.Shell(t, `for d in $(find /sys/fs/cgroup -maxdepth 1 -mindepth 1 -type d); do [ ! -e $d/cgroup.procs ] || { mkdir $d/sub; rmdir $d/sub; }; done`)
	h.Shell(t, "grep ' / / ' /proc/self/mountinfo | grep shared: || grep -q 'root / .*shared:' /proc/self/mountinfo")
	h.Shell(t, "echo works >/dev/null; head -c 1 /dev/urandom; dd if=/dev/kmsg of=/dev/null count=1 2>/dev/null; test -c /dev/net/tun")
}

func TestHostsOnOneNetworkReachEachOther(t *testing.T) {
	t.Parallel()
	n := NewNetwork(t, netip.MustParsePrefix("10.99.0.0/24"))
	a := NewHost(t, Options{Name: "a", Network: n})
	b := NewHost(t, Options{Name: "b", Network: n, Address: netip.MustParseAddr("10.99.0.77"), DefaultRoute: true})
	if want := netip.MustParseAddr("10.99.0.11"); a.Address != want {
		t.Errorf("address %s, want %s", a.Address, want)
	}
	a.Shell(t, "ping -c 1 -W 5 10.99.0.77")
	b.Shell(t, "ping -c 1 -W 5 "+a.Address.String())
	if got := b.Shell(t, "ip route"); !strings.Contains(got, "default via 10.99.0.1 ") {
		t.Errorf("no default route: %s", got)
	}
	if sameFile(t, a.File("/etc/machine-id"), b.File("/etc/machine-id")) {
		t.Error("two machines have one machine id")
	}
}

func sameFile(t *testing.T, a, b string) bool {
	t.Helper()
	x, err := os.ReadFile(a)
	if err != nil {
		t.Fatal(err)
	}
	y, err := os.ReadFile(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(x) == string(y)
}

func TestCommands(t *testing.T) {
	t.Parallel()
	h := NewHost(t, Options{})
	out, err := h.Run(t.Context(), "sh", "-c", "echo out; echo err >&2; exit 3")
	if ExitCode(err) != 3 || out != "out\n" || !strings.Contains(err.Error(), "err") {
		t.Errorf("got %q, %v", out, err)
	}
	if _, err := h.Run(t.Context(), "no-such-command"); err == nil || !strings.Contains(err.Error(), "no-such-command") {
		t.Errorf("a missing command gives %v", err)
	}

	cat := h.Command(t.Context(), "cat")
	cat.Stdin = strings.NewReader(strings.Repeat("x", 1<<20))
	if out, err := cat.Output(); err != nil || len(out) != 1<<20 {
		t.Errorf("cat gave %d bytes, %v", len(out), err)
	}

	env := h.Command(t.Context(), "sh", "-c", "echo $WHO; pwd")
	env.Env, env.Dir = []string{"WHO=me"}, "/tmp"
	if out, err := env.Output(); err != nil || out != "me\n/tmp\n" {
		t.Errorf("got %q, %v", out, err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := h.Run(ctx, "sh", "-c", "sleep 1000 & sleep 1000"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a command that takes too long gives %v", err)
	}
	Eventually(t, 10*time.Second, func() error {
		if out := h.Shell(t, "ps -o args | grep '[s]leep 1000' || true"); out != "" {
			return fmt.Errorf("still running: %s", out)
		}
		return nil
	})
}

func TestServerIsKilledAloneAndHostOutlivesIt(t *testing.T) {
	t.Parallel()
	h := NewHost(t, Options{})
	// The second sleep is a shim: it must survive the server, and then be reaped by pid 1.
	if err := h.StartCommand("sh", "-c", "setsid sh -c 'echo up; exec sleep 2001' & exec sleep 2000"); err != nil {
		t.Fatal(err)
	}
	Eventually(t, 10*time.Second, func() error {
		if !strings.Contains(h.Logs(), "up\n") {
			return fmt.Errorf("logs: %q", h.Logs())
		}
		return nil
	})
	if err := h.StartCommand("true"); err == nil {
		t.Error("two servers at once")
	}
	if err := h.Kill9(); err != nil {
		t.Fatal(err)
	}
	Eventually(t, 10*time.Second, func() error {
		if out := h.Shell(t, "ps -o args | grep '[s]leep 200'"); out != "sleep 2001" {
			return fmt.Errorf("left: %q", out)
		}
		return nil
	})
	h.Shell(t, "kill $(pidof sleep)")
	Eventually(t, 10*time.Second, func() error {
		if out := h.Shell(t, "ps -o stat,args | grep '[s]leep' || true"); out != "" {
			return fmt.Errorf("zombies: %s", out)
		}
		return nil
	})

	if err := h.StartCommand("sh", "-c", "trap 'exit 7' TERM; echo trapped; while :; do sleep 0.05; done"); err != nil {
		t.Fatal(err)
	}
	Eventually(t, 10*time.Second, func() error {
		if !strings.Contains(h.Logs(), "trapped\n") {
			return fmt.Errorf("logs: %q", h.Logs())
		}
		return nil
	})
	if err := h.Stop(); ExitCode(err) != 7 {
		t.Errorf("stop gave %v", err)
	}
	if err := h.Kill9(); err == nil {
		t.Error("a server was killed that does not run")
	}
}

func TestRebootKeepsTheDisk(t *testing.T) {
	t.Parallel()
	h := NewHost(t, Options{})
	h.Shell(t, "mkdir -p /var/lib/edgebox; echo kept >/var/lib/edgebox/file; echo lost >/run/file; sleep 1000 >/dev/null 2>&1 &")
	if err := h.Reboot(); err != nil {
		t.Fatal(err)
	}
	if got := h.Shell(t, "cat /var/lib/edgebox/file; ls /run; pidof sleep || true; hostname"); got != "kept\nbox" {
		t.Errorf("after the reboot: %q", got)
	}
}

func TestOverlayOnTheDataDir(t *testing.T) {
	t.Parallel()
	h := NewHost(t, Options{})
	h.Shell(t, `cd /var/lib; mkdir -p d/low d/up d/work d/all; echo x >d/low/f
		mount -t overlay -o lowerdir=/var/lib/d/low,upperdir=/var/lib/d/up,workdir=/var/lib/d/work overlay d/all
		rm d/all/f; test -c d/up/f; umount d/all`)
}

// bootAndWait is a test run that tells where its host is and is then killed.
func bootAndWait() {
	h, err := Boot(Options{})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	if err := h.StartCommand("sleep", "3000"); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Printf("%s %s %d\n", h.run.dir, h.cgroup, h.init.Process.Pid)
	select {}
}

func TestKilledRunLeavesNothing(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), parentVar+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var dir, cgroup string
	var pid int
	if _, err := fmt.Fscan(out, &dir, &cgroup, &pid); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	Eventually(t, 30*time.Second, func() error {
		if err := unix.Kill(pid, 0); err == nil {
			return fmt.Errorf("pid 1 of the host, %d, still runs", pid)
		}
		if _, err := os.Stat(dir); err == nil {
			return fmt.Errorf("%s still exists", dir)
		}
		for _, h := range hierarchies() {
			if _, err := os.Stat(filepath.Join(h.mountpoint, cgroup)); err == nil {
				return fmt.Errorf("cgroup %s/%s still exists", h.mountpoint, cgroup)
			}
		}
		return nil
	})
}

func TestEveryHostLeavesNothing(t *testing.T) {
	t.Parallel()
	h := NewHost(t, Options{})
	dir, cgroup := h.dir, h.cgroup
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s: %v", dir, err)
	}
	for _, hi := range hierarchies() {
		if _, err := os.Stat(filepath.Join(hi.mountpoint, cgroup)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("cgroup %s/%s: %v", hi.mountpoint, cgroup, err)
		}
	}
}

func TestImageIsReproducible(t *testing.T) {
	t.Parallel()
	var a, b strings.Builder
	if err := Busybox().WriteArchive(&a); err != nil {
		t.Fatal(err)
	}
	if err := Busybox().WriteArchive(&b); err != nil {
		t.Fatal(err)
	}
	if a.String() != b.String() {
		t.Error("two archives of one image differ")
	}
}

func TestNetworkOfHostFromOutside(t *testing.T) {
	t.Parallel()
	h := NewHost(t, Options{})
	h.Shell(t, "echo hello >/tmp/page; httpd -p 127.0.0.1:7000 -h /tmp")
	conn, err := h.DialContext(t.Context(), "tcp", "127.0.0.1:7000")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := io.WriteString(conn, "GET /page HTTP/1.0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); err != nil || !strings.HasSuffix(string(got), "\r\n\r\nhello\n") {
		t.Errorf("read %q, %v", got, err)
	}
	if tables, err := h.NFTables(); err != nil || len(tables) != 0 {
		t.Errorf("tables of a fresh host: %v, %v", tables, err)
	}
}
