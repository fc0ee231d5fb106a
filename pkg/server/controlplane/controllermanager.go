package controlplane

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"k8s.io/kubernetes/cmd/kube-controller-manager/app"
	"k8s.io/kubernetes/cmd/kube-controller-manager/app/options"
	"k8s.io/kubernetes/cmd/kube-controller-manager/names"

	"github.com/edgebox/edgebox/pkg/config"
	"github.com/edgebox/edgebox/pkg/pki"
	"github.com/edgebox/edgebox/pkg/upstream"
)

// Ports of the health checks and metrics, on the loopback address.
const (
	controllerManagerPort = 10257
	schedulerPort         = 10259
)

// lastController is one of the controllers that every configuration has; their checks are added all at once.
const lastController = names.NamespaceController

// ControllerManager runs kube-controller-manager.
type ControllerManager struct {
	cfg         config.Config
	certs       *pki.Store
	leaderElect bool
	opts        *options.KubeControllerManagerOptions
	probe       *prober
}

// NewControllerManager returns the controllers of this configuration; leaderElect is for several servers on one store.
func NewControllerManager(cfg config.Config, certs *pki.Store, leaderElect bool) *ControllerManager {
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
		"leader-elect":                     strconv.FormatBool(c.leaderElect),
		"kube-api-qps":                     requestsPerSecond,
		"kube-api-burst":                   requestsPerSecond,
		"bind-address":                     "127.0.0.1",
		"secure-port":                      strconv.Itoa(controllerManagerPort),
		"tls-cert-file":                    certs.CertFile(pki.APIServer),
		"tls-private-key-file":             certs.KeyFile(pki.APIServer),
		"profiling":                        "false",
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
	c.opts = opts
	c.probe, err = newProber(url, certs.CertFile(pki.ServerCA), "", "")
	return err
}

// Run starts the controllers. It is ready when they have all been built: upstream adds their health checks then, and
// says that it is healthy long before.
func (c *ControllerManager) Run(ctx context.Context, ready func()) error {
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
	if err != nil {
		return err
	}
	if !strings.Contains(checks, lastController) {
		return errors.New("its controllers are being built")
	}
	return nil
}
