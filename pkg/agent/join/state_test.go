package join

import (
	"maps"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/edgebox/edgebox/pkg/pki"
)

// TestRecall is about what a machine that has joined makes of what it finds on its disk.
func TestRecall(t *testing.T) {
	a := newAPI(t)
	mine, theirs := a.token, foreign.token(t)
	for _, tt := range []struct {
		name    string
		damage  func(t *testing.T, n *Node)
		token   *pki.Token
		joined  bool
		says    string // what is wrong when there is no token
		refuses bool   // even with a token
	}{
		{name: "all is well", joined: true},
		{name: "the token it joined with", token: &mine, joined: true},
		{name: "a token for another cluster", token: &theirs},
		{name: "never joined", damage: func(t *testing.T, n *Node) { remove(t, n.cfg.State) }},
		{name: "another name", damage: func(_ *testing.T, n *Node) { n.cfg.NodeName = "box2" }, says: "it was the node box before"},
		{name: "no CA", damage: func(t *testing.T, n *Node) { remove(t, n.cfg.Store.CertFile(pki.ServerCA)) },
			says: "the CA of the cluster cannot be read"},
		{name: "no key", damage: func(t *testing.T, n *Node) { remove(t, n.cfg.Store.KeyFile(pki.KubeletClient)) },
			says: "its certificate cannot be used"},
		{name: "no certificate", damage: func(t *testing.T, n *Node) { remove(t, n.cfg.Store.CertFile(pki.KubeletClient)) },
			says: "its certificate cannot be used"},
		{name: "damaged certificate", damage: func(t *testing.T, n *Node) { spoil(t, n.cfg.Store.CertFile(pki.KubeletClient)) },
			says: "its certificate cannot be used"},
		{name: "certificate has ended", damage: func(_ *testing.T, n *Node) {
			n.cfg.Now = func() time.Time { return time.Now().Add(366 * 24 * time.Hour) }
		}, says: "its certificate ended on " + time.Now().Add(365*24*time.Hour).UTC().Format("2006-01")},
		{name: "a clock that is years behind", damage: func(_ *testing.T, n *Node) {
			n.cfg.Now = func() time.Time { return time.Unix(0, 0) }
		}, joined: true},
		{name: "damaged state", damage: func(t *testing.T, n *Node) { spoil(t, n.cfg.State) },
			says: "remove it to join again with a token", refuses: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := joined(t, a)
			if tt.damage != nil {
				tt.damage(t, n)
			}
			state, err := n.recall(tt.token)
			switch {
			case tt.says != "":
				if err == nil || !strings.Contains(err.Error(), tt.says) {
					t.Errorf("without a token: %v, want %q", err, tt.says)
				}
				if state, err = n.recall(&mine); state != nil || (err != nil) != tt.refuses {
					t.Errorf("with a token: %v, %v", state, err)
				}
			case err != nil || (state != nil) != tt.joined:
				t.Errorf("recall = %v, %v", state, err)
			case tt.joined && !maps.Equal(state.Settings, map[string]string{"cluster-domain": "cluster.local"}):
				t.Errorf("settings %v", state.Settings)
			}
		})
	}
}

// TestJoinAgain has a machine change its name, and then its cluster.
func TestJoinAgain(t *testing.T) {
	a := newAPI(t)
	n := joined(t, a)
	n.cfg.NodeName = "box2"
	if _, err := n.Join(t.Context()); err != nil {
		t.Fatal(err)
	}
	if cert, err := n.load(pki.KubeletClient); err != nil || cert.Subject.CommonName != "system:node:box2" {
		t.Errorf("the certificate is for %v, %v", cert, err)
	}

	b := newAPI(t)
	b.cluster, b.token, b.ca = foreign, foreign.token(t), foreign.serverCA(t)
	b.settings = Publish(map[string]string{"cluster-domain": "other"}, foreign.serverCA(t), foreign.clientCA(t))
	b.certs = foreign.certificates(t)
	n.cfg.Server, n.cfg.Token = b.address(), b.token.Encode()
	settings, err := n.Join(t.Context())
	if err != nil || settings["cluster-domain"] != "other" {
		t.Fatalf("Join = %v, %v", settings, err)
	}
	if got := content(t, n.cfg.Store.CertFile(pki.ClientCA)); string(got) != string(foreign.clientCA(t)) {
		t.Error("clients are still verified with the CA of the first cluster")
	}
	if state, err := n.recall(nil); err != nil || state == nil {
		t.Errorf("recall = %v, %v", state, err)
	}
}

func TestPublish(t *testing.T) {
	settings := map[string]string{"cluster-cidr": "10.42.0.0/16"}
	s, err := stateOf(Publish(settings, []byte("server"), []byte("client")))
	if err != nil || !maps.Equal(s.Settings, settings) || s.serverCA != "server" || s.clientCA != "client" {
		t.Errorf("%+v, %v", s, err)
	}
	if len(settings) != 1 {
		t.Errorf("the caller's settings were changed: %v", settings)
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

// spoil leaves half of a file.
func spoil(t *testing.T, path string) {
	t.Helper()
	if err := os.Truncate(path, int64(len(content(t, path))/2)); err != nil {
		t.Fatal(err)
	}
}
