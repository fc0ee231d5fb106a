package config

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// Kind is the shape of an option's value.
type Kind string

// The kinds of options.
const (
	Switch Kind = "switch" // true or false; a flag may stand without a value
	Number Kind = "number"
	Text   Kind = "text"
	List   Kind = "list" // a flag may be repeated; elements may be separated by commas unless Option.Verbatim
)

// Option describes one field of Config.
type Option struct {
	Name     string // of the flag and of the key in config.yaml
	Env      string // of the variable
	Kind     Kind
	Default  string // "" when there is none, or when it depends on the host or on other options: see Fallback
	Fallback string // what is used when nothing is given and Default is empty, in words
	Usage    string
	Scope    Role   // of the nodes that have it; "" for every node
	Shared   bool   // by all nodes of a cluster; agents get it from the servers
	Group    string // heading in help and documentation; "" for the first
	Secret   bool   // the value must not be shown
	Verbatim bool   // a list whose elements may hold commas

	field []int
}

// envPrefix begins the name of each variable.
const envPrefix = "EDGEBOX_"

// Options are all options in the order of Config's fields.
func Options() []Option {
	defaults := reflect.ValueOf(Defaults())
	t := defaults.Type()
	var out []Option
	group := ""
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Name == "_" {
			group = f.Tag.Get("group")
			continue
		}
		name := f.Tag.Get("option")
		if name == "" {
			continue
		}
		out = append(out, Option{
			Name:     name,
			Env:      envPrefix + strings.ToUpper(strings.ReplaceAll(name, "-", "_")),
			Kind:     kindOf(f.Type),
			Default:  format(defaults.Field(i)),
			Fallback: f.Tag.Get("fallback"),
			Usage:    f.Tag.Get("usage"),
			Scope:    Role(f.Tag.Get("scope")),
			Shared:   f.Tag.Get("shared") == "true",
			Group:    group,
			Secret:   f.Tag.Get("secret") == "true",
			Verbatim: f.Tag.Get("commas") == "keep",
			field:    f.Index,
		})
	}
	return out
}

// WithoutSecrets is c without the values of secret options.
func (c Config) WithoutSecrets() Config {
	for _, o := range Options() {
		if o.Secret {
			reflect.ValueOf(&c).Elem().FieldByIndex(o.field).SetZero()
		}
	}
	return c
}

func kindOf(t reflect.Type) Kind {
	switch t.Kind() {
	case reflect.Bool:
		return Switch
	case reflect.Int:
		return Number
	case reflect.Slice:
		return List
	}
	return Text
}

// format writes a field as its user would.
func format(v reflect.Value) string {
	if v.IsZero() {
		return ""
	}
	if v.Kind() == reflect.Slice {
		elems := make([]string, v.Len())
		for i := range elems {
			elems[i] = fmt.Sprint(v.Index(i))
		}
		return strings.Join(elems, ",")
	}
	return fmt.Sprint(v)
}

// split returns the elements of a list that were given as one value, none when it is empty; of other kinds the value.
func (o Option) split(value string) []string {
	switch {
	case o.Kind == List && value == "":
		return nil
	case o.Kind != List || o.Verbatim:
		return []string{value}
	}
	elems := strings.Split(value, ",")
	for i := range elems {
		elems[i] = strings.TrimSpace(elems[i])
	}
	return elems
}

// set parses values into o's field of c. A list takes all of them, in place of what it had or, with add, after it;
// anything else takes the last. On error the field keeps its value, except for the good elements of a list.
func (o Option) set(c *Config, values []string, add bool) []error {
	field := reflect.ValueOf(c).Elem().FieldByIndex(o.field).Addr().Interface()
	var last string
	if len(values) > 0 {
		last = values[len(values)-1]
	}
	switch f := field.(type) {
	case *[]string:
		return setList(f, values, add, func(s string) (string, error) {
			if s == "" {
				return "", errors.New("has an empty element")
			}
			return s, nil
		})
	case *[]netip.Addr:
		return setList(f, values, add, parseAddr)
	case *[]netip.Prefix:
		return setList(f, values, add, parsePrefix)
	case *string:
		*f = last
		return nil
	case *bool:
		return one(f, last, parseSwitch)
	case *int:
		return one(f, last, parseNumber)
	case *netip.Addr:
		return one(f, last, parseAddr)
	case *FileMode:
		if err := f.UnmarshalText([]byte(last)); err != nil {
			return []error{err}
		}
		return nil
	}
	panic(fmt.Sprintf("config: option %s has type %T", o.Name, field))
}

func one[T any](field *T, value string, parse func(string) (T, error)) []error {
	v, err := parse(value)
	if err != nil {
		return []error{err}
	}
	*field = v
	return nil
}

func setList[T any](field *[]T, values []string, add bool, parse func(string) (T, error)) []error {
	var list []T
	if add {
		list = slices.Clone(*field)
	}
	var errs []error
	for _, s := range values {
		v, err := parse(s)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		list = append(list, v)
	}
	*field = list
	return errs
}

func parseSwitch(s string) (bool, error) {
	b, err := strconv.ParseBool(s)
	if err != nil {
		return false, fmt.Errorf("%q is neither true nor false", s)
	}
	return b, nil
}

func parseNumber(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0, fmt.Errorf("%q is not a whole number", s)
	}
	return n, nil
}

func parseAddr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("%q is not an IP address", s)
	}
	return a.Unmap(), nil
}

func parsePrefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("%q is not a range of IP addresses such as 10.42.0.0/16", s)
	}
	if p != p.Masked() {
		return netip.Prefix{}, fmt.Errorf("%s is an address within a range: the range is %s", s, p.Masked())
	}
	return p, nil
}
