package pki

import (
	"crypto/x509"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestLeafIsIssuedAnew(t *testing.T) {
	foreign := issue(t, nil, ecKey(), "foreign", nil)
	leaf := func(by *issuer) *issuer {
		return issue(t, by, ecKey(), "system:kube-scheduler", func(c *x509.Certificate) {
			c.IsCA, c.KeyUsage, c.ExtKeyUsage = false, x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		})
	}
	put := func(t *testing.T, s *testStore, i *issuer) {
		write(t, s.CertFile(Scheduler), certPEM(i))
		write(t, s.KeyFile(Scheduler), keyPEM(t, i.key))
	}
	own := func(t *testing.T, s *testStore, edit func(*x509.Certificate)) { // by the Store's CA
		key, err := ParsePrivateKey([]byte(s.files(t)["client-ca.key"]))
		if err != nil {
			t.Fatal(err)
		}
		put(t, s, issue(t, &issuer{s.cert(t, ClientCA), key}, ecKey(), "system:kube-scheduler", func(c *x509.Certificate) {
			c.IsCA, c.KeyUsage, c.ExtKeyUsage = false, x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
			c.NotBefore, c.NotAfter = epoch, today.AddDate(0, 6, 0)
			edit(c)
		}))
	}
	for _, tc := range []struct {
		name    string
		spoil   func(*testing.T, *testStore)
		reason  string // empty: it stays
		keepKey bool
	}{
		{"good", func(*testing.T, *testStore) {}, "", true},
		{"good, the user's", func(t *testing.T, s *testStore) { own(t, s, func(*x509.Certificate) {}) }, "", true},
		{"no certificate", func(t *testing.T, s *testStore) { os.Remove(s.CertFile(Scheduler)) }, "missing", false},
		{"no key", func(t *testing.T, s *testStore) { os.Remove(s.KeyFile(Scheduler)) }, "missing", false},
		{"empty certificate", func(t *testing.T, s *testStore) { write(t, s.CertFile(Scheduler), nil) }, "is empty", false},
		{"empty key", func(t *testing.T, s *testStore) { write(t, s.KeyFile(Scheduler), nil) }, "is empty", false},
		{"truncated", func(t *testing.T, s *testStore) {
			os.Truncate(s.CertFile(Scheduler), 200)
		}, "truncated", false},
		{"truncated key", func(t *testing.T, s *testStore) { os.Truncate(s.KeyFile(Scheduler), 60) }, "truncated", false},
		{"mismatched", func(t *testing.T, s *testStore) { write(t, s.KeyFile(Scheduler), keyPEM(t, ecKey())) }, "do not match", false},
		{"foreign", func(t *testing.T, s *testStore) { put(t, s, leaf(foreign)) }, "signed by another CA (CN=foreign)", false},
		{"self-signed", func(t *testing.T, s *testStore) { put(t, s, leaf(nil)) }, "signed by another CA", false},
		{"expired", func(t *testing.T, s *testStore) {
			own(t, s, func(c *x509.Certificate) { c.NotAfter = today.Add(-time.Minute) })
		}, "expired on 2027-03-01", true},
		{"near its end", func(t *testing.T, s *testStore) {
			own(t, s, func(c *x509.Certificate) { c.NotAfter = today.AddDate(0, 0, 89) })
		}, "expires on 2027-05-29", true},
		{"not so near its end", func(t *testing.T, s *testStore) {
			own(t, s, func(c *x509.Certificate) { c.NotAfter = today.AddDate(0, 0, 91) })
		}, "", true},
		{"from the future", func(t *testing.T, s *testStore) {
			own(t, s, func(c *x509.Certificate) { c.NotBefore = today.Add(time.Hour) })
		}, "not valid before 2027-03-01", true},
		{"too long", func(t *testing.T, s *testStore) {
			own(t, s, func(c *x509.Certificate) { c.NotAfter = today.AddDate(8, 0, 0) })
		}, "", true},
		{"other subject", func(t *testing.T, s *testStore) {
			own(t, s, func(c *x509.Certificate) { c.Subject.Organization = []string{"system:masters"} })
		}, "is for CN=system:kube-scheduler,O=system:masters", true},
		{"more names", func(t *testing.T, s *testStore) {
			own(t, s, func(c *x509.Certificate) { c.DNSNames = []string{"a.example"} })
		}, "is for other names (a.example)", true},
		{"other use", func(t *testing.T, s *testStore) {
			own(t, s, func(c *x509.Certificate) { c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth) })
		}, "is for another use", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newStore(t)
			leaves := ControlPlaneLeaves(testHost)
			s.ensure(t, leaves)
			tc.spoil(t, s)
			before := s.files(t)
			result, err := s.Ensure(Spec{Leaves: leaves})
			if err != nil {
				t.Fatal(err)
			}
			after := s.files(t)
			c := changed(before, after)
			if tc.reason == "" {
				if c != nil {
					t.Errorf("changed %v for %v", c, result.Changes)
				}
				return
			}
			if len(result.Changes) != 1 || result.Changes[0].Name != Scheduler || !strings.Contains(result.Changes[0].Reason, tc.reason) {
				t.Errorf("changes %v, want one for %q", result.Changes, tc.reason)
			}
			want := []string{"scheduler.crt", "scheduler.key"}
			if tc.keepKey {
				want = want[:1]
			}
			if !slices.Equal(c, want) {
				t.Errorf("wrote %v, want %v", c, want)
			}
			if got := s.ensure(t, leaves); got != nil {
				t.Errorf("not good at once: %v", got)
			}
		})
	}

	t.Run("unreadable", func(t *testing.T) {
		s := newStore(t)
		os.MkdirAll(s.CertFile(Scheduler), 0o700)
		_, err := s.Ensure(Spec{Leaves: ControlPlaneLeaves(testHost)})
		wantError(t, err, s.CertFile(Scheduler), "is a directory", "remove it")
	})
}

func TestAddressChange(t *testing.T) {
	s := newStore(t)
	s.ensure(t, allLeaves(testHost))
	key := s.files(t)["apiserver.key"]

	h := testHost
	h.NodeIPs = []netip.Addr{netip.MustParseAddr("192.0.2.8")}
	want := []string{APIServer, Kubelet, DatastoreServer, DatastorePeer}
	if got := s.ensure(t, allLeaves(h)); !slices.Equal(got, want) {
		t.Errorf("changed %v, want %v", got, want)
	}
	if s.files(t)["apiserver.key"] != key {
		t.Error("the key changed, so readers could see a pair that does not match")
	}
	if cert := s.cert(t, APIServer); cert.VerifyHostname("192.0.2.8") != nil || cert.VerifyHostname("192.0.2.7") == nil {
		t.Errorf("names are %v", sans(cert))
	}
}

// The same names in another form are the same.
func TestNamesInOtherForms(t *testing.T) {
	s := newStore(t)
	a := Leaf{Name: "x", CA: ServerCA, CommonName: "x", Server: true, DNSNames: []string{"b.example", "a.example"},
		IPs: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("fe80::1")}}
	s.ensure(t, []Leaf{a})
	b := a
	b.DNSNames = []string{"A.example", "b.example.", "", "a.example"}
	b.IPs = []netip.Addr{netip.MustParseAddr("fe80::1%eth0"), netip.MustParseAddr("::ffff:192.0.2.1"), {}}
	if got := s.ensure(t, []Leaf{b}); got != nil {
		t.Errorf("changed %v", got)
	}
}

func TestLeafEndsWithItsCA(t *testing.T) {
	s := newStore(t)
	end := today.AddDate(0, 1, 0)
	s.bring(t, ClientCA, issue(t, nil, ecKey(), "short", func(c *x509.Certificate) { c.NotAfter = end }))
	leaves := ControlPlaneLeaves(testHost)
	s.ensure(t, leaves)
	if got := s.cert(t, Admin).NotAfter; !got.Equal(end) {
		t.Errorf("ends %v, its CA %v", got, end)
	}
	s.set(end.AddDate(0, 0, -1))
	result, err := s.Ensure(Spec{Leaves: leaves})
	if err != nil || result.Changes != nil {
		t.Errorf("changed %v, %v, although that does not help", result.Changes, err)
	}
	if want := s.cert(t, APIServer).NotAfter.Add(-leafRenewBefore); !result.Due.Equal(want) {
		t.Errorf("due %v, want %v", result.Due, want)
	}

	s.bring(t, ClientCA, issue(t, nil, ecKey(), "short", func(c *x509.Certificate) { c.NotAfter = end.AddDate(5, 0, 0) }))
	s.ensure(t, leaves)
	if want := end.AddDate(0, 0, -1).Add(leafValidity); !s.cert(t, Admin).NotAfter.Equal(want) {
		t.Errorf("ends %v, want %v", s.cert(t, Admin).NotAfter, want)
	}
}

func TestShortValidity(t *testing.T) {
	s := newStore(t)
	l := []Leaf{{Name: "x", CA: ServerCA, CommonName: "x", Server: true, Validity: 24 * time.Hour}}
	s.ensure(t, l)
	for h := range 20 {
		s.set(today.Add(time.Duration(h) * time.Hour))
		if got, want := s.ensure(t, l) != nil, h == 19; got != want {
			t.Errorf("after %d hours renewed: %v", h, got)
		}
	}
}

// TestWrongClocks goes through boots of a box whose clock is wrong, and corrected later. At each step every certificate
// must be valid at that time, by the clock, for everyone.
func TestWrongClocks(t *testing.T) {
	unix0 := time.Unix(0, 0)
	image := time.Date(2025, 5, 5, 0, 0, 0, 0, time.UTC)
	for _, tc := range []struct {
		name  string
		steps []time.Time
		issue int // how often leaves may be issued
	}{
		{"1970, then right", []time.Time{unix0, today, unix0, today}, 1},
		{"1970 at each boot for years", []time.Time{unix0, today, unix0, today.AddDate(2, 0, 0), unix0, today.AddDate(2, 1, 0), unix0, today.AddDate(2, 6, 0)}, 2},
		{"date of the image, then right", []time.Time{image, today, image, today}, 1},
		{"a year late", []time.Time{today, today.AddDate(1, 1, 0)}, 2},
		{"years ahead, then right", []time.Time{today.AddDate(30, 0, 0), today, today.AddDate(1, 0, 0)}, 1},
		{"right, then years ahead, then right", []time.Time{today, today.AddDate(60, 0, 0), today, today.AddDate(0, 3, 0)}, 2},
		{"2106, end of 32 bits", []time.Time{time.Unix(1<<32-1, 0), unix0, today}, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newStore(t)
			leaves := allLeaves(testHost)
			keys := map[string]string{}
			issued := 0
			for i, at := range tc.steps {
				s.set(at)
				if slices.Contains(s.ensure(t, leaves), APIServer) {
					issued++
				}
				for name, content := range s.files(t) {
					if !strings.HasSuffix(name, ".key") {
						continue
					}
					if i > 0 && keys[name] != content {
						t.Errorf("step %d: %s changed", i, name)
					}
					keys[name] = content
				}
				for _, l := range leaves {
					pool := x509.NewCertPool()
					pool.AddCert(s.cert(t, l.CA))
					if _, err := s.cert(t, l.Name).Verify(x509.VerifyOptions{Roots: pool, CurrentTime: at, KeyUsages: l.usages()[:1]}); err != nil {
						t.Errorf("step %d: %s: %v", i, l.Name, err)
					}
				}
			}
			if issued != tc.issue {
				t.Errorf("issued %d times, want %d", issued, tc.issue)
			}
		})
	}
}
