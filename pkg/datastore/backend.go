package datastore

import (
	"context"
	"database/sql"
	"errors"
	"sync"
	"time"

	"github.com/k3s-io/kine/pkg/drivers"
	"github.com/k3s-io/kine/pkg/drivers/sqlite"
	"github.com/k3s-io/kine/pkg/logstructured"
	"github.com/k3s-io/kine/pkg/logstructured/sqllog"
	"github.com/k3s-io/kine/pkg/query"
	"github.com/k3s-io/kine/pkg/server"
)

// maxReaders bounds how many queries run at a time. More would wait for a core, each with a page cache of its own.
const maxReaders = 3

// openSQLite is kine's backend for a SQLite file, with statements that stay compiled and writes in groups. It lives
// until ctx ends; wg is done when the file is closed.
func openSQLite(ctx context.Context, wg *sync.WaitGroup, f sqliteFile, cfg drivers.Config) (server.Backend, error) {
	cfg.DataSourceName = f.kineDSN()
	setup, setupDone := context.WithCancel(ctx)
	defer setupDone()
	var setupWG sync.WaitGroup
	_, dialect, err := sqlite.NewVariant(setup, &setupWG, "sqlite3", &cfg)
	if err != nil {
		return nil, err
	}
	connector, err := newCompiler(f.dsn())
	if err != nil {
		return nil, err
	}
	db := sql.OpenDB(connector)
	db.SetMaxIdleConns(maxReaders + 2) // with the writer and the one that feeds the watches
	if err := db.PingContext(ctx); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	setupDone()
	setupWG.Wait()
	dialect.DB = db
	// Kine's own checkpoint holds up writers while it waits for readers.
	dialect.PostCompactSQL = query.New("PRAGMA wal_checkpoint(PASSIVE)", "?", false, "PostCompact")

	g := newGrouped(dialect)
	wg.Go(func() {
		g.run(ctx)
		// The last connection to close puts the log into the file; when two close at the same time, neither does.
		for db.Stats().InUse > 0 {
			time.Sleep(time.Millisecond)
		}
		_ = db.Close()
	})
	return reportingBackend{logstructured.New(&sqliteLog{sqllog.New(g, wg, &cfg), g, make(chan struct{}, maxReaders)})}, nil
}

// sqliteLog is kine's log with few readers and group commit.
type sqliteLog struct {
	*sqllog.SQLLog
	group   *grouped
	readers chan struct{}
}

func (l *sqliteLog) read() (done func()) {
	l.readers <- struct{}{}
	return func() { <-l.readers }
}

// Append lets the write be one of a group.
func (l *sqliteLog) Append(ctx context.Context, event *server.Event) (int64, error) {
	if outcomeOf(ctx) == nil {
		ctx, _ = withOutcome(ctx)
	}
	return l.SQLLog.Append(ctx, event)
}

// CurrentRevision is what the log says, but for writes that end at the same moment: the log may then stay behind, and
// who waits for that revision would wait for the next write.
func (l *sqliteLog) CurrentRevision(ctx context.Context) (int64, error) {
	if rev := l.group.committed.Load(); rev != 0 {
		return rev, nil
	}
	return l.SQLLog.CurrentRevision(ctx)
}

// List implements logstructured.Log.
func (l *sqliteLog) List(ctx context.Context, key, end string, limit, revision int64, includeDeletes, keysOnly bool) (server.EventBatch, error) {
	defer l.read()()
	if end == "" { // watching for the end of ctx costs more than reading one key
		if err := ctx.Err(); err != nil {
			return server.EventBatch{}, err
		}
		ctx = context.WithoutCancel(ctx)
	}
	return l.SQLLog.List(ctx, key, end, limit, revision, includeDeletes, keysOnly)
}

// Count implements logstructured.Log.
func (l *sqliteLog) Count(ctx context.Context, key, end string, revision int64) (int64, int64, error) {
	defer l.read()()
	return l.SQLLog.Count(ctx, key, end, revision)
}

// After implements logstructured.Log.
func (l *sqliteLog) After(ctx context.Context, key, end string, revision, limit int64) (server.EventBatch, error) {
	defer l.read()()
	return l.SQLLog.After(ctx, key, end, revision, limit)
}

// outcome is the error of the last write that was made for a request, and the mark of one that goes into a group.
type outcome struct{ err error }

type outcomeKey struct{}

func withOutcome(ctx context.Context) (context.Context, *outcome) {
	o := &outcome{}
	return context.WithValue(ctx, outcomeKey{}, o), o
}

func outcomeOf(ctx context.Context) *outcome {
	o, _ := ctx.Value(outcomeKey{}).(*outcome)
	return o
}

// set keeps an error that is not the answer to the request: a conflict is one.
func (o *outcome) set(err error) {
	if errors.Is(err, server.ErrKeyExists) {
		err = nil
	}
	o.err = err
}

// reportingBackend fails requests whose write has failed. Kine 0.17 takes each failure for a conflict, and may answer
// a create on a full disk with success.
type reportingBackend struct{ server.Backend }

// Create implements server.Backend.
func (b reportingBackend) Create(ctx context.Context, key string, value []byte, lease int64) (int64, error) {
	ctx, o := withOutcome(ctx)
	rev, err := b.Backend.Create(ctx, key, value, lease)
	if o.err != nil {
		return 0, o.err
	}
	return rev, err
}

// Update implements server.Backend.
func (b reportingBackend) Update(ctx context.Context, key string, value []byte, revision, lease int64) (int64, *server.KeyValue, bool, error) {
	ctx, o := withOutcome(ctx)
	rev, kv, ok, err := b.Backend.Update(ctx, key, value, revision, lease)
	if o.err != nil {
		return 0, nil, false, o.err
	}
	return rev, kv, ok, err
}

// Delete implements server.Backend.
func (b reportingBackend) Delete(ctx context.Context, key string, revision int64) (int64, *server.KeyValue, bool, error) {
	ctx, o := withOutcome(ctx)
	rev, kv, ok, err := b.Backend.Delete(ctx, key, revision)
	if o.err != nil {
		return 0, nil, false, o.err
	}
	return rev, kv, ok, err
}
