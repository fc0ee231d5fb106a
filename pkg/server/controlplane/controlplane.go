// Package controlplane adapts kube-apiserver, kube-controller-manager and kube-scheduler to component.Component. It is
// the only importer of their packages.
//
// Each is started through its context-taking entry point with options that are parsed in Prepare, so that a bad
// argument ends the boot before anything has started.
package controlplane

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	genericoptions "k8s.io/apiserver/pkg/server/options"

	"github.com/edgebox/edgebox/pkg/component"
	"github.com/edgebox/edgebox/pkg/upstream"
)

// readyPoll is the pause between two looks at a component that starts; starting takes seconds.
const readyPoll = 25 * time.Millisecond

// requestsPerSecond is what the clients of our own components may ask of the API. Upstream's 20 are for a server on the
// other side of a network: they hold up the start of the controllers, which ask for two tokens each, by five seconds.
// API priority and fairness guards the server all the same.
const requestsPerSecond = "1000"

// healthPaths are what edgebox asks for without authentication; the user's arguments add to them.
const healthPaths = "/healthz,/readyz,/livez"

// named returns ctx with a logger that tells which upstream component speaks.
func named(ctx context.Context, component string) context.Context {
	return upstream.Named(ctx, component)
}

// runUntilReady runs an upstream component and, beside it, probes it until it answers, then calls ready.
func runUntilReady(ctx context.Context, ready func(), run func(context.Context) error, probe func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		if component.Poll(ctx, "its health check", readyPoll, probe) == nil {
			ready()
		}
	}()
	err := run(ctx)
	if ctx.Err() != nil {
		return nil // some say that they were stopped, which is what ctx asked for
	}
	return err
}

// prober asks for a path of a component's secure port, by the CA and client certificate given.
type prober struct {
	url  string
	http *http.Client
}

// newProber verifies the server by ca; cert and key identify the caller, are read again for each connection, since they
// are renewed while edgebox runs, and may be empty.
func newProber(url, ca, cert, key string) (*prober, error) {
	pem, err := os.ReadFile(ca)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	conf := &tls.Config{RootCAs: roots, ServerName: "localhost"}
	if cert != "" {
		if _, err := tls.LoadX509KeyPair(cert, key); err != nil {
			return nil, err
		}
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(cert, key)
			return &pair, err
		}
	}
	return &prober{url: url, http: &http.Client{Transport: &http.Transport{TLSClientConfig: conf, ForceAttemptHTTP2: true}}}, nil
}

// probe returns nil when the answer is 200; else the error holds the checks that failed.
func (p *prober) probe(ctx context.Context) error {
	_, err := p.get(ctx)
	return err
}

// get is probe that returns what a healthy component said.
func (p *prober) get(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url, nil)
	if err != nil {
		return "", err
	}
	res, err := p.http.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	if err != nil {
		return "", err
	}
	if res.StatusCode == http.StatusOK {
		return string(body), nil
	}
	if res.StatusCode == http.StatusUnauthorized {
		p.http.CloseIdleConnections() // made with a certificate that has ended
	}
	var failed []string
	for line := range strings.Lines(string(body)) {
		if name, ok := strings.CutPrefix(line, "[-]"); ok {
			name, _, _ = strings.Cut(name, " ")
			failed = append(failed, name)
		}
	}
	if failed == nil {
		return "", fmt.Errorf("%s: %s", p.url, res.Status)
	}
	return "", fmt.Errorf("not ready: %s", strings.Join(failed, ", "))
}

// healthURL is where a component that serves with s, from the arguments of the option, answers for its health.
func healthURL(option string, s *genericoptions.SecureServingOptions, path string) (string, error) {
	if s.BindPort == 0 {
		return "", fmt.Errorf("%s: secure-port=0 would hide from edgebox whether it is healthy: give it another port", option)
	}
	host := s.BindAddress
	if host.IsUnspecified() {
		host = net.IPv4(127, 0, 0, 1)
	}
	return "https://" + net.JoinHostPort(host.String(), strconv.Itoa(s.BindPort)) + path, nil
}
