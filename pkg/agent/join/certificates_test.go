package join

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"github.com/edgebox/edgebox/pkg/pki"
)

const day = 24 * time.Hour

func decideSo(csr *certificatesv1.CertificateSigningRequest, kind certificatesv1.RequestConditionType, reason, message string) {
	csr.Status.Conditions = append(csr.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: kind, Status: corev1.ConditionTrue, Reason: reason, Message: message})
}

// signer is the part of a cluster that decides on certificates.
type signer struct {
	t        *testing.T
	validity time.Duration
	decide   func(csr *certificatesv1.CertificateSigningRequest) (decided bool) // before it is signed
	requests []string                                                           // the signer and for what, in the order in which they came
	renewals int                                                                // that were told of
}

func (s *signer) client() kubernetes.Interface {
	c := fake.NewClientset()
	c.PrependReactor("create", "certificatesigningrequests", func(action k8stesting.Action) (bool, runtime.Object, error) {
		csr := action.(k8stesting.CreateAction).GetObject().(*certificatesv1.CertificateSigningRequest).DeepCopy()
		r := parseRequest(s.t, csr)
		var ips []string
		for _, ip := range r.IPAddresses {
			ips = append(ips, ip.String())
		}
		s.requests = append(s.requests, strings.TrimSpace(fmt.Sprint(csr.Spec.SignerName, " ", strings.Join(append(r.DNSNames, ips...), ","))))
		if s.decide == nil || !s.decide(csr) {
			csr.Status.Certificate = ours.sign(s.t, csr, time.Now().Add(-5*time.Minute), time.Now().Add(s.validity))
		}
		return true, csr, nil
	})
	return c
}

func (s *signer) took() []string {
	r := s.requests
	s.requests = nil
	return r
}

// renewed is told of each certificate with which the node acts.
func (s *signer) renewed() { s.renewals++ }

// newCertificates is the component on a clock of its own, with no certificate yet.
func newCertificates(t *testing.T, s *signer) *Certificates {
	return NewCertificates(newNode(t, "server:6443", ""), []netip.Addr{netip.MustParseAddr("192.0.2.7")}, time.Now, s.renewed)
}

const (
	clientRequest = certificatesv1.KubeAPIServerClientKubeletSignerName
	serverRequest = certificatesv1.KubeletServingSignerName + " box,192.0.2.7"
	nameRequest   = certificatesv1.KubeletServingSignerName + " box"
)

// TestRenewal has certificates that the servers make for several lengths of time renewed when three quarters have passed,
// or 90 days before the end.
func TestRenewal(t *testing.T) {
	for _, tt := range []struct{ validity, due time.Duration }{
		{365 * day, 275 * day},
		{20 * time.Minute, 15 * time.Minute},
	} {
		t.Run(tt.validity.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &signer{t: t, validity: tt.validity}
				c, client := newCertificates(t, s), s.client()
				both := []string{clientRequest, serverRequest}
				for _, step := range []struct {
					after time.Duration
					want  []string
				}{{0, both}, {tt.due - time.Minute, nil}, {2 * time.Minute, both}, {tt.due - time.Minute, nil}, {2 * time.Minute, both}} {
					time.Sleep(step.after)
					if err := c.ensure(t.Context(), client); err != nil {
						t.Fatal(err)
					}
					if got := s.took(); !slices.Equal(got, step.want) {
						t.Errorf("%v later requested %q, want %q", step.after, got, step.want)
					}
				}
				time.Sleep(clientsReread + 1)
				synctest.Wait()
				if s.renewals != 3 {
					t.Errorf("told of %d renewals, want 3", s.renewals)
				}
			})
		})
	}
}

// TestAnotherAddress has the serving certificate made anew at once, and nothing else.
func TestAnotherAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &signer{t: t, validity: 365 * day}
		c, client := newCertificates(t, s), s.client()
		if err := c.ensure(t.Context(), client); err != nil {
			t.Fatal(err)
		}
		s.took()
		c = NewCertificates(c.node, []netip.Addr{netip.MustParseAddr("198.51.100.9")}, time.Now, s.renewed)
		if err := c.ensure(t.Context(), client); err != nil {
			t.Fatal(err)
		}
		if got, want := s.took(), []string{certificatesv1.KubeletServingSignerName + " box,198.51.100.9"}; !slices.Equal(got, want) {
			t.Errorf("requested %q, want %q", got, want)
		}
	})
}

// TestAddressRefused has the node make do with a certificate for its name while another node has its address, and ask
// again later.
func TestAddressRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &signer{t: t, validity: 365 * day}
		taken := true
		s.decide = func(csr *certificatesv1.CertificateSigningRequest) bool {
			if taken && len(parseRequest(t, csr).IPAddresses) > 0 {
				decideSo(csr, certificatesv1.CertificateDenied, pki.DeniedAddress, "192.0.2.7 is that of node other")
				return true
			}
			return false
		}
		c, client := newCertificates(t, s), s.client()
		step := func(after time.Duration, want ...string) {
			t.Helper()
			time.Sleep(after)
			if err := c.ensure(t.Context(), client); err != nil {
				t.Error(err)
			}
			if got := s.took(); !slices.Equal(got, want) {
				t.Errorf("requested %q, want %q", got, want)
			}
		}
		step(0, clientRequest, serverRequest, nameRequest)
		step(nameOnlyFor - time.Minute)
		step(2*time.Minute, serverRequest) // its certificate for the name is good still
		step(0)
		if cert, err := c.node.load(pki.Kubelet); err != nil || len(cert.IPAddresses) > 0 {
			t.Errorf("%v, %v", cert.IPAddresses, err)
		}
		taken = false
		step(nameOnlyFor+time.Minute, serverRequest)
		step(nameOnlyFor + time.Minute)
	})
}

// TestRefusals is about refusals that no other request helps against.
func TestRefusals(t *testing.T) {
	for _, tt := range []struct {
		kind                  certificatesv1.RequestConditionType
		reason, message, says string
	}{
		{certificatesv1.CertificateDenied, pki.DeniedName, "the name is taken", "the servers have refused a certificate: the name is taken"},
		{certificatesv1.CertificateFailed, "", "no key", "certificate kubelet could not be signed: no key"},
	} {
		t.Run(tt.says, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &signer{t: t, validity: 365 * day}
				s.decide = func(csr *certificatesv1.CertificateSigningRequest) bool {
					if csr.Spec.SignerName != certificatesv1.KubeletServingSignerName {
						return false
					}
					decideSo(csr, tt.kind, tt.reason, tt.message)
					return true
				}
				c := newCertificates(t, s)
				err := c.ensure(t.Context(), s.client())
				if err == nil || !strings.Contains(err.Error(), tt.says) {
					t.Errorf("ensure: %v, want %q", err, tt.says)
				}
				if got, want := s.took(), []string{clientRequest, serverRequest}; !slices.Equal(got, want) {
					t.Errorf("requested %q, want %q", got, want)
				}
				if _, err := c.node.load(pki.KubeletClient); err != nil {
					t.Errorf("the other certificate: %v", err)
				}
				if c.usable() {
					t.Error("there is a serving certificate")
				}
			})
		})
	}
}

// TestApprovalTakesTime has a request approved, and signed after that. The API may fail to answer meanwhile, and nobody
// may ever decide.
func TestApprovalTakesTime(t *testing.T) {
	gone := errors.New("gone")
	for _, tt := range []struct {
		name   string
		decide func(csr *certificatesv1.CertificateSigningRequest, since time.Duration) error
		takes  time.Duration
		want   error
	}{
		{"signed", func(csr *certificatesv1.CertificateSigningRequest, since time.Duration) error {
			if since > time.Minute {
				decideSo(csr, certificatesv1.CertificateApproved, "", "")
			}
			if since > 2*time.Minute {
				csr.Status.Certificate = ours.sign(t, csr, time.Now().Add(-time.Minute), time.Now().Add(day))
			}
			return nil
		}, 2*time.Minute + decisionPoll, nil},
		{"unanswered", func(*certificatesv1.CertificateSigningRequest, time.Duration) error { return gone }, decisionPoll, gone},
		{"undecided", func(*certificatesv1.CertificateSigningRequest, time.Duration) error { return nil }, time.Hour, context.DeadlineExceeded},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNode(t, "server:6443", "")
				start := time.Now()
				var csr *certificatesv1.CertificateSigningRequest
				c := fake.NewClientset()
				c.PrependReactor("create", "certificatesigningrequests", func(action k8stesting.Action) (bool, runtime.Object, error) {
					csr = action.(k8stesting.CreateAction).GetObject().(*certificatesv1.CertificateSigningRequest)
					csr.Name = "node-box-1"
					return true, csr, nil
				})
				c.PrependReactor("get", "certificatesigningrequests", func(action k8stesting.Action) (bool, runtime.Object, error) {
					if name := action.(k8stesting.GetAction).GetName(); name != csr.Name {
						t.Errorf("asked for %s", name)
					}
					answer := csr.DeepCopy()
					return true, answer, tt.decide(answer, time.Since(start))
				})
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				err := n.requestClient(ctx, c)
				if !errors.Is(err, tt.want) || isPermanent(err) || time.Since(start) != tt.takes {
					t.Errorf("after %v: %v; want after %v: %v", time.Since(start), err, tt.takes, tt.want)
				}
				if _, err := n.load(pki.KubeletClient); (err == nil) != (tt.want == nil) {
					t.Errorf("certificate: %v", err)
				}
			})
		})
	}
}

// TestRunNeedsNoServer has certificates that are valid make the component ready although there is no server.
func TestRunNeedsNoServer(t *testing.T) {
	s := &signer{t: t, validity: 365 * day}
	c := newCertificates(t, s)
	if err := errors.Join(c.ensure(t.Context(), s.client()), c.node.writeCAs(&state{clientCA: string(ours.clientCA(t))}, ours.serverCA(t)),
		c.node.writeKubeconfig()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if err := NewCertificates(c.node, c.addresses, time.Now, s.renewed).Run(ctx, cancel); err != nil {
		t.Error(err)
	}
	if ctx.Err() == nil {
		t.Error("not ready")
	}
}
