package payload

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestActivateAndPrune(t *testing.T) {
	dir := t.TempDir()
	bins := make([]string, 4)
	for i := range bins {
		bins[i] = filepath.Join(dir, string(rune('a'+i))+"123456789abcdef")
		must(t, os.Mkdir(bins[i], 0o755))
		must(t, os.WriteFile(filepath.Join(bins[i], "runc"), []byte(bins[i]), 0o755))
	}
	must(t, os.Mkdir(filepath.Join(dir, "not-ours"), 0o755))
	want := func(present ...string) {
		t.Helper()
		present = append(present, "not-ours", ".lock")
		slices.Sort(present)
		if got := list(t, dir); !slices.Equal(got, present) {
			t.Errorf("left %v, want %v", got, present)
		}
	}
	currentRunc := func() string {
		t.Helper()
		raw, err := os.ReadFile(filepath.Join(dir, "current", "runc"))
		must(t, err)
		return string(raw)
	}
	hash := func(i int) string { return filepath.Base(bins[i]) }

	must(t, Prune(dir)) // nothing is active, so nothing is known to be old
	want(hash(0), hash(1), hash(2), hash(3))

	must(t, Activate(bins[0]))
	must(t, Activate(bins[1]))
	must(t, Activate(bins[1])) // a restart keeps the way back
	if got := currentRunc(); got != bins[1] {
		t.Errorf("current is %s, want %s", got, bins[1])
	}
	must(t, Prune(dir))
	want(hash(0), hash(1), "current", "previous")

	must(t, Activate(bins[0])) // rolled back
	must(t, Prune(dir))
	want(hash(0), hash(1), "current", "previous")
	if got := currentRunc(); got != bins[0] {
		t.Errorf("current is %s, want %s", got, bins[0])
	}
}
