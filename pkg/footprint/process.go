package footprint

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/edgebox/edgebox/pkg/config"
)

// role is what a process of edgebox is to it.
type role string

const (
	roleNode      role = "edgebox"   // started from the payload: the node, or a tool
	roleShim      role = "shim"      // parent of containers, outlives the node
	roleContainer role = "container" // descendant of a shim, or in a cgroup of edgebox
	roleChild     role = "child"     // other descendant of the node
)

// proc is one entry of /proc. The start time tells a process from a later one with the same pid.
type proc struct {
	pid, parent int
	start       uint64
	zombie      bool
	comm, exe   string
	args        []string
	cgroup      string
	role        role
	container   string // id that the shim was started for
	pod         bool   // of a pod, as opposed to the engine
}

func (h *host) readProcs() map[int]proc {
	procs := make(map[int]proc)
	for _, n := range h.names("/proc") {
		if pid, err := strconv.Atoi(n); err == nil {
			if p, known := h.readProc(pid); known {
				procs[pid] = p
			}
		}
	}
	return procs
}

func (h *host) readProc(pid int) (proc, bool) {
	dir := "/proc/" + strconv.Itoa(pid)
	p, valid := parseStat(h.read(dir + "/stat"))
	if !valid {
		return proc{}, false
	}
	p.exe = h.readlink(dir + "/exe")
	p.args = strings.Split(strings.TrimRight(h.read(dir+"/cmdline"), "\x00"), "\x00")
	p.cgroup = h.read(dir + "/cgroup")
	return p, true
}

// parseStat reads proc_pid_stat(5). The command is in parentheses and may itself hold any character.
func parseStat(stat string) (proc, bool) {
	open, closing := strings.IndexByte(stat, '('), strings.LastIndexByte(stat, ')')
	if open < 0 || closing < open {
		return proc{}, false
	}
	f := strings.Fields(stat[closing+1:])
	if len(f) < 20 {
		return proc{}, false
	}
	pid, err1 := strconv.Atoi(strings.TrimSpace(stat[:open]))
	parent, err2 := strconv.Atoi(f[1])
	start, err3 := strconv.ParseUint(f[19], 10, 64)
	return proc{pid: pid, parent: parent, start: start, comm: stat[open+1 : closing], zombie: f[0] == "Z" || f[0] == "X"},
		errors.Join(err1, err2, err3) == nil
}

func (s *survey) sorted() []proc {
	return slices.SortedFunc(maps.Values(s.procs), func(a, b proc) int { return cmp.Compare(a.pid, b.pid) })
}

// classify gives a role to each process that was started from edgebox's files, and to their descendants.
func (s *survey) classify() {
	podOf := make(map[string]bool, len(s.bundles))
	known := make(map[string]bool, len(s.bundles))
	for _, b := range s.bundles {
		podOf[b.id], known[b.id] = b.pod, true
	}
	for pid, p := range s.procs {
		if p.zombie || p.exe == "" && len(p.args) == 0 {
			continue
		}
		if !s.seesOurFiles(p) {
			continue
		}
		isShim := strings.Contains(filepath.Base(p.exe), "shim")
		switch {
		case isShim && (below(p.exe, s.paths.Bin()) || s.hasOurSocket(p)):
			p.role = roleShim
			if i := slices.Index(p.args, "-id"); i >= 0 && i+1 < len(p.args) {
				p.container = p.args[i+1]
				s.containers[p.container] = true
			}
			p.pod = podOf[p.container] || !known[p.container]
		case strictlyBelow(p.exe, s.paths.Bin()):
			p.role = roleNode
		default:
			continue
		}
		s.procs[pid] = p
	}
	for pid, p := range s.procs {
		if p.role != "" || p.zombie {
			continue
		}
		if a, found := s.ancestor(p); found {
			p.role, p.pod = roleChild, false
			if a.role == roleShim {
				p.role, p.pod = roleContainer, a.pod
			}
			s.procs[pid] = p
		}
	}
	s.spare()
}

// classifyByCgroup finds containers whose shim is gone.
func (s *survey) classifyByCgroup() {
	for _, g := range s.cgroups() {
		for _, pid := range s.members(g) {
			p, found := s.procs[pid]
			if found && p.role == "" && !p.zombie {
				p.role, p.pod = roleContainer, g.pod
				s.procs[pid] = p
			}
		}
	}
	s.spare()
}

// spare takes the calling process, its ancestors and init off the list.
func (s *survey) spare() {
	pid := s.self
	for range len(s.procs) {
		p, found := s.procs[pid]
		if !found {
			break
		}
		p.role = ""
		s.procs[pid] = p
		pid = p.parent
	}
	if p, found := s.procs[1]; found {
		p.role = ""
		s.procs[1] = p
	}
}

// seesOurFiles tells a process of this host from one in a container, whose paths look alike but are others. An upgrade
// may have deleted the file that it was started from, so the mount namespace counts too.
func (s *survey) seesOurFiles(p proc) bool {
	dir := "/proc/" + strconv.Itoa(p.pid)
	if ns := s.readlink(dir + "/ns/mnt"); ns != "" && ns == s.readlink("/proc/"+strconv.Itoa(s.self)+"/ns/mnt") {
		return true
	}
	theirs, err1 := os.Stat(s.path(dir, "exe"))
	ours, err2 := os.Stat(p.exe)
	return err1 == nil && err2 == nil && os.SameFile(theirs, ours)
}

func (s *survey) hasOurSocket(p proc) bool {
	return slices.Contains(p.args, s.paths.ContainerdSocket()) || slices.Contains(p.args, s.given.ContainerdSocket())
}

// ancestor is the nearest one that is a shim or the node.
func (s *survey) ancestor(p proc) (proc, bool) {
	for range len(s.procs) { // a pid that was reused in mid-read could close a circle
		parent, found := s.procs[p.parent]
		if !found {
			return proc{}, false
		}
		if parent.role == roleShim || parent.role == roleNode {
			return parent, true
		}
		p = parent
	}
	return proc{}, false
}

// processItems are in the order in which they end: the node, which would start the others anew, then shims, which would
// report their containers' ends to it, then the rest.
func (s *survey) processItems() ([]Item, error) {
	var items []Item
	for _, r := range []role{roleNode, roleChild, roleShim, roleContainer} {
		for _, p := range s.sorted() {
			if p.role == r {
				items = append(items, Item{Kind: Process, Name: strconv.Itoa(p.pid), Detail: string(r) + ": " + p.comm,
					remove: func(context.Context) error { return p.signal(unix.SIGKILL) }})
			}
		}
	}
	return items, nil
}

// signal sends sig to that very process and not to a later one with its pid.
func (p proc) signal(sig unix.Signal) error {
	fd, err := unix.PidfdOpen(p.pid, 0)
	if err != nil {
		return gone(err)
	}
	defer unix.Close(fd)
	now, alive := realHost().readProc(p.pid)
	if !alive || now.start != p.start {
		return nil
	}
	return gone(unix.PidfdSendSignal(fd, sig, nil, 0))
}

// endAll ends the processes that a survey finds until none is left: the node gets time to stop in order, the others are
// killed, together with what they start meanwhile.
func (h *host) endAll(ctx context.Context, p config.Paths, first []Item, report func(Item)) error {
	if len(first) == 0 {
		return nil
	}
	nodes := func(p proc) bool { return p.role == roleNode }
	errs := []error{h.signalEach(p, nodes, unix.SIGTERM)}
	_ = h.wait(ctx, p, nodes, stopGrace)
	errs = append(errs, h.kill(ctx, p, func(proc) bool { return true }))

	s := h.survey(p)
	for _, i := range first {
		pid, _ := strconv.Atoi(i.Name)
		if s.procs[pid].role == "" {
			report(i)
		}
	}
	return errors.Join(errs...)
}

// kill sends SIGKILL to the processes that which chooses until they are gone.
func (h *host) kill(ctx context.Context, p config.Paths, which func(proc) bool) error {
	deadline := time.Now().Add(killGrace)
	var errs []error
	for {
		s := h.survey(p)
		var left []proc
		errs = nil
		for _, pr := range s.sorted() {
			if pr.role != "" && which(pr) {
				left = append(left, pr)
				errs = append(errs, pr.signal(unix.SIGKILL))
			}
		}
		if len(left) == 0 {
			return nil
		}
		s.thaw()
		if time.Now().After(deadline) || ctx.Err() != nil {
			return errors.Join(append(errs, fmt.Errorf("process %d (%s) does not end: a disk or network file system may not answer", left[0].pid, left[0].comm))...)
		}
		sleep(ctx, 20*time.Millisecond)
	}
}

func (h *host) signalEach(p config.Paths, which func(proc) bool, sig unix.Signal) error {
	var errs []error
	for _, pr := range h.survey(p).sorted() {
		if pr.role != "" && which(pr) {
			errs = append(errs, pr.signal(sig))
		}
	}
	return errors.Join(errs...)
}

// wait returns nil once no process is left that which chooses.
func (h *host) wait(ctx context.Context, p config.Paths, which func(proc) bool, limit time.Duration) error {
	deadline := time.Now().Add(limit)
	for {
		if !slices.ContainsFunc(h.survey(p).sorted(), func(p proc) bool { return p.role != "" && which(p) }) {
			return nil
		}
		if time.Now().After(deadline) {
			return context.DeadlineExceeded
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		sleep(ctx, 50*time.Millisecond)
	}
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

func (h *host) stopPods(ctx context.Context, p config.Paths) error {
	s := h.survey(p)
	for _, pr := range s.sorted() {
		if pr.role == roleNode && strings.HasPrefix(filepath.Base(pr.exe), "edgebox-node") {
			return fmt.Errorf("edgebox runs (pid %d) and would start the pods again: stop it first", pr.pid)
		}
	}
	ofPods := func(p proc) bool { return p.pod && (p.role == roleShim || p.role == roleContainer) }
	inPods := func(p proc) bool { return p.pod && p.role == roleContainer }
	errs := []error{h.signalEach(p, inPods, unix.SIGTERM)}
	s.thaw()
	_ = h.wait(ctx, p, inPods, podGrace)
	errs = append(errs, h.kill(ctx, p, ofPods))

	s = h.survey(p)
	for _, m := range s.podMounts() {
		errs = append(errs, h.detach(m))
	}
	netns, err := s.netnsItems()
	errs = append(errs, err)
	for _, i := range netns {
		errs = append(errs, i.remove(ctx))
	}
	return joinOnce(errs)
}

func (h *host) readlink(path string) string {
	target, err := os.Readlink(h.path(path))
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(target, " (deleted)")
}
