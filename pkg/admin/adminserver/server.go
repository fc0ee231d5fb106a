// Package adminserver serves the HTTP API by which the commands of edgebox speak to the process that runs on this machine:
// status, images and tokens. It listens on a unix socket that only root can open, and knows nothing of what it reports on.
package adminserver

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/pprof"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"

	"github.com/edgebox/edgebox/pkg/admin"
	"github.com/edgebox/edgebox/pkg/socket"
)

// Images is the image store of this machine. T is an entry of its list as JSON gives it.
type Images[T any] interface {
	Images(ctx context.Context) ([]T, error)
	ImportImages(ctx context.Context, tar io.Reader) (names []string, err error)
	ExportImages(ctx context.Context, w io.Writer, names []string) error
	RemoveImage(ctx context.Context, name string, force bool) error
}

// checkTimeout bounds the health checks of one status request.
const checkTimeout = 3 * time.Second

// Server is the component that listens.
type Server struct {
	socket string
	mux    *http.ServeMux
}

// New returns a server on that socket which answers with status.
func New(socket string, status func(context.Context) admin.Status) *Server {
	s := &Server{socket: socket, mux: http.NewServeMux()}
	s.mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), checkTimeout)
		defer cancel()
		respond(w, status(ctx))
	})
	// For `go tool pprof`: root alone gets here.
	s.mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	s.mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	s.mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return s
}

// ServeImages adds the routes of an image store. It must be called before Run.
func ServeImages[T any](s *Server, images Images[T]) {
	s.mux.HandleFunc("GET /v1/images", func(w http.ResponseWriter, r *http.Request) {
		list, err := images.Images(r.Context())
		if err != nil {
			fail(w, err)
			return
		}
		respond(w, list)
	})
	s.mux.HandleFunc("POST /v1/images/import", func(w http.ResponseWriter, r *http.Request) {
		names, err := images.ImportImages(r.Context(), r.Body)
		if err != nil {
			fail(w, err)
			return
		}
		type imported struct {
			Name string `json:"name"`
		}
		out := make([]imported, len(names))
		for i, n := range names {
			out[i].Name = n
		}
		respond(w, out)
	})
	s.mux.HandleFunc("GET /v1/images/export", func(w http.ResponseWriter, r *http.Request) {
		body := &lateWriter{w: w}
		if err := images.ExportImages(r.Context(), body, r.URL.Query()["name"]); err != nil {
			if !body.started {
				fail(w, err)
				return
			}
			slog.Error("export of images ended early", "err", err)
			panic(http.ErrAbortHandler) // so that the client sees a broken stream, not a short archive
		}
	})
	s.mux.HandleFunc("DELETE /v1/images", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		if err := images.RemoveImage(r.Context(), q.Get("name"), q.Get("force") == "true"); err != nil {
			fail(w, err)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
}

// Name implements component.Component.
func (s *Server) Name() string { return "admin" }

// Run serves until ctx ends. It listens from the first moment of a boot, to tell how far that is.
func (s *Server) Run(ctx context.Context, ready func()) error {
	if err := os.MkdirAll(filepath.Dir(s.socket), 0o755); err != nil {
		return err
	}
	l, err := socket.Listen(s.socket)
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: s.mux, ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	ready()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func respond(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		slog.Debug("answer of the admin API was not read", "err", err)
	}
}

func fail(w http.ResponseWriter, err error) {
	code := http.StatusInternalServerError
	switch {
	case errdefs.IsNotFound(err):
		code = http.StatusNotFound
	case errdefs.IsInvalidArgument(err):
		code = http.StatusBadRequest
	case errdefs.IsFailedPrecondition(err):
		code = http.StatusConflict
	case errdefs.IsUnavailable(err):
		code = http.StatusServiceUnavailable
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(map[string]string{"message": err.Error()})
}

// lateWriter remembers whether anything was written, after which the status code cannot change any more.
type lateWriter struct {
	w       http.ResponseWriter
	started bool
}

func (l *lateWriter) Write(p []byte) (int, error) {
	if !l.started {
		l.w.Header().Set("Content-Type", "application/x-tar")
		l.started = true
	}
	return l.w.Write(p)
}
