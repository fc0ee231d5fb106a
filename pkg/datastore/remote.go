package datastore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"github.com/go-sql-driver/mysql"
	"github.com/k3s-io/kine/pkg/dialer"
	"github.com/k3s-io/kine/pkg/drivers"
	"github.com/k3s-io/kine/pkg/drivers/generic"
	"github.com/k3s-io/kine/pkg/logstructured"
	"github.com/k3s-io/kine/pkg/logstructured/sqllog"
	"github.com/k3s-io/kine/pkg/query"
	"github.com/k3s-io/kine/pkg/server"
	"golang.org/x/sys/unix"
)

const (
	// maxConnections is how many one server of edgebox opens. PostgreSQL takes 100 from all clients, unless told otherwise.
	maxConnections = 25
	maxIdleTime    = time.Minute

	// deadAfter is when a connection is given up whose other end has vanished without a word. The kernel's own patience
	// is a quarter of an hour, for which watches would be silent.
	deadAfter = 30 * time.Second

	// retryEvery is the pause between two attempts to reach a database that is away.
	retryEvery = time.Second
)

func init() {
	_ = mysql.SetLogger(&mysql.NopLogger{}) // it writes to standard error what it returns as well
	dialer.CachingDialer.Control = func(network, _ string, c syscall.RawConn) error {
		if !strings.HasPrefix(network, "tcp") {
			return nil
		}
		var err error
		return errors.Join(c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(deadAfter.Milliseconds()))
		}), err)
	}
}

// openRemote is the backend that kine has made for a database elsewhere, with what is needed so that the database may go
// away and come back, and so that no failed write is acknowledged. name is for messages.
func openRemote(backend server.Backend, wg *sync.WaitGroup, name string, cfg drivers.Config) (server.Backend, error) {
	made, ok := backend.(*logstructured.LogStructured)
	if !ok {
		return answering{natsBackend{backend}}, nil
	}
	dialect, err := dialectOf(made)
	if err != nil {
		return nil, err
	}
	sqlState := dialect.ErrCode
	dialect.ErrCode = func(err error) string { // is a label of metrics, one series for each
		if code := sqlState(err); len(code) <= 5 {
			return code
		}
		return "other"
	}
	if dialect.TxRetry == nil {
		dialect.TxRetry = isConflict
	}
	log := &remoteLog{sqllog.New(&remote{Generic: dialect, name: name}, wg, &cfg)}
	return answering{reportingBackend{logstructured.New(log)}}, nil
}

// dialectOf takes kine's dialect out of a backend. Of kine's drivers only the one for SQLite gives it away.
func dialectOf(backend *logstructured.LogStructured) (*generic.Generic, error) {
	log := reflect.ValueOf(backend).Elem().FieldByName("log")
	if log.IsValid() {
		if d := log.Elem().Elem().FieldByName("d"); d.IsValid() {
			readable := reflect.NewAt(d.Type(), unsafe.Pointer(d.UnsafeAddr())).Elem() //nolint:gosec // a field is not exported
			if dialect, ok := readable.Interface().(*generic.Generic); ok {
				return dialect, nil
			}
		}
	}
	return nil, errors.New("this version of kine keeps its dialect elsewhere")
}

// isConflict reports what PostgreSQL says when two servers compact at the same time: a serialization failure, a deadlock.
func isConflict(err error) bool {
	var coded interface{ SQLState() string }
	return errors.As(err, &coded) && (coded.SQLState() == "40001" || coded.SQLState() == "40P01")
}

// remote is kine's dialect for a database server.
type remote struct {
	*generic.Generic
	name string
}

// BeginTx is asked for by appends, which note what became of the write, and by compaction.
func (r *remote) BeginTx(ctx context.Context, opts *sql.TxOptions) (server.Transaction, error) {
	o := outcomeOf(ctx)
	if o != nil && !r.LastInsertID {
		// One statement needs no transaction around it, which costs two more trips; kine runs it beside the transaction.
		return &appendTx{insert: r.Insert, outcome: o}, nil
	}
	tx, err := r.Generic.BeginTx(ctx, opts)
	switch {
	case o == nil && err == nil:
		return &ownTx{Transaction: tx, unlock: func() {}}, nil
	case err != nil:
		if o != nil {
			o.set(err)
		}
		return nil, err
	}
	return &appendTx{Transaction: tx, insert: tx.Insert, outcome: o}, nil
}

// PrepareAfter waits while the database is away. Kine would write an error each second, or as many as it can if there
// was more to read; in the latter case it does not look whether ctx has ended either, so then its goroutine ends here.
func (r *remote) PrepareAfter(ctx context.Context, limit int64) (*query.Stmt, error) {
	var since time.Time
	for {
		stmt, err := r.prepareAfter(ctx, limit)
		if ctx.Err() != nil {
			if err == nil {
				_ = stmt.Close()
			}
			runtime.Goexit()
		}
		if err == nil {
			if !since.IsZero() {
				slog.Info("the database answers again", "database", r.name, "after", time.Since(since).Round(time.Second))
			}
			return stmt, nil
		}
		if since.IsZero() {
			since = time.Now()
			slog.Warn("the database does not answer; the API fails until it does", "database", r.name, "err", oneLine(err.Error()))
		}
		select {
		case <-time.After(retryEvery):
		case <-ctx.Done():
		}
	}
}

// prepareAfter does what kine's own does, and gives the connection back when that fails.
func (r *remote) prepareAfter(ctx context.Context, limit int64) (*query.Stmt, error) {
	ctx, cancel := context.WithTimeout(ctx, deadAfter)
	defer cancel()
	after := r.AfterAllOldValSQL.Appendf("LIMIT %d", limit)
	conn, err := r.DB.Conn(ctx)
	if err != nil {
		return nil, err
	}
	stmt, err := conn.PrepareContext(ctx, after.Query)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return &query.Stmt{Named: after, Conn: conn, Stmt: stmt}, nil
}

// appendTx is what kine's log appends one row with. It notes how that failed.
type appendTx struct {
	server.Transaction // nil: the statement is a transaction of its own
	insert             func(ctx context.Context, key string, created, deleted bool, previous, lease int64, value []byte) (int64, error)
	outcome            *outcome
}

func (t *appendTx) Insert(ctx context.Context, key string, created, deleted bool, previous, lease int64, value []byte) (int64, error) {
	rev, err := t.insert(ctx, key, created, deleted, previous, lease, value)
	t.outcome.set(err)
	return rev, err
}

func (t *appendTx) Commit() error {
	if t.Transaction == nil {
		return nil
	}
	err := t.Transaction.Commit()
	if err != nil {
		t.outcome.set(err)
	}
	return err
}

func (t *appendTx) Rollback() error {
	if t.Transaction == nil {
		return nil
	}
	return t.Transaction.Rollback()
}

// remoteLog is kine's log on a connection that may break at any time.
type remoteLog struct{ *sqllog.SQLLog }

// Start implements logstructured.Log. It starts the one goroutine that feeds all watches: were the database away when
// the first watch is made, kine would make one that never says anything.
func (l *remoteLog) Start(ctx context.Context) error {
	if err := l.SQLLog.Start(ctx); err != nil {
		return err
	}
	watching, stop := context.WithCancel(ctx)
	defer stop()
	if l.Watch(watching) == nil {
		return errors.New("the newest revision cannot be read")
	}
	return nil
}

// Append lets the write tell how it failed.
func (l *remoteLog) Append(ctx context.Context, event *server.Event) (int64, error) {
	if outcomeOf(ctx) == nil {
		ctx, _ = withOutcome(ctx)
	}
	return l.SQLLog.Append(ctx, event)
}

// List implements logstructured.Log. Kine takes a list for complete whose connection broke while it was read; its stream
// of the same does not.
func (l *remoteLog) List(ctx context.Context, key, end string, limit, revision int64, includeDeletes, keysOnly bool) (server.EventBatch, error) {
	if one := end == "" && key != ""; one || includeDeletes {
		return l.SQLLog.List(ctx, key, end, limit, revision, includeDeletes, keysOnly)
	}
	list := l.ListStream(ctx, key, end, limit, revision, includeDeletes, keysOnly)
	batch := server.EventBatch{CurrentRev: list.CurrentRevision}
	for kv := range list.KVc {
		batch.Events = append(batch.Events, &server.Event{KV: kv})
	}
	return batch, <-list.Errorc
}

// After implements logstructured.Log. A watch begins with all that came after its revision, of which the last is the
// newest revision that the same query has found.
func (l *remoteLog) After(ctx context.Context, key, end string, revision, limit int64) (server.EventBatch, error) {
	batch, err := l.SQLLog.After(ctx, key, end, revision, limit)
	if n := len(batch.Events); err == nil && key == "" && limit == 0 && batch.CurrentRev > revision &&
		(n == 0 || batch.Events[n-1].KV.ModRevision != batch.CurrentRev) {
		return server.EventBatch{}, fmt.Errorf("read the changes after revision %d: the connection broke", revision)
	}
	return batch, err
}

// natsBackend is kine's backend for NATS. When its connection was broken, it tells watches all events from the first on
// again; kine ends the process when a watch is about to pass on an old one.
type natsBackend struct{ server.Backend }

// Watch implements server.Backend.
func (b natsBackend) Watch(ctx context.Context, revision int64) server.WatchResult {
	watch := b.Backend.Watch(ctx, revision)
	told := watch.Eventc
	events := make(chan server.EventBatch, cap(told))
	watch.Eventc = events
	go func() {
		defer close(events)
		newest := int64(-1)
		for batch := range told {
			if batch.CurrentRev <= newest {
				continue
			}
			batch = batch.After(newest)
			newest = batch.CurrentRev
			select {
			case events <- batch:
			case <-ctx.Done():
				return
			}
		}
	}()
	return watch
}
