package controlplane

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/kubernetes/cmd/kube-controller-manager/app"
	"k8s.io/kubernetes/cmd/kube-controller-manager/app/options"
	"k8s.io/kubernetes/cmd/kube-controller-manager/names"
	"k8s.io/utils/ptr"

	"github.com/edgebox/edgebox/pkg/config"
	"github.com/edgebox/edgebox/pkg/pki"
	"github.com/edgebox/edgebox/pkg/upstream"
)

// Ports of the health checks and metrics, on the loopback address.
const (
	controllerManagerPort = 10257
	schedulerPort         = 10259
)

// anyController is the one that every configuration has; the checks of all are added at once.
const anyController = names.ServiceAccountTokenController

// ControllerManager runs kube-controller-manager.
type ControllerManager struct {
	cfg         config.Config
	certs       *pki.Store
	leaderElect func() bool
	opts        *options.KubeControllerManagerOptions
	probe       *prober
	client      kubernetes.Interface
}

// NewControllerManager returns the controllers of this configuration. Run asks leaderElect whether there are several
// servers, of which one has to be elected.
func NewControllerManager(cfg config.Config, certs *pki.Store, leaderElect func() bool) *ControllerManager {
	return &ControllerManager{cfg: cfg, certs: certs, leaderElect: leaderElect}
}

// Name implements component.Component.
func (c *ControllerManager) Name() string { return "kube-controller-manager" }

// Prepare parses the options.
func (c *ControllerManager) Prepare(context.Context) error {
	certs := c.certs
	kubeconfig := c.cfg.Paths().Kubeconfig(pki.ControllerManager)
	own := map[string]string{
		"kubeconfig":                kubeconfig,
		"authentication-kubeconfig": kubeconfig,
		"authorization-kubeconfig":  kubeconfig,
		// The server CA signs for the names of servers, the client CA for identities.
		"cluster-signing-kubelet-serving-cert-file":       certs.SigningCertFile(pki.ServerCA),
		"cluster-signing-kubelet-serving-key-file":        certs.KeyFile(pki.ServerCA),
		"cluster-signing-kubelet-client-cert-file":        certs.SigningCertFile(pki.ClientCA),
		"cluster-signing-kubelet-client-key-file":         certs.KeyFile(pki.ClientCA),
		"cluster-signing-kube-apiserver-client-cert-file": certs.SigningCertFile(pki.ClientCA),
		"cluster-signing-kube-apiserver-client-key-file":  certs.KeyFile(pki.ClientCA),
		"cluster-signing-legacy-unknown-cert-file":        certs.SigningCertFile(pki.ServerCA),
		"cluster-signing-legacy-unknown-key-file":         certs.KeyFile(pki.ServerCA),
		"root-ca-file":                     certs.CertFile(pki.ServerCA),
		"service-account-private-key-file": certs.KeyFile(pki.ServiceAccount),
		"use-service-account-credentials":  "true",
		"allocate-node-cidrs":              "true",
		"cluster-cidr":                     joinStrings(c.cfg.ClusterCIDR),
		"service-cluster-ip-range":         joinStrings(c.cfg.ServiceCIDR),
		"controllers":                      "*,tokencleaner,bootstrapsigner",
		"leader-elect":                     "false", // until Run knows
		"kube-api-qps":                     requestsPerSecond,
		"kube-api-burst":                   requestsPerSecond,
		"bind-address":                     "127.0.0.1",
		"secure-port":                      strconv.Itoa(controllerManagerPort),
		"tls-cert-file":                    certs.CertFile(pki.APIServer),
		"tls-private-key-file":             certs.KeyFile(pki.APIServer),
		"profiling":                        "false",
		"authorization-always-allow-paths": healthPaths,
		"flex-volume-plugin-dir":           c.cfg.Paths().VolumePlugins(),
		"controller-shutdown-timeout":      "2s",
	}
	opts, err := options.NewKubeControllerManagerOptions()
	if err != nil {
		return err
	}
	sets := opts.Flags(app.KnownControllers(), app.ControllersDisabledByDefault(), app.ControllerAliases())
	if err := upstream.Parse("kube-controller-manager", upstream.FlagSet("kube-controller-manager", sets.FlagSets), own, c.cfg.ControllerManagerArg); err != nil {
		return err
	}
	opts.ParsedFlags = &sets
	if err := opts.ComponentGlobalsRegistry.Set(); err != nil {
		return err
	}
	// Upstream looks at the values when it starts, where a bad one would be tried again and again.
	if err := opts.Validate(app.KnownControllers(), app.ControllersDisabledByDefault(), app.ControllerAliases()); err != nil {
		return fmt.Errorf("kube-controller-manager-arg: %w", err)
	}
	url, err := healthURL("kube-controller-manager-arg", opts.SecureServing, "/healthz?verbose")
	if err != nil {
		return err
	}
	if c.client, err = upstream.Client(kubeconfig, c.Name()); err != nil {
		return err
	}
	c.opts = opts
	c.probe, err = newProber(url, certs.CertFile(pki.ServerCA), "", "")
	return err
}

// Run starts the controllers. It is ready when they have all been built, here or on the server that was elected:
// upstream adds their health checks then, and says that it is healthy long before.
func (c *ControllerManager) Run(ctx context.Context, ready func()) error {
	c.opts.Generic.LeaderElection.LeaderElect = c.leaderElect()
	return runUntilReady(named(ctx, c.Name()), ready, func(ctx context.Context) error {
		conf, err := c.opts.Config(ctx, app.KnownControllers(), app.ControllersDisabledByDefault(), app.ControllerAliases())
		if err != nil {
			return err
		}
		return app.Run(ctx, conf.Complete())
	}, c.Check)
}

// Check asks /healthz, which includes that of each controller that has one.
func (c *ControllerManager) Check(ctx context.Context) error {
	checks, err := c.probe.get(ctx)
	switch {
	case err != nil:
		return err
	case strings.Contains(checks, anyController):
		return nil
	case c.leaderElect():
		return c.electedElsewhere(ctx)
	}
	return errors.New("its controllers are being built")
}

// electedElsewhere returns nil when the controllers of another server are at work.
func (c *ControllerManager) electedElsewhere(ctx context.Context) error {
	election := c.opts.Generic.LeaderElection
	lease, err := c.client.CoordinationV1().Leases(election.ResourceNamespace).Get(ctx, election.ResourceName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return errors.New("no server has been elected yet")
	}
	if err != nil {
		return err
	}
	host, err := os.Hostname() // as upstream makes identities
	if err != nil {
		return err
	}
	holder := ptr.Deref(lease.Spec.HolderIdentity, "")
	if holder == "" || strings.HasPrefix(holder, host+"_") {
		return errors.New("its controllers are being built, or a lease of its own must end first")
	}
	if until := ptr.Deref(lease.Spec.RenewTime, metav1.MicroTime{}).Add(election.LeaseDuration.Duration); time.Now().After(until) {
		return fmt.Errorf("the lease of %s has ended, and no server has been elected since", holder)
	}
	return nil
}
