package framework

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Cmd is a command inside a host. Its fields are those of os/exec.Cmd.
type Cmd struct {
	Args   []string
	Env    []string // added to PATH and HOME
	Dir    string
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer

	host    *Host
	ctx     context.Context
	conn    *net.UnixConn
	pid     int
	copying sync.WaitGroup
	inPipe  *os.File
	done    chan struct{}
	err     error
}

// ExitError says how a command ended that did not succeed.
type ExitError struct {
	Args   []string
	Code   int // -1 when it was killed
	Signal syscall.Signal
	Stderr string
}

func (e *ExitError) Error() string {
	how := fmt.Sprintf("exit code %d", e.Code)
	if e.Code < 0 {
		how = e.Signal.String()
	}
	return strings.TrimSpace(fmt.Sprintf("%s: %s: %s", strings.Join(e.Args, " "), how, e.Stderr))
}

// ExitCode gives the exit code that err, the result of a command, stands for; -1 for a command that did not exit.
func ExitCode(err error) int {
	if err == nil {
		return 0
	}
	var exit *ExitError
	if errors.As(err, &exit) {
		return exit.Code
	}
	return -1
}

// Command prepares a command. It and its process group are killed when ctx ends or the host halts.
func (h *Host) Command(ctx context.Context, args ...string) *Cmd {
	return &Cmd{Args: args, host: h, ctx: ctx}
}

// Start starts the command.
func (c *Cmd) Start() error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	theirs := []*os.File{os.NewFile(uintptr(pair[1]), "process")}
	defer func() {
		for _, f := range theirs {
			_ = f.Close()
		}
	}()
	mine := os.NewFile(uintptr(pair[0]), "process")
	conn, err := net.FileConn(mine)
	_ = mine.Close()
	if err != nil {
		return err
	}
	c.conn = conn.(*net.UnixConn)

	var toCopy []func()
	stdin, copyIn, err := c.reader(c.Stdin)
	if err != nil {
		return err
	}
	theirs = append(theirs, stdin)
	stdout, copyOut, err := c.writer(c.Stdout)
	if err != nil {
		return err
	}
	theirs = append(theirs, stdout)
	stderr, copyErr, err := c.writer(c.Stderr)
	if err != nil {
		return err
	}
	theirs = append(theirs, stderr)
	toCopy = append(toCopy, copyOut, copyErr)

	args, env := c.Args, append([]string{"PATH=" + hostPath, "HOME=/root"}, c.Env...)
	if seconds := c.host.clock.Load(); seconds != 0 {
		args, env = wrongClock(seconds, args), append(env, roleVar+"=wrongClock")
	}
	fds := make([]int, len(theirs))
	for i, f := range theirs {
		fds[i] = int(f.Fd())
	}
	if err := c.host.request(execRequest{Args: args, Env: env, Dir: c.Dir}, fds); err != nil {
		return fmt.Errorf("%s: %w", strings.Join(c.Args, " "), err)
	}
	var reply execReply
	if _, err := receiveConn(c.conn, &reply); err != nil {
		return fmt.Errorf("%s: host %s is gone: %w", strings.Join(c.Args, " "), c.host.Name, err)
	}
	if reply.Error != "" {
		return errors.New(reply.Error)
	}
	c.pid = reply.PID
	for _, f := range toCopy {
		if f != nil {
			c.copying.Go(f)
		}
	}
	if copyIn != nil {
		go copyIn() // not waited for: it may hang in a read although the command has ended
	}
	c.done = make(chan struct{})
	stop := context.AfterFunc(c.ctx, func() { _ = c.conn.Close() })
	go func() {
		defer close(c.done)
		defer stop()
		c.err = c.await()
	}()
	return nil
}

// await receives the end of the process.
func (c *Cmd) await() error {
	defer func() { _ = c.conn.Close() }()
	var reply execReply
	_, err := receiveConn(c.conn, &reply)
	if c.inPipe != nil {
		_ = c.inPipe.Close()
	}
	switch {
	case c.ctx.Err() != nil:
		return fmt.Errorf("%s: %w", strings.Join(c.Args, " "), context.Cause(c.ctx))
	case err != nil:
		return fmt.Errorf("%s: host %s is gone: %w", strings.Join(c.Args, " "), c.host.Name, err)
	case reply.Status.Signaled():
		return &ExitError{Args: c.Args, Code: -1, Signal: reply.Status.Signal()}
	case reply.Status.ExitStatus() != 0:
		return &ExitError{Args: c.Args, Code: reply.Status.ExitStatus()}
	}
	return nil
}

func (c *Cmd) reader(r io.Reader) (*os.File, func(), error) {
	switch r := r.(type) {
	case nil:
		f, err := os.Open(os.DevNull)
		return f, nil, err
	case *os.File:
		f, err := dup(r)
		return f, nil, err
	}
	pr, pw, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	c.inPipe = pw
	return pr, func() {
		_, _ = io.Copy(pw, r)
		_ = pw.Close()
	}, nil
}

func (c *Cmd) writer(w io.Writer) (*os.File, func(), error) {
	switch w := w.(type) {
	case nil:
		f, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
		return f, nil, err
	case *os.File:
		f, err := dup(w)
		return f, nil, err
	}
	pr, pw, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	return pw, func() {
		_, _ = io.Copy(w, pr)
		_ = pr.Close()
	}, nil
}

func dup(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// PID is the process's in the host.
func (c *Cmd) PID() int { return c.pid }

// Done is closed when the process has ended.
func (c *Cmd) Done() <-chan struct{} { return c.done }

// Signal sends a signal to the process, not to its group.
func (c *Cmd) Signal(sig syscall.Signal) error { return sendConn(c.conn, sig) }

// Wait waits for the process, and for the end of its output when that goes to an io.Writer. Its error is an
// *ExitError when the process failed.
func (c *Cmd) Wait() error {
	<-c.done
	if c.ctx.Err() == nil {
		c.copying.Wait()
	}
	return c.err
}

// Output runs the command and returns what it wrote to stdout. What it wrote to stderr is part of the error.
func (c *Cmd) Output() (string, error) {
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	if err := c.Start(); err != nil {
		return "", err
	}
	err := c.Wait()
	if c.ctx.Err() != nil { // the copiers may still write
		return "", err
	}
	var exit *ExitError
	if errors.As(err, &exit) {
		exit.Stderr = stderr.String()
	}
	return stdout.String(), err
}

// Run runs a command inside the host and returns what it wrote to stdout.
func (h *Host) Run(ctx context.Context, args ...string) (string, error) {
	return h.Command(ctx, args...).Output()
}
