package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/edgebox/edgebox/pkg/admin"
	"github.com/edgebox/edgebox/pkg/config"
	"github.com/edgebox/edgebox/pkg/footprint"
)

func (f *front) stop() *cli.Command {
	return &cli.Command{
		Name:  "stop",
		Usage: "stop the running node; its pods keep running unless --pods is given",
		Description: `edgebox stop
edgebox stop --pods`,
		Flags: append([]cli.Flag{
			&cli.BoolFlag{Name: "pods", Usage: "end the containers of all pods too"},
			configFlag(),
		}, optionFlags("data-dir")...),
		Action: f.runStop,
	}
}

// stopLimit is how long a node may take to stop in order.
const stopLimit = 15 * time.Second

func (f *front) runStop(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return exitError{failed, "only root may stop edgebox: use sudo"}
	}
	paths := f.target(c).Paths()
	pods := c.Bool("pods")
	stopped, err := f.stopNode(c.Context, paths)
	if err != nil {
		return err
	}
	if !stopped && !pods {
		return errNotRunning
	}
	if !pods {
		return nil
	}
	if err := footprint.StopPods(c.Context, paths); err != nil {
		return fmt.Errorf("stop pods: %w", err)
	}
	fmt.Fprintln(f.stdout, "no pod is running any more")
	return nil
}

// stopNode ends the node that runs on paths, if one does.
func (f *front) stopNode(ctx context.Context, paths config.Paths) (stopped bool, err error) {
	pid, err := nodePID(ctx, paths)
	if err != nil || pid == 0 {
		return false, err
	}
	start := time.Now()
	progress := func(time.Duration) {}
	if isTerminal(f.stderr) {
		progress = func(waited time.Duration) {
			fmt.Fprintf(f.stderr, "\r\x1b[Kstopping edgebox (pid %d): %s", pid, waited.Round(time.Second))
		}
		defer fmt.Fprint(f.stderr, "\r\x1b[K")
	}
	ended, err := terminate(pid, stopLimit, progress)
	if err != nil {
		return false, err
	}
	if !ended {
		return false, fmt.Errorf("edgebox (pid %d) is still stopping after %s: see its log, or end it with kill -9 %d", pid, stopLimit, pid)
	}
	fmt.Fprintf(f.stdout, "edgebox (pid %d) stopped after %.1fs\n", pid, time.Since(start).Seconds())
	return true, nil
}

// nodePID asks the lock of the data dir, and where that is of no help the node itself.
func nodePID(ctx context.Context, paths config.Paths) (int, error) {
	pid, lockErr := lockHolder(paths.Lock())
	if pid != 0 {
		return pid, nil
	}
	if lockErr == nil {
		return 0, nil
	}
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	var s admin.Status
	if err := nodeAt(paths.AdminSocket()).get(ctx, "/v1/status", &s); err != nil {
		return 0, lockErr
	}
	return s.PID, nil
}
