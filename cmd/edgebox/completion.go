package main

import (
	"context"
	_ "embed"
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/edgebox/edgebox/pkg/admin"
	"github.com/edgebox/edgebox/pkg/config"
)

// The scripts only carry words to completeVerb and its answers back, so they need not change with the commands.
var (
	//go:embed completion.bash
	bashScript string
	//go:embed completion.zsh
	zshScript string
	//go:embed completion.fish
	fishScript string
)

var shells = []struct{ name, script string }{{"bash", bashScript}, {"zsh", zshScript}, {"fish", fishScript}}

func (f *front) completion() *cli.Command {
	return &cli.Command{
		Name:      "completion",
		Usage:     "print a script that completes commands, flags and values in a shell",
		ArgsUsage: "bash|zsh|fish",
		Description: `source <(edgebox completion bash)
edgebox completion bash > /etc/bash_completion.d/edgebox
edgebox completion zsh > "${fpath[1]}/_edgebox"
edgebox completion fish > ~/.config/fish/completions/edgebox.fish`,
		Action: func(c *cli.Context) error {
			for _, s := range shells {
				if c.NArg() == 1 && s.name == c.Args().First() {
					_, err := io.WriteString(f.stdout, s.script)
					return err
				}
			}
			return misuse(c, "name one shell: bash, zsh or fish")
		},
	}
}

// completeVerb is what the scripts call with the words of the line. The answer has a candidate per line, a tab and what
// it is, and at its end a colon and a sum of the numbers below. It is the protocol of cobra, which kubectl speaks too.
const (
	completeVerb = "__complete"

	noFiles = 4 // files are no candidates
)

// candidate is one way to go on.
type candidate struct{ value, about string }

func (f *front) complete(words []string) error {
	if len(words) == 0 {
		words = []string{""}
	}
	line, current := words[:len(words)-1], words[len(words)-1]
	cmd, _, rest, err := find(f.root(), line)
	if err != nil { // an unknown command: nothing to say
		fmt.Fprintf(f.stdout, ":%d\n", noFiles)
		return nil
	}
	if cmd.Name == "kubectl" {
		app := &cli.App{Writer: f.stdout}
		return f.runKubectl(cli.NewContext(app, nil, nil), append(append([]string{completeVerb}, rest...), current))
	}
	found, files := f.candidates(cmd, rest, current)
	directive := noFiles
	if files {
		directive = 0
	}
	for _, c := range found {
		if strings.HasPrefix(c.value, current) {
			fmt.Fprintf(f.stdout, "%s\t%s\n", c.value, c.about)
		}
	}
	fmt.Fprintf(f.stdout, ":%d\n", directive)
	return nil
}

// candidates are what may stand after rest, and whether files may.
func (f *front) candidates(cmd *cli.Command, rest []string, current string) (found []candidate, files bool) {
	if name, _, ok := strings.Cut(current, "="); ok && strings.HasPrefix(name, "--") {
		found, files = values(flagNamed(cmd, strings.TrimLeft(name, "-")))
		for i := range found {
			found[i].value = name + "=" + found[i].value
		}
		return found, files
	}
	if n := len(rest); n > 0 && strings.HasPrefix(rest[n-1], "-") && !strings.Contains(rest[n-1], "=") {
		if name := strings.TrimLeft(rest[n-1], "-"); takesValue(cmd, name) {
			return values(flagNamed(cmd, name))
		}
	}
	switch {
	case strings.HasPrefix(current, "-"):
		for _, fl := range cmd.Flags {
			if doc, ok := fl.(cli.DocGenerationFlag); ok {
				found = append(found, candidate{dashed(fl.Names()[0]), doc.GetUsage()})
			}
		}
		return append(found, candidate{"--help", "show help"}), false
	case len(cmd.Subcommands) > 0:
		for _, c := range cmd.Subcommands {
			found = append(found, candidate{c.Name, c.Usage})
		}
		return found, false
	}
	switch cmd.HelpName {
	case "edgebox completion":
		for _, s := range shells {
			found = append(found, candidate{value: s.name})
		}
	case "edgebox images import":
		return nil, true
	case "edgebox images export", "edgebox images rm":
		var list []image
		if localNode().get(context.Background(), "/v1/images", &list) == nil {
			for _, i := range tagged(list) {
				found = append(found, candidate{i.Name, size(i.Size)})
			}
		}
	case "edgebox token delete":
		var list []admin.Token
		if localNode().get(context.Background(), "/v1/tokens", &list) == nil {
			for _, t := range list {
				if t.Server == "" {
					found = append(found, candidate{t.ID, oneLine(t.Description)})
				}
			}
		}
	}
	return found, false
}

// values are those that a flag can have, and whether it names a file.
func values(fl cli.Flag) (found []candidate, files bool) {
	switch f := fl.(type) {
	case *cli.StringFlag:
		switch f.Category {
		case "FORMAT":
			return []candidate{{value: "text"}, {value: "json"}}, false
		case "USAGES":
			return []candidate{{value: defaultUsages}, {value: defaultUsages + "," + admin.UsageRejoin}}, false
		}
		return nil, f.Category == "FILE"
	case *optionFlag:
		switch f.Name {
		case "disable":
			for _, o := range config.OptionalComponents {
				found = append(found, candidate{o.Name, o.Does})
			}
		case "flannel-backend":
			for _, b := range config.FlannelBackends {
				found = append(found, candidate{value: b})
			}
		case "flannel-iface":
			host, err := config.ReadHost()
			if err != nil {
				return nil, false
			}
			for _, i := range host.Interfaces {
				found = append(found, candidate{value: i.Name})
			}
		case "data-dir", "write-kubeconfig":
			return nil, true
		}
	}
	return found, false
}
