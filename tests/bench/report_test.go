package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func TestPercentileIsTheNearestRank(t *testing.T) {
	var values []time.Duration
	for i := 20; i > 0; i-- {
		values = append(values, time.Duration(i))
	}
	for p, want := range map[int]time.Duration{0: 1, 5: 1, 50: 10, 51: 11, 99: 20, 100: 20} {
		if got := percentile(values, p); got != want {
			t.Errorf("p%d of 1 to 20 is %d, want %d", p, got, want)
		}
	}
	if got := percentile(nil, 50); got != 0 {
		t.Errorf("p50 of nothing is %d", got)
	}
}

func TestTableMarksWhatIsMissed(t *testing.T) {
	var r report
	for id, value := range map[string]float64{
		"boot.cold.api": 2310, "boot.cold.pod": 12345, "idle.2.cpu": 3.26, "idle.2.written": 0, "idle.2.rss": 330,
		"idle.30.shims": 30, "api.get.rate": 1444, "api.create.rate": 727,
	} {
		r.set(id, value)
	}
	var out strings.Builder
	if err := r.markdown(&out); err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(out.String(), "|---|\n")
	want := `| boot, cold: API ready | 2,310 ms | 3,000 ms | 2,500 ms |  |
| boot, cold: first Deployment Running | 12,345 ms | 10,500 ms | 6,000 ms | **target missed, worse than stock** |
| idle, 2 pods: resident memory | 330 MiB | 436 MiB | 320 MiB | **target missed** |
| idle, 2 pods: CPU | 3.3 % of a core | 7.2 % of a core | 4 % of a core |  |
| idle, 2 pods: written to disk | 0 MiB/h | 67 MiB/h | 15 MiB/h |  |
| idle, 30 pods: number of shims | 30 |  |  |  |
| API, 16 clients: ConfigMap create | 727/s | 726/s |  |  |
| API, 16 clients: ConfigMap get | 1,444/s | 1,445/s |  | **worse than stock** |
`
	if table != want {
		t.Errorf("got\n%s\nwant\n%s", table, want)
	}
}

func TestJSONHasWhatWasMeasured(t *testing.T) {
	var r report
	r.set("size.status", 51)
	var out strings.Builder
	if err := r.json(&out); err != nil {
		t.Fatal(err)
	}
	var got struct{ Figures []map[string]any }
	if err := json.Unmarshal([]byte(out.String()), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Figures) != 1 || got.Figures[0]["id"] != "size.status" || got.Figures[0]["verdict"] != "target missed" {
		t.Errorf("got %s", out.String())
	}
}
