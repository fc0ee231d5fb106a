package bootstrap

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"

	"github.com/edgebox/edgebox/pkg/admin"
	"github.com/edgebox/edgebox/pkg/durable"
	"github.com/edgebox/edgebox/pkg/pki"
)

const (
	maxDescription = 256 // bytes

	tokenTimeout = 10 * time.Second // of one command
)

var idForm = regexp.MustCompile(bootstrapapi.BootstrapTokenIDPattern)

// Tokens lists all bootstrap tokens of the cluster, whoever made them, those of servers first.
func (j *JoinToken) Tokens(ctx context.Context) ([]admin.Token, error) {
	ctx, cancel := context.WithTimeout(ctx, tokenTimeout)
	defer cancel()
	secrets, err := j.client.CoreV1().Secrets(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{
		FieldSelector: "type=" + string(bootstrapapi.SecretTypeBootstrapToken)})
	if err != nil {
		return nil, explain("list tokens", err)
	}
	list := []admin.Token{}
	for _, s := range secrets.Items {
		if t, ok := readToken(&s); ok {
			list = append(list, t)
		}
	}
	slices.SortFunc(list, func(a, b admin.Token) int {
		if (a.Server == "") != (b.Server == "") {
			return cmp.Compare(b.Server, a.Server)
		}
		return cmp.Or(cmp.Compare(a.Server, b.Server), cmp.Compare(a.ID, b.ID))
	})
	return list, nil
}

// CreateToken makes a random token.
func (j *JoinToken) CreateToken(ctx context.Context, wanted admin.NewToken) (admin.WholeToken, error) {
	if err := checkWanted(wanted); err != nil {
		return admin.WholeToken{}, errdefs.ErrInvalidArgument.WithMessage(err.Error())
	}
	ctx, cancel := context.WithTimeout(ctx, tokenTimeout)
	defer cancel()
	ca, err := j.ca()
	if err != nil {
		return admin.WholeToken{}, err
	}
	about := admin.Token{Description: wanted.Description}
	for _, u := range admin.TokenUsages() { // each once
		if slices.Contains(wanted.Usages, u) {
			about.Usages = append(about.Usages, u)
		}
	}
	if wanted.TTL > 0 {
		about.Expires = j.now().Add(wanted.TTL).UTC().Truncate(time.Second)
	}
	for {
		token, err := pki.NewToken(ca)
		if err != nil {
			return admin.WholeToken{}, err
		}
		about.ID = token.ID
		secret := &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: secretName(token.ID)},
			Type:       bootstrapapi.SecretTypeBootstrapToken,
			Data:       tokenSecret{token, about}.data(),
		}
		_, err = j.client.CoreV1().Secrets(metav1.NamespaceSystem).Create(ctx, secret, metav1.CreateOptions{FieldManager: fieldManager})
		if apierrors.IsAlreadyExists(err) {
			continue
		}
		if err != nil {
			return admin.WholeToken{}, explain("create token", err)
		}
		slog.Info("token created", "id", token.ID, "usages", strings.Join(about.Usages, ","), "ttl", wanted.TTL)
		return admin.WholeToken{Whole: token.Encode(), Token: about}, nil
	}
}

func checkWanted(w admin.NewToken) error {
	for _, u := range w.Usages {
		if !slices.Contains(admin.TokenUsages(), u) {
			return fmt.Errorf("%q is no usage of a token: use %s", u, strings.Join(admin.TokenUsages(), ", "))
		}
	}
	switch {
	case len(w.Usages) == 0:
		return errors.New("a token needs a usage")
	case slices.Contains(w.Usages, admin.UsageRejoin) && !slices.Contains(w.Usages, admin.UsageAuthentication):
		return fmt.Errorf("%s needs %s, too", admin.UsageRejoin, admin.UsageAuthentication)
	case w.TTL < 0 || w.TTL > 0 && w.TTL < time.Second:
		return fmt.Errorf("a token cannot be valid for %s: use at least 1s, or 0 for ever", w.TTL)
	case len(w.Description) > maxDescription || strings.ContainsFunc(w.Description, unicode.IsControl):
		return fmt.Errorf("a description is one line of at most %d bytes", maxDescription)
	}
	return nil
}

// DeleteToken revokes a token. This server's own is only replaced, by RotateToken; that of another server comes back when
// that starts, if it still exists.
func (j *JoinToken) DeleteToken(ctx context.Context, id string) error {
	if !idForm.MatchString(id) {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%q is not the id of a token: six characters of a-z and 0-9", id))
	}
	ctx, cancel := context.WithTimeout(ctx, tokenTimeout)
	defer cancel()
	secrets := j.client.CoreV1().Secrets(metav1.NamespaceSystem)
	unknown := errdefs.ErrNotFound.WithMessage(fmt.Sprintf("there is no token with the id %q: `edgebox token list` shows those that there are", id))
	secret, err := secrets.Get(ctx, secretName(id), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return unknown
	}
	if err != nil {
		return explain("look up token "+id, err)
	}
	t, ok := readToken(secret)
	if !ok {
		return unknown
	}
	if t.Server == j.server {
		return errdefs.ErrFailedPrecondition.WithMessage("token " + id + " is this server's own: " + j.howToReplace())
	}
	err = secrets.Delete(ctx, secret.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(secret.UID))})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) { // somebody else has deleted it
		return unknown
	}
	if err != nil {
		return explain("delete token "+id, err)
	}
	slog.Info("token deleted", "id", id)
	return nil
}

func (j *JoinToken) howToReplace() string {
	if j.chosen != "" {
		return "it was chosen with --token; choose another one there and restart edgebox, which revokes this one"
	}
	return "replace it with `edgebox token rotate`"
}

// RotateToken gives the server a new token, and revokes the old one once the new one is good and on the disk.
func (j *JoinToken) RotateToken(ctx context.Context) (admin.WholeToken, error) {
	if j.chosen != "" {
		return admin.WholeToken{}, errdefs.ErrFailedPrecondition.WithMessage("the server's own token cannot be replaced here: " + j.howToReplace())
	}
	ctx, cancel := context.WithTimeout(ctx, tokenTimeout)
	defer cancel()
	ca, err := j.ca()
	if err != nil {
		return admin.WholeToken{}, err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	token, err := pki.NewToken(ca)
	if err != nil {
		return admin.WholeToken{}, err
	}
	if err := j.put(ctx, token); err != nil {
		return admin.WholeToken{}, explain("create token", err)
	}
	if err := durable.WriteFile(j.file, []byte(token.Encode()+"\n"), 0o600); err != nil {
		return admin.WholeToken{}, errors.Join(err, j.revokeOthers(ctx)) // the new one is the other
	}
	j.token = token
	if err := j.revokeOthers(ctx); err != nil {
		return admin.WholeToken{}, explain("the new token is in "+j.file+", but the former one is still good: repeat the command", err)
	}
	slog.Info("join token replaced", "id", token.ID)
	return admin.WholeToken{Whole: token.Encode(), Token: j.about(token.ID)}, nil
}

// explain tells an API server that does not answer from one that says no.
func explain(what string, err error) error {
	if status := apierrors.APIStatus(nil); errors.As(err, &status) {
		return fmt.Errorf("%s: %w", what, err)
	}
	return errdefs.ErrUnavailable.WithMessage(fmt.Sprintf("%s: the API of this server does not answer: %v", what, err))
}
