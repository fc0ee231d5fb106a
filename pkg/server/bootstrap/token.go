package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	core "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/kubernetes"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"

	"github.com/edgebox/edgebox/pkg/admin"
	"github.com/edgebox/edgebox/pkg/component"
	"github.com/edgebox/edgebox/pkg/durable"
	"github.com/edgebox/edgebox/pkg/pki"
	"github.com/edgebox/edgebox/pkg/upstream"
)

// JoinToken keeps the token by which nodes join: in a file for the operator, and as a bootstrap token in the cluster. A
// token that it has put there before ends when another takes its place. It also manages the tokens that operators make
// for less than that; see Tokens.
type JoinToken struct {
	kubeconfig string
	server     string // name of its node
	chosen     string // by the user, <id>.<secret>; empty for a random one
	file       string // of the whole token
	certs      *pki.Store
	client     kubernetes.Interface
	now        func() time.Time

	mu    sync.Mutex // held while token, file and cluster may differ
	token pki.Token
}

// NewJoinToken returns the component of the server with that name; the kubeconfig must be the administrator's.
func NewJoinToken(kubeconfig, server, chosen, file string, certs *pki.Store) *JoinToken {
	return &JoinToken{kubeconfig: kubeconfig, server: server, chosen: chosen, file: file, certs: certs, now: time.Now}
}

// Name implements component.Component.
func (j *JoinToken) Name() string { return "join-token" }

// Prepare settles what the token is: the user's, that of the last run, or a new one.
func (j *JoinToken) Prepare(context.Context) (err error) {
	ca, err := j.ca()
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
	if err := writeChanged(j.file, j.token.Encode()+"\n"); err != nil {
		return err
	}
	j.client, err = upstream.Client(j.kubeconfig, j.Name())
	return err
}

func (j *JoinToken) ca() ([]byte, error) { return os.ReadFile(j.certs.CertFile(pki.ServerCA)) }

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

// apply puts the token into the cluster first and then takes its predecessors away, so that one is always good.
func (j *JoinToken) apply(ctx context.Context) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.put(ctx, j.token); err != nil {
		return err
	}
	return j.revokeOthers(ctx)
}

// about is what there is to say of the server's own token.
func (j *JoinToken) about(id string) admin.Token {
	return admin.Token{ID: id, Server: j.server,
		Usages: []string{admin.UsageSigning, admin.UsageAuthentication}, Description: "made by edgebox server; see its --token"}
}

// put makes a token one that is good for joining.
func (j *JoinToken) put(ctx context.Context, token pki.Token) error {
	name := secretName(token.ID)
	secret := core.Secret(name, metav1.NamespaceSystem).
		WithLabels(map[string]string{ownLabel: j.server}).
		WithType(bootstrapapi.SecretTypeBootstrapToken).
		WithData(tokenSecret{token, j.about(token.ID)}.data())
	if _, err := j.client.CoreV1().Secrets(metav1.NamespaceSystem).Apply(ctx, secret, metav1.ApplyOptions{FieldManager: fieldManager, Force: true}); err != nil {
		return fmt.Errorf("apply Secret %s: %w", name, err)
	}
	return nil
}

// revokeOthers takes away all tokens that were this server's own before this one.
func (j *JoinToken) revokeOthers(ctx context.Context) error {
	secrets := j.client.CoreV1().Secrets(metav1.NamespaceSystem)
	ours, err := secrets.List(ctx, metav1.ListOptions{LabelSelector: ownLabel + "=" + j.server})
	if err != nil {
		return fmt.Errorf("list join tokens: %w", err)
	}
	for _, s := range ours.Items {
		if s.Name == secretName(j.token.ID) {
			continue
		}
		if err := secrets.Delete(ctx, s.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("revoke the former join token: %w", err)
		}
		slog.Info("former join token revoked", "secret", s.Name)
	}
	return nil
}

// writeChanged writes a file for root alone, unless it is as it should be: a start need not wear the disk.
func writeChanged(path, content string) error {
	if old, err := os.ReadFile(path); err == nil && string(old) == content {
		if fi, err := os.Lstat(path); err == nil && fi.Mode() == 0o600 {
			return nil
		}
	}
	return durable.WriteFile(path, []byte(content), 0o600)
}
