package preflight

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// host is what the probes see of the machine. Tests replace its parts.
type host struct {
	root    fs.FS // of /proc, /sys, /etc and so on
	euid    func() int
	now     func() time.Time
	uname   func() (release string, err error)
	resolve func(path string) string // follows symlinks
	statfs  func(path string) (unix.Statfs_t, error)
	lookup  func(command string) error
	sysctl  func(path string) error                       // nil if the file can be opened for writing
	write   func(dir string) error                        // tries to write in dir
	overlay func(dir string) error                        // tries an overlay whose upper layer is in dir
	network func(backend string) []netFeature             // tries what the pod network is made of
	nft     func(args ...string) (says string, err error) // the host's own command
	links   func() ([]string, error)
	tables  func() ([]table, error)
}

// netFeature is one that the kernel must have for the pod network.
type netFeature struct {
	name   string // "vxlan links"
	option string // of the kernel's configuration
	err    error
}

// table is an nftables table of the host.
type table struct {
	name   string   // with its family: "ip nat"
	chains []string // names
	drops  []string // base chains on the forward hook that drop what they do not know
}

func realHost() *host {
	return &host{
		root: os.DirFS("/"),
		euid: os.Geteuid,
		now:  time.Now,
		uname: func() (string, error) {
			var u unix.Utsname
			err := unix.Uname(&u)
			return unix.ByteSliceToString(u.Release[:]), err
		},
		resolve: func(path string) string {
			if real, err := filepath.EvalSymlinks(path); err == nil {
				return real
			}
			return path
		},
		statfs: func(path string) (st unix.Statfs_t, err error) {
			err = unix.Statfs(path, &st)
			return st, err
		},
		lookup: func(command string) error { _, err := exec.LookPath(command); return err },
		sysctl: func(path string) error {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			return f.Close()
		},
		write:   tryWrite,
		overlay: tryOverlay,
		network: tryNetwork,
		nft:     runNft,
		links:   listLinks,
		tables:  listTables,
	}
}

func name(path string) string { return strings.TrimPrefix(filepath.Clean(path), "/") }

// read returns the trimmed content of a file, empty if it cannot be read.
func (h *host) read(path string) string {
	b, err := fs.ReadFile(h.root, name(path))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func (h *host) exists(path string) bool {
	_, err := fs.Stat(h.root, name(path))
	return err == nil
}

// files returns the names in a folder, none if it cannot be read.
func (h *host) files(path string) []string {
	entries, err := fs.ReadDir(h.root, name(path))
	if err != nil {
		return nil
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names
}

func (h *host) link(path string) string {
	target, err := fs.ReadLink(h.root, name(path))
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(target, " (deleted)")
}

// number reads a file that holds one integer.
func (h *host) number(path string) (int, bool) {
	n, err := strconv.Atoi(h.read(path))
	return n, err == nil
}

// existing is the nearest folder at or above path that is there.
func (h *host) existing(path string) string {
	path = filepath.Clean(path)
	for path != "/" && !h.exists(path) {
		path = filepath.Dir(path)
	}
	return path
}

func (h *host) pids() []int {
	var pids []int
	for _, n := range h.files("/proc") {
		if pid, err := strconv.Atoi(n); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

func proc(pid int, elem string) string { return "/proc/" + strconv.Itoa(pid) + "/" + elem }

// below reports whether path is dir or in it.
func below(path, dir string) bool {
	return dir != "" && (path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/"))
}
