package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/edgebox/edgebox/tests/framework"
)

const (
	afterBoot = 2 * time.Minute // until a server counts as idle
	afterPods = time.Minute     // the same, after pods were made

	// longWindow is that of the writes: the datastore is compacted every five minutes.
	longWindow = 5 * time.Minute
)

// idle measures what a server costs that has nothing to do.
func (b *bench) idle(ctx context.Context, s *server, booted time.Time) error {
	say("letting the server settle for %v", afterBoot)
	settled := booted.Add(afterBoot)
	var names []string
	for _, pods := range []int{0, 2, 30} {
		if len(names) < pods {
			var more []string
			for i := len(names); i < pods; i++ {
				more = append(more, fmt.Sprintf("idle-%d", i))
			}
			if _, err := s.startPods(ctx, more...); err != nil {
				return err
			}
			names = append(names, more...)
			settled = time.Now().Add(afterPods)
		}
		if err := sleep(ctx, settled); err != nil {
			return err
		}
		window := b.window
		if pods == 2 {
			window = max(window, longWindow)
		}
		u, err := observe(ctx, s.host, window)
		if err != nil {
			return err
		}
		say("idle with %d pods: %.0f MiB (%.0f anonymous), %.1f %% of a core", pods, u.rss, u.anon, u.cpu)
		prefix := fmt.Sprintf("idle.%d.", pods)
		b.report.set(prefix+"rss", u.rss)
		b.report.set(prefix+"anon", u.anon)
		b.report.set(prefix+"cpu", u.cpu)
		switch pods {
		case 2:
			b.report.set(prefix+"written", u.written)
			b.report.set(prefix+"helpers", u.helpers)
		case 30:
			b.report.set(prefix+"shims", float64(u.shims))
			b.report.set(prefix+"shims.pss", u.shimPSS)
			b.report.set(prefix+"shims.private", u.shimPrivate/float64(max(u.shims, 1)))
			b.report.set(prefix+"shims.cpu", u.shimCPU)
		}
	}
	return s.removePods(ctx, names...)
}

// usage is what a server costs: memory in MiB, CPU in percent of a core, writes in MiB per hour.
type usage struct {
	rss, anon, cpu, helpers, written float64

	shims                         int
	shimPSS, shimPrivate, shimCPU float64 // of all together
}

// observe watches a server and its shims for the window.
func observe(ctx context.Context, h *framework.Host, window time.Duration) (usage, error) {
	var u usage
	pid := h.PID()
	shims, err := processes(h, "containerd-shim")
	if err != nil {
		return u, err
	}
	count := func() (c counters, err error) {
		if c.server, err = readProcess(h, pid); err != nil {
			return c, err
		}
		for _, pid := range shims {
			p, err := readProcess(h, pid)
			if err != nil {
				return c, err
			}
			c.shims += p.cpu
		}
		c.at = time.Now()
		return c, nil
	}
	before, err := count()
	if err != nil {
		return u, err
	}
	if err := sleep(ctx, before.at.Add(window)); err != nil {
		return u, err
	}
	after, err := count()
	if err != nil {
		return u, err
	}
	took := after.at.Sub(before.at)
	percent := func(d time.Duration) float64 { return 100 * d.Seconds() / took.Seconds() }
	u.cpu = percent(after.server.cpu - before.server.cpu)
	u.helpers = percent(after.server.children - before.server.children)
	u.written = float64(after.server.written-before.server.written) / (1 << 20) / took.Hours()
	u.shims, u.shimCPU = len(shims), percent(after.shims-before.shims)

	memory, err := readKiB(h, pid, "status")
	if err != nil {
		return u, err
	}
	u.rss, u.anon = memory["VmRSS"], memory["RssAnon"]
	for _, pid := range shims {
		m, err := readKiB(h, pid, "smaps_rollup")
		if err != nil {
			return u, err
		}
		u.shimPSS += m["Pss"]
		u.shimPrivate += m["Private_Clean"] + m["Private_Dirty"]
	}
	return u, nil
}

// counters only grow.
type counters struct {
	at     time.Time
	server process
	shims  time.Duration // CPU
}

type process struct {
	cpu      time.Duration // user and system time
	children time.Duration // the same of children that have ended
	written  int64         // bytes that were, or will be, sent to a disk, those of such children included
}

func procFile(h *framework.Host, pid int, name string) string {
	return h.File(filepath.Join("/proc", strconv.Itoa(pid), name))
}

// ticks per second are 100 on all architectures that Go runs on.
const tick = time.Second / 100

func readProcess(h *framework.Host, pid int) (process, error) {
	var p process
	stat, err := os.ReadFile(procFile(h, pid, "stat"))
	if err != nil {
		return p, err
	}
	// The name, in parentheses, may have spaces; what follows starts with field 3. See proc_pid_stat(5).
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 15 {
		return p, fmt.Errorf("/proc/%d/stat: %q", pid, stat)
	}
	var times [4]time.Duration
	for i := range times {
		n, err := strconv.ParseInt(fields[11+i], 10, 64)
		if err != nil {
			return p, fmt.Errorf("/proc/%d/stat: %w", pid, err)
		}
		times[i] = time.Duration(n) * tick
	}
	p.cpu, p.children = times[0]+times[1], times[2]+times[3]
	io, err := os.ReadFile(procFile(h, pid, "io"))
	if err != nil {
		return p, err
	}
	for line := range strings.Lines(string(io)) {
		if n, ok := strings.CutPrefix(line, "write_bytes: "); ok {
			p.written, err = strconv.ParseInt(strings.TrimSpace(n), 10, 64)
		}
	}
	return p, err
}

// readKiB reads a file of lines such as "VmRSS:  1024 kB" and returns the values in MiB.
func readKiB(h *framework.Host, pid int, name string) (map[string]float64, error) {
	text, err := os.ReadFile(procFile(h, pid, name))
	if err != nil {
		return nil, err
	}
	values := make(map[string]float64)
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 3 && f[2] == "kB" {
			n, err := strconv.ParseFloat(f[1], 64)
			if err != nil {
				return nil, fmt.Errorf("/proc/%d/%s: %w", pid, name, err)
			}
			values[strings.TrimSuffix(f[0], ":")] = n / 1024
		}
	}
	return values, nil
}

// processes lists those of a host whose name, of which the kernel keeps 15 bytes, is name.
func processes(h *framework.Host, name string) ([]int, error) {
	files, err := filepath.Glob(h.File("/proc/[0-9]*/comm"))
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, f := range files {
		comm, err := os.ReadFile(f)
		if err != nil || strings.TrimSpace(string(comm)) != name {
			continue // it may have ended
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		if err != nil {
			return nil, err
		}
		pids = append(pids, pid)
	}
	return pids, nil
}
