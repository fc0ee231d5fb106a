package pki

import (
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Status is the state of a certificate.
type Status string

// The states that a certificate can be in, as far as the directory tells.
const (
	OK          Status = "ok"
	Expiring    Status = "expiring"      // soon renewed by edgebox, or in need of the user if it is the user's CA
	Expired     Status = "expired"       // by the clock
	NotYetValid Status = "not yet valid" // by the clock
	Foreign     Status = "foreign"       // not signed by a CA of the directory; issued anew at the next start
	Invalid     Status = "invalid"       // see Detail
)

// A Description is what there is to know of one certificate. Times are in UTC.
type Description struct {
	Name      string    `json:"name"`
	File      string    `json:"file"`
	Subject   string    `json:"subject,omitempty"`
	Issuer    string    `json:"issuer,omitempty"`
	NotBefore time.Time `json:"notBefore,omitzero"`
	NotAfter  time.Time `json:"notAfter,omitzero"`
	SANs      []string  `json:"sans,omitempty"`
	CA        bool      `json:"ca,omitempty"`
	Status    Status    `json:"status"`
	Detail    string    `json:"detail,omitempty"` // what is wrong and what to do
}

// Describe lists the certificates of the directory: CAs first, then leaves by name. It changes nothing. What is wrong
// with a certificate is in its Description; the error is for a directory that cannot be read.
func (s *Store) Describe() ([]Description, error) {
	var leaves []string
	err := filepath.WalkDir(s.dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(s.dir, path)
		name, ok := strings.CutSuffix(filepath.ToSlash(rel), ".crt")
		if ok && !strings.HasSuffix(name, ".nochain") && !slices.Contains(authorities, name) {
			leaves = append(leaves, name)
		}
		return err
	})
	if err != nil {
		return nil, err
	}

	var all []Description
	var cas []*authority
	for _, name := range authorities {
		if _, err := os.Lstat(s.CertFile(name)); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		d, ca := s.describeCA(name)
		all = append(all, d)
		if ca != nil {
			cas = append(cas, ca)
		}
	}
	for _, name := range leaves {
		all = append(all, s.describeLeaf(name, cas))
	}
	return all, nil
}

func (s *Store) describeCA(name string) (Description, *authority) {
	d := Description{Name: name, File: s.CertFile(name), CA: true}
	ca, err := s.loadCA(name)
	if err != nil {
		d.Status, d.Detail = Invalid, err.Error()
		return d, nil
	}
	if ca.chain == nil { // removed meanwhile
		d.Status, d.Detail = Invalid, "missing"
		return d, nil
	}
	d.fill(ca.cert())
	d.Status = s.statusByTime(d.NotBefore, ca.notAfter(), year)
	err = s.checkCA(name, ca)
	switch {
	case madeHere(name, ca.chain) && (d.Status == Expired || d.Status == Expiring):
		d.Detail = "edgebox prolongs it at the next start"
	case d.Status == Expiring:
		d.Detail = "replace it before " + day(ca.notAfter())
	case err != nil:
		d.Detail = err.Error()
		if d.Status == OK {
			d.Status = Invalid
		}
	}
	return d, ca
}

func (s *Store) describeLeaf(name string, cas []*authority) Description {
	d := Description{Name: name, File: s.CertFile(name)}
	invalid := func(detail string) Description {
		d.Status, d.Detail = Invalid, detail
		return d
	}
	data, err := readFile(d.File)
	if err != nil {
		return invalid(err.Error())
	}
	chain, err := ParseCertificates(data)
	if err != nil {
		return invalid(err.Error())
	}
	d.fill(chain[0])
	data, err = readFile(s.KeyFile(name))
	if err != nil {
		return invalid(err.Error())
	}
	if data == nil {
		return invalid("there is no key beside it")
	}
	key, err := ParsePrivateKey(data)
	if err != nil {
		return invalid("key file: " + err.Error())
	}
	if !samePublicKey(chain[0], key) {
		return invalid("does not belong to the key beside it")
	}
	if !slices.ContainsFunc(cas, func(ca *authority) bool { return chain[0].CheckSignatureFrom(ca.cert()) == nil }) {
		d.Status = Foreign
		return d
	}
	d.Status = s.statusByTime(d.NotBefore, d.NotAfter, leafRenewBefore)
	return d
}

func (d *Description) fill(cert *x509.Certificate) {
	d.Subject, d.Issuer = cert.Subject.String(), cert.Issuer.String()
	d.NotBefore, d.NotAfter = cert.NotBefore.UTC(), cert.NotAfter.UTC()
	d.SANs = sans(cert)
}

func (s *Store) statusByTime(notBefore, notAfter time.Time, margin time.Duration) Status {
	wall, reckoned := s.clock()
	switch {
	case reckoned.After(notAfter):
		return Expired
	case wall.Before(notBefore):
		return NotYetValid
	case reckoned.After(notAfter.Add(-margin)):
		return Expiring
	}
	return OK
}
