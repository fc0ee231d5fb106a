package controlplane

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
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

// hookTimeout is how long a hook may try before edgebox ends: upstream's 30 s are too short for the first boot of a slow board.
const hookTimeout = 5 * time.Minute

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

// writers is how many requests are on their way at a time. Those that wait for the disk share a commit.
const writers = 16

// ensureRoles creates or completes RBAC's default roles and bindings. It looks at what is there with few lists instead of
// 250 gets: on an empty store there is nothing, and on any other boot there is nothing to do.
func ensureRoles(ctx context.Context, client kubernetes.Interface) error {
	rbac, namespaces := client.RbacV1(), client.CoreV1().Namespaces()
	var g errgroup.Group
	g.SetLimit(writers)
	role := func(owner reconciliation.RuleOwner, mod reconciliation.RuleOwnerModifier, have reconciliation.RuleOwner) {
		g.Go(func() error {
			_, err := (&reconciliation.ReconcileRoleOptions{Role: owner, Client: &listedRole{mod, have, false}, Confirm: true}).Run()
			return err
		})
	}
	binding := func(b reconciliation.RoleBinding, mod reconciliation.RoleBindingModifier, have reconciliation.RoleBinding) {
		g.Go(func() error {
			_, err := (&reconciliation.ReconcileRoleBindingOptions{RoleBinding: b, Client: &listedBinding{mod, have, false}, Confirm: true}).Run()
			return err
		})
	}

	clusterRoles, err := rbac.ClusterRoles().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list ClusterRoles: %w", err)
	}
	haveRole := map[string]reconciliation.RuleOwner{}
	for i := range clusterRoles.Items {
		haveRole[clusterRoles.Items[i].Name] = reconciliation.ClusterRoleRuleOwner{ClusterRole: &clusterRoles.Items[i]}
	}
	for _, r := range append(bootstrappolicy.ClusterRoles(), bootstrappolicy.ControllerRoles()...) {
		role(reconciliation.ClusterRoleRuleOwner{ClusterRole: &r}, reconciliation.ClusterRoleModifier{Client: rbac.ClusterRoles()}, haveRole[r.Name])
	}

	clusterBindings, err := rbac.ClusterRoleBindings().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list ClusterRoleBindings: %w", err)
	}
	haveBinding := map[string]reconciliation.RoleBinding{}
	for i := range clusterBindings.Items {
		haveBinding[clusterBindings.Items[i].Name] = reconciliation.ClusterRoleBindingAdapter{ClusterRoleBinding: &clusterBindings.Items[i]}
	}
	for _, b := range append(bootstrappolicy.ClusterRoleBindings(), bootstrappolicy.ControllerRoleBindings()...) {
		binding(reconciliation.ClusterRoleBindingAdapter{ClusterRoleBinding: &b}, reconciliation.ClusterRoleBindingClientAdapter{Client: rbac.ClusterRoleBindings()}, haveBinding[b.Name])
	}

	for namespace, roles := range bootstrappolicy.NamespaceRoles() {
		list, err := rbac.Roles(namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return fmt.Errorf("list Roles of %s: %w", namespace, err)
		}
		have := map[string]reconciliation.RuleOwner{}
		for i := range list.Items {
			have[list.Items[i].Name] = reconciliation.RoleRuleOwner{Role: &list.Items[i]}
		}
		for _, r := range roles {
			role(reconciliation.RoleRuleOwner{Role: &r}, reconciliation.RoleModifier{Client: rbac, NamespaceClient: namespaces}, have[r.Name])
		}
	}
	for namespace, bindings := range bootstrappolicy.NamespaceRoleBindings() {
		list, err := rbac.RoleBindings(namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return fmt.Errorf("list RoleBindings of %s: %w", namespace, err)
		}
		have := map[string]reconciliation.RoleBinding{}
		for i := range list.Items {
			have[list.Items[i].Name] = reconciliation.RoleBindingAdapter{RoleBinding: &list.Items[i]}
		}
		for _, b := range bindings {
			binding(reconciliation.RoleBindingAdapter{RoleBinding: &b}, reconciliation.RoleBindingClientAdapter{Client: rbac, NamespaceClient: namespaces}, have[b.Name])
		}
	}
	return g.Wait()
}

// errNotListed stands for the answer of the API to a get.
var errNotListed = apierrors.NewNotFound(schema.GroupResource{Group: rbacv1.GroupName}, "")

// listedRole answers the first get from a list, and those after a conflict from the API.
type listedRole struct {
	reconciliation.RuleOwnerModifier
	have  reconciliation.RuleOwner // nil if it was not listed
	asked bool
}

func (l *listedRole) Get(namespace, name string) (reconciliation.RuleOwner, error) {
	if l.asked {
		return l.RuleOwnerModifier.Get(namespace, name)
	}
	l.asked = true
	if l.have == nil {
		return nil, errNotListed
	}
	return l.have, nil
}

// listedBinding is listedRole for bindings.
type listedBinding struct {
	reconciliation.RoleBindingModifier
	have  reconciliation.RoleBinding
	asked bool
}

func (l *listedBinding) Get(namespace, name string) (reconciliation.RoleBinding, error) {
	if l.asked {
		return l.RoleBindingModifier.Get(namespace, name)
	}
	l.asked = true
	if l.have == nil {
		return nil, errNotListed
	}
	return l.have, nil
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
