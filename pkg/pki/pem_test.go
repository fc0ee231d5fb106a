package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"testing"
)

// Keys as openssl writes them: SEC 1 after its parameters, PKCS #1, PKCS #8.
func TestParsePrivateKeyForms(t *testing.T) {
	ec, _ := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	sec1, _ := x509.MarshalECPrivateKey(ec)
	block := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	for name, data := range map[string][]byte{
		"SEC 1":   append(block("EC PARAMETERS", []byte{6, 5, 43, 129, 4, 0, 35}), block("EC PRIVATE KEY", sec1)...),
		"PKCS #1": block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsaKey().(*rsa.PrivateKey))),
		"PKCS #8": append([]byte("Bag Attributes\n  friendlyName: x\n"), keyPEM(t, edKey())...),
	} {
		if _, err := ParsePrivateKey(data); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ParsePrivateKey(block("PRIVATE KEY", x25519(t))); err == nil {
		t.Error("took a key that cannot sign")
	}
}

func FuzzPEM(f *testing.F) {
	ca := issue(f, nil, ecKey(), "ca", nil)
	f.Add(certPEM(ca))
	f.Add(certPEM(ca, ca)[:900])
	f.Add(keyPEM(f, ca.key))
	f.Add(keyPEM(f, edKey()))
	f.Add(append(keyPEM(f, ca.key), certPEM(ca)...))
	f.Add(ca.cert.Raw)
	f.Fuzz(func(t *testing.T, data []byte) {
		certs, err := ParseCertificates(data)
		if (err == nil) != (len(certs) > 0) {
			t.Errorf("%d certificates, %v", len(certs), err)
		}
		if err == nil {
			again, err := ParseCertificates(encodeCertificates(certs...))
			if err != nil || !sameCertificates(again, certs) {
				t.Errorf("not stable: %v", err)
			}
		}
		key, err := ParsePrivateKey(data)
		if (err == nil) != (key != nil) {
			t.Errorf("key %v, %v", key, err)
		}
		otherPublicKeys(data, nil)
	})
}
