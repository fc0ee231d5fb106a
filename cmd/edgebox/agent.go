package main

import (
	"github.com/urfave/cli/v2"

	"github.com/edgebox/edgebox/pkg/config"
)

func (f *front) agent() *cli.Command {
	return &cli.Command{
		Name:  "agent",
		Usage: "make this machine a node of a cluster that runs elsewhere",
		Description: `edgebox agent --server https://192.168.1.10:6443 --token "$(ssh box sudo edgebox token create)"
edgebox agent --server https://k8s.example.org:6443 --token-file /etc/edgebox/token
edgebox agent --server https://192.168.1.10:6443 --token-file /etc/edgebox/token --node-label disk=ssd`,
		Flags:  append([]cli.Flag{configFlag()}, roleFlags(config.Agent)...),
		Action: f.runRole(config.Agent),
	}
}
