package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/edgebox/edgebox/pkg/footprint"
)

func (f *front) uninstall() *cli.Command {
	return &cli.Command{
		Name:  "uninstall",
		Usage: "remove all that edgebox made on this machine, with every volume and database, and show what is left",
		Description: `edgebox uninstall
edgebox uninstall --yes`,
		Flags: append([]cli.Flag{
			&cli.BoolFlag{Name: "yes", Aliases: []string{"y"}, Usage: "do not ask"},
			configFlag(),
		}, optionFlags("data-dir", "write-kubeconfig")...),
		Action: f.runUninstall,
	}
}

func (f *front) runUninstall(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return exitError{failed, "only root may uninstall edgebox: use sudo"}
	}
	cfg := f.target(c)
	paths := cfg.Paths()
	items, err := footprint.List(c.Context, paths, cfg.WriteKubeconfig)
	if err != nil {
		fmt.Fprintln(f.stderr, "edgebox: warning:", err)
	}
	if len(items) == 0 {
		fmt.Fprintln(f.stdout, "There is nothing of edgebox on this machine.")
		return nil
	}
	if !c.Bool("yes") {
		if err := f.confirm(c, items); err != nil {
			return err
		}
	}

	if _, err := f.stopNode(c.Context, paths); err != nil {
		fmt.Fprintln(f.stderr, "edgebox: warning:", err) // Remove ends it the hard way
	}
	err = footprint.Remove(c.Context, paths, func(i footprint.Item) {
		fmt.Fprintln(f.stdout, "removed", i)
	}, cfg.WriteKubeconfig)
	left, listErr := footprint.List(c.Context, paths, cfg.WriteKubeconfig)
	if err = errors.Join(err, listErr); err != nil {
		return err
	}
	if len(left) == 0 {
		fmt.Fprintln(f.stdout, "Left on this machine: nothing.")
		return nil
	}
	fmt.Fprintln(f.stdout, "Left on this machine:")
	for _, i := range left {
		fmt.Fprintln(f.stdout, " ", i)
	}
	return exitError{failed, plural(len(left), "thing") + " could not be removed: see above, then run edgebox uninstall again"}
}

// confirm shows what will go and asks.
func (f *front) confirm(c *cli.Context, items []footprint.Item) error {
	if !isTerminal(f.stdin) {
		return misuse(c, "this removes every volume and database of the cluster: confirm with --yes")
	}
	for _, i := range items {
		fmt.Fprintln(f.stdout, " ", i)
	}
	fmt.Fprint(f.stdout, "Remove all of this, with every volume and database? [y/N] ")
	answer, _ := bufio.NewReader(f.stdin).ReadString('\n')
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return exitError{failed, "nothing was removed"}
}
