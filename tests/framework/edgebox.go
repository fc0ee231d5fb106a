package framework

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BootTimeout is how long a server may take to be ready. It is far more than it takes, since tests share the cores.
const BootTimeout = 3 * time.Minute

// Start runs `edgebox server` with more flags. It returns when the process has started.
func (h *Host) Start(flags ...string) error {
	return h.StartCommand(append([]string{Binary, "server"}, flags...)...)
}

// StartCommand is Start for another command line than edgebox'.
func (h *Host) StartCommand(args ...string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.server != nil {
		return fmt.Errorf("a server runs on host %s already", h.Name)
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
	h.server = cmd
	return nil
}

// LogFile is where the server's output is, on the machine.
func (h *Host) LogFile() string { return filepath.Join(h.dir, "server.log") }

// Logs returns all that the host's servers have logged.
func (h *Host) Logs() string {
	text, err := os.ReadFile(h.LogFile())
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// ServerPID is the server's process id inside the host; 0 without a server.
func (h *Host) ServerPID() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.server == nil {
		return 0
	}
	return h.server.PID()
}

// takeServer returns the running server and forgets it.
func (h *Host) takeServer() (*Cmd, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.server
	h.server = nil
	if s == nil {
		return nil, fmt.Errorf("no server runs on host %s", h.Name)
	}
	return s, nil
}

// Kill9 kills the server, and nothing else, with SIGKILL.
func (h *Host) Kill9() error {
	s, err := h.takeServer()
	if err != nil {
		return err
	}
	select {
	case <-s.Done():
		return fmt.Errorf("the server had ended before it was killed: %v\n%s", s.Wait(), tail(h.Logs(), 20))
	default:
	}
	if err := s.Signal(unix.SIGKILL); err != nil {
		return err
	}
	<-s.Done()
	return nil
}

// Stop asks the server to end with SIGTERM and waits for it. The error is that of the process.
func (h *Host) Stop() error {
	s, err := h.takeServer()
	if err != nil {
		return err
	}
	if err := s.Signal(unix.SIGTERM); err != nil && !errors.Is(err, syscall.EPIPE) {
		return err
	}
	select {
	case <-s.Done():
		return s.Wait()
	case <-time.After(time.Minute):
		_ = s.Signal(unix.SIGQUIT) // the goroutines end up in the log
		<-s.Done()
		return errors.New("the server was still running a minute after SIGTERM")
	}
}

// Exit waits until the server ends by itself.
func (h *Host) Exit(ctx context.Context) error {
	s, err := h.takeServer()
	if err != nil {
		return err
	}
	select {
	case <-s.Done():
		return s.Wait()
	case <-ctx.Done():
		return fmt.Errorf("the server still runs: %w", ctx.Err())
	}
}

// WaitAPI waits until the API server says that it is ready.
func (h *Host) WaitAPI(ctx context.Context) error {
	return h.waitServer(ctx, "kubectl", "get", "--raw", "/readyz")
}

// WaitReady waits until all components of the server and the node are ready, and pods can be made in the default
// namespace. The node's condition alone does not suffice: after a restart it is still that of the run before.
func (h *Host) WaitReady(ctx context.Context) error {
	for _, command := range [][]string{
		{"status", "-o", "json"},
		{"kubectl", "wait", "--for=condition=Ready", "node/" + h.Name, "--timeout=60s"},
		{"kubectl", "wait", "--for=create", "serviceaccount/default", "--timeout=60s"},
	} {
		if err := h.waitServer(ctx, command...); err != nil {
			return err
		}
	}
	return nil
}

// waitServer repeats a command of edgebox until it succeeds or the server ends.
func (h *Host) waitServer(ctx context.Context, command ...string) error {
	h.mu.Lock()
	s := h.server
	h.mu.Unlock()
	if s == nil {
		return fmt.Errorf("no server runs on host %s", h.Name)
	}
	ctx, cancel := context.WithTimeout(ctx, BootTimeout)
	defer cancel()
	var last error
	for {
		out, err := h.Edgebox(ctx, command...)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			last = fmt.Errorf("%w\n%s", err, out)
		}
		select {
		case <-s.Done():
			return fmt.Errorf("the server has ended: %w\n%s", errors.Join(s.Wait(), last), tail(h.Logs(), 40))
		case <-ctx.Done():
			return fmt.Errorf("%w: last error: %w\n%s", ctx.Err(), last, tail(h.Logs(), 40))
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

// Kubectl runs `edgebox kubectl` with arguments.
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
	t.Logf("host %s: end of the server's log:\n%s", h.Name, tail(h.Logs(), 80))
	commands := [][]string{{"sh", "-c", "dmesg | grep -iE 'oom|killed|segfault|panic|error' | tail -n 20"}}
	if h.ServerPID() != 0 {
		commands = append(commands, []string{Binary, "status"},
			[]string{Binary, "kubectl", "get", "all,events", "-A", "--request-timeout=10s"})
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
