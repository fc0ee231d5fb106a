package controlplane

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/apiserver/pkg/endpoints/handlers"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	api "k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/controlplane"
	"k8s.io/kubernetes/pkg/kubelet/client"
	noderest "k8s.io/kubernetes/pkg/registry/core/node/rest"
)

// nodeProxy serves the proxy subresource of nodes in upstream's place, which asks the resolver of the host for the name
// of a node before it sends a request there. Nodes are reached by name here, but no resolver need know them.
type nodeProxy struct {
	*noderest.ProxyREST // upstream's options and methods

	nodes     corelisters.NodeLister
	kubelets  client.ConnectionInfoGetter
	transport http.RoundTripper // to other ports than the kubelet's
}

// proxyNodes puts the handler in front of upstream's.
func proxyNodes(aggregator *genericapiserver.GenericAPIServer, conf *controlplane.Config, nodes corelisters.NodeLister) error {
	kubelets, err := client.NewNodeConnectionInfoGetter(lookUp(nodes), conf.KubeletClientConfig)
	if err != nil {
		return fmt.Errorf("clients of kubelets: %w", err)
	}
	p := &nodeProxy{ProxyREST: &noderest.ProxyREST{}, nodes: nodes, kubelets: kubelets, transport: conf.ControlPlane.ProxyTransport}
	version := corev1.SchemeGroupVersion
	connect := handlers.ConnectResource(p, &handlers.RequestScope{
		Namer:      handlers.ContextBasedNaming{Namer: meta.NewAccessor(), ClusterScoped: true},
		Serializer: legacyscheme.Codecs, ParameterCodec: legacyscheme.ParameterCodec,
		Creater:   legacyscheme.Scheme, //nolint:misspell // upstream's word
		Convertor: legacyscheme.Scheme, UnsafeConvertor: runtime.UnsafeObjectConvertor(legacyscheme.Scheme),
		Defaulter: legacyscheme.Scheme, Typer: legacyscheme.Scheme, EquivalentResourceMapper: runtime.NewEquivalentResourceRegistry(),
		Resource: version.WithResource("nodes"), Subresource: "proxy", Kind: version.WithKind("NodeProxyOptions"),
		MetaGroupVersion: metav1.SchemeGroupVersion,
	}, conf.ControlPlane.Generic.AdmissionControl, "/api/v1/nodes/{name}/proxy/{path:*}", true)
	next := aggregator.NextDelegate().UnprotectedHandler()
	aggregator.Handler.NonGoRestfulMux.UnlistedHandlePrefix("/api/v1/nodes/", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		info, ok := request.RequestInfoFrom(r.Context())
		if ok && info.Resource == "nodes" && info.Subresource == "proxy" && slices.Contains(p.ConnectMethods(), r.Method) {
			connect(w, r)
			return
		}
		next.ServeHTTP(w, r)
	}))
	return nil
}

func lookUp(nodes corelisters.NodeLister) client.NodeGetterFunc {
	return func(_ context.Context, name string, _ metav1.GetOptions) (*corev1.Node, error) {
		return nodes.Get(name)
	}
}

// Connect implements rest.Connecter.
func (p *nodeProxy) Connect(ctx context.Context, id string, opts runtime.Object, responder rest.Responder) (http.Handler, error) {
	o, ok := opts.(*api.NodeProxyOptions)
	if !ok {
		return nil, fmt.Errorf("options of a node's proxy: %T", opts)
	}
	location, transport, err := p.locate(ctx, id)
	if err != nil {
		return nil, err
	}
	location.Path = utilnet.JoinPreservingTrailingSlash(location.Path, o.Path)
	return proxy.NewUpgradeAwareHandler(location, transport, true, false, proxy.NewErrorResponder(responder)), nil
}

// locate finds what [SCHEME:]NODE[:PORT] stands for. What a node says of its own addresses must not lead elsewhere.
func (p *nodeProxy) locate(ctx context.Context, id string) (*url.URL, http.RoundTripper, error) {
	scheme, name, port, valid := utilnet.SplitSchemeNamePort(id)
	if !valid {
		return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("invalid node request %q", id))
	}
	info, err := p.kubelets.GetConnectionInfo(ctx, types.NodeName(name))
	if err != nil {
		return nil, nil, err
	}
	host := info.Hostname
	if port != "" && port != info.Port {
		node, err := p.nodes.Get(name)
		if err != nil {
			return nil, nil, err
		}
		for _, a := range node.Status.Addresses {
			if a.Type == corev1.NodeInternalIP {
				host = a.Address
				break
			}
		}
	}
	if addr, err := netip.ParseAddr(host); host != name && (err != nil || !addr.IsGlobalUnicast()) {
		return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("node %s has the address %s, which is not allowed", name, host))
	}
	if port == "" || port == info.Port {
		return &url.URL{Scheme: info.Scheme, Host: net.JoinHostPort(host, info.Port)}, info.Transport, nil
	}
	if host == name {
		return nil, nil, apierrors.NewServiceUnavailable(fmt.Sprintf("node %s has no address", name))
	}
	return &url.URL{Scheme: scheme, Host: net.JoinHostPort(host, port)}, p.transport, nil
}
