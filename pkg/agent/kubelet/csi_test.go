package kubelet

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"k8s.io/kubernetes/pkg/volume/csi"
)

// TestKeepCSI: what the controllers set later is undone. It writes where upstream's Init does.
func TestKeepCSI(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours := *csi.PluginHandler
		ctx, cancel := context.WithCancel(t.Context())
		go keepCSI(ctx)
		synctest.Wait()
		var other struct{ _ [4096]byte }
		*(*unsafe.Pointer)(unsafe.Pointer(csi.PluginHandler)) = unsafe.Pointer(&other)
		if *csi.PluginHandler == ours {
			t.Fatal("upstream's handler has another form: keepCSI must be looked at")
		}
		time.Sleep(csiPoll)
		synctest.Wait()
		if *csi.PluginHandler != ours {
			t.Error("drivers register with the controllers")
		}
		cancel()
	})
}
