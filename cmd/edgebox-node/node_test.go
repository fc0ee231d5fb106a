package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"k8s.io/klog/v2"

	"github.com/edgebox/edgebox/pkg/component"
)

// stderr collects what is written to standard error until the end of the test.
func stderr(t *testing.T) (lines func() string) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	old, oldLog := os.Stderr, slog.Default()
	os.Stderr = f
	t.Cleanup(func() {
		os.Stderr = old
		slog.SetDefault(oldLog)
		f.Close()
	})
	return func() string {
		t.Helper()
		klog.Flush()
		data, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		return regexp.MustCompile(`time=\S+ `).ReplaceAllString(string(data), "")
	}
}

// upstreamSpeaks uses each way in which upstream projects log.
func upstreamSpeaks() {
	klog.InfoS("klog info")
	klog.ErrorS(nil, "klog error", "pod", "a")
	klog.Infof("klog text")
	klog.Warningf("klog text")
	klog.ErrorS(errors.New("read tcp: use of closed network connection"), "Error on socket receive")
	klog.Errorf("klog text [%d]\nof two lines", 2)
	logrus.Info("logrus info")
	logrus.WithField("id", 7).Warn("logrus warning\n")
	log.Print("[INFO] plugin/ready")
	log.Print("[ERROR] plugin/errors: refused")
}

const (
	upstreamHeard = "level=ERROR msg=\"klog error\" pod=a\n" +
		"level=ERROR msg=\"klog text [2]\\nof two lines\"\n" +
		"level=WARN msg=\"logrus warning\" id=7\n" +
		"level=ERROR msg=\"plugin/errors: refused\"\n"
	ours = "level=INFO msg=ready component=dns\n"
)

// TestLogs goes through the phases in which upstream is heard or not.
func TestLogs(t *testing.T) {
	speak := func() {
		upstreamSpeaks()
		slog.Info("ready", "component", "dns")
	}
	for name, tt := range map[string]struct {
		phase func(*logs)
		want  string
	}{
		"held while booting":      {func(*logs) { speak() }, ours},
		"shown when that fails":   {func(l *logs) { speak(); l.failed() }, ours + upstreamHeard},
		"dropped when it is over": {func(l *logs) { speak(); l.booted(); l.failed() }, ours},
		"heard afterwards":        {func(l *logs) { l.booted(); speak() }, upstreamHeard + ours},
		"held while stopping":     {func(l *logs) { l.booted(); l.stopping(); speak() }, ours},
		"failed while stopping":   {func(l *logs) { l.booted(); l.stopping(); speak(); l.failed() }, ours + upstreamHeard},
	} {
		t.Run(name, func(t *testing.T) {
			lines := stderr(t)
			tt.phase(setUpLogging(false, nil))
			if got := lines(); got != tt.want {
				t.Errorf("have\n%swant\n%s", got, tt.want)
			}
		})
	}
}

func TestDebugLogsHoldNothing(t *testing.T) {
	lines := stderr(t)
	l := setUpLogging(true, nil)
	upstreamSpeaks()
	l.stopping()
	upstreamSpeaks()
	for _, line := range []string{"Error on socket receive", "klog info", "logrus info", "plugin/ready", "klog error"} {
		if n := strings.Count(lines(), line); n != 2 {
			t.Errorf("%q is there %d times, not once of each phase", line, n)
		}
	}
}

// TestLogsAreBounded: what is held keeps the latest lines, and those of a logger with attributes.
func TestLogsAreBounded(t *testing.T) {
	var out bytes.Buffer
	g := &gate{Handler: slog.NewTextHandler(&out, nil), state: &gateState{hold: true}}
	l := slog.New(g).With("component", "kubelet")
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range maxHeld {
				l.Info("early")
			}
		})
	}
	wg.Wait()
	for i := range maxHeld {
		l.Info("late", "n", i)
	}
	g.state.release(true)
	got := out.String()
	if strings.Contains(got, "early") || strings.Count(got, "component=kubelet n=") != maxHeld || !strings.HasSuffix(got, fmt.Sprintf("n=%d\n", maxHeld-1)) {
		t.Errorf("%d lines, the last are %s", strings.Count(got, "\n"), got[max(0, len(got)-200):])
	}
}

// TestExits: where a library would end the process, it is told why instead, whatever others say meanwhile.
func TestExits(t *testing.T) {
	for name, tt := range map[string]struct {
		leave func()
		want  string
	}{
		"klog's Fatal":      {func() { klog.Fatalf("no %s", "netlink") }, "no netlink"},
		"klog's Exit":       {func() { klog.Exit("no netlink") }, "no netlink"},
		"an error before":   {func() { klog.ErrorS(errors.New("lost"), "Election"); klog.FlushAndExit(time.Second, 1) }, "Election: lost"},
		"two errors before": {func() { klog.Error("first"); klog.Error("second"); klog.FlushAndExit(time.Second, 1) }, "second"},
		"logrus' Fatal":     {func() { logrus.WithError(errors.New("no space")).Fatal("commit") }, "commit: no space"},
		"nothing said":      {func() { klog.FlushAndExit(time.Second, 1) }, "wanted to exit with code 1 and did not say why"},
	} {
		t.Run(name, func(t *testing.T) {
			lines := stderr(t)
			var got error
			setUpLogging(false, func(err error) {
				got = err
				runtime.Goexit()
			})
			klog.Error("of another goroutine")
			done := make(chan struct{})
			go func() {
				defer close(done)
				tt.leave()
				t.Error("it went on")
			}()
			<-done
			if got == nil || got.Error() != tt.want {
				t.Errorf("the reason is %v, want %s", got, tt.want)
			}
			if out := lines(); out != "" {
				t.Errorf("it says %s", out)
			}
		})
	}
}

// TestHarmless: only the known cause makes an error harmless.
func TestHarmless(t *testing.T) {
	lines := stderr(t)
	setUpLogging(false, nil).booted()
	klog.ErrorS(errors.New("no such file or directory"), "failed to read memory cgroup config for the pod", "podName", "a")
	klog.ErrorS(errors.New("permission denied"), "failed to read memory cgroup config for the pod", "podName", "b")
	klog.Errorf("The manifest file is empty, ignoring.")
	logrus.WithError(errors.New("rpc error: code = NotFound")).Errorf("ContainerStatus for %q failed", "c0ffee")
	klog.ErrorS(errors.New("no such file or directory"), "failed to start")
	const want = "level=ERROR msg=\"failed to read memory cgroup config for the pod\" err=\"permission denied\" podName=b\n" +
		"level=ERROR msg=\"failed to start\" err=\"no such file or directory\"\n"
	if got := lines(); got != want {
		t.Errorf("have\n%swant\n%s", got, want)
	}
}

func TestFit(t *testing.T) {
	for _, tt := range []struct {
		text    string
		columns int
		want    string
	}{
		{"waiting", 80, "waiting"},
		{"waiting", 7, "waiting"},
		{"waiting", 6, "waitin"},
		{"wäre größer", 4, "wäre"},
		{"wait\x1b[2J\nfor", 80, "wait [2J for"},
		{"数据库", 5, "数据"},
		{"数据库", 6, "数据库"},
		{"waiting", 0, ""},
		{"waiting", -1, ""},
	} {
		if got := fit(tt.text, tt.columns); got != tt.want {
			t.Errorf("%q in %d columns is %q, want %q", tt.text, tt.columns, got, tt.want)
		}
	}
}

func TestLockDataDir(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	path := filepath.Join(dir, "lock")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("4194304999"), 0o600); err != nil { // of a longer pid that was killed
		t.Fatal(err)
	}
	first, err := lockDataDir(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = lockDataDir(path)
	want := fmt.Sprintf("edgebox already runs on %s as pid %d: stop it with `edgebox stop`, or choose another --data-dir", dir, os.Getpid())
	if err == nil || err.Error() != want {
		t.Errorf("the error is %v, want %s", err, want)
	}
	if err := first.Truncate(0); err != nil { // as it is for a moment
		t.Fatal(err)
	}
	want = fmt.Sprintf("edgebox already runs on %s: stop it with `edgebox stop`, or choose another --data-dir", dir)
	if _, err = lockDataDir(path); err == nil || err.Error() != want {
		t.Errorf("before it has left its pid: %v, want %s", err, want)
	}
	first.Close()
	second, err := lockDataDir(path)
	if err != nil {
		t.Errorf("after the first has ended: %v", err)
	} else {
		second.Close()
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := lockDataDir(filepath.Join(dir, "file", "lock")); err == nil {
		t.Error("no error where there can be no folder")
	}
}

func TestNotify(t *testing.T) {
	addr := filepath.Join(t.TempDir(), "notify")
	systemd, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: addr, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer systemd.Close()
	t.Setenv("NOTIFY_SOCKET", addr)
	t.Setenv("WATCHDOG_USEC", "1")
	t.Setenv("WATCHDOG_PID", "1")
	notify := newNotifier()
	for _, v := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} {
		if _, ok := os.LookupEnv(v); ok {
			t.Errorf("%s is left for children", v)
		}
	}
	buf := make([]byte, 100)
	for _, state := range []string{"READY=1", "STOPPING=1"} {
		notify(state)
		if err := systemd.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		n, err := systemd.Read(buf)
		if err != nil || string(buf[:n]) != state {
			t.Errorf("systemd got %q, %v", buf[:n], err)
		}
	}
	systemd.Close()
	lines := stderr(t)
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, nil)))
	notify("STOPPING=1") // must not fail or hang
	if !strings.Contains(lines(), "cannot reach systemd") {
		t.Errorf("nothing was said: %s", lines())
	}
	newNotifier()("READY=1") // without systemd
}

// TestReportWithoutTerminal: one line per event, and no control characters.
func TestReportWithoutTerminal(t *testing.T) {
	lines := stderr(t)
	setUpLogging(false, nil)
	var g component.Graph
	r := newReporter(time.Now(), &g)
	r.show(context.Background()) // returns at once
	for _, s := range []component.Status{
		{Name: "dns", State: component.Starting},
		{Name: "dns", State: component.Ready},
		{Name: "dns", State: component.Degraded, Error: "no address"},
		{Name: "dns", State: component.Stopping},
		{Name: "dns", State: component.Stopped},
		{Name: "kubelet", State: component.Failed, Error: "no containerd"},
	} {
		r.change(s)
	}
	r.ready()
	got := regexp.MustCompile(`after=\S+`).ReplaceAllString(lines(), "after=…")
	const want = "level=INFO msg=ready component=dns after=…\n" +
		"level=WARN msg=\"failed, will be tried again\" component=dns err=\"no address\"\n" +
		"level=ERROR msg=failed component=kubelet err=\"no containerd\"\n" +
		"level=INFO msg=\"edgebox is ready\" after=…\n"
	if got != want {
		t.Errorf("have\n%swant\n%s", got, want)
	}
}
