package datastore

import (
	"context"
	"database/sql/driver"
	"strings"

	"modernc.org/sqlite"
)

// maxKept bounds the statements that one connection keeps: the limits of lists are part of their text.
const maxKept = 64

// compiler opens SQLite connections that keep compiled statements. Kine gives each query as text, and compiling one
// takes longer than running it.
type compiler struct{ driver.Connector }

func newCompiler(dsn string) (driver.Connector, error) {
	c, err := sqlite.NewConnector(dsn)
	if err != nil {
		return nil, err
	}
	return compiler{c}, nil
}

func (c compiler) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return &compiledConn{sqliteConn: conn.(sqliteConn), kept: make(map[string]sqliteStmt)}, nil
}

type (
	sqliteConn interface {
		driver.Conn
		driver.ConnBeginTx
		driver.ConnPrepareContext
		driver.Pinger
		driver.SessionResetter
		driver.Validator
	}
	sqliteStmt interface {
		driver.Stmt
		driver.StmtExecContext
		driver.StmtQueryContext
	}
)

// compiledConn is used by one goroutine at a time, as database/sql has it.
type compiledConn struct {
	sqliteConn
	kept map[string]sqliteStmt // those that no one uses at the moment
}

func (c *compiledConn) take(ctx context.Context, query string) (sqliteStmt, error) {
	if s, ok := c.kept[query]; ok {
		delete(c.kept, query)
		return s, nil
	}
	// SQLite would compile a statement anew at each run if the value of a bare parameter might change the plan; the
	// sign does nothing to a value, but keeps the planner from looking at it. No query of kine has a ? in a string.
	s, err := c.PrepareContext(ctx, strings.ReplaceAll(query, "?", "+?"))
	if err != nil {
		return nil, err
	}
	return s.(sqliteStmt), nil
}

func (c *compiledConn) giveBack(query string, s sqliteStmt) error {
	if _, twice := c.kept[query]; twice || len(c.kept) >= maxKept {
		return s.Close()
	}
	c.kept[query] = s
	return nil
}

// ExecContext implements driver.ExecerContext.
func (c *compiledConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	s, err := c.take(ctx, query)
	if err != nil {
		return nil, err
	}
	res, err := s.ExecContext(ctx, args)
	if err != nil {
		_ = s.Close() // which repeats the error
		return nil, err
	}
	return res, c.giveBack(query, s)
}

// QueryContext implements driver.QueryerContext.
func (c *compiledConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	s, err := c.take(ctx, query)
	if err != nil {
		return nil, err
	}
	rows, err := s.QueryContext(ctx, args)
	if err != nil {
		_ = s.Close()
		return nil, err
	}
	return &compiledRows{Rows: rows, done: func() error { return c.giveBack(query, s) }}, nil
}

func (c *compiledConn) Close() error {
	for _, s := range c.kept {
		_ = s.Close() // which repeats the error of its last use
	}
	return c.sqliteConn.Close()
}

type compiledRows struct {
	driver.Rows
	done func() error
}

func (r *compiledRows) Close() error {
	err := r.Rows.Close()
	if derr := r.done(); err == nil {
		err = derr
	}
	return err
}
