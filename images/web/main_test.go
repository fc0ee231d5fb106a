package main

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestHealthCanBeMadeToFail(t *testing.T) {
	s := httptest.NewServer(handler())
	defer s.Close()
	for _, step := range []struct {
		method, path string
		want         int
	}{
		{"GET", "/", 200},
		{"GET", "/nothing", 404},
		{"GET", "/healthz", 200},
		{"POST", "/fail", 200},
		{"GET", "/healthz", 503},
		{"POST", "/heal", 200},
		{"GET", "/healthz", 200},
	} {
		req, err := http.NewRequestWithContext(t.Context(), step.method, s.URL+step.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := s.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != step.want {
			t.Errorf("%s %s: status %d, want %d", step.method, step.path, resp.StatusCode, step.want)
		}
	}
}
