package kubelet

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/edgebox/edgebox/pkg/component"
	"github.com/edgebox/edgebox/pkg/upstream"
)

// Node stands for the Node object of this machine: it is ready when the API says that the node is.
type Node struct {
	name       string
	kubeconfig string
	client     kubernetes.Interface
}

// NewNode returns the component for the node of that name, whose identity the kubeconfig has.
func NewNode(name, kubeconfig string) *Node { return &Node{name: name, kubeconfig: kubeconfig} }

// Name implements component.Component.
func (n *Node) Name() string { return "node" }

// Prepare makes the client.
func (n *Node) Prepare(context.Context) (err error) {
	n.client, err = upstream.Client(n.kubeconfig, n.Name())
	return err
}

// Run waits for the node to become Ready, and then for ctx.
func (n *Node) Run(ctx context.Context, ready func()) error {
	if err := component.Poll(ctx, "condition Ready", 100*time.Millisecond, n.Check); err != nil {
		return err
	}
	ready()
	<-ctx.Done()
	return nil
}

// Check returns the reason why the node is not Ready.
func (n *Node) Check(ctx context.Context) error {
	node, err := n.client.CoreV1().Nodes().Get(ctx, n.name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			if c.Status == corev1.ConditionTrue {
				return nil
			}
			return fmt.Errorf("%s: %s", c.Reason, c.Message)
		}
	}
	return errors.New("the kubelet has not reported yet")
}
