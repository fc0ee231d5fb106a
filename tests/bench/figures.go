package main

// A figure is one row of the table: what it is, and what it is held against. All figures but those per second are the
// better the smaller they are.
type figure struct {
	id     string // of -o json
	name   string
	unit   string
	stock  float64 // of the stock components, see stockIs; 0 is unknown
	note   string  // on stock
	target float64 // of this version; 0 is none
}

const (
	stockIs = "the stock components with default settings in one process, same kind of machine"
	perSec  = "/s"
	pods52  = "with 52 pods"
	allPods = "until the last of 50"
)

// figures are the rows of the table in their order.
var figures = []figure{
	{id: "boot.cold.api", name: "boot, cold: API ready", unit: "ms", stock: 3000, target: 2500},
	{id: "boot.cold.node", name: "boot, cold: node Ready", unit: "ms", stock: 4100, target: 4000},
	{id: "boot.cold.pod", name: "boot, cold: first Deployment Running", unit: "ms", stock: 10500, target: 6000},
	{id: "boot.warm.api", name: "boot, warm: API ready", unit: "ms"},
	{id: "boot.warm.node", name: "boot, warm: node Ready", unit: "ms"},
	{id: "boot.warm.pod", name: "boot, warm: new Deployment Running", unit: "ms"},

	{id: "idle.0.rss", name: "idle, no pods: resident memory", unit: "MiB", target: 320},
	{id: "idle.0.anon", name: "idle, no pods: anonymous part of it", unit: "MiB"},
	{id: "idle.0.cpu", name: "idle, no pods: CPU", unit: "% of a core", target: 4},
	{id: "idle.2.rss", name: "idle, 2 pods: resident memory", unit: "MiB", stock: 436, target: 320},
	{id: "idle.2.anon", name: "idle, 2 pods: anonymous part of it", unit: "MiB", stock: 258},
	{id: "idle.2.cpu", name: "idle, 2 pods: CPU", unit: "% of a core", stock: 7.2, target: 4},
	{id: "idle.2.helpers", name: "idle, 2 pods: CPU of programs that it runs", unit: "% of a core"},
	{id: "idle.2.written", name: "idle, 2 pods: written to disk", unit: "MiB/h", stock: 67, target: 15},
	{id: "idle.30.rss", name: "idle, 30 pods: resident memory", unit: "MiB", stock: 665, note: pods52},
	{id: "idle.30.anon", name: "idle, 30 pods: anonymous part of it", unit: "MiB"},
	{id: "idle.30.cpu", name: "idle, 30 pods: CPU", unit: "% of a core", stock: 19, note: pods52},
	{id: "idle.30.shims", name: "idle, 30 pods: number of shims"},
	{id: "idle.30.shims.pss", name: "idle, 30 pods: memory of the shims together", unit: "MiB", stock: 280, note: pods52},
	{id: "idle.30.shims.private", name: "idle, 30 pods: private memory of a shim", unit: "MiB", stock: 5.7},
	{id: "idle.30.shims.cpu", name: "idle, 30 pods: CPU of the shims together", unit: "% of a core", stock: 17, note: pods52},

	{id: "size.binary", name: "the one file", unit: "MiB", target: 75},
	{id: "size.status", name: "`edgebox status`", unit: "ms", target: 50},

	{id: "pods.1.p50", name: "pod start, one by one: p50", unit: "ms", stock: 920},
	{id: "pods.1.p99", name: "pod start, one by one: p99", unit: "ms"},
	{id: "pods.50.p50", name: "pod start, 50 at once: p50", unit: "ms"},
	{id: "pods.50.p99", name: "pod start, 50 at once: p99", unit: "ms", stock: 33000, note: allPods},

	{id: "api.create.rate", name: "API, 16 clients: ConfigMap create", unit: perSec, stock: 726},
	{id: "api.create.p50", name: "API, 16 clients: create, p50", unit: "ms"},
	{id: "api.create.p99", name: "API, 16 clients: create, p99", unit: "ms", stock: 63},
	{id: "api.get.rate", name: "API, 16 clients: ConfigMap get", unit: perSec, stock: 1445},
	{id: "api.get.p50", name: "API, 16 clients: get, p50", unit: "ms"},
	{id: "api.get.p99", name: "API, 16 clients: get, p99", unit: "ms", stock: 29},
	{id: "api.update.rate", name: "API, 16 clients: ConfigMap update", unit: perSec, stock: 733},
	{id: "api.update.p50", name: "API, 16 clients: update, p50", unit: "ms"},
	{id: "api.update.p99", name: "API, 16 clients: update, p99", unit: "ms", stock: 63},
}

// worse reports whether a value is worse than the one that it is held against.
func (f figure) worse(value, than float64) bool {
	if than == 0 {
		return false
	}
	if f.unit == perSec {
		return value < than
	}
	return value > than
}
