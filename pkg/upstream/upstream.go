// Package upstream holds what the adapters of upstream Kubernetes components share: how their command line arguments
// are put together, how they log, what they may not do to the process, and how they reach the API. Of Kubernetes it
// imports client-go and klog alone.
package upstream

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/pflag"
)

// What becomes of a flag that both edgebox and the user set.
type override int

const (
	fixed    override = iota // the user's is refused
	replaces                 // the user's counts
	adds                     // both count; the flag collects values
)

// overrides are flags of edgebox's own that users may well want otherwise; all others are fixed. For most of those,
// pkg/config refuses the user's earlier, and says what to use instead.
var overrides = map[string]map[string]override{
	"kube-apiserver": {
		"allow-privileged":                replaces,
		"api-audiences":                   adds,
		"authorization-mode":              adds,
		"enable-admission-plugins":        adds,
		"enable-aggregator-routing":       replaces,
		"kubelet-preferred-address-types": replaces,
		"profiling":                       replaces,
		"service-account-issuer":          replaces,
		"service-account-key-file":        adds,
	},
	"kube-controller-manager": {
		"allocate-node-cidrs":              replaces, // for another pod network than flannel
		"authorization-always-allow-paths": adds,
		"bind-address":                     replaces,
		"controller-shutdown-timeout":      replaces,
		"controllers":                      adds,
		"flex-volume-plugin-dir":           replaces,
		"kube-api-burst":                   replaces,
		"kube-api-qps":                     replaces,
		"profiling":                        replaces,
		"secure-port":                      replaces,
	},
	"kube-scheduler": {
		"authorization-always-allow-paths": adds,
		"bind-address":                     replaces,
		"kube-api-burst":                   replaces,
		"kube-api-qps":                     replaces,
		"profiling":                        replaces,
		"secure-port":                      replaces,
	},
	"kube-proxy": {
		"config-sync-period":   replaces,
		"healthz-bind-address": replaces,
		"iptables-sync-period": replaces,
		"nodeport-addresses":   replaces,
	},
}

// Parse sets flags of a component: edgebox's own values and the user's NAME=VALUE arguments, as overrides says. The error
// has everything that is wrong with the arguments, and names the option that the user wrote.
func Parse(component string, fs *pflag.FlagSet, own map[string]string, user []string) error {
	replaced := map[string]bool{}
	for _, arg := range user {
		name, _, _ := strings.Cut(arg, "=")
		replaced[name] = overrides[component][name] == replaces
	}
	for name, value := range own {
		if replaced[name] {
			continue
		}
		if err := fs.Set(name, value); err != nil {
			return fmt.Errorf("%s: set --%s: %w", component, name, err)
		}
	}
	var errs []error
	for _, arg := range user {
		if err := parse(component, fs, own, arg); err != nil {
			errs = append(errs, fmt.Errorf("%s-arg: %w", component, err))
		}
	}
	return errors.Join(errs...)
}

// parse sets the flag of one argument of the user.
func parse(component string, fs *pflag.FlagSet, own map[string]string, arg string) error {
	name, value, ok := strings.Cut(arg, "=")
	f := fs.Lookup(name)
	if f == nil {
		return fmt.Errorf("%s has no flag --%s", component, name)
	}
	if _, ours := own[name]; ours && overrides[component][name] == fixed {
		return fmt.Errorf("%s is set by edgebox", name)
	}
	if !ok {
		if f.NoOptDefVal == "" {
			return fmt.Errorf("--%s needs a value: write %s=VALUE", name, name)
		}
		value = f.NoOptDefVal
	}
	return fs.Set(name, value)
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
