package bootstrap

import (
	"context"
	"fmt"
	"os"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	core "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
)

// ClusterInfo is what anybody may know of the cluster, so that a machine can verify it before it shows its token: the
// ConfigMap cluster-info in kube-public, as kubeadm has it. kube-controller-manager signs it for each token.
type ClusterInfo struct {
	Server string // URL of the API
	CAFile string // of the CA that signs for servers
}

func (i ClusterInfo) apply(ctx context.Context, client kubernetes.Interface) error {
	ca, err := os.ReadFile(i.CAFile)
	if err != nil {
		return err
	}
	kubeconfig, err := clientcmd.Write(clientcmdapi.Config{Clusters: map[string]*clientcmdapi.Cluster{
		"": {Server: i.Server, CertificateAuthorityData: ca},
	}})
	if err != nil {
		return err
	}
	m := core.ConfigMap(bootstrapapi.ConfigMapClusterInfo, metav1.NamespacePublic).
		WithData(map[string]string{bootstrapapi.KubeConfigKey: string(kubeconfig)})
	if _, err := client.CoreV1().ConfigMaps(metav1.NamespacePublic).Apply(ctx, m, metav1.ApplyOptions{FieldManager: fieldManager, Force: true}); err != nil {
		return fmt.Errorf("apply ConfigMap %s: %w", bootstrapapi.ConfigMapClusterInfo, err)
	}
	return nil
}
