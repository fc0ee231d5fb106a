package pki

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// A ServerToken lets a machine become one more server of a cluster. It is written as
//
//	EBS1<CA hash>::<id>.<secret>.<key>
//
// The first part is as in a Token, which it holds. The key, 32 characters of a-z and 0-9, encrypts what servers share. It
// is in no request and in no database: who can read either, but does not have the token, learns none of the secrets.
type ServerToken struct {
	Token
	Key string
}

const (
	serverTokenPrefix = "EBS1"
	serverKeyLength   = 32
	sealPurpose       = "edgebox servers 1"
)

var serverKeyForm = regexp.MustCompile(`^[a-z0-9]{32}$`)

// NewServerToken returns a random ServerToken for the cluster with that CA (the content of server-ca.crt).
func NewServerToken(caPEM []byte) (ServerToken, error) {
	t, err := NewToken(caPEM)
	return ServerToken{t, randomText(serverKeyLength)}, err
}

// IsServerToken tells a ServerToken from other tokens by its form.
func IsServerToken(s string) bool { return strings.HasPrefix(strings.TrimSpace(s), serverTokenPrefix) }

// ParseServerToken reads a ServerToken as written by Encode. Errors say what is wrong without repeating a secret.
func ParseServerToken(s string) (ServerToken, error) {
	s = strings.TrimSpace(s)
	if !IsServerToken(s) {
		return ServerToken{}, fmt.Errorf("server token does not begin with %s: use what `edgebox token server` prints on a server", serverTokenPrefix)
	}
	i := strings.LastIndexByte(s, '.')
	if i < 0 || !serverKeyForm.MatchString(s[i+1:]) {
		return ServerToken{}, errors.New("server token does not end in a key of 32 characters of a-z and 0-9: it was cut off")
	}
	t, err := ParseToken(tokenPrefix + s[len(serverTokenPrefix):i])
	if err != nil {
		return ServerToken{}, fmt.Errorf("server token: %w", err)
	}
	return ServerToken{t, s[i+1:]}, nil
}

// Encode writes the whole ServerToken, with its secrets.
func (t ServerToken) Encode() string {
	return serverTokenPrefix + strings.TrimPrefix(t.Token.Encode(), tokenPrefix) + "." + t.Key
}

// String writes the ServerToken without its secrets.
func (t ServerToken) String() string {
	return serverTokenPrefix + strings.TrimPrefix(t.Token.String(), tokenPrefix) + "." + strings.Repeat("*", serverKeyLength)
}

// GoString is String.
func (t ServerToken) GoString() string { return t.String() }

// Seal encrypts and authenticates data for those who have the token (AES-256-GCM).
func (t ServerToken) Seal(data []byte) ([]byte, error) {
	aead, err := t.cipher()
	if err != nil {
		return nil, err
	}
	return aead.Seal(nil, nil, data, nil), nil
}

// Open returns what was sealed. It fails if that was with another token, or altered.
func (t ServerToken) Open(sealed []byte) ([]byte, error) {
	aead, err := t.cipher()
	if err != nil {
		return nil, err
	}
	data, err := aead.Open(nil, nil, sealed, nil)
	if err != nil {
		return nil, errors.New("the secrets of the servers cannot be decrypted: they are of another server token, or damaged")
	}
	return data, nil
}

func (t ServerToken) cipher() (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, []byte(t.Key), nil, sealPurpose, 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// ServersGroup is what a machine is that has shown a ServerToken, until it is a server.
const ServersGroup = "system:bootstrappers:edgebox:servers"
