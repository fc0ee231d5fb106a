package framework

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BootTimeout is how long a server or agent may take to be ready. It is far more than it takes, since tests share the cores.
const BootTimeout = 3 * time.Minute

// Start runs `edgebox server` with more flags. It returns when the process has started.
func (h *Host) Start(flags ...string) error {
	return h.StartCommand(append([]string{Binary, "server"}, flags...)...)
}

// StartAgent runs `edgebox agent` with more flags. It returns when the process has started. Join does more.
func (h *Host) StartAgent(flags ...string) error {
	return h.StartCommand(append([]string{Binary, "agent"}, flags...)...)
}

// StartAgentOf runs `edgebox agent` with the server's URL and the token that the server has written, and more flags. The
// host is an agent of this server from then on: WaitReady asks it. It returns when the process has started.
func (h *Host) StartAgentOf(server *Host, flags ...string) error {
	token, err := server.Token()
	if err != nil {
		return err
	}
	const file = "/etc/edgebox/join-token"
	if err := h.WriteFile(file, token+"\n"); err != nil {
		return err
	}
	h.Server = server
	return h.StartAgent(append([]string{"--server", server.URL(), "--token-file", file}, flags...)...)
}

// Join makes the host an agent of a server, which is up, and waits until the node is Ready there.
func (h *Host) Join(t testing.TB, server *Host, flags ...string) {
	t.Helper()
	if err := h.StartAgentOf(server, flags...); err != nil {
		t.Fatal(err)
	}
	if err := h.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// URL is where agents find the server on this host, if it listens on the usual port.
func (h *Host) URL() string { return "https://" + netip.AddrPortFrom(h.Address, 6443).String() }

// Token is what nodes need to join the server on this host.
func (h *Host) Token() (string, error) {
	token, err := os.ReadFile(h.File("/var/lib/edgebox/server/token"))
	return strings.TrimSpace(string(token)), err
}

// StartCommand is Start for another command line than edgebox'.
func (h *Host) StartCommand(args ...string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.edgebox != nil {
		return fmt.Errorf("edgebox runs on host %s already", h.Name)
	}
	log, err := os.OpenFile(h.LogFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	_, _ = fmt.Fprintf(log, "--- %s %s\n", time.Now().Format(time.RFC3339Nano), strings.Join(args, " "))
	cmd := h.Command(context.Background(), args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	h.edgebox = cmd
	return nil
}

// LogFile is where the output of the server or agent is, on the machine.
func (h *Host) LogFile() string { return filepath.Join(h.dir, "edgebox.log") }

// Logs returns all that the host's servers and agents have logged.
func (h *Host) Logs() string {
	text, err := os.ReadFile(h.LogFile())
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// WaitLogged waits until the host's server or agent has logged a text.
func (h *Host) WaitLogged(t testing.TB, text string) {
	t.Helper()
	Eventually(t, Patience, func() error {
		if logs := h.Logs(); !strings.Contains(logs, text) {
			return fmt.Errorf("host %s has not logged %q:\n%s", h.Name, text, tail(logs, 80))
		}
		return nil
	})
}

// PID is the process id of the server or agent inside the host; 0 when none runs.
func (h *Host) PID() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.edgebox == nil {
		return 0
	}
	return h.edgebox.PID()
}

// take returns the running server or agent and forgets it.
func (h *Host) take() (*Cmd, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.edgebox
	h.edgebox = nil
	if c == nil {
		return nil, fmt.Errorf("no edgebox runs on host %s", h.Name)
	}
	return c, nil
}

// Kill9 kills the server or agent, and nothing else, with SIGKILL.
func (h *Host) Kill9() error {
	c, err := h.take()
	if err != nil {
		return err
	}
	select {
	case <-c.Done():
		return fmt.Errorf("edgebox on host %s had ended before it was killed: %v\n%s", h.Name, c.Wait(), tail(h.Logs(), 20))
	default:
	}
	if err := c.Signal(unix.SIGKILL); err != nil {
		return err
	}
	<-c.Done()
	return nil
}

// Stop asks the server or agent to end with SIGTERM and waits for it. The error is that of the process.
func (h *Host) Stop() error {
	c, err := h.take()
	if err != nil {
		return err
	}
	if err := c.Signal(unix.SIGTERM); err != nil && !errors.Is(err, syscall.EPIPE) {
		return err
	}
	select {
	case <-c.Done():
		return c.Wait()
	case <-time.After(time.Minute):
		_ = c.Signal(unix.SIGQUIT) // the goroutines end up in the log
		<-c.Done()
		return fmt.Errorf("edgebox on host %s was still running a minute after SIGTERM", h.Name)
	}
}

// Exit waits until the server or agent ends by itself.
func (h *Host) Exit(ctx context.Context) error {
	c, err := h.take()
	if err != nil {
		return err
	}
	select {
	case <-c.Done():
		return c.Wait()
	case <-ctx.Done():
		return fmt.Errorf("edgebox on host %s still runs: %w", h.Name, ctx.Err())
	}
}

// WaitAPI waits until the API server says that it is ready.
func (h *Host) WaitAPI(ctx context.Context) error {
	return h.waitFor(ctx, h, "kubectl", "get", "--raw", "/readyz")
}

// WaitReady waits until all components of the server or agent and its node are ready, and pods can be made in the
// default namespace. The node's condition alone does not suffice: after a restart it is still that of the run before.
func (h *Host) WaitReady(ctx context.Context) error {
	for _, step := range []struct {
		on      *Host
		command []string
	}{
		{h, []string{"status", "-o", "json"}},
		{h.server(), []string{"kubectl", "wait", "--for=condition=Ready", "node/" + h.Name, "--timeout=60s"}},
		{h.server(), []string{"kubectl", "wait", "--for=create", "serviceaccount/default", "--timeout=60s"}},
	} {
		if err := h.waitFor(ctx, step.on, step.command...); err != nil {
			return err
		}
	}
	return nil
}

// server is the host whose kubectl administers the cluster: an agent has none.
func (h *Host) server() *Host {
	if h.Server != nil {
		return h.Server
	}
	return h
}

// waitFor repeats a command of edgebox on some host until it succeeds or this host's server or agent ends.
func (h *Host) waitFor(ctx context.Context, on *Host, command ...string) error {
	h.mu.Lock()
	c := h.edgebox
	h.mu.Unlock()
	if c == nil {
		return fmt.Errorf("no edgebox runs on host %s", h.Name)
	}
	ctx, cancel := context.WithTimeout(ctx, BootTimeout)
	defer cancel()
	var last error
	for {
		out, err := on.Edgebox(ctx, command...)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			last = fmt.Errorf("%w\n%s", err, out)
		}
		select {
		case <-c.Done():
			return fmt.Errorf("edgebox on host %s has ended: %w\n%s", h.Name, errors.Join(c.Wait(), last), tail(h.Logs(), 40))
		case <-ctx.Done():
			return fmt.Errorf("host %s: %w: last error: %w\n%s", h.Name, ctx.Err(), last, tail(h.Logs(), 40))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Up is Start and WaitReady, for tests.
func (h *Host) Up(t testing.TB, flags ...string) {
	t.Helper()
	if err := h.Start(flags...); err != nil {
		t.Fatal(err)
	}
	if err := h.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// Edgebox runs `edgebox` with arguments.
func (h *Host) Edgebox(ctx context.Context, args ...string) (string, error) {
	return h.Run(ctx, append([]string{Binary}, args...)...)
}

// Kubectl runs `edgebox kubectl` with arguments, which works on servers.
func (h *Host) Kubectl(ctx context.Context, args ...string) (string, error) {
	return h.Edgebox(ctx, append([]string{"kubectl"}, args...)...)
}

// Import puts images into the host's image store.
func (h *Host) Import(ctx context.Context, images ...Image) error {
	for _, image := range images {
		path := "/tmp/" + strings.NewReplacer("/", "_", ":", "_").Replace(image.Ref) + ".tar"
		f, err := os.Create(h.File(path))
		if err != nil {
			return err
		}
		err = errors.Join(image.WriteArchive(f), f.Close())
		if err == nil {
			_, err = h.Edgebox(ctx, "images", "import", path)
		}
		if err != nil {
			return fmt.Errorf("import %s: %w", image.Ref, err)
		}
		_ = os.Remove(h.File(path))
	}
	return nil
}

// Dump logs what helps to understand a failure.
func (h *Host) Dump(t testing.TB) {
	t.Helper()
	if h.init == nil {
		t.Logf("host %s is down", h.Name)
		return
	}
	t.Logf("host %s: end of edgebox' log:\n%s", h.Name, tail(h.Logs(), 80))
	commands := [][]string{{"sh", "-c", "dmesg | grep -iE 'oom|killed|segfault|panic|error' | tail -n 20"}}
	if h.PID() != 0 {
		commands = append(commands, []string{Binary, "status"})
		if h.Server == nil {
			commands = append(commands, []string{Binary, "kubectl", "get", "nodes,all,events", "-A", "-o", "wide", "--request-timeout=10s"})
		}
	}
	for _, args := range commands {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second) // t.Context has ended by now
		out, err := h.Run(ctx, args...)
		cancel()
		t.Logf("host %s: %s: %v\n%s", h.Name, strings.Join(args, " "), err, out)
	}
}

func tail(text string, lines int) string {
	all := slices.Collect(strings.Lines(text))
	return strings.Join(all[max(0, len(all)-lines):], "")
}
