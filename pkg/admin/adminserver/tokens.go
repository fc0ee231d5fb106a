package adminserver

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/containerd/errdefs"

	"github.com/edgebox/edgebox/pkg/admin"
)

// Tokens are those by which machines join the cluster.
type Tokens interface {
	Tokens(ctx context.Context) ([]admin.Token, error)
	CreateToken(ctx context.Context, wanted admin.NewToken) (admin.WholeToken, error)
	DeleteToken(ctx context.Context, id string) error
	RotateToken(ctx context.Context) (admin.WholeToken, error) // replaces the server's own
}

// ServeTokens adds the routes of a server's tokens. It must be called before Run.
func ServeTokens(s *Server, tokens Tokens) {
	s.mux.HandleFunc("GET /v1/tokens", func(w http.ResponseWriter, r *http.Request) {
		list, err := tokens.Tokens(r.Context())
		if err != nil {
			fail(w, err)
			return
		}
		respond(w, list)
	})
	s.mux.HandleFunc("POST /v1/tokens", func(w http.ResponseWriter, r *http.Request) {
		var wanted admin.NewToken
		body := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10))
		body.DisallowUnknownFields()
		if err := body.Decode(&wanted); err != nil {
			fail(w, errdefs.ErrInvalidArgument.WithMessage("read the wanted token: "+err.Error()))
			return
		}
		created, err := tokens.CreateToken(r.Context(), wanted)
		if err != nil {
			fail(w, err)
			return
		}
		respond(w, created)
	})
	s.mux.HandleFunc("POST /v1/tokens/rotate", func(w http.ResponseWriter, r *http.Request) {
		created, err := tokens.RotateToken(r.Context())
		if err != nil {
			fail(w, err)
			return
		}
		respond(w, created)
	})
	s.mux.HandleFunc("DELETE /v1/tokens/{id}", func(w http.ResponseWriter, r *http.Request) {
		if err := tokens.DeleteToken(r.Context(), r.PathValue("id")); err != nil {
			fail(w, err)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
}
