package bootstrap

import (
	"context"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/edgebox/edgebox/pkg/component"
	"github.com/edgebox/edgebox/pkg/upstream"
)

// rolePatch gives a node the role that kubectl shows and that workloads select. The kubelet may not set it itself.
const rolePatch = `{"metadata":{"labels":{"node-role.kubernetes.io/control-plane":"true"}}}`

// NodeRole labels the node of a server.
type NodeRole struct {
	node, kubeconfig string
	client           kubernetes.Interface
}

// NewNodeRole returns the component for the node of that name; the kubeconfig must be the administrator's.
func NewNodeRole(node, kubeconfig string) *NodeRole {
	return &NodeRole{node: node, kubeconfig: kubeconfig}
}

// Name implements component.Component.
func (r *NodeRole) Name() string { return "node-role" }

// Prepare makes the client.
func (r *NodeRole) Prepare(context.Context) (err error) {
	r.client, err = upstream.Client(r.kubeconfig, r.Name())
	return err
}

// Run labels the node once the kubelet has registered it.
func (r *NodeRole) Run(ctx context.Context, ready func()) error {
	if err := component.Poll(ctx, "the Node object", 250*time.Millisecond, func(ctx context.Context) error {
		_, err := r.client.CoreV1().Nodes().Patch(ctx, r.node, types.MergePatchType, []byte(rolePatch), metav1.PatchOptions{FieldManager: fieldManager})
		return err
	}); err != nil {
		return err
	}
	ready()
	<-ctx.Done()
	return nil
}
