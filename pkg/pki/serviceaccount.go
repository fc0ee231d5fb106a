package pki

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// ensureServiceAccount makes the service-account key if there is none, and keeps its public key in the .pub file.
// Other keys there stay: after the user has replaced the private key, tokens made with the old one are still good.
func (s *Store) ensureServiceAccount() error {
	path := s.KeyFile(ServiceAccount)
	data, err := readFile(path)
	if err != nil {
		return err
	}
	var key crypto.Signer
	if data == nil {
		if key, err = s.newKey(ServiceAccount); err != nil {
			return err
		}
	} else {
		key, err = ParsePrivateKey(data)
		if _, ok := key.(ed25519.PrivateKey); ok {
			err = errors.New("an Ed25519 key cannot sign Kubernetes' tokens, RSA and ECDSA can")
		}
		if err != nil {
			return &FileError{Path: path, Err: err, Fix: "put a valid key there, or remove it to have a new one made, which ends all service-account tokens"}
		}
		if err := private(path, 0o600); err != nil {
			return err
		}
	}

	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return fmt.Errorf("encode the public key of %s: %w", path, err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: publicKeyBlock, Bytes: der})
	old, err := readFile(s.PublicKeyFile())
	if err != nil {
		return err
	}
	others, found := otherPublicKeys(old, der)
	if found {
		return nil
	}
	return s.write(s.PublicKeyFile(), append(public, others...), 0o644)
}

// otherPublicKeys returns the keys of a .pub file that are not der, and whether der is among them. What is no public
// key is dropped: everything there can be derived again.
func otherPublicKeys(data, der []byte) (others []byte, found bool) {
	_, err := eachBlock(data, func(b *pem.Block) (bool, error) {
		if _, err := x509.ParsePKIXPublicKey(b.Bytes); b.Type != publicKeyBlock || err != nil {
			return false, nil
		}
		if bytes.Equal(b.Bytes, der) {
			found = true
		} else {
			others = append(others, pem.EncodeToMemory(b)...)
		}
		return true, nil
	})
	return others, found && err == nil
}
