package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/edgebox/edgebox/pkg/config"
	"github.com/edgebox/edgebox/pkg/durable"
	"github.com/edgebox/edgebox/pkg/payload"
	"github.com/edgebox/edgebox/pkg/preflight"
)

func (f *front) server() *cli.Command {
	return &cli.Command{
		Name:  "server",
		Usage: "run a Kubernetes cluster on this machine: control plane and node",
		Description: `edgebox server
edgebox server --disable-agent --tls-san k8s.example.org
edgebox server --cluster-cidr 10.52.0.0/16 --service-cidr 10.53.0.0/16
edgebox server --kube-apiserver-arg audit-log-path=/var/log/audit.log`,
		Flags:  append([]cli.Flag{configFlag()}, roleFlags(config.Server)...),
		Action: f.runRole(config.Server),
	}
}

// runRole finds everything that would keep the node from running, unpacks the node binary and becomes it.
func (f *front) runRole(role config.Role) cli.ActionFunc {
	return func(c *cli.Context) error { return f.start(c, role) }
}

func (f *front) start(c *cli.Context, role config.Role) error {
	if err := noArgs(c); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return exitError{failed, fmt.Sprintf("edgebox must run as root: use sudo edgebox %s", role)}
	}
	cfg, err := f.load(c, role)
	if err != nil {
		return err
	}
	if cfg, err = withToken(cfg); err != nil {
		return err
	}
	// The node completes the configuration again, at each of its starts: addresses may change.
	host, err := config.ReadHost()
	if err != nil {
		return err
	}
	complete := cfg.Complete
	if role == config.Agent { // what its addresses must be, the cluster will tell
		complete = cfg.CompleteName
	}
	completed, err := complete(host)
	if err != nil {
		return configError(err)
	}
	paths := cfg.Paths()
	if pid, err := lockHolder(paths.Lock()); err == nil && pid != 0 {
		return exitError{failed, fmt.Sprintf("edgebox runs on %s already, as pid %d: stop it with `edgebox stop`, or choose another --data-dir", paths.Data, pid)}
	}
	if err := f.preflight(c.Context, completed); err != nil {
		return err
	}

	binDir, err := f.unpack(paths.Bin(), func(name string) bool { return !isKubectl(name) }) // which can wait for its first use
	if err != nil {
		return err
	}
	if err := payload.Activate(binDir); err != nil {
		return err
	}
	if err := writeRunConfig(completed); err != nil {
		return err
	}
	stdin, err := cfg.File()
	if err != nil {
		return err
	}
	return execute(filepath.Join(binDir, "edgebox-node"), []string{"edgebox", string(role)}, withoutSecrets(f.environ), stdin)
}

// withToken reads the file that holds the token.
func withToken(cfg config.Config) (config.Config, error) {
	if cfg.TokenFile == "" {
		return cfg, nil
	}
	text, err := os.ReadFile(cfg.TokenFile)
	if err != nil {
		return cfg, exitError{misused, "token-file: " + err.Error()}
	}
	if cfg.Token = strings.TrimSpace(string(text)); cfg.Token == "" {
		return cfg, exitError{misused, "token-file: " + cfg.TokenFile + " is empty"}
	}
	cfg.TokenFile = ""
	return cfg, nil
}

// preflight refuses to start where edgebox cannot run, and warns of what it costs.
func (f *front) preflight(ctx context.Context, cfg config.Config) error {
	ctx, cancel := context.WithTimeout(ctx, preflightTimeout)
	defer cancel()
	if err := preflight.LoadModules(ctx); err != nil {
		fmt.Fprintln(f.stderr, "edgebox: warning:", err) // what is missing shows below
	}
	var errs []string
	for _, r := range preflight.Run(ctx, preflightInput(ctx, cfg, true)) {
		text := r.Name + ": " + r.Message
		if r.Fix != "" {
			text += ": " + r.Fix
		}
		switch r.Level {
		case preflight.Error:
			errs = append(errs, text)
		case preflight.Warning:
			fmt.Fprintln(f.stderr, "edgebox: warning:", text)
		}
	}
	switch len(errs) {
	case 0:
		return nil
	case 1:
		return exitError{failed, "this machine cannot run edgebox: " + errs[0]}
	}
	return exitError{failed, "this machine cannot run edgebox:\n  " + strings.Join(errs, "\n  ")}
}

// writeRunConfig leaves what commands such as stop and uninstall need to know of this node, without its secrets.
func writeRunConfig(cfg config.Config) error {
	cfg = cfg.WithoutSecrets()
	var b strings.Builder
	if err := cfg.Encode(&b); err != nil {
		return err
	}
	path := cfg.Paths().RunConfig()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return durable.WriteFile(path, []byte(b.String()), 0o600)
}

const preflightTimeout = 10 * time.Second
