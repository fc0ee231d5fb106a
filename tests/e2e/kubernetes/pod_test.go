package kubernetes

import (
	"fmt"
	"strings"
	"testing"

	"github.com/edgebox/edgebox/tests/framework"
)

func TestContainersOfPodShareNetworkAndVolume(t *testing.T) {
	n := namespace(t)
	n.Apply(`
apiVersion: v1
kind: Pod
metadata: {name: pair}
spec:
  terminationGracePeriodSeconds: 0
  volumes: [{name: shared, emptyDir: {}}]
  containers:
  - name: web
    image: web:1
    volumeMounts: [{name: shared, mountPath: /unused}]
  - name: side
    image: busybox:e2e
    command: [sh, -c, "echo from side >/shared/file; sleep infinity"]
    volumeMounts: [{name: shared, mountPath: /shared}]
  - name: reader
    image: busybox:e2e
    command: [sleep, infinity]
    volumeMounts: [{name: shared, mountPath: /read, readOnly: true}]`)
	n.WaitFor("pod/pair", "Ready")
	framework.Eventually(t, framework.Patience, func() error {
		page, err := n.Try("exec", "pair", "-c", "side", "--", "wget", "-qO-", "http://localhost")
		if err == nil && !strings.Contains(page, "Hello from pair") {
			err = fmt.Errorf("page: %s", page)
		}
		return err
	})
	if got := n.Kubectl("exec", "pair", "-c", "reader", "--", "cat", "/read/file"); got != "from side" {
		t.Errorf("the shared file has %q", got)
	}
	n.Refused("Read-only", "exec", "pair", "-c", "reader", "--", "touch", "/read/more")
}

// The tutorial's pod, with shorter times.
func TestLivenessProbeRestartsContainer(t *testing.T) {
	n := namespace(t)
	n.Apply(`
apiVersion: v1
kind: Pod
metadata: {name: liveness}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: liveness
    image: busybox:e2e
    args: [/bin/sh, -c, "touch /tmp/healthy; sleep 5; rm -rf /tmp/healthy; sleep 600"]
    livenessProbe:
      exec: {command: [cat, /tmp/healthy]}
      periodSeconds: 1
      failureThreshold: 2`)
	n.WaitFor("pod/liveness", "Ready")
	n.Want("pod/liveness", "{.status.containerStatuses[0].restartCount}", "1")
	events := n.Kubectl("events", "--for", "pod/liveness")
	if !strings.Contains(events, "Liveness probe failed") {
		t.Errorf("no event tells of the probe:\n%s", events)
	}
}

func TestReadinessProbeTakesPodOutOfService(t *testing.T) {
	n := namespace(t)
	n.Apply(webDeployment + "---" + webService)
	n.Client()
	n.WaitFor("deployment/web", "Available")
	ready := func(want int) {
		t.Helper()
		framework.Eventually(t, framework.Patience, func() error {
			got := n.Kubectl("get", "endpointslices", "-l", "kubernetes.io/service-name=web", "-o",
				`jsonpath={.items[*].endpoints[?(@.conditions.ready==true)].targetRef.name}`)
			if len(strings.Fields(got)) != want {
				return fmt.Errorf("ready endpoints %q, want %d", got, want)
			}
			return nil
		})
	}
	ready(2)
	ip := n.Get("pods", `{.items[?(@.metadata.labels.app=="web")].status.podIP}`)
	sick := strings.Fields(ip)[0]
	post := func(path string) {
		t.Helper()
		if _, err := n.Exec("client", "wget", "-q", "-O", "/dev/null", "--post-data", "", "http://"+sick+path); err != nil {
			t.Fatal(err)
		}
	}
	name := n.Kubectl("get", "pods", "--field-selector=status.podIP="+sick, "-o", "jsonpath={.items[0].metadata.name}")
	post("/fail")
	ready(1)
	// The rules follow the endpoints with a little delay; after that, only the healthy one answers.
	streak := 0
	framework.Eventually(t, framework.Patience, func() error {
		page, err := n.Fetch("http://web")
		if err != nil || strings.Contains(page, name) {
			streak = 0
			return fmt.Errorf("page of the pod that is not ready: %s %w", page, err)
		}
		if streak++; streak < 8 {
			return fmt.Errorf("only %d answers in a row came from the other pod", streak)
		}
		return nil
	})
	if phase := n.Get("pod/"+name, "{.status.phase} {.status.containerStatuses[0].restartCount}"); phase != "Running 0" {
		t.Errorf("the pod that is not ready is %q", phase)
	}
	post("/heal")
	ready(2)
}

func TestRestartPolicyAndPhase(t *testing.T) {
	n := namespace(t)
	pods := []struct {
		name, policy, script string
		phase                string
		restarts             string // empty: any
	}{
		{"always-0", "Always", "exit 0", "Running", ""},
		{"always-1", "Always", "exit 1", "Running", ""},
		{"onfailure-0", "OnFailure", "exit 0", "Succeeded", "0"},
		{"onfailure-1", "OnFailure", "test -e /d/tried || { touch /d/tried; exit 1; }", "Succeeded", "1"},
		{"never-0", "Never", "exit 0", "Succeeded", "0"},
		{"never-1", "Never", "exit 1", "Failed", "0"},
	}
	var manifest strings.Builder
	for _, p := range pods {
		fmt.Fprintf(&manifest, `---
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  restartPolicy: %s
  terminationGracePeriodSeconds: 0
  volumes: [{name: d, emptyDir: {}}]
  containers:
  - {name: c, image: "busybox:e2e", command: [sh, -c, "%s"], volumeMounts: [{name: d, mountPath: /d}]}
`, p.name, p.policy, p.script)
	}
	n.Apply(manifest.String())
	for _, p := range pods {
		if p.policy == "Always" {
			framework.Eventually(t, framework.Patience, func() error {
				if got := n.Get("pod/"+p.name, "{.status.containerStatuses[0].restartCount}"); got == "" || got == "0" {
					return fmt.Errorf("%s has restarted %q times", p.name, got)
				}
				return nil
			})
		}
		n.Want("pod/"+p.name, "{.status.phase}", p.phase)
		if got := n.Get("pod/"+p.name, "{.status.containerStatuses[0].restartCount}"); p.restarts != "" && got != p.restarts {
			t.Errorf("%s has restarted %s times, want %s", p.name, got, p.restarts)
		}
	}
	if got := n.Get("pod/never-1", "{.status.containerStatuses[0].state.terminated.exitCode}"); got != "1" {
		t.Errorf("exit code %s, want 1", got)
	}
}

func TestInitContainersRunInOrderBeforeOthers(t *testing.T) {
	n := namespace(t)
	n.Apply(`
apiVersion: v1
kind: Pod
metadata: {name: init}
spec:
  terminationGracePeriodSeconds: 0
  volumes: [{name: d, emptyDir: {}}]
  initContainers:
  - {name: one, image: "busybox:e2e", command: [sh, -c, "echo one >>/d/log"], volumeMounts: [{name: d, mountPath: /d}]}
  - {name: two, image: "busybox:e2e", command: [sh, -c, "echo two >>/d/log"], volumeMounts: [{name: d, mountPath: /d}]}
  - name: sidecar
    image: busybox:e2e
    restartPolicy: Always
    command: [sh, -c, "echo sidecar >>/d/log; sleep infinity"]
    volumeMounts: [{name: d, mountPath: /d}]
    startupProbe: {exec: {command: [grep, sidecar, /d/log]}, periodSeconds: 1}
  containers:
  - {name: main, image: "busybox:e2e", command: [sh, -c, "echo main >>/d/log; sleep infinity"], volumeMounts: [{name: d, mountPath: /d}]}
---
apiVersion: v1
kind: Pod
metadata: {name: stuck}
spec:
  restartPolicy: Never
  initContainers:
  - {name: fails, image: "busybox:e2e", command: ["false"]}
  containers:
  - {name: main, image: "busybox:e2e", command: [sleep, infinity]}`)
	n.WaitFor("pod/init", "Ready")
	framework.Eventually(t, framework.Patience, func() error {
		log, err := n.Exec("init", "cat", "/d/log")
		if got := strings.Join(strings.Fields(log), " "); err == nil && got != "one two sidecar main" {
			err = fmt.Errorf("the containers ran in the order %q", got)
		}
		return err
	})
	n.Want("pod/stuck", "{.status.phase}", "Failed")
	if got := n.Get("pod/stuck", "{.status.containerStatuses[0].state.terminated.exitCode}"); got != "" {
		t.Errorf("the main container ran after a failed init container: %s", got)
	}
}

func TestHostNetworkAndHostPath(t *testing.T) {
	n := namespace(t)
	dir := "/var/lib/" + n.Name
	n.Host.Shell(t, "mkdir -p "+dir+"; echo on the host >"+dir+"/file")
	n.Apply(`
apiVersion: v1
kind: Pod
metadata: {name: host}
spec:
  hostNetwork: true
  hostPID: true
  terminationGracePeriodSeconds: 0
  volumes:
  - {name: dir, hostPath: {path: ` + dir + `, type: Directory}}
  containers:
  - {name: c, image: "busybox:e2e", command: [sleep, infinity], volumeMounts: [{name: dir, mountPath: /host}]}`)
	n.WaitFor("pod/host", "Ready")
	if got := n.Get("pod/host", "{.status.podIP}"); got != n.Host.Address.String() {
		t.Errorf("pod address %s, want the host's %s", got, n.Host.Address)
	}
	out, err := n.Exec("host", "sh", "-ec", "ip -o addr show eth0; cat /host/file; echo from the pod >/host/answer; cat /proc/1/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{n.Host.Address.String(), "on the host", "init"} {
		if !strings.Contains(out, want) {
			t.Errorf("the pod does not see %q: %s", want, out)
		}
	}
	if got := n.Host.Shell(t, "cat "+dir+"/answer"); got != "from the pod" {
		t.Errorf("the host reads %q", got)
	}
}

func TestLimitsAreEnforced(t *testing.T) {
	n := namespace(t)
	n.Apply(`
apiVersion: v1
kind: Pod
metadata: {name: hog}
spec:
  restartPolicy: Never
  containers:
  - name: hog
    image: busybox:e2e
    command: [dd, if=/dev/zero, of=/dev/null, bs=200M, count=1]
    resources: {limits: {memory: 32Mi}}
---
apiVersion: v1
kind: Pod
metadata: {name: modest}
spec:
  restartPolicy: Never
  containers:
  - name: modest
    image: busybox:e2e
    command:
    - sh
    - -c
    - |
      cd /sys/fs/cgroup
      if [ -e cpu.max ]; then cat cpu.max; else echo $(cat cpu/cpu.cfs_quota_us) $(cat cpu/cpu.cfs_period_us); fi
    resources: {limits: {cpu: 250m, memory: 32Mi}}`)
	n.Want("pod/hog", "{.status.phase}", "Failed")
	if got := n.Get("pod/hog", "{.status.containerStatuses[0].state.terminated.reason}"); got != "OOMKilled" {
		t.Errorf("the memory hog ended with %q, want OOMKilled", got)
	}
	n.Want("pod/modest", "{.status.phase}", "Succeeded")
	if got := n.Kubectl("logs", "modest"); got != "25000 100000" {
		t.Errorf("quota and period of a quarter of a core: %q", got)
	}
	if got := n.Get("node/"+n.Host.Name, `{.status.conditions[?(@.type=="Ready")].status}`); got != "True" {
		t.Errorf("the node's Ready is %s", got)
	}
}
