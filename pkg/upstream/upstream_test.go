package upstream

import (
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

func TestParse(t *testing.T) {
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
		"two dashes":           {nil, []string{"--max=3"}, "3 5s false [] ", ""},
		"lists collect":        {map[string]string{"list": "a"}, []string{"list=b", "list=c,d"}, "1 5s false [a,b,c,d] ", ""},
		"maps collect":         {map[string]string{"map": "a=1"}, []string{"map=b=2"}, "1 5s false [] a=1,b=2", ""},
		"a switch alone":       {nil, []string{"on"}, "1 5s true [] ", ""},
		"a switch turned off":  {map[string]string{"on": "true"}, []string{"on=false"}, "1 5s false [] ", ""},
		"an empty value":       {map[string]string{"list": "a"}, []string{"sync=0"}, "1 0s false [a] ", ""},
		"an unknown flag":      {nil, []string{"maximum=3"}, "", "kubelet-arg: kubelet has no flag --maximum"},
		"a value that is none": {nil, []string{"max=many"}, "", `kubelet-arg: invalid argument "many" for "--max" flag: strconv.ParseInt: parsing "many": invalid syntax`},
		"a missing value":      {nil, []string{"sync"}, "", "kubelet-arg: --sync needs a value: write sync=VALUE"},
		"ours is wrong":        {map[string]string{"gone": "1"}, nil, "", "kubelet: set --gone: no such flag -gone"},
	} {
		t.Run(name, func(t *testing.T) {
			set := pflag.NewFlagSet("general", pflag.ContinueOnError)
			set.Int("max", 1, "")
			set.Duration("sync", 5e9, "")
			other := pflag.NewFlagSet("other", pflag.ContinueOnError)
			other.Bool("on", false, "")
			other.StringSlice("list", nil, "")
			m := other.StringToString("map", nil, "")

			fs := FlagSet("kubelet", map[string]*pflag.FlagSet{"general": set, "other": other})
			err := Parse("kubelet", fs, tt.own, tt.user)
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
			if have := strings.Join(append(got, strings.Join(pairs, ",")), " "); have != tt.want {
				t.Errorf("have %q, want %q", have, tt.want)
			}
		})
	}
}
