package main

import (
	"bytes"
	"io"
	"log/slog"
	"os"

	"github.com/sirupsen/logrus"
	logsapi "k8s.io/component-base/logs/api/v1"
	"k8s.io/klog/v2"
)

// setUpLogging sends edgebox's own lines and those of the upstream projects, which use klog and logrus, to one handler.
// Of upstream only warnings and errors are shown unless debug is set: an idle server should have nothing to say.
func setUpLogging(debug bool) {
	level, upstream := slog.LevelInfo, slog.LevelWarn
	if debug {
		level, upstream = slog.LevelDebug, slog.LevelInfo
	}
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})))
	foreign := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: upstream}))

	// Several components of one process apply logging options; all but the first would fail.
	logsapi.ReapplyHandling = logsapi.ReapplyHandlingIgnoreUnchanged
	klog.SetSlogLogger(foreign)

	logrus.SetOutput(io.Discard)
	if debug {
		logrus.SetLevel(logrus.InfoLevel)
	} else {
		logrus.SetLevel(logrus.WarnLevel)
	}
	logrus.AddHook(logrusHook{foreign})
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
	h.to.LogAttrs(e.Context, level, string(bytes.TrimSpace([]byte(e.Message))), attrs...)
	return nil
}
