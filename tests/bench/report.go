package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// report holds what was measured, by the ids of figures.
type report struct {
	Machine machine
	Runs    int
	Flags   []string // of the server
	Values  map[string]float64
}

// set notes a value of a figure, which must exist.
func (r *report) set(id string, value float64) {
	if !slices.ContainsFunc(figures, func(f figure) bool { return f.id == id }) {
		panic("no figure " + id)
	}
	if r.Values == nil {
		r.Values = make(map[string]float64)
	}
	r.Values[id] = value
}

// verdict says where a figure misses its target or is worse than stock.
func (f figure) verdict(value float64) string {
	var v []string
	if f.worse(value, f.target) {
		v = append(v, "target missed")
	}
	if f.worse(value, f.stock) {
		v = append(v, "worse than stock")
	}
	return strings.Join(v, ", ")
}

func (r *report) markdown(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintln(&b, r.Machine)
	if len(r.Flags) > 0 {
		fmt.Fprintf(&b, "Flags: %s.\n", strings.Join(r.Flags, " "))
	}
	fmt.Fprintf(&b, "\nBoot: medians of %d runs. Stock: %s.\n\n", r.Runs, stockIs)
	b.WriteString("| figure | edgebox | stock | target | |\n|---|---:|---:|---:|---|\n")
	for _, f := range figures {
		value, ok := r.Values[f.id]
		if !ok {
			continue
		}
		stock := f.show(f.stock)
		if f.note != "" {
			stock += " " + f.note
		}
		verdict := f.verdict(value)
		if verdict != "" {
			verdict = "**" + verdict + "**"
		}
		measured := f.show(value)
		if value == 0 { // which show takes for unknown
			measured = strings.TrimSpace("0 " + f.unit)
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", f.name, measured, stock, f.show(f.target), verdict)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// show writes a value with its unit; an unknown one is empty.
func (f figure) show(value float64) string {
	if value == 0 {
		return ""
	}
	number := strconv.FormatFloat(value, 'f', 1, 64)
	if value >= 100 || value == float64(int64(value)) {
		number = thousands(int64(value + 0.5))
	}
	if f.unit == perSec {
		return number + perSec
	}
	return strings.TrimSpace(number + " " + f.unit)
}

func thousands(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func (r *report) json(w io.Writer) error {
	type row struct {
		ID        string  `json:"id"`
		Name      string  `json:"name"`
		Unit      string  `json:"unit,omitempty"`
		Value     float64 `json:"value"`
		Stock     float64 `json:"stock,omitempty"`
		StockNote string  `json:"stockNote,omitempty"`
		Target    float64 `json:"target,omitempty"`
		Verdict   string  `json:"verdict,omitempty"`
	}
	out := struct {
		Machine machine  `json:"machine"`
		Flags   []string `json:"flags,omitempty"`
		Runs    int      `json:"runs"`
		Stock   string   `json:"stock"`
		Figures []row    `json:"figures"`
	}{Machine: r.Machine, Flags: r.Flags, Runs: r.Runs, Stock: stockIs, Figures: []row{}}
	for _, f := range figures {
		if value, ok := r.Values[f.id]; ok {
			out.Figures = append(out.Figures, row{f.id, f.name, f.unit, value, f.stock, f.note, f.target, f.verdict(value)})
		}
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(out)
}

// percentile is the smallest value that p percent of the values do not exceed (the nearest rank).
func percentile(values []time.Duration, p int) time.Duration {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	rank := (len(sorted)*p + 99) / 100
	return sorted[max(rank, 1)-1]
}

func median(values []time.Duration) time.Duration { return percentile(values, 50) }

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
