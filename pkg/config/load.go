package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// DefaultFile is the configuration file that is read when no other is named. It need not exist.
const DefaultFile = "/etc/edgebox/config.yaml"

// FileEnv is the variable that names another file.
const FileEnv = envPrefix + "CONFIG_FILE"

// Sources are where a configuration comes from, the strongest first.
type Sources struct {
	Role    Role                // the options of other roles are errors; "" when it does not matter
	Flags   map[string][]string // by name of the option, each in the order given
	Environ []string            // NAME=VALUE; a variable with an empty value counts as not set
	File    string              // read with FILE.d/*.yaml; default: EDGEBOX_CONFIG_FILE, else DefaultFile
}

// Load returns the configuration of s on top of Defaults. In config.yaml.d, files are read in the order of their
// names and later ones override; the key of a list with a + at its end adds to what was there before.
//
// The error, of type Problems, holds everything that is wrong, also what Validate finds. The configuration is then
// what could be read: good enough to look for a running node, not to start one. Warnings are meant for the user.
func Load(s Sources) (c Config, warnings []string, err error) {
	l := loader{role: s.Role, config: Defaults(), options: Options(), origin: map[string]string{}, broken: map[string]bool{}}

	if s.Role != "" {
		l.config.Role = s.Role
	}

	env := environ(s.Environ)
	for _, path := range l.files(s.File, env[FileEnv]) {
		l.readFile(path)
	}
	for _, o := range l.options {
		if v := env[o.Env]; v != "" {
			l.set(o, o.Env, o.split(v), false)
		}
	}
	for _, o := range l.options {
		if vs, ok := s.Flags[o.Name]; ok {
			var values []string
			for _, v := range vs {
				values = append(values, o.split(v)...)
			}
			l.set(o, "--"+o.Name, values, false)
		}
	}
	l.validate()
	return l.config, l.typos(env), l.problems.err()
}

// loader is the state of one Load.
type loader struct {
	role     Role
	config   Config
	options  []Option
	origin   map[string]string // by name of the option: where its value comes from, as Problem.Source
	broken   map[string]bool   // options whose value could not be read
	problems Problems
}

func (l *loader) set(o Option, source string, values []string, add bool) {
	if l.role != "" && o.Scope != "" && o.Scope != l.role {
		why := fmt.Sprintf("is an option of the %s: remove it here", o.Scope)
		if o.Shared {
			why = "is the same on all nodes, and an agent gets it from the servers: remove it here"
		}
		l.problems = append(l.problems, Problem{Source: source, Option: o.Name, Text: why})
		return
	}
	if errs := o.set(&l.config, values, add); len(errs) > 0 {
		l.broken[o.Name] = true
		for _, err := range errs {
			l.problems = append(l.problems, Problem{Source: source, Option: o.Name, Text: err.Error()})
		}
	} else if !add {
		l.broken[o.Name] = false
	}
	if before := l.origin[o.Name]; add && before != "" {
		source = before + " and " + source
	}
	l.origin[o.Name] = source
}

// validate adds what Validate finds, with where the values come from. Of an option that could not be read, what it
// would have been is not judged.
func (l *loader) validate() {
	for _, p := range l.config.validate() {
		if l.broken[p.Option] {
			continue
		}
		p.Source = l.origin[p.Option]
		l.problems = append(l.problems, p)
	}
}

// files are those to read, the weakest first.
func (l *loader) files(named, env string) []string {
	file, from := DefaultFile, ""
	switch {
	case named != "":
		file, from = named, "--config"
	case env != "":
		file, from = env, FileEnv
	}
	var out []string
	switch _, err := os.Stat(file); {
	case err == nil:
		out = append(out, file)
	case errors.Is(err, fs.ErrNotExist) && from == "":
	case errors.Is(err, fs.ErrNotExist):
		l.problem(from, "%s does not exist", file)
	default:
		l.problem(file, "cannot be read: %s", reason(err))
	}

	entries, err := os.ReadDir(file + ".d") // sorted by name
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		l.problem(file+".d", "cannot be read: %s", reason(err))
	}
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); !e.IsDir() && (ext == ".yaml" || ext == ".yml") {
			out = append(out, filepath.Join(file+".d", e.Name()))
		}
	}
	return out
}

func (l *loader) problem(source, format string, args ...any) {
	l.problems = append(l.problems, Problem{Source: source, Text: fmt.Sprintf(format, args...)})
}

// reason is what a system call said, without the path that the message already has.
func reason(err error) string {
	if pe := (*fs.PathError)(nil); errors.As(err, &pe) {
		return pe.Err.Error()
	}
	return err.Error()
}

func environ(list []string) map[string]string {
	env := map[string]string{}
	for _, e := range list {
		if name, value, ok := strings.Cut(e, "="); ok && strings.HasPrefix(name, envPrefix) {
			env[name] = value
		}
	}
	return env
}

// typos warns of variables that look like a misspelt option. Others with the prefix belong to install scripts and to
// the user's own tools, and are none of our business.
func (l *loader) typos(env map[string]string) []string {
	known := []string{FileEnv}
	for _, o := range l.options {
		known = append(known, o.Env)
	}
	var out []string
	for name := range env {
		if slices.Contains(known, name) {
			continue
		}
		suffix := strings.TrimPrefix(name, envPrefix)
		var suffixes []string
		for _, k := range known {
			suffixes = append(suffixes, strings.TrimPrefix(k, envPrefix))
		}
		if near := Nearest(suffix, suffixes); near != "" {
			out = append(out, fmt.Sprintf("%s is not used: did you mean %s?", name, envPrefix+near))
		}
	}
	slices.Sort(out)
	return out
}
