// Package bootstrap puts into a cluster the objects that edgebox itself relies on: what nodes may read, and what the
// API server may do on a kubelet. It applies them at each start, so that an upgrade brings its own.
package bootstrap

import (
	"context"
	"fmt"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	rbac "k8s.io/client-go/applyconfigurations/rbac/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/edgebox/edgebox/pkg/component"
	"github.com/edgebox/edgebox/pkg/pki"
	"github.com/edgebox/edgebox/pkg/upstream"
)

// fieldManager owns the fields that edgebox sets on objects.
const fieldManager = "edgebox"

// Bootstrap is the component.
type Bootstrap struct {
	kubeconfig string
	client     kubernetes.Interface
}

// New returns the component; the kubeconfig must be the administrator's.
func New(kubeconfig string) *Bootstrap { return &Bootstrap{kubeconfig: kubeconfig} }

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
	for _, r := range roles() {
		if _, err := b.client.RbacV1().ClusterRoles().Apply(ctx, r, opts); err != nil {
			return fmt.Errorf("apply ClusterRole %s: %w", *r.Name, err)
		}
	}
	for _, r := range bindings() {
		if _, err := b.client.RbacV1().ClusterRoleBindings().Apply(ctx, r, opts); err != nil {
			return fmt.Errorf("apply ClusterRoleBinding %s: %w", *r.Name, err)
		}
	}
	return nil
}

// roles adds to what the Node authorizer allows: the reads of flannel and DNS, which run with the node's identity.
func roles() []*rbac.ClusterRoleApplyConfiguration {
	read := []string{"get", "list", "watch"}
	return []*rbac.ClusterRoleApplyConfiguration{
		rbac.ClusterRole("edgebox:node").WithRules(
			rbac.PolicyRule().WithAPIGroups("").WithResources("nodes", "services", "namespaces").WithVerbs(read...),
			rbac.PolicyRule().WithAPIGroups("discovery.k8s.io").WithResources("endpointslices").WithVerbs(read...),
			rbac.PolicyRule().WithAPIGroups("networking.k8s.io").WithResources("servicecidrs").WithVerbs(read...),
			rbac.PolicyRule().WithAPIGroups("").WithResources("nodes/status").WithVerbs("patch"),
		),
	}
}

func bindings() []*rbac.ClusterRoleBindingApplyConfiguration {
	bind := func(name, role, group string) *rbac.ClusterRoleBindingApplyConfiguration {
		return rbac.ClusterRoleBinding(name).
			WithRoleRef(rbac.RoleRef().WithAPIGroup(rbacv1.GroupName).WithKind("ClusterRole").WithName(role)).
			WithSubjects(rbac.Subject().WithAPIGroup(rbacv1.GroupName).WithKind(rbacv1.GroupKind).WithName(group))
	}
	return []*rbac.ClusterRoleBindingApplyConfiguration{
		bind("edgebox:node", "edgebox:node", "system:nodes"),
		bind("edgebox:node-proxier", "system:node-proxier", "system:nodes"),
		bind("edgebox:kubelet-api-admin", "system:kubelet-api-admin", pki.KubeletAPIGroup),
	}
}
