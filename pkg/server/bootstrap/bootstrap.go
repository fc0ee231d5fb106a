// Package bootstrap puts into a cluster the objects that edgebox itself relies on: what nodes and joining machines may do,
// what the API server may do on a kubelet, and the tokens by which nodes join. It applies them at each start, so that an
// upgrade brings its own.
package bootstrap

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/edgebox/edgebox/pkg/component"
	"github.com/edgebox/edgebox/pkg/upstream"
)

// fieldManager owns the fields that edgebox sets on objects.
const fieldManager = "edgebox"

// Bootstrap is the component.
type Bootstrap struct {
	kubeconfig string
	info       ClusterInfo
	names      Names
	client     kubernetes.Interface
}

// Names are of what others serve, and machines need permission for.
type Names struct {
	Settings string // ConfigMap in kube-system by which nodes learn what they have to share
	Tunnel   string // path of the API where nodes ask for a tunnel
	Secrets  string // path of the API that gives machines what servers share
}

// New returns the component; the kubeconfig must be the administrator's.
func New(kubeconfig string, info ClusterInfo, names Names) *Bootstrap {
	return &Bootstrap{kubeconfig: kubeconfig, info: info, names: names}
}

// Name implements component.Component.
func (b *Bootstrap) Name() string { return "bootstrap" }

// Prepare makes the client.
func (b *Bootstrap) Prepare(context.Context) (err error) {
	b.client, err = upstream.Client(b.kubeconfig, b.Name())
	return err
}

// Run applies the objects, is ready, and waits for ctx.
func (b *Bootstrap) Run(ctx context.Context, ready func()) error {
	if err := component.Poll(ctx, "the API to take edgebox's objects", 200*time.Millisecond, b.apply); err != nil {
		return err
	}
	ready()
	<-ctx.Done()
	return nil
}

func (b *Bootstrap) apply(ctx context.Context) error {
	opts := metav1.ApplyOptions{FieldManager: fieldManager, Force: true}
	rules := b.client.RbacV1()
	for _, r := range clusterRoles(b.names) {
		if _, err := rules.ClusterRoles().Apply(ctx, r, opts); err != nil {
			return fmt.Errorf("apply ClusterRole %s: %w", *r.Name, err)
		}
	}
	for _, r := range clusterRoleBindings() {
		if _, err := rules.ClusterRoleBindings().Apply(ctx, r, opts); err != nil {
			return fmt.Errorf("apply ClusterRoleBinding %s: %w", *r.Name, err)
		}
	}
	for _, r := range roles(b.names.Settings) {
		if _, err := rules.Roles(*r.Namespace).Apply(ctx, r, opts); err != nil {
			return fmt.Errorf("apply Role %s: %w", *r.Name, err)
		}
	}
	for _, r := range roleBindings() {
		if _, err := rules.RoleBindings(*r.Namespace).Apply(ctx, r, opts); err != nil {
			return fmt.Errorf("apply RoleBinding %s: %w", *r.Name, err)
		}
	}
	return b.info.apply(ctx, b.client)
}
