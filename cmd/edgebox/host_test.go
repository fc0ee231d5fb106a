package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/edgebox/edgebox/pkg/payload"
)

// The tests run the compiled front, with /run, /etc and /var of their own, and without control
// groups where they uninstall, so that they neither see nor leave
// anything on this machine.

var (
	bare   string // a front without payload
	packed string // one whose payload is scripts that tell how they were called
)

func TestMain(m *testing.M) {
	if os.Getuid() != 0 {
		os.Stderr.WriteString("skipped: the front is tested in namespaces, which takes root\n")
		os.Exit(0)
	}
	code, err := build(m.Run)
	if err != nil {
		os.Stderr.WriteString(err.Error() + "\n")
		os.Exit(1)
	}
	os.Exit(code)
}

func build(run func() int) (code int, err error) {
	dir, err := os.MkdirTemp("", "edgebox-front-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.Chmod(dir, 0o755); err != nil { // other users run the front too
		return 0, err
	}
	bare, packed = filepath.Join(dir, "edgebox"), filepath.Join(dir, "packed")
	if out, err := exec.Command("go", "build", "-tags", "urfave_cli_no_docs", "-o", bare, ".").CombinedOutput(); err != nil {
		return 0, errors.New(string(out))
	}
	var files []string
	for name, script := range map[string]string{
		"edgebox-node": "#!/bin/sh\necho \"node $@\"\ncat\nenv | grep EDGEBOX_ | sort\nexit 7\n",
		"kubectl":      "#!/bin/sh\necho \"kubectl $@\"\necho \"KUBECONFIG=$KUBECONFIG\"\n",
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
			return 0, err
		}
		files = append(files, path)
	}
	if err := payload.Pack(packed, bare, files, payload.Fast()); err != nil {
		return 0, err
	}
	return run(), nil
}

// host is a machine as the front sees it.
type host struct {
	t   *testing.T
	dir string // holds run, etc and var
	uid string // runs as this user instead of root
	env []string

	hidden string // not empty: control groups, which are those of this machine, cannot be seen
}

func newHost(t *testing.T) *host {
	t.Helper()
	dir, err := os.MkdirTemp("", "eb") // short: the path of a socket may have 108 characters
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	h := &host{t: t, dir: dir}
	for _, sub := range []string{"run", "etc", "var/lib", "var/log", "home"} {
		if err := os.MkdirAll(h.path(sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Chmod(dir, 0o755), os.Chmod(h.path("home"), 0o777)); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *host) path(elem ...string) string { return filepath.Join(append([]string{h.dir}, elem...)...) }

func (h *host) write(path, text string, mode os.FileMode) {
	h.t.Helper()
	h.mkdir(filepath.Dir(path))
	if err := os.WriteFile(h.path(path), []byte(text), mode); err != nil {
		h.t.Fatal(err)
	}
	if err := os.Chmod(h.path(path), mode); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) mkdir(path string) {
	h.t.Helper()
	if err := os.MkdirAll(h.path(path), 0o755); err != nil {
		h.t.Fatal(err)
	}
}

// result is what a run of the front gave.
type result struct {
	code           int
	stdout, stderr string
}

// run runs the front without a payload.
func (h *host) run(args ...string) result {
	h.t.Helper()
	return h.exec("", append([]string{bare}, args...)...)
}

// exec runs any command on the host.
func (h *host) exec(stdin string, args ...string) result {
	h.t.Helper()
	const enter = `mount --bind "$H/run" /run && mount --bind "$H/etc" /etc && mount --bind "$H/var" /var &&
		mount -t proc proc /proc && { [ -z "$C" ] || mount -t tmpfs none /sys/fs/cgroup; } && ip link set lo up && cd / || exit 99
		if [ -n "$U" ]; then exec setpriv --reuid "$U" --clear-groups "$@"; fi
		exec "$@"`
	cmd := exec.Command("sh", append([]string{"-c", enter, "sh"}, args...)...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + h.path("home"), "H=" + h.dir, "U=" + h.uid, "C=" + h.hidden}, h.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNET, Unshareflags: syscall.CLONE_NEWNS}
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) {
			h.t.Fatal(err)
		}
	}
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// want compares the exit code, and looks for text in what was written to stderr, or else stdout.
func (r result) want(t *testing.T, code int, texts ...string) {
	t.Helper()
	if r.code != code {
		t.Errorf("exit code %d, want %d\n%s%s", r.code, code, r.stdout, r.stderr)
	}
	for _, text := range texts {
		if !strings.Contains(r.stderr+r.stdout, text) {
			t.Errorf("it does not say %q:\n%s%s", text, r.stderr, r.stdout)
		}
	}
}
