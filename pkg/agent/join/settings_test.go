package join

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"os"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/edgebox/edgebox/pkg/component"
	"github.com/edgebox/edgebox/pkg/pki"
)

func TestAdoptSettings(t *testing.T) {
	a := newAPI(t)
	same, other := map[string]string{"cluster-domain": "cluster.local"}, map[string]string{"cluster-domain": "other"}
	old, prolonged := ours.serverCA(t), ours.prolonged(t)
	for _, tt := range []struct {
		name       string
		data       map[string]string
		restart    bool
		remembered map[string]string
		ca         []byte
	}{
		{"nothing new", Publish(same, old, ours.clientCA(t)), false, same, old},
		{"other settings", Publish(other, old, ours.clientCA(t)), true, other, old},
		{"one more setting", Publish(map[string]string{"cluster-domain": "cluster.local", "new": "x"}, old, ours.clientCA(t)), true,
			map[string]string{"cluster-domain": "cluster.local", "new": "x"}, old},
		{"prolonged CA", Publish(same, prolonged, ours.clientCA(t)), false, same, prolonged},
		{"prolonged CA and another", Publish(same, append(prolonged, foreign.serverCA(t)...), ours.clientCA(t)), false, same, prolonged},
		{"CA of another cluster", Publish(same, foreign.serverCA(t), foreign.clientCA(t)), false, same, old},
		{"no CA", other, false, same, old},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := joined(t, a)
			err := NewSettings(n, same).adopt(&corev1.ConfigMap{Data: tt.data})
			if errors.Is(err, component.ErrRestart) != tt.restart || err != nil && !tt.restart {
				t.Errorf("adopt: %v, want a restart: %v", err, tt.restart)
			}
			state, err := n.recall(nil)
			if err != nil || !maps.Equal(state.Settings, tt.remembered) {
				t.Errorf("remembered %v, %v; want %v", state, err, tt.remembered)
			}
			if got := content(t, n.cfg.Store.CertFile(pki.ServerCA)); string(got) != string(tt.ca) {
				t.Errorf("the CA of servers is\n%s, want\n%s", got, tt.ca)
			}
			if got := content(t, n.cfg.Store.CertFile(pki.ClientCA)); string(got) != string(ours.clientCA(t)) {
				t.Error("the CA of clients is another")
			}
		})
	}
}

// TestSettingsDiskFails: edgebox does not start anew only to find the old settings again.
func TestSettingsDiskFails(t *testing.T) {
	n := joined(t, newAPI(t))
	old := map[string]string{"cluster-domain": "cluster.local"}
	remove(t, n.cfg.State)
	if err := os.MkdirAll(n.cfg.State+"/full", 0o700); err != nil {
		t.Fatal(err)
	}
	err := NewSettings(n, old).adopt(&corev1.ConfigMap{Data: Publish(map[string]string{"cluster-domain": "other"}, ours.serverCA(t), ours.clientCA(t))})
	if err == nil || errors.Is(err, component.ErrRestart) || !strings.Contains(err.Error(), n.cfg.State) {
		t.Errorf("adopt: %v", err)
	}
}

// TestFollowSettings has the settings change while the component watches them.
func TestFollowSettings(t *testing.T) {
	a := newAPI(t)
	n := joined(t, a)
	changes := make(chan map[string]string)
	a.paths["/api/v1/namespaces/kube-system/configmaps"] = func(w http.ResponseWriter, r *http.Request) {
		if got, want := r.URL.Query().Get("fieldSelector"), "metadata.name="+SettingsName; got != want {
			t.Errorf("asked for %q, want %q", got, want)
		}
		if len(r.TLS.PeerCertificates) == 0 || r.TLS.PeerCertificates[0].Subject.CommonName != "system:node:box" {
			t.Error("the node does not say who it is")
		}
		m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: SettingsName, Namespace: metav1.NamespaceSystem, ResourceVersion: "1"}, Data: a.settings}
		if r.URL.Query().Get("watch") == "" {
			answer(w, http.StatusOK, &corev1.ConfigMapList{ListMeta: metav1.ListMeta{ResourceVersion: "1"}, Items: []corev1.ConfigMap{*m}})
			return
		}
		w.Header().Set("Content-Type", "application/json")
		send := func(kind string) {
			event, err := json.Marshal(metav1.WatchEvent{Type: kind, Object: runtime.RawExtension{Raw: text(m)}})
			if err != nil {
				t.Error(err)
			}
			_, _ = w.Write(event)
			w.(http.Flusher).Flush()
		}
		if r.URL.Query().Get("sendInitialEvents") == "true" {
			send("ADDED")
			m.Annotations = map[string]string{metav1.InitialEventsAnnotationKey: "true"}
			send("BOOKMARK")
			m.Annotations = nil
		}
		select {
		case m.Data = <-changes:
			m.ResourceVersion = "2"
			send("MODIFIED")
			<-r.Context().Done()
		case <-r.Context().Done():
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		ended <- NewSettings(n, map[string]string{"cluster-domain": "cluster.local"}).Run(ctx, func() {})
	}()
	select {
	case changes <- Publish(map[string]string{"cluster-domain": "other"}, ours.serverCA(t), ours.clientCA(t)):
	case err := <-ended:
		t.Fatalf("ended before a change: %v", err)
	}
	if err := <-ended; !errors.Is(err, component.ErrRestart) {
		t.Errorf("Run: %v", err)
	}
}
