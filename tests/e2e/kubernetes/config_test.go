package kubernetes

import (
	"fmt"
	"strings"
	"testing"

	"github.com/edgebox/edgebox/tests/framework"
)

func TestConfigMapsAndSecretsAsFilesAndVariables(t *testing.T) {
	n := namespace(t)
	n.Kubectl("create", "configmap", "settings", "--from-literal=colour=blue", "--from-literal=size=small")
	n.Kubectl("create", "secret", "generic", "login", "--from-literal=user=admin", "--from-literal=password=s3cr=t")
	n.Apply(`
apiVersion: v1
kind: Pod
metadata: {name: reader, labels: {tier: test}}
spec:
  terminationGracePeriodSeconds: 0
  volumes:
  - {name: settings, configMap: {name: settings}}
  - {name: login, secret: {secretName: login, defaultMode: 0400}}
  - name: all
    projected:
      sources:
      - configMap: {name: settings, items: [{key: size, path: how/big}]}
      - downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}
      - serviceAccountToken: {path: token, expirationSeconds: 600}
  containers:
  - name: c
    image: busybox:e2e
    command: [sleep, infinity]
    env:
    - {name: COLOUR, valueFrom: {configMapKeyRef: {name: settings, key: colour}}}
    - {name: PASSWORD, valueFrom: {secretKeyRef: {name: login, key: password}}}
    - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    envFrom: [{configMapRef: {name: settings}, prefix: S_}]
    volumeMounts:
    - {name: settings, mountPath: /settings}
    - {name: login, mountPath: /login}
    - {name: all, mountPath: /all}`)
	n.WaitFor("pod/reader", "Ready")
	out, err := n.Exec("reader", "sh", "-ec", `
		echo $COLOUR $PASSWORD $S_size $NODE
		cat /settings/colour; echo; cat /login/password; echo; cat /all/how/big; echo; cat /all/labels; echo
		stat -L -c %a /login/password
		mount | grep ' /login ' | grep -o tmpfs | head -n 1
		test -s /all/token; test -s /var/run/secrets/kubernetes.io/serviceaccount/ca.crt`)
	if err != nil {
		t.Fatal(err)
	}
	want := "blue s3cr=t small " + n.Host.Name + "\nblue\ns3cr=t\nsmall\ntier=\"test\"\n400\ntmpfs"
	if out != want {
		t.Errorf("the pod sees\n%s\nwant\n%s", out, want)
	}

	n.Kubectl("patch", "configmap", "settings", "-p", `{"data":{"colour":"red"}}`)
	n.Kubectl("patch", "secret", "login", "-p", `{"stringData":{"password":"changed"}}`)
	framework.Eventually(t, framework.Patience, func() error {
		out, err := n.Exec("reader", "sh", "-c", "cat /settings/colour; echo; cat /login/password; echo; echo $COLOUR")
		if err == nil && out != "red\nchanged\nblue" {
			err = fmt.Errorf("the pod still sees %q", out)
		}
		return err
	})
}

func TestPodWaitsForMissingConfigMap(t *testing.T) {
	n := namespace(t)
	n.Apply(`
apiVersion: v1
kind: Pod
metadata: {name: waits}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: busybox:e2e
    command: [sleep, infinity]
    envFrom: [{configMapRef: {name: late}}]`)
	n.Want("pod/waits", "{.status.containerStatuses[0].state.waiting.reason}", "CreateContainerConfigError")
	n.Kubectl("create", "configmap", "late", "--from-literal=A=1")
	n.WaitFor("pod/waits", "Ready")
	if out, err := n.Exec("waits", "sh", "-c", "echo $A"); err != nil || strings.TrimSpace(out) != "1" {
		t.Errorf("A is %q, %v", out, err)
	}
}
