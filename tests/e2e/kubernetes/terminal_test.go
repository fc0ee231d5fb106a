package kubernetes

import (
	"context"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/edgebox/edgebox/tests/framework"
)

// openTerminal makes a terminal of the given size: the program's end, which reads what is shown, and the other one.
func openTerminal(t *testing.T, rows, columns uint16) (program, terminal *os.File) {
	t.Helper()
	ptmx, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ptmx.Close() })
	number, err := unix.IoctlGetInt(int(ptmx.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(ptmx.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tty.Close() })
	if err := unix.IoctlSetWinsize(int(tty.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns}); err != nil {
		t.Fatal(err)
	}
	return ptmx, tty
}

func TestExecOnTerminal(t *testing.T) {
	n := namespace(t)
	n.Client()
	shown, tty := openTerminal(t, 50, 132)
	var out safeBuffer
	go func() { _, _ = shown.WriteTo(&out) }()
	ctx, cancel := context.WithTimeout(t.Context(), framework.Patience)
	defer cancel()
	cmd := n.Host.Command(ctx, framework.Binary, "kubectl", "-n", n.Name, "exec", "-it", "client", "--", "sh")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	framework.Eventually(t, framework.Patience, func() error { return out.has("# ") }) // the prompt
	for _, line := range []string{"until stty size | grep '50 132'; do sleep 0.1; done", "tty", "exit 4"} {
		if _, err := shown.WriteString(line + "\n"); err != nil {
			t.Fatal(err)
		}
	}
	if err := cmd.Wait(); framework.ExitCode(err) != 4 {
		t.Errorf("kubectl exec -it: %v", err)
	}
	for _, want := range []string{"\n50 132", "/dev/pts/"} {
		if err := out.has(want); err != nil {
			t.Error(err)
		}
	}
}
