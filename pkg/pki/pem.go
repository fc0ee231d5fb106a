package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

const (
	certificateBlock = "CERTIFICATE"
	publicKeyBlock   = "PUBLIC KEY"
	ecKeyBlock       = "EC PRIVATE KEY"
)

// ParseCertificates returns the certificates of a PEM file in their order, at least one. Text around the blocks and
// blocks of other types are skipped, a damaged or truncated block is an error.
func ParseCertificates(data []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	others, err := eachBlock(data, func(b *pem.Block) (bool, error) {
		if b.Type != certificateBlock {
			return false, nil
		}
		cert, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return true, fmt.Errorf("certificate %d is damaged: %w", len(certs)+1, err)
		}
		certs = append(certs, cert)
		return true, nil
	})
	if err != nil {
		return nil, err
	}
	if len(certs) == 0 {
		if _, err := x509.ParseCertificate(data); err == nil {
			return nil, errors.New(`is DER, not PEM ("openssl x509 -inform der -in FILE" converts it)`)
		}
		return nil, noBlock("certificate", data, others)
	}
	return certs, nil
}

// ParsePrivateKey returns the private key of a PEM file: SEC 1 (EC PRIVATE KEY), PKCS #1 (RSA PRIVATE KEY) or PKCS #8
// (PRIVATE KEY). It accepts what Kubernetes can sign with: ECDSA on P-256, P-384 and P-521, RSA of 2048 bits and more,
// and Ed25519.
func ParsePrivateKey(data []byte) (crypto.Signer, error) {
	var key any
	others, err := eachBlock(data, func(b *pem.Block) (bool, error) {
		var err error
		switch b.Type {
		case ecKeyBlock, "RSA PRIVATE KEY":
			if b.Headers["DEK-Info"] != "" {
				return true, errEncrypted
			}
			if b.Type == ecKeyBlock {
				key, err = x509.ParseECPrivateKey(b.Bytes)
			} else {
				key, err = x509.ParsePKCS1PrivateKey(b.Bytes)
			}
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(b.Bytes)
		case "ENCRYPTED PRIVATE KEY":
			return true, errEncrypted
		default:
			return false, nil
		}
		if err != nil {
			return true, fmt.Errorf("key is damaged: %w", err)
		}
		return true, errStop
	})
	if err != nil && !errors.Is(err, errStop) {
		return nil, err
	}
	switch k := key.(type) {
	case nil:
		return nil, noBlock("private key", data, others)
	case *ecdsa.PrivateKey:
		if k.Curve == elliptic.P224() {
			return nil, errors.New("ECDSA keys on P-224 are not usable in TLS")
		}
		return k, nil
	case *rsa.PrivateKey:
		if k.N.BitLen() < 2048 {
			return nil, fmt.Errorf("an RSA key of %d bits is too weak, 2048 are the least", k.N.BitLen())
		}
		return k, nil
	case ed25519.PrivateKey:
		return k, nil
	default:
		return nil, fmt.Errorf("keys of type %T are not usable here", key)
	}
}

var (
	errEncrypted = errors.New(`key is encrypted with a passphrase ("openssl pkey -in FILE" decrypts it)`)
	errStop      = errors.New("enough")
)

// eachBlock calls use for each PEM block, until it fails. It returns the types of the blocks that use did not take.
func eachBlock(data []byte, use func(*pem.Block) (bool, error)) (others []string, err error) {
	want := bytes.Count(data, []byte("-----BEGIN "))
	for {
		var block *pem.Block
		block, data = pem.Decode(data)
		if block == nil {
			break
		}
		want-- // Decode skips what is damaged without a word
		took, err := use(block)
		if err != nil {
			return nil, err
		}
		if !took {
			others = append(others, block.Type)
		}
	}
	if want > 0 {
		return nil, errors.New("is truncated or damaged: it has a PEM block that cannot be decoded")
	}
	return others, nil
}

func noBlock(what string, data []byte, others []string) error {
	switch {
	case len(bytes.TrimSpace(data)) == 0:
		return errors.New("is empty")
	case len(others) > 0:
		return fmt.Errorf("holds no %s, but %s", what, strings.ToLower(strings.Join(others, ", ")))
	default:
		return fmt.Errorf("holds no %s in PEM", what)
	}
}

func encodeCertificates(certs ...*x509.Certificate) []byte {
	var out bytes.Buffer
	for _, c := range certs {
		_ = pem.Encode(&out, &pem.Block{Type: certificateBlock, Bytes: c.Raw}) // a Buffer takes everything
	}
	return out.Bytes()
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: ecKeyBlock, Bytes: der}), nil
}

// samePublicKey reports whether the certificate is one of key.
func samePublicKey(cert *x509.Certificate, key crypto.Signer) bool {
	pub, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && pub.Equal(cert.PublicKey)
}

func selfSigned(cert *x509.Certificate) bool {
	return bytes.Equal(cert.RawIssuer, cert.RawSubject) &&
		cert.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature) == nil
}
