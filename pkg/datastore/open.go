package datastore

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/k3s-io/kine/pkg/drivers"
	"github.com/k3s-io/kine/pkg/drivers/generic"
	_ "github.com/k3s-io/kine/pkg/drivers/mysql"
	_ "github.com/k3s-io/kine/pkg/drivers/pgsql"
	"github.com/k3s-io/kine/pkg/server"
	"github.com/sirupsen/logrus"

	"github.com/edgebox/edgebox/pkg/component"
)

// open returns the backend of the database. It may wait for minutes for one elsewhere, says so meanwhile, and gives up
// when ctx ends.
func (s *store) open(ctx context.Context) (server.Backend, error) {
	// The drivers must live until the last request of the gRPC server has ended, so not on the component's context.
	life, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	type result struct {
		backend server.Backend
		err     error
	}
	opened := make(chan result, 1)
	go func() {
		b, err := s.openBackend(life)
		if err == nil {
			err = b.Start(life)
		}
		opened <- result{b, err}
	}()
	lastPing.Store(nil)
	overhear.Do(func() { logrus.AddHook(eavesdropper{}) })
	for {
		select {
		case r := <-opened:
			return r.backend, r.err
		case <-ctx.Done():
			return nil, ctx.Err() // a connection attempt that hangs is left to itself
		case <-time.After(time.Second):
			note := "database " + s.name()
			if why := lastPing.Load(); why != nil && s.endpoint != "" {
				note += ": " + scrub(*why, s.endpoint)
			}
			component.Note(ctx, note)
		}
	}
}

func (s *store) openBackend(ctx context.Context) (server.Backend, error) {
	cfg := drivers.Config{
		Endpoint:             s.endpoint,
		ConnectionPoolConfig: generic.ConnectionPoolConfig{MaxIdle: 4},
		CompactInterval:      compactEvery,
		CompactTimeout:       compactTimeout,
		CompactMinRetain:     compactRetain,
		CompactBatchSize:     batchSize,
		PollBatchSize:        batchSize,
	}
	if s.endpoint == "" {
		cfg.PollInterval = pollAlone
		return openSQLite(ctx, &s.wg, s.file, cfg)
	}
	cfg.PollInterval = pollShared
	_, backend, err := drivers.New(ctx, &s.wg, &cfg)
	if err != nil {
		return nil, err
	}
	if backend == nil {
		return nil, errors.New("an etcd cluster is not supported here")
	}
	return checkedBackend{backend}, nil
}

// Kine tries for five minutes to reach a database, and tells nobody but its log why it could not.
var (
	overhear sync.Once
	lastPing atomic.Pointer[string]
)

type eavesdropper struct{}

func (eavesdropper) Levels() []logrus.Level { return []logrus.Level{logrus.ErrorLevel} }

func (eavesdropper) Fire(e *logrus.Entry) error {
	if why, ok := strings.CutPrefix(e.Message, "Failed to ping database connection: "); ok {
		lastPing.Store(&why)
	}
	return nil
}

// name is for messages: the file, or the endpoint without the password in it.
func (s *store) name() string {
	if s.endpoint == "" {
		return s.file.path
	}
	return redact(s.endpoint)
}

// openError says which database cannot be used.
func (s *store) openError(err error) error {
	if s.endpoint == "" {
		return advise(failure(s.file.path, err))
	}
	if text := err.Error(); scrub(text, s.endpoint) != text { // such as that of an endpoint that is no URL
		err = errors.New(scrub(text, s.endpoint))
	}
	return fmt.Errorf("open database %s: %w", s.name(), err)
}

// redact names a data source without the password in it.
func redact(dsn string) string {
	if u, err := url.Parse(dsn); err == nil && u.Opaque == "" {
		u.RawQuery = ""
		return u.Redacted()
	}
	if scheme, _, ok := strings.Cut(dsn, "://"); ok {
		return scheme + "://…"
	}
	return "…"
}

// scrub takes the password of a data source out of a text.
func scrub(text, dsn string) string {
	_, rest, _ := strings.Cut(dsn, "://")
	base, query, _ := strings.Cut(rest, "?")
	var secrets []string
	if i := strings.LastIndex(base, "@"); i >= 0 {
		_, password, _ := strings.Cut(base[:i], ":")
		secrets = append(secrets, password)
	}
	for _, param := range strings.Split(query, "&") {
		if name, value, _ := strings.Cut(param, "="); strings.Contains(strings.ToLower(name), "pass") {
			secrets = append(secrets, value)
		}
	}
	for _, secret := range secrets {
		plain, _ := url.PathUnescape(secret)
		for _, s := range []string{secret, plain} {
			if s != "" {
				text = strings.ReplaceAll(text, s, "xxxxx")
			}
		}
	}
	return text
}
