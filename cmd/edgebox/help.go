package main

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/edgebox/edgebox/pkg/config"
)

// helpText is the help of a command: what it does, how it is called, examples (its Description), flags.
func helpText(cmd *cli.Command) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s - %s\n\nUsage:\n  %s\n", cmd.HelpName, cmd.Usage, synopsis(cmd))
	if len(cmd.Subcommands) > 0 {
		b.WriteString("\nCommands:\n")
		var rows [][]string
		for _, c := range cmd.Subcommands {
			rows = append(rows, []string{"  " + c.Name, c.Usage})
		}
		writeTable(&b, rows)
	}
	if cmd.Description != "" {
		b.WriteString("\nExamples:\n")
		for line := range strings.Lines(cmd.Description) {
			b.WriteString("  " + line)
		}
		b.WriteString("\n")
	}
	group := "Flags"
	for i, f := range cmd.Flags {
		heading := group
		if o, ok := f.(*optionFlag); ok && o.Group != "" {
			heading = o.Group
		}
		if i == 0 || heading != group {
			fmt.Fprintf(&b, "\n%s:\n", heading)
			group = heading
		}
		b.WriteString(flagHelp(f))
	}
	if len(cmd.Subcommands) > 0 {
		fmt.Fprintf(&b, "\nUse `%s COMMAND --help` for more on a command.\n", cmd.HelpName)
	}
	return b.String()
}

func synopsis(cmd *cli.Command) string {
	s := cmd.HelpName
	if len(cmd.Subcommands) > 0 {
		return s + " COMMAND"
	}
	if len(cmd.Flags) > 0 {
		s += " [flags]"
	}
	if cmd.ArgsUsage != "" {
		s += " " + cmd.ArgsUsage
	}
	return s
}

// flagHelp is a line with the flag and one or more below with what it is for.
func flagHelp(f cli.Flag) string {
	doc, ok := f.(cli.DocGenerationFlag)
	if !ok {
		return ""
	}
	var names []string
	for _, n := range f.Names() {
		names = append(names, dashed(n))
	}
	line := "  " + strings.Join(names, ", ")
	if doc.TakesValue() {
		line += " " + valueName(f)
	}
	const column = 35
	usage := doc.GetUsage()
	if d := doc.GetDefaultText(); d != "" && doc.TakesValue() {
		usage += " (default: " + d + ")"
	}
	var b strings.Builder
	for i, text := range wrap(usage, 118-column) {
		switch {
		case i == 0 && len(line) < column-1:
			fmt.Fprintf(&b, "%-*s%s\n", column, line, text)
		case i == 0:
			fmt.Fprintf(&b, "%s\n%*s%s\n", line, column, "", text)
		default:
			fmt.Fprintf(&b, "%*s%s\n", column, "", text)
		}
	}
	return b.String()
}

func valueName(f cli.Flag) string {
	if o, ok := f.(*optionFlag); ok {
		if o.Kind == config.Number {
			return "N"
		}
		if o.Kind == config.List {
			return "VALUE..."
		}
		return "VALUE"
	}
	if s, ok := f.(*cli.StringFlag); ok && s.Category != "" {
		return s.Category // our own flags name their value there
	}
	return "VALUE"
}

// wrap breaks text at spaces into lines of at most width characters.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}
