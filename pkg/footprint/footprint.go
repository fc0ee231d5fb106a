// Package footprint knows everything that edgebox leaves on a host, lists it and removes it: processes, mounts, network
// namespaces, links, routes, nftables tables, control groups and files. It works from what it finds on the host, so it
// needs no running server, and carries on where an earlier attempt stopped.
//
// Nothing is taken for edgebox's by a name that others use too. What proves that something is edgebox's is, in this
// order: it lies below the data or runtime directory, it was started from there, it is named by the state in there (the
// bundles of containerd, flannel's subnet file), or its own name or alias begins with "edgebox". Names that every
// Kubernetes uses (the cgroup kubepods, the link cni0, the table "ip kube-proxy", /var/lib/kubelet) count as edgebox's
// only where edgebox is present and no other Kubernetes was ever installed.
//
// It is linked into the front and imports no part of Kubernetes or containerd.
package footprint

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/edgebox/edgebox/pkg/config"
)

// Kind says what an Item is.
type Kind string

// The kinds, in the order in which they are removed.
const (
	Service Kind = "service" // known to the init system as started at boot
	Process Kind = "process"
	Mount   Kind = "mount"
	NetNS   Kind = "netns"
	Link    Kind = "link"
	Route   Kind = "route"
	Table   Kind = "table" // of nftables
	Rules   Kind = "rules" // edgebox's in an nftables table that it shares
	Cgroup  Kind = "cgroup"
	File    Kind = "file" // or a directory with all that is in it
)

var order = []Kind{Service, Process, Mount, NetNS, Link, Route, Table, Rules, Cgroup, File}

// Item is one thing that edgebox left on the host.
type Item struct {
	Kind   Kind   `json:"kind"`
	Name   string `json:"name"` // a pid, path, link, network or "FAMILY TABLE"; mounts can be stacked on one path
	Detail string `json:"detail,omitempty"`

	remove func(context.Context) error
}

// ID is the kind and name, such as "link cni0" or "table ip kube-proxy".
func (i Item) ID() string { return string(i.Kind) + " " + i.Name }

func (i Item) String() string {
	if i.Detail == "" {
		return i.ID()
	}
	return i.ID() + " (" + i.Detail + ")"
}

// List returns what edgebox has on the host, in the order in which Remove takes it. Files that the configuration names
// and that no Path holds, such as the administrator's kubeconfig, are given as also. With an error the list is what
// could be seen; without root much cannot. It changes nothing and is safe to call while edgebox runs.
func List(ctx context.Context, p config.Paths, also ...string) ([]Item, error) {
	return realHost().list(ctx, p, also)
}

// Remove ends and removes all that List gives, and calls progress, unless it is nil, after each removal. It goes on after
// errors and returns those that remain. It ends itself neither the calling process nor one of its ancestors. It can be
// called again after any failure, and on a host where nothing is left.
//
// A file system that /etc/fstab mounts below the data dir stays mounted, with its content.
func Remove(ctx context.Context, p config.Paths, progress func(Item), also ...string) error {
	return realHost().remove(ctx, p, progress, also)
}

// StopPods ends the containers of all pods with their shims, mounts and network namespaces, and keeps images and data.
// Containers get SIGTERM, and SIGKILL 10 seconds later. It refuses to while edgebox runs, whose kubelet would start
// them anew. Containers of the engine go on.
func StopPods(ctx context.Context, p config.Paths) error { return realHost().stopPods(ctx, p) }

const (
	attempts   = 3                // of Remove: what dies slowly may hold a mount or cgroup at first
	stopGrace  = 15 * time.Second // for the node to stop in order
	podGrace   = 10 * time.Second // for containers between SIGTERM and SIGKILL
	killGrace  = 10 * time.Second // until a killed process must have gone
	cgroupWait = 3 * time.Second  // until the kernel has let go of a cgroup whose processes ended
)

func (h *host) list(ctx context.Context, p config.Paths, also []string) ([]Item, error) {
	s := h.survey(p)
	var items []Item
	var errs []error
	for _, find := range []func() ([]Item, error){
		s.services, s.processItems, s.mountItems, s.netnsItems, s.linkItems, s.routeItems, s.tableItems, s.cgroupItems,
		func() ([]Item, error) { return s.fileItems(also), nil },
	} {
		if ctx.Err() != nil {
			errs = append(errs, context.Cause(ctx))
			break
		}
		found, err := find()
		items = append(items, found...)
		errs = append(errs, err)
	}
	return items, errors.Join(append(errs, s.errs...)...)
}

func (h *host) remove(ctx context.Context, p config.Paths, progress func(Item), also []string) error {
	if err := refuse(p); err != nil {
		return err
	}
	removed := make(map[string]bool)
	report := func(i Item) {
		if progress != nil && !removed[i.ID()] {
			removed[i.ID()] = true
			progress(i)
		}
	}
	var errs []error
	for attempt := range attempts {
		errs = nil
		// A kind is listed when its turn comes: ending processes and namespaces takes links and mounts along. The proof
		// that something is edgebox's is in its files, so they stay until the rest is gone or has resisted to the end.
		for _, kind := range order {
			if kind == File && errors.Join(errs...) != nil && attempt+1 < attempts {
				break
			}
			items, err := h.list(ctx, p, also)
			errs = append(errs, err)
			of := slices.DeleteFunc(items, func(i Item) bool { return i.Kind != kind })
			if kind == Process {
				errs = append(errs, h.endAll(ctx, p, of, report))
				continue
			}
			for _, i := range of {
				if err := i.remove(ctx); err != nil {
					errs = append(errs, fmt.Errorf("remove %s: %w", i.ID(), err))
					continue
				}
				report(i)
			}
		}
		h.forgetService(ctx)
		left, err := h.list(ctx, p, also)
		if errors.Join(append(errs, err)...) == nil && len(left) == 0 {
			return nil
		}
		if ctx.Err() != nil {
			break
		}
		for _, i := range left {
			errs = append(errs, fmt.Errorf("%s is left", i))
		}
	}
	if err := joinOnce(errs); err != nil {
		return err
	}
	return context.Cause(ctx)
}

// joinOnce joins errors without repeating a text.
func joinOnce(errs []error) error {
	seen := make(map[string]bool)
	return errors.Join(slices.DeleteFunc(errs, func(err error) bool {
		if err == nil || seen[err.Error()] {
			return true
		}
		seen[err.Error()] = true
		return false
	})...)
}

func sortByName(items []Item) []Item {
	slices.SortStableFunc(items, func(a, b Item) int { return cmp.Compare(a.Name, b.Name) })
	return items
}
