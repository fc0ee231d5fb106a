package join

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/edgebox/edgebox/pkg/component"
	"github.com/edgebox/edgebox/pkg/pki"
)

// deniedError is a certificate request that the servers have refused.
type deniedError struct{ reason, message string }

func (e deniedError) Error() string {
	return "the servers have refused a certificate: " + e.message
}

const decisionPoll = 200 * time.Millisecond

// identity is what the node is towards the API.
func (n *Node) identity() pki.Leaf {
	return pki.Leaf{Name: pki.KubeletClient, Client: true,
		CommonName: "system:node:" + n.cfg.NodeName, Organizations: []string{"system:nodes"}}
}

// requestClient gets the certificate with which the node acts.
func (n *Node) requestClient(ctx context.Context, client kubernetes.Interface) error {
	_, err := n.request(ctx, client, n.identity(), certificatesv1.KubeAPIServerClientKubeletSignerName, certificatesv1.UsageClientAuth)
	if denied := (deniedError{}); errors.As(err, &denied) {
		return permanent{err}
	}
	return err
}

// request has a certificate signed and puts it into place.
func (n *Node) request(ctx context.Context, client kubernetes.Interface, leaf pki.Leaf, signer string, usage certificatesv1.KeyUsage) (*x509.Certificate, error) {
	der, err := n.cfg.Store.Request(leaf)
	if err != nil {
		return nil, err
	}
	machine, err := n.cfg.Machine()
	if err != nil {
		return nil, err
	}
	requests := client.CertificatesV1().CertificateSigningRequests()
	csr, err := requests.Create(ctx, &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{
			GenerateName: "node-" + n.cfg.NodeName + "-",
			Annotations:  map[string]string{pki.MachineAnnotation: machine.Sign(n.cfg.NodeName, der)},
		},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request:    pki.EncodeRequest(der),
			SignerName: signer,
			Usages:     []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, usage},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("request certificate %s: %w", leaf.Name, err)
	}
	for {
		if decided(csr) {
			break
		}
		component.Note(ctx, "approval of certificate request "+csr.Name)
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for approval of certificate request %s: %w", csr.Name, ctx.Err())
		case <-time.After(decisionPoll):
		}
		if csr, err = requests.Get(ctx, csr.Name, metav1.GetOptions{}); err != nil {
			return nil, fmt.Errorf("ask for certificate %s: %w", leaf.Name, err)
		}
	}
	for _, c := range csr.Status.Conditions {
		switch {
		case c.Status == corev1.ConditionFalse:
		case c.Type == certificatesv1.CertificateDenied:
			return nil, deniedError{c.Reason, c.Message}
		case c.Type == certificatesv1.CertificateFailed:
			return nil, fmt.Errorf("certificate %s could not be signed: %s", leaf.Name, c.Message)
		}
	}
	return n.cfg.Store.Install(leaf.Name, csr.Status.Certificate)
}

// decided reports whether nothing more will happen to a request.
func decided(csr *certificatesv1.CertificateSigningRequest) bool {
	for _, c := range csr.Status.Conditions {
		if c.Type != certificatesv1.CertificateApproved && c.Status != corev1.ConditionFalse {
			return true
		}
	}
	return len(csr.Status.Certificate) > 0
}

func (n *Node) load(name string) (*x509.Certificate, error) { return n.cfg.Store.Load(name) }

// Certificates keeps the certificates of a node valid: that with which it acts, and that which its kubelet serves with.
// Who uses them reads the files again.
type Certificates struct {
	node      *Node
	addresses []netip.Addr
	now       func() time.Time // of the servers
	onRenew   func()

	nameOnly time.Time // until when no certificate with addresses is asked for, because another node has one of them
	due      map[string]time.Time
}

const (
	certificatePoll = 10 * time.Second
	clientsReread   = 2 * time.Second // client-go reads files at most once a second
	nameOnlyFor     = time.Hour
)

// NewCertificates returns the component for a node that has joined and has these addresses; now is the servers' time.
// OnRenew is called once clients use a new certificate for connections that they make: servers look at the old one's end
// at each request, so those that exist should not last.
func NewCertificates(node *Node, addresses []netip.Addr, now func() time.Time, onRenew func()) *Certificates {
	return &Certificates{node: node, addresses: addresses, now: now, onRenew: onRenew, due: map[string]time.Time{}}
}

// Name implements component.Component.
func (c *Certificates) Name() string { return "certificates" }

// Run is ready once both certificates are there, and renews them until ctx ends. While certificates are valid it needs no
// server.
func (c *Certificates) Run(ctx context.Context, ready func()) error {
	client, err := c.node.client(c.Name())
	if err != nil {
		return err
	}
	said := ""
	for {
		err := c.ensure(ctx, client)
		if ctx.Err() != nil {
			return nil
		}
		if c.usable() {
			ready()
		} else if err != nil {
			component.Note(ctx, err.Error())
		}
		text := ""
		if err != nil {
			text = err.Error()
		}
		if text != said && text != "" {
			slog.Warn("certificates cannot be renewed, trying again", "err", text)
		}
		said = text
		pause := certificatePoll
		if !c.usable() {
			pause = pauseMin
		}
		// Compared with the clock each time, because a timer knows nothing of a clock that is set.
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// usable reports whether there is a serving certificate, whatever it is for; without the other there is no node.
func (c *Certificates) usable() bool {
	_, err := c.node.load(pki.Kubelet)
	return err == nil
}

// ensure renews what is due.
func (c *Certificates) ensure(ctx context.Context, client kubernetes.Interface) error {
	var errs []error
	if c.isDue(c.node.identity()) {
		cert, err := c.node.request(ctx, client, c.node.identity(), certificatesv1.KubeAPIServerClientKubeletSignerName, certificatesv1.UsageClientAuth)
		errs = append(errs, c.renewed(pki.KubeletClient, cert, err))
	}
	if leaf := c.serving(); c.isDue(leaf) {
		cert, err := c.node.request(ctx, client, leaf, certificatesv1.KubeletServingSignerName, certificatesv1.UsageServerAuth)
		if denied := (deniedError{}); errors.As(err, &denied) && denied.reason == pki.DeniedAddress && len(leaf.IPs) > 0 {
			slog.Warn("this node's certificate is for its name alone", "because", denied.message)
			c.nameOnly = c.now().Add(nameOnlyFor)
			if leaf = c.serving(); !c.isDue(leaf) {
				return errors.Join(errs...)
			}
			cert, err = c.node.request(ctx, client, leaf, certificatesv1.KubeletServingSignerName, certificatesv1.UsageServerAuth)
		}
		errs = append(errs, c.renewed(pki.Kubelet, cert, err))
	}
	return errors.Join(errs...)
}

// serving is what the kubelet presents to those who call it. Servers call it by its name.
func (c *Certificates) serving() pki.Leaf {
	leaf := pki.Leaf{Name: pki.Kubelet, Server: true, DNSNames: []string{c.node.cfg.NodeName},
		CommonName: "system:node:" + c.node.cfg.NodeName, Organizations: []string{"system:nodes"}}
	if !c.now().Before(c.nameOnly) {
		leaf.IPs = c.addresses
	}
	return leaf
}

// isDue reports whether a certificate is to be had anew.
func (c *Certificates) isDue(leaf pki.Leaf) bool {
	cert, err := c.node.load(leaf.Name)
	if err != nil || !leaf.Covers(cert) {
		return true
	}
	due, known := c.due[leaf.Name]
	if !known {
		due = pki.RenewAt(cert)
	}
	return c.now().After(due)
}

// renewed notes when a certificate wants to be renewed next.
func (c *Certificates) renewed(name string, cert *x509.Certificate, err error) error {
	if err != nil {
		return err
	}
	// Signers date certificates back, which counts when they are short-lived.
	validity := cert.NotAfter.Sub(c.now())
	c.due[name] = cert.NotAfter.Add(-validity / 4)
	if at := pki.RenewAt(cert); at.After(c.due[name]) {
		c.due[name] = at
	}
	if name == pki.KubeletClient {
		time.AfterFunc(clientsReread, c.onRenew)
	}
	slog.Info("certificate issued", "name", name, "for", strings.Join(names(cert), ", "), "until", cert.NotAfter.UTC().Format(time.RFC3339))
	return nil
}

// names are what a certificate is for.
func names(cert *x509.Certificate) []string {
	out := append([]string{cert.Subject.CommonName}, cert.DNSNames...)
	for _, ip := range cert.IPAddresses {
		out = append(out, ip.String())
	}
	return out
}
