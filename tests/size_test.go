package tests

import (
	"os"
	"testing"

	"github.com/edgebox/edgebox/tests/framework"
)

// sizeBudget is how large the one file may be with the fast compression of daily builds. Releases, compressed best, are
// about a quarter smaller, and must stay below 75 MiB. Raise it only for something that is worth a download.
const sizeBudget = 96 << 20

func TestTheOneFileFitsItsBudget(t *testing.T) {
	framework.NeedEdgebox(t)
	file, err := os.Stat(framework.EdgeboxBinary())
	if err != nil {
		t.Fatal(err)
	}
	if file.Size() > sizeBudget {
		t.Errorf("edgebox is %d bytes, %d over the budget", file.Size(), file.Size()-sizeBudget)
	}
}
