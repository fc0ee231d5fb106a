package pki

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// A Token lets a machine join a cluster. It is written as
//
//	EB1<CA hash>::<id>.<secret>
//
// where the CA hash, 64 hex digits, is that of kubeadm's --discovery-token-ca-cert-hash: sha256 of the
// SubjectPublicKeyInfo of the server CA (the first certificate of its file). It lets the machine verify the server before it sends the secret. The rest
// is a bootstrap token of Kubernetes: six and sixteen characters of a-z and 0-9, the first six not secret.
type Token struct {
	CAHash string // lower-case hex; empty in a bare bootstrap token
	ID     string
	Secret string
}

// Groups of those who show a token, until they have certificates of their own.
const (
	JoinGroup   = "system:bootstrappers:edgebox"        // may join as a node
	RejoinGroup = "system:bootstrappers:edgebox:rejoin" // also as one that another machine was
)

const tokenPrefix = "EB1"

var (
	caHashForm    = regexp.MustCompile(`^[0-9a-f]{64}$`)
	bootstrapForm = regexp.MustCompile(`^([a-z0-9]{6})\.([a-z0-9]{16})$`)
)

// NewToken returns a random Token for the cluster with that CA (the content of server-ca.crt).
func NewToken(caPEM []byte) (Token, error) {
	return Token{ID: randomText(6), Secret: randomText(16)}.WithCA(caPEM)
}

// ParseToken reads a Token as written by Encode. White space around it is ignored. Errors say what is wrong without
// repeating the secret.
func ParseToken(s string) (Token, error) {
	s = strings.TrimSpace(s)
	if s == "" {
		return Token{}, errors.New("join token is empty")
	}
	if bootstrapForm.MatchString(s) {
		return Token{}, errors.New(`join token has no CA hash, so the server could not be verified: use the whole token that "edgebox token create" prints`)
	}
	rest, ok := strings.CutPrefix(s, tokenPrefix)
	if !ok {
		if strings.HasPrefix(s, "K10") {
			return Token{}, fmt.Errorf("join token is one of k3s, edgebox's begin with %s", tokenPrefix)
		}
		return Token{}, fmt.Errorf("join token does not begin with %s: use the whole token that \"edgebox token create\" prints", tokenPrefix)
	}
	hash, bootstrap, ok := strings.Cut(rest, "::")
	if !ok {
		return Token{}, errors.New(`join token has no "::": it was cut off`)
	}
	if !caHashForm.MatchString(hash) {
		return Token{}, fmt.Errorf("join token has a CA hash of %d characters, want 64 hex digits in lower case", len(hash))
	}
	t, err := ParseBootstrapToken(bootstrap)
	if err != nil {
		return Token{}, err
	}
	t.CAHash = hash
	return t, nil
}

// ParseBootstrapToken reads a token without a CA hash, <id>.<secret>, such as a user may choose for the first server.
func ParseBootstrapToken(s string) (Token, error) {
	m := bootstrapForm.FindStringSubmatch(strings.TrimSpace(s))
	if m == nil {
		return Token{}, errors.New(`token does not end in a bootstrap token: six characters, ".", sixteen characters, all of a-z and 0-9`)
	}
	return Token{ID: m[1], Secret: m[2]}, nil
}

// WithCA returns the Token for the cluster with that CA (the content of server-ca.crt).
func (t Token) WithCA(caPEM []byte) (Token, error) {
	chain, err := ParseCertificates(caPEM)
	if err != nil {
		return Token{}, fmt.Errorf("CA of the cluster: %w", err)
	}
	t.CAHash = spkiHash(chain[0])
	return t, nil
}

// VerifyCA makes sure that a CA file, which came over an unverified connection, is that of the Token's cluster, and
// returns the one certificate in it to trust from then on, in PEM: the first. Whatever else the file holds must not be
// trusted, not even the issuer of that certificate: anybody can issue a certificate for somebody else's public key.
func (t Token) VerifyCA(caPEM []byte) (trusted []byte, err error) {
	if t.CAHash == "" {
		return nil, errors.New("token has no CA hash to verify the server with")
	}
	chain, err := ParseCertificates(caPEM)
	if err != nil {
		return nil, fmt.Errorf("CA of the server: %w", err)
	}
	if got := spkiHash(chain[0]); got != t.CAHash {
		return nil, fmt.Errorf("the server has another CA (sha256:%s) than the token was made for (sha256:%s): it is another cluster, or an impostor", got, t.CAHash)
	}
	return encodeCertificates(chain[0]), nil
}

// Encode writes the whole Token, with its secret.
func (t Token) Encode() string {
	if t.CAHash == "" {
		return t.Bootstrap()
	}
	return tokenPrefix + t.CAHash + "::" + t.Bootstrap()
}

// Bootstrap writes the token as Kubernetes takes it in an Authorization header, with its secret.
func (t Token) Bootstrap() string { return t.ID + "." + t.Secret }

// String writes the Token without its secret, for logs and messages.
func (t Token) String() string {
	t.Secret = strings.Repeat("*", 16)
	return t.Encode()
}

// GoString is String: %#v shows no secret either.
func (t Token) GoString() string { return t.String() }

func spkiHash(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// randomText returns n random characters of a-z and 0-9, each with the same probability.
func randomText(n int) string {
	const alphabet = "abcdefghijklmnopqrstuvwxyz0123456789"
	const fair = 256 - 256%len(alphabet)
	out := make([]byte, 0, n)
	var b [32]byte
	for len(out) < n {
		rand.Read(b[:]) // never fails
		for _, x := range b {
			if int(x) < fair && len(out) < n {
				out = append(out, alphabet[int(x)%len(alphabet)])
			}
		}
	}
	return string(out)
}
