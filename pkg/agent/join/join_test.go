package join

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/edgebox/edgebox/pkg/pki"
)

func TestJoin(t *testing.T) {
	a := newAPI(t)
	n := newNode(t, a.address(), a.token.Encode()+"\n")
	settings, err := n.Join(t.Context())
	if want := map[string]string{"cluster-domain": "cluster.local"}; err != nil || !maps.Equal(settings, want) {
		t.Fatalf("Join = %v, %v; want %v", settings, err, want)
	}

	if len(a.csrs) != 1 {
		t.Fatalf("%d certificates were requested, want 1", len(a.csrs))
	}
	csr := a.csrs[0]
	request := parseRequest(t, csr)
	if s := request.Subject; s.CommonName != "system:node:box" || !slices.Equal(s.Organization, []string{"system:nodes"}) {
		t.Errorf("the request is for %s", s)
	}
	if csr.Spec.SignerName != certificatesv1.KubeAPIServerClientKubeletSignerName ||
		!slices.Equal(csr.Spec.Usages, []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth}) {
		t.Errorf("the request is to %s for %v", csr.Spec.SignerName, csr.Spec.Usages)
	}
	machine, err := n.cfg.Machine()
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(csr.Spec.Request)
	if id, err := pki.VerifyMachine(csr.Annotations[pki.MachineAnnotation], "box", block.Bytes); err != nil || id != machine.ID() {
		t.Errorf("the request is signed by machine %s, %v", id, err)
	}

	for path, mode := range map[string]fs.FileMode{
		n.cfg.State:                            0o600,
		n.cfg.Kubeconfig:                       0o600,
		n.cfg.Store.KeyFile(pki.KubeletClient): 0o600,
		filepath.Dir(n.cfg.Store.KeyFile(pki.KubeletClient)): 0o700,
		n.cfg.Store.CertFile(pki.KubeletClient):              0o644,
		n.cfg.Store.CertFile(pki.ClientCA):                   0o644,
		n.cfg.Store.CertFile(pki.ServerCA):                   0o644,
		filepath.Join(filepath.Dir(n.cfg.State), "machine"):  0o600,
	} {
		if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v; want mode %v", path, fi, err, mode)
		}
	}
	for _, path := range []string{n.cfg.State, n.cfg.Kubeconfig} {
		if strings.Contains(string(content(t, path)), a.token.Secret) {
			t.Errorf("%s holds the token's secret", path)
		}
	}
	if got := content(t, n.cfg.Store.CertFile(pki.ServerCA)); string(got) != string(ours.serverCA(t)) {
		t.Error("the CA of servers is another")
	}

	// From now on neither server nor token is needed.
	a.server.Close()
	n.cfg.Token = ""
	if again, err := n.Join(t.Context()); err != nil || !maps.Equal(again, settings) {
		t.Errorf("a second Join = %v, %v", again, err)
	}
}

// TestAttemptFails is about what a server, or what is no server, can answer: what the user is told, whether it is tried
// again, and who gets to see the token.
func TestAttemptFails(t *testing.T) {
	for _, tt := range []struct {
		name      string
		change    func(a *api)
		node      func(c *Config)
		says      string
		permanent bool
		secret    bool // the token is sent
	}{
		{name: "another cluster", change: func(a *api) { a.ca = foreign.serverCA(t) },
			says: "the server has another CA", permanent: true},
		{name: "our CA among others", change: func(a *api) { a.ca = append(foreign.serverCA(t), ours.serverCA(t)...) },
			says: "the server has another CA", permanent: true},
		{name: "an impostor who shows our CA", change: func(a *api) { a.certs = foreign.certificates(t) },
			says: "certificate signed by unknown authority"},
		{name: "an impostor with a certificate of a node", change: func(a *api) { a.certs = []tls.Certificate{nodeCertificate(t)} },
			says: "not kubernetes"},
		{name: "cluster-info not readable", change: at(infoPath, fail(401, metav1.StatusReasonUnauthorized)),
			says: "does not let anyone read the cluster's CA", permanent: true},
		{name: "cluster-info forbidden", change: at(infoPath, fail(403, metav1.StatusReasonForbidden)),
			says: "the server is not ready for nodes yet"},
		{name: "no cluster-info", change: at(infoPath, fail(404, metav1.StatusReasonNotFound)),
			says: "the server is not ready for nodes yet"},
		{name: "cluster-info without cluster", change: at(infoPath, func(w http.ResponseWriter, _ *http.Request) {
			answer(w, http.StatusOK, &corev1.ConfigMap{})
		}), says: "it names no cluster"},
		{name: "a web server", change: at(infoPath, page(404)),
			says: "is not the API of a server", permanent: true},
		{name: "a web page", change: at(infoPath, page(403)),
			says: "is not the API of a server", permanent: true},
		{name: "a balancer without servers", change: at(infoPath, page(503)),
			says: "unable to handle the request"},
		{name: "a balancer whose server starts", change: at(infoPath, page(502)),
			says: "has prevented the request from succeeding"},
		{name: "a balancer whose server is slow", change: at(infoPath, page(504)),
			says: "unable to return a response"},
		{name: "too many requests", change: at(infoPath, page(429)),
			says: "too many requests"},
		{name: "token not known", change: func(a *api) { a.token.Secret = "fedcba9876543210" },
			says: "the server does not know the token", permanent: true, secret: true},
		{name: "token not for joining", change: at(settingsPath, fail(403, metav1.StatusReasonForbidden)),
			says: "the server does not let the token join", secret: true},
		{name: "no settings yet", change: at(settingsPath, fail(404, metav1.StatusReasonNotFound)),
			says: "read the settings of the cluster", secret: true},
		{name: "settings without CA", change: func(a *api) { delete(a.settings, clientCAKey) },
			says: "has no CA yet", secret: true},
		{name: "request forbidden", change: at(csrPath, fail(403, metav1.StatusReasonForbidden)),
			says: "the server does not let the token join", secret: true},
		{name: "token deleted meanwhile", change: at(csrPath, fail(401, metav1.StatusReasonUnauthorized)),
			says: "the server does not know the token", permanent: true, secret: true},
		{name: "request denied", change: conditions(certificatesv1.CertificateDenied, "that name is taken"),
			says: "the servers have refused a certificate: that name is taken", permanent: true, secret: true},
		{name: "not signed", change: conditions(certificatesv1.CertificateFailed, "no key"),
			says: "certificate kubelet-client could not be signed: no key", secret: true},
		{name: "certificate of somebody else", change: func(a *api) {
			a.decide = func(csr *certificatesv1.CertificateSigningRequest) { csr.Status.Certificate = ours.clientCA(t) }
		}, says: "does not belong to the key", secret: true},
		{name: "clocks differ", change: func(a *api) {
			a.expired(t)
			a.paths["/"] = func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Date", time.Date(2019, 6, 1, 12, 0, 0, 0, time.UTC).Format(http.TimeFormat))
			}
		}, node: func(c *Config) {
			c.Now = func() time.Time { return time.Date(2031, 1, 2, 3, 4, 5, 0, time.UTC) }
		}, says: "the clock of this machine says 2031-01-02 03:04:05, that of the server 2019-06-01 12:00:00: set it, for instance with date -u -s @1559390400"},
		{name: "certificate of the server has ended", change: func(a *api) { a.expired(t) },
			says: "certificate has expired"},
		{name: "no identity", node: func(c *Config) {
			c.Machine = func() (pki.Machine, error) { return pki.Machine{}, errors.New("no machine-id") }
		}, says: "no machine-id", secret: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := newAPI(t)
			token := a.token
			if tt.change != nil {
				tt.change(a)
			}
			n := newNode(t, a.address(), token.Encode())
			if tt.node != nil {
				tt.node(&n.cfg)
			}
			_, err := n.attempt(t.Context(), token)
			if err == nil || !strings.Contains(err.Error(), tt.says) || isPermanent(err) != tt.permanent {
				t.Errorf("attempt: %v (permanent: %v); want %q (%v)", err, isPermanent(err), tt.says, tt.permanent)
			}
			if err != nil && strings.Contains(err.Error(), token.Secret) {
				t.Errorf("the secret is in the message %v", err)
			}
			if sent := a.sent(); len(sent) > 0 != tt.secret {
				t.Errorf("shown to the server: %v, want something: %v", sent, tt.secret)
			}
			if _, err := os.Stat(n.cfg.State); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the node counts as joined: %v", err)
			}
		})
	}
}

// at has the server answer a path in another way.
func at(path string, h http.HandlerFunc) func(*api) {
	return func(a *api) { a.paths[path] = h }
}

// conditions has the server decide so on every request.
func conditions(kind certificatesv1.RequestConditionType, message string) func(*api) {
	return func(a *api) {
		a.decide = func(csr *certificatesv1.CertificateSigningRequest) { decideSo(csr, kind, "", message) }
	}
}

// nodeCertificate is one with which a node of our cluster serves.
func nodeCertificate(t *testing.T) tls.Certificate {
	t.Helper()
	store := pki.New(t.TempDir())
	der, err := store.Request(pki.Leaf{Name: pki.Kubelet, CommonName: "system:node:evil", DNSNames: []string{"evil"}})
	if err != nil {
		t.Fatal(err)
	}
	csr := &certificatesv1.CertificateSigningRequest{Spec: certificatesv1.CertificateSigningRequestSpec{
		SignerName: certificatesv1.KubeletServingSignerName, Request: pki.EncodeRequest(der)}}
	cert := ours.sign(t, csr, time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	pair, err := tls.X509KeyPair(cert, content(t, store.KeyFile(pki.Kubelet)))
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

func TestNoAPIThere(t *testing.T) {
	token := ours.token(t)
	plain := httptest.NewServer(page(200))
	defer plain.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().String()
	_ = l.Close()
	for _, tt := range []struct {
		name, server, says string
		permanent          bool
	}{
		{"plain HTTP", plain.Listener.Addr().String(), "does not speak TLS: is the port right?", true},
		{"nothing", closed, "reach " + closed + ": dial tcp " + closed + ": connect: connection refused", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := newNode(t, tt.server, "").attempt(t.Context(), token)
			if err == nil || !strings.Contains(err.Error(), tt.says) || isPermanent(err) != tt.permanent {
				t.Errorf("attempt: %v (permanent: %v)", err, isPermanent(err))
			}
		})
	}
}

// TestJoinFails is about what ends Join although it may try for ever.
func TestJoinFails(t *testing.T) {
	a := newAPI(t)
	for _, tt := range []struct{ name, token, says string }{
		{"no token", "", "this machine has not joined yet and needs a token"},
		{"malformed", "EB1abc", `--token: join token has no "::"`},
		{"no CA hash", a.token.Bootstrap(), "--token: join token has no CA hash"},
		{"another cluster", foreign.token(t).Encode(), "the server has another CA"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := newNode(t, a.address(), tt.token).Join(t.Context())
			if err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("Join: %v, want %q", err, tt.says)
			}
		})
	}
	if sent := a.sent(); len(sent) > 0 {
		t.Errorf("the server was shown %v", sent)
	}
}

func TestRetry(t *testing.T) {
	boom := errors.New("boom")
	t.Run("until it works", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			start, calls := time.Now(), []time.Duration{}
			err := newNode(t, "server:6443", "").retry(t.Context(), func(context.Context) error {
				if calls = append(calls, time.Since(start)/time.Second); len(calls) < 8 {
					return boom
				}
				return nil
			})
			if want := []time.Duration{0, 1, 3, 7, 15, 30, 45, 60}; err != nil || !slices.Equal(calls, want) {
				t.Errorf("tried after %d s, %v; want %d", calls, err, want)
			}
		})
	})
	t.Run("for good", func(t *testing.T) {
		calls := 0
		err := newNode(t, "server:6443", "").retry(t.Context(), func(context.Context) error { calls++; return permanent{boom} })
		if !errors.Is(err, boom) || calls != 1 {
			t.Errorf("tried %d times, %v", calls, err)
		}
	})
	t.Run("until told to stop", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			err := newNode(t, "server:6443", "").retry(ctx, func(context.Context) error { return boom })
			if !errors.Is(err, boom) || !strings.Contains(err.Error(), "server:6443") {
				t.Error(err)
			}
		})
	})
}

func TestFetch(t *testing.T) {
	a := newAPI(t)
	a.paths["/edgebox/secrets"] = func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte("sealed for " + r.Header.Get("Authorization")))
	}
	n := newNode(t, a.address(), "")
	body, err := n.Fetch(t.Context(), a.token, "/edgebox/secrets")
	if want := "sealed for Bearer " + a.token.Bootstrap(); err != nil || string(body) != want {
		t.Errorf("Fetch = %q, %v; want %q", body, err, want)
	}
	if _, err := n.Fetch(t.Context(), a.token, "/edgebox/others"); err == nil || !strings.Contains(err.Error(), "takes no further servers") {
		t.Errorf("from a server alone: %v", err)
	}
	n = newNode(t, a.address(), "")
	before := len(a.sent())
	if _, err := n.Fetch(t.Context(), foreign.token(t), "/edgebox/secrets"); err == nil || !strings.Contains(err.Error(), "another CA") {
		t.Errorf("from another cluster: %v", err)
	}
	if len(a.sent()) > before {
		t.Error("the token was shown to another cluster")
	}
}

// TestDiskFails has each file of a node that joins hit a disk that does not take it. The node has not joined then, and
// joins once the disk does.
func TestDiskFails(t *testing.T) {
	a := newAPI(t)
	for _, name := range []string{"pki/kubelet-client.key", "pki/kubelet-client.crt", "pki/server-ca.crt", "pki/client-ca.crt", "cluster.json"} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, a.address(), a.token.Encode())
			dir := filepath.Dir(n.cfg.State)
			obstacle := filepath.Join(dir, name) // no file can be renamed to a folder
			if err := os.MkdirAll(filepath.Join(obstacle, "full"), 0o700); err != nil {
				t.Fatal(err)
			}
			if _, err := n.attempt(t.Context(), a.token); err == nil || !strings.Contains(err.Error(), obstacle) {
				t.Fatalf("attempt: %v, want an error about %s", err, obstacle)
			}
			if err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
				if strings.Contains(path, ".tmp-") {
					t.Errorf("left behind: %s", path)
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
			if err := os.RemoveAll(obstacle); err != nil {
				t.Fatal(err)
			}
			if state, err := n.recall(&a.token); state != nil || err != nil {
				t.Fatalf("the node counts as joined: %v, %v", state, err)
			}
			if _, err := n.Join(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestTLS has the node speak to a server that wants to know who it is, and to one of another cluster.
func TestTLS(t *testing.T) {
	a := newAPI(t)
	n := joined(t, a)
	clients := x509.NewCertPool()
	clients.AppendCertsFromPEM(ours.clientCA(t))
	for _, tt := range []struct {
		cluster cluster
		says    string
	}{{ours, ""}, {foreign, "certificate signed by unknown authority"}} {
		who := make(chan string, 1)
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			who <- r.TLS.PeerCertificates[0].Subject.CommonName
		}))
		s.Config.ErrorLog = a.server.Config.ErrorLog
		s.TLS = &tls.Config{Certificates: tt.cluster.certificates(t), ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients}
		s.StartTLS()
		defer s.Close()
		conf, err := n.TLS()
		if err != nil {
			t.Fatal(err)
		}
		client := http.Client{Transport: &http.Transport{TLSClientConfig: conf}}
		defer client.CloseIdleConnections()
		res, err := client.Get(s.URL)
		if tt.says != "" {
			if err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("a server of another cluster: %v", err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if got := <-who; got != "system:node:box" {
			t.Errorf("the node is %s", got)
		}
	}
}
