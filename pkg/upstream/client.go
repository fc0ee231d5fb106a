package upstream

import (
	"fmt"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// ClientConfig reads a kubeconfig for use inside edgebox: protobuf, and no limit of its own to the rate of requests,
// which API priority and fairness already has.
func ClientConfig(kubeconfig, component string) (*rest.Config, error) {
	conf, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	conf.ContentType = "application/vnd.kubernetes.protobuf"
	conf.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	conf.QPS = -1
	conf.UserAgent = "edgebox/" + component
	return conf, nil
}

// Client is a client of the API that acts as the user of the kubeconfig.
func Client(kubeconfig, component string) (kubernetes.Interface, error) {
	conf, err := ClientConfig(kubeconfig, component)
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(conf)
}
