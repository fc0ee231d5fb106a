package kubernetes

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/edgebox/edgebox/tests/framework"
)

func TestServiceSpreadsOverPodsAndHasName(t *testing.T) {
	n := namespace(t)
	n.Apply(webDeployment + "---" + webService)
	n.Client()
	n.WaitFor("deployment/web", "Available")
	for _, name := range []string{"web", "web." + n.Name, "web." + n.Name + ".svc", "web." + n.Name + ".svc.cluster.local"} {
		n.WantPage("http://"+name, "Hello from web-")
	}
	seen := make(map[string]bool)
	framework.Eventually(t, framework.Patience, func() error {
		page, err := n.Fetch("http://web")
		if err != nil {
			return err
		}
		seen[page] = true
		if len(seen) < 2 {
			return fmt.Errorf("only %v has answered", seen)
		}
		return nil
	})

	ip := n.Get("service/web", "{.spec.clusterIP}")
	if page := n.Host.Shell(t, "timeout 5 wget -qO- http://"+ip); !strings.Contains(page, "Hello from web-") {
		t.Errorf("from the node: %s", page)
	}
	// Port 81 has no rule, and a Service without endpoints refuses instead of hanging.
	n.Kubectl("scale", "deployment/web", "--replicas=0")
	framework.Eventually(t, framework.Patience, func() error {
		_, err := n.Fetch("http://web")
		if err == nil || !strings.Contains(err.Error(), "refused") {
			return fmt.Errorf("without endpoints: %w", err)
		}
		return nil
	})
}

func TestPodReachesItselfThroughService(t *testing.T) {
	n := namespace(t)
	n.Apply(`
apiVersion: v1
kind: Pod
metadata: {name: self, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: web, image: "web:1"}
  - {name: shell, image: "busybox:e2e", command: [sleep, infinity]}
---` + webService)
	n.WaitFor("pod/self", "Ready")
	framework.Eventually(t, framework.Patience, func() error {
		_, err := n.Try("exec", "self", "-c", "shell", "--", "timeout", "3", "wget", "-qO-", "http://web")
		return err
	})
}

func TestServiceInEnvironment(t *testing.T) {
	n := namespace(t)
	n.Apply(webService)
	n.Client()
	ip := n.Get("service/web", "{.spec.clusterIP}")
	framework.Eventually(t, framework.Patience, func() error {
		env, err := n.Exec("client", "env")
		if err != nil {
			return err
		}
		for _, want := range []string{"WEB_SERVICE_HOST=" + ip, "WEB_SERVICE_PORT=80", "WEB_PORT_80_TCP=tcp://" + ip + ":80", "KUBERNETES_SERVICE_HOST="} {
			if !strings.Contains(env, want) {
				// The kubelet may not have known the Service yet when it started the pod.
				n.Kubectl("delete", "pod", "client")
				n.Client()
				return fmt.Errorf("no %s in the environment:\n%s", want, env)
			}
		}
		return nil
	})
}

func TestNodePortFromOutside(t *testing.T) {
	t.Parallel()
	framework.NeedEdgebox(t)
	network := framework.NewNetwork(t, netip.MustParsePrefix("192.168.88.0/24"))
	h := framework.NewHost(t, framework.Options{Network: network})
	outsider := framework.NewHost(t, framework.Options{Name: "outsider", Network: network})
	h.Up(t)
	images, err := framework.Images()
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Import(t.Context(), images...); err != nil {
		t.Fatal(err)
	}
	n := h.Namespace(t)
	n.Apply(webDeployment)
	n.Kubectl("expose", "deployment/web", "--type=NodePort", "--port=80")
	n.WaitFor("deployment/web", "Available")
	port := n.Get("service/web", "{.spec.ports[0].nodePort}")
	url := "http://" + h.Address.String() + ":" + port
	for _, from := range []*framework.Host{outsider, h} {
		framework.Eventually(t, framework.Patience, func() error {
			ctx, cancel := context.WithTimeout(t.Context(), framework.Patience)
			defer cancel()
			page, err := from.Run(ctx, "timeout", "3", "wget", "-qO-", url)
			if err == nil && !strings.Contains(page, "Hello from web-") {
				err = fmt.Errorf("page: %s", page)
			}
			return err
		})
	}
}

func TestHeadlessServiceNamesEachPod(t *testing.T) {
	n := namespace(t)
	n.Apply(webDeployment + `---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  clusterIP: None
  selector: {app: web}
  ports: [{port: 80}]`)
	n.Client()
	n.WaitFor("deployment/web", "Available")
	framework.Eventually(t, framework.Patience, func() error {
		out, err := n.Exec("client", "nslookup", "web."+n.Name+".svc.cluster.local")
		if err != nil {
			return err
		}
		for ip := range strings.FieldsSeq(n.Get("pods", `{.items[?(@.metadata.labels.app=="web")].status.podIP}`)) {
			if !strings.Contains(out, ip) {
				return fmt.Errorf("no %s among the addresses: %s", ip, out)
			}
		}
		return nil
	})
}

func TestExternalNameIsAlias(t *testing.T) {
	n := namespace(t)
	n.Apply(webDeployment + "---" + webService + `---
apiVersion: v1
kind: Service
metadata: {name: alias}
spec:
  type: ExternalName
  externalName: web.` + n.Name + `.svc.cluster.local`)
	n.Client()
	n.WantPage("http://alias", "Hello from web-")
}

func TestNamesInDNS(t *testing.T) {
	n := namespace(t)
	n.Client()
	framework.Eventually(t, framework.Patience, func() error {
		out, err := n.Exec("client", "nslookup", "kubernetes.default.svc.cluster.local")
		if err == nil && !strings.Contains(out, "10.43.0.1") {
			err = fmt.Errorf("answer: %s", out)
		}
		return err
	})
	out, err := n.Exec("client", "nslookup", "no-such-service.default.svc.cluster.local")
	if err == nil || !strings.Contains(out+err.Error(), "NXDOMAIN") {
		t.Errorf("a name that does not exist: %s %v", out, err)
	}
	resolv, err := n.Exec("client", "cat", "/etc/resolv.conf")
	if err != nil || !strings.Contains(resolv, "nameserver 10.43.0.10") || !strings.Contains(resolv, n.Name+".svc.cluster.local") {
		t.Errorf("resolv.conf: %s %v", resolv, err)
	}
}
