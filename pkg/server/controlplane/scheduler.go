package controlplane

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/cmd/kube-scheduler/app"
	"k8s.io/kubernetes/cmd/kube-scheduler/app/options"
	"k8s.io/kubernetes/pkg/scheduler/apis/config/latest"
	"k8s.io/kubernetes/pkg/scheduler/apis/config/scheme"
	configv1 "k8s.io/kubernetes/pkg/scheduler/apis/config/v1"
	"k8s.io/kubernetes/pkg/scheduler/apis/config/validation"

	"github.com/edgebox/edgebox/pkg/component"
	"github.com/edgebox/edgebox/pkg/config"
	"github.com/edgebox/edgebox/pkg/durable"
	"github.com/edgebox/edgebox/pkg/pki"
	"github.com/edgebox/edgebox/pkg/upstream"
)

// Scheduler runs kube-scheduler.
type Scheduler struct {
	cfg         config.Config
	paths       config.Paths
	certs       *pki.Store
	leaderElect func() bool
	opts        *options.Options
	probe       *prober
}

// NewScheduler returns the scheduler of this configuration. Run asks leaderElect whether there are several servers, of
// which one has to be elected.
func NewScheduler(cfg config.Config, certs *pki.Store, leaderElect func() bool) *Scheduler {
	return &Scheduler{cfg: cfg, paths: cfg.Paths(), certs: certs, leaderElect: leaderElect}
}

// Name implements component.Component.
func (s *Scheduler) Name() string { return "kube-scheduler" }

// Prepare parses and validates the options, and the configuration file that they may name.
func (s *Scheduler) Prepare(context.Context) error {
	certs := s.certs
	kubeconfig := s.paths.Kubeconfig(pki.Scheduler)
	own := map[string]string{
		"kubeconfig":                kubeconfig,
		"authentication-kubeconfig": kubeconfig,
		"authorization-kubeconfig":  kubeconfig,
		"leader-elect":              "false", // until Run knows
		"kube-api-qps":              requestsPerSecond,
		"kube-api-burst":            requestsPerSecond,
		"bind-address":              "127.0.0.1",
		"secure-port":               strconv.Itoa(schedulerPort),
		"tls-cert-file":             certs.CertFile(pki.APIServer),
		"tls-private-key-file":      certs.KeyFile(pki.APIServer),
		"profiling":                 "false",

		"authorization-always-allow-paths": healthPaths,
	}
	opts := options.NewOptions()
	var err error
	if opts.ComponentConfig, err = latest.Default(); err != nil {
		return err
	}
	if err := upstream.Parse("kube-scheduler", upstream.FlagSet("kube-scheduler", opts.Flags.FlagSets), own, s.cfg.SchedulerArg); err != nil {
		return err
	}
	if err := opts.ComponentGlobalsRegistry.Set(); err != nil {
		return err
	}
	if opts.ConfigFile != "" {
		if opts.ConfigFile, err = adoptConfig(opts.ConfigFile, s.paths.SchedulerConfig(), kubeconfig); err != nil {
			return fmt.Errorf("kube-scheduler-arg: config: %w", err)
		}
	}
	if errs := opts.Validate(); len(errs) > 0 {
		return fmt.Errorf("kube-scheduler-arg: %w", utilerrors.NewAggregate(errs))
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

// adoptConfig validates the user's configuration file and writes it to path, with edgebox's own way to the API, which
// upstream takes from the file alone.
func adoptConfig(file, path, kubeconfig string) (string, error) {
	conf, err := options.LoadConfigFromFile(klog.Background(), file)
	if err != nil {
		return "", err
	}
	if err := validation.ValidateKubeSchedulerConfiguration(conf); err != nil {
		return "", fmt.Errorf("%s: %w", file, err)
	}
	conf.ClientConnection.Kubeconfig = kubeconfig
	yaml, ok := runtime.SerializerInfoForMediaType(scheme.Codecs.SupportedMediaTypes(), runtime.ContentTypeYAML)
	if !ok {
		return "", errors.New("upstream cannot write YAML")
	}
	data, err := runtime.Encode(scheme.Codecs.EncoderForVersion(yaml.Serializer, configv1.SchemeGroupVersion), conf)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", err
	}
	return path, durable.WriteFile(path, data, 0o600)
}

// Run schedules pods.
func (s *Scheduler) Run(ctx context.Context, ready func()) error {
	return runUntilReady(named(ctx, s.Name()), ready, func(ctx context.Context) error {
		s.opts.LeaderElection.LeaderElect = s.leaderElect()
		conf, sched, err := app.Setup(ctx, s.opts)
		if err != nil {
			return err
		}
		if !s.cfg.DisableAgent {
			conf.InformerFactory.Start(ctx.Done())
			awaitNode(ctx, conf.InformerFactory.Core().V1().Nodes().Lister())
			if ctx.Err() != nil { // what starts now takes seconds to stop
				return nil
			}
		}
		return app.Run(ctx, conf, sched)
	}, s.probe.probe)
}

// firstNode is how long scheduling waits for the node that starts beside it. A pod that is tried while there is none is
// put off for a second or two, as after an error.
const firstNode = 10 * time.Second

func awaitNode(ctx context.Context, nodes corelisters.NodeLister) {
	ctx, cancel := context.WithTimeout(ctx, firstNode)
	defer cancel()
	// What remains of the wait when it fails is said by the scheduler to each pod.
	_ = component.Poll(ctx, "the first node", readyPoll, func(context.Context) error {
		list, err := nodes.List(labels.Everything())
		if err == nil && len(list) == 0 {
			err = errors.New("none has registered")
		}
		return err
	})
}

// Check asks /readyz.
func (s *Scheduler) Check(ctx context.Context) error { return s.probe.probe(ctx) }
