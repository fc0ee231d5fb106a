package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	core "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/kubernetes"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"

	"github.com/edgebox/edgebox/pkg/component"
	"github.com/edgebox/edgebox/pkg/durable"
	"github.com/edgebox/edgebox/pkg/pki"
	"github.com/edgebox/edgebox/pkg/upstream"
)

// joinGroup is what a machine is that has shown the token, until it has a certificate of its own.
const joinGroup = "system:bootstrappers:edgebox"

// JoinToken keeps the token by which nodes join: in a file for the operator, and as a bootstrap token in the cluster.
type JoinToken struct {
	kubeconfig string
	chosen     string // by the user, <id>.<secret>; empty for a random one
	file       string // of the whole token
	certs      *pki.Store

	token  pki.Token
	client kubernetes.Interface
}

// NewJoinToken returns the component; the kubeconfig must be the administrator's.
func NewJoinToken(kubeconfig, chosen, file string, certs *pki.Store) *JoinToken {
	return &JoinToken{kubeconfig: kubeconfig, chosen: chosen, file: file, certs: certs}
}

// Name implements component.Component.
func (j *JoinToken) Name() string { return "join-token" }

// Prepare settles what the token is: the user's, that of the last run, or a new one.
func (j *JoinToken) Prepare(context.Context) (err error) {
	ca, err := os.ReadFile(j.certs.CertFile(pki.ServerCA))
	if err != nil {
		return err
	}
	if j.token, err = j.choose(ca); err != nil {
		return err
	}
	// The CA may have been replaced since the file was written.
	if j.token, err = j.token.WithCA(ca); err != nil {
		return err
	}
	if err := durable.WriteFile(j.file, []byte(j.token.Encode()+"\n"), 0o600); err != nil {
		return err
	}
	j.client, err = upstream.Client(j.kubeconfig, j.Name())
	return err
}

func (j *JoinToken) choose(ca []byte) (pki.Token, error) {
	if j.chosen != "" {
		t, err := pki.ParseBootstrapToken(j.chosen)
		if err != nil {
			return t, fmt.Errorf("--token: %w", err)
		}
		return t, nil
	}
	kept, err := os.ReadFile(j.file)
	if errors.Is(err, os.ErrNotExist) {
		return pki.NewToken(ca)
	}
	if err != nil {
		return pki.Token{}, err
	}
	t, err := pki.ParseToken(string(kept))
	if err != nil {
		return t, fmt.Errorf("%s: %w: remove the file to get a new one", j.file, err)
	}
	return t, nil
}

// Run puts the token into the cluster.
func (j *JoinToken) Run(ctx context.Context, ready func()) error {
	if err := component.Poll(ctx, "the API to take the join token", 200*time.Millisecond, j.apply); err != nil {
		return err
	}
	ready()
	<-ctx.Done()
	return nil
}

func (j *JoinToken) apply(ctx context.Context) error {
	secret := core.Secret(bootstrapapi.BootstrapTokenSecretPrefix+j.token.ID, metav1.NamespaceSystem).
		WithType(bootstrapapi.SecretTypeBootstrapToken).
		WithStringData(map[string]string{
			bootstrapapi.BootstrapTokenIDKey:               j.token.ID,
			bootstrapapi.BootstrapTokenSecretKey:           j.token.Secret,
			bootstrapapi.BootstrapTokenUsageAuthentication: "true",
			bootstrapapi.BootstrapTokenUsageSigningKey:     "true",
			bootstrapapi.BootstrapTokenExtraGroupsKey:      joinGroup,
			bootstrapapi.BootstrapTokenDescriptionKey:      "made by edgebox server; see its --token",
		})
	_, err := j.client.CoreV1().Secrets(metav1.NamespaceSystem).Apply(ctx, secret, metav1.ApplyOptions{FieldManager: fieldManager, Force: true})
	return err
}
