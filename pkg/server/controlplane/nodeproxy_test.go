package controlplane

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/kubernetes/pkg/kubelet/client"
)

// TestNodeProxyLocates shows that neither the resolver nor what a node says of itself decides where requests go.
func TestNodeProxyLocates(t *testing.T) {
	indexer := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{})
	for name, addresses := range map[string][]corev1.NodeAddress{
		"good":      {{Type: "InternalIP", Address: "192.0.2.7"}, {Type: "Hostname", Address: "good"}},
		"nameless":  {{Type: "InternalIP", Address: "192.0.2.8"}},
		"addressed": {{Type: "Hostname", Address: "addressed"}},
		"liar":      {{Type: "InternalIP", Address: "127.0.0.1"}, {Type: "Hostname", Address: "metadata.example.test"}},
		"loop":      {{Type: "InternalIP", Address: "127.0.0.1"}},
	} {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
		node.Status.Addresses = addresses
		node.Status.DaemonEndpoints.KubeletEndpoint.Port = 10250
		if err := indexer.Add(node); err != nil {
			t.Fatal(err)
		}
	}
	nodes := corelisters.NewNodeLister(indexer)
	kubelets, err := client.NewNodeConnectionInfoGetter(lookUp(nodes), client.KubeletClientConfig{PreferredAddressTypes: []string{"Hostname", "InternalIP"}})
	if err != nil {
		t.Fatal(err)
	}
	p := &nodeProxy{nodes: nodes, kubelets: kubelets}
	for id, want := range map[string]string{
		"good":                "https://good:10250",
		"good:10250":          "https://good:10250",
		"https:good:10250":    "https://good:10250",
		"good:9100":           "//192.0.2.7:9100", // the scheme is left to the caller
		"http:good:9100":      "http://192.0.2.7:9100",
		"nameless":            "https://192.0.2.8:10250",
		"addressed":           "https://addressed:10250",
		"http:addressed:9100": "error: has no address",
		"liar":                "error: not allowed",
		"http:liar:9100":      "error: not allowed",
		"loop":                "error: not allowed",
		"nobody":              "error: not found",
		"a:b:c:d":             "error: invalid",
	} {
		got, _, err := p.locate(t.Context(), id)
		if wrong, ok := strings.CutPrefix(want, "error: "); ok {
			if err == nil || !strings.Contains(err.Error(), wrong) {
				t.Errorf("%s: %v, %v; want an error with %q", id, got, err, wrong)
			}
			continue
		}
		if err != nil || got.String() != want {
			t.Errorf("%s: %v, %v; want %s", id, got, err, want)
		}
	}
}
