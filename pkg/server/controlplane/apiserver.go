package controlplane

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
	"k8s.io/kubernetes/cmd/kube-apiserver/app/options"

	"github.com/edgebox/edgebox/pkg/config"
	"github.com/edgebox/edgebox/pkg/durable"
	"github.com/edgebox/edgebox/pkg/pki"
	"github.com/edgebox/edgebox/pkg/upstream"
)

// shutdownTimeout is how long open requests may go on when the API server stops. They are watches of clients that are
// being stopped too, or that will find the next server; upstream gives them a minute.
const shutdownTimeout = time.Second

// Store says where the API server keeps its objects: etcd URLs.
type Store interface {
	Endpoint() string
	VolatileEndpoint() string // for leases and events; may be empty
	// TLSFiles are for endpoints elsewhere. Each may be empty.
	TLSFiles() (ca, cert, key string)
	// Client calls the store of an endpoint in this process; nil when it is elsewhere. Valid while the store runs.
	Client(endpoint string) *clientv3.Client
}

// Egress is how the API server reaches what is in the cluster: kubelets, pods and Services.
type Egress struct {
	Socket string // takes HTTP CONNECT
	// Handlers are served beside the API, by path, to those whom RBAC lets through: nodes that cannot be dialled call in
	// there.
	Handlers map[string]http.Handler
}

// APIServer runs kube-apiserver.
type APIServer struct {
	cfg    config.Config
	certs  *pki.Store
	store  Store
	egress Egress
	opts   options.CompletedOptions
	probe  *prober
	nodes  atomic.Pointer[corelisters.NodeLister]
}

// NewAPIServer returns the API server of this configuration, on that store.
func NewAPIServer(cfg config.Config, certs *pki.Store, store Store, egress Egress) *APIServer {
	return &APIServer{cfg: cfg, certs: certs, store: store, egress: egress}
}

// Nodes lists the cluster's nodes from the API server's own cache; nil before it is filled.
func (a *APIServer) Nodes() corelisters.NodeLister {
	if nodes := a.nodes.Load(); nodes != nil {
		return *nodes
	}
	return nil
}

// Name implements component.Component.
func (a *APIServer) Name() string { return "kube-apiserver" }

// Prepare parses and validates the options.
func (a *APIServer) Prepare(ctx context.Context) error {
	cfg, certs := a.cfg, a.certs
	etcdCA, etcdCert, etcdKey := a.store.TLSFiles()
	own := map[string]string{
		"etcd-servers":             a.store.Endpoint(),
		"etcd-cafile":              etcdCA,
		"etcd-certfile":            etcdCert,
		"etcd-keyfile":             etcdKey,
		"bind-address":             cfg.BindAddress.String(),
		"secure-port":              strconv.Itoa(cfg.HTTPSListenPort),
		"advertise-address":        cfg.AdvertiseAddress.String(),
		"service-cluster-ip-range": joinStrings(cfg.ServiceCIDR),
		"service-node-port-range":  cfg.NodePortRange,

		"authorization-mode":          "Node,RBAC",
		"enable-admission-plugins":    "NodeRestriction",
		"enable-bootstrap-token-auth": "true",
		"allow-privileged":            "true",
		"profiling":                   "false",

		"client-ca-file":                certs.SigningCertFile(pki.ClientCA),
		"tls-cert-file":                 certs.CertFile(pki.APIServer),
		"tls-private-key-file":          certs.KeyFile(pki.APIServer),
		"kubelet-certificate-authority": certs.CertFile(pki.ServerCA),
		"kubelet-client-certificate":    certs.CertFile(pki.APIServerKubelet),
		"kubelet-client-key":            certs.KeyFile(pki.APIServerKubelet),
		// Names are unique where addresses behind different networks are not. Egress.Socket knows them.
		"kubelet-preferred-address-types":    "Hostname,InternalIP,ExternalIP",
		"egress-selector-config-file":        cfg.Paths().EgressConfig(),
		"enable-aggregator-routing":          "true", // to pods themselves: behind which node a Service is, nobody can tell
		"requestheader-client-ca-file":       certs.SigningCertFile(pki.FrontProxyCA),
		"requestheader-allowed-names":        pki.FrontProxyUser,
		"requestheader-extra-headers-prefix": "X-Remote-Extra-",
		"requestheader-group-headers":        "X-Remote-Group",
		"requestheader-username-headers":     "X-Remote-User",
		"proxy-client-cert-file":             certs.CertFile(pki.FrontProxyClient),
		"proxy-client-key-file":              certs.KeyFile(pki.FrontProxyClient),
		"service-account-issuer":             "https://kubernetes.default.svc." + cfg.ClusterDomain,
		"service-account-signing-key-file":   certs.KeyFile(pki.ServiceAccount),
		"service-account-key-file":           certs.PublicKeyFile(),
		"api-audiences":                      "https://kubernetes.default.svc." + cfg.ClusterDomain + ",edgebox",
	}
	if v := a.store.VolatileEndpoint(); v != "" {
		own["etcd-servers-overrides"] = strings.Join([]string{
			"coordination.k8s.io/leases#" + v, "/events#" + v, "/apiServerIPInfo#" + v, "/apiServerPeerIPInfo#" + v}, ",")
	}

	if err := writeEgressConfig(cfg.Paths().EgressConfig(), a.egress.Socket); err != nil {
		return err
	}
	s := options.NewServerRunOptions()
	if err := upstream.Parse("kube-apiserver", upstream.FlagSet("kube-apiserver", s.Flags().FlagSets), own, cfg.APIServerArg); err != nil {
		return err
	}
	if err := s.GenericServerRunOptions.ComponentGlobalsRegistry.Set(); err != nil {
		return err
	}
	rest.SetDefaultWarningHandler(rest.NoWarnings{})
	s.Etcd.StorageConfig.HealthcheckTimeout = 5 * time.Second
	completed, err := s.Complete(ctx)
	if err != nil {
		return fmt.Errorf("kube-apiserver-arg: %w", err)
	}
	if errs := completed.Validate(); len(errs) > 0 {
		return fmt.Errorf("kube-apiserver-arg: %w", utilerrors.NewAggregate(errs))
	}
	if completed.InformerName, err = cache.NewInformerName("kube-apiserver"); err != nil {
		return err
	}
	a.opts = completed
	a.probe, err = newProber(fmt.Sprintf("https://%s/readyz", cfg.LocalAPI()), certs.CertFile(pki.ServerCA), certs.CertFile(pki.Admin), certs.KeyFile(pki.Admin))
	return err
}

// Run serves the API. It is ready when /readyz says so, which includes the bootstrap of RBAC's default roles.
func (a *APIServer) Run(ctx context.Context, ready func()) error {
	return runUntilReady(named(ctx, a.Name()), ready, a.serve, a.probe.probe)
}

// serve is what upstream's Run does, with five differences: see localStorage, replacedHooks, serveOpenAPIWhenAsked, nodeProxy,
// shutdownTimeout.
func (a *APIServer) serve(ctx context.Context) error {
	conf, err := app.NewConfig(a.opts)
	if err != nil {
		return err
	}
	generic := conf.KubeAPIs.ControlPlane.Generic
	generic.SkipOpenAPIInstallation = true
	forgetDefinitions(generic.OpenAPIConfig, generic.OpenAPIV3Config)
	narrowDefinitions(conf)
	for name := range replacedHooks {
		generic.DisabledPostStartHooks.Insert(name)
	}
	storage := localStorage{client: a.store.Client}
	storage.install(conf)
	defer storage.close()
	completed, err := conf.Complete()
	if err != nil {
		return err
	}
	server, err := app.CreateServerChain(completed)
	if err != nil {
		return err
	}
	if err := serveOpenAPIWhenAsked(server.GenericAPIServer, generic.OpenAPIConfig, generic.OpenAPIV3Config); err != nil {
		return err
	}
	if err := addHooks(server.GenericAPIServer); err != nil {
		return err
	}
	for path, handler := range a.egress.Handlers {
		server.GenericAPIServer.Handler.NonGoRestfulMux.Handle(path, handler)
	}
	nodes := conf.KubeAPIs.ControlPlane.VersionedInformers.Core().V1().Nodes().Lister()
	a.nodes.Store(&nodes)
	if err := proxyNodes(server.GenericAPIServer, conf.KubeAPIs, nodes); err != nil {
		return err
	}
	server.GenericAPIServer.ShutdownTimeout = shutdownTimeout
	prepared, err := server.PrepareRun()
	if err != nil {
		return err
	}
	generic.OpenAPIV3Config.Definitions = nil // have been made into the types of server-side apply, and are large
	return prepared.Run(ctx)
}

// writeEgressConfig tells upstream, which wants a file, to reach the cluster through the socket.
func writeEgressConfig(path, socket string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return durable.WriteFile(path, fmt.Appendf(nil, `apiVersion: apiserver.k8s.io/v1beta1
kind: EgressSelectorConfiguration
egressSelections:
- name: cluster
  connection:
    proxyProtocol: HTTPConnect
    transport: {uds: {udsName: %q}}
`, socket), 0o600)
}

// Check asks /readyz.
func (a *APIServer) Check(ctx context.Context) error { return a.probe.probe(ctx) }

func joinStrings[T fmt.Stringer](values []T) string {
	s := make([]string, len(values))
	for i, v := range values {
		s[i] = v.String()
	}
	return strings.Join(s, ",")
}
