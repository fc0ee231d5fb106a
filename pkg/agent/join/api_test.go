package join

import (
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"

	"github.com/edgebox/edgebox/pkg/pki"
)

// A cluster is its keys.
type cluster struct{ store *pki.Store }

// Two clusters that have nothing to do with each other.
var ours, foreign cluster

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "join")
	if err != nil {
		panic(err)
	}
	for _, c := range []*cluster{&ours, &foreign} {
		c.store = pki.New(filepath.Join(dir, fmt.Sprintf("%p", c)))
		if _, err := c.store.Ensure(pki.Spec{Leaves: pki.ControlPlaneLeaves(pki.Host{NodeName: "server"})}); err != nil {
			panic(err)
		}
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

func content(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func (c cluster) serverCA(t *testing.T) []byte { return content(t, c.store.CertFile(pki.ServerCA)) }
func (c cluster) clientCA(t *testing.T) []byte { return content(t, c.store.CertFile(pki.ClientCA)) }

// certificates are those that its servers show.
func (c cluster) certificates(t *testing.T) []tls.Certificate {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(c.store.CertFile(pki.APIServer), c.store.KeyFile(pki.APIServer))
	if err != nil {
		t.Fatal(err)
	}
	return []tls.Certificate{pair}
}

func (c cluster) token(t *testing.T) pki.Token {
	t.Helper()
	token, err := pki.Token{ID: "abcdef", Secret: "0123456789abcdef"}.WithCA(c.serverCA(t))
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// authority returns a CA that can sign.
func (c cluster) authority(t *testing.T, name string) (*x509.Certificate, crypto.Signer) {
	t.Helper()
	chain, err := pki.ParseCertificates(content(t, c.store.CertFile(name)))
	if err != nil {
		t.Fatal(err)
	}
	key, err := pki.ParsePrivateKey(content(t, c.store.KeyFile(name)))
	if err != nil {
		t.Fatal(err)
	}
	return chain[0], key
}

// prolonged is the server CA with another end.
func (c cluster) prolonged(t *testing.T) []byte {
	t.Helper()
	old, key := c.authority(t, pki.ServerCA)
	template := *old
	template.NotAfter = old.NotAfter.Add(24 * time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return encode(der)
}

// sign does what the controllers of the cluster do with a request that was approved.
func (c cluster) sign(t *testing.T, csr *certificatesv1.CertificateSigningRequest, from, until time.Time) []byte {
	t.Helper()
	request := parseRequest(t, csr)
	name := pki.ClientCA
	if csr.Spec.SignerName == certificatesv1.KubeletServingSignerName {
		name = pki.ServerCA
	}
	ca, key := c.authority(t, name)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: request.Subject, NotBefore: from, NotAfter: until,
		DNSNames: request.DNSNames, IPAddresses: request.IPAddresses,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}, ca, request.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return encode(der)
}

func encode(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func parseRequest(t *testing.T, csr *certificatesv1.CertificateSigningRequest) *x509.CertificateRequest {
	t.Helper()
	block, _ := pem.Decode(csr.Spec.Request)
	if block == nil {
		t.Fatal("the request is not PEM")
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return request
}

// api is a server of a cluster as far as nodes see it. Its fields may be changed before it is called.
type api struct {
	t        *testing.T
	cluster  cluster
	token    pki.Token
	ca       []byte // that cluster-info names
	settings map[string]string
	paths    map[string]http.HandlerFunc // instead of what the API answers
	certs    []tls.Certificate
	decide   func(*certificatesv1.CertificateSigningRequest)

	server *httptest.Server

	mu      sync.Mutex
	secrets []string // what was sent by way of authorization
	csrs    []*certificatesv1.CertificateSigningRequest
}

const (
	infoPath     = "/api/v1/namespaces/kube-public/configmaps/cluster-info"
	settingsPath = "/api/v1/namespaces/kube-system/configmaps/edgebox-cluster"
	csrPath      = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
)

// newAPI is a server of our cluster that lets every holder of the token join.
func newAPI(t *testing.T) *api {
	t.Helper()
	a := &api{t: t, cluster: ours, token: ours.token(t), ca: ours.serverCA(t), paths: map[string]http.HandlerFunc{},
		settings: Publish(map[string]string{"cluster-domain": "cluster.local"}, ours.serverCA(t), ours.clientCA(t)),
		certs:    ours.certificates(t)}
	a.decide = func(csr *certificatesv1.CertificateSigningRequest) {
		csr.Status.Certificate = a.cluster.sign(t, csr, time.Now().Add(-time.Minute), time.Now().Add(365*24*time.Hour))
	}
	a.server = httptest.NewUnstartedServer(a)
	a.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	a.server.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return &tls.Config{Certificates: a.certs, ClientAuth: tls.RequestClientCert}, nil
	}}
	a.server.StartTLS()
	t.Cleanup(a.server.Close)
	return a
}

func (a *api) address() string { return a.server.Listener.Addr().String() }

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	secret := r.Header.Get("Authorization")
	if secret != "" {
		a.mu.Lock()
		a.secrets = append(a.secrets, secret)
		a.mu.Unlock()
	}
	if h := a.paths[r.URL.Path]; h != nil {
		h(w, r)
		return
	}
	if r.URL.Path == infoPath {
		info := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","clusters":[{"name":"","cluster":{"certificate-authority-data":%q}}]}`, base64Of(a.ca))
		answer(w, http.StatusOK, &corev1.ConfigMap{Data: map[string]string{bootstrapapi.KubeConfigKey: info}})
		return
	}
	if secret != "Bearer "+a.token.Bootstrap() {
		fail(http.StatusUnauthorized, metav1.StatusReasonUnauthorized)(w, r)
		return
	}
	switch {
	case r.URL.Path == settingsPath:
		answer(w, http.StatusOK, &corev1.ConfigMap{Data: a.settings})
	case r.URL.Path == csrPath && r.Method == http.MethodPost:
		body, err := io.ReadAll(r.Body)
		if err != nil {
			a.t.Error(err)
		}
		o, _, err := scheme.Codecs.UniversalDeserializer().Decode(body, nil, nil)
		if err != nil {
			a.t.Error(err)
			return
		}
		csr := o.(*certificatesv1.CertificateSigningRequest)
		a.decide(csr)
		a.mu.Lock()
		csr.Name = fmt.Sprint(csr.GenerateName, len(a.csrs))
		a.csrs = append(a.csrs, csr)
		a.mu.Unlock()
		answer(w, http.StatusCreated, csr)
	default:
		fail(http.StatusNotFound, metav1.StatusReasonNotFound)(w, r)
	}
}

// sent returns what was shown to the server by way of authorization.
func (a *api) sent() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.secrets)
}

func base64Of(data []byte) []byte {
	text, _ := json.Marshal(data)
	return []byte(strings.Trim(string(text), `"`))
}

// answer writes an object as the API does.
func answer(w http.ResponseWriter, code int, o runtime.Object) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(text(o))
}

func text(o runtime.Object) []byte {
	data, err := runtime.Encode(scheme.Codecs.LegacyCodec(schema.GroupVersion{Version: "v1"}, certificatesv1.SchemeGroupVersion), o)
	if err != nil {
		panic(err)
	}
	return data
}

// fail is the refusal of an API server.
func fail(code int, reason metav1.StatusReason) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		answer(w, code, &metav1.Status{Status: metav1.StatusFailure, Code: int32(code), Reason: reason, Message: string(reason)})
	}
}

// page is the answer of something that is no API server.
func page(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "<html>", code) }
}

// expired gives the server a certificate that ended long ago.
func (a *api) expired(t *testing.T) {
	ca, caKey := a.cluster.authority(t, pki.ServerCA)
	key := a.certs[0].PrivateKey.(crypto.Signer)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "kube-apiserver"}, DNSNames: []string{serverName},
		NotBefore: time.Unix(0, 0), NotAfter: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, ca, key.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	a.certs = []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}
}

// newNode is a machine that has not joined, and its folder.
func newNode(t *testing.T, server string, token string) *Node {
	t.Helper()
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	return New(Config{
		Server: server, Token: token, NodeName: "box",
		Machine:    func() (pki.Machine, error) { return pki.LoadMachine(root, filepath.Join(dir, "machine")) },
		Store:      pki.New(filepath.Join(dir, "pki")),
		State:      filepath.Join(dir, "cluster.json"),
		Kubeconfig: filepath.Join(dir, "kubelet.kubeconfig"),
		API:        "https://" + server,
		Now:        time.Now,
	})
}

// joined is a node of our cluster that has joined.
func joined(t *testing.T, a *api) *Node {
	t.Helper()
	n := newNode(t, a.address(), a.token.Encode())
	if _, err := n.Join(t.Context()); err != nil {
		t.Fatal(err)
	}
	return n
}

func isPermanent(err error) bool {
	var p permanent
	return errors.As(err, &p)
}
