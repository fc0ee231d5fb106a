package workqueue_test

import (
	"runtime"
	"testing"

	"k8s.io/client-go/util/workqueue"
	_ "k8s.io/component-base/metrics/prometheus/workqueue" // sets a provider of metrics

	_ "github.com/edgebox/edgebox/pkg/upstream/workqueue"
)

// TestSleeps counts goroutines: a queue with metrics has one more.
func TestSleeps(t *testing.T) {
	before := runtime.NumGoroutine()
	q := workqueue.NewTypedWithConfig(workqueue.TypedQueueConfig[string]{Name: "test"})
	defer q.ShutDown()
	if after := runtime.NumGoroutine(); after != before {
		t.Errorf("a queue has %d goroutines of its own", after-before)
	}
}
