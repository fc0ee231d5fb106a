package adminserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"go.uber.org/goleak"

	"github.com/edgebox/edgebox/pkg/admin"
	"github.com/edgebox/edgebox/pkg/component"
)

// fakeStore is an image store in memory, whose archives are names, one a line.
type fakeStore struct {
	names []string
	err   error // of the next call
	after int   // lines that an export writes before it
}

func (f *fakeStore) Images(context.Context) ([]string, error) { return f.names, f.err }

func (f *fakeStore) ImportImages(_ context.Context, r io.Reader) ([]string, error) {
	tar, err := io.ReadAll(r)
	if f.err != nil || err != nil {
		return nil, errors.Join(f.err, err)
	}
	names := strings.Fields(string(tar))
	f.names = append(f.names, names...)
	return names, nil
}

func (f *fakeStore) ExportImages(_ context.Context, w io.Writer, names []string) error {
	for i, n := range names {
		if f.err != nil && i == f.after {
			return f.err
		}
		if _, err := fmt.Fprintln(w, n+strings.Repeat(".", 8<<10)); err != nil { // more than the server buffers
			return err
		}
	}
	return nil
}

func (f *fakeStore) RemoveImage(_ context.Context, name string, force bool) error {
	if strings.HasPrefix(name, "pinned:") && !force {
		return errdefs.ErrFailedPrecondition.WithMessage("it is pinned")
	}
	f.names = slices.DeleteFunc(f.names, func(n string) bool { return n == name })
	return f.err
}

// serve runs a server on the socket and returns a client of it, and what ends it.
func serve(t *testing.T, socket string, store *fakeStore) (*http.Client, func() error) {
	t.Helper()
	s := New(socket, func(ctx context.Context) admin.Status {
		_, limited := ctx.Deadline()
		return admin.Status{Node: "box", Ready: limited, Components: []component.Status{{Name: "dns", State: component.Ready}}}
	})
	ServeImages(s, store)
	return run(t, s)
}

func run(t *testing.T, s *Server) (*http.Client, func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- s.Run(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatal(err)
	}
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", s.socket)
	}}
	return &http.Client{Transport: transport}, func() error {
		cancel()
		transport.CloseIdleConnections()
		return <-ended
	}
}

func do(t *testing.T, c *http.Client, method, path, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://edgebox"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(got)
}

func TestServes(t *testing.T) {
	defer goleak.VerifyNone(t)
	socket := filepath.Join(t.TempDir(), "run", "edgebox.sock")
	store := &fakeStore{names: []string{"a:1"}}
	c, stop := serve(t, socket, store)
	fi, err := os.Stat(socket)
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the socket has mode %v, %v", fi.Mode(), err)
	}

	code, body := do(t, c, "GET", "/v1/status", "")
	var status admin.Status
	if err := json.Unmarshal([]byte(body), &status); err != nil || code != 200 {
		t.Fatalf("%d, %v in %s", code, err, body)
	}
	if status.Node != "box" || !status.Ready || len(status.Components) != 1 || status.Components[0].Name != "dns" {
		t.Errorf("status: %s", body)
	}
	for _, step := range []struct {
		method, path, send string
		code               int
		want               string
	}{
		{"GET", "/v1/images", "", 200, `["a:1"]` + "\n"},
		{"POST", "/v1/images/import", "b:1 c:1 pinned:1", 200, `[{"name":"b:1"},{"name":"c:1"},{"name":"pinned:1"}]` + "\n"},
		{"DELETE", "/v1/images?name=pinned:1", "", 409, `{"message":"it is pinned"}` + "\n"},
		{"DELETE", "/v1/images?name=pinned:1&force=true", "", 204, ""},
		{"DELETE", "/v1/images?name=a:1", "", 204, ""},
		{"GET", "/v1/images", "", 200, `["b:1","c:1"]` + "\n"},
		{"GET", "/v1/images/import", "", 405, "Method Not Allowed\n"},
		{"GET", "/v2/", "", 404, "404 page not found\n"},
	} {
		if code, got := do(t, c, step.method, step.path, step.send); code != step.code || got != step.want {
			t.Errorf("%s %s: %d %q, want %d %q", step.method, step.path, code, got, step.code, step.want)
		}
	}
	if code, got := do(t, c, "GET", "/v1/images/export?name=b:1&name=c:1", ""); code != 200 || !strings.HasPrefix(got, "b:1.") || !strings.HasSuffix(got, ".\n") {
		t.Errorf("export: %d %.20s", code, got)
	}
	if err := stop(); err != nil {
		t.Errorf("Run ended with %v", err)
	}
	if _, err := os.Stat(socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
}

func TestErrors(t *testing.T) {
	store := &fakeStore{names: []string{"a:1"}}
	c, stop := serve(t, filepath.Join(t.TempDir(), "edgebox.sock"), store)
	for _, tt := range []struct {
		err  error
		code int
	}{
		{fmt.Errorf("image a: %w", errdefs.ErrNotFound), 404},
		{fmt.Errorf("archive: %w", errdefs.ErrInvalidArgument), 400},
		{fmt.Errorf("image a is in use: %w", errdefs.ErrFailedPrecondition), 409},
		{fmt.Errorf("containerd: %w", errdefs.ErrUnavailable), 503},
		{errors.New("broken"), 500},
	} {
		store.err = tt.err
		want, _ := json.Marshal(map[string]string{"message": tt.err.Error()})
		for _, call := range []string{"GET /v1/images", "POST /v1/images/import", "GET /v1/images/export?name=a", "DELETE /v1/images?name=a"} {
			method, path, _ := strings.Cut(call, " ")
			if code, body := do(t, c, method, path, ""); code != tt.code || body != string(want)+"\n" {
				t.Errorf("%s, %v: %d %s", call, tt.err, code, body)
			}
		}
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// TestBrokenExport: half an archive must not look like a whole one.
func TestBrokenExport(t *testing.T) {
	c, stop := serve(t, filepath.Join(t.TempDir(), "edgebox.sock"), &fakeStore{err: errors.New("disk gone"), after: 1})
	res, err := c.Get("http://edgebox/v1/images/export?name=a&name=b")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if got, err := io.ReadAll(res.Body); err == nil {
		t.Errorf("status %d and %d bytes without an error", res.StatusCode, len(got))
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// TestStaleSocket starts on what kill -9 leaves.
func TestStaleSocket(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "edgebox.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	c, stop := serve(t, socket, &fakeStore{})
	if code, _ := do(t, c, "GET", "/v1/status", ""); code != 200 {
		t.Errorf("status %d", code)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// TestStopsDuringRequest: an upload that does not go on must not hold up the end.
func TestStopsDuringRequest(t *testing.T) {
	c, stop := serve(t, filepath.Join(t.TempDir(), "edgebox.sock"), &fakeStore{})
	r, w := io.Pipe()
	defer w.Close()
	answered := make(chan error, 1)
	go func() {
		res, err := c.Post("http://edgebox/v1/images/import", "", r)
		if err == nil {
			res.Body.Close()
		}
		answered <- err
	}()
	if _, err := w.Write([]byte("a:1")); err != nil {
		t.Fatal(err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	w.Close()
	if err := <-answered; err == nil {
		t.Error("an import that was cut off succeeded")
	}
}
