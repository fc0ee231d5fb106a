package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxFileSize bounds what is parsed: a configuration is a few kilobytes, the wrong file may be anything.
const maxFileSize = 1 << 20

// readFile applies one configuration file and reports everything in it that is wrong.
func (l *loader) readFile(path string) {
	root, err := parseFile(path)
	if err != nil {
		l.problem(path, "%v", err)
		return
	}
	if root == nil {
		return
	}
	if root.Kind != yaml.MappingNode {
		l.problem(path, "holds %s: it must be a list of lines KEY: VALUE", describe(root))
		return
	}
	seen := map[string]bool{}
	for i := 0; i < len(root.Content); i += 2 {
		key, value := root.Content[i], resolve(root.Content[i+1])
		source := path + ": " + key.Value
		if seen[key.Value] {
			l.problem(source, "is given twice, again in line %d", key.Line)
			continue
		}
		seen[key.Value] = true

		name, add := strings.CutSuffix(key.Value, "+")
		o, ok := l.option(name)
		switch {
		case !ok:
			l.problem(source, "is not an option%s", l.suggest(name))
			continue
		case add && o.Kind != List:
			l.problem(source, "is not a list, so nothing can be added to it")
			continue
		}
		values, err := o.values(value)
		if err != nil {
			l.broken[o.Name] = true
			l.problems = append(l.problems, Problem{Source: source, Option: o.Name, Text: err.Error()})
			continue
		}
		l.set(o, source, values, add)
	}
}

// parseFile returns the root of the file's one document, nil when the file is empty.
func parseFile(path string) (*yaml.Node, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %s", reason(err))
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %s", reason(err))
	}
	if len(text) > maxFileSize {
		return nil, errors.New("is larger than 1 MiB: this is not a configuration file")
	}

	d := yaml.NewDecoder(bytes.NewReader(text))
	var doc, next yaml.Node
	switch err := d.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("is not valid YAML: %s", strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := d.Decode(&next); !errors.Is(err, io.EOF) {
		return nil, errors.New("holds a second document after a line of ---: only one is read")
	}
	root := resolve(doc.Content[0])
	if root.Kind == yaml.ScalarNode && root.ShortTag() == "!!null" {
		return nil, nil
	}
	return root, nil
}

// values turns what a file gives for o into strings, and refuses what has another shape than o.
func (o Option) values(n *yaml.Node) ([]string, error) {
	if n.Kind == yaml.SequenceNode && o.Kind == List {
		values := []string{}
		for _, e := range n.Content {
			e = resolve(e)
			if e.Kind != yaml.ScalarNode || e.ShortTag() == "!!null" {
				return nil, fmt.Errorf("has %s as an element: write text", describe(e))
			}
			values = append(values, e.Value)
		}
		return values, nil
	}
	tag := n.ShortTag()
	var fits bool
	switch o.Kind {
	case Switch:
		fits = tag == "!!bool"
	case Number:
		fits = tag == "!!int"
	case Text, List:
		fits = tag == "!!str" || tag == "!!int" || tag == "!!float"
	}
	switch {
	case n.Kind == yaml.ScalarNode && tag == "!!null":
		return nil, errors.New("has no value: give one or remove the line")
	case n.Kind != yaml.ScalarNode || !fits:
		return nil, fmt.Errorf("wants %s, not %s", wants[o.Kind], describe(n))
	}
	return o.split(n.Value), nil
}

var wants = map[Kind]string{
	Switch: "true or false",
	Number: "a number",
	Text:   "text",
	List:   "a list",
}

// describe names what a node is. It shows no values: they may be secret.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.SequenceNode:
		return "a list"
	case yaml.MappingNode:
		return "a map"
	}
	switch n.ShortTag() {
	case "!!bool":
		return "true or false"
	case "!!int", "!!float":
		return "a number"
	case "!!null":
		return "nothing"
	}
	return "text"
}

func resolve(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

func (l *loader) option(name string) (Option, bool) {
	for _, o := range l.options {
		if o.Name == name {
			return o, true
		}
	}
	return Option{}, false
}

// suggest continues the message on an unknown name.
func (l *loader) suggest(name string) string {
	names := make([]string, len(l.options))
	for i, o := range l.options {
		names[i] = o.Name
	}
	if near := Nearest(name, names); near != "" {
		return ": did you mean " + near + "?"
	}
	return ""
}
