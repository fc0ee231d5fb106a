package config

import (
	"fmt"
	"reflect"
)

// ClusterSettings are the options that all nodes of a cluster share, by name, as a user would write them. Servers
// publish them, agents adopt them. Complete first: some depend on others.
func (c Config) ClusterSettings() map[string]string {
	settings := map[string]string{}
	for _, o := range Options() {
		if o.Shared {
			settings[o.Name] = format(reflect.ValueOf(c).FieldByIndex(o.field))
		}
	}
	return settings
}

// WithClusterSettings returns c with the settings of a cluster. A setting that this version does not know is ignored,
// since servers are upgraded before agents; one that is missing keeps its default.
func (c Config) WithClusterSettings(settings map[string]string) (Config, error) {
	var problems Problems
	for _, o := range Options() {
		value, given := settings[o.Name]
		if !o.Shared || !given {
			continue
		}
		for _, err := range o.set(&c, o.split(value), false) {
			problems = append(problems, Problem{Source: "the cluster: " + o.Name, Option: o.Name, Text: err.Error()})
		}
	}
	if len(problems) > 0 {
		return c, fmt.Errorf("read the settings of the cluster: %w", problems)
	}
	return c, nil
}
