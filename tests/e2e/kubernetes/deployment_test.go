package kubernetes

import (
	"fmt"
	"strings"
	"testing"

	"github.com/edgebox/edgebox/tests/framework"
)

// webDeployment is the tutorial's Deployment of two web servers.
const webDeployment = `
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
spec:
  replicas: 2
  selector:
    matchLabels: {app: web}
  template:
    metadata:
      labels: {app: web}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: web:1
        ports: [{containerPort: 80}]
        readinessProbe:
          httpGet: {path: /healthz, port: 80}
          periodSeconds: 1
`

const webService = `
apiVersion: v1
kind: Service
metadata:
  name: web
spec:
  selector: {app: web}
  ports: [{port: 80}]
`

func TestDeploymentScales(t *testing.T) {
	n := namespace(t)
	n.Apply(webDeployment)
	n.WaitFor("deployment/web", "Available")
	for _, replicas := range []string{"4", "1"} {
		n.Kubectl("scale", "deployment/web", "--replicas="+replicas)
		n.Want("deployment/web", "{.status.readyReplicas}", replicas)
		n.Want("deployment/web", "{.status.replicas}", replicas)
		framework.Eventually(t, framework.Patience, func() error {
			pods := strings.Fields(n.Get("pods", "{.items[*].metadata.name}"))
			if fmt.Sprint(len(pods)) != replicas {
				return fmt.Errorf("pods %v, want %s", pods, replicas)
			}
			return nil
		})
	}
}

func TestDeploymentRollsOutAndBack(t *testing.T) {
	n := namespace(t)
	n.Apply(webDeployment + "---" + webService)
	n.Client()
	n.WaitFor("deployment/web", "Available")
	n.WantPage("http://web", "version 1")

	n.Kubectl("set", "image", "deployment/web", "web=web:2")
	n.Kubectl("rollout", "status", "deployment/web", "--timeout=110s")
	n.WantPage("http://web", "version 2")
	if got := strings.Fields(n.Get("pods", `{.items[?(@.metadata.labels.app=="web")].spec.containers[0].image}`)); len(got) < 2 || got[0] != "web:2" {
		t.Errorf("images after the roll-out: %v", got)
	}
	if got := n.Kubectl("rollout", "history", "deployment/web"); !strings.Contains(got, "\n2 ") {
		t.Errorf("history: %s", got)
	}

	n.Kubectl("rollout", "undo", "deployment/web")
	n.Kubectl("rollout", "status", "deployment/web", "--timeout=110s")
	n.WantPage("http://web", "version 1")
}

func TestDeploymentKeepsOldPodsWhenNewImageIsMissing(t *testing.T) {
	n := namespace(t)
	n.Apply(webDeployment)
	n.WaitFor("deployment/web", "Available")
	n.Kubectl("set", "image", "deployment/web", "web=localhost:1/no-such-image:9")
	framework.Eventually(t, framework.Patience, func() error {
		reasons := n.Get("pods", "{.items[*].status.containerStatuses[*].state.waiting.reason}")
		if !strings.Contains(reasons, "ImagePullBackOff") && !strings.Contains(reasons, "ErrImagePull") {
			return fmt.Errorf("waiting reasons: %q", reasons)
		}
		return nil
	})
	if got := n.Get("deployment/web", "{.status.availableReplicas}"); got != "2" {
		t.Errorf("%s replicas are available, want the 2 old ones", got)
	}
	n.Kubectl("rollout", "undo", "deployment/web")
	n.Kubectl("rollout", "status", "deployment/web", "--timeout=110s")
}

func TestDeploymentReplacesDeletedPod(t *testing.T) {
	n := namespace(t)
	n.Apply(webDeployment)
	n.WaitFor("deployment/web", "Available")
	victim := n.Get("pods", "{.items[0].metadata.name}")
	n.Kubectl("delete", "pod", victim)
	n.Want("deployment/web", "{.status.readyReplicas}", "2")
	if pods := n.Get("pods", "{.items[*].metadata.name}"); strings.Contains(pods, victim) || len(strings.Fields(pods)) != 2 {
		t.Errorf("pods %s, want two without %s", pods, victim)
	}
}

func TestKilledProcessIsRestartedInItsPod(t *testing.T) {
	n := namespace(t)
	n.Apply(`
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: web, image: web:1}]`)
	n.WaitFor("pod/web", "Ready")
	uid := n.Get("pod/web", "{.metadata.uid}")
	pids := strings.Join(n.Processes("web"), " ")
	n.Host.Shell(t, `for p in `+pids+`; do case $(readlink /proc/$p/exe) in */web) kill -9 $p;; esac; done`)
	n.Want("pod/web", "{.status.containerStatuses[0].restartCount}", "1")
	n.WaitFor("pod/web", "Ready")
	if got := n.Get("pod/web", "{.metadata.uid}"); got != uid {
		t.Errorf("pod has uid %s, before %s", got, uid)
	}
	if got := n.Get("pod/web", "{.status.containerStatuses[0].lastState.terminated.exitCode}"); got != "137" {
		t.Errorf("last exit code %s, want 137", got)
	}
}

func TestDeploymentOwnsReplicaSetOwnsPods(t *testing.T) {
	n := namespace(t)
	n.Apply(webDeployment)
	n.WaitFor("deployment/web", "Available")
	const owner = "{.items[0].metadata.ownerReferences[0].kind}/{.items[0].metadata.ownerReferences[0].name}"
	if got := n.Get("replicasets", owner); got != "Deployment/web" {
		t.Errorf("the replica set belongs to %s", got)
	}
	set := n.Get("replicasets", "{.items[0].metadata.name}")
	if got := n.Get("pods", owner); got != "ReplicaSet/"+set {
		t.Errorf("the pod belongs to %s, want %s", got, set)
	}
	if !strings.HasPrefix(set, "web-") {
		t.Errorf("replica set %q", set)
	}
	n.Kubectl("delete", "deployment", "web")
	framework.Eventually(t, framework.Patience, func() error {
		if left := n.Kubectl("get", "replicasets,pods", "-o", "name"); left != "" {
			return fmt.Errorf("left after the deployment was deleted: %s", left)
		}
		return nil
	})
}
