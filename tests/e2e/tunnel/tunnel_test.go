package tunnel

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"github.com/edgebox/edgebox/tests/framework"
)

// Without this the other tests would show nothing.
func TestNothingGetsInWithoutTunnel(t *testing.T) {
	c, n := namespace(t)
	t.Parallel()
	for name, h := range c.agents {
		// The kubelet listens, also on the address that the router hides.
		h.Shell(t, "nc -w 2 "+h.Address.String()+" 10250 </dev/null")
		for _, address := range []string{h.Address.String(), n.Get("node/"+name, `{.status.addresses[?(@.type=="InternalIP")].address}`)} {
			if out, err := c.server.Run(t.Context(), "timeout", "3", "nc", "-w", "2", address, "10250"); err == nil {
				t.Errorf("the server has reached the kubelet of node %s at %s: %s", name, address, out)
			}
		}
	}
}

func TestLogs(t *testing.T) {
	_, n := namespace(t)
	t.Parallel()
	onEach(n, "echo one; echo this is $HOSTNAME; until test -e /tmp/go; do sleep 0.1; done; echo end; sleep infinity", "")
	for _, node := range agents {
		if got, want := n.Kubectl("logs", node), "one\nthis is "+node; got != want {
			t.Errorf("logs %s: %q, want %q", node, got, want)
		}
		if got, want := n.Kubectl("logs", node, "--tail=1"), "this is "+node; got != want {
			t.Errorf("logs %s --tail=1: %q, want %q", node, got, want)
		}
		_, out := start(t, n, "logs", "-f", node)
		wantIn(t, out, "this is "+node)
		n.Kubectl("exec", node, "--", "touch", "/tmp/go")
		wantIn(t, out, "end")
	}
}

func TestExec(t *testing.T) {
	_, n := namespace(t)
	t.Parallel()
	onEach(n, "sleep infinity", "")
	text := strings.Repeat("edgebox\n", 1<<17)
	sum := fmt.Sprintf("%x ", sha256.Sum256([]byte(text)))
	for _, node := range agents {
		out, err := n.Exec(node, "sh", "-c", "hostname; echo err >&2; exit 3")
		if framework.ExitCode(err) != 3 || out != node || !strings.Contains(err.Error(), "err") {
			t.Errorf("exec on %s: %q, %v", node, out, err)
		}
		cmd := n.Host.Command(t.Context(), framework.Binary, "kubectl", "-n", n.Name, "exec", "-i", node, "--", "sha256sum")
		cmd.Stdin = strings.NewReader(text)
		if out, err := cmd.Output(); err != nil || !strings.HasPrefix(out, sum) {
			t.Errorf("1 MiB through stdin of %s: %q, %v", node, out, err)
		}
	}
}

func TestAttach(t *testing.T) {
	_, n := namespace(t)
	t.Parallel()
	onEach(n, "while read l; do echo $HOSTNAME got $l; done", "stdin: true\n    stdinOnce: true")
	for _, node := range agents {
		attach := n.Host.Command(t.Context(), framework.Binary, "kubectl", "-n", n.Name, "attach", "-i", node)
		attach.Stdin = strings.NewReader("hello\nworld\n")
		want := node + " got hello\n" + node + " got world\n"
		if out, err := attach.Output(); err != nil || !strings.Contains(out, want) {
			t.Errorf("attach to %s: %q, %v", node, out, err)
		}
	}
}

// page is a script for a pod that serves its name on port 8080.
const page = "mkdir /tmp/www; hostname >/tmp/www/index.html; exec httpd -f -p 8080 -h /tmp/www"

func TestPortForward(t *testing.T) {
	_, n := namespace(t)
	t.Parallel()
	onEach(n, page, "readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}")
	for i, node := range agents {
		port := fmt.Sprint(18080 + i)
		_, out := start(t, n, "port-forward", "pod/"+node, port+":8080")
		wantIn(t, out, "Forwarding from 127.0.0.1:"+port)
		for range 3 {
			if got := n.Host.Shell(t, "timeout 10 wget -qO- http://127.0.0.1:"+port); got != node {
				t.Errorf("page of %s: %q", node, got)
			}
		}
	}
}

func TestCopy(t *testing.T) {
	_, n := namespace(t)
	t.Parallel()
	onEach(n, "sleep infinity", "")
	dir := "/tmp/" + n.Name
	n.Host.Shell(t, "mkdir -p "+dir+"/in/deep; cd "+dir+"/in; echo a >a; head -c 5000000 /dev/urandom >deep/b")
	for _, node := range agents {
		n.Kubectl("cp", dir+"/in", node+":/tmp/in")
		n.Kubectl("cp", node+":/tmp/in", dir+"/"+node)
		n.Host.Shell(t, "diff -r "+dir+"/in "+dir+"/"+node)
	}
}

func TestFiguresOfNodes(t *testing.T) {
	_, n := namespace(t)
	t.Parallel()
	onEach(n, "sleep infinity", "")
	for _, node := range agents {
		for path, want := range map[string]string{
			"metrics":          "kubelet_node_name{node=\"" + node + "\"} 1",
			"metrics/resource": `node_cpu_usage_seconds_total`,
			"metrics/cadvisor": `container_`,
			"stats/summary":    `"nodeName": "` + node + `"`,
			"healthz":          "ok",
			"pods":             `"namespace":"` + n.Name + `"`,
		} {
			framework.Eventually(t, framework.Patience, func() error {
				got, err := n.Try("get", "--raw", "/api/v1/nodes/"+node+"/proxy/"+path)
				if err == nil && !strings.Contains(got, want) {
					err = fmt.Errorf("%s of node %s has no %q: %.500s", path, node, want, got)
				}
				return err
			})
		}
	}
}

func TestProxyOfTheAPI(t *testing.T) {
	_, n := namespace(t)
	t.Parallel()
	onEach(n, page, "readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}")
	for _, node := range agents {
		n.Kubectl("expose", "pod/"+node, "--port=80", "--target-port=8080")
		for _, path := range []string{"pods/" + node + ":8080", "services/" + node + ":80"} {
			framework.Eventually(t, framework.Patience, func() error {
				got, err := n.Try("get", "--raw", "/api/v1/namespaces/"+n.Name+"/"+path+"/proxy/")
				if err == nil && got != node {
					err = fmt.Errorf("page of %s: %q", path, got)
				}
				return err
			})
		}
	}
}

func TestWebhooks(t *testing.T) {
	_, n := namespace(t)
	t.Parallel()
	for _, node := range agents {
		name := "hook-" + node
		n.Apply(`
apiVersion: v1
kind: Pod
metadata: {name: ` + name + `, labels: {app: ` + name + `}}
spec:
  nodeSelector: {kubernetes.io/hostname: ` + node + `}
  terminationGracePeriodSeconds: 0
  containers:
  - name: webhook
    image: webhook:e2e
    args: [` + name + `.` + n.Name + `.svc]
    readinessProbe: {tcpSocket: {port: 8443}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: ` + name + `}
spec:
  selector: {app: ` + name + `}
  ports: [{port: 443, targetPort: 8443}]`)
		n.WaitFor("pod/"+name, "Ready")
		certificate, _, ok := strings.Cut(n.Kubectl("logs", name), "-----END CERTIFICATE-----")
		if !ok {
			t.Fatalf("the webhook has printed no certificate: %s", certificate)
		}
		configuration := n.Name + "-" + node
		t.Cleanup(func() {
			_, _ = n.Host.Kubectl(context.WithoutCancel(t.Context()), "delete", "mutatingwebhookconfiguration", configuration)
		})
		n.Apply(`
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: {name: ` + configuration + `}
webhooks:
- name: ` + node + `.example.test
  admissionReviewVersions: [v1]
  sideEffects: None
  failurePolicy: Fail
  timeoutSeconds: 10
  namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: ` + n.Name + `}}
  rules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}]
  objectSelector: {matchLabels: {for: ` + node + `}}
  clientConfig:
    service: {name: ` + name + `, namespace: ` + n.Name + `}
    caBundle: ` + base64.StdEncoding.EncodeToString([]byte(certificate+"-----END CERTIFICATE-----\n")))
		object := func(name, labels string) string {
			return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: " + name + ", labels: {" + labels + "}}"
		}
		framework.Eventually(t, framework.Patience, func() error {
			// Before the API server knows the webhook, it is not asked.
			_, _ = n.Try("delete", "configmap", node, "--ignore-not-found")
			if err := n.TryApply(object(node, "for: "+node)); err != nil {
				return err
			}
			if got := n.Get("configmap/"+node, "{.metadata.annotations.seen}"); got != "yes" {
				return fmt.Errorf("the webhook of node %s has not seen the object: %q", node, got)
			}
			return nil
		})
		if err := n.TryApply(object("refused-"+node, "refuse: please, for: "+node)); err == nil || !strings.Contains(err.Error(), "refused by the webhook") {
			t.Errorf("the webhook of node %s refuses with %v", node, err)
		}
	}
}
