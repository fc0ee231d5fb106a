package config

import "strings"

// A Problem is one thing that is wrong with a configuration.
type Problem struct {
	Source string // the flag, variable, file or "file: key" that it comes from; empty when not known
	Option string // name of the option; empty when the problem is not of one option
	Text   string
}

func (p Problem) Error() string {
	switch {
	case p.Source != "":
		return p.Source + ": " + p.Text
	case p.Option != "":
		return p.Option + ": " + p.Text
	}
	return p.Text
}

// Problems are all that is wrong with a configuration, one per line.
type Problems []Problem

func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap lets errors.Is and errors.As see each problem.
func (ps Problems) Unwrap() []error {
	errs := make([]error, len(ps))
	for i, p := range ps {
		errs[i] = p
	}
	return errs
}

// err is ps as an error: nil when there is none.
func (ps Problems) err() error {
	if len(ps) == 0 {
		return nil
	}
	return ps
}

// Nearest returns the word of words that name was probably meant to be, or "".
func Nearest(name string, words []string) string {
	name = strings.ToLower(strings.ReplaceAll(name, "_", "-"))
	best, bestDistance := "", max(1, min(3, len(name)/3))+1
	for _, w := range words {
		if d := distance(name, strings.ToLower(strings.ReplaceAll(w, "_", "-"))); d < bestDistance {
			best, bestDistance = w, d
		}
	}
	return best
}

// distance is the Levenshtein distance of a and b in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
