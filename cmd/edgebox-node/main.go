// Command edgebox-node is what the front, edgebox, becomes on a server or an agent: all of Kubernetes, containerd and edgebox's own
// components in one process. It takes the whole configuration as JSON on its standard input and no flags, so that the
// front alone decides what the user means.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/edgebox/edgebox/pkg/admin"
	"github.com/edgebox/edgebox/pkg/agent"
	"github.com/edgebox/edgebox/pkg/component"
	"github.com/edgebox/edgebox/pkg/config"
	"github.com/edgebox/edgebox/pkg/durable"
	"github.com/edgebox/edgebox/pkg/payload"
	"github.com/edgebox/edgebox/pkg/server"
	"github.com/edgebox/edgebox/pkg/version"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "edgebox:", err)
		os.Exit(1)
	}
}

func run() error {
	start, environ := time.Now(), os.Environ()
	if len(os.Args) != 2 {
		return errors.New("edgebox-node is started by edgebox: use `edgebox server` or `edgebox agent`")
	}
	given, err := config.Decode(os.Stdin)
	if err != nil {
		return fmt.Errorf("read configuration from standard input: %w", err)
	}
	host, err := config.ReadHost()
	if err != nil {
		return err
	}
	complete := given.Complete
	if given.Role == config.Agent {
		complete = given.CompleteName
	}
	cfg, err := complete(host)
	if err != nil {
		return err
	}
	lock, err := lockDataDir(cfg.Paths().Lock())
	if err != nil {
		return err
	}
	defer lock.Close()
	// Tells an older edgebox that it should not touch this data.
	if err := durable.WriteFile(cfg.Paths().Version(), []byte(version.Version+"\n"), 0o644); err != nil {
		return err
	}

	notify := newNotifier()
	var g component.Graph
	logs := setUpLogging(cfg.Debug, g.Exit)
	tuneMemory()
	// Helpers come first, so that a component that runs nft or a CNI plugin by name gets ours.
	if err := os.Setenv("PATH", cfg.Paths().Helpers()+string(filepath.ListSeparator)+os.Getenv("PATH")); err != nil {
		return err
	}

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	report := newReporter(start, &g)
	g.OnChange = func(s component.Status) {
		if s.State == component.Failed && strings.HasSuffix(s.Error, component.ErrRestart.Error()) {
			logs.stopping() // as intended; startAnew says why
			return
		}
		report.change(s)
	}
	status := func(ctx context.Context) admin.Status {
		s := admin.Status{
			Version: version.Version, Kubernetes: version.Kubernetes,
			Node: cfg.NodeName, Role: string(cfg.Role), PID: os.Getpid(), Since: start,
			Ready: true, Components: g.Status(ctx),
		}
		for _, c := range s.Components {
			s.Ready = s.Ready && c.State == component.Ready
		}
		return s
	}
	if cfg.Role == config.Agent {
		agent.AddJoining(&g, cfg, func(ctx context.Context, servers []admin.APIServer) admin.Status {
			s := status(ctx)
			s.Servers = servers
			return s
		})
	} else {
		server.AddJoining(&g, cfg, status)
	}
	go report.show(ctx)
	go func() {
		select {
		case <-g.Ready():
			logs.booted()
			report.ready()
			notify("READY=1")
			settleMemory()
			settleBinaries(cfg.Paths())
		case <-ctx.Done():
		}
	}()
	defer context.AfterFunc(ctx, func() {
		logs.stopping()
		slog.Info("stopping; pods keep running")
		notify("STOPPING=1")
	})()
	err = g.Run(ctx)
	if ctx.Err() != nil { // as asked; what took too long ends with the process, and no write depends on it
		if err != nil {
			slog.Warn("not everything stopped in order", "err", err)
		}
		slog.Info("stopped", "up", time.Since(start).Round(time.Second))
		return nil
	}
	if errors.Is(err, component.ErrRestart) || electionLost(err) {
		slog.Info("edgebox starts anew; pods keep running", "because", err)
		return startAnew(given, environ)
	}
	logs.failed()
	return err
}

// electionLost reports whether this server's controllers or scheduler are not the elected ones any more. Upstream cannot
// stop them for others to take over, and ends the process instead.
func electionLost(err error) bool {
	return strings.Contains(strings.ToLower(err.Error()), "leaderelection lost")
}

// startAnew replaces this process by a new one that is called in the same way.
func startAnew(given config.Config, environ []string) error {
	stdin, err := given.File()
	if err != nil {
		return fmt.Errorf("start anew: %w", err)
	}
	if err := unix.Dup3(int(stdin.Fd()), 0, 0); err != nil {
		return fmt.Errorf("start anew: %w", err)
	}
	return fmt.Errorf("start anew: %w", unix.Exec("/proc/self/exe", os.Args, environ))
}

// settleBinaries makes what the front unpacked durable, and removes payloads of versions before the last. Both can wait
// until the boot is over.
func settleBinaries(paths config.Paths) {
	dir, err := filepath.EvalSymlinks(paths.Helpers())
	if err == nil {
		err = payload.Sync(dir)
	}
	if err = errors.Join(err, payload.Prune(paths.Bin())); err != nil {
		slog.Warn("binaries are not settled on the disk; the next start checks them again", "err", err)
	}
}

// lockDataDir makes sure that one process alone uses the data dir, and leaves its pid there for `edgebox stop`.
func lockDataDir(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer f.Close()
		text, _ := io.ReadAll(io.LimitReader(f, 32))
		as := ""
		if pid := strings.TrimSpace(string(text)); pid != "" { // else it has just started
			as = " as pid " + pid
		}
		return nil, fmt.Errorf("edgebox already runs on %s%s: stop it with `edgebox stop`, or choose another --data-dir", filepath.Dir(path), as)
	}
	if err := f.Truncate(0); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if _, err := f.WriteAt(fmt.Appendf(nil, "%d", os.Getpid()), 0); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
