package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/edgebox/edgebox/pkg/config"
)

// optionFlag is the flag of an option of config.Config. It only collects what was given: config judges it, together
// with what the environment and the files say.
type optionFlag struct {
	config.Option
	values []string
}

// optionFlags are those of the named options.
func optionFlags(names ...string) []cli.Flag {
	return flagsOf(func(o config.Option) bool { return slices.Contains(names, o.Name) })
}

// roleFlags are those of all options of a role.
func roleFlags(role config.Role) []cli.Flag {
	return flagsOf(func(o config.Option) bool { return o.Scope == "" || o.Scope == role })
}

func flagsOf(want func(config.Option) bool) []cli.Flag {
	var flags []cli.Flag
	for _, o := range config.Options() {
		if want(o) {
			flags = append(flags, &optionFlag{Option: o})
		}
	}
	return flags
}

func configFlag() cli.Flag {
	return &cli.StringFlag{
		Name: "config", Category: "FILE", Usage: "configuration file, read with FILE.d/*.yaml on top", DefaultText: config.DefaultFile,
	}
}

// The methods below are cli.DocGenerationFlag.

func (f *optionFlag) String() string { return dashed(f.Name) }

func (f *optionFlag) Apply(set *flag.FlagSet) error {
	set.Var((*optionValue)(f), f.Name, f.Usage)
	return nil
}

func (f *optionFlag) Names() []string      { return []string{f.Name} }
func (f *optionFlag) IsSet() bool          { return len(f.values) > 0 }
func (f *optionFlag) TakesValue() bool     { return f.Kind != config.Switch }
func (f *optionFlag) GetUsage() string     { return f.Usage }
func (f *optionFlag) GetValue() string     { return "" }
func (f *optionFlag) GetEnvVars() []string { return []string{f.Env} }
func (f *optionFlag) GetDefaultText() string {
	if f.Default == "" {
		return f.Fallback
	}
	return f.Default
}

// optionValue is the flag.Value of an optionFlag.
type optionValue optionFlag

func (v *optionValue) String() string     { return strings.Join(v.values, ",") }
func (v *optionValue) Set(s string) error { v.values = append(v.values, s); return nil }
func (v *optionValue) IsBoolFlag() bool   { return v.Kind == config.Switch }

// load reads the configuration that the flags of c, the environment and the files give to a node of that role, if it
// matters. The error is for the user; the configuration that comes with it has what could be read.
func (f *front) load(c *cli.Context, role config.Role) (config.Config, error) {
	given := map[string][]string{}
	for _, fl := range c.Command.Flags {
		if o, ok := fl.(*optionFlag); ok && o.IsSet() {
			given[o.Name] = o.values
		}
	}
	cfg, warnings, err := config.Load(config.Sources{Role: role, Flags: given, Environ: f.environ, File: c.String("config")})
	for _, w := range warnings {
		fmt.Fprintln(f.stderr, "edgebox: warning:", w)
	}
	return cfg, configError(err)
}

// configError lists what is wrong with a configuration.
func configError(err error) error {
	var problems config.Problems
	if err == nil || !errors.As(err, &problems) {
		return err
	}
	if len(problems) == 1 {
		return exitError{misused, "the configuration has a problem: " + problems[0].Error()}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "the configuration has %d problems:", len(problems))
	for _, p := range problems {
		b.WriteString("\n  " + p.Error())
	}
	return exitError{misused, b.String()}
}

// target is the configuration of the node that a command acts on: the one that was started last since the machine
// booted, unless the user says which. What is wrong with the files does not matter here.
func (f *front) target(c *cli.Context) config.Config {
	cfg, _ := f.load(c, "")
	if c.IsSet("config") || getenv(f.environ, config.FileEnv) != "" {
		return cfg
	}
	for _, o := range config.Options() {
		if slices.Contains([]string{"data-dir", "write-kubeconfig"}, o.Name) && (c.IsSet(o.Name) || getenv(f.environ, o.Env) != "") {
			return cfg
		}
	}
	file, err := os.Open(cfg.Paths().RunConfig())
	if err != nil {
		return cfg
	}
	defer func() { _ = file.Close() }()
	started, err := config.Decode(file)
	if err != nil || started.Validate() != nil { // of another version
		return cfg
	}
	return started
}
