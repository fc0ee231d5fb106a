// Package upstream holds what the adapters of upstream Kubernetes components share: how their command line arguments
// are put together, how they log, what they may not do to the process, and how they reach the API. Of Kubernetes it
// imports client-go and klog alone.
package upstream

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/pflag"
)

// Parse sets flags of a component: edgebox's own values first, then the user's NAME=VALUE arguments, which win, or,
// for flags that collect values, add. The error names the option that the user wrote.
func Parse(component string, fs *pflag.FlagSet, own map[string]string, user []string) error {
	for name, value := range own {
		if err := fs.Set(name, value); err != nil {
			return fmt.Errorf("%s: set --%s: %w", component, name, err)
		}
	}
	for _, arg := range user {
		name, value, ok := strings.Cut(strings.TrimPrefix(arg, "--"), "=")
		f := fs.Lookup(name)
		if f == nil {
			return fmt.Errorf("%s-arg: %s has no flag --%s", component, component, name)
		}
		if !ok {
			if f.NoOptDefVal == "" {
				return fmt.Errorf("%s-arg: --%s needs a value: write %s=VALUE", component, name, name)
			}
			value = f.NoOptDefVal
		}
		if err := fs.Set(name, value); err != nil {
			return fmt.Errorf("%s-arg: %w", component, err)
		}
	}
	return nil
}

// FlagSet joins named flag sets of a component into one that reports errors instead of exiting, and that does not warn
// of flags which upstream wants to see in a file.
func FlagSet(component string, sets map[string]*pflag.FlagSet) *pflag.FlagSet {
	all := pflag.NewFlagSet(component, pflag.ContinueOnError)
	all.SetOutput(io.Discard)
	for _, fs := range sets {
		all.AddFlagSet(fs)
	}
	return all
}
