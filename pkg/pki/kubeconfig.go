package pki

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/edgebox/edgebox/pkg/durable"
)

// A Kubeconfig declares a file with which a client reaches the API as one of the leaves.
type Kubeconfig struct {
	Path   string      // where to write it; a file there that edgebox did not write is kept as Path.old
	Mode   fs.FileMode // 0 means 0600
	Server string      // URL of the API
	Leaf   string      // name of the client's leaf

	// Embed puts certificates and key into the file, so that it can be copied to another machine. Otherwise it refers to
	// the files in the Store, whose renewal clients notice by themselves.
	Embed bool
}

const kubeconfigHeader = "# Written by edgebox, and again whenever its certificate is renewed.\n"

func (s *Store) ensureKubeconfig(k Kubeconfig) error {
	mode := k.Mode
	if mode == 0 {
		mode = 0o600
	}
	want, err := s.renderKubeconfig(k)
	if err != nil {
		return err
	}
	old, err := readFile(k.Path)
	if err != nil {
		return err
	}
	if bytes.Equal(old, want) {
		if fi, err := os.Stat(k.Path); err != nil || fi.Mode().Perm() == mode {
			return err
		}
		return os.Chmod(k.Path, mode)
	}

	dirMode := fs.FileMode(0o700)
	if mode&0o077 != 0 {
		dirMode = 0o755
	}
	if err := durable.MkdirAll(filepath.Dir(k.Path), dirMode); err != nil {
		return fmt.Errorf("make the directory of the kubeconfig: %w", err)
	}
	if len(old) > 0 && !bytes.HasPrefix(old, []byte(kubeconfigHeader)) {
		// It may hold other clusters. The first one kept is the user's; a later one is ours, changed by kubectl config.
		if err := os.Link(k.Path, k.Path+".old"); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("keep the kubeconfig that edgebox did not write: %w", err)
		}
	}
	return s.write(k.Path, want, mode)
}

func (s *Store) renderKubeconfig(k Kubeconfig) ([]byte, error) {
	ca, cert, key := s.CertFile(ServerCA), s.CertFile(k.Leaf), s.KeyFile(k.Leaf)
	suffix := ""
	if k.Embed {
		suffix = "-data"
		for _, field := range []*string{&ca, &cert, &key} {
			data, err := os.ReadFile(*field)
			if err != nil {
				return nil, fmt.Errorf("embed in kubeconfig: %w", err)
			}
			*field = base64.StdEncoding.EncodeToString(data)
		}
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, kubeconfigHeader+`apiVersion: v1
kind: Config
current-context: edgebox
clusters:
- name: edgebox
  cluster:
    server: %[2]s
    certificate-authority%[1]s: %[3]s
users:
- name: edgebox-%[6]s
  user:
    client-certificate%[1]s: %[4]s
    client-key%[1]s: %[5]s
contexts:
- name: edgebox
  context:
    cluster: edgebox
    user: edgebox-%[6]s
`, suffix, quote(k.Server), quote(ca), quote(cert), quote(key), k.Leaf)
	return out.Bytes(), nil
}

// quote makes s a YAML scalar: every JSON string is one.
func quote(s string) string {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // a string into a Buffer
	return string(bytes.TrimSuffix(out.Bytes(), []byte("\n")))
}
