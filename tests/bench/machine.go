package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/edgebox/edgebox/tests/framework"
)

// machine is what the figures depend on.
type machine struct {
	Date        string  `json:"date"`
	CPU         string  `json:"cpu"`
	Cores       int     `json:"cores"`
	MemoryMiB   int64   `json:"memoryMiB"`
	Kernel      string  `json:"kernel"`
	BusyPercent float64 `json:"busyPercent"` // of all cores, before the first measurement
	Edgebox     struct {
		Version    string `json:"version"`
		Commit     string `json:"commit"`
		Kubernetes string `json:"kubernetes"`
		Go         string `json:"go"`
		Platform   string `json:"platform"`
	} `json:"edgebox"`
}

func (m machine) String() string {
	return fmt.Sprintf("%s: edgebox %s (commit %s, Kubernetes %s, %s, %s) on %d cores of %s, %.1f GiB memory, Linux %s; %.0f %% busy with other work at the start.",
		m.Date, m.Edgebox.Version, m.Edgebox.Commit, m.Edgebox.Kubernetes, m.Edgebox.Go, m.Edgebox.Platform,
		m.Cores, m.CPU, float64(m.MemoryMiB)/1024, m.Kernel, m.BusyPercent)
}

func describeMachine(ctx context.Context) (machine, error) {
	m := machine{Date: time.Now().UTC().Format(time.DateOnly), Cores: runtime.NumCPU(), CPU: cpuModel()}
	out, err := exec.CommandContext(ctx, framework.EdgeboxBinary(), "version", "-o", "json").Output()
	if err == nil {
		err = json.Unmarshal(out, &m.Edgebox)
	}
	if err != nil {
		return m, fmt.Errorf("ask %s for its version: %w", framework.EdgeboxBinary(), err)
	}
	var name unix.Utsname
	var info unix.Sysinfo_t
	if err := unix.Uname(&name); err != nil {
		return m, err
	}
	if err := unix.Sysinfo(&info); err != nil {
		return m, err
	}
	m.Kernel = string(bytes.TrimRight(name.Release[:], "\x00"))
	m.MemoryMiB = int64(info.Totalram * uint64(info.Unit) >> 20)
	before, err := readCPUTimes()
	if err != nil {
		return m, err
	}
	if err := sleep(ctx, time.Now().Add(3*time.Second)); err != nil {
		return m, err
	}
	after, err := readCPUTimes()
	if all := after.all - before.all; all > 0 {
		m.BusyPercent = 100 * float64(all-(after.idle-before.idle)) / float64(all)
	}
	return m, err
}

// cpuModel is what the kernel calls the processor: "model name" on x86, the board's "Model" on a Raspberry Pi.
func cpuModel() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	found := make(map[string]string)
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, ":"); ok {
			found[strings.TrimSpace(key)] = strings.TrimSpace(value)
		}
	}
	for _, key := range []string{"model name", "Model", "Hardware", "CPU part"} {
		if found[key] != "" {
			return found[key]
		}
	}
	return runtime.GOARCH
}

type cpuTimes struct{ all, idle int64 } // in ticks, of all cores

func readCPUTimes() (cpuTimes, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return cpuTimes{}, err
	}
	first, _, _ := strings.Cut(string(text), "\n")
	var t cpuTimes
	for i, field := range strings.Fields(first)[1:] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return t, fmt.Errorf("/proc/stat: %w", err)
		}
		if i < 8 { // the others are contained in these
			t.all += n
		}
		if i == 3 || i == 4 { // idle, iowait
			t.idle += n
		}
	}
	return t, nil
}
