package kubelet

import (
	"context"
	"log/slog"
	"time"
	_ "unsafe" // for go:linkname

	"k8s.io/kubernetes/pkg/volume/csi"
	"k8s.io/kubernetes/pkg/volume/csi/nodeinfomanager"
)

// The kubelet and kube-controller-manager both set up upstream's CSI plugin, and in one process both do so in the same
// variables: its handler of drivers that register, and this one. Where only one of several servers runs the controllers,
// they may be set up long after the kubelet was, and from then on drivers would register with the controllers.
//
//go:linkname csiNodes k8s.io/kubernetes/pkg/volume/csi.nim
var csiNodes nodeinfomanager.Interface

// csiPoll is how late a change of the variables is undone. Drivers register when they start.
const csiPoll = 10 * time.Second

// keepCSI holds on to what the kubelet has set, until ctx ends.
func keepCSI(ctx context.Context) {
	handler, nodes := *csi.PluginHandler, csiNodes
	tick := time.NewTicker(csiPoll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if *csi.PluginHandler != handler {
				*csi.PluginHandler, csiNodes = handler, nodes
				slog.Debug("CSI drivers register with the kubelet again")
			}
		}
	}
}
