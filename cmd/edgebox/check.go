package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/edgebox/edgebox/pkg/config"
	"github.com/edgebox/edgebox/pkg/footprint"
	"github.com/edgebox/edgebox/pkg/preflight"
	"github.com/edgebox/edgebox/pkg/version"
)

func (f *front) check() *cli.Command {
	return &cli.Command{
		Name:  "check",
		Usage: "say whether this machine can run edgebox, and how to fix what is in the way",
		Description: `edgebox check
edgebox check -o json
edgebox check --data-dir /mnt/disk/edgebox`,
		Flags: append([]cli.Flag{outputFlag(), configFlag()}, optionFlags("data-dir", "cluster-cidr", "service-cidr",
			"bind-address", "https-listen-port", "disable-agent", "node-name", "node-ip", "flannel-backend", "flannel-iface")...),
		Action: f.runCheck,
	}
}

func (f *front) runCheck(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	asJSON, err := wantsJSON(c)
	if err != nil {
		return err
	}
	cfg, findings, badName := f.checkConfig(c)
	ctx, cancel := context.WithTimeout(c.Context, preflightTimeout)
	defer cancel()
	for _, r := range preflight.Run(ctx, preflightInput(ctx, cfg, false)) {
		if !badName || r.Name != "name" { // else it was told already
			findings = append(findings, r)
		}
	}

	if asJSON {
		if err := writeJSON(f.stdout, findings); err != nil {
			return err
		}
	} else {
		writeFindings(f, findings)
	}
	for _, r := range findings {
		if r.Level == preflight.Error {
			return exitError{code: failed}
		}
	}
	return nil
}

// checkConfig is the configuration as a server would have it, what is wrong with it, and whether that is the node's name
// among other things.
func (f *front) checkConfig(c *cli.Context) (cfg config.Config, findings []preflight.Result, badName bool) {
	cfg, err := f.load(c, "")
	host, hostErr := config.ReadHost()
	if hostErr != nil {
		return cfg, []preflight.Result{{Name: "configuration", Level: preflight.Error, Message: hostErr.Error()}}, false
	}
	given := cfg.NodeName != ""
	cfg, completeErr := cfg.Complete(host)
	var problems config.Problems
	errors.As(completeErr, &problems)
	badName = slices.ContainsFunc(problems, func(p config.Problem) bool { return p.Option == "node-name" })
	if err == nil {
		err = configError(completeErr)
	} else { // Complete says the same again, and perhaps more of the host
		badName = badName && given
	}
	if err != nil {
		return cfg, []preflight.Result{{Name: "configuration", Level: preflight.Error, Message: err.Error()}}, badName
	}
	return cfg, []preflight.Result{{Name: "configuration", Level: preflight.OK, Message: "has no problems"}}, false
}

// preflightInput describes the node of cfg.
func preflightInput(ctx context.Context, cfg config.Config, startUp bool) preflight.Input {
	in := preflight.Input{
		Paths:          cfg.Paths(),
		NodeName:       cfg.NodeName,
		Server:         cfg.Role == config.Server,
		Etcd:           cfg.Role == config.Server && (cfg.ClusterInit || cfg.Server != ""),
		Agent:          cfg.Role == config.Agent || !cfg.DisableAgent,
		StartUp:        startUp,
		FlannelBackend: cfg.FlannelBackend,
		ClusterCIDR:    cfg.ClusterCIDR,
		ServiceCIDR:    cfg.ServiceCIDR,
		Version:        version.Version,
	}
	api := netip.AddrPortFrom(cfg.BindAddress, uint16(cfg.HTTPSListenPort))
	if cfg.Role == config.Agent {
		api = netip.MustParseAddrPort(cfg.LocalAPI())
	}
	in.Ports = preflight.Ports(in, api)
	if text, err := os.ReadFile(in.Paths.Version()); err == nil {
		in.DataVersion = strings.TrimSpace(string(text))
	}
	items, _ := footprint.List(ctx, in.Paths) // what could be seen is good enough
	for _, i := range items {
		in.Own = append(in.Own, i.ID())
	}
	return in
}

func writeFindings(f *front, findings []preflight.Result) {
	count := map[preflight.Level]int{}
	var rows [][]string
	for _, r := range findings {
		count[r.Level]++
		for i, line := range strings.Split(r.Message, "\n") {
			if i == 0 {
				rows = append(rows, []string{string(r.Level), r.Name, line})
			} else {
				rows = append(rows, []string{"", "", line})
			}
		}
		if r.Fix != "" {
			rows = append(rows, []string{"", "", "→ " + r.Fix})
		}
	}
	writeTable(f.stdout, rows)
	fmt.Fprintln(f.stdout)
	switch {
	case count[preflight.Error] > 0:
		fmt.Fprintf(f.stdout, "This machine cannot run edgebox yet: %s to fix.\n", plural(count[preflight.Error], "problem"))
	case count[preflight.Warning] > 0:
		fmt.Fprintf(f.stdout, "This machine can run edgebox, with %s.\n", plural(count[preflight.Warning], "warning"))
	default:
		fmt.Fprintln(f.stdout, "This machine can run edgebox.")
	}
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// outputFlag is the -o of commands that can answer in JSON.
func outputFlag() cli.Flag {
	return &cli.StringFlag{Name: "output", Aliases: []string{"o"}, Category: "FORMAT", Usage: "text or json", DefaultText: "text"}
}

func wantsJSON(c *cli.Context) (bool, error) {
	switch o := c.String("output"); o {
	case "", "text":
		return false, nil
	case "json":
		return true, nil
	default:
		return false, misuse(c, "%q is not an output format: use text or json", o)
	}
}

func writeJSON(w interface{ Write([]byte) (int, error) }, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
