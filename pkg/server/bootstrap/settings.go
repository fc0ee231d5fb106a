package bootstrap

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	core "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/edgebox/edgebox/pkg/component"
	"github.com/edgebox/edgebox/pkg/upstream"
)

// Settings publishes in a ConfigMap what nodes need to know of the cluster.
type Settings struct {
	name       string // of the ConfigMap
	kubeconfig string
	data       func() (map[string]string, error)
	client     kubernetes.Interface
}

// NewSettings returns the component; the kubeconfig must be the administrator's. Data is asked for once certificates are
// there.
func NewSettings(kubeconfig, name string, data func() (map[string]string, error)) *Settings {
	return &Settings{name: name, kubeconfig: kubeconfig, data: data}
}

// Name implements component.Component.
func (s *Settings) Name() string { return "cluster-settings" }

// Prepare makes the client.
func (s *Settings) Prepare(context.Context) (err error) {
	s.client, err = upstream.Client(s.kubeconfig, s.Name())
	return err
}

// Run publishes, is ready, and waits for ctx.
func (s *Settings) Run(ctx context.Context, ready func()) error {
	if err := component.Poll(ctx, "the API to take the settings of the cluster", 200*time.Millisecond, s.apply); err != nil {
		return err
	}
	ready()
	<-ctx.Done()
	return nil
}

func (s *Settings) apply(ctx context.Context) error {
	data, err := s.data()
	if err != nil {
		return err
	}
	m := core.ConfigMap(s.name, metav1.NamespaceSystem).WithData(data)
	if _, err := s.client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Apply(ctx, m, metav1.ApplyOptions{FieldManager: fieldManager, Force: true}); err != nil {
		return fmt.Errorf("apply ConfigMap %s: %w", s.name, err)
	}
	return nil
}
