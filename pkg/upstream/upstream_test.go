package upstream

import (
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/edgebox/edgebox/pkg/config"
)

func TestParse(t *testing.T) {
	overrides["test"] = map[string]override{"max": replaces, "list": adds, "map": adds, "on": replaces, "sets": replaces}
	defer delete(overrides, "test")
	for name, tt := range map[string]struct {
		own  map[string]string
		user []string
		want string // the flags afterwards, as "max sync on list map"
		err  string // the whole error
	}{
		"nothing":              {nil, nil, "1 5s false [] ", ""},
		"ours":                 {map[string]string{"max": "2", "list": "a,b"}, nil, "2 5s false [a,b] ", ""},
		"the user's wins":      {map[string]string{"max": "2"}, []string{"max=3"}, "3 5s false [] ", ""},
		"the last wins":        {nil, []string{"max=3", "max=4"}, "4 5s false [] ", ""},
		"lists collect":        {map[string]string{"list": "a"}, []string{"list=b", "list=c,d"}, "1 5s false [a,b,c,d] ", ""},
		"maps collect":         {map[string]string{"map": "a=1"}, []string{"map=b=2"}, "1 5s false [] a=1,b=2", ""},
		"a switch alone":       {nil, []string{"on"}, "1 5s true [] ", ""},
		"a switch turned off":  {map[string]string{"on": "true"}, []string{"on=false"}, "1 5s false [] ", ""},
		"an empty value":       {map[string]string{"list": "a"}, []string{"sync=0"}, "1 0s false [a] ", ""},
		"an unknown flag":      {nil, []string{"maximum=3"}, "", "test-arg: test has no flag --maximum"},
		"a value that is none": {nil, []string{"max=many"}, "", `test-arg: invalid argument "many" for "--max" flag: strconv.ParseInt: parsing "many": invalid syntax`},
		"a missing value":      {nil, []string{"sync"}, "", "test-arg: --sync needs a value: write sync=VALUE"},
		"a list replaced":      {map[string]string{"sets": "a,b"}, []string{"sets=c", "sets=d"}, "1 5s false [] ", ""},
		"a fixed one":          {map[string]string{"sync": "1s"}, []string{"sync=2s"}, "", "test-arg: sync is set by edgebox"},
		"not ours":             {map[string]string{"max": "1"}, []string{"sync=2s"}, "1 2s false [] ", ""},
		"all that is wrong": {map[string]string{"sync": "1s"}, []string{"max=many", "max=3", "sync=2s", "min=1"}, "",
			`test-arg: invalid argument "many" for "--max" flag: strconv.ParseInt: parsing "many": invalid syntax` + "\ntest-arg: sync is set by edgebox\ntest-arg: test has no flag --min"},
		"ours is wrong": {map[string]string{"gone": "1"}, nil, "", "test: set --gone: no such flag -gone"},
	} {
		t.Run(name, func(t *testing.T) {
			set := pflag.NewFlagSet("general", pflag.ContinueOnError)
			set.Int("max", 1, "")
			set.Duration("sync", 5e9, "")
			other := pflag.NewFlagSet("other", pflag.ContinueOnError)
			other.Bool("on", false, "")
			other.StringSlice("list", nil, "")
			sets := other.StringSlice("sets", nil, "")
			m := other.StringToString("map", nil, "")

			fs := FlagSet("test", map[string]*pflag.FlagSet{"general": set, "other": other})
			err := Parse("test", fs, tt.own, tt.user)
			if tt.err != "" {
				if err == nil || err.Error() != tt.err {
					t.Errorf("the error is %v, want %s", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, f := range []string{"max", "sync", "on", "list"} {
				got = append(got, fs.Lookup(f).Value.String())
			}
			var pairs []string
			for _, k := range []string{"a", "b"} {
				if v, ok := (*m)[k]; ok {
					pairs = append(pairs, k+"="+v)
				}
			}
			if name == "a list replaced" && strings.Join(*sets, ",") != "c,d" {
				t.Errorf("the list is %v", *sets)
			}
			if have := strings.Join(append(got, strings.Join(pairs, ",")), " "); have != tt.want {
				t.Errorf("have %q, want %q", have, tt.want)
			}
		})
	}
}

// TestOverridesAreNotRefused: pkg/config, which judges arguments first, lets through what edgebox leaves to the user.
func TestOverridesAreNotRefused(t *testing.T) {
	for component, flags := range overrides {
		refused := config.FixedArguments(component + "-arg")
		if refused == nil {
			t.Errorf("pkg/config does not know %s", component)
		}
		for name := range flags {
			if refused[name] != "" {
				t.Errorf("%s: %s is refused", component, name)
			}
		}
	}
}
