// Package workqueue lets the work queues of the Kubernetes components sleep when there is no work.
//
// With metrics, each of client-go's queues wakes up twice a second to compute one: 230 times a second for the queues of
// a server, a third of all that an idle one does. Without a provider of metrics they do not. client-go takes the first
// provider that is set, but has no way to say that there shall be none. See docs/adr/0010-no-workqueue-metrics.md.
//
// It must import nothing else, so that it is initialized before those who set a provider: the package whose imports are
// done and whose path sorts first is next.
package workqueue

import (
	"sync"
	_ "unsafe" // for go:linkname

	_ "k8s.io/client-go/util/workqueue"
)

//go:linkname providerOnce k8s.io/client-go/util/workqueue.setGlobalMetricsProviderOnce
var providerOnce sync.Once

func init() { providerOnce.Do(func() {}) }
