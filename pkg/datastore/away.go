package datastore

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/k3s-io/kine/pkg/server"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// awayError is what a request gets whose database did not answer. The API server passes it on as it is; of any other error
// it says that it has a bug.
type awayError struct {
	error
	retry bool // the request was not carried out
}

func (e awayError) Error() string {
	if e.retry {
		return "the cluster's database does not answer"
	}
	return "the cluster's database does not answer, and may or may not have done what it was asked for"
}

func (e awayError) Unwrap() error { return e.error }

// Status implements apierrors.APIStatus.
func (e awayError) Status() metav1.Status {
	s := metav1.Status{Status: metav1.StatusFailure, Message: e.Error(),
		Code: http.StatusInternalServerError, Reason: metav1.StatusReasonInternalError}
	if e.retry { // which clients do by themselves
		s.Code, s.Reason = http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable
		s.Details = &metav1.StatusDetails{RetryAfterSeconds: 1}
	}
	return s
}

// answering is the backend of a database that may be away.
type answering struct{ server.Backend }

// read is about an error of a request that changes nothing.
func read(err error) error {
	if err == nil || !isAway(err) {
		return err
	}
	return awayError{err, true}
}

// written is about an error of a request that changes something, which can be repeated if it never got to the database.
func written(err error) error {
	if err == nil || !isAway(err) {
		return err
	}
	return awayError{err, pgconn.SafeToRetry(err) || strings.Contains(err.Error(), "dial ")}
}

func isAway(err error) bool {
	if errors.Is(err, context.Canceled) || errors.As(err, new(awayError)) {
		return false
	}
	return errors.Is(err, server.ErrGRPCUnhealthy) || mayPass(err)
}

// Get implements server.Backend.
func (b answering) Get(ctx context.Context, key string, revision int64, keysOnly bool) (int64, *server.KeyValue, error) {
	rev, kv, err := b.Backend.Get(ctx, key, revision, keysOnly)
	return rev, kv, read(err)
}

// Create implements server.Backend.
func (b answering) Create(ctx context.Context, key string, value []byte, lease int64) (int64, error) {
	rev, err := b.Backend.Create(ctx, key, value, lease)
	return rev, written(err)
}

// Delete implements server.Backend.
func (b answering) Delete(ctx context.Context, key string, revision int64) (int64, *server.KeyValue, bool, error) {
	rev, kv, ok, err := b.Backend.Delete(ctx, key, revision)
	return rev, kv, ok, written(err)
}

// Update implements server.Backend.
func (b answering) Update(ctx context.Context, key string, value []byte, revision, lease int64) (int64, *server.KeyValue, bool, error) {
	rev, kv, ok, err := b.Backend.Update(ctx, key, value, revision, lease)
	return rev, kv, ok, written(err)
}

// List implements server.Backend.
func (b answering) List(ctx context.Context, key, end string, limit, revision int64, keysOnly bool) (int64, []*server.KeyValue, error) {
	rev, kvs, err := b.Backend.List(ctx, key, end, limit, revision, keysOnly)
	return rev, kvs, read(err)
}

// ListStream implements server.Backend.
func (b answering) ListStream(ctx context.Context, key, end string, limit, revision int64, keysOnly bool) server.ListResult {
	list := b.Backend.ListStream(ctx, key, end, limit, revision, keysOnly)
	told, errs := list.Errorc, make(chan error, 1)
	list.Errorc = errs
	go func() {
		defer close(errs)
		if err := <-told; err != nil { // it is closed without one when all has been read
			errs <- read(err)
		}
	}()
	return list
}

// Count implements server.Backend.
func (b answering) Count(ctx context.Context, key, end string, revision int64) (int64, int64, error) {
	rev, n, err := b.Backend.Count(ctx, key, end, revision)
	return rev, n, read(err)
}
