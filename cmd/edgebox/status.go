package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/edgebox/edgebox/pkg/admin"
	"github.com/edgebox/edgebox/pkg/component"
	"github.com/edgebox/edgebox/pkg/config"
)

func (f *front) status() *cli.Command {
	return &cli.Command{
		Name:  "status",
		Usage: "show each component of the running node: its state, since when, and its last error",
		Description: `edgebox status
edgebox status --watch
edgebox status -o json`,
		Flags: []cli.Flag{
			outputFlag(),
			&cli.BoolFlag{Name: "watch", Aliases: []string{"w"}, Usage: "show it again every second until interrupted"},
		},
		Action: f.runStatus,
	}
}

// statusTimeout is longer than the node takes for its health checks.
const statusTimeout = 10 * time.Second

func (f *front) runStatus(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	asJSON, err := wantsJSON(c)
	if err != nil {
		return err
	}
	if !c.Bool("watch") {
		return f.showStatus(c.Context, f.stdout, asJSON)
	}
	for {
		// Written at once, so that a terminal does not flicker.
		var screen bytes.Buffer
		if isTerminal(f.stdout) && !asJSON {
			screen.WriteString("\x1b[H\x1b[2J")
		}
		if err := f.showStatus(c.Context, &screen, asJSON); err != nil && err.Error() != "" {
			fmt.Fprintln(&screen, err)
		}
		if _, err := screen.WriteTo(f.stdout); err != nil {
			return err
		}
		select {
		case <-time.After(time.Second):
		case <-c.Done():
			return nil
		}
	}
}

// showStatus prints one answer; its error is silent when the answer is that not all is ready.
func (f *front) showStatus(ctx context.Context, w io.Writer, asJSON bool) error {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	var s admin.Status
	if err := nodeAt(config.Defaults().Paths().AdminSocket()).get(ctx, "/v1/status", &s); err != nil {
		return err
	}
	if asJSON {
		if err := writeJSON(w, s); err != nil {
			return err
		}
	} else {
		writeStatus(w, s, time.Now())
	}
	if !s.Ready {
		return exitError{code: failed}
	}
	return nil
}

func writeStatus(w io.Writer, s admin.Status, now time.Time) {
	ready := "ready"
	if !s.Ready {
		ready = "not ready"
	}
	fmt.Fprintf(w, "%s is %s: edgebox %s %s, Kubernetes %s, pid %d, up %s\n\n",
		s.Node, ready, s.Version, s.Role, s.Kubernetes, s.PID, age(now.Sub(s.Since)))
	rows := [][]string{{"COMPONENT", "STATE", "SINCE", "MESSAGE"}}
	for _, c := range s.Components {
		rows = append(rows, []string{c.Name, string(c.State), age(now.Sub(c.Since)), message(c)})
	}
	writeTable(w, rows)
	if len(s.Servers) > 0 {
		fmt.Fprintln(w)
		writeTable(w, serverRows(s.Servers))
	}
}

// serverRows are the servers of the cluster as an agent sees them.
func serverRows(servers []admin.APIServer) [][]string {
	rows := [][]string{{"SERVER", "IN USE", "CONNECTIONS", "TUNNEL", "MESSAGE"}}
	yes := map[bool]string{true: "yes", false: "no"}
	for _, s := range servers {
		tunnel := "closed"
		if s.Tunnel {
			tunnel = "open"
		}
		rows = append(rows, []string{s.Address, yes[s.InUse], strconv.Itoa(s.Connections), tunnel, oneLine(s.Error)})
	}
	return rows
}

// message is what there is to say of a component, on one line.
func message(c component.Status) string {
	var parts []string
	if len(c.WaitingFor) > 0 {
		parts = append(parts, "waits for "+oneLine(strings.Join(c.WaitingFor, "; ")))
	}
	if c.Error != "" {
		parts = append(parts, oneLine(c.Error))
	}
	if c.Restarts > 0 {
		parts = append(parts, "restarted "+plural(c.Restarts, "time"))
	}
	return strings.Join(parts, ", ")
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
