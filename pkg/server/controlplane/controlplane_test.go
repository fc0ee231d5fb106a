package controlplane

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/edgebox/edgebox/pkg/config"
	"github.com/edgebox/edgebox/pkg/pki"
)

type fakeStore struct{ volatile string }

func (fakeStore) Endpoint() string                 { return "unix:///run/kine.sock" }
func (s fakeStore) VolatileEndpoint() string       { return s.volatile }
func (fakeStore) Client(string) *clientv3.Client   { return nil }
func (fakeStore) TLSFiles() (ca, cert, key string) { return "/etc/etcd-ca.pem", "", "" }

// newServer is a configuration with its certificates in place.
func newServer(t *testing.T) (config.Config, *pki.Store) {
	t.Helper()
	cfg := config.Defaults()
	cfg.DataDir = t.TempDir()
	cfg.NodeName = "box"
	cfg.NodeIP = []netip.Addr{netip.MustParseAddr("192.0.2.7")}
	cfg.AdvertiseAddress = cfg.NodeIP[0]
	certs := pki.New(cfg.Paths().PKI())
	spec := pki.Spec{Leaves: pki.ControlPlaneLeaves(pki.Host{NodeName: "box", ClusterDomain: cfg.ClusterDomain})}
	for _, leaf := range []string{pki.ControllerManager, pki.Scheduler} {
		spec.Kubeconfigs = append(spec.Kubeconfigs, pki.Kubeconfig{Path: cfg.Paths().Kubeconfig(leaf), Server: "https://127.0.0.1:6443", Leaf: leaf})
	}
	if _, err := certs.Ensure(spec); err != nil {
		t.Fatal(err)
	}
	return cfg, certs
}

func holds(t *testing.T, facts map[string]bool) {
	t.Helper()
	for what, ok := range facts {
		if !ok {
			t.Errorf("not so: %s", what)
		}
	}
}

// TestPrepare prepares all three in one process, as a boot does: they share feature gates and registries.
func TestPrepare(t *testing.T) {
	cfg, certs := newServer(t)
	api := NewAPIServer(cfg, certs, fakeStore{"unix:///run/volatile.sock"}, Egress{Socket: "/run/egress.sock"})
	if err := api.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	o := api.opts
	overrides := strings.Join(o.Etcd.EtcdServersOverrides, " ")
	holds(t, map[string]bool{
		"nodes and RBAC decide":                  slices.Equal(o.Authorization.Modes, []string{"Node", "RBAC"}),
		"nodes are restricted to their own":      slices.Contains(o.Admission.GenericAdmission.EnablePlugins, "NodeRestriction"),
		"nodes can join with a token":            o.Authentication.BootstrapToken.Enable,
		"client certificates are verified":       o.Authentication.ClientCert.ClientCA == certs.SigningCertFile(pki.ClientCA),
		"the front proxy has a CA of its own":    o.Authentication.RequestHeader.ClientCAFile == certs.SigningCertFile(pki.FrontProxyCA),
		"the front proxy has one name":           slices.Equal(o.Authentication.RequestHeader.AllowedNames, []string{pki.FrontProxyUser}),
		"kubelets are verified":                  o.KubeletConfig.TLSClientConfig.CAFile == certs.CertFile(pki.ServerCA),
		"profiles are not served":                !o.Features.EnableProfiling,
		"the port and address are those given":   o.SecureServing.BindPort == 6443 && o.SecureServing.BindAddress.String() == "0.0.0.0",
		"pods are told the advertised address":   o.GenericServerRunOptions.AdvertiseAddress.String() == "192.0.2.7",
		"objects are in the datastore":           slices.Equal(o.Etcd.StorageConfig.Transport.ServerList, []string{"unix:///run/kine.sock"}),
		"leases are volatile":                    strings.Contains(overrides, "coordination.k8s.io/leases#unix:///run/volatile.sock"),
		"events are volatile":                    strings.Contains(overrides, "/events#unix:///run/volatile.sock"),
		"tokens name the cluster as their maker": slices.Equal(o.Authentication.ServiceAccounts.Issuers, []string{"https://kubernetes.default.svc.cluster.local"}),
	})

	kcm := NewControllerManager(cfg, certs, alone)
	if err := kcm.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	c := kcm.opts
	holds(t, map[string]bool{
		"it listens on this host alone":         c.SecureServing.BindAddress.IsLoopback() && kcm.probe.url == "https://127.0.0.1:10257/healthz?verbose",
		"alone it need not be elected":          !c.Generic.LeaderElection.LeaderElect,
		"nodes get ranges for pods":             c.KubeCloudShared.AllocateNodeCIDRs && c.KubeCloudShared.ClusterCIDR == "10.42.0.0/16",
		"each controller has rights of its own": c.KubeCloudShared.UseServiceAccountCredentials,
		"the client CA signs clients":           c.CSRSigningController.KubeletClientSignerConfiguration.CertFile == certs.SigningCertFile(pki.ClientCA),
		"the server CA signs kubelets' servers": c.CSRSigningController.KubeletServingSignerConfiguration.CertFile == certs.SigningCertFile(pki.ServerCA),
		"old join tokens are removed":           slices.Contains(c.Generic.Controllers, "tokencleaner"),
		"pods get the server CA":                c.SAController.RootCAFile == certs.CertFile(pki.ServerCA),
	})

	sched := NewScheduler(cfg, certs, alone)
	if err := sched.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	holds(t, map[string]bool{
		"it listens on this host alone":     sched.opts.SecureServing.BindAddress.IsLoopback() && sched.probe.url == "https://127.0.0.1:10259/readyz",
		"it has the scheduler's own rights": sched.opts.Authentication.RemoteKubeConfigFile == cfg.Paths().Kubeconfig(pki.Scheduler),
	})
}

func TestBadArguments(t *testing.T) {
	cfg, certs := newServer(t)
	for arg, want := range map[string]string{
		"kube-apiserver max-requests=1":                   "kube-apiserver-arg: kube-apiserver has no flag --max-requests",
		"kube-apiserver max-requests-inflight=many":       `kube-apiserver-arg: invalid argument "many" for "--max-requests-inflight" flag`,
		"kube-apiserver max-requests-inflight=-1":         "kube-apiserver-arg: --max-requests-inflight can not be negative value",
		"kube-apiserver enable-admission-plugins=Nothing": "kube-apiserver-arg: ",
		"kube-controller-manager node-monitor=5s":         "kube-controller-manager-arg: kube-controller-manager has no flag --node-monitor",
		"kube-controller-manager node-monitor-period":     "kube-controller-manager-arg: --node-monitor-period needs a value: write node-monitor-period=VALUE",
		"kube-controller-manager controllers=magic":       `kube-controller-manager-arg: "magic" is not in the list of known controllers`,
		"kube-controller-manager secure-port=0":           "kube-controller-manager-arg: secure-port=0 would hide",
		"kube-scheduler kube-api-qps=many":                `kube-scheduler-arg: invalid argument "many" for "--kube-api-qps" flag`,
		"kube-scheduler secure-port=0":                    "kube-scheduler-arg: secure-port=0 would hide",
	} {
		name, arg, _ := strings.Cut(arg, " ")
		cfg := cfg
		cfg.APIServerArg, cfg.ControllerManagerArg, cfg.SchedulerArg = []string{arg}, []string{arg}, []string{arg}
		c := map[string]interface{ Prepare(context.Context) error }{
			"kube-apiserver":          NewAPIServer(cfg, certs, fakeStore{}, Egress{}),
			"kube-controller-manager": NewControllerManager(cfg, certs, alone),
			"kube-scheduler":          NewScheduler(cfg, certs, alone),
		}[name]
		if err := c.Prepare(t.Context()); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s %s: the error is %v, want %q", name, arg, err, want)
		}
	}
}

func TestHealthURLFollowsArguments(t *testing.T) {
	cfg, certs := newServer(t)
	cfg.ControllerManagerArg = []string{"secure-port=11257", "bind-address=0.0.0.0"}
	c := NewControllerManager(cfg, certs, alone)
	if err := c.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	if c.probe.url != "https://127.0.0.1:11257/healthz?verbose" {
		t.Errorf("asks %s", c.probe.url)
	}
}

// TestProbe: what it says, and that it goes on when its certificate was renewed.
func TestProbe(t *testing.T) {
	certs := pki.New(filepath.Join(t.TempDir(), "pki"))
	ensure := func(client string) {
		t.Helper()
		if _, err := certs.Ensure(pki.Spec{Leaves: []pki.Leaf{
			{Name: "server", CA: pki.ServerCA, Server: true, CommonName: "server", DNSNames: []string{"localhost"}},
			{Name: "client", CA: pki.ClientCA, Client: true, CommonName: client},
		}}); err != nil {
			t.Fatal(err)
		}
	}
	ensure("old")
	pair, err := tls.LoadX509KeyPair(certs.CertFile("server"), certs.KeyFile("server"))
	if err != nil {
		t.Fatal(err)
	}
	var ended atomic.Value // the client that is not let in any more
	ended.Store("nobody")
	status, answer := http.StatusOK, "ok"
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS.PeerCertificates[0].Subject.CommonName == ended.Load() {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte(answer))
	}))
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAnyClientCert}
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()

	p, err := newProber(srv.URL, certs.CertFile(pki.ServerCA), certs.CertFile("client"), certs.KeyFile("client"))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.probe(t.Context()); err != nil {
		t.Error(err)
	}
	status, answer = http.StatusInternalServerError, "[+]ping ok\n[-]etcd failed: reason withheld\n[-]poststarthook/rbac failed\nreadyz check failed\n"
	if err := p.probe(t.Context()); err == nil || err.Error() != "not ready: etcd, poststarthook/rbac" {
		t.Errorf("the error is %v", err)
	}
	answer = "broken"
	if err := p.probe(t.Context()); err == nil || err.Error() != srv.URL+": 500 Internal Server Error" {
		t.Errorf("the error is %v", err)
	}

	status = http.StatusOK
	ensure("new")
	ended.Store("old")
	for range 3 { // the connection of before, with its certificate, has to end first
		if err = p.probe(t.Context()); err == nil {
			break
		}
	}
	if err != nil {
		t.Errorf("with a renewed certificate: %v", err)
	}
	if err := os.Remove(certs.CertFile("client")); err != nil {
		t.Fatal(err)
	}
	if _, err := newProber(srv.URL, certs.CertFile(pki.ServerCA), certs.CertFile("client"), certs.KeyFile("client")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without its certificate: %v", err)
	}
}

func TestRunUntilReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken")
		start := time.Now()
		probe := func(context.Context) error {
			if time.Since(start) < time.Second {
				return errors.New("not yet")
			}
			return nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		ready := make(chan struct{})
		ended := make(chan error, 1)
		go func() {
			ended <- runUntilReady(ctx, func() { close(ready) }, func(ctx context.Context) error {
				<-ctx.Done()
				return broken // as upstream does when it is stopped
			}, probe)
		}()
		<-ready
		if took := time.Since(start); took < time.Second {
			t.Errorf("ready after %s", took)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("stopped with %v", err)
		}
		err := runUntilReady(t.Context(), func() { t.Error("ready") }, func(context.Context) error { return broken },
			func(context.Context) error { return errors.New("not yet") })
		if !errors.Is(err, broken) {
			t.Errorf("the error is %v", err)
		}
		synctest.Wait() // its probe ends too
	})
}

// alone is a server without others.
func alone() bool { return false }
