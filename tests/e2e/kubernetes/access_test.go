package kubernetes

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/edgebox/edgebox/tests/framework"
)

func TestNamespacesSeparate(t *testing.T) {
	n := namespace(t)
	other := n.Name + "-2"
	n.Kubectl("create", "namespace", other)
	n.Kubectl("create", "configmap", "same", "--from-literal=where=here")
	n.Kubectl("-n", other, "create", "configmap", "same", "--from-literal=where=there")
	if got := n.Get("configmap/same", "{.data.where}"); got != "here" {
		t.Errorf("got the one from %s", got)
	}
	n.Refused("already exists", "create", "configmap", "same")
	n.Kubectl("delete", "namespace", other)
	n.Refused("NotFound", "-n", other, "get", "configmap", "same")
	if got := n.Get("configmap/same", "{.data.where}"); got != "here" {
		t.Errorf("got the one from %s", got)
	}
	n.Refused("NotFound", "-n", other, "create", "configmap", "more")
}

func TestRolesRefuseTheRest(t *testing.T) {
	n := namespace(t)
	n.Kubectl("create", "serviceaccount", "reader")
	n.Kubectl("create", "role", "reader", "--verb=get,list", "--resource=pods")
	n.Kubectl("create", "rolebinding", "reader", "--role=reader", "--serviceaccount="+n.Name+":reader")

	token := n.Kubectl("create", "token", "reader")
	server := n.Kubectl("config", "view", "--raw", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}")
	// An empty kubeconfig, since the admin's certificate would win over the token.
	as := []string{"--kubeconfig=/dev/null", "--server=" + server, "--insecure-skip-tls-verify", "--token=" + token}
	with := func(args ...string) []string { return append(as[:len(as):len(as)], args...) }

	n.Kubectl(with("get", "pods")...)
	n.Refused("Forbidden", with("delete", "pod", "any")...)
	n.Refused("Forbidden", with("get", "secrets")...)
	n.Refused("Forbidden", with("-n", "kube-system", "get", "pods")...)
	n.Refused("Forbidden", with("get", "nodes")...)
	n.Refused("Forbidden", with("create", "clusterrolebinding", "grab", "--clusterrole=cluster-admin", "--serviceaccount="+n.Name+":reader")...)

	as[3] = "--token=" + token[:len(token)-8] + "AAAAAAAA"
	n.Refused("", with("get", "pods")...)
	if _, err := n.Try(with("get", "pods")...); !strings.Contains(err.Error(), "Unauthorized") && !strings.Contains(err.Error(), "logged in") {
		t.Errorf("a forged token gives %v", err)
	}
	as = as[:3]
	n.Refused("", with("get", "pods", "--username=admin", "--password=admin")...)
}

// What client libraries do in a pod: the mounted token, the kubernetes Service, its name.
func TestPodReachesAPIWithItsToken(t *testing.T) {
	n := namespace(t)
	n.Kubectl("create", "role", "reader", "--verb=list", "--resource=pods")
	n.Kubectl("create", "rolebinding", "reader", "--role=reader", "--serviceaccount="+n.Name+":default")
	n.Client()
	get := func(resource string) (string, error) {
		return n.Exec("client", "sh", "-c", `timeout 10 wget -qO- --no-check-certificate \
			--header "Authorization: Bearer $(cat /var/run/secrets/kubernetes.io/serviceaccount/token)" \
			https://kubernetes.default.svc/api/v1/namespaces/`+n.Name+`/`+resource)
	}
	framework.Eventually(t, framework.Patience, func() error {
		_, err := get("pods")
		return err
	})
	out, err := get("pods")
	if err != nil || !strings.Contains(out, `"name": "client"`) && !strings.Contains(out, `"name":"client"`) {
		t.Errorf("pods: %.300s %v", out, err)
	}
	if out, err := get("secrets"); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("secrets: %.300s %v", out, err)
	}
}

const widgetDefinition = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.test.edgebox.dev}
spec:
  group: test.edgebox.dev
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget, shortNames: [wd]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    additionalPrinterColumns: [{name: Size, type: integer, jsonPath: .spec.size}]
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            required: [size]
            properties:
              size: {type: integer, minimum: 1, maximum: 9}
              colour: {type: string, default: grey}
`

func TestCustomResources(t *testing.T) {
	n := namespace(t)
	n.Apply(widgetDefinition)
	t.Cleanup(func() {
		_, _ = n.Host.Kubectl(context.Background(), "delete", "crd", "widgets.test.edgebox.dev", "--wait=false")
	})
	n.WaitFor("crd/widgets.test.edgebox.dev", "Established")
	widget := func(size string) string {
		return "apiVersion: test.edgebox.dev/v1\nkind: Widget\nmetadata: {name: one}\nspec: {size: " + size + "}\n"
	}
	framework.Eventually(t, framework.Patience, func() error { return n.TryApply(widget("3")) })
	if got := n.Kubectl("get", "wd"); !strings.Contains(got, "SIZE") || !strings.Contains(got, "3") {
		t.Errorf("kubectl get: %s", got)
	}
	if got := n.Get("widget/one", "{.spec.colour}"); got != "grey" {
		t.Errorf("default colour %q", got)
	}
	if err := n.TryApply(widget("10")); err == nil || !strings.Contains(err.Error(), "spec.size") {
		t.Errorf("a widget too large: %v", err)
	}
	if got := n.Kubectl("explain", "widget.spec"); !strings.Contains(got, "size") {
		t.Errorf("explain: %s", got)
	}
	n.Kubectl("delete", "crd", "widgets.test.edgebox.dev")
	framework.Eventually(t, framework.Patience, func() error {
		out, err := n.Try("get", "widgets")
		if err == nil {
			return fmt.Errorf("widgets are still served: %s", out)
		}
		return nil
	})
}

func TestServerSideApplyKeepsOwners(t *testing.T) {
	n := namespace(t)
	settings := func(colour string) string {
		return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {colour: " + colour + "}\n"
	}
	n.Apply(settings("blue"), "--server-side", "--field-manager=one")
	err := n.TryApply(settings("red"), "--server-side", "--field-manager=two")
	if err == nil || !strings.Contains(err.Error(), `conflict with "one"`) {
		t.Errorf("another manager's field: %v", err)
	}
	n.Apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {size: small}\n", "--server-side", "--field-manager=two")
	if got := n.Get("configmap/settings", "{.data.colour} {.data.size}"); got != "blue small" {
		t.Errorf("merged data: %q", got)
	}
	n.Apply(settings("red"), "--server-side", "--field-manager=two", "--force-conflicts")
	if got := n.Get("configmap/settings", "{.data.colour}{.data.size}"); got != "red" {
		t.Errorf("data after the takeover: %q", got)
	}
}
