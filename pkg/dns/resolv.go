package dns

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/fsnotify/fsnotify"
	"github.com/miekg/dns"
)

// resolvConfs are asked in this order. The first is often a stub on a loopback address, which is of no use to a server
// that answers for others; systemd-resolved keeps what is behind its stub in the second.
var resolvConfs = []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"}

// maxUpstreams is how many servers the C library's resolver uses.
const maxUpstreams = 3

// upstreams returns the DNS servers that the host uses, from the first file that names one that can be forwarded to:
// not on loopback, not link-local (the interface would be lost), and none of exclude, which would be a loop.
func upstreams(files []string, exclude []netip.Addr) []netip.Addr {
	for _, file := range files {
		conf, err := dns.ClientConfigFromFile(file)
		if err != nil {
			continue // no such file on this host
		}
		var out []netip.Addr
		for _, s := range conf.Servers {
			a, err := netip.ParseAddr(s)
			if err != nil || a.IsLoopback() || a.IsUnspecified() || a.IsLinkLocalUnicast() || slices.Contains(exclude, a) {
				continue
			}
			if len(out) < maxUpstreams && !slices.Contains(out, a) {
				out = append(out, a)
			}
		}
		if len(out) > 0 {
			return out
		}
	}
	return nil
}

// watchFiles returns a channel that gets an element when one of the files may have changed, also when it or the folder
// it is in does not exist yet, or is reached through symbolic links. The kernel tells; nothing is polled.
func watchFiles(ctx context.Context, files []string) (<-chan struct{}, error) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", strings.Join(files, ", "), err)
	}
	changed := make(chan struct{}, 1)
	paths := watchPaths(w, files)
	go func() {
		defer w.Close()
		for {
			select {
			case e := <-w.Events:
				of := func(path string) bool { return path == e.Name || strings.HasPrefix(path, e.Name+"/") }
				if e.Op == fsnotify.Chmod || !slices.ContainsFunc(paths, of) {
					continue
				}
				paths = watchPaths(w, files)
				signal(changed)
			case err := <-w.Errors:
				slog.Warn("watch the host's DNS configuration", "err", err)
			case <-ctx.Done():
				return
			}
		}
	}()
	return changed, nil
}

// watchPaths watches, for each file and each link on the way to it, the nearest folder that exists, and returns the
// paths that matter.
func watchPaths(w *fsnotify.Watcher, files []string) []string {
	var paths []string
	for _, p := range files {
		for range 8 { // as many links as a sane host has
			paths = append(paths, p)
			target, err := os.Readlink(p)
			if err != nil {
				break
			}
			if !filepath.IsAbs(target) {
				target = filepath.Join(filepath.Dir(p), target)
			}
			p = filepath.Clean(target)
		}
	}
	for _, p := range paths {
		for dir := filepath.Dir(p); ; dir = filepath.Dir(dir) {
			if err := w.Add(dir); err == nil || dir == "/" {
				break
			}
		}
	}
	return paths
}

// signal leaves one element in ch, which has room for one.
func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
