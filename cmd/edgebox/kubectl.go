package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

func (f *front) kubectl() *cli.Command {
	return &cli.Command{
		Name:            "kubectl",
		Usage:           "run kubectl on this machine's cluster; edgebox linked as kubectl does the same",
		ArgsUsage:       "COMMAND...",
		SkipFlagParsing: true, // all of it is kubectl's
		Action:          func(c *cli.Context) error { return f.runKubectl(c, c.Args().Slice()) },
	}
}

// runKubectl unpacks kubectl and becomes it.
func (f *front) runKubectl(c *cli.Context, args []string) error {
	cfg := f.target(c)
	dir := cfg.Paths().Bin()
	if os.Geteuid() != 0 {
		cache, err := os.UserCacheDir()
		if err != nil {
			return fmt.Errorf("find a folder to unpack kubectl into: %w", err)
		}
		dir = filepath.Join(cache, "edgebox", "bin")
	}
	environ := f.environ
	if !kubeconfigGiven(args, environ) {
		set, err := localKubeconfig(cfg.WriteKubeconfig, environ)
		switch {
		case err == nil && set:
			environ = append(slices.Clip(environ), "KUBECONFIG="+cfg.WriteKubeconfig)
		case err != nil && needsCluster(args):
			return err
		}
	}
	// root's cache goes with edgebox, not into a home that uninstall must not touch.
	if os.Geteuid() == 0 && getenv(environ, "KUBECACHEDIR") == "" {
		environ = append(slices.Clip(environ), "KUBECACHEDIR="+cfg.Paths().KubectlCache())
	}
	binDir, err := f.unpack(dir, isKubectl)
	if err != nil {
		return err
	}
	return execute(filepath.Join(binDir, "kubectl"), append([]string{"kubectl"}, args...), environ, nil)
}

func kubeconfigGiven(args, environ []string) bool {
	if getenv(environ, "KUBECONFIG") != "" {
		return true
	}
	for _, a := range args {
		if a == "--" {
			return false
		}
		if a == "--kubeconfig" || strings.HasPrefix(a, "--kubeconfig=") {
			return true
		}
	}
	return false
}

func isKubectl(name string) bool { return name == "kubectl" }

// localKubeconfig reports whether kubectl should use the file that the server writes. A user who cannot read it may have
// a kubeconfig of their own, which kubectl finds by itself.
func localKubeconfig(path string, environ []string) (use bool, err error) {
	file, err := os.Open(path)
	if err == nil {
		return true, file.Close()
	}
	if home := getenv(environ, "HOME"); home != "" {
		if _, err := os.Stat(filepath.Join(home, ".kube", "config")); err == nil {
			return false, nil
		}
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = fmt.Errorf("there is no %s: start `edgebox server` on this machine, or name a kubeconfig with --kubeconfig", path)
	case errors.Is(err, fs.ErrPermission):
		err = fmt.Errorf("you may not read %s: use sudo, or start the server with --write-kubeconfig-mode 0640 "+
			"and give your group the file, or copy it with `sudo edgebox kubeconfig > ~/.kube/config`", path)
	}
	return false, err
}

// needsCluster reports whether kubectl will look for a cluster.
func needsCluster(args []string) bool {
	for _, a := range args {
		if a == "--help" || a == "-h" || a == "--client" || a == "--client=true" {
			return false
		}
	}
	for _, a := range args {
		if !strings.HasPrefix(a, "-") {
			return !slices.Contains([]string{"completion", "config", "help", "kustomize", "options", "plugin"}, a)
		}
	}
	return false
}

func getenv(environ []string, name string) string {
	for _, e := range slices.Backward(environ) {
		if v, ok := strings.CutPrefix(e, name+"="); ok {
			return v
		}
	}
	return ""
}
