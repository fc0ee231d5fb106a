package main

import (
	"fmt"
	"runtime"

	"github.com/urfave/cli/v2"

	"github.com/edgebox/edgebox/pkg/version"
)

func (f *front) version() *cli.Command {
	return &cli.Command{
		Name:  "version",
		Usage: "show the version of edgebox and of the Kubernetes within",
		Description: `edgebox version
edgebox version -o json`,
		Flags:  []cli.Flag{outputFlag()},
		Action: f.runVersion,
	}
}

func (f *front) runVersion(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	asJSON, err := wantsJSON(c)
	if err != nil {
		return err
	}
	platform := runtime.GOOS + "/" + runtime.GOARCH
	if asJSON {
		return writeJSON(f.stdout, struct {
			Version    string `json:"version"`
			Commit     string `json:"commit"`
			Kubernetes string `json:"kubernetes"`
			Go         string `json:"go"`
			Platform   string `json:"platform"`
		}{version.Version, version.Commit, version.Kubernetes, runtime.Version(), platform})
	}
	_, err = fmt.Fprintf(f.stdout, "edgebox %s (commit %s, %s, %s)\nKubernetes %s\n",
		version.Version, version.Commit, runtime.Version(), platform, version.Kubernetes)
	return err
}
