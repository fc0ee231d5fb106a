package bootstrap

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	secretutil "k8s.io/cluster-bootstrap/util/secrets"

	"github.com/edgebox/edgebox/pkg/admin"
	"github.com/edgebox/edgebox/pkg/pki"
)

var today = time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)

// newTokens is the component of a server that is running, on a cluster with these Secrets.
func newTokens(t *testing.T, chosen string, secrets ...runtime.Object) (*JoinToken, *fake.Clientset) {
	t.Helper()
	dir := t.TempDir()
	certs, kubeconfig := newPKI(t, dir)
	j := NewJoinToken(kubeconfig, "box", chosen, filepath.Join(dir, "token"), certs)
	if err := j.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	c := fake.NewClientset(secrets...)
	j.client, j.now = c, func() time.Time { return today }
	if err := j.apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	return j, c
}

func secretOf(t *testing.T, c *fake.Clientset, id string) *corev1.Secret {
	t.Helper()
	s, err := c.CoreV1().Secrets("kube-system").Get(t.Context(), "bootstrap-token-"+id, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestCreateToken: what is asked for is what Kubernetes makes of the Secret.
func TestCreateToken(t *testing.T) {
	j, c := newTokens(t, "")
	for _, tt := range []struct {
		wanted  admin.NewToken
		expires time.Time
		groups  string
		usages  string // as they are read back
	}{
		{admin.NewToken{TTL: 24 * time.Hour, Usages: []string{"signing", "authentication"}, Description: "for the cellar"},
			today.Add(24 * time.Hour), "system:bootstrappers system:bootstrappers:edgebox", "signing authentication"},
		{admin.NewToken{Usages: []string{"rejoin", "authentication", "rejoin"}},
			time.Time{}, "system:bootstrappers system:bootstrappers:edgebox system:bootstrappers:edgebox:rejoin", "authentication rejoin"},
		{admin.NewToken{TTL: time.Second, Usages: []string{"signing"}},
			today.Add(time.Second), "system:bootstrappers", "signing"},
	} {
		whole, err := j.CreateToken(t.Context(), tt.wanted)
		if err != nil {
			t.Errorf("%+v: %v", tt.wanted, err)
			continue
		}
		token, err := pki.ParseToken(whole.Whole)
		if err != nil || token.CAHash != j.token.CAHash || token.ID != whole.ID {
			t.Errorf("%+v: %v of %s, %v", tt.wanted, token, whole.ID, err)
		}
		s := secretOf(t, c, token.ID)
		if s == nil || string(s.Data["token-secret"]) != token.Secret || string(s.Data["token-id"]) != token.ID || s.Type != "bootstrap.kubernetes.io/token" {
			t.Fatalf("%+v: the Secret is %v", tt.wanted, s)
		}
		groups, err := secretutil.GetGroups(s)
		if err != nil || strings.Join(groups, " ") != tt.groups {
			t.Errorf("%+v: groups %s, %v; want %s", tt.wanted, groups, err, tt.groups)
		}
		left, expired := secretutil.GetExpiration(s, today)
		if want := max(0, tt.expires.Sub(today)); expired || left != want {
			t.Errorf("%+v: %s left, %v", tt.wanted, left, expired)
		}
		back, ok := readToken(s)
		if !ok || back.Server != "" || !back.Expires.Equal(tt.expires) || back.Description != tt.wanted.Description || strings.Join(back.Usages, " ") != tt.usages {
			t.Errorf("%+v was read as %+v", tt.wanted, back)
		}
		if !slices.Equal(back.Usages, whole.Usages) || !back.Expires.Equal(whole.Expires) {
			t.Errorf("%+v is told as %+v", tt.wanted, whole.Token)
		}
	}
	for _, tt := range []struct {
		wanted admin.NewToken
		want   string
	}{
		{admin.NewToken{}, "needs a usage"},
		{admin.NewToken{Usages: []string{"signing", "joining"}}, `"joining" is no usage of a token: use signing, authentication, rejoin`},
		{admin.NewToken{Usages: []string{"signing", "rejoin"}}, "rejoin needs authentication"},
		{admin.NewToken{Usages: []string{"signing"}, TTL: -time.Hour}, "cannot be valid for -1h0m0s"},
		{admin.NewToken{Usages: []string{"signing"}, TTL: time.Millisecond}, "cannot be valid for 1ms"},
		{admin.NewToken{Usages: []string{"signing"}, Description: "a\nb"}, "one line"},
		{admin.NewToken{Usages: []string{"signing"}, Description: strings.Repeat("a", 257)}, "at most 256 bytes"},
	} {
		if _, err := j.CreateToken(t.Context(), tt.wanted); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v, want %s", tt.wanted, err, tt.want)
		}
	}
}

// TestCreateTokenOfTakenID tries another one, and overwrites nothing.
func TestCreateTokenOfTakenID(t *testing.T) {
	j, c := newTokens(t, "")
	taken := 2
	c.PrependReactor("create", "secrets", func(action clienttesting.Action) (bool, runtime.Object, error) {
		taken--
		return taken >= 0, nil, apierrors.NewAlreadyExists(corev1.Resource("secrets"), "x")
	})
	whole, err := j.CreateToken(t.Context(), admin.NewToken{Usages: []string{"signing"}})
	if err != nil || secretOf(t, c, whole.ID) == nil || taken != -1 {
		t.Errorf("%+v, %v", whole.Token, err)
	}
}

func TestTokens(t *testing.T) {
	secret := func(id string, change func(*corev1.Secret)) *corev1.Secret {
		s := &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "bootstrap-token-" + id},
			Type:       "bootstrap.kubernetes.io/token",
			Data:       map[string][]byte{"token-id": []byte(id), "token-secret": []byte("0123456789abcdef")},
		}
		change(s)
		return s
	}
	j, _ := newTokens(t, "zzzzzz.0123456789abcdef",
		secret("kubead", func(s *corev1.Secret) {
			s.Data["usage-bootstrap-authentication"] = []byte("true")
			s.Data["usage-bootstrap-signing"] = []byte("false")
			s.Data["expiration"] = []byte("2027-03-02T12:00:00+01:00")
			s.Data["description"] = []byte("made by kubeadm")
		}),
		secret("broken", func(s *corev1.Secret) { s.Data["expiration"] = []byte("soon") }),
		secret("server", func(s *corev1.Secret) {
			s.Data["usage-bootstrap-authentication"] = []byte("true")
			s.Data["auth-extra-groups"] = []byte(pki.ServersGroup)
		}),
		secret("others", func(s *corev1.Secret) {
			s.Labels = map[string]string{"edgebox.internal/join-token": "cellar"}
			s.Data["usage-bootstrap-signing"] = []byte("true")
		}),
		secret("opaque", func(s *corev1.Secret) { s.Type = corev1.SecretTypeOpaque }),
		secret("hidden", func(s *corev1.Secret) { s.Name = "bootstrap-token-nobody" }),
		secret("nodata", func(s *corev1.Secret) { s.Data = nil }))
	list, err := j.Tokens(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, x := range list {
		line := x.ID + " " + strings.Join(x.Usages, ",") + " " + x.Description
		if !x.Expires.IsZero() {
			line += " until " + x.Expires.UTC().Format(time.RFC3339)
		}
		if x.Server != "" {
			line += " of " + x.Server
		}
		got = append(got, line)
	}
	want := []string{
		"zzzzzz signing,authentication made by edgebox server; see its --token of box",
		"others signing  of cellar",
		"broken   until 1970-01-01T00:00:00Z",
		"kubead authentication made by kubeadm until 2027-03-02T11:00:00Z",
		"server authentication,server ",
	}
	if !slices.Equal(got, want) {
		t.Errorf("have\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestDeleteToken(t *testing.T) {
	j, c := newTokens(t, "", &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "bootstrap-token-opaque"}, Data: map[string][]byte{"token-id": []byte("opaque")}})
	whole, err := j.CreateToken(t.Context(), admin.NewToken{Usages: []string{"signing"}})
	if err != nil {
		t.Fatal(err)
	}
	id := whole.ID
	if err := j.DeleteToken(t.Context(), id); err != nil || secretOf(t, c, id) != nil {
		t.Errorf("deleted %s: %v", id, err)
	}
	for _, unknown := range []string{id, "opaque"} {
		if err := j.DeleteToken(t.Context(), unknown); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), `no token with the id "`+unknown+`"`) {
			t.Errorf("%s: %v", unknown, err)
		}
	}
	for _, bad := range []string{"", "ABCDEF", "abcdefg", "../abc", whole.Whole} {
		if err := j.DeleteToken(t.Context(), bad); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if secretOf(t, c, "opaque") == nil {
		t.Error("a Secret that is no token was deleted")
	}
	for chosen, want := range map[string]string{"": "replace it with `edgebox token rotate`", "abcdef.0123456789abcdef": "chosen with --token"} {
		j, c := newTokens(t, chosen)
		if err := j.DeleteToken(t.Context(), j.token.ID); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("own token: %v, want %s", err, want)
		}
		if secretOf(t, c, j.token.ID) == nil {
			t.Error("the server's own token was deleted")
		}
	}
}

func TestRotateToken(t *testing.T) {
	j, c := newTokens(t, "")
	other, err := j.CreateToken(t.Context(), admin.NewToken{Usages: []string{"signing"}})
	if err != nil {
		t.Fatal(err)
	}
	former := j.token
	whole, err := j.RotateToken(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	now, err := pki.ParseToken(whole.Whole)
	if err != nil || now.ID == former.ID || now.Secret == former.Secret || now.CAHash != former.CAHash || whole.Server != "box" {
		t.Errorf("%v after %v, %v", now, former, err)
	}
	if text, err := os.ReadFile(j.file); err != nil || string(text) != whole.Whole+"\n" {
		t.Errorf("the file has %q, %v", text, err)
	}
	if secretOf(t, c, former.ID) != nil || secretOf(t, c, now.ID) == nil || secretOf(t, c, other.ID) == nil {
		t.Error("the Secrets are not as they should be")
	}
	// A restart finds what was rotated.
	again := NewJoinToken(j.kubeconfig, "box", "", j.file, j.certs)
	if err := again.Prepare(t.Context()); err != nil || again.token != now {
		t.Errorf("after a restart it is %v, %v", again.token, err)
	}
}

// TestOtherServersTokens are good whatever this server does to its own.
func TestOtherServersTokens(t *testing.T) {
	j, c := newTokens(t, "")
	other := &JoinToken{client: c, server: "cellar", token: pki.Token{ID: "others", Secret: "0123456789abcdef"}}
	if err := other.apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	if secretOf(t, c, j.token.ID) == nil {
		t.Error("the start of another server has revoked the token of this one")
	}
	if _, err := j.RotateToken(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := j.apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	if secretOf(t, c, "others") == nil {
		t.Error("this server has revoked the token of another one")
	}
	if err := j.DeleteToken(t.Context(), "others"); err != nil || secretOf(t, c, "others") != nil {
		t.Errorf("the token of a server that may be gone cannot be deleted: %v", err)
	}
}

// TestRotateTokenFails and leaves one good token, the one in the file.
func TestRotateTokenFails(t *testing.T) {
	j, c := newTokens(t, "abcdef.0123456789abcdef")
	if _, err := j.RotateToken(t.Context()); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "chosen with --token; choose another one there and restart edgebox") {
		t.Errorf("a chosen token: %v", err)
	}
	if secretOf(t, c, "abcdef") == nil {
		t.Error("the chosen token is gone")
	}

	tokens := func(c *fake.Clientset) (ids []string) {
		t.Helper()
		list, err := c.CoreV1().Secrets("kube-system").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range list.Items {
			ids = append(ids, string(s.Data["token-id"]))
		}
		return ids
	}
	fail := func(c *fake.Clientset, verb string) (mend func()) {
		down := true
		c.PrependReactor(verb, "secrets", func(clienttesting.Action) (bool, runtime.Object, error) {
			return down, nil, &net.OpError{Op: "dial", Err: errors.New("connection refused")}
		})
		return func() { down = false }
	}

	j, c = newTokens(t, "")
	former := j.token
	mend := fail(c, "patch")
	if _, err := j.RotateToken(t.Context()); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "the API of this server does not answer") {
		t.Errorf("without an API: %v", err)
	}
	mend()
	if err := os.Rename(j.file, j.file+".away"); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(j.file, "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := j.RotateToken(t.Context()); err == nil || !strings.Contains(err.Error(), j.file) {
		t.Errorf("without a disk: %v", err)
	}
	if got := tokens(c); j.token != former || len(got) != 1 || got[0] != former.ID {
		t.Errorf("after a failure there are %v, want %s", got, former.ID)
	}

	j, c = newTokens(t, "")
	mend = fail(c, "delete")
	if _, err := j.RotateToken(t.Context()); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "repeat the command") {
		t.Errorf("the former token stays: %v", err)
	}
	mend()
	whole, err := j.RotateToken(t.Context())
	if got := tokens(c); err != nil || len(got) != 1 || got[0] != whole.ID {
		t.Errorf("after a repetition there are %v, %v", got, err)
	}
}

// TestTokensWithoutAPI tells an API that is down from one that says no.
func TestTokensWithoutAPI(t *testing.T) {
	j, c := newTokens(t, "")
	var err error
	c.PrependReactor("*", "secrets", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, err })
	for _, call := range []func() error{
		func() error { _, err := j.Tokens(t.Context()); return err },
		func() error {
			_, err := j.CreateToken(t.Context(), admin.NewToken{Usages: []string{"signing"}})
			return err
		},
		func() error { return j.DeleteToken(t.Context(), "abcdef") },
		func() error { _, err := j.RotateToken(t.Context()); return err },
	} {
		err = &net.OpError{Op: "dial", Err: errors.New("connection refused")}
		if got := call(); !errdefs.IsUnavailable(got) || !strings.Contains(got.Error(), "does not answer: ") || !strings.HasSuffix(got.Error(), "dial: connection refused") {
			t.Errorf("down: %v", got)
		}
		err = apierrors.NewForbidden(corev1.Resource("secrets"), "x", errors.New("no"))
		if got := call(); got == nil || errdefs.IsUnavailable(got) || !apierrors.IsForbidden(got) {
			t.Errorf("forbidden: %v", got)
		}
	}
}
