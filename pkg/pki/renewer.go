package pki

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

const (
	clockPoll = 10 * time.Second // how late a due renewal, or a jump of the clock, may be noticed
	recheck   = time.Hour        // how late a file that was damaged or removed may be noticed
	retry     = time.Minute      // after a failure
)

// A Renewer keeps a Store as its Spec says while edgebox runs. It is a component: its Prepare makes what is missing,
// so that every component prepared or started later finds its certificates, and its Run renews them.
//
// Files are replaced atomically. kube-apiserver and clients made by client-go read theirs again by themselves; whoever
// holds certificates in memory is told by OnRenew.
type Renewer struct {
	store   *Store
	spec    func() Spec
	onRenew func(names []string)
	wake    chan struct{}

	mu       sync.Mutex
	prepared bool
	due      time.Time // by the wall clock
	err      error     // of the last attempt
}

// NewRenewer returns a Renewer of store. It asks spec before each check, so the Spec may change, for example with the
// addresses of the node (see Wake). onRenew, if not nil, is called from Run with the names of the certificates that were
// replaced, after their files are in place.
func NewRenewer(store *Store, spec func() Spec, onRenew func(names []string)) *Renewer {
	return &Renewer{store: store, spec: spec, onRenew: onRenew, wake: make(chan struct{}, 1)}
}

// Name returns "certificates".
func (r *Renewer) Name() string { return "certificates" }

// Prepare makes everything that the Spec asks for.
func (r *Renewer) Prepare(context.Context) error {
	_, err := r.ensure()
	r.mu.Lock()
	r.prepared = err == nil
	r.mu.Unlock()
	return err
}

// Run renews until ctx ends. It fails only if the certificates are not complete at the start; later failures are
// tried again and reported by Check, because the certificates in use may serve for months.
func (r *Renewer) Run(ctx context.Context, ready func()) error {
	r.mu.Lock()
	prepared := r.prepared
	r.mu.Unlock()
	if !prepared {
		if err := r.Prepare(ctx); err != nil {
			return err
		}
	}
	ready()

	tick := time.NewTicker(clockPoll)
	defer tick.Stop()
	for last := time.Now(); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if !r.isDue(time.Since(last)) {
				continue
			}
		case <-r.wake:
		}
		before := r.lastError()
		result, err := r.ensure()
		last = time.Now()
		if err != nil && (before == nil || before.Error() != err.Error()) {
			slog.Warn("certificates cannot be renewed, trying again", "err", err)
		}
		if len(result.Changes) > 0 && r.onRenew != nil {
			r.onRenew(result.Names())
		}
	}
}

// Wake makes Run check at once. It never blocks. Call it when what the Spec depends on has changed.
func (r *Renewer) Wake() {
	select {
	case r.wake <- struct{}{}:
	default: // a check is about to come
	}
}

// Check returns the error of the last attempt to renew, if it failed.
func (r *Renewer) Check(context.Context) error {
	if err := r.lastError(); err != nil {
		return fmt.Errorf("renew certificates: %w", err)
	}
	return nil
}

func (r *Renewer) lastError() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

func (r *Renewer) ensure() (Result, error) {
	result, err := r.store.Ensure(r.spec())
	if len(result.Changes) > 0 {
		slog.Info("certificates written", "changes", result.Changes)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.due, r.err = result.Due, err
	return result, err
}

// isDue reports whether it is time for a check, so long after the last one. It compares with the wall clock, not with
// a timer, because a timer knows nothing of a clock that is set.
func (r *Renewer) isDue(since time.Duration) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case since >= recheck:
		return true
	case r.err != nil:
		return since >= retry
	default:
		return !r.due.IsZero() && r.store.now().After(r.due)
	}
}
