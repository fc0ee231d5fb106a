package bootstrap

import (
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"

	"github.com/edgebox/edgebox/pkg/admin"
	"github.com/edgebox/edgebox/pkg/pki"
)

// ownLabel marks the Secrets of servers' own join tokens, which end when another takes their place. Its value is the server.
const ownLabel = "edgebox.internal/join-token"

// tokenSecret is a join token as the cluster keeps it: a bootstrap token of Kubernetes.
type tokenSecret struct {
	token pki.Token
	about admin.Token // but for ID and Server
}

func secretName(id string) string { return bootstrapapi.BootstrapTokenSecretPrefix + id }

func (s tokenSecret) data() map[string][]byte {
	data := map[string][]byte{
		bootstrapapi.BootstrapTokenIDKey:     []byte(s.token.ID),
		bootstrapapi.BootstrapTokenSecretKey: []byte(s.token.Secret),
	}
	set := func(key, value string) {
		if value != "" {
			data[key] = []byte(value)
		}
	}
	set(bootstrapapi.BootstrapTokenDescriptionKey, s.about.Description)
	if !s.about.Expires.IsZero() {
		set(bootstrapapi.BootstrapTokenExpirationKey, s.about.Expires.UTC().Format(time.RFC3339))
	}
	var groups []string
	for _, usage := range s.about.Usages {
		switch usage {
		case admin.UsageSigning:
			set(bootstrapapi.BootstrapTokenUsageSigningKey, "true")
		case admin.UsageAuthentication:
			set(bootstrapapi.BootstrapTokenUsageAuthentication, "true")
			groups = append(groups, pki.JoinGroup)
		case admin.UsageRejoin:
			groups = append(groups, pki.RejoinGroup)
		}
	}
	set(bootstrapapi.BootstrapTokenExtraGroupsKey, strings.Join(groups, ","))
	return data
}

// readToken tells what a Secret says of a token; not ok if it is none.
func readToken(s *corev1.Secret) (t admin.Token, ok bool) {
	value := func(key string) string { return string(s.Data[key]) }
	t = admin.Token{
		ID:          value(bootstrapapi.BootstrapTokenIDKey),
		Description: value(bootstrapapi.BootstrapTokenDescriptionKey),
		Server:      s.Labels[ownLabel],
		Usages:      []string{},
	}
	if s.Type != bootstrapapi.SecretTypeBootstrapToken || s.Name != secretName(t.ID) {
		return t, false
	}
	if value(bootstrapapi.BootstrapTokenUsageSigningKey) == "true" {
		t.Usages = append(t.Usages, admin.UsageSigning)
	}
	if value(bootstrapapi.BootstrapTokenUsageAuthentication) == "true" {
		t.Usages = append(t.Usages, admin.UsageAuthentication)
	}
	groups := strings.Split(value(bootstrapapi.BootstrapTokenExtraGroupsKey), ",")
	if slices.Contains(groups, pki.RejoinGroup) {
		t.Usages = append(t.Usages, admin.UsageRejoin)
	}
	if slices.Contains(groups, pki.ServersGroup) {
		t.Usages = append(t.Usages, admin.UsageServer)
	}
	if end := value(bootstrapapi.BootstrapTokenExpirationKey); end != "" {
		var err error
		if t.Expires, err = time.Parse(time.RFC3339, end); err != nil {
			t.Expires = time.Unix(0, 0).UTC() // Kubernetes takes it for expired
		}
	}
	return t, true
}
