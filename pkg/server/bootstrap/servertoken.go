package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	core "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/kubernetes"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"

	"github.com/edgebox/edgebox/pkg/component"
	"github.com/edgebox/edgebox/pkg/pki"
	"github.com/edgebox/edgebox/pkg/upstream"
)

// ServerToken keeps the token by which machines become servers: in a file, and, as far as requests need it, as a bootstrap
// token in the cluster. All servers of a cluster have the same one.
type ServerToken struct {
	kubeconfig string
	file       string
	certs      *pki.Store
	client     kubernetes.Interface
}

// NewServerToken returns the component; the kubeconfig must be the administrator's.
func NewServerToken(kubeconfig, file string, certs *pki.Store) *ServerToken {
	return &ServerToken{kubeconfig: kubeconfig, file: file, certs: certs}
}

// Name implements component.Component.
func (s *ServerToken) Name() string { return "server-token" }

// Token reads the token, or makes the one of a new cluster.
func (s *ServerToken) Token() (pki.ServerToken, error) {
	text, err := os.ReadFile(s.file)
	if err == nil {
		t, err := pki.ParseServerToken(string(text))
		if err != nil {
			return t, fmt.Errorf("%s: %w: copy it from another server", s.file, err)
		}
		return t, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return pki.ServerToken{}, err
	}
	ca, err := os.ReadFile(s.certs.CertFile(pki.ServerCA))
	if err != nil {
		return pki.ServerToken{}, err
	}
	t, err := pki.NewServerToken(ca)
	if err != nil {
		return t, err
	}
	return t, writeChanged(s.file, t.Encode()+"\n")
}

// Prepare makes the client.
func (s *ServerToken) Prepare(context.Context) (err error) {
	s.client, err = upstream.Client(s.kubeconfig, s.Name())
	return err
}

// Run puts the token into the cluster.
func (s *ServerToken) Run(ctx context.Context, ready func()) error {
	if err := component.Poll(ctx, "the API to take the server token", 200*time.Millisecond, s.apply); err != nil {
		return err
	}
	ready()
	<-ctx.Done()
	return nil
}

func (s *ServerToken) apply(ctx context.Context) error {
	token, err := s.Token()
	if err != nil {
		return err
	}
	secret := core.Secret(secretName(token.ID), metav1.NamespaceSystem).
		WithType(bootstrapapi.SecretTypeBootstrapToken).
		WithData(map[string][]byte{
			bootstrapapi.BootstrapTokenIDKey:               []byte(token.ID),
			bootstrapapi.BootstrapTokenSecretKey:           []byte(token.Secret),
			bootstrapapi.BootstrapTokenUsageAuthentication: []byte("true"),
			bootstrapapi.BootstrapTokenExtraGroupsKey:      []byte(pki.ServersGroup),
			bootstrapapi.BootstrapTokenDescriptionKey:      []byte("lets machines become servers; see edgebox token server"),
		})
	if _, err := s.client.CoreV1().Secrets(metav1.NamespaceSystem).Apply(ctx, secret, metav1.ApplyOptions{FieldManager: fieldManager, Force: true}); err != nil {
		return fmt.Errorf("apply the server token: %w", err)
	}
	return nil
}
