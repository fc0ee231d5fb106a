package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/sirupsen/logrus"
	logsapi "k8s.io/component-base/logs/api/v1"
	"k8s.io/klog/v2"
)

// logs sends edgebox's own lines and those of the upstream projects, which use klog and logrus, to standard error.
//
// Of upstream only warnings and errors count, unless debug is set. While the parts of a cluster start and stop side by
// side they complain about each other, so those lines are held back at first: shown if the boot fails, else dropped.
type logs struct {
	upstream *gate
	debug    bool
}

// setUpLogging is called once. Where a library would end the process, exit is called instead, with what the library
// said last; it does not return.
func setUpLogging(debug bool, exit func(error)) *logs {
	level, foreign := slog.LevelInfo, slog.LevelWarn
	if debug {
		level, foreign = slog.LevelDebug, slog.LevelInfo
	}
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})))
	l := &logs{debug: debug, upstream: &gate{
		Handler: slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: foreign}),
		state:   &gateState{hold: !debug, all: debug},
	}}

	// Several components of one process apply logging options; all but the first would fail.
	logsapi.ReapplyHandling = logsapi.ReapplyHandlingIgnoreUnchanged
	klog.SetSlogLogger(slog.New(l.upstream))
	// As text, lines keep their level: the logger alone would take what Fatal says for mere information.
	klog.SetLoggerWithOptions(klog.Background(), klog.ContextualLogger(true), klog.WriteKlogBuffer(l.upstream.klogText))
	osExit := func(code int) { exit(l.upstream.state.reason(code)) }
	klog.OsExit, logrus.StandardLogger().ExitFunc = osExit, osExit

	logrus.SetOutput(io.Discard)
	if debug {
		logrus.SetLevel(logrus.InfoLevel)
	} else {
		logrus.SetLevel(logrus.WarnLevel)
	}
	logrus.AddHook(logrusHook{slog.New(l.upstream)})
	log.SetFlags(0)
	log.SetOutput(&stdlog{slog.New(l.upstream)})
	return l
}

// stdlog passes on lines of the standard library's logger, which CoreDNS uses with the level as a prefix.
type stdlog struct{ to *slog.Logger }

func (s *stdlog) Write(line []byte) (int, error) {
	msg, level := string(bytes.TrimSpace(line)), slog.LevelInfo
	for prefix, l := range map[string]slog.Level{"[ERROR] ": slog.LevelError, "[WARNING] ": slog.LevelWarn, "[INFO] ": slog.LevelInfo} {
		if rest, ok := strings.CutPrefix(msg, prefix); ok {
			msg, level = rest, l
		}
	}
	s.to.Log(context.Background(), level, msg)
	return len(line), nil
}

// booted drops what was held back and lets the rest through.
func (l *logs) booted() { l.upstream.state.release(false) }

// stopping holds lines back again, until failed or the end.
func (l *logs) stopping() {
	if !l.debug {
		l.upstream.state.close()
	}
}

// failed shows what was held back.
func (l *logs) failed() { l.upstream.state.release(true) }

// maxHeld is how many lines a gate keeps; the oldest go first.
const maxHeld = 200

// gate is a slog.Handler that can hold records back.
type gate struct {
	slog.Handler
	state *gateState
}

type gateState struct {
	all    bool // harmless errors too
	mu     sync.Mutex
	hold   bool
	held   []func()
	errors []spoken // the latest
}

// spoken is an error that a goroutine has logged.
type spoken struct{ goroutine, text string }

// maxSpoken is how many errors others may log between that of a goroutine and its exit.
const maxSpoken = 32

func (g *gate) Handle(ctx context.Context, r slog.Record) error {
	s := g.state
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Level >= slog.LevelError {
		text := textOf(r)
		s.remember(text)
		if !s.all && isHarmless(r.Message, text) {
			return nil
		}
	}
	if !s.hold {
		return g.Handler.Handle(ctx, r)
	}
	if len(s.held) == maxHeld {
		s.held = slices.Delete(s.held, 0, 1)
	}
	r = r.Clone()
	s.held = append(s.held, func() { _ = g.Handler.Handle(context.Background(), r) })
	return nil
}

func (g *gate) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &gate{g.Handler.WithAttrs(attrs), g.state}
}

func (g *gate) WithGroup(name string) slog.Handler { return &gate{g.Handler.WithGroup(name), g.state} }

// harmless are what upstream takes for errors, although all goes as it should: how the message starts, and a part of the
// error.
var harmless = []struct{ message, cause string }{
	// kubectl exec, attach, logs -f and port-forward end by closing their connection.
	{"Error on socket receive", "use of closed network connection"},
	{"Error proxying data from client to backend", "close 1006 (abnormal closure)"},
	// A pod's last status is made when its cgroups have gone.
	{"failed to read memory cgroup config for the pod", "no such file or directory"},
	{"failed to read memory cgroup limits for the pod", "no such file or directory"},
	// A pod that was deleted is not the node's any more, which upstream expects to hear as "not found".
	{"Failed to get status for pod", "no relationship found between node"},
	// A container was removed while its status was asked for.
	{"ContainerStatus for ", "code = NotFound"},
	{"ContainerStatus from runtime service failed", "code = NotFound"},
	// A controller waits for its own last write to come back, and tries again.
	{"Unhandled Error", "is not as new as written version"},
	// Each request is told so, and pkg/datastore says once that the database is away, and once that it is back.
	{"error in txn ", "database does not answer"},
	{"error while range on ", "database does not answer"},
	{"TTL delete trigger failed for key", ""}, // kine tries again, four times a second
	// Of an option that is not set.
	{"The manifest file is empty, ignoring.", ""},
}

func isHarmless(message, text string) bool {
	for _, h := range harmless {
		if strings.HasPrefix(message, h.message) && strings.Contains(text, h.cause) {
			return true
		}
	}
	return false
}

// textOf is a record's message with its error.
func textOf(r slog.Record) string {
	text := r.Message
	r.Attrs(func(a slog.Attr) bool {
		if (a.Key == "err" || a.Key == logrus.ErrorKey) && a.Value.String() != "" {
			text += ": " + a.Value.String()
			return false
		}
		return true
	})
	return text
}

// remember keeps an error for reason. The caller holds the lock.
func (s *gateState) remember(text string) {
	if len(s.errors) == maxSpoken {
		s.errors = slices.Delete(s.errors, 0, 1)
	}
	s.errors = append(s.errors, spoken{goroutine(), text})
}

// reason is the last error that this goroutine has logged.
func (s *gateState) reason(code int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	self := goroutine()
	for _, e := range slices.Backward(s.errors) {
		if e.goroutine == self {
			return errors.New(e.text)
		}
	}
	return fmt.Errorf("wanted to exit with code %d and did not say why", code)
}

// goroutine is the number of the calling one.
func goroutine() string {
	var stack [32]byte
	n := runtime.Stack(stack[:], false)
	number, _, _ := strings.Cut(strings.TrimPrefix(string(stack[:n]), "goroutine "), " ")
	return number
}

// klogLine is what klog's unstructured calls give: "E0102 15:04:05.000000    1234 file.go:12] message".
var klogLine = regexp.MustCompile(`(?s)^([IWEF])\d{4} [^\]]*\] (.*)$`)

// klogText passes such a line on. Warnings are mere information here: upstream has long used the word for what it wants
// to be rid of, and its structured calls have no such level.
func (g *gate) klogText(line []byte) {
	level, text := slog.LevelError, string(bytes.TrimSpace(line))
	if m := klogLine.FindStringSubmatch(text); m != nil {
		level, text = map[string]slog.Level{"I": slog.LevelInfo, "W": slog.LevelInfo, "E": slog.LevelError, "F": slog.LevelError}[m[1]], m[2]
	}
	slog.New(g).Log(context.Background(), level, text)
}

func (s *gateState) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hold = true
}

func (s *gateState) release(show bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if show {
		for _, print := range s.held {
			print()
		}
	}
	s.hold, s.held = false, nil
}

// logrusHook passes the entries of logrus on.
type logrusHook struct{ to *slog.Logger }

func (logrusHook) Levels() []logrus.Level { return logrus.AllLevels }

func (h logrusHook) Fire(e *logrus.Entry) error {
	level := slog.LevelDebug
	switch {
	case e.Level <= logrus.ErrorLevel:
		level = slog.LevelError
	case e.Level == logrus.WarnLevel:
		level = slog.LevelWarn
	case e.Level == logrus.InfoLevel:
		level = slog.LevelInfo
	}
	attrs := make([]slog.Attr, 0, len(e.Data))
	for k, v := range e.Data {
		attrs = append(attrs, slog.Any(k, v))
	}
	ctx := e.Context
	if ctx == nil {
		ctx = context.Background()
	}
	h.to.LogAttrs(ctx, level, string(bytes.TrimSpace([]byte(e.Message))), attrs...)
	return nil
}
