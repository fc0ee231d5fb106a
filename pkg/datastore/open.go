package datastore

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/k3s-io/kine/pkg/drivers"
	"github.com/k3s-io/kine/pkg/drivers/generic"
	_ "github.com/k3s-io/kine/pkg/drivers/mysql"
	_ "github.com/k3s-io/kine/pkg/drivers/nats"
	_ "github.com/k3s-io/kine/pkg/drivers/pgsql"
	"github.com/k3s-io/kine/pkg/server"
	"github.com/nats-io/nats.go"
	"github.com/sirupsen/logrus"

	"github.com/edgebox/edgebox/pkg/component"
)

// open returns the backend of the database. It waits for one elsewhere that cannot be reached, says so meanwhile, and
// gives up when ctx ends.
func (s *store) open(ctx context.Context) (server.Backend, error) {
	overhear.Do(func() { logrus.AddHook(eavesdropper{}) })
	for {
		backend, err := s.attempt(ctx)
		if err == nil || ctx.Err() != nil || !mayPass(err) {
			return backend, err
		}
		component.Note(ctx, "database "+s.name()+": "+oneLine(scrub(err.Error(), s.endpoint)))
		select {
		case <-time.After(retryEvery):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// attempt opens the database once, for which kine takes up to five minutes.
func (s *store) attempt(ctx context.Context) (_ server.Backend, err error) {
	// The drivers must live until the last request of the gRPC server has ended, so not on the component's context.
	life, cancel := context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			cancel() // a connection attempt that hangs is left to itself
		}
	}()
	type result struct {
		backend server.Backend
		err     error
	}
	opened := make(chan result, 1)
	lastPing.Store(nil)
	go func() {
		b, err := s.openBackend(life)
		if err == nil {
			err = b.Start(life)
		}
		opened <- result{b, err}
	}()
	for {
		select {
		case r := <-opened:
			s.cancel = cancel
			return r.backend, r.err
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(retryEvery):
		}
		note := "database " + s.name()
		if why := lastPing.Load(); why != nil && s.endpoint != "" {
			if isFinal(*why) {
				return nil, errors.New(*why)
			}
			note += ": " + oneLine(scrub(*why, s.endpoint))
		}
		component.Note(ctx, note)
	}
}

// isFinal is about what kine says of an attempt to connect, and would try again all the same.
func isFinal(why string) bool {
	return isRefusal(why) ||
		strings.Contains(why, "SQLSTATE 3D000") // no such database, which is made when an attempt begins
}

// isRefusal reports whether the other end, or the check of its certificate, has said no.
func isRefusal(why string) bool {
	for _, sign := range []string{"SQLSTATE 28", "x509: ", "tls: ", "Authorization Violation"} {
		if strings.Contains(why, sign) {
			return true
		}
	}
	return false
}

// mayPass reports whether the database may be usable later, with nothing changed here.
func mayPass(err error) bool {
	if isRefusal(err.Error()) {
		return false
	}
	var network net.Error
	var errno syscall.Errno
	if errors.As(err, &network) || errors.As(err, &errno) {
		return true
	}
	for _, known := range []error{io.EOF, io.ErrUnexpectedEOF, driver.ErrBadConn, mysql.ErrInvalidConn, context.DeadlineExceeded,
		nats.ErrNoServers, nats.ErrTimeout, nats.ErrConnectionClosed, nats.ErrNoResponders} {
		if errors.Is(err, known) {
			return true
		}
	}
	return strings.Contains(err.Error(), "SQLSTATE 57P0") || // PostgreSQL starts or stops
		strings.Contains(err.Error(), "SQLSTATE 3D000")
}

func (s *store) openBackend(ctx context.Context) (server.Backend, error) {
	cfg := drivers.Config{
		Endpoint:         s.endpoint,
		BackendTLSConfig: s.tls,
		ConnectionPoolConfig: generic.ConnectionPoolConfig{
			MaxOpen: maxConnections, MaxIdle: maxConnections, MaxIdleTime: maxIdleTime},
		CompactInterval:  compactEvery,
		CompactTimeout:   compactTimeout,
		CompactMinRetain: compactRetain,
		CompactBatchSize: batchSize,
		PollBatchSize:    batchSize,
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
	return openRemote(backend, &s.wg, s.name(), cfg)
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

// oneLine is for texts that have a line for each attempt.
func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

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
	scheme, rest, ok := strings.Cut(dsn, "://")
	if one, more, list := strings.Cut(dsn, ","); list && scheme == "nats" {
		return redact(one) + "," + redact(more)
	}
	if u, err := url.Parse(dsn); err == nil && u.Opaque == "" {
		u.RawQuery = ""
		return u.Redacted()
	}
	if c, err := mysql.ParseDSN(rest); err == nil && scheme == "mysql" {
		return fmt.Sprintf("mysql://%s:xxxxx@%s(%s)/%s", c.User, c.Net, c.Addr, c.DBName)
	}
	if ok {
		return scheme + "://…"
	}
	return "…"
}

// scrub takes the passwords of a data source out of a text.
func scrub(text, dsn string) string {
	secrets := passwords(dsn)
	for _, one := range strings.Split(dsn, ",") { // NATS takes a list
		secrets = append(secrets, passwords(one)...)
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

func passwords(dsn string) (found []string) {
	_, rest, _ := strings.Cut(dsn, "://")
	base, query, _ := strings.Cut(rest, "?")
	if i := strings.LastIndex(base, "@"); i >= 0 {
		user, password, ok := strings.Cut(base[:i], ":")
		if !ok && strings.HasPrefix(dsn, "nats://") {
			password = user // NATS calls it a token
		}
		found = append(found, password)
	}
	for _, param := range strings.Split(query, "&") {
		if name, value, _ := strings.Cut(param, "="); strings.Contains(strings.ToLower(name), "pass") {
			found = append(found, value)
		}
	}
	return found
}
