package framework

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// run is what one program using this package keeps on the machine: a directory, whose lock it holds while it lives,
// and cgroups that bear the directory's name.
type run struct {
	dir     string
	lock    *os.File
	janitor *exec.Cmd
	alive   *os.File // write end of the pipe that tells the janitor that the program lives

	mu    sync.Mutex
	hosts map[*Host]bool
}

var current struct {
	sync.Mutex
	run *run
	err error
}

// theRun makes the program's run at the first call, after it has removed those of programs that are gone.
func theRun() (*run, error) {
	current.Lock()
	defer current.Unlock()
	if current.run == nil && current.err == nil {
		current.run, current.err = newRun()
	}
	return current.run, current.err
}

// Close ends all hosts and removes what the program made. Without it the janitor does so after the program's end.
func Close() {
	current.Lock()
	defer current.Unlock()
	r := current.run
	if r == nil {
		return
	}
	r.mu.Lock()
	hosts := r.hosts
	r.hosts = nil
	r.mu.Unlock()
	for h := range hosts {
		h.halt()
	}
	_ = r.alive.Close()
	_ = r.janitor.Wait()
	current.run = nil
}

func newRun() (*run, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("hosts are made of namespaces and cgroups: run the tests as root")
	}
	if err := mustBeStatic("/proc/self/exe"); err != nil { // it is pid 1 of hosts, which have no loader
		return nil, fmt.Errorf("%w: build it with CGO_ENABLED=0", err)
	}
	base := os.Getenv("EDGEBOX_TEST_DIR")
	if base == "" {
		base = "/var/tmp/edgebox-test"
	}
	if err := os.MkdirAll(base, 0o755); err != nil {
		return nil, err
	}
	if err := canHoldOverlays(base); err != nil {
		return nil, err
	}
	// Two programs that start at once must not take each other's new run for a dead one.
	baseLock, err := lockFile(filepath.Join(base, "lock"), unix.LOCK_EX)
	if err != nil {
		return nil, err
	}
	defer func() { _ = baseLock.Close() }()
	sweepDead(base)

	dir, err := os.MkdirTemp(base, "run-")
	if err != nil {
		return nil, err
	}
	r := &run{dir: dir, hosts: make(map[*Host]bool)}
	if r.lock, err = lockFile(filepath.Join(dir, "lock"), unix.LOCK_EX); err != nil {
		return nil, err
	}
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		return nil, fmt.Errorf("pipe to the janitor: %w", err)
	}
	readEnd := os.NewFile(uintptr(ends[0]), "janitor")
	defer func() { _ = readEnd.Close() }()
	r.alive = os.NewFile(uintptr(ends[1]), "alive")
	r.janitor = exec.Command("/proc/self/exe", dir)
	r.janitor.Env = []string{roleVar + "=janitor"}
	r.janitor.Stdin = readEnd
	r.janitor.ExtraFiles = []*os.File{r.lock} // the run is in use until the janitor has ended too
	r.janitor.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := r.janitor.Start(); err != nil {
		return nil, fmt.Errorf("start the janitor: %w", err)
	}
	return r, nil
}

func lockFile(path string, how int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), how); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

func canHoldOverlays(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("statfs %s: %w", dir, err)
	}
	if st.Type == unix.OVERLAYFS_SUPER_MAGIC {
		return fmt.Errorf("%s is on overlayfs, which cannot hold containers: set EDGEBOX_TEST_DIR to a folder on a disk", dir)
	}
	return nil
}

// sweepAfterParent is the janitor: it waits for the program's end and removes its run.
func sweepAfterParent() {
	_, _ = io.Copy(io.Discard, os.Stdin)
	sweep(os.Args[1])
	os.Exit(0)
}

// sweepDead removes the runs whose program and janitor are both gone.
func sweepDead(base string) {
	dirs, _ := filepath.Glob(filepath.Join(base, "run-*"))
	for _, dir := range dirs {
		lock, err := lockFile(filepath.Join(dir, "lock"), unix.LOCK_EX|unix.LOCK_NB)
		if err != nil {
			continue
		}
		sweep(dir)
		_ = lock.Close()
	}
}

// sweep removes a run's cgroups and directory. Its hosts may still be dying.
func sweep(dir string) {
	for _, h := range hierarchies() {
		groups, _ := filepath.Glob(filepath.Join(h.mountpoint, cgroupPrefix+filepath.Base(dir)+"-*"))
		for _, g := range groups {
			_ = removeCgroup(g)
		}
	}
	_ = os.RemoveAll(dir)
}

// removeCgroup removes a cgroup and those below it, and waits for processes in it that are about to end.
func removeCgroup(dir string) error {
	var err error
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		var dirs []string
		_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		if len(dirs) == 0 {
			return nil
		}
		for i := len(dirs) - 1; i >= 0; i-- {
			err = unix.Rmdir(dirs[i])
		}
		if err == nil {
			return nil
		}
	}
	return fmt.Errorf("remove cgroup %s: %w", dir, err)
}

// cgroupPrefix begins the names of all cgroups that this package makes; the name of the run follows.
const cgroupPrefix = "edgebox-test-"

func (r *run) addHost(h *Host) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hosts[h] = true
}

// forget reports whether the host was still known, that is, whether the caller is the one to end it.
func (r *run) forget(h *Host) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	known := r.hosts[h]
	delete(r.hosts, h)
	return known
}

func (r *run) hostDir(name string) (string, error) {
	dir, err := os.MkdirTemp(r.dir, strings.ReplaceAll(name, "/", "_")+"-")
	if err != nil {
		return "", fmt.Errorf("folder for host %s: %w", name, err)
	}
	return dir, nil
}
