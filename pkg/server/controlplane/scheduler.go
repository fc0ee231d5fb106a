package controlplane

import (
	"context"
	"strconv"

	"k8s.io/client-go/tools/cache"
	"k8s.io/kubernetes/cmd/kube-scheduler/app"
	"k8s.io/kubernetes/cmd/kube-scheduler/app/options"

	"github.com/edgebox/edgebox/pkg/config"
	"github.com/edgebox/edgebox/pkg/pki"
	"github.com/edgebox/edgebox/pkg/upstream"
)

// Scheduler runs kube-scheduler.
type Scheduler struct {
	cfg         config.Config
	certs       *pki.Store
	leaderElect bool
	opts        *options.Options
	probe       *prober
}

// NewScheduler returns the scheduler of this configuration; leaderElect is for several servers on one store.
func NewScheduler(cfg config.Config, certs *pki.Store, leaderElect bool) *Scheduler {
	return &Scheduler{cfg: cfg, certs: certs, leaderElect: leaderElect}
}

// Name implements component.Component.
func (s *Scheduler) Name() string { return "kube-scheduler" }

// Prepare parses the options.
func (s *Scheduler) Prepare(context.Context) error {
	certs := s.certs
	kubeconfig := s.cfg.Paths().Kubeconfig(pki.Scheduler)
	own := map[string]string{
		"kubeconfig":                kubeconfig,
		"authentication-kubeconfig": kubeconfig,
		"authorization-kubeconfig":  kubeconfig,
		"leader-elect":              strconv.FormatBool(s.leaderElect),
		"kube-api-qps":              requestsPerSecond,
		"kube-api-burst":            requestsPerSecond,
		"bind-address":              "127.0.0.1",
		"secure-port":               strconv.Itoa(schedulerPort),
		"tls-cert-file":             certs.CertFile(pki.APIServer),
		"tls-private-key-file":      certs.KeyFile(pki.APIServer),
		"profiling":                 "false",
	}
	opts := options.NewOptions()
	if err := upstream.Parse("kube-scheduler", upstream.FlagSet("kube-scheduler", opts.Flags.FlagSets), own, s.cfg.SchedulerArg); err != nil {
		return err
	}
	if err := opts.ComponentGlobalsRegistry.Set(); err != nil {
		return err
	}
	url, err := healthURL("kube-scheduler-arg", opts.SecureServing, "/readyz")
	if err != nil {
		return err
	}
	if opts.InformerName, err = cache.NewInformerName("kube-scheduler"); err != nil {
		return err
	}
	s.opts = opts
	s.probe, err = newProber(url, certs.CertFile(pki.ServerCA), "", "")
	return err
}

// Run schedules pods.
func (s *Scheduler) Run(ctx context.Context, ready func()) error {
	return runUntilReady(named(ctx, s.Name()), ready, func(ctx context.Context) error {
		conf, sched, err := app.Setup(ctx, s.opts)
		if err != nil {
			return err
		}
		return app.Run(ctx, conf, sched)
	}, s.probe.probe)
}

// Check asks /readyz.
func (s *Scheduler) Check(ctx context.Context) error { return s.probe.probe(ctx) }
