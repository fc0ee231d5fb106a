package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/edgebox/edgebox/pkg/admin"
	"github.com/edgebox/edgebox/pkg/component"
)

// serve answers on the admin socket of h.
func (h *host) serve(routes map[string]http.HandlerFunc) {
	h.t.Helper()
	h.mkdir("run/edgebox")
	socket := h.path("run/edgebox/edgebox.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		h.t.Fatal(err)
	}
	if err := os.Chmod(socket, 0o600); err != nil {
		h.t.Fatal(err)
	}
	mux := http.NewServeMux()
	for pattern, handler := range routes {
		mux.HandleFunc(pattern, handler)
	}
	srv := &http.Server{Handler: mux}
	go func() { _ = srv.Serve(l) }()
	h.t.Cleanup(func() { _ = srv.Shutdown(context.Background()) })
}

func answer(v any) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(v) }
}

func TestStatus(t *testing.T) {
	now := time.Now()
	s := admin.Status{
		Version: "1.2.3", Kubernetes: "v1.37.2", Node: "box", Role: "server", PID: 812, Since: now.Add(-3 * time.Minute), Ready: true,
		Components: []component.Status{
			{Name: "datastore", State: component.Ready, Since: now.Add(-170 * time.Second)},
			{Name: "dns", State: component.Ready, Since: now.Add(-50 * time.Hour), Restarts: 2},
		},
	}
	h := newHost(t)
	h.serve(map[string]http.HandlerFunc{"GET /v1/status": func(w http.ResponseWriter, r *http.Request) { answer(s)(w, r) }})
	r := h.run("status")
	r.want(t, 0)
	want := "box is ready: edgebox 1.2.3 server, Kubernetes v1.37.2, pid 812, up 3m\n\n" +
		"COMPONENT  STATE  SINCE  MESSAGE\n" +
		"datastore  ready  2m\n" +
		"dns        ready  2d     restarted 2 times\n"
	if r.stdout != want {
		t.Errorf("have\n%s\nwant\n%s", r.stdout, want)
	}
	h.uid = "65534"
	h.run("status").want(t, 1, "only root may speak to edgebox: use sudo")
	h.uid = ""

	s.Ready = false
	s.Components[0] = component.Status{Name: "kubelet", State: component.Waiting, Since: now.Add(-5 * time.Minute),
		WaitingFor: []string{"containerd: dial unix:\nno such file"}, Error: "exit\nstatus 1"}
	r = h.run("status")
	r.want(t, 1, "box is not ready", "kubelet    waiting  5m     waits for containerd: dial unix: no such file, exit status 1\n")
	if r.stderr != "" {
		t.Errorf("stderr has %q", r.stderr)
	}
	r = h.run("status", "-o", "json")
	r.want(t, 1)
	var have admin.Status
	if err := json.Unmarshal([]byte(r.stdout), &have); err != nil || len(have.Components) != 2 {
		t.Errorf("have %v of %s", err, r.stdout)
	}
}

func TestStatusOfAgent(t *testing.T) {
	h := newHost(t)
	h.serve(map[string]http.HandlerFunc{"GET /v1/status": answer(admin.Status{Node: "box", Role: "agent", Ready: true, Servers: []admin.APIServer{
		{Address: "192.0.2.1:6443", InUse: true, Connections: 7, Tunnel: true},
		{Address: "192.0.2.2:6443", Error: "dial tcp:\nno route to host"},
	}})})
	h.run("status").want(t, 0, "SERVER          IN USE  CONNECTIONS  TUNNEL  MESSAGE\n"+
		"192.0.2.1:6443  yes     7            open\n"+
		"192.0.2.2:6443  no      0            closed  dial tcp: no route to host\n")
}

func TestStatusWatch(t *testing.T) {
	h := newHost(t)
	asked := 0
	h.serve(map[string]http.HandlerFunc{"GET /v1/status": func(w http.ResponseWriter, r *http.Request) {
		asked++
		answer(admin.Status{Node: "box", Ready: asked > 1})(w, r)
	}})
	h.exec("", "timeout", "2.5", bare, "status", "--watch").want(t, 124, "box is not ready", "box is ready")
}

// A socket that nobody listens on any more, after a crash, is the same as none.
func TestStatusOfDeadSocket(t *testing.T) {
	h := newHost(t)
	h.mkdir("run/edgebox")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: h.path("run/edgebox/edgebox.sock"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	_ = l.Close()
	h.run("status").want(t, 1, "edgebox is not running on this machine")
}

func TestImages(t *testing.T) {
	const digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	list := []image{
		{Name: "docker.io/library/app:1", Digest: digest, Size: 5 << 20, Created: time.Now().Add(-3 * time.Hour)},
		{Name: "docker.io/library/app@" + digest, Digest: digest, Size: 5 << 20},
		{Name: "sha256:fedc", Digest: digest, Size: 5 << 20},
		{Name: "box/orphan@sha256:77", Digest: "sha256:77", Size: 100, Created: time.Now()},
	}
	h := newHost(t)
	var removed []string
	h.serve(map[string]http.HandlerFunc{
		"GET /v1/images": answer(list),
		"POST /v1/images/import": func(w http.ResponseWriter, r *http.Request) {
			text, _ := io.ReadAll(r.Body)
			if string(text) != "archive" {
				w.WriteHeader(http.StatusBadRequest)
				_, _ = w.Write([]byte(`{"message": "no archive of images: unexpected end"}`))
				return
			}
			answer([]map[string]string{{"name": "docker.io/library/app:1"}})(w, r)
		},
		"GET /v1/images/export": func(w http.ResponseWriter, r *http.Request) {
			switch names := r.URL.Query()["name"]; names[0] {
			case "broken":
				_, _ = w.Write(make([]byte, 1<<20))
				panic(http.ErrAbortHandler)
			default:
				_, _ = fmt.Fprintf(w, "archive of %q", names)
			}
		},
		"DELETE /v1/images": func(w http.ResponseWriter, r *http.Request) {
			name := r.URL.Query().Get("name")
			if name == "used" && r.URL.Query().Get("force") != "true" {
				w.WriteHeader(http.StatusConflict)
				_, _ = w.Write([]byte(`{"message": "the image is in use by pod default/web"}`))
				return
			}
			if name == "none" {
				w.WriteHeader(http.StatusNotFound)
				_, _ = w.Write([]byte(`{"message": "image \"none\": not found"}`))
				return
			}
			removed = append(removed, name)
			w.WriteHeader(http.StatusNoContent)
		},
	})

	t.Run("ls", func(t *testing.T) {
		have := h.run("images", "ls").stdout
		want := "NAME                     DIGEST        SIZE     CREATED\n" +
			"docker.io/library/app:1  0123456789ab  5.0 MiB  3h0m ago\n" +
			"box/orphan@sha256:77     77            100 B    0s ago\n"
		if have != want {
			t.Errorf("have\n%s\nwant\n%s", have, want)
		}
		if have := h.run("images", "ls", "-q", "-a").stdout; strings.Count(have, "\n") != 4 {
			t.Errorf("-a has\n%s", have)
		}
		var parsed []image
		if err := json.Unmarshal([]byte(h.run("images", "ls", "-o", "json").stdout), &parsed); err != nil || len(parsed) != 2 {
			t.Errorf("-o json: %v, %d images", err, len(parsed))
		}
	})
	t.Run("import", func(t *testing.T) {
		h.write("good.tar", "archive", 0o644)
		h.write("bad.tar", "arch", 0o644)
		h.run("images", "import", h.path("good.tar")).want(t, 0, "imported docker.io/library/app:1\n")
		h.exec("archive", bare, "images", "import", "-").want(t, 0, "imported docker.io/library/app:1\n")
		h.run("images", "import", h.path("bad.tar")).want(t, 1, "import "+h.path("bad.tar")+": no archive of images: unexpected end")
	})
	t.Run("export", func(t *testing.T) {
		if r := h.run("images", "export", "a", "b"); r.stdout != `archive of ["a" "b"]` {
			t.Errorf("have %+v", r)
		}
		h.run("images", "export", "a", "-o", h.path("out.tar")).want(t, 0)
		if text, err := os.ReadFile(h.path("out.tar")); err != nil || string(text) != `archive of ["a"]` {
			t.Errorf("have %s, %v", text, err)
		}
		before, err := os.ReadDir(h.dir)
		if err != nil {
			t.Fatal(err)
		}
		h.run("images", "export", "broken", "-o", h.path("broken.tar")).want(t, 1, "unexpected EOF")
		after, err := os.ReadDir(h.dir)
		if err != nil || len(after) != len(before) {
			t.Errorf("a broken export leaves %v, %v", after, err)
		}
	})
	t.Run("rm", func(t *testing.T) {
		h.run("images", "rm", "a", "none", "b").want(t, 1, "removed a\nremoved b\n", `remove none: image "none": not found`)
		h.run("images", "rm", "used").want(t, 1, "", "remove used: the image is in use by pod default/web")
		h.run("images", "rm", "--force", "used").want(t, 0, "removed used\n")
		if strings.Join(removed, ",") != "a,b,used" {
			t.Errorf("removed %v", removed)
		}
	})
}
