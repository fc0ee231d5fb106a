package kubernetes

import (
	"fmt"
	"strings"
	"testing"

	"github.com/edgebox/edgebox/tests/framework"
)

func TestDevicePluginGivesDevicesToPods(t *testing.T) {
	n := namespace(t)
	bin, err := framework.GoBinary("./tests/e2e/kubernetes/deviceplugin")
	if err != nil {
		t.Fatal(err)
	}
	image := framework.Image{Ref: "deviceplugin:e2e", Files: map[string]string{"deviceplugin": bin}, Entrypoint: []string{"/deviceplugin"}}
	if err := n.Host.Import(t.Context(), image); err != nil {
		t.Fatal(err)
	}
	n.Apply(`
apiVersion: v1
kind: Pod
metadata: {name: plugin}
spec:
  terminationGracePeriodSeconds: 1
  volumes: [{name: sockets, hostPath: {path: /var/lib/kubelet/device-plugins, type: Directory}}]
  containers:
  - name: plugin
    image: deviceplugin:e2e
    volumeMounts: [{name: sockets, mountPath: /var/lib/kubelet/device-plugins}]`)
	n.Want("node/"+n.Host.Name, `{.status.allocatable.edgebox\.test/gadget}`, "2")

	user := func(name string, devices int) string {
		return fmt.Sprintf(`---
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: busybox:e2e
    command: [sleep, infinity]
    resources: {limits: {edgebox.test/gadget: %d}}
`, name, devices)
	}
	n.Apply(user("one", 1))
	n.WaitFor("pod/one", "Ready")
	if out, err := n.Exec("one", "sh", "-c", "echo $GADGET; ls -l /dev/gadget"); err != nil || !strings.HasPrefix(out, "gadget-") || !strings.Contains(out, "1,   3") {
		t.Errorf("the pod sees %q, %v", out, err)
	}
	n.Apply(user("two", 2)) // only one is left
	n.Want("pod/two", `{.status.conditions[?(@.type=="PodScheduled")].reason}`, "Unschedulable")
	n.Kubectl("delete", "pod", "one")
	n.WaitFor("pod/two", "Ready")
}
