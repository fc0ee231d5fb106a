package datastore

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/k3s-io/kine/pkg/drivers/generic"
	"github.com/k3s-io/kine/pkg/server"
)

// maxGroup is how many writes share a transaction.
const maxGroup = 64

// grouped is kine's dialect for SQLite with one writer. SQLite has one lock for writers, who would otherwise sleep and
// try again in no order; here they stand in line, and all who came while one transaction reached the disk share the
// next. Each is answered after the commit, so that an acknowledged write is as durable as with a transaction of its own.
// See docs/adr/0007-group-commit.md.
type grouped struct {
	*generic.Generic
	queue     chan *write   // unbuffered: who gives up while waiting in line has not written
	stopped   chan struct{} // closed when nothing is taken from queue any more
	lock      sync.Mutex    // held by whoever writes
	committed atomic.Int64  // newest revision that this process has written
}

// write is one row for the log, and what became of it.
type write struct {
	key              string
	created, deleted bool
	previous, lease  int64
	value            []byte

	rev  int64 // 0: the key has another revision than previous
	err  error
	done chan struct{}
}

func newGrouped(d *generic.Generic) *grouped {
	return &grouped{Generic: d, queue: make(chan *write), stopped: make(chan struct{})}
}

// run commits writes until ctx ends. What it has taken it finishes.
func (g *grouped) run(ctx context.Context) {
	defer close(g.stopped)
	for {
		var group []*write
		select {
		case w := <-g.queue:
			group = append(group, w)
		case <-ctx.Done():
			return
		}
		for more := true; more && len(group) < maxGroup; {
			select {
			case w := <-g.queue:
				group = append(group, w)
			default:
				more = false
			}
		}
		err := g.commit(group)
		for _, w := range group {
			if err != nil {
				w.rev, w.err = 0, err // also who was told of a conflict: it may have been with one of these
			}
			close(w.done)
		}
	}
}

// commit writes all or nothing. Its context is not that of a client, whose leaving would end what others wait for.
func (g *grouped) commit(group []*write) error {
	g.lock.Lock()
	defer g.lock.Unlock()
	ctx := context.Background()
	tx, err := g.Generic.BeginTx(ctx, &sql.TxOptions{})
	if err != nil {
		return err
	}
	newest := int64(0)
	for _, w := range group {
		w.rev, w.err = tx.Insert(ctx, w.key, w.created, w.deleted, w.previous, w.lease, w.value)
		if w.err != nil && !errors.Is(w.err, server.ErrKeyExists) { // that one alone does not end the transaction
			_ = tx.Rollback() // SQLite may have done it
			return w.err
		}
		newest = max(newest, w.rev)
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	if newest > 0 {
		g.committed.Store(newest)
	}
	return nil
}

func (g *grouped) write(ctx context.Context, w *write) error {
	w.done = make(chan struct{})
	select {
	case g.queue <- w:
		<-w.done
		return w.err
	case <-ctx.Done():
		return ctx.Err()
	case <-g.stopped:
		return errors.New("the datastore has stopped")
	}
}

// BeginTx makes an append part of a group, and gives everything else, which is compaction, a transaction of its own.
func (g *grouped) BeginTx(ctx context.Context, opts *sql.TxOptions) (server.Transaction, error) {
	if o := outcomeOf(ctx); o != nil {
		return &groupedTx{group: g, outcome: o}, nil
	}
	g.lock.Lock()
	tx, err := g.Generic.BeginTx(ctx, opts)
	if err != nil {
		g.lock.Unlock()
		return nil, err
	}
	return &ownTx{Transaction: tx, unlock: sync.OnceFunc(g.lock.Unlock)}, nil
}

// Fill implements server.Dialect.
func (g *grouped) Fill(ctx context.Context, revision int64) error {
	g.lock.Lock()
	defer g.lock.Unlock()
	return g.Generic.Fill(ctx, revision)
}

// groupedTx is what kine's log appends with: it inserts one row, then ends the transaction.
type groupedTx struct {
	server.Transaction // nil: nothing else is called
	group              *grouped
	outcome            *outcome
}

func (t *groupedTx) Insert(ctx context.Context, key string, created, deleted bool, previous, lease int64, value []byte) (int64, error) {
	w := &write{key: key, created: created, deleted: deleted, previous: previous, lease: lease, value: value}
	err := t.group.write(ctx, w)
	t.outcome.set(err)
	return w.rev, err
}

func (t *groupedTx) Commit() error   { return nil }
func (t *groupedTx) Rollback() error { return nil }

// ownTx lets the next writer go when it has ended. Kine ends the process when a transaction cannot be ended, as on a
// full disk; but SQLite has then rolled it back, and compaction finds at its next turn that it has to be done again.
type ownTx struct {
	server.Transaction
	unlock func()
}

func (t *ownTx) Commit() error {
	defer t.unlock()
	return t.Transaction.Commit()
}

func (t *ownTx) Rollback() error {
	defer t.unlock()
	return t.Transaction.Rollback()
}

func (t *ownTx) MustCommit() {
	if err := t.Commit(); err != nil {
		slog.Error("the database could not be compacted", "err", err)
	}
}

func (t *ownTx) MustRollback() { _ = t.Rollback() }
