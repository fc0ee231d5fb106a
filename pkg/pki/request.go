package pki

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"time"

	"github.com/edgebox/edgebox/pkg/durable"
)

// The functions below are for leaves that a CA elsewhere signs: those of agents, through the CSR API.

// Request returns a certificate request (PKCS#10, DER) for a leaf, made with the key on disk; without a good one, a new
// key is written first.
func (s *Store) Request(l Leaf) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key, err := s.requestKey(l.Name)
	if err != nil {
		return nil, err
	}
	template := x509.CertificateRequest{Subject: l.subject(), DNSNames: l.dnsNames()}
	for _, ip := range l.ips() {
		template.IPAddresses = append(template.IPAddresses, net.IP(ip.AsSlice()))
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &template, key)
	if err != nil {
		return nil, fmt.Errorf("request certificate %s: %w", l.Name, err)
	}
	return der, nil
}

func (s *Store) requestKey(name string) (crypto.Signer, error) {
	if err := durable.MkdirAll(filepath.Dir(s.KeyFile(name)), 0o700); err != nil {
		return nil, err
	}
	data, err := readFile(s.KeyFile(name))
	if err != nil {
		return nil, err
	}
	if data != nil {
		if key, err := ParsePrivateKey(data); err == nil {
			return key, private(s.KeyFile(name), 0o600)
		}
	}
	return s.newKey(name)
}

// EncodeRequest is a request in PEM, as the CSR API wants it.
func EncodeRequest(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

// Install puts the certificate of a leaf into place, with the intermediates that came with it, and returns it. It must
// belong to the key on disk.
func (s *Store) Install(name string, certPEM []byte) (*x509.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	cert, err := s.matching(name, certPEM)
	if err != nil {
		return nil, fmt.Errorf("certificate %s that was issued: %w", name, err)
	}
	return cert, s.write(s.CertFile(name), certPEM, 0o644)
}

// Load returns the certificate of a leaf if it and its key are there and belong together.
func (s *Store) Load(name string) (*x509.Certificate, error) {
	certPEM, err := readFile(s.CertFile(name))
	if err == nil && certPEM == nil {
		err = fmt.Errorf("%s is missing", s.CertFile(name))
	}
	if err != nil {
		return nil, err
	}
	cert, err := s.matching(name, certPEM)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.CertFile(name), err)
	}
	return cert, nil
}

func (s *Store) matching(name string, certPEM []byte) (*x509.Certificate, error) {
	chain, err := ParseCertificates(certPEM)
	if err != nil {
		return nil, err
	}
	keyPEM, err := readFile(s.KeyFile(name))
	if err != nil {
		return nil, err
	}
	key, err := ParsePrivateKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	if !samePublicKey(chain[0], key) {
		return nil, errors.New("does not belong to the key")
	}
	return chain[0], nil
}

// Covers reports whether a certificate is for the names and addresses of a leaf, and no others.
func (l Leaf) Covers(cert *x509.Certificate) bool {
	return cert.Subject.CommonName == l.CommonName &&
		slices.Equal(normalNames(cert.DNSNames), l.dnsNames()) && slices.Equal(certIPs(cert), l.ips())
}

// RenewAt is when a certificate wants to be renewed.
func RenewAt(cert *x509.Certificate) time.Time {
	return cert.NotAfter.Add(-min(leafRenewBefore, cert.NotAfter.Sub(cert.NotBefore)/4))
}

// WriteCertificate writes a certificate without a key, such as that of a CA elsewhere, unless the file has it already.
func (s *Store) WriteCertificate(name string, certPEM []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := ParseCertificates(certPEM); err != nil {
		return fmt.Errorf("certificate %s: %w", name, err)
	}
	if err := durable.MkdirAll(filepath.Dir(s.CertFile(name)), 0o700); err != nil {
		return err
	}
	if old, err := readFile(s.CertFile(name)); err == nil && string(old) == string(certPEM) {
		return nil
	}
	return s.write(s.CertFile(name), certPEM, 0o644)
}

// WriteKubeconfig writes a kubeconfig of a leaf in the Store, unless it is there already.
func (s *Store) WriteKubeconfig(k Kubeconfig) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ensureKubeconfig(k)
}
