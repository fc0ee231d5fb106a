package footprint

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The test binary plays several parts, chosen by this variable.
const partVariable = "FOOTPRINT_TEST_PART"

// containerExe is what runs in the containers.
const containerExe = "/usr/local/test/app"

func TestMain(m *testing.M) {
	switch os.Getenv(partVariable) {
	case "": // the tests that need no host of their own; TestOnAHost starts the others
		os.Exit(m.Run())
	case "host":
		if err := enterHost(); err != nil {
			fmt.Fprintln(os.Stderr, "make a host:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	case "idle":
		time.Sleep(time.Hour)
	case "shim": // has one child, says its pid, and lives on
		c := exec.Command(containerExe)
		c.Env = []string{partVariable + "=idle"}
		if err := c.Start(); err != nil {
			panic(err)
		}
		fmt.Println(c.Process.Pid)
		_ = c.Wait()
		time.Sleep(time.Hour)
	}
}

// TestOnAHost runs this binary's onHost tests as pid 1 of new mount, network, pid, IPC and host name namespaces, with its
// own cgroups and empty /run, /etc, /var and /usr/local.
func TestOnAHost(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	group := fmt.Sprintf("edgebox-footprint-%d", os.Getpid())
	for _, point := range cgroupPoints() {
		dir := filepath.Join(point, group)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { removeGroups(t, dir) })
	}
	c := exec.Command("/proc/self/exe", "-test.run=^TestHost", "-test.v="+fmt.Sprint(testing.Verbose()), "-test.timeout=3m")
	c.Env = append(os.Environ(), partVariable+"=host", "FOOTPRINT_TEST_CGROUP="+group)
	c.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
		Pdeathsig:  unix.SIGKILL,
	}
	out, err := c.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Error(err)
	}
}

func cgroupPoints() []string {
	b, _ := os.ReadFile("/proc/self/mountinfo")
	s := survey{host: realHost(), mounts: parseMountinfo(string(b))}
	return s.hierarchies()
}

func removeGroups(t *testing.T, dir string) {
	deadline := time.Now().Add(5 * time.Second)
	for {
		for _, d := range realHost().tree(dir) {
			_ = os.Remove(d)
		}
		if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("cgroup %s is left", dir)
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func enterHost() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	for _, point := range cgroupPoints() {
		if err := unix.Mount(filepath.Join(point, os.Getenv("FOOTPRINT_TEST_CGROUP")), point, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("cgroup %s: %w", point, err)
		}
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return err
	}
	for _, dir := range []string{"/run", "/etc", "/var", "/usr/local", "/tmp"} {
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=755"); err != nil {
			return err
		}
	}
	return errors.Join(os.MkdirAll("/var/lib", 0o755), os.MkdirAll("/var/log", 0o755), os.MkdirAll("/run/netns", 0o755))
}

func onHost(t *testing.T) {
	t.Helper()
	if os.Getenv(partVariable) != "host" {
		t.Skip("runs within TestOnAHost")
	}
}

// start starts a part of this binary from the file exe, which is made if it is not there.
func start(t *testing.T, part, exe string, args ...string) *exec.Cmd {
	t.Helper()
	if _, err := os.Stat(exe); err != nil {
		copyFile(t, "/proc/self/exe", exe)
	}
	c := exec.Command(exe, args...)
	c.Env = []string{partVariable + "=" + part}
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return c
}

func idle(t *testing.T, exe string, args ...string) int {
	t.Helper()
	c := start(t, "idle", exe, args...)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	reapLater(t, c)
	return c.Process.Pid
}

// shim returns its pid and that of its container.
func shim(t *testing.T, exe string, args ...string) (pid, container int) {
	t.Helper()
	if !exists(containerExe) {
		copyFile(t, "/proc/self/exe", containerExe)
	}
	c := start(t, "shim", exe, args...)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscan(line, &container); err != nil {
		t.Fatal(err)
	}
	reapLater(t, c)
	return c.Process.Pid, container
}

func reapLater(t *testing.T, c *exec.Cmd) {
	done := make(chan struct{})
	go func() { _ = c.Wait(); close(done) }()
	t.Cleanup(func() { _ = c.Process.Kill(); <-done })
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Close()); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func alive(pid int) bool {
	p, found := realHost().readProc(pid)
	return found && !p.zombie
}

func mounted(path string) bool {
	b, _ := os.ReadFile("/proc/self/mountinfo")
	return strings.Contains(string(b), " "+path+" ")
}

func isShared(t *testing.T, point string) bool {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	shared := false
	for _, m := range parseMountinfo(string(b)) { // a later one covers an earlier one
		if m.point == point {
			shared = m.shared
		}
	}
	return shared
}
