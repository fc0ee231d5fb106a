package join

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/edgebox/edgebox/pkg/durable"
	"github.com/edgebox/edgebox/pkg/pki"
)

// state is what a node remembers of its cluster.
type state struct {
	Node     string            `json:"node"` // that the certificates are for
	Settings map[string]string `json:"settings"`

	clientCA, serverCA string // PEM, as the cluster publishes them
}

// read fetches what the servers publish for nodes.
func read(ctx context.Context, client kubernetes.Interface) (*state, error) {
	m, err := client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, SettingsName, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("read the settings of the cluster: %w", err)
	}
	return stateOf(m.Data)
}

func stateOf(data map[string]string) (*state, error) {
	s := &state{Settings: maps.Clone(data), clientCA: data[clientCAKey], serverCA: data[serverCAKey]}
	delete(s.Settings, clientCAKey)
	delete(s.Settings, serverCAKey)
	if s.clientCA == "" || s.serverCA == "" {
		return nil, fmt.Errorf("read the settings of the cluster: ConfigMap %s has no CA yet", SettingsName)
	}
	return s, nil
}

// Publish is the content of the ConfigMap of that name.
func Publish(settings map[string]string, serverCA, clientCA []byte) map[string]string {
	data := maps.Clone(settings)
	data[serverCAKey], data[clientCAKey] = string(serverCA), string(clientCA)
	return data
}

// recall returns what is remembered, or nil when this machine has to join: it never did, it was another node, its
// certificate has ended, or the token is for another cluster.
func (n *Node) recall(token *pki.Token) (*state, error) {
	text, err := os.ReadFile(n.cfg.State)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var s state
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, fmt.Errorf("%s: %w: remove it to join again with a token", n.cfg.State, err)
	}
	why := n.mustJoin(s, token)
	if why == "" {
		return &s, nil
	}
	if token == nil {
		return nil, fmt.Errorf("this machine must join again and needs a token, because %s: make one with `edgebox token create` on a server", why)
	}
	slog.Info("joining again", "because", why)
	return nil, nil
}

// mustJoin says why the membership on disk is none; empty if it is one.
func (n *Node) mustJoin(s state, token *pki.Token) string {
	ca, err := os.ReadFile(n.cfg.Store.CertFile(pki.ServerCA))
	if err != nil {
		return fmt.Sprintf("the CA of the cluster cannot be read: %v", err)
	}
	if token != nil {
		if _, err := token.VerifyCA(ca); err != nil {
			return "the token is for another cluster than the one that was joined before"
		}
	}
	if s.Node != n.cfg.NodeName {
		return fmt.Sprintf("it was the node %s before", s.Node)
	}
	cert, err := n.load(pki.KubeletClient)
	if err != nil {
		return fmt.Sprintf("its certificate cannot be used: %v", err)
	}
	if n.cfg.Now().After(cert.NotAfter) {
		return "its certificate ended on " + cert.NotAfter.UTC().Format("2006-01-02")
	}
	return ""
}

func (n *Node) writeState(s *state) error {
	s.Node = n.cfg.NodeName
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	if err := durable.MkdirAll(filepath.Dir(n.cfg.State), 0o755); err != nil {
		return err
	}
	return durable.WriteFile(n.cfg.State, append(text, '\n'), 0o600)
}

// writeCAs puts the CAs into place; that of servers is the one that was verified.
func (n *Node) writeCAs(s *state, serverCA []byte) error {
	for name, pem := range map[string][]byte{pki.ServerCA: serverCA, pki.ClientCA: []byte(s.clientCA)} {
		if err := n.cfg.Store.WriteCertificate(name, pem); err != nil {
			return err
		}
	}
	return nil
}

func (n *Node) writeKubeconfig() error {
	return n.cfg.Store.WriteKubeconfig(pki.Kubeconfig{Path: n.cfg.Kubeconfig, Server: n.cfg.API, Leaf: pki.KubeletClient})
}
