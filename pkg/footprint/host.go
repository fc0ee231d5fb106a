package footprint

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// host is how the package reaches the machine. Tests replace its parts.
type host struct {
	root    string // prefix of all files but those of the caller's paths
	self    int    // never ended, nor its ancestors
	unmount func(path string, flags int) error
	mount   func(source, target, fstype string, flags uintptr, data string) error
	run     func(ctx context.Context, name string, arg ...string) error // of the init system's tools
}

func realHost() *host {
	return &host{root: "/", self: os.Getpid(), unmount: unix.Unmount, mount: unix.Mount, run: runCommand}
}

func runCommand(ctx context.Context, name string, arg ...string) error {
	out, err := exec.CommandContext(ctx, name, arg...).CombinedOutput()
	if err != nil && len(out) > 0 {
		return errors.New(strings.TrimSpace(string(out)))
	}
	return err
}

func (h *host) path(elem ...string) string {
	return filepath.Join(append([]string{h.root}, elem...)...)
}

func (h *host) read(path string) string {
	b, err := os.ReadFile(h.path(path))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func (h *host) exists(path string) bool {
	_, err := os.Lstat(h.path(path))
	return err == nil
}

// names lists a directory, nothing if it cannot be read.
func (h *host) names(dir string) []string {
	entries, err := os.ReadDir(h.path(dir))
	if err != nil {
		return nil
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names
}

// glob matches a pattern of absolute paths; the paths it returns have no root in front.
func (h *host) glob(pattern string) []string {
	found, _ := filepath.Glob(h.path(pattern))
	for i, f := range found {
		rel, _ := filepath.Rel(h.root, f)
		found[i] = "/" + rel
	}
	return found
}

// below reports whether path is dir or in it; strictly so with strictlyBelow.
func below(path, dir string) bool { return path == dir || strictlyBelow(path, dir) }

func strictlyBelow(path, dir string) bool {
	return dir != "" && strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// gone turns the error of removing what is not there into nil.
func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}
