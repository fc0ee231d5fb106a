package tunnel

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"unicode"
)

// connect serves one connection of the API server: a request CONNECT host:port, then bytes both ways.
func (s *Server) connect(r *run, w http.ResponseWriter, req *http.Request) {
	if req.Method != http.MethodConnect {
		http.Error(w, "this socket is for CONNECT", http.StatusMethodNotAllowed)
		return
	}
	host, port, err := net.SplitHostPort(req.Host)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if !s.begin(r) {
		conn.Close()
		return
	}
	defer r.wg.Done()
	f := &frontend{UnixConn: conn.(*net.UnixConn), r: rw.Reader, answered: make(chan struct{}), closed: make(chan struct{})}
	defer f.Close()
	defer context.AfterFunc(r.ctx, func() { f.Close() })()

	route := s.cfg.Route(host)
	if route.Node != "" {
		ss, err := s.take(r.ctx, route.Node)
		if err == nil {
			ss.connect(f, net.JoinHostPort(route.Address, port))
			return
		}
		if route.Direct == "" || !errors.Is(err, errNoTunnel) {
			f.answer(http.StatusBadGateway, fmt.Sprintf("node %s: %v", route.Node, err))
			return
		}
	}
	if route.Direct == "" {
		f.answer(http.StatusBadGateway, "no way to "+host+" is known")
		return
	}
	d := net.Dialer{Timeout: answerTimeout}
	target, err := d.DialContext(r.ctx, "tcp", net.JoinHostPort(route.Direct, port))
	if err != nil {
		f.answer(http.StatusBadGateway, err.Error())
		return
	}
	defer target.Close()
	f.answer(http.StatusOK, "")
	pipe(f, target.(*net.TCPConn))
}

// pipe passes bytes on between the API server and what was dialled from here, until both directions have ended.
func pipe(f *frontend, target *net.TCPConn) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, err := io.CopyN(target, f.r, int64(f.r.Buffered()))
		if err == nil {
			_, err = io.Copy(target, f.UnixConn)
		}
		if err != nil || f.gone() {
			target.Close()
			return
		}
		_ = target.CloseWrite()
	}()
	if _, err := io.Copy(f.UnixConn, target); err != nil {
		f.Close()
		target.Close()
	}
	_ = f.CloseWrite()
	<-done
}

// frontend is a connection of the API server. To konnectivity it is one that never fails: errors of connections that end
// in the middle of something are ordinary here, and konnectivity would log them.
type frontend struct {
	*net.UnixConn
	r    *bufio.Reader
	node string

	mu  sync.Mutex
	why string // that it was refused, once it was

	once     sync.Once
	answered chan struct{} // closed when the request was answered, which happens once

	close  sync.Once
	closed chan struct{}

	ended bool // the API server sends no more; of Read alone
}

// refuse makes a refusal of the answer that konnectivity is about to write.
func (f *frontend) refuse(why string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.why = why
}

// awaitAnswer returns when the request was answered or never will be.
func (f *frontend) awaitAnswer() {
	select {
	case <-f.answered:
	case <-f.closed:
	}
}

// answer answers the request. The text of a refusal is in the status line, since that is all the egress selector reads.
func (f *frontend) answer(code int, text string) {
	f.once.Do(func() {
		defer close(f.answered)
		if code == http.StatusOK {
			_, _ = io.WriteString(f.UnixConn, "HTTP/1.1 200 Connection established\r\n\r\n")
			return
		}
		text = strings.Map(func(r rune) rune {
			if unicode.IsControl(r) {
				return ' '
			}
			return r
		}, text)
		_, _ = fmt.Fprintf(f.UnixConn, "HTTP/1.1 %d %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", code, text)
	})
}

// Read reads what the API server sends. At its end there is first an empty read, of which konnectivity makes an empty
// packet; the other direction may go on.
func (f *frontend) Read(p []byte) (int, error) {
	if f.ended {
		<-f.closed
		return 0, io.EOF
	}
	n, err := f.r.Read(p)
	if n > 0 {
		return n, nil
	}
	if errors.Is(err, io.EOF) && !f.gone() {
		f.ended = true
		return 0, nil
	}
	return 0, io.EOF
}

// Write writes what comes from the node. The first is konnectivity's answer to the request, an empty one the end of
// what comes.
func (f *frontend) Write(p []byte) (int, error) {
	select {
	case <-f.answered:
	default:
		f.writeAnswer(p)
		return len(p), nil
	}
	if len(p) == 0 {
		_ = f.CloseWrite()
		return 0, nil
	}
	if _, err := f.UnixConn.Write(p); err != nil {
		f.Close() // which ends Read, and with it the connection
	}
	return len(p), nil
}

// writeAnswer answers the request as konnectivity did.
func (f *frontend) writeAnswer(p []byte) {
	f.mu.Lock()
	why := f.why
	f.mu.Unlock()
	switch {
	case why != "":
		f.answer(http.StatusBadGateway, fmt.Sprintf("node %s: %s", f.node, why))
	case bytes.HasPrefix(p, []byte("HTTP/1.1 200 ")):
		f.answer(http.StatusOK, "")
	default:
		_, text, _ := bytes.Cut(p, []byte("\r\n\r\n"))
		f.answer(http.StatusGatewayTimeout, fmt.Sprintf("node %s did not answer: %s", f.node, bytes.TrimSpace(text)))
	}
}

// Close implements net.Conn.
func (f *frontend) Close() error {
	f.close.Do(func() {
		close(f.closed)
		f.UnixConn.Close()
	})
	return nil
}

// gone reports whether the API server has closed the connection, when it is known to send no more: then nothing can be
// written to it either, not even nothing.
func (f *frontend) gone() bool {
	_, err := f.UnixConn.Write(nil)
	return err != nil
}

// hijacked is what konnectivity takes the connection from.
type hijacked struct {
	http.ResponseWriter
	f *frontend
}

// Hijack implements http.Hijacker. The reader is too small to keep anything from konnectivity's larger one.
func (h hijacked) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return h.f, bufio.NewReadWriter(bufio.NewReaderSize(h.f, 16), nil), nil
}
