package main

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

var update = flag.Bool("update", false, "write golden files")

func golden(t *testing.T, name, have string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(have), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if have != string(want) {
		t.Errorf("differs from %s (write it with -update):\n%s", path, have)
	}
}

func TestExitCodes(t *testing.T) {
	h := newHost(t)
	h.hidden = "yes"
	for _, test := range []struct {
		args string
		code int
		text string
	}{
		{"version", 0, "edgebox 0.0.0-dev"},
		{"--version", 0, "edgebox 0.0.0-dev"},
		{"version -o json", 0, `"version": "0.0.0-dev"`},
		{"", 0, "Usage:"},
		{"--help", 0, "Usage:"},
		{"help images ls", 0, "edgebox images ls - list images"},
		{"images", 0, "Commands:"},
		{"images rm x -h", 0, "remove images"},
		{"completion bash", 0, "complete -F _edgebox edgebox"},

		{"serve", 2, "\"serve\" is not a command of edgebox: did you mean server?\nSee `edgebox --help`."},
		{"stat", 2, `did you mean status?`},
		{"images list", 2, "\"list\" is not a command of edgebox images\nSee `edgebox images --help`."},
		{"--verbose", 2, "unknown flag --verbose\nSee `edgebox --help`."},
		{"images --all", 2, "unknown flag --all\nSee `edgebox images --help`."},
		{"server --tls-sam a", 2, "unknown flag --tls-sam: did you mean --tls-san?\nSee `edgebox server --help`."},
		{"server --data-dir", 2, "--data-dir needs a value"},
		{"status --watch=maybe", 2, "invalid boolean value"},
		{"server now", 2, `"now" is an argument that is not used`},
		{"images ls x", 2, "\"x\" is an argument that is not used\nSee `edgebox images ls --help`."},
		{"status -o yaml", 2, `"yaml" is not an output format: use text or json`},
		{"images import", 2, "name a file to import"},
		{"images export -o f", 2, "name an image to export"},
		{"images rm", 2, "name an image to remove"},
		{"completion", 2, "name one shell"},
		{"completion tcsh", 2, "name one shell"},
		{"kubeconfig --server box", 1, "there is no /etc/edgebox/kubeconfig.yaml"},

		{"status", 1, "edgebox: edgebox is not running on this machine\n"},
		{"images ls", 1, "edgebox is not running on this machine"},
		{"images rm a b", 1, "edgebox is not running on this machine"},
		{"images import /none", 1, "import /none: no such file or directory"},
		{"stop", 1, "edgebox is not running on this machine"},
		{"uninstall", 0, "There is nothing of edgebox on this machine."},
		{"kubectl get nodes", 1, "there is no /etc/edgebox/kubeconfig.yaml: start `edgebox server` on this machine"},
		{"kubectl version --client", 1, "built without its payload: build the whole product with `make build`"},
	} {
		t.Run(test.args, func(t *testing.T) {
			h.run(strings.Fields(test.args)...).want(t, test.code, test.text)
		})
	}
}

func TestEveryHelpText(t *testing.T) {
	var all strings.Builder
	var walk func(path []string, c *cli.Command)
	walk = func(path []string, c *cli.Command) {
		if c.Usage == "" || len(c.Subcommands) == 0 && c.Description == "" && !c.SkipFlagParsing {
			t.Errorf("%s has no usage or no example", strings.Join(path, " "))
		}
		cmd, _, _, err := find((&front{}).root(), path)
		if err != nil {
			t.Fatal(err)
		}
		all.WriteString("$ edgebox " + strings.Join(append(path, "--help"), " ") + "\n" + helpText(cmd) + "\n")
		for _, sub := range c.Subcommands {
			walk(append(path[:len(path):len(path)], sub.Name), sub)
		}
	}
	walk(nil, (&front{}).root())
	golden(t, "help.txt", all.String())
}

func TestArrange(t *testing.T) {
	export, _, _, err := find((&front{}).root(), []string{"images", "export"})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		args, want string
		help       bool
	}{
		{args: "a b -o file", want: "-o file -- a b"},
		{args: "a --output=file b", want: "--output=file -- a b"},
		{args: "-o", want: "-o"},
		{args: "-o - -", want: "-o - -- -"},
		{args: "a -- -o --help", want: "-- a -o --help"},
		{args: "a -h", help: true},
	} {
		have, help := arrange(export, strings.Fields(test.args))
		if got := strings.Join(have, " "); got != test.want || help != test.help {
			t.Errorf("%s: have %s (help %v), want %s", test.args, got, help, test.want)
		}
	}
}
