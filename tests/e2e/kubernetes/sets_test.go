package kubernetes

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/edgebox/edgebox/tests/framework"
)

func TestDaemonSetRunsOnMatchingNodes(t *testing.T) {
	n := namespace(t)
	label := "edgebox.test/" + n.Name
	n.Apply(`
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec:
      terminationGracePeriodSeconds: 0
      nodeSelector: {` + label + `: "yes"}
      containers: [{name: c, image: "busybox:e2e", command: [sleep, infinity]}]`)
	n.Want("daemonset/agent", "{.status.observedGeneration}", "1")
	n.Want("daemonset/agent", "{.status.desiredNumberScheduled}", "0")
	n.Kubectl("label", "node", n.Host.Name, label+"=yes")
	n.Want("daemonset/agent", "{.status.numberReady}", "1")
	n.Kubectl("label", "node", n.Host.Name, label+"-")
	framework.Eventually(t, framework.Patience, func() error {
		if left := n.Kubectl("get", "pods", "-o", "name"); left != "" {
			return fmt.Errorf("left after the node lost its label: %s", left)
		}
		return nil
	})
}

func TestStatefulSetKeepsNamesOrderAndData(t *testing.T) {
	n := namespace(t)
	var volumes strings.Builder
	for i := range 2 {
		fmt.Fprintf(&volumes, `---
apiVersion: v1
kind: PersistentVolume
metadata: {name: %[1]s-%[2]d}
spec:
  capacity: {storage: 1Mi}
  accessModes: [ReadWriteOnce]
  storageClassName: %[1]s
  hostPath: {path: /var/lib/%[1]s-%[2]d, type: DirectoryOrCreate}
`, n.Name, i)
	}
	t.Cleanup(func() {
		_, _ = n.Host.Kubectl(context.Background(), "delete", "pv", n.Name+"-0", n.Name+"-1", "--wait=false")
	})
	n.Apply(volumes.String() + `---
apiVersion: v1
kind: Service
metadata: {name: db}
spec:
  clusterIP: None
  selector: {app: db}
  ports: [{port: 80}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  replicas: 2
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: c
        image: busybox:e2e
        command: [sh, -c, "echo $HOSTNAME started >>/data/log; exec httpd -f -h /data"]
        volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec:
      accessModes: [ReadWriteOnce]
      storageClassName: ` + n.Name + `
      resources: {requests: {storage: 1Mi}}`)
	n.Want("statefulset/db", "{.status.readyReplicas}", "2")
	if got := n.Get("pods", "{.items[*].metadata.name}"); got != "db-0 db-1" {
		t.Errorf("pods %q", got)
	}
	created := strings.Fields(n.Get("pods", "{.items[*].metadata.creationTimestamp}"))
	ready := n.Get("pod/db-0", `{.status.conditions[?(@.type=="Ready")].lastTransitionTime}`)
	if created[1] < ready {
		t.Errorf("db-1 was made at %s, before db-0 was ready at %s", created[1], ready)
	}
	n.Client()
	n.WantPage("http://db-1.db/log", "db-1 started")

	n.Kubectl("delete", "pod", "db-1")
	n.Want("statefulset/db", "{.status.readyReplicas}", "2")
	framework.Eventually(t, framework.Patience, func() error {
		page, err := n.Fetch("http://db-1.db/log")
		if err == nil && strings.Count(page, "db-1 started") != 2 {
			err = fmt.Errorf("the new pod's log: %s", page)
		}
		return err
	})
	n.Kubectl("scale", "statefulset/db", "--replicas=1")
	framework.Eventually(t, framework.Patience, func() error {
		if got := n.Kubectl("get", "pods", "-l", "app=db", "-o", "name"); got != "pod/db-0" {
			return fmt.Errorf("after scaling to 1: %s", got)
		}
		return nil
	})
}
