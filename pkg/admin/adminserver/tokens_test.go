package adminserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/edgebox/edgebox/pkg/admin"
)

// fakeTokens tells how it was called.
type fakeTokens struct {
	called string
	err    error
}

var someToken = admin.Token{ID: "abcdef", Expires: time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC), Usages: []string{"signing"}, Description: "d"}

func (f *fakeTokens) Tokens(context.Context) ([]admin.Token, error) {
	return []admin.Token{someToken, {ID: "ownown", Usages: []string{}, Server: "box"}}, f.err
}

func (f *fakeTokens) CreateToken(_ context.Context, wanted admin.NewToken) (admin.WholeToken, error) {
	f.called = fmt.Sprintf("create %+v", wanted)
	return admin.WholeToken{Whole: "EB1", Token: someToken}, f.err
}

func (f *fakeTokens) DeleteToken(_ context.Context, id string) error {
	f.called = "delete " + id
	return f.err
}

func (f *fakeTokens) RotateToken(context.Context) (admin.WholeToken, error) {
	f.called = "rotate"
	return admin.WholeToken{Whole: "EB1", Token: someToken}, f.err
}

func TestTokens(t *testing.T) {
	s := New(filepath.Join(t.TempDir(), "edgebox.sock"), func(context.Context) admin.Status { return admin.Status{} })
	tokens := &fakeTokens{}
	ServeTokens(s, tokens)
	c, stop := run(t, s)
	const about = `"id":"abcdef","expires":"2027-03-01T12:00:00Z","usages":["signing"],"description":"d"}`
	const whole = `{"token":"EB1",` + about + "\n"
	for _, step := range []struct {
		method, path, send string
		code               int
		want, called       string
	}{
		{"GET", "/v1/tokens", "", 200, `[{` + about + `,{"id":"ownown","usages":[],"description":"","server":"box"}]` + "\n", ""},
		{"POST", "/v1/tokens", `{"ttl": 3600000000000, "usages": ["signing", "rejoin"], "description": "x"}`, 200, whole, "create {TTL:1h0m0s Usages:[signing rejoin] Description:x}"},
		{"POST", "/v1/tokens", `{"ttl": "soon"}`, 400, "read the wanted token: ", ""},
		{"POST", "/v1/tokens", `{"groups": ["system:masters"]}`, 400, `unknown field`, ""},
		{"POST", "/v1/tokens", `{"description": "` + strings.Repeat("x", 64<<10) + `"}`, 400, "too large", ""},
		{"POST", "/v1/tokens", ``, 400, "read the wanted token: ", ""},
		{"POST", "/v1/tokens/rotate", "", 200, whole, "rotate"},
		{"DELETE", "/v1/tokens/abcdef", "", 204, "", "delete abcdef"},
		{"DELETE", "/v1/tokens/a%2Fb", "", 204, "", "delete a/b"},
		{"DELETE", "/v1/tokens", "", 405, "Method Not Allowed\n", ""},
	} {
		tokens.called = ""
		code, got := do(t, c, step.method, step.path, step.send)
		if code != step.code || !strings.Contains(got, step.want) || code < 300 && got != step.want || tokens.called != step.called {
			t.Errorf("%s %s %.40s: %d %.200q %q, want %d %q %q", step.method, step.path, step.send, code, got, tokens.called, step.code, step.want, step.called)
		}
	}
	for _, tt := range []struct {
		err  error
		code int
	}{
		{errdefs.ErrNotFound.WithMessage("there is no such token"), 404},
		{errdefs.ErrInvalidArgument.WithMessage("no usage"), 400},
		{errdefs.ErrFailedPrecondition.WithMessage("it is the server's own"), 409},
		{errdefs.ErrUnavailable.WithMessage("no API"), 503},
		{errors.New("broken"), 500},
	} {
		tokens.err = tt.err
		want, _ := json.Marshal(map[string]string{"message": tt.err.Error()})
		for _, call := range []string{"GET /v1/tokens", "POST /v1/tokens", "POST /v1/tokens/rotate", "DELETE /v1/tokens/abcdef"} {
			method, path, _ := strings.Cut(call, " ")
			if code, body := do(t, c, method, path, "{}"); code != tt.code || body != string(want)+"\n" {
				t.Errorf("%s, %v: %d %s", call, tt.err, code, body)
			}
		}
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}
