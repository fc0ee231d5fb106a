package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"fmt"
	"os"
	"regexp"
	"strings"
	"time"
)

const (
	year = 365 * 24 * time.Hour

	caValidity = 10 * year
	// A CA made here is prolonged when less than this is left: long enough for agents and copied kubeconfigs, which
	// hold the old certificate, to see the new one.
	caRenewBefore = 3 * year
)

// epoch is the start of CAs made here: no clock is before it.
var epoch = time.Unix(0, 0).UTC()

// authority is a CA that is fit to sign.
type authority struct {
	chain []*x509.Certificate // [0] belongs to key; each further one signed the one before it
	key   crypto.Signer

	// intermediates are what a leaf must carry along for those who trust the root alone.
	intermediates []*x509.Certificate
}

func (a *authority) cert() *x509.Certificate { return a.chain[0] }

// root is the certificate at which verification of the chain ends.
func (a *authority) root() *x509.Certificate { return a.chain[len(a.chain)-1] }

// notAfter is the end of the chain: the earliest of all.
func (a *authority) notAfter() time.Time {
	end := a.chain[0].NotAfter
	for _, c := range a.chain[1:] {
		if c.NotAfter.Before(end) {
			end = c.NotAfter
		}
	}
	return end
}

// ensureCA returns the CA of that name, made or prolonged if necessary. The due time is that of a CA made here.
func (s *Store) ensureCA(name string) (*authority, outcome) {
	var o outcome
	ca, err := s.loadCA(name)
	if err != nil {
		return nil, outcome{err: err}
	}
	if ca.key != nil {
		if err := private(s.KeyFile(name), 0o600); err != nil {
			return nil, outcome{err: err}
		}
	}
	_, reckoned := s.clock()
	switch {
	case ca.key == nil:
		o.reason = "missing"
		var key *ecdsa.PrivateKey
		if key, err = s.newKey(name); err == nil {
			ca.key = key
			err = s.signCA(name, ca)
		}
	case ca.chain == nil: // a crash came between the key and the certificate
		o.reason = "certificate missing"
		err = s.signCA(name, ca)
	case madeHere(name, ca.chain) && reckoned.After(ca.cert().NotAfter.Add(-caRenewBefore)):
		o.reason = "ends on " + day(ca.cert().NotAfter)
		err = s.signCA(name, ca)
	}
	if err == nil {
		err = s.checkCA(name, ca)
	}
	if err == nil {
		err = s.ensureNoChain(name, ca)
	}
	if err != nil {
		return nil, outcome{err: err}
	}
	ca.intermediates = ca.chain
	if selfSigned(ca.root()) {
		ca.intermediates = ca.chain[:len(ca.chain)-1]
	}
	if madeHere(name, ca.chain) {
		o.due = ca.cert().NotAfter.Add(-caRenewBefore)
	}
	return ca, o
}

// loadCA reads a CA. The key is nil if there is neither key nor certificate, the chain is nil if there is a key alone.
// It makes sure of the form; validity is checkCA's.
func (s *Store) loadCA(name string) (*authority, error) {
	crt, keyFile := s.CertFile(name), s.KeyFile(name)
	certPEM, err := readFile(crt)
	if err != nil {
		return nil, err
	}
	keyPEM, err := readFile(keyFile)
	if err != nil {
		return nil, err
	}
	fix := fmt.Sprintf("put a valid %s and %s into place, or remove both to have a new CA made", fileName(crt), fileName(keyFile))

	var ca authority
	if keyPEM != nil {
		if ca.key, err = ParsePrivateKey(keyPEM); err != nil {
			return nil, &FileError{Path: keyFile, Err: err, Fix: fix}
		}
	}
	if certPEM != nil {
		if ca.chain, err = ParseCertificates(certPEM); err != nil {
			return nil, &FileError{Path: crt, Err: err, Fix: fix}
		}
		if ca.key == nil {
			return nil, &FileError{Path: crt, Problem: "there is no " + fileName(keyFile) + " beside it", Fix: fix}
		}
		if !samePublicKey(ca.cert(), ca.key) {
			for i, c := range ca.chain {
				if samePublicKey(c, ca.key) {
					return nil, &FileError{Path: crt, Problem: fmt.Sprintf("the certificate of %s is number %d of %d",
						fileName(keyFile), i+1, len(ca.chain)), Fix: "put it first, then the one that signed it, and so on up to the root"}
				}
			}
			return nil, &FileError{Path: crt, Problem: "does not belong to the key in " + fileName(keyFile), Fix: fix}
		}
	}
	return &ca, nil
}

// checkCA makes sure that a CA is complete and can sign now.
func (s *Store) checkCA(name string, ca *authority) error {
	crt := s.CertFile(name)
	fail := func(i int, fix, format string, args ...any) error {
		problem := fmt.Sprintf(format, args...)
		if len(ca.chain) > 1 {
			problem = fmt.Sprintf("certificate %d of %d (%s) %s", i+1, len(ca.chain), ca.chain[i].Subject, problem)
		}
		return &FileError{Path: crt, Problem: problem, Fix: fix}
	}
	wall, reckoned := s.clock()
	for i, c := range ca.chain {
		switch {
		case !c.BasicConstraintsValid || !c.IsCA:
			return fail(i, "replace it by one with basicConstraints=CA:TRUE", "is not a CA certificate")
		case c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageCertSign == 0:
			return fail(i, "replace it by one with keyUsage=keyCertSign", "may not sign certificates")
		case reckoned.After(c.NotAfter):
			return fail(i, "replace it by a renewed one, or correct the clock", "expired on %s, and the clock says %s", day(c.NotAfter), day(reckoned))
		case wall.Before(c.NotBefore):
			return fail(i, "correct the clock", "is not valid before %s, and the clock says %s", day(c.NotBefore), day(wall))
		}
		if i > 0 {
			if err := ca.chain[i-1].CheckSignatureFrom(c); err != nil {
				return fail(i, "keep the CA, the one that signed it, and so on up to the root, in this order and nothing else",
					"did not sign the certificate before it (%v)", err)
			}
		}
	}
	return nil
}

// ensureNoChain keeps the file that SigningCertFile is about.
func (s *Store) ensureNoChain(name string, ca *authority) error {
	path := s.file(name, ".nochain.crt")
	old, err := readFile(path)
	if err != nil {
		return err
	}
	if len(ca.chain) == 1 {
		if old == nil {
			return nil
		}
		return os.Remove(path)
	}
	want := encodeCertificates(ca.cert())
	if string(old) == string(want) {
		return nil
	}
	return s.write(path, want, 0o644)
}

// newKey makes and writes the key of a CA or leaf.
func (s *Store) newKey(name string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	data, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	return key, s.write(s.KeyFile(name), data, 0o600)
}

// signCA gives the CA a self-signed certificate that lasts the full time from now, and writes it. Name and identifier
// are those it had, if it had one.
func (s *Store) signCA(name string, ca *authority) error {
	_, reckoned := s.clock()
	template := &x509.Certificate{
		NotBefore:             epoch,
		NotAfter:              reckoned.Add(caValidity),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	if ca.chain != nil {
		template.RawSubject, template.SubjectKeyId = ca.cert().RawSubject, ca.cert().SubjectKeyId
	} else {
		id := make([]byte, 4)
		rand.Read(id) // never fails
		template.Subject = pkix.Name{Organization: []string{"edgebox"}, CommonName: caName(name) + "@" + hex.EncodeToString(id)}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, ca.key.Public(), ca.key)
	if err != nil {
		return fmt.Errorf("make %s: %w", name, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("make %s: %w", name, err)
	}
	ca.chain = []*x509.Certificate{cert}
	return s.write(s.CertFile(name), encodeCertificates(cert), 0o644)
}

// caName is the name of a CA made here: edgebox-server-ca@89abcdef. The random part keeps clusters apart in trust
// stores, which go by names.
func caName(name string) string { return "edgebox-" + strings.ReplaceAll(name, "/", "-") }

var caSuffix = regexp.MustCompile(`^@[0-9a-f]{8}$`)

// madeHere reports whether a CA is signCA's work, on this box or on another one of the cluster.
func madeHere(name string, chain []*x509.Certificate) bool {
	suffix, ok := strings.CutPrefix(chain[0].Subject.CommonName, caName(name))
	return ok && caSuffix.MatchString(suffix) && len(chain) == 1 && selfSigned(chain[0])
}
