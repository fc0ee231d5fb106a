package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func TestUsersCA(t *testing.T) {
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	root := issue(t, nil, ecKey(), "root", nil)
	upper := issue(t, root, edKey(), "upper", nil)
	for name, chain := range map[string][]*issuer{
		"RSA":                       {issue(t, nil, rsaKey(), "rsa", nil)},
		"EC P-256":                  {issue(t, nil, ecKey(), "ec", nil)},
		"EC P-384":                  {issue(t, nil, p384, "ec", nil)},
		"Ed25519":                   {issue(t, nil, edKey(), "ed", nil)},
		"no key usage":              {issue(t, nil, ecKey(), "x", func(c *x509.Certificate) { c.KeyUsage = 0 })},
		"intermediate and root":     {issue(t, root, rsaKey(), "lower", nil), root},
		"two intermediates":         {issue(t, upper, ecKey(), "lower", nil), upper, root},
		"intermediate without root": {issue(t, root, ecKey(), "lower", nil)},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			for _, ca := range authorities {
				s.bring(t, ca, chain...)
			}
			before := s.files(t)
			leaves := allLeaves(testHost)
			s.ensure(t, leaves)
			after := s.files(t)
			for file := range before {
				if before[file] != after[file] {
					t.Errorf("%s was overwritten", file)
				}
			}
			if got := s.ensure(t, leaves); got != nil {
				t.Errorf("not good at once: %v", got)
			}
			roots, through := x509.NewCertPool(), x509.NewCertPool()
			roots.AddCert(chain[len(chain)-1].cert)
			for _, l := range leaves {
				presented, err := ParseCertificates([]byte(after[l.Name+".crt"]))
				if err != nil {
					t.Fatal(err)
				}
				for _, c := range presented[1:] {
					if selfSigned(c) {
						t.Errorf("%s carries the root", l.Name)
					}
					through.AddCert(c)
				}
				if _, err := presented[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: through, CurrentTime: today,
					KeyUsages: l.usages()[:1]}); err != nil {
					t.Errorf("%s: %v", l.Name, err)
				}
			}
			signing, err := os.ReadFile(s.SigningCertFile(DatastoreCA))
			if err != nil || !bytes.Equal(signing, certPEM(chain[0])) {
				t.Errorf("SigningCertFile holds %q, %v", signing, err)
			}
		})
	}
}

// When a user replaces a CA, its leaves follow, with new keys, and others stay.
func TestUserReplacesCA(t *testing.T) {
	s := newStore(t)
	root := issue(t, nil, ecKey(), "root", nil)
	s.bring(t, ClientCA, issue(t, root, ecKey(), "intermediate", nil), root)
	leaves := ControlPlaneLeaves(testHost)
	s.ensure(t, leaves)
	if filepath.Base(s.SigningCertFile(ClientCA)) != "client-ca.nochain.crt" {
		t.Errorf("SigningCertFile is %s", s.SigningCertFile(ClientCA))
	}
	before := s.files(t)
	s.bring(t, ClientCA, issue(t, nil, ecKey(), "new", nil))
	want := []string{APIServerKubelet, ControllerManager, Scheduler, Admin}
	if got := s.ensure(t, leaves); !slices.Equal(got, want) {
		t.Errorf("changed %v, want %v", got, want)
	}
	if after := s.files(t); after["admin.key"] == before["admin.key"] {
		t.Error("the key of a foreign certificate was kept")
	}
	if s.SigningCertFile(ClientCA) != s.CertFile(ClientCA) {
		t.Error("the signing certificate of the old CA stayed")
	}
}

func TestUnusableCA(t *testing.T) {
	good := issue(t, nil, ecKey(), "good", nil)
	root := issue(t, nil, ecKey(), "root", nil)
	lower := issue(t, root, ecKey(), "lower", nil)
	goodKey := keyPEM(t, good.key)
	with := func(edit func(*x509.Certificate)) ([]byte, []byte) {
		i := issue(t, nil, ecKey(), "x", edit)
		return certPEM(i), keyPEM(t, i.key)
	}
	expired, expiredKey := with(func(c *x509.Certificate) { c.NotAfter = today.AddDate(0, 0, -3) })
	future, futureKey := with(func(c *x509.Certificate) { c.NotBefore = today.AddDate(0, 0, 3) })
	notCA, notCAKey := with(func(c *x509.Certificate) { c.IsCA, c.KeyUsage = false, x509.KeyUsageDigitalSignature })
	noSign, noSignKey := with(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature })
	oldRoot := issue(t, nil, ecKey(), "old root", func(c *x509.Certificate) { c.NotAfter = today.AddDate(0, 0, -3) })
	ofOldRoot := issue(t, oldRoot, ecKey(), "lower", nil)
	p224, _ := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	t.Setenv("GODEBUG", "rsa1024min=0")
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	damaged := bytes.Replace(certPEM(good), []byte("\nM"), []byte("\n!"), 1)
	wrongDER := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("no DER")})
	encrypted := pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte("x")})
	legacy := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Headers: map[string]string{"DEK-Info": "AES-256-CBC,00"}, Bytes: []byte("x")})
	leafOnly := issue(t, nil, ecKey(), "constrained", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })
	named := issue(t, nil, ecKey(), "constrained", func(c *x509.Certificate) {
		c.PermittedDNSDomainsCritical, c.PermittedDNSDomains = true, []string{"example.org"}
	})
	addressed := issue(t, nil, ecKey(), "constrained", func(c *x509.Certificate) {
		_, n, _ := net.ParseCIDR("192.0.2.0/24")
		c.PermittedDNSDomainsCritical, c.PermittedIPRanges = true, []*net.IPNet{n}
	})

	for _, tc := range []struct {
		name     string
		crt, key []byte // nil: no file
		file     string
		want     []string
	}{
		{"certificate alone", certPEM(good), nil, "server-ca.crt", []string{"there is no server-ca.key beside it", "remove both"}},
		{"other key", certPEM(good), keyPEM(t, ecKey()), "server-ca.crt", []string{"does not belong to the key in server-ca.key", "remove both"}},
		{"root first", certPEM(root, lower), keyPEM(t, lower.key), "server-ca.crt", []string{"certificate of server-ca.key is number 2 of 2", "put it first"}},
		{"chain of strangers", certPEM(good, root), goodKey, "server-ca.crt", []string{"certificate 2 of 2 (CN=root) did not sign", "in this order"}},
		{"expired", expired, expiredKey, "server-ca.crt", []string{"expired on 2027-02-26, and the clock says 2027-03-01", "replace it"}},
		{"expired root", certPEM(ofOldRoot, oldRoot), keyPEM(t, ofOldRoot.key), "server-ca.crt", []string{"certificate 2 of 2 (CN=old root) expired on 2027-02-26"}},
		{"from the future", future, futureKey, "server-ca.crt", []string{"is not valid before 2027-03-04, and the clock says 2027-03-01", "correct the clock"}},
		{"not a CA", notCA, notCAKey, "server-ca.crt", []string{"is not a CA certificate", "CA:TRUE"}},
		{"may not sign", noSign, noSignKey, "server-ca.crt", []string{"may not sign certificates", "keyCertSign"}},
		{"only for clients", certPEM(leafOnly), keyPEM(t, leafOnly.key), "server-ca.crt", []string{"may not issue the certificate apiserver", "incompatible key usage", "replace it"}},
		{"only some names", certPEM(named), keyPEM(t, named.key), "server-ca.crt", []string{"may not issue the certificate apiserver", "not permitted"}},
		{"only some addresses", certPEM(addressed), keyPEM(t, addressed.key), "server-ca.crt", []string{"may not issue the certificate apiserver", "not permitted"}},
		{"empty certificate", []byte{}, goodKey, "server-ca.crt", []string{"is empty", "remove both"}},
		{"text", []byte("hello"), goodKey, "server-ca.crt", []string{"holds no certificate in PEM"}},
		{"DER", good.cert.Raw, goodKey, "server-ca.crt", []string{"is DER, not PEM", "openssl x509"}},
		{"key in the certificate's place", goodKey, goodKey, "server-ca.crt", []string{"holds no certificate, but private key"}},
		{"truncated", certPEM(good)[:300], goodKey, "server-ca.crt", []string{"is truncated or damaged"}},
		{"truncated in the second", certPEM(lower, root)[:len(certPEM(lower))+100], keyPEM(t, lower.key), "server-ca.crt", []string{"is truncated or damaged"}},
		{"damaged base64", damaged, goodKey, "server-ca.crt", []string{"is truncated or damaged"}},
		{"damaged DER", wrongDER, goodKey, "server-ca.crt", []string{"certificate 1 is damaged"}},
		{"empty key", certPEM(good), []byte{}, "server-ca.key", []string{"is empty"}},
		{"truncated key", certPEM(good), goodKey[:80], "server-ca.key", []string{"is truncated or damaged"}},
		{"truncated key alone", nil, goodKey[:80], "server-ca.key", []string{"is truncated or damaged"}},
		{"damaged key", certPEM(good), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: []byte("x")}), "server-ca.key", []string{"key is damaged"}},
		{"certificate in the key's place", certPEM(good), certPEM(good), "server-ca.key", []string{"holds no private key, but certificate"}},
		{"encrypted key", certPEM(good), encrypted, "server-ca.key", []string{"encrypted with a passphrase", "openssl pkey"}},
		{"encrypted key, old form", certPEM(good), legacy, "server-ca.key", []string{"encrypted with a passphrase"}},
		{"P-224", certPEM(good), keyPEM(t, p224), "server-ca.key", []string{"P-224"}},
		{"RSA 1024", certPEM(good), keyPEM(t, weak), "server-ca.key", []string{"1024 bits is too weak"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newStore(t)
			if tc.crt != nil {
				write(t, s.CertFile(ServerCA), tc.crt)
			}
			if tc.key != nil {
				write(t, s.KeyFile(ServerCA), tc.key)
			}
			_, err := s.Ensure(Spec{Leaves: ControlPlaneLeaves(testHost)})
			wantError(t, err, append(tc.want, filepath.Join(s.dir, tc.file)+": ")...)
			var fe *FileError
			if !errors.As(err, &fe) {
				t.Errorf("%T is not a FileError", err)
			}
			after := s.files(t)
			if after["server-ca.crt"] != string(tc.crt) || after["server-ca.key"] != string(tc.key) {
				t.Error("the user's files were changed")
			}
		})
	}

	t.Run("link to nothing", func(t *testing.T) {
		s := newStore(t)
		os.MkdirAll(s.dir, 0o700)
		for _, file := range []string{s.CertFile(ServerCA), s.KeyFile(ServerCA)} {
			if err := os.Symlink("/not/mounted", file); err != nil {
				t.Fatal(err)
			}
		}
		_, err := s.Ensure(Spec{})
		wantError(t, err, s.CertFile(ServerCA)+": is a link to /not/mounted, which is missing: ")
		if all, err := s.Describe(); err != nil || all[0].Name != ServerCA || all[0].Status != Invalid {
			t.Errorf("Describe: %v, %v", all, err)
		}
	})

	t.Run("all at once", func(t *testing.T) {
		s := newStore(t)
		s.bring(t, ServerCA, good)
		os.Remove(s.KeyFile(ServerCA))
		write(t, s.CertFile(DatastoreCA), nil)
		os.MkdirAll(s.KeyFile(FrontProxyCA), 0o700)
		write(t, s.KeyFile(ServiceAccount), []byte("x"))
		_, err := s.Ensure(Spec{Leaves: allLeaves(testHost)})
		wantError(t, err, "server-ca.crt", filepath.Join("etcd", "ca.crt"), "front-proxy-ca.key: cannot be read: is a directory", "service-account.key")
		if _, err := os.Stat(s.CertFile(APIServer)); err == nil {
			t.Error("leaves were issued nevertheless")
		}
	})
}

// A CA made here never runs out: it is prolonged under its key, and leaves stay as they are.
func TestOwnCAIsProlonged(t *testing.T) {
	s := newStore(t)
	leaves := allLeaves(testHost)
	s.ensure(t, leaves)
	first := s.cert(t, ServerCA)
	if want := today.Add(caValidity); !first.NotAfter.Equal(want) {
		t.Errorf("ends %v, want %v", first.NotAfter, want)
	}
	for _, at := range []time.Duration{caValidity - caRenewBefore + time.Hour, caValidity + 40*year} {
		s.set(today.Add(at))
		before := s.files(t)
		got := s.ensure(t, leaves)
		if !slices.Equal(got[:len(authorities)], authorities) {
			t.Errorf("at %v changed %v", at, got)
		}
		after := s.files(t)
		for _, c := range changed(before, after) {
			if filepath.Ext(c) == ".key" {
				t.Errorf("%s was replaced", c)
			}
		}
		now := s.cert(t, ServerCA)
		if !bytes.Equal(now.RawSubject, first.RawSubject) || !bytes.Equal(now.SubjectKeyId, first.SubjectKeyId) || !now.NotBefore.Equal(epoch) {
			t.Errorf("another CA: %v", now.Subject)
		}
		// Those who have the old certificate and those who have the new one understand each other.
		leaf := s.cert(t, APIServer)
		for _, ca := range []*x509.Certificate{first, now} {
			if err := leaf.CheckSignatureFrom(ca); err != nil {
				t.Error(err)
			}
		}
		if got := s.ensure(t, leaves); got != nil {
			t.Errorf("at %v: %v not good at once", at, got)
		}
	}
}

func TestLoneCAKeyIsUsed(t *testing.T) {
	for name, key := range map[string]crypto.Signer{"EC": ecKey(), "RSA": rsaKey()} {
		s := newStore(t)
		write(t, s.KeyFile(ServerCA), keyPEM(t, key))
		s.ensure(t, ControlPlaneLeaves(testHost))
		if s.files(t)["server-ca.key"] != string(keyPEM(t, key)) || !samePublicKey(s.cert(t, ServerCA), key) {
			t.Errorf("%s: the key was not used", name)
		}
	}
}

func TestServiceAccountKey(t *testing.T) {
	s := newStore(t)
	s.ensure(t, nil)
	first := s.files(t)["service-account.pub"]

	// The user rotates the key: tokens of the old one stay good.
	write(t, s.KeyFile(ServiceAccount), keyPEM(t, rsaKey()))
	s.ensure(t, nil)
	both := s.files(t)["service-account.pub"]
	if len(both) <= len(first) || both[len(both)-len(first):] != first {
		t.Errorf("got %q, want the new key before %q", both, first)
	}
	if c := changed(s.files(t), func() map[string]string { s.ensure(t, nil); return s.files(t) }()); c != nil {
		t.Errorf("changed %v without need", c)
	}

	write(t, s.PublicKeyFile(), []byte(both[:100]))
	s.ensure(t, nil)
	if got := s.files(t)["service-account.pub"]; got != both[:len(both)-len(first)] {
		t.Errorf("after damage: %q", got)
	}

	write(t, s.KeyFile(ServiceAccount), keyPEM(t, edKey()))
	_, err := s.Ensure(Spec{})
	wantError(t, err, s.KeyFile(ServiceAccount), "Ed25519", "ends all service-account tokens")
}
