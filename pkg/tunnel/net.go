package tunnel

import (
	"bufio"
	"net"
	"sync"
)

// bufferedConn is a connection of which something was read already.
type bufferedConn struct {
	net.Conn
	r *bufio.Reader
}

func (c bufferedConn) Read(p []byte) (int, error) { return c.r.Read(p) }

// listener gives gRPC the one connection that it serves.
type listener struct {
	conn   chan net.Conn // has it
	closed chan struct{}
	close  sync.Once
	addr   net.Addr
}

func newListener(c net.Conn) *listener {
	l := &listener{conn: make(chan net.Conn, 1), closed: make(chan struct{}), addr: c.LocalAddr()}
	l.conn <- closeNotifier{c, l}
	return l
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conn:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.close.Do(func() { close(l.closed) })
	return nil
}

func (l *listener) Addr() net.Addr { return l.addr }

// closeNotifier closes the listener with the connection.
type closeNotifier struct {
	net.Conn
	listener *listener
}

func (c closeNotifier) Close() error {
	_ = c.listener.Close()
	return c.Conn.Close()
}
