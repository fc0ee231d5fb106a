package bootstrap

import (
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	rbac "k8s.io/client-go/applyconfigurations/rbac/v1"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"

	"github.com/edgebox/edgebox/pkg/pki"
)

// Names of Roles, and of the RoleBindings that refer to them.
const (
	clusterInfoRole   = "edgebox:cluster-info"
	readSettingsRole  = "edgebox:cluster-settings"
	watchSettingsRole = "edgebox:cluster-settings-watch"
	serverJoinerRole  = "edgebox:server-joiner"
)

// clusterRoles adds to what the Node authorizer allows: the reads of flannel and DNS, which run with the node's identity.
// That nodes may ask for certificates is in the Node authorizer.
func clusterRoles(names Names) []*rbac.ClusterRoleApplyConfiguration {
	read := []string{"get", "list", "watch"}
	return []*rbac.ClusterRoleApplyConfiguration{
		rbac.ClusterRole("edgebox:node").WithRules(
			rbac.PolicyRule().WithAPIGroups("").WithResources("nodes", "services", "namespaces").WithVerbs(read...),
			rbac.PolicyRule().WithAPIGroups("discovery.k8s.io").WithResources("endpointslices").WithVerbs(read...),
			rbac.PolicyRule().WithAPIGroups("networking.k8s.io").WithResources("servicecidrs").WithVerbs(read...),
			rbac.PolicyRule().WithAPIGroups("").WithResources("nodes/status").WithVerbs("patch"),
			rbac.PolicyRule().WithNonResourceURLs(names.Tunnel).WithVerbs("get"),
		),
		rbac.ClusterRole(serverJoinerRole).WithRules(
			rbac.PolicyRule().WithNonResourceURLs(names.Secrets).WithVerbs("get"),
		),
	}
}

func clusterRoleBindings() []*rbac.ClusterRoleBindingApplyConfiguration {
	bind := func(name, role, group string) *rbac.ClusterRoleBindingApplyConfiguration {
		return rbac.ClusterRoleBinding(name).WithRoleRef(roleRef("ClusterRole", role)).WithSubjects(subject(rbacv1.GroupKind, group))
	}
	return []*rbac.ClusterRoleBindingApplyConfiguration{
		bind("edgebox:node", "edgebox:node", user.NodesGroup),
		bind("edgebox:node-proxier", "system:node-proxier", user.NodesGroup),
		bind("edgebox:node-bootstrapper", "system:node-bootstrapper", pki.JoinGroup),
		bind(serverJoinerRole, serverJoinerRole, pki.ServersGroup),
		bind("edgebox:kubelet-api-admin", "system:kubelet-api-admin", pki.KubeletAPIGroup),
	}
}

// roles are for single ConfigMaps: what anybody may know, what a joining machine may, and what a node follows.
func roles(settings string) []*rbac.RoleApplyConfiguration {
	configMap := func(role, namespace, name string, verbs ...string) *rbac.RoleApplyConfiguration {
		return rbac.Role(role, namespace).WithRules(
			rbac.PolicyRule().WithAPIGroups("").WithResources("configmaps").WithResourceNames(name).WithVerbs(verbs...))
	}
	return []*rbac.RoleApplyConfiguration{
		configMap(clusterInfoRole, metav1.NamespacePublic, bootstrapapi.ConfigMapClusterInfo, "get"),
		configMap(readSettingsRole, metav1.NamespaceSystem, settings, "get"),
		configMap(watchSettingsRole, metav1.NamespaceSystem, settings, "get", "list", "watch"),
	}
}

func roleBindings() []*rbac.RoleBindingApplyConfiguration {
	bind := func(role, namespace, kind, name string) *rbac.RoleBindingApplyConfiguration {
		return rbac.RoleBinding(role, namespace).WithRoleRef(roleRef("Role", role)).WithSubjects(subject(kind, name))
	}
	return []*rbac.RoleBindingApplyConfiguration{
		bind(clusterInfoRole, metav1.NamespacePublic, rbacv1.UserKind, user.Anonymous),
		bind(readSettingsRole, metav1.NamespaceSystem, rbacv1.GroupKind, pki.JoinGroup),
		bind(watchSettingsRole, metav1.NamespaceSystem, rbacv1.GroupKind, user.NodesGroup),
	}
}

func roleRef(kind, name string) *rbac.RoleRefApplyConfiguration {
	return rbac.RoleRef().WithAPIGroup(rbacv1.GroupName).WithKind(kind).WithName(name)
}

func subject(kind, name string) *rbac.SubjectApplyConfiguration {
	return rbac.Subject().WithAPIGroup(rbacv1.GroupName).WithKind(kind).WithName(name)
}
