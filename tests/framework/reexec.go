package framework

import (
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

// roleVar is set in copies of the program that this package starts.
const roleVar = "EDGEBOX_TEST_ROLE"

// Reexec turns copies of the program into the init process of a host, the janitor and others that this package needs,
// and returns in the program itself.
func Reexec() {
	switch role := os.Getenv(roleVar); role {
	case "":
	case "setup":
		setupHost()
	case "init":
		serveCommands()
	case "janitor":
		sweepAfterParent()
	case "wrongClock":
		exitWith(execWithClock())
	case "launchTracer":
		exitWith(launchTracer())
	case "tracer":
		exitWith(trace())
	default:
		fmt.Fprintf(os.Stderr, "%s=%s is no role of this program\n", roleVar, role)
		os.Exit(1)
	}
}

func exitWith(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// Main runs the tests of a package and exits. Tests mostly wait for the cluster, so more of them run in parallel than
// there are cores, unless -parallel was given.
func Main(m *testing.M) {
	Reexec()
	flag.Parse()
	chosen := false
	flag.Visit(func(f *flag.Flag) { chosen = chosen || f.Name == "test.parallel" })
	if !chosen {
		_ = flag.Set("test.parallel", "6")
	}
	restore := allowInotify()
	code := m.Run()
	Close()
	restore()
	os.Exit(code)
}

// allowInotify raises how many users of inotify the machine allows to root, since all hosts share its kernel: a kubelet
// has a dozen. It returns what sets the limit back.
func allowInotify() (restore func()) {
	const file, enough = "/proc/sys/fs/inotify/max_user_instances", 1024
	text, err := os.ReadFile(file)
	limit, parseErr := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || parseErr != nil || limit >= enough {
		return func() {}
	}
	set := func(n int) {
		if err := os.WriteFile(file, []byte(strconv.Itoa(n)), 0o644); err != nil {
			fmt.Fprintln(os.Stderr, "framework: limit of inotify:", err) // a kubelet will say that it is too low
		}
	}
	set(enough)
	return func() { set(limit) }
}
