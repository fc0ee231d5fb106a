package preflight

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// Whoever looks up a finding in the documentation finds it, in the order of the report.
func TestTroubleshootingExplainsEveryProbe(t *testing.T) {
	doc, err := os.ReadFile("../../docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	var got, want []string
	for line := range strings.Lines(string(doc)) {
		if h, found := strings.CutPrefix(line, "### "); found {
			got = append(got, strings.TrimSpace(h))
		}
	}
	for _, p := range append(always[:len(always):len(always)], forPods...) {
		want = append(want, p.name)
	}
	if !slices.Equal(got, want) {
		t.Errorf("docs/troubleshooting.md explains\n%q\nthe probes are\n%q", got, want)
	}
}
