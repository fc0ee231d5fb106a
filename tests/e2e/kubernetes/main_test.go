// Package kubernetes shows that what a user of Kubernetes learns first works on edgebox, with kubectl as the only
// tool. All its tests share one cluster and have a namespace each.
package kubernetes

import (
	"testing"

	"github.com/edgebox/edgebox/tests/framework"
)

func TestMain(m *testing.M) { framework.Main(m) }

// namespace is a fresh one in the shared cluster. The test runs in parallel with others from here on.
func namespace(t *testing.T) *framework.Namespace {
	t.Helper()
	t.Parallel()
	framework.NeedEdgebox(t)
	return framework.Shared(t).Namespace(t)
}
