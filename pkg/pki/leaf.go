package pki

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
)

const (
	leafValidity = year
	// A leaf is renewed when less than this, or a quarter of its validity, is left.
	leafRenewBefore = 90 * 24 * time.Hour
)

// A Leaf declares a certificate and its key.
type Leaf struct {
	Name          string // of the files, without .crt and .key; may contain slashes
	CA            string // name of the CA that signs it, such as ServerCA
	CommonName    string
	Organizations []string // groups, in Kubernetes' eyes
	Server        bool     // may be presented by a server
	Client        bool     // may be presented by a client
	DNSNames      []string
	IPs           []netip.Addr
	Validity      time.Duration // 0 means 365 days; never beyond the end of the CA
}

func (l Leaf) validity() time.Duration {
	if l.Validity > 0 {
		return l.Validity
	}
	return leafValidity
}

func (l Leaf) renewBefore() time.Duration { return min(leafRenewBefore, l.validity()/4) }

func (l Leaf) subject() pkix.Name {
	return pkix.Name{CommonName: l.CommonName, Organization: l.Organizations}
}

func (l Leaf) usages() []x509.ExtKeyUsage {
	var usages []x509.ExtKeyUsage
	if l.Server {
		usages = append(usages, x509.ExtKeyUsageServerAuth)
	}
	if l.Client {
		usages = append(usages, x509.ExtKeyUsageClientAuth)
	}
	return usages
}

// dnsNames and ips return what goes into the certificate: normal forms, sorted, each once.
func (l Leaf) dnsNames() []string { return normalNames(l.DNSNames) }

func normalNames(names []string) []string {
	var out []string
	for _, n := range names {
		if n = strings.ToLower(strings.TrimSuffix(n, ".")); n != "" {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (l Leaf) ips() []netip.Addr { return normalIPs(l.IPs) }

func normalIPs(ips []netip.Addr) []netip.Addr {
	var out []netip.Addr
	for _, ip := range ips {
		if ip.IsValid() {
			out = append(out, ip.Unmap().WithZone(""))
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

// notAfter is the end that the leaf gets when it is issued at that time.
func (l Leaf) notAfter(ca *authority, reckoned time.Time) time.Time {
	end := reckoned.Add(l.validity())
	if last := ca.notAfter(); last.Before(end) {
		return last
	}
	return end.Truncate(time.Second) // as it comes back from the certificate
}

// ensureLeaf issues the leaf unless the pair on disk is good.
func (s *Store) ensureLeaf(l Leaf, ca *authority) outcome {
	certPEM, err := readFile(s.CertFile(l.Name))
	if err != nil {
		return outcome{err: err}
	}
	keyPEM, err := readFile(s.KeyFile(l.Name))
	if err != nil {
		return outcome{err: err}
	}
	wall, reckoned := s.clock()
	cert, key, reason := l.judge(certPEM, keyPEM, ca, wall, reckoned)
	if reason != "" {
		if cert, err = s.issue(l, ca, key, reckoned); err != nil {
			return outcome{err: err}
		}
	} else if err := private(s.KeyFile(l.Name), 0o600); err != nil {
		return outcome{err: err}
	}

	o := outcome{reason: reason}
	if cert.NotAfter.Before(ca.notAfter()) { // otherwise a renewal would not help
		o.due = cert.NotAfter.Add(-l.renewBefore())
	}
	return o
}

// judge says why the pair cannot stay; an empty reason means that it can. A key is returned if it may be used further:
// it belongs to a certificate of this CA.
func (l Leaf) judge(certPEM, keyPEM []byte, ca *authority, wall, reckoned time.Time) (*x509.Certificate, crypto.Signer, string) {
	if certPEM == nil || keyPEM == nil {
		return nil, nil, "missing"
	}
	chain, err := ParseCertificates(certPEM)
	if err != nil {
		return nil, nil, fmt.Sprintf("certificate file: %v", err)
	}
	key, err := ParsePrivateKey(keyPEM)
	if err != nil {
		return nil, nil, fmt.Sprintf("key file: %v", err)
	}
	cert := chain[0]
	if !samePublicKey(cert, key) {
		return nil, nil, "certificate and key do not match"
	}
	if err := cert.CheckSignatureFrom(ca.cert()); err != nil {
		return nil, nil, fmt.Sprintf("signed by another CA (%s)", cert.Issuer)
	}

	// The order is that of usefulness to the reader; the outcome is the same.
	var reason string
	switch {
	case reckoned.After(cert.NotAfter):
		reason = "expired on " + day(cert.NotAfter)
	case reckoned.After(cert.NotAfter.Add(-l.renewBefore())) && l.notAfter(ca, reckoned).After(cert.NotAfter):
		reason = "expires on " + day(cert.NotAfter)
	case wall.Before(cert.NotBefore) && ca.cert().NotBefore.Before(cert.NotBefore):
		reason = "not valid before " + day(cert.NotBefore)
	case cert.Subject.String() != l.subject().String():
		reason = fmt.Sprintf("is for %s", cert.Subject)
	case !slices.Equal(normalNames(cert.DNSNames), l.dnsNames()) || !slices.Equal(certIPs(cert), l.ips()) ||
		len(cert.URIs)+len(cert.EmailAddresses) > 0:
		reason = fmt.Sprintf("is for other names (%s)", strings.Join(sans(cert), ", "))
	case !slices.Equal(cert.ExtKeyUsage, l.usages()) || len(cert.UnknownExtKeyUsage) > 0:
		reason = "is for another use"
	case !sameCertificates(chain[1:], ca.intermediates):
		reason = "carries other intermediate certificates"
	default:
		if err := verify(cert, ca, l.usages(), reckoned); err != nil {
			reason = err.Error()
		}
	}
	return cert, key, reason
}

// issue signs and writes the leaf, with key if that is not nil.
func (s *Store) issue(l Leaf, ca *authority, key crypto.Signer, reckoned time.Time) (*x509.Certificate, error) {
	newKey := key == nil
	if newKey {
		k, err := s.newKey(l.Name)
		if err != nil {
			return nil, err
		}
		key = k
	}
	template := &x509.Certificate{
		Subject:               l.subject(),
		NotBefore:             ca.cert().NotBefore,
		NotAfter:              l.notAfter(ca, reckoned),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           l.usages(),
		BasicConstraintsValid: true,
		DNSNames:              l.dnsNames(),
	}
	for _, ip := range l.ips() {
		template.IPAddresses = append(template.IPAddresses, net.IP(ip.AsSlice()))
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert(), key.Public(), ca.key)
	if err != nil {
		return nil, fmt.Errorf("issue certificate %s: %w", l.Name, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("issue certificate %s: %w", l.Name, err)
	}
	if err := verify(cert, ca, l.usages(), reckoned); err != nil {
		return nil, &FileError{Path: s.CertFile(l.CA), Problem: fmt.Sprintf("may not issue the certificate %s", l.Name), Err: err,
			Fix: "replace it by a CA without such constraints"}
	}
	return cert, s.write(s.CertFile(l.Name), encodeCertificates(append([]*x509.Certificate{cert}, ca.intermediates...)...), 0o644)
}

// verify does what the other end of a connection will do, for each usage.
func verify(cert *x509.Certificate, ca *authority, usages []x509.ExtKeyUsage, at time.Time) error {
	opts := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: at}
	opts.Roots.AddCert(ca.root())
	for _, c := range ca.chain[:len(ca.chain)-1] {
		opts.Intermediates.AddCert(c)
	}
	var errs []error
	for _, usage := range usages {
		opts.KeyUsages = []x509.ExtKeyUsage{usage}
		_, err := cert.Verify(opts)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func certIPs(cert *x509.Certificate) []netip.Addr {
	var ips []netip.Addr
	for _, ip := range cert.IPAddresses {
		if a, ok := netip.AddrFromSlice(ip); ok {
			ips = append(ips, a)
		}
	}
	return normalIPs(ips)
}

// sans are the names and addresses that a certificate is for, as text.
func sans(cert *x509.Certificate) []string {
	out := slices.Clone(cert.DNSNames)
	for _, ip := range cert.IPAddresses {
		out = append(out, ip.String())
	}
	return out
}

func sameCertificates(a, b []*x509.Certificate) bool {
	return slices.EqualFunc(a, b, func(x, y *x509.Certificate) bool { return bytes.Equal(x.Raw, y.Raw) })
}
