package approval

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	certificates "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/edgebox/edgebox/pkg/pki"
)

const (
	nodePrefix = "system:node:"
	nodesGroup = "system:nodes"

	maxNodeName = 63 // of the label kubernetes.io/hostname
	minRSA      = 2048
)

// Who asks.
type requester int

const (
	stranger requester = iota // neither of the two: not for us to decide
	joiner                    // a machine with a join token
	node                      // the node itself
)

// request is what a CertificateSigningRequest of the right form asks for.
type request struct {
	requester requester
	rejoins   bool // the token is good for names of other machines
	serving   bool // else it is the node's identity towards the API
	node      string
	addresses []netip.Addr

	machine    string // who signed the annotation; "" if nobody, or not this request
	machineErr error
}

// parse returns why the request cannot be granted whatever is known of the node; "" if it may. The requester is always set.
func parse(csr *certificates.CertificateSigningRequest) (r request, refused string) {
	r.serving = csr.Spec.SignerName == certificates.KubeletServingSignerName
	switch groups := csr.Spec.Groups; {
	case slices.Contains(groups, nodesGroup) && strings.HasPrefix(csr.Spec.Username, nodePrefix):
		r.requester = node
	case slices.Contains(groups, pki.JoinGroup):
		r.requester = joiner
		r.rejoins = slices.Contains(groups, pki.RejoinGroup)
	}
	block, _ := pem.Decode(csr.Spec.Request)
	if block == nil {
		return r, "the request is not in PEM form"
	}
	x, err := x509.ParseCertificateRequest(block.Bytes)
	if err == nil {
		err = x.CheckSignature()
	}
	if err != nil {
		return r, fmt.Sprintf("the request is no good certificate request: %v", err)
	}
	if refused := r.subject(x, csr.Spec.Username); refused != "" {
		return r, refused
	}
	rsaKey, weak := keyForm(x)
	if weak != "" {
		return r, weak
	}
	use := certificates.UsageClientAuth
	if r.serving {
		use = certificates.UsageServerAuth
	}
	if !usagesAre(csr.Spec.Usages, use, rsaKey) {
		return r, fmt.Sprintf("the usages must be %q and %q", certificates.UsageDigitalSignature, use)
	}
	if refused := r.names(x); refused != "" {
		return r, refused
	}
	annotation, signed := csr.Annotations[pki.MachineAnnotation]
	if !signed {
		r.machineErr = fmt.Errorf("the annotation %s is missing", pki.MachineAnnotation)
	} else if r.machine, err = pki.VerifyMachine(annotation, r.node, block.Bytes); err != nil {
		r.machineErr = fmt.Errorf("the annotation %s is wrong: %w", pki.MachineAnnotation, err)
	}
	return r, ""
}

func (r *request) subject(x *x509.CertificateRequest, username string) (refused string) {
	name, ok := strings.CutPrefix(x.Subject.CommonName, nodePrefix)
	if !ok || len(x.Subject.Names) != 2 || !slices.Equal(x.Subject.Organization, []string{nodesGroup}) {
		return fmt.Sprintf("the subject must be the common name %sNAME and the organization %s alone", nodePrefix, nodesGroup)
	}
	if problems := validation.IsDNS1123Subdomain(name); len(problems) > 0 || len(name) > maxNodeName {
		return fmt.Sprintf("%q is no name for a node: choose another --node-name, of at most %d characters of a-z, 0-9, - and .", name, maxNodeName)
	}
	if r.requester == node && username != x.Subject.CommonName {
		return fmt.Sprintf("%s may not ask for a certificate of node %s", username, name)
	}
	if r.requester == joiner && r.serving {
		return "a join token is not enough for a serving certificate: ask as the node, with the client certificate that comes first"
	}
	r.node = name
	return ""
}

func keyForm(x *x509.CertificateRequest) (rsaKey bool, weak string) {
	switch key := x.PublicKey.(type) {
	case *ecdsa.PublicKey, ed25519.PublicKey:
		return false, ""
	case *rsa.PublicKey:
		if key.N.BitLen() < minRSA {
			return true, fmt.Sprintf("an RSA key of %d bits is too weak: use ECDSA, Ed25519 or RSA of at least %d bits", key.N.BitLen(), minRSA)
		}
		return true, ""
	}
	return false, fmt.Sprintf("keys of type %s are not supported: use ECDSA, Ed25519 or RSA", x.PublicKeyAlgorithm)
}

// usagesAre allows key encipherment for RSA, which TLS 1.2 can need it for.
func usagesAre(usages []certificates.KeyUsage, use certificates.KeyUsage, rsaKey bool) bool {
	have := map[certificates.KeyUsage]bool{}
	for _, u := range usages {
		have[u] = true
	}
	if rsaKey {
		delete(have, certificates.UsageKeyEncipherment)
	}
	return len(have) == 2 && have[certificates.UsageDigitalSignature] && have[use]
}

var subjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}

// names looks at the alternative names; which addresses the node may have is decided later.
func (r *request) names(x *x509.CertificateRequest) (refused string) {
	if !r.serving {
		for _, e := range x.Extensions {
			if e.Id.Equal(subjectAltName) {
				return "a client certificate has no alternative names"
			}
		}
		return ""
	}
	if len(x.EmailAddresses)+len(x.URIs) > 0 {
		return "the alternative names of a serving certificate are names and addresses alone"
	}
	if len(x.DNSNames)+len(x.IPAddresses) == 0 {
		return "a serving certificate needs a name or an address"
	}
	for _, name := range x.DNSNames {
		if name != r.node {
			return fmt.Sprintf("node %s may not have a certificate for the name %q", r.node, name)
		}
	}
	for _, ip := range x.IPAddresses {
		addr, _ := netip.AddrFromSlice(ip) // of 4 or 16 bytes, or it would not have been parsed
		r.addresses = append(r.addresses, addr.Unmap())
	}
	return ""
}
