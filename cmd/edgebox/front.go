package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"
)

// front is one run of the command line.
type front struct {
	args    []string
	environ []string
	stdin   *os.File
	stdout  *os.File
	stderr  io.Writer
}

// exit codes.
const (
	failed  = 1
	misused = 2
)

// exitError ends the front with a code, after its text if it has any.
type exitError struct {
	code int
	text string
}

func (e exitError) Error() string { return e.text }

// usageError says that the command line is wrong; seeAlso is the command whose help explains it.
type usageError struct {
	text    string
	seeAlso string
}

func (e usageError) Error() string {
	return fmt.Sprintf("%s\nSee `%s --help`.", e.text, e.seeAlso)
}

func misuse(c *cli.Context, format string, args ...any) error {
	return usageError{fmt.Sprintf(format, args...), c.Command.HelpName}
}

func (f *front) verbs() []*cli.Command {
	return []*cli.Command{
		f.server(),
		f.agent(),
		f.kubectl(),
		f.images(),
		f.token(),
		f.status(),
		f.check(),
		f.kubeconfig(),
		f.stop(),
		f.uninstall(),
		f.version(),
		f.completion(),
	}
}

func (f *front) root() *cli.Command {
	return &cli.Command{
		Name:        "edgebox",
		HelpName:    "edgebox",
		Usage:       "Kubernetes, container engine and registry in one file",
		Subcommands: f.verbs(),
	}
}

// run executes the command line and returns the exit code.
func (f *front) run() int {
	err := f.dispatch()
	if err == nil {
		return 0
	}
	code, text := failed, err.Error()
	if e := (exitError{}); errors.As(err, &e) {
		code = e.code
	}
	if e := (usageError{}); errors.As(err, &e) {
		code = misused
	}
	if text != "" {
		fmt.Fprintln(f.stderr, "edgebox: "+text)
	}
	return code
}

func (f *front) dispatch() error {
	args := f.args[1:]
	if filepath.Base(f.args[0]) == "kubectl" { // a symbolic link to edgebox
		args = append([]string{"kubectl"}, args...)
	}
	if len(args) > 0 && args[0] == completeVerb {
		return f.complete(args[1:])
	}
	switch first(args) {
	case "--version", "-v":
		args = []string{"version"}
	case "help":
		args = append(args[1:len(args):len(args)], "--help")
	}

	root := f.root()
	cmd, path, rest, err := find(root, args)
	if err != nil {
		return err
	}
	if !cmd.SkipFlagParsing {
		var help bool
		if rest, help = arrange(cmd, rest); help || len(cmd.Subcommands) > 0 && len(rest) == 0 {
			_, err := io.WriteString(f.stdout, helpText(cmd))
			return err
		}
		if len(cmd.Subcommands) > 0 { // a flag, for nothing
			return usageError{"unknown flag " + rest[0], cmd.HelpName}
		}
	}
	if len(path) == 1 {
		cmd.HelpName = cmd.Name // cli.App puts its own name before it
	}
	app := &cli.App{
		Name: root.Name, HelpName: root.Name, Commands: root.Subcommands,
		Reader: f.stdin, Writer: f.stdout, ErrWriter: f.stderr,
		HideHelp: true, HideVersion: true,
		ExitErrHandler: func(*cli.Context, error) {}, // run decides
	}
	return app.Run(append(append([]string{root.Name}, path...), rest...))
}

// find walks down the tree of commands, and returns the command that args name, the names on the way, and what follows.
func find(root *cli.Command, args []string) (cmd *cli.Command, path, rest []string, err error) {
	cmd = root
	for len(cmd.Subcommands) > 0 && len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		sub := cmd.Command(args[0])
		if sub == nil {
			var names []string
			for _, c := range cmd.Subcommands {
				names = append(names, c.Name)
			}
			return nil, nil, nil, usageError{
				fmt.Sprintf("%q is not a command of %s%s", args[0], cmd.HelpName, didYouMean(args[0], names)), cmd.HelpName,
			}
		}
		sub.HelpName = cmd.HelpName + " " + sub.Name
		cmd, path, args = sub, append(path, sub.Name), args[1:]
		cmd.HideHelp = true
		cmd.OnUsageError = flagError
	}
	return cmd, path, args, nil
}

// arrange moves flags before the other arguments, since users write them anywhere and package flag reads them in front
// only. It also reports whether help is asked for.
func arrange(cmd *cli.Command, args []string) (arranged []string, help bool) {
	var flags, others []string
	for i := 0; i < len(args); i++ {
		a := args[i]
		if a == "--" {
			others = append(others, args[i+1:]...)
			break
		}
		if a == "-" || !strings.HasPrefix(a, "-") {
			others = append(others, a)
			continue
		}
		if a == "--help" || a == "-h" {
			return nil, true
		}
		flags = append(flags, a)
		if !strings.Contains(a, "=") && takesValue(cmd, strings.TrimLeft(a, "-")) && i+1 < len(args) {
			i++
			flags = append(flags, args[i])
		}
	}
	if len(others) > 0 {
		flags = append(append(flags, "--"), others...)
	}
	return flags, false
}

func takesValue(cmd *cli.Command, name string) bool {
	f := flagNamed(cmd, name)
	v, ok := f.(cli.DocGenerationFlag)
	return ok && v.TakesValue()
}

func flagNamed(cmd *cli.Command, name string) cli.Flag {
	for _, f := range cmd.Flags {
		for _, n := range f.Names() {
			if n == name {
				return f
			}
		}
	}
	return nil
}

// flagError turns what package flag says into what a user can follow.
func flagError(c *cli.Context, err error, _ bool) error {
	text := err.Error()
	if name, ok := strings.CutPrefix(text, "flag provided but not defined: "); ok {
		name = strings.TrimLeft(name, "-")
		var names []string
		for _, f := range c.Command.Flags {
			names = append(names, dashed(f.Names()[0]))
		}
		return misuse(c, "unknown flag %s%s", dashed(name), didYouMean(dashed(name), names))
	}
	if name, ok := strings.CutPrefix(text, "flag needs an argument: "); ok {
		return misuse(c, "%s needs a value", dashed(strings.TrimLeft(name, "-")))
	}
	return misuse(c, "%s", text)
}

func dashed(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}

func first(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

// noArgs refuses arguments that would be ignored.
func noArgs(c *cli.Context) error {
	if c.Args().Present() {
		return misuse(c, "%q is an argument that is not used", c.Args().First())
	}
	return nil
}
