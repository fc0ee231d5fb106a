// Package join makes this machine a node of a cluster, with Kubernetes' own means: the ConfigMap cluster-info tells the
// CA, which the token's hash vouches for; the token is a bootstrap token; certificates come through
// CertificateSigningRequests. Afterwards it keeps the certificates valid.
//
// It owns the folder of the node's keys and certificates, the kubeconfig of its components and what is remembered of the
// cluster.
package join

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"

	"github.com/edgebox/edgebox/pkg/component"
	"github.com/edgebox/edgebox/pkg/pki"
	"github.com/edgebox/edgebox/pkg/upstream"
)

// The ConfigMap that servers publish for nodes: the settings of the cluster by the names of their options, and the CA
// that client certificates are verified with.
const (
	SettingsName = "edgebox-cluster" // in kube-system
	clientCAKey  = pki.ClientCA + ".crt"
	serverCAKey  = pki.ServerCA + ".crt"
)

// serverName is on the certificate of every API server, and on no other: servers are recognised whatever the address by
// which a node reaches them.
const serverName = "kubernetes"

// Pauses between attempts.
const (
	pauseMin = time.Second
	pauseMax = 15 * time.Second
)

// Config is what joining depends on.
type Config struct {
	Server     string // host:port of the server that the user named
	Token      string // as the user gave it; may be empty once the node has joined
	NodeName   string
	Machine    func() (pki.Machine, error)
	Store      *pki.Store // of the node's files
	State      string     // file of what is remembered of the cluster
	Kubeconfig string     // file to write
	API        string     // URL by which components reach the API once the node has joined
	Now        func() time.Time
}

// Node is a membership of this machine, or what it takes to get it.
type Node struct{ cfg Config }

// New returns the node. Nothing is read before Join.
func New(cfg Config) *Node { return &Node{cfg: cfg} }

// permanent is an error that trying again does not mend.
type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }

func never(format string, args ...any) error { return permanent{fmt.Errorf(format, args...)} }

// Join returns the settings of the cluster once this machine is a node of it. It may try for as long as ctx lasts; it
// fails at once where only the user can help. A machine that has joined before needs no server for it.
func (n *Node) Join(ctx context.Context) (settings map[string]string, err error) {
	token, err := n.token()
	if err != nil {
		return nil, err
	}
	state, err := n.recall(token)
	if err != nil {
		return nil, err
	}
	if state != nil {
		return state.Settings, n.writeKubeconfig()
	}
	if token == nil {
		return nil, errors.New("this machine has not joined yet and needs a token: make one with `edgebox token create` on a server, and give it with --token or --token-file")
	}
	slog.Info("joining", "server", n.cfg.Server, "node", n.cfg.NodeName)
	if err := n.retry(ctx, func(ctx context.Context) error {
		settings, err = n.attempt(ctx, *token)
		return err
	}); err != nil {
		return nil, err
	}
	slog.Info("joined", "server", n.cfg.Server, "node", n.cfg.NodeName)
	return settings, n.writeKubeconfig()
}

// token is nil when none is given.
func (n *Node) token() (*pki.Token, error) {
	if n.cfg.Token == "" {
		return nil, nil
	}
	t, err := pki.ParseToken(n.cfg.Token)
	if err != nil {
		return nil, fmt.Errorf("--token: %w", err)
	}
	return &t, nil
}

// retry calls f until it succeeds or fails for good, and says why it waits when the reason is a new one.
func (n *Node) retry(ctx context.Context, f func(context.Context) error) error {
	said := ""
	for pause := pauseMin; ; pause = min(2*pause, pauseMax) {
		err := f(ctx)
		if err == nil {
			return nil
		}
		if p := (permanent{}); errors.As(err, &p) {
			return p.error
		}
		if ctx.Err() != nil {
			return fmt.Errorf("join the cluster at %s: %w", n.cfg.Server, err)
		}
		component.Note(ctx, err.Error())
		if text := err.Error(); text != said {
			slog.Warn("cannot join yet, trying again", "server", n.cfg.Server, "err", text)
			said = text
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// attempt joins, or says why that is not possible now.
func (n *Node) attempt(ctx context.Context, token pki.Token) (map[string]string, error) {
	ca, err := n.discover(ctx, token)
	if err != nil {
		return nil, err
	}
	client, err := n.bearer(ca, token)
	if err != nil {
		return nil, err
	}
	state, err := read(ctx, client)
	if err != nil {
		return nil, n.explain(ctx, err)
	}
	if err := n.requestClient(ctx, client); err != nil {
		return nil, n.explain(ctx, err)
	}
	// The state comes last: only with it the node counts as joined.
	if err := n.writeCAs(state, ca); err != nil {
		return nil, err
	}
	return state.Settings, n.writeState(state)
}

// Fetch returns what a path of the API gives to a holder of the token, once the server is known to be of the token's
// cluster. Like Join it tries until ctx ends, or until only the user can help. It is for machines that become servers.
func (n *Node) Fetch(ctx context.Context, token pki.Token, path string) (body []byte, err error) {
	err = n.retry(ctx, func(ctx context.Context) error {
		ca, err := n.discover(ctx, token)
		if err != nil {
			return err
		}
		client, err := n.bearer(ca, token)
		if err != nil {
			return err
		}
		body, err = client.Discovery().RESTClient().Get().AbsPath(path).DoRaw(ctx)
		if apierrors.IsNotFound(err) {
			return never("%s takes no further servers: its objects are in a database of its own; a cluster of several servers begins with edgebox server --cluster-init, or shares a --datastore-endpoint", n.cfg.Server)
		}
		return n.explain(ctx, err)
	})
	return body, err
}

// bearer is a client that shows the token to a server of the CA.
func (n *Node) bearer(ca []byte, token pki.Token) (*kubernetes.Clientset, error) {
	return kubernetes.NewForConfig(&rest.Config{
		Host:            "https://" + n.cfg.Server,
		TLSClientConfig: rest.TLSClientConfig{CAData: ca, ServerName: serverName},
		BearerToken:     token.Bootstrap(),
		UserAgent:       "edgebox/join",
		Timeout:         callTimeout,
	})
}

const callTimeout = 10 * time.Second

// discover fetches the cluster's CA over a connection that is not verified yet, as kubeadm does, and verifies it by the
// token. No secret is sent.
func (n *Node) discover(ctx context.Context, token pki.Token) (ca []byte, err error) {
	client, err := kubernetes.NewForConfig(&rest.Config{
		Host:            "https://" + n.cfg.Server,
		TLSClientConfig: rest.TLSClientConfig{Insecure: true},
		UserAgent:       "edgebox/join",
		Timeout:         callTimeout,
	})
	if err != nil {
		return nil, err
	}
	info, err := client.CoreV1().ConfigMaps(metav1.NamespacePublic).Get(ctx, bootstrapapi.ConfigMapClusterInfo, metav1.GetOptions{})
	var record tls.RecordHeaderError
	switch {
	case err == nil:
	case errors.As(err, &record), errors.Is(err, http.ErrSchemeMismatch):
		return nil, never("%s does not speak TLS: is the port right? It is 6443, unless the server's --https-listen-port says otherwise", n.cfg.Server)
	case apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse) && !passing(err):
		return nil, never("what listens on %s is not the API of a server (%w): is the port right? It is 6443, unless the server's --https-listen-port says otherwise", n.cfg.Server, err)
	case apierrors.IsNotFound(err), apierrors.IsForbidden(err):
		return nil, fmt.Errorf("the server is not ready for nodes yet: %w", err)
	case apierrors.IsUnauthorized(err):
		return nil, never("%s does not let anyone read the cluster's CA (ConfigMap kube-public/cluster-info): it is not a server of edgebox, or anonymous-auth is off", n.cfg.Server)
	default:
		return nil, n.explain(ctx, err)
	}
	kubeconfig, err := clientcmd.Load([]byte(info.Data[bootstrapapi.KubeConfigKey]))
	if err != nil {
		return nil, fmt.Errorf("read ConfigMap kube-public/cluster-info: %w", err)
	}
	for _, cluster := range kubeconfig.Clusters {
		trusted, err := token.VerifyCA(cluster.CertificateAuthorityData)
		if err != nil {
			return nil, permanent{err}
		}
		return trusted, nil
	}
	return nil, errors.New("read ConfigMap kube-public/cluster-info: it names no cluster")
}

// passing reports whether an answer is one that servers, or a balancer in front of them, give while they start or are busy.
func passing(err error) bool {
	status := apierrors.APIStatus(nil)
	return errors.As(err, &status) && (status.Status().Code >= http.StatusInternalServerError || status.Status().Code == http.StatusTooManyRequests)
}

// explain turns the usual failures of a call into what the user can do.
func (n *Node) explain(ctx context.Context, err error) error {
	var invalid x509.CertificateInvalidError
	switch {
	case err == nil:
		return nil
	case apierrors.IsUnauthorized(err):
		return never("the server does not know the token: it has expired, was deleted, or is not for joining; make another one with `edgebox token create` on a server")
	case apierrors.IsForbidden(err):
		return fmt.Errorf("the server does not let the token join: %w", err)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return n.clockError(ctx, err)
	}
	if call := (*url.Error)(nil); errors.As(err, &call) { // without the path
		return fmt.Errorf("reach %s: %w", n.cfg.Server, call.Err)
	}
	return err
}

// clockError compares this machine's clock with the server's, which need not be trusted for that.
func (n *Node) clockError(ctx context.Context, err error) error {
	client := http.Client{Timeout: callTimeout, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	defer client.CloseIdleConnections()
	req, reqErr := http.NewRequestWithContext(ctx, http.MethodHead, "https://"+n.cfg.Server+"/", nil)
	if reqErr != nil {
		return err
	}
	res, reqErr := client.Do(req)
	if reqErr != nil {
		return err
	}
	_ = res.Body.Close()
	theirs, parseErr := http.ParseTime(res.Header.Get("Date"))
	if off := n.cfg.Now().Sub(theirs).Round(time.Minute); parseErr == nil && off.Abs() > 5*time.Minute {
		return fmt.Errorf("the clock of this machine says %s, that of the server %s: set it, for instance with date -u -s @%d",
			n.cfg.Now().UTC().Format(time.DateTime), theirs.UTC().Format(time.DateTime), theirs.Unix())
	}
	return err
}

// TLS is how this node speaks to servers: as itself, and only with servers of its cluster. Files are read again for each
// connection.
func (n *Node) TLS() (*tls.Config, error) {
	ca, err := os.ReadFile(n.cfg.Store.CertFile(pki.ServerCA))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	cert, key := n.cfg.Store.CertFile(pki.KubeletClient), n.cfg.Store.KeyFile(pki.KubeletClient)
	return &tls.Config{
		RootCAs: roots, ServerName: serverName, MinVersion: tls.VersionTLS12,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(cert, key)
			return &pair, err
		},
	}, nil
}

// Client acts as the node, through the balancer.
func (n *Node) client(name string) (kubernetes.Interface, error) {
	return upstream.Client(n.cfg.Kubeconfig, name)
}
