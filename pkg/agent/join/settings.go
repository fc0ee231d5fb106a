package join

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"github.com/edgebox/edgebox/pkg/component"
	"github.com/edgebox/edgebox/pkg/pki"
)

// Settings follows what the servers publish for nodes. New CA certificates are put into place; with other settings
// edgebox starts anew.
type Settings struct {
	node *Node
	now  map[string]string // those that this run works with
}

// NewSettings returns the component for a node that works with these settings.
func NewSettings(node *Node, settings map[string]string) *Settings {
	return &Settings{node: node, now: settings}
}

// Name implements component.Component.
func (s *Settings) Name() string { return "cluster-settings" }

// Run is ready at once: what is remembered is good enough until the servers say otherwise.
func (s *Settings) Run(ctx context.Context, ready func()) error {
	client, err := s.node.client(s.Name())
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	adopt := func(o any) {
		if m, ok := o.(*corev1.ConfigMap); ok {
			if err := s.adopt(m); err != nil {
				select {
				case failed <- err:
				default:
				}
			}
		}
	}
	informer := informers.NewSharedInformerFactoryWithOptions(client, 0,
		informers.WithNamespace(metav1.NamespaceSystem),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector("metadata.name", SettingsName).String()
		}),
	).Core().V1().ConfigMaps().Informer()
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    adopt,
		UpdateFunc: func(_, o any) { adopt(o) },
	}); err != nil {
		return err
	}
	go informer.RunWithContext(ctx)
	ready()
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		return err
	}
}

// adopt compares what the servers publish with what this node has.
func (s *Settings) adopt(m *corev1.ConfigMap) error {
	published, err := stateOf(m.Data)
	if err != nil {
		slog.Warn("settings of the cluster cannot be read", "err", err)
		return nil
	}
	if err := s.adoptCA(published); err != nil {
		slog.Warn("CA of the cluster cannot be renewed", "err", err)
	}
	if maps.Equal(published.Settings, s.now) {
		return nil
	}
	if err := s.node.writeState(published); err != nil {
		return fmt.Errorf("remember the new settings of the cluster: %w", err)
	}
	return fmt.Errorf("the settings of the cluster have changed: %w", component.ErrRestart)
}

// adoptCA takes CA certificates that were prolonged. Another key is another cluster, which the servers of this one have
// no reason to name.
func (s *Settings) adoptCA(published *state) error {
	old, err := os.ReadFile(s.node.cfg.Store.CertFile(pki.ServerCA))
	if err != nil {
		return err
	}
	token, err := pki.Token{}.WithCA(old)
	if err != nil {
		return err
	}
	trusted, err := token.VerifyCA([]byte(published.serverCA))
	if err != nil {
		return err
	}
	return s.node.writeCAs(published, trusted)
}
