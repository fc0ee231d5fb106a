package databases

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"testing"
	"time"
)

// Etcd starts an etcd of one member.
func Etcd(t testing.TB, opts Options) *Server {
	t.Helper()
	s := newServer(t, opts, "nobody")
	client, peer := s.EtcdURL(), fmt.Sprintf("http://127.0.0.1:%d", FreePort(t))
	if opts.On != nil {
		peer = fmt.Sprintf("http://%s:%d", s.opts.Address, s.opts.Port+1) // there may be no loopback address
	}
	s.args = []string{build(t, "go.etcd.io/etcd/server/v3"), "--name=one", "--data-dir=" + s.file("data"),
		"--listen-client-urls=" + client, "--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer, "--initial-cluster=one=" + peer}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if opts.Cert != "" {
		s.args = append(s.args, "--cert-file="+s.file("server.crt"), "--key-file="+s.file("server.key"),
			"--trusted-ca-file="+s.file("ca.crt"), "--client-cert-auth")
		pair, err := tls.X509KeyPair([]byte(opts.Cert), []byte(opts.Key))
		if err != nil {
			t.Fatal(err)
		}
		conf.Certificates, conf.RootCAs = []tls.Certificate{pair}, x509.NewCertPool()
		conf.RootCAs.AppendCertsFromPEM([]byte(opts.CA))
	}
	s.answers = func() error {
		c := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true,
			DialContext: func(context.Context, string, string) (net.Conn, error) { return s.dial() }}}
		res, err := c.Get(client + "/health")
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return errors.New(res.Status)
		}
		return nil
	}
	s.Start()
	return s
}

// EtcdURL is the endpoint of a server.
func (s *Server) EtcdURL() string {
	if s.opts.Cert != "" {
		return "https://" + s.Address()
	}
	return "http://" + s.Address()
}
