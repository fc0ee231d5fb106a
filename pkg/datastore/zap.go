package datastore

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"k8s.io/klog/v2"

	"github.com/edgebox/edgebox/pkg/component"
)

// newZap returns a logger that passes etcd's lines on to that of ctx. Its warnings are mere information: on a slow disk, or
// with one member away, there is one every few seconds. Where etcd would end the process, the component ends. peer is told
// when the connections with another member break, and when they are made.
func newZap(ctx context.Context, peer func(id string, active bool)) *zap.Logger {
	exit := exitHook{ctx}
	return zap.New(&zapCore{to: klog.FromContext(ctx), peer: peer}, zap.WithFatalHook(exit), zap.WithPanicHook(exit))
}

// peerStates are the messages with which etcd's rafthttp tells of them, with the member in the field peer-id.
var peerStates = map[string]bool{
	"peer became active": true,
	"peer became inactive (message send to peer failed)": false,
}

type zapCore struct {
	to     klog.Logger
	peer   func(id string, active bool)
	fields []zapcore.Field
}

func (c *zapCore) Enabled(level zapcore.Level) bool {
	return level >= zapcore.InfoLevel
}

func (c *zapCore) With(fields []zapcore.Field) zapcore.Core {
	return &zapCore{c.to, c.peer, slices.Concat(c.fields, fields)}
}

func (c *zapCore) Check(e zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return checked.AddCore(e, c)
	}
	return checked
}

func (c *zapCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	if active, ok := peerStates[e.Message]; ok {
		for _, f := range fields {
			if f.Key == "peer-id" {
				c.peer(f.String, active)
			}
		}
	}
	if e.Level < zapcore.ErrorLevel && !c.to.Enabled() {
		return nil
	}
	var cause error
	var pairs []any
	for _, f := range slices.Concat(c.fields, fields) {
		if err, ok := f.Interface.(error); ok && f.Type == zapcore.ErrorType && cause == nil {
			cause = err
			continue
		}
		enc := zapcore.NewMapObjectEncoder()
		f.AddTo(enc)
		for k, v := range enc.Fields {
			pairs = append(pairs, k, v)
		}
	}
	if e.Level >= zapcore.ErrorLevel {
		c.to.Error(cause, e.Message, pairs...)
		return nil
	}
	if cause != nil {
		pairs = append(pairs, "err", cause)
	}
	c.to.Info(e.Message, pairs...)
	return nil
}

func (c *zapCore) Sync() error { return nil }

// exitHook ends the component.
type exitHook struct{ ctx context.Context }

func (h exitHook) OnWrite(e *zapcore.CheckedEntry, fields []zapcore.Field) {
	for _, f := range fields {
		if err, ok := f.Interface.(error); ok && f.Type == zapcore.ErrorType {
			component.Exit(h.ctx, fmt.Errorf("etcd: %s: %w", e.Message, err))
		}
	}
	component.Exit(h.ctx, errors.New("etcd: "+e.Message))
}
