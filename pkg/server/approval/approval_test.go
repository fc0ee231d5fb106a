package approval

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	certificates "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/edgebox/edgebox/pkg/pki"
)

var today = time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)

// machine returns the identity of a machine with that number.
func machine(t *testing.T, n int) pki.Machine {
	t.Helper()
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "etc/machine-id"), fmt.Appendf(nil, "%032x", n), 0o644); err != nil {
		t.Fatal(err)
	}
	m, err := pki.LoadMachine(root, filepath.Join(root, "machine"))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func ecKey(t *testing.T) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func rsaKey(t *testing.T, bits int) crypto.Signer {
	t.Helper()
	t.Setenv("GODEBUG", "rsa1024min=0")
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// form is a request before it is signed.
type form struct {
	name     string // of the object
	node     string
	x        x509.CertificateRequest
	key      crypto.Signer
	usages   []certificates.KeyUsage
	serving  bool
	user     string
	groups   []string
	machine  *pki.Machine             // nil: no annotation
	annotate func(good string) string // changes the annotation
}

// joining is a request of machine m to become the node.
func joining(t *testing.T, node string, m pki.Machine, groups ...string) *form {
	return &form{
		name: "join-" + node, node: node, machine: &m, key: ecKey(t),
		x:      x509.CertificateRequest{Subject: pkix.Name{CommonName: "system:node:" + node, Organization: []string{"system:nodes"}}},
		usages: []certificates.KeyUsage{certificates.UsageDigitalSignature, certificates.UsageClientAuth},
		user:   "system:bootstrap:abcdef",
		groups: append([]string{"system:bootstrappers", pki.JoinGroup, "system:authenticated"}, groups...),
	}
}

// renewing is a request of the node itself.
func renewing(t *testing.T, node string) *form {
	f := joining(t, node, pki.Machine{})
	f.name, f.machine = "renew-"+node, nil
	f.user, f.groups = "system:node:"+node, []string{"system:nodes", "system:authenticated"}
	return f
}

// serving is a request of the node for its serving certificate.
func serving(t *testing.T, node string, addresses ...string) *form {
	f := renewing(t, node)
	f.name, f.serving = "serve-"+node, true
	f.usages[1] = certificates.UsageServerAuth
	f.x.DNSNames = []string{node}
	for _, a := range addresses {
		f.x.IPAddresses = append(f.x.IPAddresses, net.ParseIP(a))
	}
	return f
}

func (f *form) object(t *testing.T) *certificates.CertificateSigningRequest {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &f.x, f.key)
	if err != nil {
		t.Fatal(err)
	}
	csr := &certificates.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: f.name},
		Spec: certificates.CertificateSigningRequestSpec{
			Request:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
			SignerName: certificates.KubeAPIServerClientKubeletSignerName,
			Usages:     f.usages, Username: f.user, Groups: f.groups,
		},
	}
	if f.serving {
		csr.Spec.SignerName = certificates.KubeletServingSignerName
	}
	if f.machine != nil {
		annotation := f.machine.Sign(f.node, der)
		if f.annotate != nil {
			annotation = f.annotate(annotation)
		}
		csr.Annotations = map[string]string{pki.MachineAnnotation: annotation}
	}
	return csr
}

// testNode is the Node object of that name; its UID is made of the name.
func testNode(name string, addresses ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("uid-" + name)}}
	for _, a := range addresses {
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a})
	}
	return n
}

func serverNode(name string) *corev1.Node {
	n := testNode(name)
	n.Labels = map[string]string{"node-role.kubernetes.io/control-plane": "true"}
	return n
}

// testRecord says that the machine got the name so long before today.
func testRecord(node string, m pki.Machine, before time.Duration, change ...func(*corev1.Secret)) *corev1.Secret {
	s := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: node + ".machine", UID: "uid", ResourceVersion: "7"},
		Type:       "edgebox.internal/machine",
		Data:       map[string][]byte{"id": []byte(m.ID()), "claimed": []byte(today.Add(-before).Format(time.RFC3339))},
	}
	for _, c := range change {
		c(s)
	}
	return s
}

func ownedBy(uid types.UID) func(*corev1.Secret) {
	return func(s *corev1.Secret) {
		yes := true
		s.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "n", UID: uid, Controller: &yes}}
	}
}

func ofServer(s *corev1.Secret) { s.Labels = map[string]string{"edgebox.internal/server": "true"} }

func newApprover(client kubernetes.Interface) *Approver {
	a := New(Config{
		Client:        func() (kubernetes.Interface, error) { return client, nil },
		Reserved:      []string{"srv1", "K8s.example.org", "192.0.2.10"},
		ClusterDomain: "cluster.local",
		ClusterCIDRs:  []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("10.43.0.0/16"), netip.MustParsePrefix("fd00:42::/56")},
	})
	a.client, a.now = client, func() time.Time { return today }
	return a
}

// outcome of a request: the condition's type and reason, or "left"; and its message.
func outcome(t *testing.T, client kubernetes.Interface, name string) (what, message string) {
	t.Helper()
	csr, err := client.CertificatesV1().CertificateSigningRequests().Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	switch c := csr.Status.Conditions; len(c) {
	case 0:
		return "left", ""
	case 1:
		if c[0].Status != corev1.ConditionTrue {
			t.Errorf("%s has status %q", c[0].Type, c[0].Status)
		}
		return string(c[0].Type) + " " + c[0].Reason, c[0].Message
	default:
		t.Fatalf("%d conditions: %v", len(c), c)
		return "", ""
	}
}

// recordOf is "<machine> <owner> <label>" of the record, or "none".
func recordOf(t *testing.T, client kubernetes.Interface, node string) string {
	t.Helper()
	s, err := client.CoreV1().Secrets("kube-system").Get(t.Context(), node+".machine", metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return "none"
	}
	if err != nil {
		t.Fatal(err)
	}
	out := string(s.Data["id"])
	for _, o := range s.OwnerReferences {
		out += " " + o.Kind + "/" + string(o.UID)
	}
	if s.Labels["edgebox.internal/server"] == "true" {
		out += " server"
	}
	return out
}

const (
	approved = "Approved EdgeboxApproved"
	taken    = "Denied NodeNameTaken"
	refused  = "Denied RequestRefused"
	unknown  = "Denied MachineUnknown"
	reserved = "Denied NodeNameReserved"
	address  = "Denied AddressRefused"
	removed  = "Denied NodeRemoved"
	left     = "left"
)

func TestDecisions(t *testing.T) {
	mine, other, third := machine(t, 1), machine(t, 2), machine(t, 3)
	objects := func(o ...runtime.Object) []runtime.Object { return o }
	change := func(f *form, change func(*form)) *form { change(f); return f }
	slice := &discovery.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kubernetes", Labels: map[string]string{"kubernetes.io/service-name": "kubernetes"}},
		Endpoints:  []discovery.Endpoint{{Addresses: []string{"192.0.2.99"}}},
	}
	for name, tc := range map[string]struct {
		form     *form
		cluster  []runtime.Object
		want     string
		messages []string
		record   string // afterwards; "" means none
	}{
		// A machine joins.
		"new name": {form: joining(t, "n", mine), want: approved, messages: []string{"machine " + mine.ID()[:12] + " joins as node n"},
			record: mine.ID()},
		"new name with a rejoin token": {form: joining(t, "n", mine, pki.RejoinGroup), want: approved, record: mine.ID()},
		"longest name":                 {form: joining(t, strings.Repeat("n", 63), mine), want: approved},
		"again, not registered yet": {form: joining(t, "n", mine), cluster: objects(testRecord("n", mine, time.Minute)), want: approved,
			record: mine.ID()},
		"again, registered": {form: joining(t, "n", mine), cluster: objects(testNode("n"), testRecord("n", mine, 1e6*time.Hour, ownedBy("uid-n"))), want: approved,
			record: mine.ID() + " Node/uid-n"},
		"again, registered, not bound yet": {form: joining(t, "n", mine), cluster: objects(testNode("n"), testRecord("n", mine, 1e6*time.Hour)), want: approved,
			record: mine.ID() + " Node/uid-n"},
		"name of another": {form: joining(t, "n", mine), cluster: objects(testNode("n"), testRecord("n", other, time.Hour, ownedBy("uid-n"))), want: taken,
			messages: []string{"node n belongs to another machine (" + other.ID()[:12] + ")", "choose another --node-name", "`edgebox kubectl delete node n`", "`edgebox token create --usages=signing,authentication,rejoin`"},
			record:   other.ID() + " Node/uid-n"},
		"name of another, not bound yet": {form: joining(t, "n", mine), cluster: objects(testNode("n"), testRecord("n", other, 1e6*time.Hour)), want: taken,
			record: other.ID()},
		"name of another that just came": {form: joining(t, "n", mine), cluster: objects(testRecord("n", other, 59*time.Minute)), want: taken,
			messages: []string{"given to another machine (" + other.ID()[:12] + "), which has not registered", "`edgebox kubectl delete secret -n kube-system n.machine`"},
			record:   other.ID()},
		"name of another that just came, before the clock was set back": {form: joining(t, "n", mine), cluster: objects(testRecord("n", other, -59*time.Minute)), want: taken,
			record: other.ID()},
		"name of another that never came": {form: joining(t, "n", mine), cluster: objects(testRecord("n", other, time.Hour)), want: approved,
			messages: []string{"whose former machine was " + other.ID()[:12]}, record: mine.ID()},
		"name of another that never came, by a clock of the past": {form: joining(t, "n", mine), cluster: objects(testRecord("n", other, -time.Hour)), want: approved,
			record: mine.ID()},
		"record without a date": {form: joining(t, "n", mine), cluster: objects(testRecord("n", other, 0, func(s *corev1.Secret) { delete(s.Data, "claimed") })), want: approved,
			record: mine.ID()},
		"name of another whose node was removed": {form: joining(t, "n", mine), cluster: objects(testRecord("n", other, time.Minute, ownedBy("uid-n"))), want: approved,
			record: mine.ID()},
		"node without a record": {form: joining(t, "n", mine), cluster: objects(testNode("n")), want: taken,
			messages: []string{"node n belongs to a machine that is not on record"}},
		"node that was made again, with the record of the former": {form: joining(t, "n", mine), cluster: objects(testNode("n"), testRecord("n", mine, time.Minute, ownedBy("uid-former"))), want: taken,
			record: mine.ID() + " Node/uid-former"},

		// A machine rejoins.
		"rejoin as another": {form: joining(t, "n", mine, pki.RejoinGroup), cluster: objects(testNode("n"), testRecord("n", other, time.Hour, ownedBy("uid-n"))), want: approved,
			messages: []string{"which was another machine (" + other.ID()[:12] + "); the token allows it"}, record: mine.ID() + " Node/uid-n"},
		"rejoin as another that just came": {form: joining(t, "n", mine, pki.RejoinGroup), cluster: objects(testRecord("n", other, time.Minute)), want: approved,
			record: mine.ID()},
		"rejoin without a record": {form: joining(t, "n", mine, pki.RejoinGroup), cluster: objects(testNode("n")), want: approved,
			record: mine.ID() + " Node/uid-n"},
		"rejoin as a server's node": {form: joining(t, "n", mine, pki.RejoinGroup), cluster: objects(serverNode("n"), testRecord("n", other, time.Hour, ownedBy("uid-n"), ofServer)), want: taken,
			messages: []string{"node n is a server: choose another --node-name"}, record: other.ID() + " Node/uid-n server"},
		"rejoin as a server's node by its label": {form: joining(t, "n", mine, pki.RejoinGroup), cluster: objects(serverNode("n")), want: taken,
			messages: []string{"node n is a server"}},
		"rejoin as a server that has no node yet": {form: joining(t, "n", mine, pki.RejoinGroup), cluster: objects(testRecord("n", other, 1e6*time.Hour, ofServer)), want: taken,
			messages: []string{"n is the name of a server", "`edgebox kubectl delete secret -n kube-system n.machine` if that server is gone"}, record: other.ID() + " server"},
		"server whose node was removed": {form: joining(t, "n", mine), cluster: objects(testRecord("n", other, time.Hour, ownedBy("uid-n"), ofServer)), want: approved,
			record: mine.ID()},
		"the server's own machine": {form: joining(t, "n", mine), cluster: objects(serverNode("n"), testRecord("n", mine, time.Hour, ownedBy("uid-n"), ofServer)), want: approved,
			record: mine.ID() + " Node/uid-n server"},

		// Who the machine is.
		"no machine":                       {form: change(joining(t, "n", mine), func(f *form) { f.machine = nil }), want: unknown, messages: []string{"edgebox.internal/machine is missing"}},
		"no machine, though it may rejoin": {form: change(joining(t, "n", mine, pki.RejoinGroup), func(f *form) { f.machine = nil }), want: unknown},
		"damaged annotation":               {form: change(joining(t, "n", mine), func(f *form) { f.annotate = func(s string) string { return s[1:] } }), want: unknown, messages: []string{"edgebox.internal/machine is wrong: its first part"}},
		"annotation for another node":      {form: change(joining(t, "n", mine), func(f *form) { f.node = "m" }), want: unknown, messages: []string{"its signature is not for this request"}},

		// Who asks.
		"administrator":              {form: change(joining(t, "n", mine), func(f *form) { f.user, f.groups = "system:admin", []string{"system:masters"} }), want: left},
		"foreign token":              {form: change(joining(t, "n", mine), func(f *form) { f.groups = []string{"system:bootstrappers", "system:bootstrappers:kubeadm"} }), want: left},
		"rejoin group alone":         {form: change(joining(t, "n", mine), func(f *form) { f.groups = []string{"system:bootstrappers", pki.RejoinGroup} }), want: left},
		"node's name without group":  {form: change(renewing(t, "n"), func(f *form) { f.groups = nil }), cluster: objects(testNode("n")), want: left},
		"node's group without name":  {form: change(renewing(t, "n"), func(f *form) { f.user = "kubelet" }), cluster: objects(testNode("n")), want: left},
		"another signer":             {form: change(joining(t, "n", mine), func(f *form) { f.name = "signer" }), want: left},
		"decided by somebody else":   {form: change(joining(t, "n", mine), func(f *form) { f.name = "decided" }), want: "Denied Nope"},
		"token for serving":          {form: change(serving(t, "n"), func(f *form) { f.user, f.groups = "system:bootstrap:abcdef", []string{pki.JoinGroup} }), want: refused, messages: []string{"a join token is not enough"}},
		"node for another":           {form: change(renewing(t, "n"), func(f *form) { f.user = "system:node:m" }), cluster: objects(testNode("n")), want: refused, messages: []string{"system:node:m may not ask for a certificate of node n"}},
		"node for another's serving": {form: change(serving(t, "n"), func(f *form) { f.user = "system:node:m" }), cluster: objects(testNode("n")), want: refused, messages: []string{"system:node:m may not ask"}},

		// What a client certificate may be.
		"no PEM":              {form: change(joining(t, "n", mine), func(f *form) { f.name = "no-pem" }), want: refused, messages: []string{"not in PEM form"}},
		"no request":          {form: change(joining(t, "n", mine), func(f *form) { f.name = "no-request" }), want: refused, messages: []string{"no good certificate request"}},
		"forged":              {form: change(joining(t, "n", mine), func(f *form) { f.name = "forged" }), want: refused, messages: []string{"no good certificate request"}},
		"another user":        {form: change(joining(t, "n", mine), func(f *form) { f.x.Subject.CommonName = "system:admin" }), want: refused, messages: []string{"the subject must be"}},
		"administrators":      {form: change(joining(t, "n", mine), func(f *form) { f.x.Subject.Organization = []string{"system:masters"} }), want: refused, messages: []string{"the subject must be"}},
		"administrators, too": {form: change(joining(t, "n", mine), func(f *form) { f.x.Subject.Organization = []string{"system:nodes", "system:masters"} }), want: refused, messages: []string{"the subject must be"}},
		"no group":            {form: change(joining(t, "n", mine), func(f *form) { f.x.Subject.Organization = nil }), want: refused, messages: []string{"the subject must be"}},
		"more in the subject": {form: change(joining(t, "n", mine), func(f *form) { f.x.Subject.OrganizationalUnit = []string{"x"} }), want: refused, messages: []string{"the subject must be"}},
		"upper case":          {form: joining(t, "Node", mine), want: refused, messages: []string{`"Node" is no name for a node: choose another --node-name`}},
		"empty name":          {form: joining(t, "", mine), want: refused, messages: []string{`"" is no name`}},
		"two lines":           {form: joining(t, "n\nm", mine), want: refused, messages: []string{`"n\nm" is no name`}},
		"long name":           {form: joining(t, strings.Repeat("n", 64), mine), want: refused, messages: []string{"at most 63 characters"}},
		"a name on it":        {form: change(joining(t, "n", mine), func(f *form) { f.x.DNSNames = []string{"n"} }), want: refused, messages: []string{"a client certificate has no alternative names"}},
		"an address on it":    {form: change(joining(t, "n", mine), func(f *form) { f.x.IPAddresses = []net.IP{{192, 0, 2, 1}} }), want: refused, messages: []string{"a client certificate has no"}},
		"an URI on it":        {form: change(joining(t, "n", mine), func(f *form) { f.x.URIs = []*url.URL{{Scheme: "spiffe", Host: "n"}} }), want: refused, messages: []string{"a client certificate has no"}},
		"mail on it":          {form: change(joining(t, "n", mine), func(f *form) { f.x.EmailAddresses = []string{"n@n"} }), want: refused, messages: []string{"a client certificate has no"}},
		"for servers, too":    {form: change(joining(t, "n", mine), func(f *form) { f.usages = append(f.usages, certificates.UsageServerAuth) }), want: refused, messages: []string{`the usages must be "digital signature" and "client auth"`}},
		"for servers instead": {form: change(joining(t, "n", mine), func(f *form) { f.usages[1] = certificates.UsageServerAuth }), want: refused, messages: []string{"the usages must be"}},
		"signature alone":     {form: change(joining(t, "n", mine), func(f *form) { f.usages = f.usages[:1] }), want: refused, messages: []string{"the usages must be"}},
		"encipherment":        {form: change(joining(t, "n", mine), func(f *form) { f.usages = append(f.usages, certificates.UsageKeyEncipherment) }), want: refused, messages: []string{"the usages must be"}},
		"RSA":                 {form: change(joining(t, "n", mine), func(f *form) { f.key = rsaKey(t, 2048) }), want: approved, record: mine.ID()},
		"RSA, encipherment": {form: change(joining(t, "n", mine), func(f *form) {
			f.key, f.usages = rsaKey(t, 2048), append(f.usages, certificates.UsageKeyEncipherment)
		}), want: approved, record: mine.ID()},
		"weak RSA": {form: change(joining(t, "n", mine), func(f *form) { f.key = rsaKey(t, 1024) }), want: refused, messages: []string{"RSA key of 1024 bits is too weak"}},

		// Names of servers.
		"localhost":               {form: joining(t, "localhost", mine), want: reserved, messages: []string{`"localhost" is a name of the cluster's servers: choose another --node-name`}},
		"kubernetes":              {form: joining(t, "kubernetes", mine, pki.RejoinGroup), want: reserved},
		"kubernetes.default":      {form: joining(t, "kubernetes.default", mine), want: reserved},
		"kubernetes.default.svc":  {form: joining(t, "kubernetes.default.svc", mine), want: reserved},
		"a Service":               {form: joining(t, "registry.team.svc.cluster.local", mine), want: reserved},
		"a part of localhost":     {form: joining(t, "box.localhost", mine), want: reserved},
		"the API by another name": {form: joining(t, "k8s.example.org", mine), want: reserved},
		"this server":             {form: joining(t, "srv1", mine, pki.RejoinGroup), want: reserved},
		"this server, by itself":  {form: renewing(t, "srv1"), cluster: objects(serverNode("srv1")), want: reserved},
		"an address":              {form: joining(t, "192.0.2.7", mine), want: reserved},
		"harmless names":          {form: joining(t, "kubernetes-default.svc1", mine), want: approved},

		// The node's own client certificate.
		"renewal": {form: renewing(t, "n"), cluster: objects(testNode("n"), testRecord("n", mine, time.Hour, ownedBy("uid-n"))), want: approved,
			messages: []string{"node n gets its client certificate"}, record: mine.ID() + " Node/uid-n"},
		"renewal binds the record": {form: renewing(t, "n"), cluster: objects(testNode("n"), testRecord("n", mine, time.Minute)), want: approved,
			record: mine.ID() + " Node/uid-n"},
		"renewal without a record": {form: renewing(t, "n"), cluster: objects(testNode("n")), want: approved},
		"renewal makes a record": {form: change(renewing(t, "n"), func(f *form) { f.machine = &mine }), cluster: objects(testNode("n")), want: approved,
			record: mine.ID() + " Node/uid-n"},
		"renewal makes a record for the new Node": {form: change(renewing(t, "n"), func(f *form) { f.machine = &mine }), cluster: objects(testNode("n"), testRecord("n", other, time.Minute, ownedBy("uid-former"))), want: approved,
			record: mine.ID() + " Node/uid-n"},
		"renewal by another machine": {form: change(renewing(t, "n"), func(f *form) { f.machine = &third }), cluster: objects(testNode("n"), testRecord("n", mine, time.Minute)), want: approved,
			messages: []string{"though machine " + third.ID()[:12] + " asks and the node belongs to another machine (" + mine.ID()[:12] + ")"}, record: mine.ID() + " Node/uid-n"},
		"renewal with a damaged annotation": {form: change(renewing(t, "n"), func(f *form) { f.machine, f.annotate = &mine, strings.ToLower }), cluster: objects(testNode("n")), want: approved},
		"renewal before the node registers": {form: renewing(t, "n"), cluster: objects(testRecord("n", mine, time.Minute)), want: approved, record: mine.ID()},
		"renewal of a removed node":         {form: change(renewing(t, "n"), func(f *form) { f.machine = &mine }), want: removed, messages: []string{"node n was removed from the cluster: let the kubelet register it again, or join again"}},
		"renewal of a node that never came": {form: renewing(t, "n"), cluster: objects(testRecord("n", mine, time.Hour)), want: removed, record: mine.ID()},

		// The node's serving certificate.
		"serving": {form: serving(t, "n", "192.0.2.1", "2001:db8::1"), cluster: objects(testNode("n", "192.0.2.1"), testNode("m", "192.0.2.2", "m"), testRecord("n", mine, time.Minute), slice), want: approved,
			messages: []string{"node n gets its serving certificate"}, record: mine.ID() + " Node/uid-n"},
		"serving before the node registers": {form: serving(t, "n", "192.0.2.1"), want: approved},
		"serving, name alone":               {form: serving(t, "n"), cluster: objects(testNode("n")), want: approved},
		"serving, address alone":            {form: change(serving(t, "n", "10.1.2.3"), func(f *form) { f.x.DNSNames = nil }), cluster: objects(testNode("n")), want: approved},
		"serving, nothing":                  {form: change(serving(t, "n"), func(f *form) { f.x.DNSNames = nil }), want: refused, messages: []string{"needs a name or an address"}},
		"serving, another name":             {form: change(serving(t, "n"), func(f *form) { f.x.DNSNames = []string{"n", "m"} }), want: refused, messages: []string{`node n may not have a certificate for the name "m"`}},
		"serving, wildcard":                 {form: change(serving(t, "n"), func(f *form) { f.x.DNSNames = []string{"*"} }), want: refused},
		"serving, URI":                      {form: change(serving(t, "n"), func(f *form) { f.x.URIs = []*url.URL{{Scheme: "https", Host: "n"}} }), want: refused, messages: []string{"names and addresses alone"}},
		"serving, mail":                     {form: change(serving(t, "n"), func(f *form) { f.x.EmailAddresses = []string{"n@n"} }), want: refused, messages: []string{"names and addresses alone"}},
		"serving for clients":               {form: change(serving(t, "n"), func(f *form) { f.usages = append(f.usages, certificates.UsageClientAuth) }), want: refused, messages: []string{`"digital signature" and "server auth"`}},
		"serving as the API":                {form: serving(t, "kubernetes.default"), cluster: objects(testNode("kubernetes.default")), want: reserved},
		"address of another node": {form: serving(t, "n", "192.0.2.1", "192.0.2.2"), cluster: objects(testNode("n", "192.0.2.1"), testNode("m", "192.0.2.2")), want: address,
			messages: []string{"192.0.2.2 is an address of node m: ask for a certificate without addresses, or remove that node with `edgebox kubectl delete node m` if it is gone"}},
		"address of another node, mapped": {form: serving(t, "n", "192.0.2.2"), cluster: objects(testNode("m", "::ffff:192.0.2.2")), want: address},
		"address of another node, mapped in the request": {form: change(serving(t, "n"), func(f *form) {
			san := append([]byte{0x30, 18, 0x87, 16}, net.ParseIP("192.0.2.2").To16()...)
			f.x.ExtraExtensions = []pkix.Extension{{Id: subjectAltName, Value: san}}
		}), cluster: objects(testNode("m", "192.0.2.2")), want: address},
		"external address of another": {form: serving(t, "n", "203.0.113.1"), cluster: objects(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "m"},
			Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeExternalIP, Address: "203.0.113.1"}}}}), want: address, messages: []string{"node m"}},
		"address of a pod":         {form: serving(t, "n", "10.42.3.4"), want: address, messages: []string{"10.42.3.4 is an address of pods or services, in 10.42.0.0/16"}},
		"address of a Service":     {form: serving(t, "n", "10.43.0.1"), want: address, messages: []string{"10.43.0.0/16"}},
		"address of a pod, IPv6":   {form: serving(t, "n", "fd00:42::1"), want: address},
		"address of the API":       {form: serving(t, "n", "192.0.2.99"), cluster: objects(slice), want: address, messages: []string{"192.0.2.99 is an address of the API"}},
		"address on its own leaf":  {form: serving(t, "n", "192.0.2.10"), want: address, messages: []string{"192.0.2.10 is an address of the API"}},
		"loopback":                 {form: serving(t, "n", "127.0.0.1"), want: address, messages: []string{"127.0.0.1 is not an address by which others reach node n"}},
		"loopback, IPv6":           {form: serving(t, "n", "::1"), want: address},
		"link-local":               {form: serving(t, "n", "169.254.1.1"), want: address},
		"multicast":                {form: serving(t, "n", "224.0.0.1"), want: address},
		"unspecified":              {form: serving(t, "n", "0.0.0.0"), want: address},
		"a refusal keeps a record": {form: serving(t, "n", "127.0.0.1"), cluster: objects(testNode("n"), testRecord("n", mine, time.Minute)), want: address, record: mine.ID()},
	} {
		t.Run(name, func(t *testing.T) {
			csr := tc.form.object(t)
			switch csr.Name { // what a form cannot express
			case "signer":
				csr.Spec.SignerName = certificates.KubeAPIServerClientSignerName
			case "decided":
				csr.Status.Conditions = []certificates.CertificateSigningRequestCondition{{Type: certificates.CertificateDenied, Status: corev1.ConditionTrue, Reason: "Nope"}}
			case "no-pem":
				csr.Spec.Request = []byte("please")
			case "no-request":
				csr.Spec.Request = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: []byte("please")})
			case "forged":
				block, _ := pem.Decode(csr.Spec.Request)
				block.Bytes[len(block.Bytes)-1] ^= 1
				csr.Spec.Request = pem.EncodeToMemory(block)
			}
			client := fake.NewClientset(append(tc.cluster, csr)...)
			a := newApprover(client)
			unbound, err := a.handle(t.Context(), csr.Name)
			if err != nil {
				t.Fatal(err)
			}
			node := strings.TrimPrefix(tc.form.x.Subject.CommonName, "system:node:")
			exists := slices.ContainsFunc(tc.cluster, func(o runtime.Object) bool { n, ok := o.(*corev1.Node); return ok && n.Name == node })
			if look := unbound != ""; look != (tc.want == approved && !exists) || look && unbound != node {
				t.Errorf("looks for node %q later", unbound)
			}
			what, message := outcome(t, client, csr.Name)
			if what != tc.want {
				t.Errorf("%s: %s; want %s", what, message, tc.want)
			}
			for _, m := range tc.messages {
				if !strings.Contains(message, m) {
					t.Errorf("%q lacks %q", message, m)
				}
			}
			want := tc.record
			if want == "" {
				want = "none"
			}
			if tc.want == approved && tc.form.requester() == joiner && tc.record == "" {
				want = mine.ID()
			}
			if got := recordOf(t, client, node); got != want {
				t.Errorf("the record is %s, want %s", got, want)
			}
		})
	}
}

// TestReasonsAreDocumented, each with what to do.
func TestReasonsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../../docs/tokens.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, reason := range []string{pki.DeniedName, pki.DeniedAddress, reasonForm, reasonReserved, reasonMachine, reasonRemoved} {
		if !strings.Contains(string(page), reason) {
			t.Errorf("docs/tokens.md does not have %s", reason)
		}
	}
}

// FuzzParse: nothing that a client can send ends the process or passes for a request of another node.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"", "-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n"} {
		f.Add([]byte(s), "a.b")
	}
	f.Fuzz(func(t *testing.T, pemBytes []byte, annotation string) {
		csr := &certificates.CertificateSigningRequest{
			ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{pki.MachineAnnotation: annotation}},
			Spec: certificates.CertificateSigningRequestSpec{
				Request: pemBytes, SignerName: certificates.KubeAPIServerClientKubeletSignerName,
				Username: "system:node:n", Groups: []string{"system:nodes"},
				Usages: []certificates.KeyUsage{certificates.UsageDigitalSignature, certificates.UsageClientAuth},
			},
		}
		if r, refused := parse(csr); refused == "" && r.node != "n" {
			t.Errorf("node %q", r.node)
		}
	})
}
