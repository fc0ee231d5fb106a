// Command web is the small web server of edgebox's demo and tests: its page says which pod made it.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := serve(ctx, ":80"); err != nil {
		log.Print(err)
		stop()
		os.Exit(1)
	}
}

// serve answers requests on addr until ctx ends, and then finishes those under way.
func serve(ctx context.Context, addr string) error {
	s := &http.Server{Addr: addr, Handler: handler(), ReadHeaderTimeout: 10 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- s.ListenAndServe() }()
	log.Printf("serving on %s", addr)
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

// handler has a page for people, / , and one for probes, /healthz, which can be told to fail by a POST to /fail.
func handler() http.Handler {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	version := os.Getenv("VERSION")
	var failing atomic.Bool
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, "Hello from %s, version %s\n", host, version)
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if failing.Load() {
			http.Error(w, "failing, as asked for", http.StatusServiceUnavailable)
			return
		}
		_, _ = fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("POST /fail", func(http.ResponseWriter, *http.Request) { failing.Store(true) })
	mux.HandleFunc("POST /heal", func(http.ResponseWriter, *http.Request) { failing.Store(false) })
	return mux
}
