package kubernetes

import (
	"context"
	"encoding/json"
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
	n.Refused("not found", "-n", other, "get", "configmap", "same")
	if got := n.Get("configmap/same", "{.data.where}"); got != "here" {
		t.Errorf("got the one from %s", got)
	}
	n.Refused("not found", "-n", other, "create", "configmap", "more")
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
	n.Refused("forbidden", with("delete", "pod", "any")...)
	n.Refused("forbidden", with("get", "secrets")...)
	n.Refused("forbidden", with("-n", "kube-system", "get", "pods")...)
	n.Refused("forbidden", with("get", "nodes")...)
	n.Refused("forbidden", with("create", "clusterrolebinding", "grab", "--clusterrole=cluster-admin", "--serviceaccount="+n.Name+":reader")...)

	as[3] = "--token=" + token[:len(token)-8] + "AAAAAAAA"
	n.Refused("", with("get", "pods")...)
	if _, err := n.Try(with("get", "pods")...); !strings.Contains(err.Error(), "Unauthorized") && !strings.Contains(err.Error(), "logged in") {
		t.Errorf("a forged token gives %v", err)
	}
	as = as[:3]
	n.Refused("", with("get", "pods", "--username=admin", "--password=admin")...)
}

func TestPodReachesAPIWithItsToken(t *testing.T) {
	n := namespace(t)
	n.Kubectl("create", "role", "reader", "--verb=list", "--resource=pods")
	n.Kubectl("create", "rolebinding", "reader", "--role=reader", "--serviceaccount="+n.Name+":default")
	bin, err := framework.GoBinary("./tests/e2e/kubernetes/incluster")
	if err != nil {
		t.Fatal(err)
	}
	image := framework.Image{Ref: "incluster:e2e", Files: map[string]string{"incluster": bin}, Entrypoint: []string{"/incluster"}}
	if err := n.Host.Import(t.Context(), image); err != nil {
		t.Fatal(err)
	}
	for resource, want := range map[string]string{"pods": "200", "secrets": "403"} {
		n.Kubectl("run", resource, "--image=incluster:e2e", "--restart=Never", "--", "/api/v1/namespaces/"+n.Name+"/"+resource)
		n.Want("pod/"+resource, "{.status.phase}", "Succeeded")
		if got := n.Kubectl("logs", resource); !strings.HasPrefix(got, want+"\n") {
			t.Errorf("%s: %.300s", resource, got)
		}
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
	for document, want := range map[string]string{
		"/openapi/v3/apis/test.edgebox.dev/v1": "dev.edgebox.test.v1.Widget", "/openapi/v2": "dev.edgebox.test.v1.Widget",
	} {
		framework.Eventually(t, framework.Patience, func() error {
			if !strings.Contains(n.Kubectl("get", "--raw", document), want) {
				return fmt.Errorf("%s lacks %s", document, want)
			}
			return nil
		})
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

// TestOpenAPI reads the documents of built-in resources, which are made when they are asked for.
func TestOpenAPI(t *testing.T) {
	n := namespace(t)
	if got := n.Kubectl("explain", "deployment.spec.replicas"); !strings.Contains(got, "Number of desired pods") {
		t.Errorf("explain: %s", got)
	}
	var root struct {
		Paths map[string]struct{ ServerRelativeURL string }
	}
	if err := json.Unmarshal([]byte(n.Kubectl("get", "--raw", "/openapi/v3")), &root); err != nil {
		t.Fatal(err)
	}
	for path, kind := range map[string]string{
		"api/v1": "io.k8s.api.core.v1.Pod", "apis/apps/v1": "io.k8s.api.apps.v1.Deployment",
		"apis/apiextensions.k8s.io/v1": "CustomResourceDefinition", "apis/apiregistration.k8s.io/v1": "APIService",
	} {
		url := root.Paths[path].ServerRelativeURL
		if !strings.HasPrefix(url, "/openapi/v3/"+path+"?hash=") {
			t.Errorf("%s is at %q", path, url)
			continue
		}
		for _, u := range []string{url, "/openapi/v3/" + path, "/openapi/v3/" + path + "?hash=old"} { // the last is led to the first
			if got := n.Kubectl("get", "--raw", u); !strings.Contains(got, kind) || !json.Valid([]byte(got)) {
				t.Errorf("%s lacks %s: %.200s", u, kind, got)
			}
		}
	}
	if _, err := n.Try("get", "--raw", "/openapi/v3/apis/none.example.com/v1"); err == nil {
		t.Error("a document of a group that does not exist")
	}
	if got := n.Kubectl("get", "--raw", "/openapi/v2"); !strings.Contains(got, "io.k8s.api.apps.v1.Deployment") {
		t.Errorf("/openapi/v2 lacks Deployment: %.200s", got)
	}
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
