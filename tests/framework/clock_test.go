package framework

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// timeVar makes the program one that prints the time and ends, or, when it names a program, becomes that.
const timeVar = "EDGEBOX_TEST_TIME"

func printTime() {
	if next := os.Getenv(timeVar); next != "print" {
		err := unix.Exec(next, []string{"next"}, []string{timeVar + "=print"})
		fmt.Println(err)
		os.Exit(1)
	}
	began := time.Now()
	time.Sleep(100 * time.Millisecond)
	fmt.Println(time.Now().Unix(), time.Since(began) >= 100*time.Millisecond)
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(7)
}

func TestWrongClock(t *testing.T) {
	t.Parallel()
	if runtime.GOARCH != "amd64" {
		t.Skip("clocks can be wrong on amd64 only")
	}
	h := NewHost(t, Options{})
	// A front that becomes another program, and is given edgebox' place so that it is followed.
	for _, path := range []string{Binary, "/usr/local/bin/node"} {
		_ = os.Remove(h.File(path)) // the edgebox that was built before
		if err := copyFile("/proc/self/exe", h.File(path)); err != nil {
			t.Fatal(err)
		}
	}
	clock := func(next string) time.Time {
		t.Helper()
		cmd := h.Command(t.Context(), Binary)
		cmd.Env = []string{timeVar + "=" + next}
		out, err := cmd.Output()
		if ExitCode(err) != 7 {
			t.Fatal(err)
		}
		text, monotonic, _ := strings.Cut(strings.TrimSpace(out), " ")
		seconds, err := strconv.ParseInt(text, 10, 64)
		if err != nil || monotonic != "true" {
			t.Fatalf("printed %q", out)
		}
		return time.Unix(seconds, 0)
	}
	for _, offset := range []time.Duration{-10 * 365 * 24 * time.Hour, 20 * 365 * 24 * time.Hour, 0} {
		if err := h.SetClock(offset); err != nil {
			t.Fatal(err)
		}
		for _, next := range []string{"print", "/usr/local/bin/node"} {
			if wrong := time.Until(clock(next)) - offset; wrong.Abs() > time.Hour {
				t.Errorf("offset %s, program %s: the clock is wrong by %s", offset, next, wrong+offset)
			}
		}
		// Standard input, signals and the end reach the program itself.
		cmd := h.Command(t.Context(), Binary)
		cmd.Env = []string{timeVar + "=print"}
		in, hold := io.Pipe()
		cmd.Stdin = in
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if got := h.Shell(t, fmt.Sprintf("until readlink /proc/%d/exe | grep -x %s; do :; done", cmd.PID(), Binary)); got != Binary {
			t.Errorf("the process runs %s", got)
		}
		if err := cmd.Signal(unix.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); ExitCode(err) != -1 {
			t.Errorf("a killed program gives %v", err)
		}
		_ = hold.Close()
	}
	if _, err := h.Run(t.Context(), "no-such-command"); err == nil {
		t.Error("a missing command gives no error")
	}
	if err := h.SetClock(time.Hour); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Run(t.Context(), "no-such-command"); err == nil || !strings.Contains(err.Error(), "no-such-command") {
		t.Errorf("a missing command gives %v", err)
	}
	if err := h.SetClock(0); err != nil {
		t.Fatal(err)
	}
	Eventually(t, 10*time.Second, func() error { // no tracer is left, dead or alive
		left := h.Shell(t, `ps -o stat,args | grep ^Z || true
			for p in /proc/[0-9]*; do [ "$(readlink $p/exe)" != "$(readlink /proc/1/exe)" ] || echo $p; done`)
		if left != "/proc/1" {
			return fmt.Errorf("processes: %s", left)
		}
		return nil
	})
}
