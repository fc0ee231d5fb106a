package controlplane

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/kubernetes"
	"k8s.io/component-helpers/auth/rbac/reconciliation"
	scheduling "k8s.io/kubernetes/pkg/apis/scheduling/v1"
	rbacrest "k8s.io/kubernetes/pkg/registry/rbac/rest"
	schedulingrest "k8s.io/kubernetes/pkg/registry/scheduling/rest"
	"k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac/bootstrappolicy"

	"github.com/edgebox/edgebox/pkg/component"
)

// replacedHooks are upstream's hooks that make the default roles and priority classes. Each sleeps for a second before it
// looks at the API, and the first writes its 250 objects one after the other; ours, under the same names, do not.
var replacedHooks = map[string]func(ctx context.Context, c kubernetes.Interface) error{
	rbacrest.PostStartHookName:       ensureRoles,
	schedulingrest.PostStartHookName: ensurePriorityClasses,
}

// hookTimeout is how long a hook may try, as upstream's.
const hookTimeout = 30 * time.Second

func addHooks(server *genericapiserver.GenericAPIServer) error {
	for name, ensure := range replacedHooks {
		if err := server.AddPostStartHook("edgebox/"+name, func(hook genericapiserver.PostStartHookContext) error {
			client, err := kubernetes.NewForConfig(hook.LoopbackClientConfig)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(hook, hookTimeout)
			defer cancel()
			return component.Poll(ctx, name, 50*time.Millisecond, func(ctx context.Context) error { return ensure(ctx, client) })
		}); err != nil {
			return err
		}
	}
	return nil
}

// writers is how many requests are on their way at a time. The datastore takes one write at a time; the rest of a
// request overlaps.
const writers = 8

// ensureRoles creates or completes RBAC's default roles and bindings.
func ensureRoles(ctx context.Context, client kubernetes.Interface) error {
	// The API must answer first: a role that could not be read would be taken for one that is missing.
	if _, err := client.RbacV1().ClusterRoles().List(ctx, metav1.ListOptions{Limit: 1}); err != nil {
		return fmt.Errorf("list ClusterRoles: %w", err)
	}
	var g errgroup.Group
	g.SetLimit(writers)
	role := func(owner reconciliation.RuleOwner, mod reconciliation.RuleOwnerModifier) {
		g.Go(func() error {
			_, err := (&reconciliation.ReconcileRoleOptions{Role: owner, Client: mod, Confirm: true}).Run()
			return err
		})
	}
	binding := func(b reconciliation.RoleBinding, mod reconciliation.RoleBindingModifier) {
		g.Go(func() error {
			_, err := (&reconciliation.ReconcileRoleBindingOptions{RoleBinding: b, Client: mod, Confirm: true}).Run()
			return err
		})
	}
	rbac, namespaces := client.RbacV1(), client.CoreV1().Namespaces()
	for _, r := range append(bootstrappolicy.ClusterRoles(), bootstrappolicy.ControllerRoles()...) {
		role(reconciliation.ClusterRoleRuleOwner{ClusterRole: &r}, reconciliation.ClusterRoleModifier{Client: rbac.ClusterRoles()})
	}
	for _, b := range append(bootstrappolicy.ClusterRoleBindings(), bootstrappolicy.ControllerRoleBindings()...) {
		binding(reconciliation.ClusterRoleBindingAdapter{ClusterRoleBinding: &b}, reconciliation.ClusterRoleBindingClientAdapter{Client: rbac.ClusterRoleBindings()})
	}
	for _, roles := range bootstrappolicy.NamespaceRoles() {
		for _, r := range roles {
			role(reconciliation.RoleRuleOwner{Role: &r}, reconciliation.RoleModifier{Client: rbac, NamespaceClient: namespaces})
		}
	}
	for _, bindings := range bootstrappolicy.NamespaceRoleBindings() {
		for _, b := range bindings {
			binding(reconciliation.RoleBindingAdapter{RoleBinding: &b}, reconciliation.RoleBindingClientAdapter{Client: rbac, NamespaceClient: namespaces})
		}
	}
	return g.Wait()
}

// ensurePriorityClasses creates the two classes of system components.
func ensurePriorityClasses(ctx context.Context, client kubernetes.Interface) error {
	for _, class := range scheduling.SystemPriorityClasses() {
		if err := ensurePriorityClass(ctx, client, class); err != nil {
			return fmt.Errorf("PriorityClass %s: %w", class.Name, err)
		}
	}
	return nil
}

func ensurePriorityClass(ctx context.Context, client kubernetes.Interface, class *schedulingv1.PriorityClass) error {
	classes := client.SchedulingV1().PriorityClasses()
	_, err := classes.Get(ctx, class.Name, metav1.GetOptions{})
	if !apierrors.IsNotFound(err) {
		return err
	}
	if _, err = classes.Create(ctx, class, metav1.CreateOptions{}); apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}
