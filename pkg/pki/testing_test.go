package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/edgebox/edgebox/pkg/durable"
)

// today is when these tests take place.
var today = time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)

var testHost = Host{
	NodeName:      "Node-1",
	NodeIPs:       []netip.Addr{netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")},
	ServiceIPs:    []netip.Addr{netip.MustParseAddr("10.43.0.1")},
	ClusterDomain: "cluster.local",
	ExtraSANs:     []string{"api.example.org", "198.51.100.1"},
}

func allLeaves(h Host) []Leaf {
	return slices.Concat(ControlPlaneLeaves(h), NodeLeaves(h), DatastoreLeaves(h))
}

// testStore is a Store whose clock is set by hand.
type testStore struct {
	*Store
	mu    sync.Mutex
	clock time.Time
}

func newStore(t *testing.T) *testStore {
	s := &testStore{Store: New(filepath.Join(t.TempDir(), "server", "pki")), clock: today}
	s.writeFile = writeUnsynced
	s.now = func() time.Time {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.clock
	}
	return s
}

// writeUnsynced is durable.WriteFile for disks that never lose power.
var writeUnsynced = durable.Writer{Sync: func(*os.File) error { return nil }}.WriteFile

func (s *testStore) set(at time.Time) {
	s.mu.Lock()
	s.clock = at
	s.mu.Unlock()
}

// ensure fails the test on an error and returns the names of what changed.
func (s *testStore) ensure(t *testing.T, leaves []Leaf, kubeconfigs ...Kubeconfig) []string {
	t.Helper()
	result, err := s.Ensure(Spec{Leaves: leaves, Kubeconfigs: kubeconfigs})
	if err != nil {
		t.Fatal(err)
	}
	return result.Names()
}

// files returns the content of every file in the directory.
func (s *testStore) files(t *testing.T) map[string]string {
	t.Helper()
	return tree(t, s.dir)
}

func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		rel, _ := filepath.Rel(dir, path)
		all[rel] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// changed returns the names of files that are not the same in both.
func changed(before, after map[string]string) []string {
	var names []string
	for name := range maps.Keys(after) {
		if old, ok := before[name]; !ok || old != after[name] {
			names = append(names, name)
		}
	}
	for name := range maps.Keys(before) {
		if _, ok := after[name]; !ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func (s *testStore) cert(t *testing.T, name string) *x509.Certificate {
	t.Helper()
	chain, err := ParseCertificates([]byte(s.files(t)[name+".crt"]))
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return chain[0]
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// issuer is a CA outside of the Store.
type issuer struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// issue makes a certificate: a CA from the past decade to the next one, unless edit says otherwise. It is self-signed
// if by is nil.
func issue(t testing.TB, by *issuer, key crypto.Signer, name string, edit func(*x509.Certificate)) *issuer {
	t.Helper()
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             today.AddDate(-10, 0, 0),
		NotAfter:              today.AddDate(10, 0, 0),
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	if edit != nil {
		edit(template)
	}
	parent, signer := template, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &issuer{cert, key}
}

func ecKey() crypto.Signer {
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	return key
}

func edKey() crypto.Signer {
	_, key, _ := ed25519.GenerateKey(rand.Reader)
	return key
}

// rsaKey is made once, it takes long.
var rsaKey = sync.OnceValue(func() crypto.Signer {
	key, _ := rsa.GenerateKey(rand.Reader, 2048)
	return key
})

func keyPEM(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func certPEM(issuers ...*issuer) []byte {
	var out bytes.Buffer
	for _, i := range issuers {
		out.Write(encodeCertificates(i.cert))
	}
	return out.Bytes()
}

// bring puts a user's CA into place: the first one signs, the others are its chain.
func (s *testStore) bring(t *testing.T, name string, chain ...*issuer) {
	t.Helper()
	write(t, s.CertFile(name), certPEM(chain...))
	write(t, s.KeyFile(name), keyPEM(t, chain[0].key))
}

// wantError checks that an error is there and names all parts.
func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want %q", parts)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q\nlacks %q", err, part)
		}
	}
}
